//! Upkeep of registered sites once a day, by the worker and by the procedures: retention, and
//! partitions created ahead.

use fake_matomo::{Action, Fake, Fault, Page, Visit, When};
use postgres::Client;

use crate::support::restored::copied;
use crate::support::worker::*;
use crate::support::*;

/// How many future and how many past weeks have partitions.
fn weeks(db: &mut postgres::Client, table: &str) -> (i64, i64) {
    let sql = format!(
        "SELECT count(*) FILTER (WHERE hi > now()), count(*) FILTER (WHERE hi <= now()) FROM (
             SELECT substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \\(''([^'']*)''\\)')::timestamptz AS hi
             FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = '{table}'::regclass) w"
    );
    let row = db.query_one(&sql, &[]).unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn what_is_older_than_the_retention_goes_and_coming_weeks_are_made() {
    let noon = Noon::new();
    let fake = serve(noon.world(40));
    for by_worker in [true, false] {
        let (_cluster, mut db) = cluster_with_worker();
        if !by_worker {
            set(&mut db, "matomo.database", "");
            wait_until("the worker has left", || {
                workers(&mut db) == ["matomo launcher matomo: databases: 0"]
            });
        }
        store(&mut db, "analytics", &fake);
        let mut sites = Vec::new();
        for table in ["matomo", "matomo_partitioned"] {
            // Rows copied before the site had a retention.
            sync(&mut db, &fake, &format!(", '{}', destination => '{table}'", noon.text(39)));
            let arguments = format!(
                "'analytics', 1, '{}', '{table}', every => '1 second', retention => '10 days'",
                noon.text(39)
            );
            sites.push(register(&mut db, &arguments));
        }
        assert_eq!(weeks(&mut db, "matomo_partitioned").0, 1);
        fake.clear_requests();
        for site in &sites {
            if !by_worker {
                run(&mut db, &format!("CALL matomo_sync_site({site})"));
            }
            let tended = format!(
                "SELECT count(*) FROM matomo_site_state WHERE site_id = {site} AND tended_on IS NOT NULL"
            );
            wait_until("it is tended", || one::<i64>(&mut db, &tended) == 1);
        }
        for table in ["matomo", "matomo_partitioned"] {
            let left = format!("SELECT count(DISTINCT idvisit) FROM {table}");
            assert_eq!(one::<i64>(&mut db, &left), 33, "{table}: ten days and today");
            let old = format!(
                "SELECT count(*) FROM {table} WHERE action_timestamp < to_timestamp({})",
                noon.at(10, "00:00:00")
            );
            assert_eq!(one::<i64>(&mut db, &old), 0, "{table}");
        }
        let (coming, past) = weeks(&mut db, "matomo_partitioned");
        assert_eq!(coming, 5, "this week and four ahead");
        assert!(past <= 2, "{past}");

        // Dropped rows do not come back, and upkeep runs once a day.
        asked(&fake);
        run(
            &mut db,
            "CREATE TABLE noted (at timestamptz); INSERT INTO matomo (action_id, idvisit, idsite, action_timestamp) VALUES ('old', 1, 1, '2026-01-01')",
        );
        for site in &sites {
            let before = runs(&mut db, *site, "succeeded");
            if !by_worker {
                run(&mut db, &format!("CALL matomo_sync_site({site})"));
            }
            wait_until("it has run again", || runs(&mut db, *site, "succeeded") > before);
        }
        assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo WHERE action_id = 'old'"), 1);
        let again = asked(&fake);
        assert!(again.iter().all(|line| line.contains(&noon.text(0))), "{again:?}");
    }
}

#[test]
fn a_first_import_asks_for_nothing_that_would_go_at_once() {
    let noon = Noon::new();
    let fake = serve(noon.world(20));
    let mut db = database();
    store(&mut db, "analytics", &fake);
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    // In one of these timezones the date differs from the site's.
    for (zone, table) in
        [("Pacific/Kiritimati", "matomo"), ("Pacific/Pago_Pago", "matomo_partitioned")]
    {
        run(&mut db, &format!("SET TimeZone = '{zone}'"));
        let arguments =
            format!("'analytics', 1, '{}', '{table}', retention => '5 days'", noon.text(19));
        let site = register(&mut db, &arguments);
        fake.clear_requests();
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        let mut days = asked(&fake);
        days.retain(|line| line.starts_with("day"));
        days.sort();
        // Once more after a partition was made.
        days.dedup();
        let kept: Vec<_> = (0..=5).rev().map(|ago| format!("day {}", noon.text(ago))).collect();
        assert_eq!(days, kept, "{zone}");
        let visits = format!("SELECT count(DISTINCT idvisit) FROM {table}");
        assert_eq!(one::<i64>(&mut db, &visits), 18, "{zone}");
    }
}

#[test]
fn a_longer_retention_brings_back_what_a_shorter_one_dropped() {
    let noon = Noon::new();
    let mut world = noon.world(31);
    // A visit over two days; a retention of three days keeps the second one.
    let evening = noon.at(4, "23:50:00");
    world.site_mut(1).add(
        Visit::new(9000, evening)
            .and(Action::page(evening, "https://noon.test/", "Home"))
            .and(Action::page(evening + 1200, "https://noon.test/late", "Late")),
    );
    let fake = serve(world);
    let mut db = database();
    store(&mut db, "analytics", &fake);
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    let start = noon.text(30);
    let site = register(&mut db, &format!("'analytics', 1, '{start}', retention => '12 days'"));
    let mut sync_with = |retention: &str| {
        if !retention.is_empty() {
            let alter = format!("SELECT matomo_alter_site({site}, retention => '{retention}')");
            run(&mut db, &alter);
        }
        fake.clear_requests();
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        let days = asked(&fake).into_iter().filter(|line| line.starts_with("day")).count();
        (days, one::<i64>(&mut db, "SELECT count(*) FROM matomo"))
    };
    // Nine actions a day; the visit over two days adds one to each.
    assert_eq!(sync_with(""), (13, 13 * 9 + 2));
    assert_eq!(sync_with("3 days"), (1, 4 * 9 + 1));
    assert_eq!(sync_with(""), (1, 4 * 9 + 1));
    // Three more days and the one that lost an action; after that only today.
    assert_eq!(sync_with("6 days"), (5, 7 * 9 + 2));
    assert_eq!(sync_with("6 days"), (1, 7 * 9 + 2));
    assert_eq!(sync_with("3 days"), (1, 4 * 9 + 1));
    assert_eq!(sync_with("25 months"), (29, 31 * 9 + 2));
    assert_eq!(sync_with("5 days"), (1, 6 * 9 + 2));
    assert_eq!(sync_with("0"), (27, 31 * 9 + 2));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn what_is_too_old_goes_though_the_site_is_disabled_or_matomo_down() {
    let noon = Noon::new();
    let fake = serve(noon.world(20));
    let (_cluster, mut db) = cluster_with_worker();
    store(&mut db, "analytics", &fake);
    sync(&mut db, &fake, &format!(", '{}'", noon.text(19)));
    let site = register(
        &mut db,
        "'analytics', 1, every => '1 hour', retention => '5 days', enabled => false",
    );
    let visits = "SELECT count(DISTINCT idvisit) FROM matomo";
    fake.clear_requests();
    wait_until("the old visits are gone", || one::<i64>(&mut db, visits) == 18);
    run(&mut db, &format!("SELECT matomo_alter_site({site}, retention => '4 days')"));
    wait_until("a day more is gone", || one::<i64>(&mut db, visits) == 15);
    assert_eq!(asked(&fake), [""; 0]);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_runs"), 0);
    fake.fail(Fault::Status(503, Page::Html), When::always());
    run(&mut db, &format!("SELECT matomo_alter_site({site}, enabled => true)"));
    wait_until("it has failed", || runs(&mut db, site, "failed") == 1);
    // A shorter retention takes effect before tomorrow.
    run(&mut db, &format!("SELECT matomo_alter_site({site}, retention => '2 days')"));
    wait_until("more are gone", || one::<i64>(&mut db, visits) == 9);

    // With the procedure too.
    set(&mut db, "matomo.database", "");
    wait_until("the worker has left", || {
        workers(&mut db) == ["matomo launcher matomo: databases: 0"]
    });
    let alter = format!("SELECT matomo_alter_site({site}, retention => '1 day', enabled => false)");
    run(&mut db, &alter);
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(one::<i64>(&mut db, visits), 6);
}

#[test]
fn upkeep_waits_for_readers_and_holds_up_no_sync() {
    let noon = Noon::new();
    let fake = serve(noon.world(20));
    let (cluster, mut db) = cluster_with_worker();
    store(&mut db, "analytics", &fake);
    sync(&mut db, &fake, &format!(", '{}', destination => 'matomo_partitioned'", noon.text(19)));
    let mut report = cluster.connect("postgres");
    run(&mut report, "BEGIN; SELECT count(*) FROM matomo_partitioned");
    let arguments = "'analytics', 1, destination => 'matomo_partitioned', every => '1 second', retention => '2 days'";
    let site = register(&mut db, arguments);
    wait_long(30, "it is synced again and again", || runs(&mut db, site, "succeeded") >= 3);
    let visits = "SELECT count(DISTINCT idvisit) FROM matomo_partitioned";
    assert_eq!(one::<i64>(&mut db, visits), 60);
    assert_eq!(
        one::<i64>(&mut db, "SELECT count(*) FROM matomo_site_state WHERE tended_on IS NULL"),
        1
    );
    run(&mut report, "COMMIT");
    run(&mut db, &format!("SELECT matomo_alter_site({site}, retention => '2 days')"));
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(one::<i64>(&mut db, visits), 9);
    assert!(!cluster.log().contains("WARNING"), "{}", cluster.log());
}

#[test]
fn upkeep_that_fails_fails_no_sync_and_is_told() {
    let noon = Noon::new();
    let fake = serve(noon.world(20));
    let (name, mut db) = named_database();
    store(&mut db, "analytics", &fake);
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    sync(&mut db, &fake, &format!(", '{}', destination => 'matomo_partitioned'", noon.text(19)));
    let oldest: String = one(
        &mut db,
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'matomo_partitioned'::regclass ORDER BY 1 LIMIT 1",
    );
    run(&mut db, &format!("CREATE VIEW mine AS SELECT count(*) FROM {oldest}"));
    let site = register(
        &mut db,
        "'analytics', 1, destination => 'matomo_partitioned', retention => '5 days'",
    );
    let (mut db, said) = connect_with_notices(crate::support::cluster::shared(), &name, "postgres");
    for times in [1, 0] {
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        let message = format!(
            "upkeep of registered site {site}: cannot drop table public.{oldest} because other objects depend on it"
        );
        let warnings = said.warnings();
        for warning in &warnings {
            let detail = format!("view public.mine depends on table public.{oldest}");
            assert_says(warning, "2BP01", &message, &[&detail], "DROP ... CASCADE");
        }
        assert_eq!(warnings.len(), times, "once a day");
    }
    assert_eq!(runs(&mut db, site, "succeeded"), 2);
    // Nor does it keep younger weeks, or rows of the companions.
    for (table, but) in
        [("matomo_partitioned", oldest.as_str()), ("matomo_partitioned_visits", "mine")]
    {
        let old = format!(
            "SELECT count(*) FROM {table} WHERE day < current_date - 7 AND tableoid <> '{but}'::regclass"
        );
        assert_eq!(one::<i64>(&mut db, &old), 0, "{table}");
    }
    let noted: String = one(&mut db, "SELECT upkeep_error FROM matomo_site_state");
    assert_eq!(
        noted,
        format!("cannot drop table public.{oldest} because other objects depend on it")
    );
}

#[test]
fn constraints_that_a_trigger_defers_again_fail_the_upkeep_and_nothing_else() {
    let (_, mut db) = named_database();
    let noon = Noon::new();
    let fake = serve(noon.world(4));
    store(&mut db, "analytics", &fake);
    sync(&mut db, &fake, &format!(", '{}'", noon.text(3)));
    let site = register(&mut db, "'analytics', 1, retention => '1 day'");
    run(
        &mut db,
        "CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN SET CONSTRAINTS ALL DEFERRED; RETURN NULL; END $$;
         CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
         CREATE TRIGGER later BEFORE DELETE ON matomo FOR EACH STATEMENT EXECUTE FUNCTION later();
         CREATE CONSTRAINT TRIGGER no AFTER DELETE ON matomo DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION no()",
    );
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(runs(&mut db, site, "succeeded"), 1);
    assert_eq!(one::<String>(&mut db, "SELECT upkeep_error FROM matomo_status"), "no");
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 36);
}

/// As a run does.
#[test]
fn a_longer_retention_changes_the_ledger_before_the_state_of_the_site() {
    let SixDays { fake: _fake, name, mut db, .. } = six_days();
    let site = register(&mut db, "'analytics', 1, retention => '2 days'");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    run(&mut db, "BEGIN; SELECT FROM matomo_ledger FOR UPDATE");
    let mut owner = connect_as(&name, "postgres");
    let waits = pid(&mut owner);
    let alters = std::thread::spawn(move || {
        run(&mut owner, &format!("SELECT matomo_alter_site({site}, retention => '4 days')"));
    });
    let mut other = connect_as(&name, "postgres");
    wait_until("it waits for the ledger", || crate::support::waits(&mut other, waits));
    run(&mut db, "SET lock_timeout = '2 s'; UPDATE matomo_site_state SET failures = 0; COMMIT");
    alters.join().unwrap();
}

#[test]
fn in_anothers_partitioned_table_it_deletes_by_the_rights_on_the_table() {
    let noon = Noon::new();
    let fake = serve(noon.world(20));
    let (name, mut admin, owner) = database_and_role();
    server_for(&mut admin, &fake, &owner);
    run(&mut admin, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    sync(&mut admin, &fake, &format!(", '{}', destination => 'matomo_partitioned'", noon.text(19)));
    run(
        &mut admin,
        &format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {owner}",
            all_four("matomo_partitioned")
        ),
    );
    let before = weeks(&mut admin, "matomo_partitioned");
    let mut db = connect_as(&name, &owner);
    let site = register(
        &mut db,
        "'analytics', 1, destination => 'matomo_partitioned', retention => '10 days'",
    );
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let error = "SELECT upkeep_error FROM matomo_status WHERE upkeep_error IS NOT NULL";
    assert_eq!(texts(&mut admin, error), [""; 0]);
    for table in ["matomo_partitioned", "matomo_partitioned_visits"] {
        let visits = format!("SELECT count(DISTINCT idvisit) FROM {table}");
        assert_eq!(one::<i64>(&mut admin, &visits), 33, "{table}");
    }
    assert_eq!(weeks(&mut admin, "matomo_partitioned"), before, "none is dropped, none made");
}

#[test]
fn upkeep_resumes_at_the_last_step() {
    let (_, mut db) = named_database();
    let noon = Noon::new();
    let fake = serve(noon.world(1));
    store(&mut db, "analytics", &fake);
    let site = register(&mut db, "'analytics', 1, retention => '5 days', enabled => false");
    run(
        &mut db,
        "INSERT INTO matomo (action_id, idvisit, idsite, action_timestamp)
             SELECT n, n, 1, '2026-01-06'::timestamptz + n * interval '1 second' FROM generate_series(1, 15000) n",
    );
    let place = "SELECT upkeep_place #>> '{scan_position,done}' FROM matomo_site_state WHERE upkeep_place IS NOT NULL";
    let left = "SELECT count(*) FROM matomo";
    // One transaction for each step of matomo_sync_all; the first one starts the run.
    for (rows, done) in [(15000, None), (5000, Some("false")), (0, Some("true")), (0, None)] {
        run(&mut db, &format!("DO $$ BEGIN PERFORM matomo_run_step({site}, true); END $$"));
        assert_eq!(one::<i64>(&mut db, left), rows);
        assert_eq!(texts(&mut db, place).first().map(String::as_str), done);
    }
}

#[test]
fn a_table_in_use_is_told_until_it_is_free() {
    let noon = Noon::new();
    let fake = serve(noon.world(20));
    let (name, mut db) = named_database();
    store(&mut db, "analytics", &fake);
    let all = format!(", '{}', destination => 'matomo_partitioned'", noon.text(19));
    sync(&mut db, &fake, &all);
    let site = register(
        &mut db,
        "'analytics', 1, destination => 'matomo_partitioned', retention => '8 days'",
    );
    let mut reader = connect_as(&name, "postgres");
    run(&mut reader, "BEGIN; SELECT count(*) FROM matomo_partitioned");
    let reads = pid(&mut reader);
    let error = "SELECT coalesce(upkeep_error, 'none') FROM matomo_status";
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(
        one::<String>(&mut db, error),
        format!("could not obtain lock on public.matomo_partitioned, held by process {reads}")
    );
    run(&mut reader, "COMMIT");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(one::<String>(&mut db, error), "none");
    let old = "SELECT count(*) FROM matomo_partitioned WHERE action_timestamp < now() - interval '9 days'";
    assert_eq!(one::<i64>(&mut db, old), 0);
}

#[test]
fn what_has_no_detail_and_no_hint_is_told_without() {
    let (name, mut db) = named_database();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    sync(&mut db, &fake, &format!(", '{}'", noon.text(1)));
    let site = register(&mut db, "'analytics', 1, retention => '1 day'");
    run(
        &mut db,
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
         CREATE TRIGGER no BEFORE DELETE ON matomo EXECUTE FUNCTION no();
         INSERT INTO matomo (action_id, idvisit, idsite, action_timestamp) VALUES ('old', 1, 1, '2026-01-01')",
    );
    let (mut db, said) = connect_with_notices(crate::support::cluster::shared(), &name, "postgres");
    run(&mut db, &format!("SELECT matomo_alter_site({site}, enabled => false)"));
    run(&mut db, "CALL matomo_sync_all()");
    let warnings = said.warnings();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert_eq!(warning.message(), format!("upkeep of registered site {site}: no"));
    assert_eq!((warning.code().code(), warning.detail(), warning.hint()), ("P0001", None, None));
}

/// Six days that are copied and sealed.
struct SixDays {
    noon: Noon,
    fake: Fake,
    name: String,
    db: postgres::Client,
}

fn six_days() -> SixDays {
    let noon = Noon::new();
    let fake = serve(noon.world(6));
    let (name, mut db) = named_database();
    store(&mut db, "analytics", &fake);
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    sync(&mut db, &fake, &format!(", '{}'", noon.text(5)));
    SixDays { noon, fake, name, db }
}

#[test]
fn a_longer_retention_opens_what_a_step_is_just_removing() {
    let SixDays { noon, fake, name, mut db } = six_days();
    let site =
        register(&mut db, &format!("'analytics', 1, '{}', retention => '2 days'", noon.text(5)));
    run(
        &mut db,
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_advisory_xact_lock_shared(65); RETURN NULL; END $$;
         CREATE TRIGGER stop AFTER DELETE ON matomo FOR EACH STATEMENT EXECUTE FUNCTION stop();
         SELECT pg_advisory_lock(65)",
    );
    let call = format!("CALL matomo_sync_site({site})");
    let [mut removing, mut altering] = ["postgres"; 2].map(|role| connect_as(&name, role));
    run(&mut removing, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    let pids = [pid(&mut removing), pid(&mut altering)];
    let removes = {
        let call = call.clone();
        std::thread::spawn(move || run(&mut removing, &call))
    };
    wait_until("it removes rows", || crate::support::waits(&mut db, pids[0]));
    let alters = std::thread::spawn(move || {
        run(&mut altering, &format!("SELECT matomo_alter_site({site}, retention => '0')"));
    });
    wait_until("it waits for the step", || crate::support::waits(&mut db, pids[1]));
    run(&mut db, "SELECT pg_advisory_unlock(65)");
    removes.join().unwrap();
    alters.join().unwrap();
    run(&mut db, &call);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_new_retention_is_that_of_the_new_table_alone() {
    let SixDays { noon, fake, name, mut db } = six_days();
    let site = register(
        &mut db,
        &format!("'analytics', 1, '{}', retention => '1 year', enabled => false", noon.text(5)),
    );
    run(&mut db, "SELECT matomo_create_table('recent')");
    let [mut removing, mut altering] = ["postgres"; 2].map(|role| connect_as(&name, role));
    run(
        &mut altering,
        &format!(
            "BEGIN; SELECT matomo_alter_site({site}, destination => 'recent', retention => '2 days')"
        ),
    );
    let waiting = pid(&mut removing);
    let removes = std::thread::spawn(move || run(&mut removing, "CALL matomo_sync_all()"));
    wait_until("it waits for the change", || crate::support::waits(&mut db, waiting));
    run(&mut altering, "COMMIT");
    removes.join().unwrap();
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    let tended = "SELECT upkeep_error, tended_on IS NOT NULL FROM matomo_site_state";
    assert_eq!(texts(&mut db, &format!("SELECT s::text FROM ({tended}) s")), ["(,t)"]);
}

/// A table that is filled by the site of one Matomo, and that another one's is registered for, with a
/// retention.
struct Shared {
    fake: Fake,
    other: Fake,
    name: String,
    db: Client,
    /// The site of the other Matomo.
    second: i32,
}

fn shared_table() -> Shared {
    let noon = Noon::new();
    let [fake, other] = [6, 5].map(|days| serve(noon.world(days)));
    let (name, mut db) = named_database();
    store(&mut db, "analytics", &fake);
    store(&mut db, "other", &other);
    run(&mut db, "SELECT matomo_create_table('matomo')");
    let first = register(&mut db, &format!("'analytics', 1, '{}'", noon.text(5)));
    let second = register(&mut db, "'other', 1, retention => '2 days'");
    run(&mut db, &format!("CALL matomo_sync_site({first})"));
    Shared { fake, other, name, db, second }
}

#[test]
fn rows_of_another_matomo_in_the_table_are_not_removed() {
    let Shared { fake, other: _other, mut db, second, .. } = shared_table();
    assert_eq!(error(&mut db, &format!("CALL matomo_sync_site({second})")).code().code(), "55000");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    let why = format!(
        "destination \"public.matomo\" holds the visits of another Matomo, {}/index.php",
        fake.url()
    );
    let told = format!("SELECT upkeep_error FROM matomo_status WHERE site_id = {second}");
    assert_eq!(texts(&mut db, &told), [why]);
}

#[test]
fn rows_of_another_matomo_stay_also_when_it_is_not_known_which_one_the_site_is_of() {
    let Shared { fake, other: _other, mut db, second, .. } = shared_table();
    run(&mut db, "DROP SERVER other CASCADE");
    error(&mut db, &format!("CALL matomo_sync_site({second})"));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    let told = format!("SELECT upkeep_error FROM matomo_status WHERE site_id = {second}");
    assert_eq!(texts(&mut db, &told), [format!("registered site {second} has no known Matomo")]);
}

/// Until the first sync after it, the ledger knows the table by its name only.
#[test]
fn rows_of_another_matomo_stay_after_a_restore() {
    let Shared { fake, other: _other, name, db: _db, second } = shared_table();
    let mut new = copied(&name, "restored", &[]);
    error(&mut new, &format!("CALL matomo_sync_site({second})"));
    assert_equal(&mut new, "matomo", &all_of(&fake, 1));
}
