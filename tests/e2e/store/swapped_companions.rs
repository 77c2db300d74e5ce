//! Companions that change names, places or schemas with each other or with tables of others: rows go only
//! into those of the destination that the caller names.

use std::thread;

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::restored::{Scene, copied, scene};
use crate::support::*;

const FIRST: &str = "2026-10-24";
const LAST: &str = "2026-10-26";

fn shop() -> Fake {
    serve(world(141, "Europe/Paris", 12, FIRST, LAST))
}

fn assert_whole(db: &mut Client, fake: &Fake, table: &str) {
    assert_tables_equal(db, table, &tables_between(fake, 1, FIRST, LAST));
}

fn swap(one: &str, other: &str) -> String {
    format!(
        "ALTER TABLE {one} RENAME TO between; ALTER TABLE {other} RENAME TO {one}; ALTER TABLE between RENAME TO {other};"
    )
}

#[test]
fn companions_of_one_destination_that_change_names_keep_their_rows() {
    let fake = shop();
    let mut db = database();
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    let swapped = swap("matomo_visits", "matomo_conversions");
    run(&mut db, &format!("{swapped}; DELETE FROM matomo; DELETE FROM matomo_conversions"));
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    run(&mut db, &swapped);
    assert_whole(&mut db, &fake, "matomo");
}

/// Also while a sync waits for its lock.
#[test]
fn companions_of_two_destinations_that_change_names_keep_their_rows() {
    let (fake, other_fake) = (shop(), serve(world(7, "Asia/Tokyo", 9, FIRST, LAST)));
    let (name, mut db) = named_database();
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    Sync::of(&other_fake, FIRST, LAST).into("matomo_partitioned").run(&mut db);
    run(&mut db, "CREATE SCHEMA elsewhere");
    let swapped = swap("matomo_visits", "matomo_partitioned_visits");
    let moved = "ALTER TABLE matomo_items SET SCHEMA elsewhere; ALTER TABLE matomo_partitioned_items RENAME TO matomo_items;";
    let mut second = shared().connect(&name);
    let process = pid(&mut second);
    run(&mut db, "UPDATE matomo_visits SET country = 'none'; DELETE FROM matomo_items");
    run(&mut db, &format!("BEGIN; {swapped}{moved}"));
    let call = Sync::of(&fake, FIRST, LAST).sql();
    let syncing = thread::spawn(move || run(&mut second, &call));
    wait_until("the sync waits", || waits(&mut db, process));
    run(&mut db, "COMMIT");
    syncing.join().unwrap();
    Sync::of(&other_fake, FIRST, LAST).into("matomo_partitioned").run(&mut db);
    run(
        &mut db,
        &format!(
            "{swapped} ALTER TABLE matomo_items RENAME TO matomo_partitioned_items; ALTER TABLE elsewhere.matomo_items SET SCHEMA public"
        ),
    );
    assert_whole(&mut db, &fake, "matomo");
    assert_whole(&mut db, &other_fake, "matomo_partitioned");
}

#[test]
fn a_table_of_another_role_that_takes_the_name_of_a_companion_gets_no_rows() {
    let fake = shop();
    let (name, mut db, stranger) = database_and_role();
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    run(
        &mut db,
        &format!(
            "ALTER TABLE matomo_visits RENAME TO visits_of_old; DELETE FROM visits_of_old;
             GRANT CREATE ON SCHEMA public TO {stranger}"
        ),
    );
    let mut theirs = connect_as(&name, &stranger);
    run(
        &mut theirs,
        "CREATE TABLE matomo_visits (LIKE matomo_visit, PRIMARY KEY (idvisit)); GRANT ALL ON matomo_visits TO PUBLIC",
    );
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_visits"), 0);
    let visits = tables_between(&fake, 1, FIRST, LAST);
    run(
        &mut db,
        "ALTER TABLE matomo_visits RENAME TO theirs; ALTER TABLE visits_of_old RENAME TO matomo_visits",
    );
    assert_tables_equal(&mut db, "matomo", &visits);
    // Nor after it is dropped.
    run(&mut db, "DROP TABLE matomo_visits; ALTER TABLE theirs RENAME TO matomo_visits");
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_visits"), 0);
}

#[test]
fn schemas_of_a_companion_that_change_places_during_a_sync_fail_it() {
    let fake = shop();
    let (name, mut db) = named_database();
    run(
        &mut db,
        "SELECT matomo_create_table('matomo'); CREATE SCHEMA app; CREATE SCHEMA spare;
         ALTER TABLE matomo_visits SET SCHEMA app;
         CREATE TABLE spare.matomo_visits (LIKE app.matomo_visits, PRIMARY KEY (idvisit));
         CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_advisory_xact_lock(64); RETURN NULL; END $$;
         CREATE TRIGGER stop BEFORE INSERT ON app.matomo_visits FOR EACH STATEMENT EXECUTE FUNCTION stop();
         SELECT pg_advisory_lock(64)",
    );
    let mut second = shared().connect(&name);
    let process = pid(&mut second);
    let call = Sync::of(&fake, FIRST, LAST).sql();
    let syncing = thread::spawn(move || error(&mut second, &call));
    wait_until("it inserts", || waits(&mut db, process));
    run(
        &mut db,
        "ALTER SCHEMA app RENAME TO before; ALTER SCHEMA spare RENAME TO app; SELECT pg_advisory_unlock(64)",
    );
    let failed = syncing.join().unwrap();
    let message = "destination \"app.matomo_visits\" was renamed meanwhile";
    assert_says(&failed, "55000", message, &[], "Try it again");
    for table in ["matomo", "app.matomo_visits", "before.matomo_visits"] {
        assert_eq!(one::<i64>(&mut db, &format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
}

/// Until a sync has found the tables, they are known by their names.
#[test]
fn companions_that_change_names_after_a_restore_do_not_get_rows_of_another_kind() {
    let Scene { fake, name, .. } = scene();
    let mut new = copied(&name, "kinds", &[]);
    let swapped = swap("matomo_visits", "matomo_conversions");
    run(&mut new, &swapped);
    let tables = ["matomo", "matomo_visits", "matomo_conversions", "matomo_items"];
    let state = |new: &mut Client| {
        tables.map(|table| {
            one::<String>(new, &format!("SELECT coalesce(md5(string_agg(t::text, ',' ORDER BY t::text)), '') FROM {table} t"))
        })
    };
    let before = state(&mut new);
    let refused = Sync::of(&fake, FIRST, LAST).into("public.matomo").error(&mut new);
    assert_eq!(refused.code().code(), "42703", "{refused:?}");
    assert_eq!(state(&mut new), before);
    run(&mut new, &swapped);
    Sync::of(&fake, FIRST, LAST).into("public.matomo").run(&mut new);
    run(&mut new, &swapped);
    Sync::of(&fake, FIRST, LAST).into("public.matomo").run(&mut new);
    run(&mut new, &swapped);
    assert_tables_equal(&mut new, "matomo", &tables_between(&fake, 1, FIRST, "2200-01-01"));
}

/// The table of visits of a dump is missing, and its name is that of another destination's by now.
#[test]
fn a_companion_of_another_destination_is_not_taken_for_one_that_is_missing() {
    let Scene { fake, name, mut db, owner } = scene();
    run(&mut db, "ALTER TABLE matomo_visits RENAME TO hits_visits");
    let mut new = copied(&name, "taken", &["-T", "public.hits_visits"]);
    let make = format!(
        "SET matomo.companions = 'visits'; SELECT matomo_create_table('hits');
         ALTER TABLE hits OWNER TO {owner}; ALTER TABLE hits_visits OWNER TO {owner}; RESET matomo.companions"
    );
    run(&mut new, &make);
    for _ in 0..2 {
        Sync::of(&fake, FIRST, LAST).into("public.matomo").run(&mut new);
        run(&mut new, "CALL matomo_sync_all()");
    }
    assert_eq!(one::<i64>(&mut new, "SELECT count(*) FROM hits_visits"), 0);
    assert_eq!(one::<i64>(&mut new, "SELECT sum(failures)::bigint FROM matomo_status"), 0);
    // When the other one has another name, the missing one may come.
    run(
        &mut new,
        "ALTER TABLE hits_visits RENAME TO others;
         CREATE TABLE hits_visits (LIKE matomo_visit INCLUDING DEFAULTS, PRIMARY KEY (idvisit))",
    );
    run(&mut new, &format!("ALTER TABLE hits_visits OWNER TO {owner}"));
    Sync { force: false, ..Sync::of(&fake, FIRST, LAST).into("public.matomo") }.run(&mut new);
    let missing = "SELECT count(DISTINCT idvisit) FROM matomo WHERE idsite = 1 AND idvisit NOT IN (SELECT idvisit FROM hits_visits)";
    assert_eq!(one::<i64>(&mut new, missing), 0);
    assert_eq!(one::<i64>(&mut new, "SELECT count(*) FROM others"), 0);
}

#[test]
fn a_table_of_another_role_is_not_taken_for_a_companion_that_is_missing() {
    let Scene { fake, name, mut db, .. } = scene();
    let stranger = role(&mut db);
    let mut new = copied(&name, "strangers", &["-T", "public.matomo_visits"]);
    run(&mut new, &format!("GRANT CREATE ON SCHEMA public TO {stranger}"));
    let mut theirs = connect_as(&format!("{name}_strangers"), &stranger);
    run(
        &mut theirs,
        "CREATE TABLE matomo_visits (LIKE matomo_visit, PRIMARY KEY (idvisit)); GRANT ALL ON matomo_visits TO PUBLIC",
    );
    Sync::of(&fake, FIRST, LAST).into("public.matomo").run(&mut new);
    run(&mut new, "CALL matomo_sync_all()");
    assert_eq!(one::<i64>(&mut new, "SELECT count(*) FROM matomo_visits"), 0);
    assert!(one::<i64>(&mut new, "SELECT count(*) FROM matomo") > 0);
}
