//! Companions that are made or restored while a sync or another session does not see them.

use std::thread;
use std::time::Duration;

use fake_matomo::Fake;
use postgres::Client;
use postgres::error::DbError;

use crate::support::cluster::shared;
use crate::support::*;

const FIRST: &str = "2026-10-24";
const LAST: &str = "2026-10-26";
const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
const MAKE: &str = "SET matomo.companions = 'visits, conversions, items'; SELECT matomo_create_companions('matomo')";

/// The first two days in a table without companions, and a second session.
fn scene() -> (Fake, Client, Client) {
    let fake = serve(world(141, "Europe/Paris", 12, FIRST, LAST));
    let (name, mut db) = named_database();
    run(&mut db, "SET matomo.companions = ''");
    sync(&mut db, &fake, ", '2026-10-24', '2026-10-25'");
    (fake, db, shared().connect(&name))
}

fn last_day(fake: &Fake) -> String {
    Sync { force: false, ..Sync::of(fake, LAST, LAST) }.sql()
}

fn failure(db: &mut Client, sql: &str) -> Option<DbError> {
    db.batch_execute(sql).err().map(|error| error.as_db_error().unwrap().clone())
}

/// Begins a transaction that has written, so that Postgres gives even what only reads its own snapshot.
fn begin(db: &mut Client, level: &str) {
    run(db, "CREATE TABLE IF NOT EXISTS written ()");
    run(db, &format!("BEGIN ISOLATION LEVEL {level}; INSERT INTO written DEFAULT VALUES"));
}

/// Asserts that the next sync of all days fills all four tables.
fn assert_filled(db: &mut Client, fake: &Fake) {
    Sync { force: false, ..Sync::of(fake, FIRST, LAST) }.run(db);
    assert_tables_equal(db, "matomo", &tables_between(fake, 1, FIRST, LAST));
}

#[test]
fn a_sync_that_is_older_than_companions_fails_or_fills_them() {
    for level in LEVELS {
        let (fake, mut db, mut other) = scene();
        begin(&mut db, level);
        run(&mut other, MAKE);
        let failure = failure(&mut db, &last_day(&fake));
        if level == "READ COMMITTED" {
            assert!(failure.is_none(), "{failure:?}");
        } else {
            assert_says(
                &failure.unwrap(),
                "40001",
                "could not serialize access: a companion of table public.matomo is newer than the transaction",
                &[],
                "Try the transaction again.",
            );
        }
        run(&mut db, "COMMIT");
        assert_filled(&mut db, &fake);
    }
}

#[test]
fn a_sync_that_is_older_than_a_repair_fails_or_sees_it() {
    for level in LEVELS {
        let (fake, mut db, mut other) = scene();
        run(&mut db, "DELETE FROM matomo WHERE idvisit = (SELECT min(idvisit) FROM matomo)");
        begin(&mut db, level);
        let repair = format!(
            "SELECT FROM matomo_check(1, '{FIRST}', '2026-10-25', '{}', '{}', repair => true)",
            fake.url(),
            fake.token()
        );
        run(&mut other, &repair);
        let failure = failure(&mut db, &Sync::of(&fake, FIRST, LAST).sql());
        let state = failure.as_ref().map(|failure| failure.code().code());
        let expected = if level == "READ COMMITTED" { None } else { Some("40001") };
        assert_eq!(state, expected, "{failure:?}");
        run(&mut db, "COMMIT");
        Sync::of(&fake, FIRST, LAST).run(&mut db);
        assert_equal(&mut db, "matomo", &oracle(&fake, FIRST, LAST));
    }
}

#[test]
fn a_transaction_that_has_seen_the_companions_may_sync_at_any_level() {
    for level in LEVELS {
        let (fake, mut db, mut other) = scene();
        run(&mut other, MAKE);
        begin(&mut db, level);
        run(&mut db, &last_day(&fake));
        run(&mut db, "COMMIT");
        assert_filled(&mut db, &fake);
        // And one that makes everything itself.
        run(&mut db, &format!("BEGIN ISOLATION LEVEL {level}; SELECT matomo_create_table('own')"));
        run(&mut db, &Sync::of(&fake, FIRST, LAST).into("own").sql());
        run(&mut db, "SET matomo.companions = 'visits'; SELECT matomo_create_companions('own')");
        run(&mut db, "COMMIT");
        Sync { force: false, ..Sync::of(&fake, FIRST, LAST).into("own") }.run(&mut db);
        let missing = "SELECT count(DISTINCT idvisit) - (SELECT count(*) FROM own_visits WHERE actions > 0) FROM own";
        assert_eq!(one::<i64>(&mut db, missing), 0, "{level}");
    }
}

#[test]
fn companions_are_not_made_by_a_transaction_that_does_not_see_all_days() {
    for level in LEVELS {
        let (fake, mut db, mut other) = scene();
        begin(&mut db, level);
        run(&mut other, &format!("SET matomo.companions = ''; {}", last_day(&fake)));
        let failure = failure(&mut db, MAKE);
        if level == "READ COMMITTED" {
            assert!(failure.is_none(), "{failure:?}");
            run(&mut db, "COMMIT");
        } else {
            assert_says(
                &failure.unwrap(),
                "40001",
                "could not serialize access: a day of table public.matomo is newer than the transaction",
                &[],
                "Try the transaction again.",
            );
            run(&mut db, "ROLLBACK");
            run(&mut db, MAKE);
        }
        assert_filled(&mut db, &fake);
    }
}

#[test]
fn companions_are_not_made_while_a_sync_without_them_is_at_work() {
    for level in LEVELS {
        let (fake, mut db, mut other) = scene();
        begin(&mut db, level);
        run(&mut db, &last_day(&fake));
        run(&mut other, &format!("BEGIN ISOLATION LEVEL {level}"));
        let refused = error(&mut other, MAKE);
        assert_says(
            &refused,
            "55P03",
            "site 1 is being synced into \"public.matomo\" by another session",
            &[],
            "Wait for it to end",
        );
        run(&mut db, "COMMIT");
        run(&mut other, "ROLLBACK");
        run(&mut other, MAKE);
        assert_filled(&mut db, &fake);
    }
}

#[test]
fn a_sync_waits_for_companions_that_are_being_made() {
    for level in LEVELS {
        let (fake, mut db, mut other) = scene();
        run(&mut other, &format!("BEGIN; {MAKE}"));
        begin(&mut db, level);
        let sql = last_day(&fake);
        let syncing = thread::spawn(move || {
            let failure = failure(&mut db, &sql);
            run(&mut db, "COMMIT");
            (db, failure)
        });
        thread::sleep(Duration::from_millis(300));
        assert!(!syncing.is_finished(), "{level}");
        run(&mut other, "COMMIT");
        let (mut db, failure) = syncing.join().unwrap();
        let state = failure.map(|error| error.code().code().to_owned());
        let expected = (level != "READ COMMITTED").then(|| "40001".to_owned());
        assert_eq!(state, expected, "{level}");
        assert_filled(&mut db, &fake);
    }
}

#[test]
fn a_url_is_changed_for_all_days_or_for_none() {
    for level in LEVELS {
        let (fake, mut db, mut other) = scene();
        begin(&mut db, level);
        run(&mut other, &last_day(&fake));
        let change =
            format!("SELECT matomo_change_url('matomo', '{}', 'https://moved.test')", fake.url());
        let failure = failure(&mut db, &change);
        assert_eq!(failure.is_some(), level != "READ COMMITTED", "{failure:?}");
        if let Some(failure) = failure {
            let message = "could not serialize access: a day of table public.matomo is newer than the transaction";
            assert_says(&failure, "40001", message, &[], "Try the transaction again.");
        }
        run(&mut db, "COMMIT");
        let urls = "SELECT count(DISTINCT matomo) FROM matomo_ledger";
        assert_eq!(one::<i64>(&mut db, urls), 1, "{level}");
    }
}

#[test]
fn names_do_not_go_into_a_table_that_another_matomo_has_filled_since() {
    for level in LEVELS {
        let of = || serve(world(141, "Europe/Paris", 12, FIRST, LAST));
        let (fake, other) = (of(), of());
        let (name, mut db) = named_database();
        run(&mut db, "SELECT matomo_create_table('matomo')");
        begin(&mut db, level);
        sync(&mut shared().connect(&name), &other, &format!(", '{FIRST}', '{LAST}'"));
        let call = format!(
            "SELECT * FROM matomo_refresh_metadata(1, '{}', '{}', 'matomo')",
            fake.url(),
            fake.token()
        );
        let failure = failure(&mut db, &call).unwrap();
        let expected = if level == "READ COMMITTED" { "55000" } else { "40001" };
        assert_eq!(failure.code().code(), expected, "{level}: {failure:?}");
        run(&mut db, "ROLLBACK");
        assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_site_metadata"), 0);
    }
}
