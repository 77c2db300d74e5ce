//! A session for long use, and its figures.

use chrono::Utc;
use fake_matomo::{Action, Fake, Fault, Page, Visit, When};
use postgres::Client;

use crate::support::sites::{add_site, server};
use crate::support::*;

/// Whether this is the long version, `make soak`.
pub fn is_long() -> bool {
    std::env::var_os("MATOMO_SOAK").is_some()
}

/// Writes a row of the table in `tests/SOAK.md`.
pub fn figures(what: &str, text: &str) {
    println!("soak: | {what} | {text} |");
}

/// A session that makes different calls in turn; every eleventh fails or is cancelled.
pub struct Session {
    pub db: Client,
    pub fake: Fake,
    noon: Noon,
    next: i64,
    bad: usize,
}

impl Session {
    pub fn new(mut db: Client) -> Session {
        let noon = Noon::new();
        let fake = serve(noon.world(4));
        run(
            &mut db,
            "LOAD 'matomo_postgres'; SET client_min_messages = error; SET matomo.max_retries = 0",
        );
        server(&mut db, &fake);
        let from = format!(", start_date => '{}'", noon.text(3));
        add_site(&mut db, &from);
        add_site(&mut db, &format!("{from}, destination => 'matomo_partitioned'"));
        run(&mut db, "CALL matomo_sync_all()");
        Session { db, fake, noon, next: 100_000, bad: 0 }
    }

    pub fn call(&mut self, number: usize) {
        if number % 11 == 10 {
            return self.fail();
        }
        let old = self.noon.text(2);
        let whole = format!(", start_date => '{old}', end_date => '{old}', force => true");
        match number % 11 % 5 {
            0 => {
                self.next += 1;
                let at = Utc::now().timestamp();
                let visit = Visit::new(self.next, at).and(Action::page(at, "https://x.test/", "A"));
                self.fake.world().site_mut(1).add(visit);
                assert!(self.sync("") > 0);
            }
            1 => assert_eq!(self.sync(&whole), 0),
            2 => assert_eq!(
                self.sync(&format!("{whole}, destination => 'matomo_partitioned', page_size => 1")),
                0
            ),
            3 => run(
                &mut self.db,
                &format!(
                    "SELECT * FROM matomo_check(1, '{old}', '{old}', server => 'analytics', deep => true)"
                ),
            ),
            _ => run(&mut self.db, "CALL matomo_sync_all()"),
        }
        self.fake.clear_requests();
    }

    /// Runs a sync with more arguments; returns the rows written.
    fn sync(&mut self, arguments: &str) -> i64 {
        let sql = format!("SELECT * FROM matomo_sync(1, server => 'analytics'{arguments})");
        let rows = self.db.query(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        Sums::of(&rows).written()
    }

    fn fail(&mut self) {
        let (fault, states) = match self.bad % 8 {
            0 => (Fault::Hang, "57014"),
            1 => (Fault::HangMidBody, "57014"),
            2 => (Fault::Status(500, Page::Html), "08006"),
            3 => (Fault::Html, "08P01"),
            4 => (Fault::HalfBody, "08006"),
            5 => (Fault::Reset, "08006"),
            6 => (Fault::NotArray, "08P01"),
            _ => (Fault::ErrorEnvelope("no".to_owned()), "08P01"),
        };
        self.bad += 1;
        let day = self.noon.text(2);
        self.fake.fail(fault, When::live());
        if states == "57014" {
            run(&mut self.db, "SET statement_timeout = '30ms'");
        }
        let sql = format!(
            "SELECT * FROM matomo_sync(1, server => 'analytics', start_date => '{day}', end_date => '{day}', force => true)"
        );
        let found = error(&mut self.db, &sql);
        assert_eq!(found.code().code(), states, "{found:?}");
        run(&mut self.db, "RESET statement_timeout");
        self.fake.heal();
        self.fake.clear_requests();
    }

    /// Sizes of Postgres' memory contexts, by name.
    pub fn contexts(&mut self) -> Vec<(String, i64)> {
        let sql = "SELECT name, sum(total_bytes)::bigint FROM pg_backend_memory_contexts GROUP BY 1 ORDER BY 1";
        let rows = self.db.query(sql, &[]).unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}
