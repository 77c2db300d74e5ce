//! What the fake Matomo serves: sites and their visits.

use crate::metadata::{CustomDimension, Goal};
use crate::visit::Visit;
use crate::zone::{Zone, days};
use chrono::NaiveDate;
use serde_json::Value;
use std::collections::BTreeMap;

/// The server's clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clock {
    /// The machine's clock.
    Real,
    /// Stopped at this instant (UTC seconds).
    Fixed(i64),
}

impl Clock {
    pub fn seconds(&self) -> i64 {
        match self {
            Clock::Real => chrono::Utc::now().timestamp(),
            Clock::Fixed(instant) => *instant,
        }
    }
}

/// A visit from a real Matomo's answer, served as recorded.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub id: i64,
    pub last: i64,
    pub json: Value,
}

#[derive(Clone, Debug)]
pub struct Site {
    pub id: i64,
    pub name: String,
    /// As in `SitesManager.getSiteFromId`; an unknown name counts as UTC here.
    pub timezone: String,
    pub currency: String,
    pub ecommerce: bool,
    /// `type`: `website`, or `rollup` of the plugin RollUpReporting, which lists other sites'
    /// visits.
    pub kind: String,
    /// The sites that a roll-up lists the visits of.
    pub children: Vec<i64>,
    pub visits: Vec<Visit>,
    pub goals: Vec<Goal>,
    /// The configured custom dimensions; those in visits are independent of it.
    pub dimensions: Vec<CustomDimension>,
    /// If set, served instead of `visits` (which the oracle still reads).
    pub recorded: Option<Vec<Recorded>>,
}

impl Site {
    /// A site without visits, in euros.
    pub fn new(id: i64, name: &str, timezone: &str) -> Site {
        Site {
            id,
            name: name.to_owned(),
            timezone: timezone.to_owned(),
            currency: "EUR".to_owned(),
            ecommerce: false,
            kind: "website".to_owned(),
            children: Vec::new(),
            visits: Vec::new(),
            goals: Vec::new(),
            dimensions: Vec::new(),
            recorded: None,
        }
    }

    pub fn zone(&self) -> Zone {
        Zone::parse(&self.timezone).unwrap_or(Zone::Fixed(0))
    }

    pub fn add(&mut self, visit: Visit) -> &mut Visit {
        self.visits.push(visit);
        let last = self.visits.len() - 1;
        &mut self.visits[last]
    }

    /// The visit with this id.
    ///
    /// # Panics
    /// When there is none.
    pub fn visit(&self, id: i64) -> &Visit {
        self.visits.iter().find(|v| v.id == id).expect("no visit of this id")
    }

    /// The visit with this id, to change it.
    ///
    /// # Panics
    /// When there is none.
    pub fn visit_mut(&mut self, id: i64) -> &mut Visit {
        self.visits.iter_mut().find(|v| v.id == id).expect("no visit of this id")
    }

    /// Deletes a visit, as for a GDPR request.
    pub fn delete(&mut self, id: i64) -> Option<Visit> {
        let place = self.visits.iter().position(|v| v.id == id)?;
        Some(self.visits.remove(place))
    }

    /// The visits whose last action is on this site-day, in Matomo's order.
    pub fn visits_of(&self, day: NaiveDate) -> Vec<&Visit> {
        let zone = self.zone();
        let mut found: Vec<_> = self.visits.iter().filter(|v| zone.day(v.last) == day).collect();
        found.sort_by_key(|v| (v.last, v.id));
        found
    }

    /// The visits arrived by now whose last action is on these days, in Matomo's order.
    pub(crate) fn within(&self, first: NaiveDate, last: NaiveDate, now: i64) -> Vec<&Visit> {
        let zone = self.zone();
        let is_within = |v: &&Visit| v.arrives <= now && (first..=last).contains(&zone.day(v.last));
        let mut found: Vec<_> = self.visits.iter().filter(is_within).collect();
        found.sort_by_key(|v| (v.last, v.id));
        found
    }

    /// Serves these visits, in the form that Matomo sends, instead of the model's.
    pub fn replace_visits_json(&mut self, visits: Vec<Value>) {
        let number = |visit: &Value, key: &str| match &visit[key] {
            Value::String(text) => text.parse().unwrap_or(0),
            other => other.as_i64().unwrap_or(0),
        };
        let recorded = |json: Value| Recorded {
            id: number(&json, "idVisit"),
            last: number(&json, "lastActionTimestamp"),
            json,
        };
        self.recorded = Some(visits.into_iter().map(recorded).collect());
    }

    /// The last instant, id and list index of every visit arrived by now.
    pub(crate) fn ends(&self, now: i64) -> Vec<(i64, i64, usize)> {
        match &self.recorded {
            Some(all) => all.iter().enumerate().map(|(i, r)| (r.last, r.id, i)).collect(),
            None => {
                let arrived = self.visits.iter().enumerate().filter(|(_, v)| v.arrives <= now);
                arrived.map(|(i, v)| (v.last, v.id, i)).collect()
            }
        }
    }
}

/// Everything that one Matomo holds, and the form of its answers.
#[derive(Clone, Debug)]
pub struct World {
    pub sites: Vec<Site>,
    pub now: Clock,
    /// Database numbers are strings, as with PHP before 8.1.
    pub numbers_as_strings: bool,
    /// Custom variables of actions are named `customVariableName1`, the form that the Node tool
    /// reads.
    pub plain_custom_variables: bool,
    /// `visitor_log_maximum_actions_per_visit`.
    pub max_actions: usize,
    /// The order of visits of one second: another one for each value.
    pub order: i64,
}

impl World {
    pub fn new(now: Clock) -> World {
        World {
            sites: Vec::new(),
            now,
            numbers_as_strings: false,
            plain_custom_variables: false,
            max_actions: 500,
            order: 0,
        }
    }

    pub fn add_site(&mut self, site: Site) -> &mut Site {
        self.sites.push(site);
        let last = self.sites.len() - 1;
        &mut self.sites[last]
    }

    /// The site with this id, if there is one.
    pub fn find(&self, id: i64) -> Option<&Site> {
        self.sites.iter().find(|s| s.id == id)
    }

    /// The sites whose visits a site lists: itself, and those of a roll-up.
    pub(crate) fn listed_by<'a>(&'a self, site: &'a Site) -> impl Iterator<Item = &'a Site> {
        std::iter::once(site).chain(site.children.iter().map(|id| self.site(*id)))
    }

    /// The site with this id.
    ///
    /// # Panics
    /// When there is none.
    pub fn site(&self, id: i64) -> &Site {
        self.find(id).expect("no site of this id")
    }

    /// The site with this id, to change it.
    ///
    /// # Panics
    /// When there is none.
    pub fn site_mut(&mut self, id: i64) -> &mut Site {
        self.sites.iter_mut().find(|s| s.id == id).expect("no site of this id")
    }

    /// An id for the next visit: one more than the greatest of all sites.
    pub fn next_visit_id(&self) -> i64 {
        let ids = self.sites.iter().flat_map(|s| s.ends(i64::MAX)).map(|(_, id, _)| id);
        ids.max().unwrap_or(1000) + 1
    }

    /// Today in the site's zone.
    pub fn today(&self, site: i64) -> NaiveDate {
        self.site(site).zone().day(self.now.seconds())
    }

    /// The number of visits that end on each site-day, as `VisitsSummary.getVisits` counts them;
    /// days without visits between the first and the last have 0.
    pub fn visits_per_day(&self, site: i64) -> BTreeMap<NaiveDate, usize> {
        let site = self.site(site);
        let zone = site.zone();
        let mut counts = BTreeMap::new();
        for (last, _, _) in site.ends(self.now.seconds()) {
            *counts.entry(zone.day(last)).or_insert(0) += 1;
        }
        if let (Some((&first, _)), Some((&last, _))) =
            (counts.first_key_value(), counts.last_key_value())
        {
            for day in days(first, last) {
                counts.entry(day).or_insert(0);
            }
        }
        counts
    }
}
