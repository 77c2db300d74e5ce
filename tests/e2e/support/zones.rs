//! A site whose timezone changes.

use fake_matomo::{Action, Clock, Fake, Site, Visit, World};
use postgres::Client;

use crate::support::*;

pub fn zone(hours: i64) -> String {
    format!("UTC{hours:+}")
}

/// A world with a visit every hour of the last eight days.
pub fn hourly(hours: i64) -> World {
    let mut world = World::new(Clock::Real);
    let now = world.now.seconds();
    let site = world.add_site(Site::new(1, "Mover", &zone(hours)));
    for n in 0..192 {
        site.add(hit(1000 - n, now - 3600 * n - 60));
    }
    world
}

pub fn hit(id: i64, at: i64) -> Visit {
    Visit::new(id, at).and(Action::page(at, format!("https://x.org/{id}"), "Page"))
}

pub fn first_day(fake: &Fake, ago: u64) -> chrono::NaiveDate {
    fake.world().today(1) - chrono::Days::new(ago)
}

pub fn midnight(fake: &Fake, ago: u64) -> i64 {
    let day = first_day(fake, ago);
    fake.world().site(1).zone().midnight(day)
}

/// Tables without the visitor's local time, which the fake takes from the site.
pub fn without_local_time(db: &mut Client) {
    run(
        db,
        "SELECT matomo_create_table('matomo'); ALTER TABLE matomo_visits DROP COLUMN visitlocaltime",
    );
}

/// Tables without the day of the visit, by which all days are read again in another timezone.
pub fn without_day(db: &mut Client) {
    without_local_time(db);
    for table in ["matomo", "matomo_visits", "matomo_conversions"] {
        run(db, &format!("ALTER TABLE {table} DROP COLUMN day"));
    }
}

/// The site's visits since an instant that are missing in the table.
pub fn lost(db: &mut Client, fake: &Fake, since: i64) -> Vec<i64> {
    let stored = texts(db, "SELECT idvisit::text FROM matomo");
    let world = fake.world();
    let visits = world.site(1).visits.iter().filter(|visit| visit.last >= since);
    visits.map(|visit| visit.id).filter(|id| !stored.contains(&id.to_string())).collect()
}
