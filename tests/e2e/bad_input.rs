//! Bad input: each case has its own error, which says what to do and never shows the token, and
//! leaves all tables as they were. This file has the helpers of these tests.
//!
//! A failure shows the error that came. If its SQLSTATE or message is another one, look for what the fake
//! was told to answer, then in `src/matomo/classify.rs`; if a table differs, the sync wrote before it failed;
//! if a line of the server's log has the token, `src/pg/secrecy.rs` has let it pass.

mod answers;
mod arguments;
mod connections;
mod destinations;
mod retries;
mod secrecy;

use fake_matomo::{Action, Fake, Options};
use postgres::Client;
use postgres::error::DbError;

use crate::support::*;

const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];
const FIRST: &str = "2026-10-24";
const MIDDLE: &str = "2026-10-25";
const LAST: &str = "2026-10-26";
/// How often `Stage::refuses` makes each call.
const CALLS: usize = 4;

/// A Matomo, a database with copies of its visits, and a database without tables. Since the copy
/// every visit has got another action, so that a sync that stores anything is noticed.
struct Stage {
    fake: Fake,
    db: Client,
    empty: Client,
    before: [String; 2],
    turns: usize,
}

impl Stage {
    fn new() -> Stage {
        Stage::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Options)) -> Stage {
        let mut options = Options::new(world(11, "Europe/Paris", 3, FIRST, LAST));
        change(&mut options);
        let fake = Fake::start(options);
        let (mut db, mut empty) = (database(), database());
        // Without TLS: the sync that must work uses a fake that every client trusts.
        let plain = serve(fake.world().clone());
        let mut before = [String::new(), String::new()];
        for (table, before) in TABLES.iter().zip(&mut before) {
            let sums = Sync::of(&plain, FIRST, LAST).into(table).run(&mut db);
            assert!(sums.inserted > 100, "{sums:?} prove little");
            *before = versions(&mut db, table);
        }
        forget_matomo(&mut db);
        for visit in &mut fake.world().site_mut(1).visits {
            visit.push(Action::event(visit.last, "News", "of the visit"));
        }
        for db in [&mut db, &mut empty] {
            db.batch_execute("SET matomo.max_retries = 0").unwrap();
        }
        Stage { fake, db, empty, before, turns: 0 }
    }

    /// Runs statements in both databases.
    fn execute(&mut self, sql: &str) {
        for db in [&mut self.db, &mut self.empty] {
            db.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }

    /// A call with these arguments instead of the usual ones; values are SQL.
    fn call(&self, table: &str, arguments: &[(&str, &str)]) -> String {
        let mut all = vec![
            ("site", "1".to_owned()),
            ("url", format!("'{}'", self.fake.url())),
            ("key", format!("'{}'", self.fake.token())),
            ("start_date", format!("'{FIRST}'")),
            ("end_date", format!("'{LAST}'")),
            ("destination", format!("'{table}'")),
        ];
        all.retain(|(name, _)| arguments.iter().all(|(own, _)| own != name));
        all.extend(arguments.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let all: Vec<_> = all.iter().map(|(name, value)| format!("{name} => {value}")).collect();
        format!("SELECT * FROM matomo_sync({})", all.join(", "))
    }

    /// Provokes an error with and without tables, standard and partitioned. Asserts that it is the
    /// same each time, shows no secret and leaves nothing behind; returns it.
    #[track_caller]
    fn refuses(&mut self, arguments: &[(&str, &str)]) -> DbError {
        self.fake.clear_requests();
        let mut errors = Vec::new();
        for table in TABLES {
            let sql = self.call(table, arguments);
            errors.push(error(&mut self.db, &sql));
            errors.push(error(&mut self.empty, &sql));
        }
        self.same(errors)
    }

    /// `refuses` for errors that come late and take long: each table in one database only, the
    /// next time in the other.
    #[track_caller]
    fn refuses_late(&mut self) -> DbError {
        self.fake.clear_requests();
        self.turns += 1;
        let [one, other] = TABLES.map(|table| self.call(table, &[]));
        let (filled, empty) =
            if self.turns.is_multiple_of(2) { (one, other) } else { (other, one) };
        let errors = vec![error(&mut self.db, &filled), error(&mut self.empty, &empty)];
        self.same(errors)
    }

    #[track_caller]
    fn same(&mut self, mut errors: Vec<DbError>) -> DbError {
        self.assert_untouched();
        let first = errors.remove(0);
        for other in &errors {
            assert_eq!(without_digits(other), without_digits(&first));
        }
        for error in errors.iter().chain([&first]) {
            // All keys and passwords of these tests contain this word.
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
        first
    }

    /// Asserts that no table has changed or appeared.
    #[track_caller]
    fn assert_untouched(&mut self) {
        for (table, before) in TABLES.iter().zip(&self.before) {
            assert_eq!(versions(&mut self.db, table), *before, "{table} was touched");
            let there: bool =
                one(&mut self.empty, &format!("SELECT to_regclass('{table}') IS NOT NULL"));
            assert!(!there, "a failed sync left the table {table} behind");
        }
    }

    /// Asserts that the same call works once nothing is wrong.
    #[track_caller]
    fn recovers(&mut self) {
        self.fake.heal();
        let oracle = oracle(&self.fake, FIRST, LAST);
        for table in TABLES {
            let sql = self.call(table, &[]);
            for (db, changed) in [(&mut self.db, true), (&mut self.empty, false)] {
                let sums = Sums::of(&db.query(&sql, &[]).unwrap());
                assert!(sums.inserted > 0 && (sums.inserted < sums.actions) == changed, "{sums:?}");
                assert_equal(db, table, &oracle);
            }
        }
    }

    /// The DETAIL when the request for the site fails.
    fn of_site(&self, status: Option<u16>) -> String {
        detail("SitesManager.getSiteFromId, site 1", &self.fake.url(), "", status)
    }

    /// The DETAIL when the request for a day's visits fails.
    fn of_day(&self, day: &str, status: Option<u16>) -> String {
        detail(
            "Live.getLastVisitsDetails, site 1",
            &self.fake.url(),
            &format!(", day {day}"),
            status,
        )
    }
}

fn detail(call: &str, url: &str, day: &str, status: Option<u16>) -> String {
    let status = status.map_or_else(String::new, |status| format!(", HTTP status {status}"));
    format!("Method {call} at {url}{day}{status}.")
}

/// A digest of the current row versions. Unlike `fingerprint` it ignores xmax, which an update
/// that was rolled back changes.
fn versions(db: &mut Client, table: &str) -> String {
    let row = "md5(format('%s %s %s %s', tableoid, ctid, xmin, t))";
    one(db, &format!("SELECT md5(string_agg({row}, ',' ORDER BY tableoid, ctid)) FROM {table} t"))
}

/// The error's fields without digits, which depend on the clock.
fn without_digits(error: &DbError) -> String {
    format!("{:?}", facts(error)).replace(|c: char| c.is_ascii_digit(), "")
}

/// SQLSTATE, message, DETAIL and HINT.
fn facts(error: &DbError) -> (&str, &str, &str, &str) {
    let (detail, hint) = (error.detail().unwrap_or(""), error.hint().unwrap_or(""));
    (error.code().code(), error.message(), detail, hint)
}

/// Compares an error with the expected one. A message that ends in `...` is only a beginning: the
/// rest comes from a library. Of the HINT a part is enough; "" means no HINT.
#[track_caller]
fn expect(error: &DbError, state: &str, message: &str, detail: &str, hint: &str) {
    let (found_state, found, found_detail, found_hint) = facts(error);
    let same = match message.strip_suffix("...") {
        Some(begin) => found.starts_with(begin) && found.len() > begin.len(),
        None => found == message,
    };
    assert!(same, "not \"{message}\": {error:?}");
    assert_eq!((found_state, found_detail), (state, detail), "{error:?}");
    assert!(found_hint.contains(hint) && found_hint.is_empty() == hint.is_empty(), "{error:?}");
}
