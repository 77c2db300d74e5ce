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
    run(&mut db, "TRUNCATE matomo_visits, matomo_conversions, matomo_items");
    sync.run(&mut db);
    assert_tables_equal(&mut db, "matomo", &tables_between(&fake, 1, FIRST, LAST));
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
