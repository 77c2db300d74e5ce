//! The methods besides Live: sites, counts of visits, the most recent visit.

use crate::answer::Answer;
use crate::dates::span;
use crate::params::Params;
use crate::world::{Site, World};
use crate::writer::{Style, Writer};
use crate::zone::{days, utc};

/// `{"value":"..."}`.
pub fn value(text: &str) -> Answer {
    let mut w = Writer::new(Style::default());
    w.braces(|w| w.str("value", text));
    Answer::json(200, w.out)
}

/// `SitesManager.getSiteFromId`.
pub fn one(site: &Site, style: Style) -> Answer {
    let mut w = Writer::new(style);
    describe(&mut w, site);
    Answer::json(200, w.out)
}

/// `SitesManager.getSitesWithAtLeastViewAccess`.
pub fn all<'a>(sites: impl Iterator<Item = &'a Site>, style: Style) -> Answer {
    let mut w = Writer::new(style);
    w.brackets(|w| {
        for site in sites {
            w.element();
            describe(w, site);
        }
    });
    Answer::json(200, w.out)
}

/// `SitesManager.getSitesIdWithAtLeastViewAccess`.
pub fn ids<'a>(sites: impl Iterator<Item = &'a Site>) -> Answer {
    let ids: Vec<_> = sites.map(|site| site.id.to_string()).collect();
    Answer::json(200, format!("[{}]", ids.join(",")))
}

fn describe(w: &mut Writer, site: &Site) {
    let zone_name = site.timezone.rsplit('/').next().unwrap_or_default();
    w.braces(|w| {
        w.db("idsite", site.id);
        w.str("name", &site.name);
        w.str("main_url", &format!("http://site{}.example.org", site.id));
        w.str("ts_created", "2020-01-01 00:00:00");
        w.db("ecommerce", site.ecommerce.into());
        w.db("sitesearch", 1);
        w.str("sitesearch_keyword_parameters", "");
        w.str("sitesearch_category_parameters", "");
        w.str("timezone", &site.timezone);
        w.str("currency", &site.currency);
        w.db("exclude_unknown_urls", 0);
        for empty in [
            "excluded_ips",
            "excluded_parameters",
            "excluded_user_agents",
            "excluded_referrers",
            "group",
        ] {
            w.str(empty, "");
        }
        w.str("type", &site.kind);
        w.db("keep_url_fragment", 0);
        w.str("creator_login", "anonymous");
        w.str("timezone_name", &zone_name.replace('_', " "));
        w.str("currency_name", if site.currency == "EUR" { "Euro" } else { &site.currency });
    });
}

/// `VisitsSummary.getVisits`: each visit counts once, on the day of its last action.
///
/// # Errors
/// A bad date or period.
pub fn visits(world: &World, site: &Site, params: &Params) -> Result<Answer, String> {
    let Some(span) = span(params, world.today(site.id))? else {
        let missing = if params.filled("period").is_none() { "period" } else { "date" };
        return Err(format!("Please specify a value for '{missing}'."));
    };
    let counts = world.visits_per_day(site.id);
    let of = |day| counts.get(&day).copied().unwrap_or(0) as i64;
    let mut w = Writer::new(Style::default());
    let several = params.get("period") == Some("day") && !span.single_day;
    w.braces(|w| {
        if several {
            for day in days(span.first, span.last) {
                w.int(&day.to_string(), of(day));
            }
        } else {
            w.int("value", days(span.first, span.last).map(of).sum());
        }
    });
    Ok(Answer::json(200, w.out))
}

/// `Live.getMostRecentVisitsDateTime`, in UTC.
pub fn most_recent(world: &World, site: &Site) -> Answer {
    let last = site.ends(world.now.seconds()).into_iter().map(|(last, _, _)| last).max();
    value(&last.map_or_else(String::new, |at| utc(at).to_string()))
}
