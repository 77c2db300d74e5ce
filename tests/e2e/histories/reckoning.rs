//! The expected result of a check.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use chrono::{DateTime, Days, NaiveDate};
use fake_matomo::World;

use super::witness::{Copied, Rows, all_rows};

/// What `matomo_check` tells of a day.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub there: i64,
    pub here: i64,
    pub missing: i64,
    pub extra: i64,
    pub stale: i64,
    pub repaired: i64,
}

impl Found {
    pub fn differences(&self) -> i64 {
        self.missing + self.extra + self.stale
    }
}

impl AddAssign for Found {
    fn add_assign(&mut self, other: Found) {
        self.there += other.there;
        self.here += other.here;
        self.missing += other.missing;
        self.extra += other.extra;
        self.stale += other.stale;
        self.repaired += other.repaired;
    }
}

/// The columns that are the visit's.
const OF_VISIT: [&str; 20] = [
    "idsite",
    "idvisit",
    "actions",
    "country",
    "region",
    "city",
    "operatingsystemname",
    "devicemodel",
    "devicebrand",
    "visitduration",
    "dayssincefirstvisit",
    "visitortype",
    "sitename",
    "userid",
    "serverdateprettyfirstaction",
    "visitorid",
    "referrertype",
    "referrername",
    "resolution",
    "experiments",
];

/// The columns of a visit that follow from its actions, or that Matomo sends only with them: a list of
/// visits does not have them.
const OF_ACTIONS: [&str; 6] =
    ["pageviews", "entryurl", "entrytitle", "exiturl", "exittitle", "truncatedactionscount"];

/// By day, of a table that holds these rows.
pub fn expected(
    world: &World,
    stored: &Rows,
    (first, last): (NaiveDate, NaiveDate),
    repair: bool,
    deep: bool,
) -> BTreeMap<NaiveDate, Found> {
    let (now, zone) = (all_rows(world), world.site(1).zone());
    let mut days: BTreeMap<_, _> = first
        .iter_days()
        .take_while(|day| *day <= last)
        .map(|day| (day, Found::default()))
        .collect();
    for visit in &world.site(1).visits {
        let Some(found) = days.get_mut(&zone.day(visit.last)) else { continue };
        found.there += 1;
        let Some(theirs) = now.get(&visit.id) else { continue };
        match stored.get(&visit.id) {
            None => found.missing += 1,
            Some(ours) => {
                found.here += 1;
                found.stale += i64::from(differs(ours, theirs, deep));
            }
        }
    }
    let bounds = zone.midnight(first)..zone.midnight(last + Days::new(1));
    for (id, rows) in stored {
        let of_range =
            |instants: Vec<i64>| instants.into_iter().filter(|at| bounds.contains(at)).max();
        let of_actions = rows.actions.iter().map(|row| instant(row.get("action_timestamp")));
        // One without actions is in the table of visits alone.
        let visits = &rows.tables.visits;
        let of_visit = (0..visits.rows.len()).map(|row| instant(visits.get(row, "lastaction")));
        let of_range = of_range(of_actions.collect()).or_else(|| of_range(of_visit.collect()));
        let Some(at) = of_range.filter(|_| !now.contains_key(id)) else { continue };
        let found = days.entry(zone.day(at)).or_default();
        found.extra += 1;
        found.here += 1;
    }
    for found in days.values_mut().filter(|_| repair) {
        found.repaired = found.differences();
    }
    days
}

fn differs(ours: &Copied, theirs: &Copied, deep: bool) -> bool {
    let of_rows = |copied: &Copied| {
        let first = copied.actions.first();
        first.map(|row| OF_VISIT.map(|column| row.get(column).map(str::to_owned)))
    };
    let of_visit = |copied: &Copied| {
        let visits = &copied.tables.visits;
        let columns = visits.columns.iter().filter(|column| !OF_ACTIONS.contains(column));
        let value = |column: &&str| visits.get(0, column).map(str::to_owned);
        columns.map(value).collect::<Vec<_>>()
    };
    match deep {
        true => ours != theirs,
        false => of_rows(ours) != of_rows(theirs) || of_visit(ours) != of_visit(theirs),
    }
}

fn instant(text: Option<&str>) -> i64 {
    let text = text.unwrap_or_default();
    DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%#z").unwrap().timestamp()
}
