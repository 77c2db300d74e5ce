//! Calls of `matomo_sync`, and the sums of their results.

use fake_matomo::Fake;
use postgres::error::DbError;
use postgres::{Client, Row};

use crate::support::engines::Engine;
use crate::support::*;

/// A call of `matomo_sync` on site 1.
pub struct Sync<'a> {
    pub url: String,
    pub key: String,
    pub site: i32,
    pub start: &'a str,
    pub end: &'a str,
    pub destination: &'a str,
    pub page_size: i32,
    pub force: bool,
}

impl<'a> Sync<'a> {
    /// Into `matomo`, with pages of 500; reads all days whole, whatever the ledger has.
    pub fn of(fake: &Fake, start: &'a str, end: &'a str) -> Sync<'a> {
        Sync {
            url: fake.url(),
            key: fake.token().to_owned(),
            site: 1,
            start,
            end,
            destination: "matomo",
            page_size: 500,
            force: true,
        }
    }

    pub fn into(self, destination: &'a str) -> Sync<'a> {
        Sync { destination, ..self }
    }

    pub fn pages_of(self, page_size: i32) -> Sync<'a> {
        Sync { page_size, ..self }
    }

    pub fn sql(&self) -> String {
        format!(
            "SELECT * FROM matomo_sync({}, '{}', '{}', '{}', '{}', '{}', {}, {})",
            self.site,
            self.url,
            self.key,
            self.start,
            self.end,
            self.destination,
            self.force,
            self.page_size
        )
    }

    /// Runs it; returns the sums over all days.
    pub fn run(&self, db: &mut Client) -> Sums {
        let rows = db.query(&self.sql(), &[]).unwrap_or_else(|error| panic!("{error:?}"));
        Engine::of_all_tests().check(db, self.destination);
        Sums::of(&rows)
    }

    /// Runs it; returns its error.
    pub fn error(&self, db: &mut Client) -> DbError {
        error(db, &self.sql())
    }
}

/// Sums over the rows of a result.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub struct Sums {
    pub days: usize,
    pub pages: i64,
    pub visits: i64,
    pub actions: i64,
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
    pub truncated: i64,
}

impl Sums {
    pub fn of(rows: &[Row]) -> Sums {
        let sum = |column: &str| rows.iter().map(|row| row.get::<_, i64>(column)).sum();
        Sums {
            days: rows.len(),
            pages: rows.iter().map(|row| i64::from(row.get::<_, i32>("pages"))).sum(),
            visits: sum("visits"),
            actions: sum("actions"),
            inserted: sum("inserted"),
            updated: sum("updated"),
            deleted: sum("deleted"),
            truncated: sum("truncated_visits"),
        }
    }

    /// Rows inserted, updated or deleted.
    pub fn written(&self) -> i64 {
        self.inserted + self.updated + self.deleted
    }
}

/// A call of `matomo_sync` on a site with more arguments, for example `", start_date => '2026-01-01'"`.
pub fn sync_sql(fake: &Fake, site: i64, arguments: &str) -> String {
    format!("SELECT * FROM matomo_sync({site}, '{}', '{}'{arguments})", fake.url(), fake.token())
}

/// Runs such a call on site 1; returns the sums over all days.
pub fn sync(db: &mut Client, fake: &Fake, arguments: &str) -> Sums {
    sync_site(db, fake, 1, arguments)
}

/// The same for another site.
pub fn sync_site(db: &mut Client, fake: &Fake, site: i64, arguments: &str) -> Sums {
    let sql = sync_sql(fake, site, arguments);
    let rows = db.query(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    Sums::of(&rows)
}
