//! Worlds of the fake Matomo, their rows, and the requests they received.

use std::fmt::Write;

use chrono::NaiveDate;
use fake_matomo::{ActionTime, Clock, Fake, Options, OracleRow, Plan, Seen, Site, SitePlan, World};

pub fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

pub fn instant(text: &str) -> i64 {
    text.parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp()
}

/// A world with one site (ID 1); days as in SQL.
pub fn world(seed: u64, zone: &str, visits_per_day: usize, first: &str, last: &str) -> World {
    World::generate(&Plan {
        seed,
        sites: vec![SitePlan { ecommerce: true, ..SitePlan::new(1, zone, visits_per_day) }],
        first_day: day(first),
        last_day: day(last),
        now: Clock::Real,
    })
}

/// Adds the roll-up of some sites.
pub fn add_rollup(world: &mut World, id: i32, zone: &str, children: &[i64]) {
    let rollup = world.add_site(Site::new(id.into(), "All", zone));
    rollup.kind = "rollup".to_owned();
    rollup.children = children.to_vec();
}

pub fn serve(world: World) -> Fake {
    Fake::start(Options::new(world))
}

/// The oracle of site 1, with true times.
pub fn oracle(fake: &Fake, first: &str, last: &str) -> Vec<OracleRow> {
    fake.world().oracle(1, day(first), day(last), ActionTime::Utc)
}

/// Requests to Matomo since the last call, except those for names once a day, one per line: `site`, `day D`, `day D after T` (an
/// instant), with `, offset N` if there is one, or `visits 1, 2`.
pub fn asked(fake: &Fake) -> Vec<String> {
    let line = |seen: &Seen| {
        if seen.method != "Live.getLastVisitsDetails" {
            return seen.method.replace("SitesManager.getSiteFromId", "site");
        }
        if !seen.param("segment").is_empty() {
            return seen.param("segment").replace("visitId==", "").replace(',', ", ");
        }
        let mut text = format!("day {}", seen.param("date").split(',').next().unwrap());
        for (key, word) in [("minTimestamp", " after "), ("filter_offset", ", offset ")] {
            match seen.param(key) {
                "" | "0" => {}
                value => write!(text, "{word}{value}").unwrap(),
            }
        }
        text
    };
    let requests = fake.requests();
    fake.clear_requests();
    let is = |seen: Option<&Seen>, method| seen.is_some_and(|seen| seen.method == method);
    let of_names = |place: usize| {
        let (seen, next) = (requests.get(place), requests.get(place + 1));
        is(seen, "Goals.getGoals")
            || is(seen, "CustomDimensions.getConfiguredCustomDimensions")
            || is(seen, "SitesManager.getSiteFromId") && is(next, "Goals.getGoals")
    };
    let others = requests.iter().enumerate().filter(|(place, _)| !of_names(*place));
    others.map(|(_, seen)| line(seen)).collect()
}

/// All rows that a correct copy of a site has.
pub fn all_of(fake: &Fake, site: i64) -> Vec<OracleRow> {
    fake.world().oracle(site, day("1990-01-01"), day("2200-01-01"), ActionTime::Utc)
}
