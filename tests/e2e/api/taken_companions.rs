//! `matomo_create_companions` takes tables that are there, which their owner may have prepared.

use std::thread;
use std::time::Duration;

use postgres::Client;

use crate::support::*;

/// A role's table without companions, and a table that could be its visits; the caller's session.
fn scene() -> (Client, String, Client) {
    let (name, mut admin, owner) = database_and_role();
    may_have_sites(&mut admin, &owner);
    let mut db = connect_as(&name, &owner);
    run(&mut db, FOLDED_TRAP);
    run(
        &mut db,
        "SET matomo.companions = ''; SELECT matomo_create_table('matomo');
         CREATE TABLE matomo_visits (LIKE matomo_visit INCLUDING DEFAULTS, PRIMARY KEY (idvisit))",
    );
    (admin, owner, db)
}

const WHO: &str = "SELECT DISTINCT who FROM notes";

#[test]
fn a_table_that_is_taken_as_a_companion_is_read_with_its_owners_rights() {
    let (mut admin, owner, mut db) = scene();
    run(&mut db, "CREATE INDEX ON matomo_visits ((evil(1))); TRUNCATE notes");
    run(&mut admin, &format!("SELECT matomo_create_companions('{owner}.matomo')"));
    let taken = "SELECT count(*) FROM matomo_companion WHERE companion = 'matomo_visits'::regclass";
    assert_eq!(one::<i64>(&mut db, taken), 1);
    assert_eq!(texts(&mut db, WHO), [owner.as_str()]);
    let strangers = format!(
        "SELECT relname::text FROM pg_class WHERE relnamespace = '{owner}'::regnamespace AND relowner <> '{owner}'::regrole"
    );
    assert_eq!(texts(&mut db, &strangers), [""; 0]);
}

#[test]
fn a_view_that_takes_the_place_of_a_companion_meanwhile_is_not_read() {
    let (mut admin, owner, mut db) = scene();
    run(
        &mut db,
        "BEGIN; ALTER TABLE matomo_visits RENAME TO away;
         CREATE VIEW matomo_visits AS SELECT 1 AS idvisit FROM grab() AS one WHERE one > 1",
    );
    let call = format!("SELECT matomo_create_companions('{owner}.matomo')");
    let waiting = thread::spawn(move || error(&mut admin, &call));
    thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished());
    run(&mut db, "COMMIT");
    let refused = waiting.join().unwrap();
    assert_eq!(refused.code().code(), "42P07", "{refused:?}");
    assert_eq!(texts(&mut db, WHO), [""; 0]);
}
