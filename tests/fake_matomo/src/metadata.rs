//! The meaning of a site's goals and dimensions: `Goals.getGoals` and
//! `CustomDimensions.getConfiguredCustomDimensions`.

use crate::answer::Answer;
use crate::world::Site;
use crate::writer::{Style, Writer};

/// What triggers a goal.
#[derive(Clone, Debug, PartialEq)]
pub enum Match {
    /// The site's own code converts it.
    Manually,
    /// `attribute` (`url`, `title`, `file`, `external_website`, `event_action`, …) matches the
    /// pattern.
    Attribute { attribute: String, pattern: String, pattern_type: String },
}

/// A goal's configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    pub id: i64,
    pub name: String,
    pub description: String,
    pub matches: Match,
    pub allow_multiple: bool,
    /// The literal of a number.
    pub revenue: String,
    pub event_value_as_revenue: bool,
    /// Matomo keeps deleted goals but does not list them.
    pub deleted: bool,
}

impl Goal {
    /// A goal that the site's own code converts, without revenue.
    pub fn new(id: i64, name: &str) -> Goal {
        Goal {
            id,
            name: name.to_owned(),
            description: String::new(),
            matches: Match::Manually,
            allow_multiple: false,
            revenue: "0".to_owned(),
            event_value_as_revenue: false,
            deleted: false,
        }
    }

    /// Triggered by pages whose URL contains this.
    pub fn on_url(mut self, part: &str) -> Goal {
        let (attribute, pattern_type) = ("url".to_owned(), "contains".to_owned());
        self.matches = Match::Attribute { attribute, pattern: part.to_owned(), pattern_type };
        self
    }
}

/// A custom dimension's configuration. `dimension3` is the one with the id 3.
#[derive(Clone, Debug, PartialEq)]
pub struct CustomDimension {
    pub id: i64,
    pub name: String,
    /// `visit` or `action`.
    pub scope: String,
    /// The slot within the scope, from 1.
    pub index: i64,
    pub active: bool,
    pub case_sensitive: bool,
    /// Where its values come from (`url`, `urlparam` or `action_name`), with a pattern.
    pub extractions: Vec<(String, String)>,
}

impl CustomDimension {
    /// An active dimension without extractions.
    pub fn new(id: i64, name: &str, scope: &str, index: i64) -> CustomDimension {
        CustomDimension {
            id,
            name: name.to_owned(),
            scope: scope.to_owned(),
            index,
            active: true,
            case_sensitive: true,
            extractions: Vec::new(),
        }
    }
}

/// `Goals.getGoals` for these sites, without deleted goals. Manual goals have no pattern.
pub fn goals(sites: &[&Site], style: Style) -> Answer {
    let mut w = Writer::new(style);
    w.brackets(|w| {
        for site in sites {
            for goal in site.goals.iter().filter(|goal| !goal.deleted) {
                w.element();
                one(w, site, goal);
            }
        }
    });
    Answer::json(200, w.out)
}

fn one(w: &mut Writer, site: &Site, goal: &Goal) {
    w.braces(|w| {
        w.db("idsite", site.id);
        w.db("idgoal", goal.id);
        w.str("name", &goal.name);
        w.str("description", &goal.description);
        match &goal.matches {
            Match::Manually => w.str("match_attribute", "manually"),
            Match::Attribute { attribute, pattern, pattern_type } => {
                w.str("match_attribute", attribute);
                w.str("pattern", pattern);
                w.str("pattern_type", pattern_type);
                w.db("case_sensitive", 0);
            }
        }
        w.db("allow_multiple", goal.allow_multiple.into());
        w.db_literal("revenue", &goal.revenue);
        w.db("deleted", 0);
        w.db("event_value_as_revenue", goal.event_value_as_revenue.into());
    });
}

/// `CustomDimensions.getConfiguredCustomDimensions`: numbers are strings on every server.
pub fn dimensions(site: &Site, style: Style) -> Answer {
    let mut w = Writer::new(style);
    w.brackets(|w| {
        for dimension in &site.dimensions {
            w.element();
            w.braces(|w| {
                w.str("idcustomdimension", &dimension.id.to_string());
                w.str("idsite", &site.id.to_string());
                w.str("name", &dimension.name);
                w.str("index", &dimension.index.to_string());
                w.str("scope", &dimension.scope);
                w.raw("active", &dimension.active.to_string());
                w.array("extractions", |w| {
                    for (of, pattern) in &dimension.extractions {
                        w.element();
                        w.braces(|w| {
                            w.str("dimension", of);
                            w.str("pattern", pattern);
                        });
                    }
                });
                w.raw("case_sensitive", &dimension.case_sensitive.to_string());
            });
        }
    });
    Answer::json(200, w.out)
}
