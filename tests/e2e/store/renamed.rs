//! A table that is renamed while a sync or check starts: the table with that name afterwards is
//! used, and rows compared with one table are never written to another.

use std::thread;

use postgres::Client;

use crate::support::cluster::shared;
use crate::support::*;

const DAYS: [&str; 2] = ["2026-01-01", "2026-01-02"];

/// Two tables of the same kind, and a sync into the first.
struct Case {
    db: Client,
    second: Client,
    fake: fake_matomo::Fake,
}

impl Case {
    fn new(partitioned: bool) -> Case {
        let (name, mut db) = named_database();
        let fake = serve(world(64, "Europe/Berlin", 20, DAYS[0], DAYS[1]));
        for table in ["wanted", "other"] {
            run(&mut db, &format!("SELECT matomo_create_table('{table}', {partitioned})"));
        }
        Case { db, second: shared().connect(&name), fake }
    }

    fn call(&self) -> String {
        Sync::of(&self.fake, DAYS[0], DAYS[1]).into("wanted").sql()
    }
}

#[test]
fn tables_that_change_places_before_a_sync_has_its_lock() {
    for partitioned in [false, true] {
        let mut case = Case::new(partitioned);
        run(&mut case.db, "BEGIN; LOCK TABLE wanted IN ACCESS EXCLUSIVE MODE");
        let (call, pid) = (case.call(), pid(&mut case.second));
        let mut second = case.second;
        let sync = thread::spawn(move || run(&mut second, &call));
        wait_until("the sync waits", || waits(&mut case.db, pid));
        assert_eq!(asked(&case.fake), [""; 0]);
        run(
            &mut case.db,
            "ALTER TABLE wanted RENAME TO before; ALTER TABLE other RENAME TO wanted; COMMIT",
        );
        sync.join().unwrap();
        assert_eq!(one::<i64>(&mut case.db, "SELECT count(*) FROM before"), 0);
        assert_equal(&mut case.db, "wanted", &oracle(&case.fake, DAYS[0], DAYS[1]));
        assert_eq!(ledger(&mut case.db, "before"), [""; 0]);
        assert_eq!(ledger(&mut case.db, "wanted").len(), 2);
    }
}

#[test]
fn a_table_that_is_dropped_before_a_sync_has_its_lock_is_missed() {
    let mut case = Case::new(false);
    for check in [false, true] {
        run(&mut case.db, "BEGIN; ALTER TABLE wanted RENAME TO before");
        let pid = pid(&mut case.second);
        let (begin, of) = (case.fake.url(), case.fake.token().to_owned());
        let call = if check {
            format!(
                "SELECT * FROM matomo_check(1, '{}', '{}', '{begin}', '{of}', 'wanted')",
                DAYS[0], DAYS[1]
            )
        } else {
            case.call()
        };
        let mut second = case.second;
        let waiting = thread::spawn(move || (error(&mut second, &call), second));
        wait_until("it waits", || waits(&mut case.db, pid));
        run(&mut case.db, "COMMIT");
        let (refused, second) = waiting.join().unwrap();
        let message = "destination \"wanted\" does not exist";
        assert_says(&refused, "42P01", message, &[], "matomo_create_table");
        case.second = second;
        run(&mut case.db, "ALTER TABLE before RENAME TO wanted");
    }
    assert_eq!(asked(&case.fake), [""; 0]);
}

#[test]
fn schemas_that_change_places_during_a_sync_fail_it() {
    let mut case = Case::new(false);
    run(
        &mut case.db,
        "CREATE SCHEMA app; CREATE SCHEMA spare;
         ALTER TABLE wanted SET SCHEMA app; ALTER TABLE other RENAME TO wanted;
         ALTER TABLE wanted SET SCHEMA spare;
         CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_advisory_xact_lock(64); RETURN NULL; END $$;
         CREATE TRIGGER stop BEFORE INSERT ON app.wanted FOR EACH STATEMENT EXECUTE FUNCTION stop();
         SELECT pg_advisory_lock(64)",
    );
    let call = Sync::of(&case.fake, DAYS[0], DAYS[1]).into("app.wanted").sql();
    let pid = pid(&mut case.second);
    let mut second = case.second;
    let sync = thread::spawn(move || error(&mut second, &call));
    wait_until("it inserts", || waits(&mut case.db, pid));
    run(
        &mut case.db,
        "ALTER SCHEMA app RENAME TO before; ALTER SCHEMA spare RENAME TO app;
         SELECT pg_advisory_unlock(64)",
    );
    let failed = sync.join().unwrap();
    let message = "destination \"app.wanted\" was renamed meanwhile";
    assert_says(&failed, "55000", message, &[], "Try it again");
    for table in ["app.wanted", "before.wanted"] {
        assert_eq!(one::<i64>(&mut case.db, &format!("SELECT count(*) FROM {table}")), 0);
    }
}

#[test]
fn lock_timeout_ends_the_wait_for_a_table() {
    let mut case = Case::new(false);
    run(&mut case.db, "BEGIN; LOCK TABLE wanted IN ACCESS EXCLUSIVE MODE");
    run(&mut case.second, "SET lock_timeout = '200ms'");
    let call = case.call();
    let refused = error(&mut case.second, &call);
    assert_eq!(refused.code().code(), "55P03");
    run(&mut case.db, "ROLLBACK");
    run(&mut case.second, &call);
}

#[test]
fn what_is_newer_than_the_transactions_snapshot_is_a_serialization_failure() {
    let fake = serve(world(66, "Europe/Berlin", 20, DAYS[0], DAYS[1]));
    let call = Sync::of(&fake, DAYS[0], DAYS[1]);
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        // What others do meanwhile, and which part of it is too new.
        for (made, too_new) in [
            (
                "CREATE EXTENSION matomo_postgres; SELECT matomo_create_table('matomo')".to_owned(),
                "extension matomo_postgres is newer than the transaction",
            ),
            (
                "SELECT matomo_create_table('matomo')".to_owned(),
                "table public.matomo is newer than the transaction",
            ),
            (call.sql(), "table public.matomo is newer than the transaction"),
        ] {
            let (name, mut other) = named_database();
            let mut db = shared().connect(&name);
            if made.starts_with("CREATE EXTENSION") {
                run(&mut other, "DROP EXTENSION matomo_postgres");
            }
            run(&mut db, &format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class"));
            run(&mut other, &made);
            let failed = error(&mut db, &call.sql());
            assert_eq!(failed.code().code(), "40001", "{failed:?}");
            assert!(failed.message().ends_with(too_new), "{failed:?}");
            run(&mut db, "ROLLBACK");
            run(&mut db, &call.sql());
            assert_equal(&mut db, "matomo", &oracle(&fake, DAYS[0], DAYS[1]));
        }
    }
}

#[test]
fn days_that_are_newer_than_the_transactions_snapshot_are_a_serialization_failure() {
    let fake = serve(world(66, "Europe/Berlin", 20, DAYS[0], DAYS[1]));
    let other_fake = serve(world(67, "Europe/Berlin", 20, DAYS[0], DAYS[1]));
    let call = Sync::of(&fake, DAYS[0], DAYS[1]);
    let repair = format!(
        "SELECT * FROM matomo_check(1, '{}', '{}', '{}', '{}', repair => true)",
        DAYS[0],
        DAYS[1],
        fake.url(),
        fake.token()
    );
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for (first, second) in [
            (call.sql(), call.sql()),
            (call.sql(), repair.clone()),
            (repair.clone(), call.sql()),
            (call.sql(), Sync::of(&other_fake, DAYS[0], DAYS[1]).sql()),
        ] {
            let (name, mut other) = named_database();
            let mut db = shared().connect(&name);
            run(&mut other, "SELECT matomo_create_table('matomo')");
            run(&mut db, &format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class"));
            run(&mut other, &first);
            let failed = error(&mut db, &second);
            assert_eq!(failed.code().code(), "40001", "{failed:?}");
            let message = "a day of table public.matomo is newer than the transaction";
            assert!(failed.message().ends_with(message), "{failed:?}");
            run(&mut db, "ROLLBACK");
            assert_equal(&mut db, "matomo", &oracle(&fake, DAYS[0], DAYS[1]));
        }
    }
}
