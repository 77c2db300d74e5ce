//! A timezone in which it is noon now, so that no test runs across midnight.

use chrono::{Days, NaiveDate, TimeDelta, Timelike, Utc};
use fake_matomo::{Action, Clock, Fake, Item, Site, Visit, World};
use postgres::Client;

use crate::support::*;

/// A timezone in which it is noon now, or some hours later, so that neither midnight there nor midnight
/// UTC falls into a test or into the mornings of its days. Days count back from its today.
pub struct Noon {
    pub zone: String,
    offset: i64,
    today: NaiveDate,
}

impl Noon {
    pub fn new() -> Noon {
        let now = Utc::now();
        let offset = match 12 - i64::from(now.hour()) {
            8..=11 => 12,
            noon => noon,
        };
        let today = (now + TimeDelta::hours(offset)).date_naive();
        Noon { zone: format!("UTC{offset:+}"), offset, today }
    }

    pub fn day(&self, ago: u64) -> NaiveDate {
        self.today - Days::new(ago)
    }

    /// A day as text.
    pub fn text(&self, ago: u64) -> String {
        self.day(ago).to_string()
    }

    /// An instant by the site's clock, for example "08:30:00".
    pub fn at(&self, ago: u64, clock: &str) -> i64 {
        let wall = self.day(ago).and_time(clock.parse().unwrap());
        wall.and_utc().timestamp() - self.offset * 3600
    }

    /// A world with site 1, which has three visits in the morning of each day, including today. Visit
    /// `1000 + 10 * ago + n` is the n-th of its day, n from 1 to 3.
    pub fn world(&self, days: u64) -> World {
        let mut world = World::new(Clock::Real);
        let mut site = Site::new(1, "Noon", &self.zone);
        for ago in (0..days).rev() {
            for n in 1..=3 {
                site.add(self.visit(ago, n));
            }
        }
        world.add_site(site);
        world
    }

    /// A visit of two pages and a goal, as in `world`; the second of three has an abandoned cart instead of the
    /// goal, the third an order of two items.
    pub fn visit(&self, ago: u64, n: i64) -> Visit {
        let id = 1000 + 10 * i64::try_from(ago).unwrap() + n;
        let at = self.at(ago, &format!("{:02}:00:00", 7 + n));
        let conversion = match n % 3 {
            1 => Action::goal(at + 40, 1, "Asked", "https://noon.test/contact"),
            2 => Action::cart(at + 40, vec![shoe("S1")]),
            _ => Action::order(at + 40, format!("O{id}"), vec![shoe("S1"), shoe("S2")]),
        };
        Visit::new(id, at)
            .and(Action::page(at, "https://noon.test/", "Home"))
            .and(Action::page(at + 30, "https://noon.test/contact", "Contact"))
            .and(conversion)
    }
}

fn shoe(sku: &str) -> Item {
    Item {
        sku: sku.to_owned(),
        name: "Shoe".to_owned(),
        categories: vec!["Shoes".to_owned()],
        price: 4990,
        quantity: 2,
    }
}

pub fn settled() -> Client {
    let mut db = database();
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    db
}

pub fn noon(days: u64) -> (Noon, Fake, Client) {
    let noon = Noon::new();
    let fake = serve(noon.world(days));
    (noon, fake, settled())
}

/// The same with two days in a table, both of them open.
pub fn open_days(table: &str) -> (Noon, Fake, Client) {
    let (noon, fake, mut db) = noon(2);
    run(&mut db, &format!("SET matomo.settle_time = '1 d'; SET matomo.destination = '{table}'"));
    sync(&mut db, &fake, &from(&noon, 1));
    (noon, fake, db)
}

pub fn from(noon: &Noon, ago: u64) -> String {
    format!(", '{}'", noon.text(ago))
}

/// Adds site `id` with visits of the same days, with IDs from `first` on.
pub fn add_site(fake: &Fake, noon: &Noon, id: i64, first: i64, days: u64) {
    let mut site = Site::new(id, "Second", &noon.zone);
    for (n, ago) in (0..days).enumerate() {
        let mut visit = noon.visit(ago, 2);
        visit.id = first + n as i64;
        site.add(visit);
    }
    fake.world().add_site(site);
}
