//! Restored ledger entries count only if the table has their rows; assigning them to the table
//! blocks no other session.

use fake_matomo::{Clock, Plan, SitePlan, World};
use postgres::Client;

use crate::support::restored::*;
use crate::support::*;

/// The scene's database, restored without site 1's table, which is created again for its owner.
fn lacking(scene: &Scene, suffix: &str) -> Client {
    let mut new = copied(&scene.name, suffix, &["-T", "public.matomo"]);
    let owner = &scene.owner;
    run(
        &mut new,
        // Its companions are in the dump.
        &format!(
            "LOAD 'matomo_postgres'; SET matomo.companions = ''; SELECT matomo_create_table('matomo');
             RESET matomo.companions; ALTER TABLE matomo OWNER TO {owner}"
        ),
    );
    new
}

const LAST: &str = "2026-10-30";

fn days(first: &str, last: &str) -> Vec<String> {
    day(first)
        .iter_days()
        .take_while(|day_of| *day_of <= day(last))
        .map(|day| day.to_string())
        .collect()
}

/// Its days are known by the name of the table only, until a sync.
#[test]
fn a_partition_is_refused_after_a_restore_too() {
    let fake = serve(world(97, "Europe/Paris", 10, FIRST, "2026-10-28"));
    let (name, mut db) = named_database();
    run(&mut db, "SELECT matomo_create_table('visits', true, layout => 'node')");
    Sync::of(&fake, FIRST, "2026-10-28").into("visits").run(&mut db);
    let mut new = copied(&name, "partitioned", &[]);
    let week: String = one(&mut new, "SELECT tableoid::regclass::text FROM visits LIMIT 1");
    for (what, sql) in [
        (
            format!("table public.{week}"),
            format!("CALL matomo_drop_before('{week}', '2026-11-02')"),
        ),
        ("only_in".to_owned(), format!("SELECT matomo_forget('x', only_in => '{week}')")),
    ] {
        let message = format!("{what} is a partition of public.visits");
        assert_says(&error(&mut new, &sql), "22023", &message, &[], "public.visits");
    }
}

/// A user may fill the new table only partly.
#[test]
fn days_whose_rows_are_not_all_there_are_read_again() {
    let scene = scene_of(serve(World::generate(&Plan {
        seed: 98,
        sites: vec![SitePlan::new(1, "Europe/Paris", 10), SitePlan::new(2, "Asia/Tokyo", 1)],
        first_day: day(FIRST),
        last_day: day(LAST),
        now: Clock::Real,
    })));
    // Paris is an hour or two ahead of UTC: at noon the date is the same.
    for (suffix, filled, again) in [
        ("begin", "action_timestamp < '2026-10-27 12:00+00'", &["2026-10-27", LAST]),
        ("end", "action_timestamp > '2026-10-27 12:00+00'", &[FIRST, "2026-10-27"]),
        ("hole", "action_timestamp::date <> '2026-10-27'", &["2026-10-26", "2026-10-28"]),
    ] {
        let mut new = lacking(&scene, suffix);
        copy_rows(&mut new, "matomo", &all_of(&scene.fake, 1));
        run(
            &mut new,
            &format!("SET TimeZone = 'Europe/Paris'; DELETE FROM matomo WHERE NOT ({filled})"),
        );
        scene.fake.clear_requests();
        run(&mut new, "CALL matomo_sync_all()");
        let mut read = asked(&scene.fake);
        // A visit may continue after the last midnight.
        read.retain(|line| line.starts_with("day ") && *line <= format!("day {LAST}"));
        read.sort();
        let expected: Vec<_> =
            days(again[0], again[1]).iter().map(|day| format!("day {day}")).collect();
        assert_eq!(read, expected, "{suffix}");
        assert_equal(&mut new, "matomo", &all_of(&scene.fake, 1));
        let failed = "SELECT count(*) FROM matomo_status WHERE failures > 0";
        assert_eq!(one::<i64>(&mut new, failed), 0);
    }
}

/// Mostly days whose rows were dropped as too old.
#[test]
fn days_without_visits_stay_as_they_are() {
    let mut scene = scene();
    run(&mut scene.db, "CALL matomo_drop_before('matomo', '2026-10-24 22:00+00')");
    let mut new = copied(&scene.name, "aged", &[]);
    scene.fake.clear_requests();
    run(&mut new, "CALL matomo_sync_all()");
    assert!(!asked(&scene.fake).iter().any(|line| line.contains("2026-10-2")));
    let rows = "SELECT count(*) FROM matomo WHERE action_timestamp < '2026-10-24 22:00+00'";
    assert_eq!(one::<i64>(&mut new, rows), 0);
}

#[test]
fn what_is_dropped_first_after_a_restore_does_not_come_back() {
    let scene = scene();
    let mut new = copied(&scene.name, "dropped", &[]);
    run(&mut new, "CALL matomo_drop_before('matomo', '2026-10-24 22:00+00')");
    let rows = "SELECT count(*) FROM matomo WHERE action_timestamp < '2026-10-24 22:00+00'";
    assert_eq!(one::<i64>(&mut new, rows), 0);
    run(&mut new, "CALL matomo_sync_all()");
    assert_eq!(one::<i64>(&mut new, rows), 0);
    assert!(one::<i64>(&mut new, "SELECT count(*) FROM matomo") > 0);
}

#[test]
fn a_table_that_has_become_another_matomos_gets_nothing_of_the_old_one() {
    let scene = scene();
    let mut new = lacking(&scene, "other");
    let other = serve(world(96, "Europe/Paris", 5, FIRST, "2026-10-26"));
    let call = sync_sql(&other, 1, &format!(", '{FIRST}', '2026-10-26'"));
    // Its companions have rows of the old one.
    let refused = error(&mut new, &call);
    assert_eq!(refused.code().code(), "55000", "{refused:?}");
    assert!(refused.hint().unwrap().starts_with("TRUNCATE public.matomo_visits"), "{refused:?}");
    run(&mut new, "TRUNCATE matomo_visits, matomo_conversions, matomo_items");
    run(&mut new, &call);
    let rows = all_of(&other, 1);
    assert_tables_equal(&mut new, "matomo", &all_tables_of(&other, 1));
    let of = "SELECT DISTINCT matomo FROM matomo_days WHERE destination = 'matomo'::regclass";
    assert_eq!(texts(&mut new, of), [format!("{}/index.php", other.url())]);
    run(&mut new, "CALL matomo_sync_all()");
    let states = "SELECT concat_ws(' ', site_id, last_sqlstate) FROM matomo_status ORDER BY 1";
    assert_eq!(texts(&mut new, states), ["1 55000", "2"]);
    assert_equal(&mut new, "matomo", &rows);
    assert_eq!(texts(&mut new, of), [format!("{}/index.php", other.url())]);
}

#[test]
fn a_restored_table_stays_its_matomos() {
    let scene = scene();
    let mut new = copied(&scene.name, "own", &[]);
    let other = serve(world(97, "Europe/Paris", 5, FIRST, "2026-10-26"));
    // Nothing is known of the table by its OID yet, and nothing of this site by its name either.
    let into = format!(", '{FIRST}', '2026-10-26', 'matomo_partitioned'");
    assert_eq!(error(&mut new, &sync_sql(&other, 1, &into)).code().code(), "55000");
    run(&mut new, "TRUNCATE matomo_partitioned");
    assert_eq!(error(&mut new, &sync_sql(&other, 1, &into)).code().code(), "55000");
    run(&mut new, &format!("TRUNCATE {}", all_four("matomo_partitioned")));
    sync(&mut new, &other, &into);
    assert_tables_equal(&mut new, "matomo_partitioned", &all_tables_of(&other, 1));
}

#[test]
fn a_matomo_that_has_moved_since_the_dump_continues() {
    let scene = scene();
    let mut new = copied(&scene.name, "moved", &[]);
    let (old, days) = (scene.fake.url(), "SELECT count(*) FROM matomo_ledger WHERE idsite = 1");
    let days: i64 = one(&mut new, days);
    let change = format!("SELECT matomo_change_url('matomo', '{old}', 'https://moved.test/')");
    assert_eq!(one::<i64>(&mut new, &change), days);
    let of = "SELECT DISTINCT matomo FROM matomo_days WHERE idsite = 1
        UNION ALL SELECT matomo FROM matomo_site_state WHERE site_id = 1";
    assert_eq!(texts(&mut new, of), ["https://moved.test/index.php"; 2]);
}

/// Two syncs of one table, or a step of retention whose transaction stays open.
#[test]
fn what_begins_first_after_a_restore_hinders_no_other() {
    let mut scene = scene();
    let owner = scene.owner.clone();
    let add = format!("SELECT matomo_add_site('analytics', 2, '{FIRST}', 'public.matomo')");
    run(&mut connect_as(&scene.name, &owner), &add);
    run(&mut scene.db, "CALL matomo_sync_all()");
    let stranger = role(&mut scene.db);
    let table = format!("SELECT matomo_create_table('{stranger}.mine')");
    may_have_sites(&mut scene.db, &stranger);
    run(&mut connect_as(&scene.name, &stranger), &table);
    let sync = format!(
        "SELECT count(*) FROM matomo_sync(1, server => 'analytics', start_date => '{FIRST}', destination => 'public.matomo')"
    );
    let step = format!(
        "SELECT * FROM matomo_drop_step('{stranger}.mine', '2026-01-01', NULL, '1 second')"
    );
    for (suffix, user, sql, synced) in
        [("sync", &owner, &sync, &["2", "3"][..]), ("step", &stranger, &step, &["1", "2", "3"][..])]
    {
        let mut new = copied(&scene.name, suffix, &[]);
        let mut first = connect_as(&format!("{}_{suffix}", scene.name), user);
        run(&mut first, &format!("BEGIN; {sql}"));
        run(&mut new, "SET lock_timeout = '1s'");
        run(&mut new, "CALL matomo_sync_all()");
        let ended = "SELECT DISTINCT site_id::text FROM matomo_runs
            WHERE status = 'succeeded' AND start_time > now() - interval '1 hour'
              AND job_pid = pg_backend_pid() ORDER BY 1";
        assert_eq!(texts(&mut new, ended), synced, "{suffix}");
        run(&mut first, "COMMIT");
    }
}

#[test]
fn where_nothing_can_be_written_a_restored_dump_reads_well() {
    let mut scene = scene();
    let mut new = copied(&scene.name, "read_only", &[]);
    let check = format!(
        "SELECT c::text FROM matomo_check(1, '{FIRST}', '2026-10-26', server => 'analytics', destination => 'public.matomo') c"
    );
    // The ledger has the kind of time: with the other kind all visits are stale.
    let settings = "SET matomo.action_time = as_sent";
    let mut theirs = connect_as(&scene.name, &scene.owner);
    run(&mut theirs, settings);
    let expected = texts(&mut theirs, &check);
    let mut theirs = connect_as(&format!("{}_read_only", scene.name), &scene.owner);
    run(&mut theirs, &format!("{settings}; SET default_transaction_read_only = on"));
    assert_eq!(texts(&mut theirs, &check), expected);
    let stale = check.replace("c::text", "sum(stale)::text");
    assert_ne!(texts(&mut theirs, &stale), ["0"]);
    run(&mut new, "SET default_transaction_read_only = on");
    assert_eq!(kept(&mut new), kept(&mut scene.db));
}
