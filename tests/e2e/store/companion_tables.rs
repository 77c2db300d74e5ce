//! The tables of visits, conversions and items, after changes by others.

use crate::support::*;

const FIRST: &str = "2026-10-24";
const LAST: &str = "2026-10-26";

#[test]
fn a_table_of_visits_that_was_emptied_is_filled_again_by_the_next_sync() {
    let fake = serve(world(3, "Europe/Paris", 20, FIRST, LAST));
    let mut db = database();
    let sync = Sync { force: false, ..Sync::of(&fake, FIRST, LAST) };
    sync.run(&mut db);
    for all in ["matomo_visits", "matomo_visits, matomo_conversions, matomo_items"] {
        run(&mut db, &format!("TRUNCATE {all}"));
        sync.run(&mut db);
        assert_tables_equal(&mut db, "matomo", &tables_between(&fake, 1, FIRST, LAST));
    }
}

/// The actions are still there. And such days fill no table of visits, so that it is not taken for emptied
/// again and again.
#[test]
fn days_that_matomo_has_purged_keep_their_counts_when_companions_are_made_or_emptied() {
    let make = "SELECT matomo_create_companions('matomo')";
    let drop = format!("DROP TABLE {}", four("matomo")[1..].join(", "));
    for (is_all_purged, empty) in [
        (false, format!("{drop}; {make}")),
        (true, format!("{drop}; {make}")),
        (false, "TRUNCATE matomo_visits".to_owned()),
        (true, "TRUNCATE matomo_visits".to_owned()),
    ] {
        let fake = serve(world(3, "Europe/Paris", 20, FIRST, LAST));
        let mut db = database();
        let sync = Sync { force: false, ..Sync::of(&fake, FIRST, LAST) };
        sync.run(&mut db);
        let before = (ledger(&mut db, "matomo"), fingerprint(&mut db, "matomo"));
        let kept = if is_all_purged { i64::MAX } else { instant("2026-10-26T00:00:00Z") };
        fake.world().site_mut(1).visits.retain(|visit| visit.last >= kept);
        run(&mut db, &empty);
        sync.run(&mut db);
        asked(&fake);
        sync.run(&mut db);
        let days = asked(&fake).into_iter().filter(|line| line.starts_with("day"));
        assert_eq!(days.collect::<Vec<_>>(), [""; 0], "{empty}, all purged: {is_all_purged}");
        let after = (ledger(&mut db, "matomo"), fingerprint(&mut db, "matomo"));
        assert_eq!(after.1, before.1);
        // Of the last day its first hour is gone from Matomo.
        assert_eq!(after.0[0], before.0[0], "{empty}, all purged: {is_all_purged}");
        assert!(!is_all_purged || after.0 == before.0, "{empty}: {:?}", after.0);
    }
}

/// Otherwise each sync would read all days again.
#[test]
fn a_table_of_visits_that_a_trigger_keeps_empty_is_not_taken_for_an_emptied_one() {
    let fake = serve(world(3, "Europe/Paris", 5, FIRST, LAST));
    let mut db = database();
    run(
        &mut db,
        "SELECT matomo_create_table('matomo');
         CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER nothing BEFORE INSERT ON matomo_visits FOR EACH ROW EXECUTE FUNCTION nothing()",
    );
    let sync = Sync { force: false, ..Sync::of(&fake, FIRST, LAST) };
    sync.run(&mut db);
    asked(&fake);
    sync.run(&mut db);
    assert_eq!(asked(&fake).iter().filter(|line| line.starts_with("day")).count(), 0);
    assert_equal(&mut db, "matomo", &oracle(&fake, FIRST, LAST));
}

#[test]
fn a_name_that_is_taken_is_told_and_nothing_is_made() {
    let fake = serve(world(3, "Europe/Paris", 5, FIRST, LAST));
    let mut db = database();
    run(&mut db, "CREATE TABLE matomo_visits (mine text)");
    let refused = Sync::of(&fake, FIRST, LAST).error(&mut db);
    assert_eq!(refused.code().code(), "42P07");
    assert!(refused.message().contains("public.matomo_visits"), "{}", refused.message());
    assert!(refused.hint().unwrap().contains("matomo.companions"));
    assert_eq!(one::<Option<String>>(&mut db, "SELECT to_regclass('matomo')::text"), None);
    run(&mut db, "SET matomo.companions = 'items, conversions'");
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    assert_eq!(
        texts(&mut db, "SELECT kind || ' ' || companion FROM matomo_companion ORDER BY 1"),
        ["conversions matomo_conversions", "items matomo_items"]
    );
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_visits"), 0);
}

/// Its triggers would run with the rights of the role that writes the destination.
#[test]
fn a_companion_of_another_owner_is_not_written() {
    let fake = serve(world(3, "Europe/Paris", 5, FIRST, LAST));
    let (_, mut db, other) = database_and_role();
    let sync = Sync::of(&fake, FIRST, LAST);
    sync.run(&mut db);
    run(&mut db, &format!("ALTER TABLE matomo_visits OWNER TO {other}; DELETE FROM matomo"));
    for call in [
        sync.sql(),
        "CALL matomo_drop_before('matomo', '2026-10-25')".to_owned(),
        "SELECT matomo_forget('nobody')".to_owned(),
    ] {
        let refused = error(&mut db, &call);
        assert_eq!(refused.code().code(), "42501", "{call}: {refused:?}");
        assert!(refused.message().contains("matomo_visits"), "{call}: {refused:?}");
    }
    run(&mut db, "ALTER TABLE matomo_visits OWNER TO CURRENT_USER");
    sync.run(&mut db);
    assert_tables_equal(&mut db, "matomo", &tables_between(&fake, 1, FIRST, LAST));
}

/// Not with those of the caller: Postgres evaluates expressions of indexes and constraints while it makes one.
#[test]
fn partitions_are_made_with_the_rights_of_the_tables_owner_whoever_calls() {
    let fake = serve(world(3, "Europe/Paris", 5, FIRST, LAST));
    let (name, mut admin, owner) = database_and_role();
    may_have_sites(&mut admin, &owner);
    let mut db = connect_as(&name, &owner);
    Sync::of(&fake, FIRST, LAST).into("matomo_partitioned").run(&mut db);
    run(&mut admin, &format!("SET search_path = {owner}, public"));
    run(&mut db, FOLDED_TRAP);
    // Companions of another owner than their destination's are refused.
    run(&mut admin, "ALTER TABLE matomo_partitioned OWNER TO postgres");
    for trap in ["CREATE INDEX ON matomo_partitioned_visits ((evil(1)))", CHECK] {
        run(&mut db, &format!("{trap}; TRUNCATE notes"));
        let refused = error(&mut admin, &weeks("2026-11-18"));
        assert_eq!(refused.code().code(), "42501", "{refused:?}");
        assert!(refused.message().contains("has another owner"), "{refused:?}");
        assert_eq!(texts(&mut db, "SELECT DISTINCT who FROM notes"), [""; 0], "{trap}");
    }
    // The owner's own partitions are made as the owner.
    run(&mut admin, &format!("ALTER TABLE matomo_partitioned OWNER TO {owner}"));
    run(&mut db, "CREATE INDEX ON matomo_partitioned ((evil(1))); TRUNCATE notes");
    run(&mut admin, &weeks("2026-11-25"));
    assert_eq!(texts(&mut db, "SELECT DISTINCT who FROM notes"), [owner.as_str()]);
    let made = "SELECT count(*) FROM pg_class WHERE relname LIKE 'matomo_partitioned%2026w48'";
    assert_eq!(one::<i64>(&mut db, made), 4);
}

/// All days are opened for them, and the sync that waited reads these.
#[test]
fn companions_that_are_made_while_a_sync_waits_are_filled_by_it() {
    let fake = serve(world(3, "Europe/Paris", 20, FIRST, LAST));
    let (name, mut db) = named_database();
    run(&mut db, "SET matomo.companions = 'visits'");
    let sync = Sync { force: false, ..Sync::of(&fake, FIRST, LAST) };
    sync.run(&mut db);
    run(
        &mut db,
        "BEGIN; SET LOCAL matomo.companions = 'visits, conversions, items'; SELECT matomo_create_companions('matomo')",
    );
    let mut other = connect_as(&name, "postgres");
    let pid = pid(&mut other);
    let sql = sync.sql();
    let waiting = std::thread::spawn(move || run(&mut other, &sql));
    let waits = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
    wait_until("the sync waits", || one::<i64>(&mut db, &waits) == 1);
    run(&mut db, "COMMIT");
    waiting.join().unwrap();
    assert_tables_equal(&mut db, "matomo", &tables_between(&fake, 1, FIRST, LAST));
    sync.run(&mut db);
    assert_tables_equal(&mut db, "matomo", &tables_between(&fake, 1, FIRST, LAST));
}

const CHECK: &str = "ALTER TABLE matomo_partitioned_visits ADD CHECK (evil(1) = 1)";

fn weeks(day: &str) -> String {
    format!("SELECT matomo_create_partitions('matomo_partitioned', '{day}', '{day}')")
}
