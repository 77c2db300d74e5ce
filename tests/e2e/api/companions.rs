//! `matomo_create_companions`, and how users change the tables that it creates.

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::log::connect_with_notices;
use crate::support::sites::{add_site, server};
use crate::support::*;

const FIRST: &str = "2026-10-24";
const LAST: &str = "2026-10-26";
const FORCED: &str = ", '2026-10-24', '2026-10-26', force => true";
const KINDS: [&str; 3] = ["visits", "conversions", "items"];

fn shop() -> Fake {
    serve(world(141, "Europe/Paris", 12, FIRST, LAST))
}

/// Syncs all days that are not sealed.
fn sync_all(db: &mut Client, fake: &Fake) {
    sync(db, fake, &format!(", '{FIRST}', '{LAST}'"));
}

fn assert_whole(db: &mut Client, fake: &Fake) {
    assert_tables_equal(db, "matomo", &tables_between(fake, 1, FIRST, LAST));
}

#[test]
fn visits_that_were_truncated_are_copied_again_by_the_next_sync() {
    let fake = shop();
    let mut db = database();
    sync_all(&mut db, &fake);
    run(&mut db, "TRUNCATE matomo_visits, matomo_conversions, matomo_items");
    sync_all(&mut db, &fake);
    assert_whole(&mut db, &fake);
    // Empty tables of conversions and items could be right: only a check finds the missing rows.
    run(&mut db, "TRUNCATE matomo_conversions, matomo_items");
    sync_all(&mut db, &fake);
    let check = format!(
        "SELECT sum(stale)::bigint FROM matomo_check(1, '{FIRST}', '{LAST}', '{}', '{}', deep => true, repair => true)",
        fake.url(),
        fake.token()
    );
    assert!(one::<i64>(&mut db, &check) > 0);
    assert_whole(&mut db, &fake);
    assert_eq!(one::<i64>(&mut db, &check), 0);
}

#[test]
fn a_companion_that_is_dropped_is_missed_by_nobody_and_can_be_made_again() {
    let fake = shop();
    let mut db = database();
    sync_all(&mut db, &fake);
    for kind in KINDS {
        run(&mut db, &format!("DROP TABLE matomo_{kind}"));
        sync(&mut db, &fake, FORCED);
        assert_equal(&mut db, "matomo", &all_of(&fake, 1));
        run(&mut db, "SELECT matomo_forget('nobody')");
        run(&mut db, "CALL matomo_drop_before('matomo', '2020-01-01')");
        let made = "SELECT string_agg(c::text, ' ') FROM matomo_create_companions('matomo') c";
        assert_eq!(texts(&mut db, made), [format!("matomo_{kind}")]);
        // All days are open again.
        sync_all(&mut db, &fake);
        assert_whole(&mut db, &fake);
    }
    let again = "SELECT count(*) FROM matomo_create_companions('matomo')";
    assert_eq!(one::<i64>(&mut db, again), 0);
}

#[test]
fn a_day_half_read_into_a_table_that_was_filled_before_is_read_again() {
    let fake = shop();
    for (meanwhile, all) in [
        ("SELECT matomo_create_companions('matomo')", true),
        ("TRUNCATE matomo", false),
        // As older versions have counted.
        (
            "UPDATE matomo_ledger SET visits = 0, actions = 0; SELECT matomo_create_companions('matomo')",
            true,
        ),
    ] {
        let mut db = database();
        run(&mut db, "LOAD 'matomo_postgres'; SET matomo.companions = ''");
        sync_all(&mut db, &fake);
        forget_matomo(&mut db);
        server(&mut db, &fake);
        let site = add_site(&mut db, &format!(", start_date => '{FIRST}'"));
        run(&mut db, "SET matomo.page_size = 4; SET matomo.step_pages = 1");
        let step = format!("DO $$ BEGIN PERFORM matomo_run_step({site}, false); END $$");
        let half_read = "SELECT count(*) FROM matomo_ledger WHERE pass_began IS NOT NULL";
        // The first step begins the run.
        run(&mut db, &step);
        run(&mut db, &step);
        assert!(one::<i64>(&mut db, half_read) > 0);
        run(&mut db, &format!("RESET matomo.companions; {meanwhile}"));
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        assert_equal(&mut db, "matomo", &all_of(&fake, 1));
        if all {
            assert_whole(&mut db, &fake);
        }
    }
}

#[test]
fn companions_that_are_renamed_or_moved_are_followed() {
    let fake = shop();
    let mut db = database();
    sync_all(&mut db, &fake);
    run(
        &mut db,
        "CREATE SCHEMA elsewhere; ALTER TABLE matomo_visits RENAME TO every_visit;
         ALTER TABLE every_visit SET SCHEMA elsewhere; ALTER TABLE matomo RENAME TO every_action;
         UPDATE elsewhere.every_visit SET devicetype = 'none'; DELETE FROM matomo_conversions",
    );
    sync(&mut db, &fake, &format!("{FORCED}, destination => 'every_action'"));
    run(
        &mut db,
        "ALTER TABLE elsewhere.every_visit SET SCHEMA public; ALTER TABLE every_visit RENAME TO matomo_visits;
         ALTER TABLE every_action RENAME TO matomo",
    );
    assert_whole(&mut db, &fake);
}

/// A visit and its ledger entry are stored as a unit.
#[test]
fn a_trigger_of_a_companion_that_raises_leaves_all_four_tables_as_they_were() {
    let fake = shop();
    let mut db = database();
    run(
        &mut db,
        "SELECT matomo_create_table('matomo');
         CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$",
    );
    for kind in KINDS {
        run(
            &mut db,
            &format!(
                "CREATE TRIGGER no BEFORE INSERT ON matomo_{kind} FOR EACH ROW EXECUTE FUNCTION no()"
            ),
        );
        let refused = error(&mut db, &Sync::of(&fake, FIRST, LAST).sql());
        assert_eq!(refused.message(), "not today", "{kind}");
        for table in all_four("matomo").split(", ") {
            let rows = format!("SELECT count(*) FROM {table}");
            assert_eq!(one::<i64>(&mut db, &rows), 0, "{kind}: {table}");
        }
        assert_eq!(ledger(&mut db, "matomo"), [""; 0]);
        run(&mut db, &format!("DROP TRIGGER no ON matomo_{kind}"));
    }
    sync_all(&mut db, &fake);
    assert_whole(&mut db, &fake);
}

/// As after DROP EXTENSION. Other tables with such names are not taken.
#[test]
fn only_tables_that_fit_are_taken_as_companions() {
    let fake = shop();
    let (name, mut admin, owner) = database_and_role();
    run(&mut admin, &format!("GRANT CREATE ON SCHEMA public TO {owner}"));
    let mut db = connect_as(&name, &owner);
    run(
        &mut db,
        "SET search_path = public; SET matomo.companions = ''; SELECT matomo_create_table('t');
         SET matomo.companions = 'visits'",
    );
    run(&mut admin, "SET search_path = public");
    let taken = "SELECT string_agg(c::text, ' ') FROM matomo_create_companions('t') c";
    for (made, drop, state) in [
        // A table of another role, which could have triggers on it.
        (
            "CREATE TABLE t_visits (LIKE matomo_visit, PRIMARY KEY (idvisit))",
            "DROP TABLE t_visits",
            "42P07",
        ),
        ("CREATE VIEW t_visits AS SELECT 1 AS one", "DROP VIEW t_visits", "42P07"),
    ] {
        run(&mut admin, made);
        assert_says(
            &error(&mut db, taken),
            state,
            "table public.t_visits, for the visits of public.t, already exists",
            &[],
            "Drop it or rename it, or leave it out of matomo.companions.",
        );
        run(&mut admin, drop);
    }
    for (made, state) in [
        ("CREATE TABLE t_visits (idvisit bigint PRIMARY KEY, lastaction timestamptz)", "42703"),
        ("CREATE TABLE t_visits (LIKE matomo_visit)", "42P10"),
        // The table of actions is empty.
        (
            "CREATE TABLE t_visits (LIKE matomo_visit, PRIMARY KEY (idvisit));
             INSERT INTO t_visits (idvisit, firstaction, lastaction) VALUES (1, now(), now())",
            "42P07",
        ),
    ] {
        run(&mut db, made);
        let refused = error(&mut db, taken);
        assert_eq!(refused.code().code(), state, "{made}: {refused:?}");
        run(&mut db, "DROP TABLE t_visits");
    }
    // The companion of another destination, which was renamed.
    run(&mut db, "SELECT matomo_create_companions('t'); ALTER TABLE t RENAME TO old");
    run(
        &mut db,
        "SET matomo.companions = ''; SELECT matomo_create_table('t'); SET matomo.companions = 'visits'",
    );
    assert_says(
        &error(&mut db, taken),
        "22023",
        "table public.t_visits belongs to another destination",
        &[],
        "Rename it",
    );
    run(&mut db, "DROP TABLE old");
    assert_eq!(texts(&mut db, taken), ["t_visits"]);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_companion"), 1);
    drop(fake);
}

/// As after DROP EXTENSION: the old companions are no longer known as such.
#[test]
fn syncs_and_erasures_name_tables_that_look_like_companions_until_these_are_taken() {
    let fake = shop();
    let (name, mut db) = named_database();
    sync_all(&mut db, &fake);
    run(&mut db, "DROP EXTENSION matomo_postgres; CREATE EXTENSION matomo_postgres");
    server(&mut db, &fake);
    // Now this one does not fit.
    run(&mut db, "ALTER TABLE matomo_conversions RENAME converted TO at");
    let (mut db, said) = connect_with_notices(shared(), &name, "postgres");
    let names = "public.matomo_visits, public.matomo_items";
    let take = "Run SELECT matomo_create_companions('public.matomo')";
    let mut assert_warns = |call: &str, warning: Option<(&str, &str)>| {
        run(&mut db, call);
        let warnings = said.warnings();
        assert_eq!(warnings.len(), usize::from(warning.is_some()), "{call}: {warnings:?}");
        if let Some((message, hint)) = warning {
            assert_says(&warnings[0], "01000", message, &[], hint);
        }
    };
    let sync = Sync::of(&fake, FIRST, LAST).sql();
    let unwritten =
        format!("tables that look like companions of public.matomo are not updated: {names}");
    let site = format!(
        "SELECT matomo_add_site('analytics', 1, start_date => '{FIRST}', destination => 'matomo')"
    );
    let of_site = format!("registered site 1: {unwritten}");
    let unsearched =
        format!("tables that look like companions of public.matomo are not searched: {names}");
    let then = format!("{take}, then erase again");
    let searches = ["SELECT matomo_forget('x')", "SELECT matomo_forget('x', only_in => 'matomo')"];
    for _ in 0..2 {
        assert_warns(&sync, Some((&unwritten, take)));
    }
    assert_warns(&site, None);
    assert_warns("CALL matomo_sync_all()", Some((&of_site, take)));
    for search in searches {
        assert_warns(search, Some((&unsearched, &then)));
    }
    assert_warns("ALTER TABLE matomo_conversions RENAME at TO converted", None);
    assert_warns("SELECT matomo_create_companions('public.matomo')", None);
    for call in [sync.as_str(), "CALL matomo_sync_site(1)", searches[0], searches[1]] {
        assert_warns(call, None);
    }
    assert_tables_equal(&mut db, "matomo", &all_tables_of(&fake, 1));
}

/// A destination is created with all its companions or not at all.
#[test]
fn a_name_that_is_taken_stops_the_making_of_a_destination() {
    let fake = shop();
    let mut db = database();
    sync_all(&mut db, &fake);
    run(&mut db, "DROP TABLE matomo");
    let refused = error(&mut db, &Sync::of(&fake, FIRST, LAST).sql());
    assert_says(
        &refused,
        "42P07",
        "table public.matomo_visits, for the visits of public.matomo, already exists",
        &[],
        "Drop it or rename it",
    );
    assert!(one::<bool>(&mut db, "SELECT to_regclass('matomo') IS NULL"));
    run(&mut db, "DROP TABLE matomo_visits, matomo_conversions, matomo_items");
    sync_all(&mut db, &fake);
    assert_whole(&mut db, &fake);
}

/// A person may be in any table that the extension has filled, even if the destination is gone.
#[test]
fn an_erasure_finds_companions_whose_destination_was_dropped() {
    let fake = shop();
    let mut db = database();
    for table in ["matomo", "matomo_partitioned"] {
        Sync::of(&fake, FIRST, LAST).into(table).run(&mut db);
    }
    let visitor: String = one(
        &mut db,
        "SELECT visitorid FROM matomo_visits JOIN matomo_items USING (idvisit) LIMIT 1",
    );
    let of_visitor = format!(
        "SELECT count(*) FROM matomo_items i JOIN matomo_visits v USING (idvisit) WHERE v.visitorid = '{visitor}'"
    );
    assert!(one::<i64>(&mut db, &of_visitor) > 0);
    let visits =
        format!("SELECT array_agg(idvisit) FROM matomo_visits WHERE visitorid = '{visitor}'");
    let visits: Vec<i64> = one(&mut db, &visits);
    run(&mut db, "DROP TABLE matomo, matomo_partitioned");
    for round in 0..2 {
        let erased = format!(
            "SELECT string_agg(destination::text, ' ' ORDER BY destination::text) FROM matomo_forget('{visitor}')"
        );
        assert_eq!(texts(&mut db, &erased), ["matomo_partitioned_visits matomo_visits"], "{round}");
    }
    for table in ["matomo_visits", "matomo_conversions", "matomo_items", "matomo_partitioned_items"]
    {
        let left = format!("SELECT count(*) FROM {table} WHERE idvisit = ANY ($1)");
        let left: i64 = db.query_one(&left, &[&visits]).unwrap().get(0);
        assert_eq!(left, 0, "{table}");
    }
    let address: String =
        one(&mut db, "SELECT visitip FROM matomo_visits WHERE visitip IS NOT NULL LIMIT 1");
    run(&mut db, &format!("SELECT matomo_forget(visitip => '{address}')"));
    let left = format!("SELECT count(*) FROM matomo_visits WHERE visitip = '{address}'");
    assert_eq!(one::<i64>(&mut db, &left), 0);
    run(&mut db, "DROP TABLE matomo_visits, matomo_conversions, matomo_items");
    let erased = "SELECT string_agg(destination::text, ' ') FROM matomo_forget('nobody')";
    assert_eq!(texts(&mut db, erased), ["matomo_partitioned_visits"]);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_companion"), 3);
}

/// Rows of its companions would stay, and its days with their counts.
#[test]
fn one_week_of_a_destination_loses_neither_a_visitor_nor_its_old_rows() {
    let fake = shop();
    let mut db = database();
    Sync::of(&fake, FIRST, LAST).into("matomo_partitioned").run(&mut db);
    let week = "SELECT tableoid::regclass::text FROM matomo_partitioned LIMIT 1";
    let week: String = one(&mut db, week);
    let before = fingerprint(&mut db, "matomo_partitioned");
    for _ in ["with companions", "without"] {
        assert_says(
            &error(&mut db, &format!("SELECT matomo_forget('x', only_in => '{week}')")),
            "22023",
            "only_in is a partition of public.matomo_partitioned",
            &[],
            "Give only_in => 'public.matomo_partitioned'",
        );
        assert_says(
            &error(&mut db, &format!("CALL matomo_drop_before('{week}', '2026-10-25')")),
            "22023",
            &format!("table public.{week} is a partition of public.matomo_partitioned"),
            &[],
            "Give public.matomo_partitioned",
        );
        run(&mut db, "DELETE FROM matomo_companion");
    }
    assert_eq!(fingerprint(&mut db, "matomo_partitioned"), before);
}

#[test]
fn a_companion_is_no_destination() {
    let fake = shop();
    let mut db = database();
    Sync::of(&fake, FIRST, LAST).into("matomo_partitioned").run(&mut db);
    let week = "SELECT tableoid::regclass::text FROM matomo_partitioned_visits LIMIT 1";
    let week: String = one(&mut db, week);
    for companion in ["matomo_partitioned_visits", "matomo_partitioned_items", &week] {
        let forget = format!("SELECT matomo_forget('x', only_in => '{companion}')");
        assert_says(
            &error(&mut db, &forget),
            "22023",
            "only_in is a companion of public.matomo_partitioned",
            &[],
            "Give only_in => 'public.matomo_partitioned'",
        );
        let make = format!("SELECT matomo_create_companions('{companion}')");
        assert_eq!(error(&mut db, &make).code().code(), "42703", "{companion}");
        let drop = format!("CALL matomo_drop_before('{companion}', '2026-10-25')");
        assert_eq!(error(&mut db, &drop).code().code(), "42703", "{companion}");
    }
    assert_tables_equal(&mut db, "matomo_partitioned", &tables_between(&fake, 1, FIRST, LAST));
}
