//! The background worker: due sites are synced in turns, whatever happens to other sites.

use std::time::{Duration, Instant};

use chrono::{Days, Utc};
use fake_matomo::{Action, Clock, Fault, Page, Seen, Site, Visit, When, World};

use crate::support::sites::look_before_each;
use crate::support::worker::*;
use crate::support::*;

/// Site 1 without visits, in UTC.
fn empty_world() -> World {
    let mut world = World::new(Clock::Real);
    world.add_site(Site::new(1, "Growing", "UTC"));
    world
}

#[test]
fn the_table_follows_a_growing_day_within_two_naptimes() {
    let (_cluster, mut db) = cluster_with_worker();
    set(&mut db, "matomo.naptime", "2s");
    let fake = serve(empty_world());
    store(&mut db, "analytics", &fake);
    let site = register(&mut db, "'analytics', 1, current_date - 1, every => '1 second'");
    let (mut added, mut longest) = (0_i64, Duration::ZERO);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(9) {
        let at = Utc::now().timestamp();
        added += 1;
        let visit = Visit::new(1000 + added, at).and(Action::page(at, "https://x.test/", "Home"));
        fake.world().site_mut(1).add(visit);
        let since = Instant::now();
        let seen = "SELECT count(*) FROM matomo";
        wait_until("the visit is there", || one::<i64>(&mut db, seen) == added);
        longest = longest.max(since.elapsed());
    }
    assert!(longest < Duration::from_secs(4), "lag {longest:?}");
    assert!(added >= 5, "{added}");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert!(runs(&mut db, site, "succeeded") >= 5);
    assert_eq!(runs(&mut db, site, "failed"), 0);
    let by = "SELECT DISTINCT command || ' by ' || username FROM matomo_runs";
    assert_eq!(texts(&mut db, by), ["background worker by postgres"]);
}

#[test]
fn a_failing_site_is_retried_at_growing_intervals_and_the_others_are_synced() {
    let (cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let (bad, good) = (serve(noon.world(3)), serve(noon.world(3)));
    store(&mut db, "bad", &bad);
    store(&mut db, "good", &good);
    bad.fail(Fault::Status(503, Page::Html), When::live());
    run(&mut db, "SELECT matomo_create_table('there')");
    let from = noon.text(2);
    let fails = register(&mut db, &format!("'bad', 1, '{from}', every => '1 second'"));
    let works = register(&mut db, &format!("'good', 1, '{from}', 'there', every => '1 second'"));
    wait_until("it has failed three times", || runs(&mut db, fails, "failed") == 3);
    // The waits are 1, 2, 4 seconds.
    let waits = "SELECT next_at > last_error_at + interval '3 s' AND next_at < last_error_at + interval '5 s'
                 FROM matomo_site_state WHERE failures = 3";
    assert!(one::<bool>(&mut db, waits));
    wait_until("the other goes on", || runs(&mut db, works, "succeeded") >= 3);
    assert_equal(&mut db, "there", &all_of(&good, 1));
    let log = cluster.log();
    let said = format!("WARNING:  registered site {fails}: Matomo answered with HTTP status 503");
    assert_eq!(log.matches(&said).count(), 3, "{log}");
    assert!(!log.contains("ERROR") && !log.contains("secret-token"), "{log}");

    // It recovers by itself, and nothing is missing.
    bad.heal();
    wait_until("it has recovered", || runs(&mut db, fails, "succeeded") > 0);
    assert_equal(&mut db, "matomo", &all_of(&bad, 1));
    let state = format!("SELECT failures FROM matomo_site_state WHERE site_id = {fails}");
    assert_eq!(one::<i32>(&mut db, &state), 0);
}

#[test]
fn a_refused_token_is_asked_with_once_until_it_changes() {
    let (_cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    let from = noon.text(1);
    let site = register(
        &mut db,
        &format!("'analytics', 1, '{from}', every => '1 second', enabled => false"),
    );
    fake.clear_requests();
    let token = |db: &mut postgres::Client, token: &str| {
        run(
            db,
            &format!(
                "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token '{token}')"
            ),
        );
    };
    token(&mut db, "revoked");
    run(&mut db, &format!("SELECT matomo_alter_site({site}, enabled => true)"));
    wait_until("it has failed", || runs(&mut db, site, "failed") == 1);
    run(&mut db, "SELECT count(*) FROM generate_series(1, 4), pg_sleep(1)");
    // The sites of the token are requested before it counts as refused.
    assert_eq!(fake.requests().len(), 2, "{:?}", asked(&fake));
    assert_eq!(runs(&mut db, site, "failed"), 1);
    let next = "SELECT next_at FROM matomo_site_state WHERE next_at = 'infinity' AND last_sqlstate = '28000'";
    assert_eq!(db.query(next, &[]).unwrap().len(), 1);
    // Another invalid token is tried once as well.
    token(&mut db, "no better");
    wait_until("it has failed again", || runs(&mut db, site, "failed") == 2);
    assert_eq!(fake.requests().len(), 4);
    let good = fake.token().to_owned();
    token(&mut db, &good);
    wait_until("it works", || runs(&mut db, site, "succeeded") > 0);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn sites_take_turns() {
    let (_cluster, mut db) = cluster_with_worker();
    let [first, last] = [80, 1].map(|ago| (Utc::now().date_naive() - Days::new(ago)).to_string());
    let slow = serve(world(101, "UTC", 1, &first, &last));
    let noon = Noon::new();
    let quick = serve(noon.world(2));
    store(&mut db, "slow", &slow);
    store(&mut db, "quick", &quick);
    run(&mut db, "SELECT matomo_create_table('weeks')");
    let import = register(&mut db, &format!("'slow', 1, '{first}', 'weeks'"));
    slow.knobs().latency = Duration::from_millis(100);
    let polls = register(&mut db, &format!("'quick', 1, '{}', every => '1 second'", noon.text(1)));
    let line = "SELECT query FROM pg_stat_activity WHERE backend_type = 'matomo worker' AND query LIKE 'matomo: site 1 (registered site %), % of 81 days%'";
    wait_until("the import is seen", || !db.query(line, &[]).unwrap().is_empty());
    wait_until("the other site has been polled", || runs(&mut db, polls, "succeeded") >= 3);
    assert_eq!(runs(&mut db, import, "succeeded"), 0, "the import still goes on");
    assert_equal(&mut db, "matomo", &all_of(&quick, 1));
    // No lock remains.
    slow.knobs().latency = Duration::ZERO;
    wait_long(60, "the import is done", || runs(&mut db, import, "succeeded") == 1);
    assert_equal(&mut db, "weeks", &all_of(&slow, 1));
    run(&mut db, &format!("SELECT matomo_alter_site({polls}, enabled => false)"));
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'userlock'";
    wait_until("no lock is left", || one::<i64>(&mut db, locks) == 0);
}

/// A process ends after a turn of a few seconds, so that one of several settings is seen by the process that
/// was there before.
#[test]
fn a_setting_is_heeded_from_the_next_step_of_a_turn_on() {
    let (_cluster, mut db) = cluster_with_worker();
    let [first, last] = [200, 1].map(|ago| (Utc::now().date_naive() - Days::new(ago)).to_string());
    let fake = serve(world(102, "UTC", 1, &first, &last));
    store(&mut db, "slow", &fake);
    fake.knobs().latency = Duration::from_millis(20);
    set(&mut db, "matomo.step_pages", "2");
    let site = register(&mut db, &format!("'slow', 1, '{first}'"));
    let heeded = (301..306).any(|limit: i32| {
        let mut before = None;
        wait_until("a process imports", || {
            before = process_of(&mut db, site);
            before.is_some()
        });
        set(&mut db, "matomo.page_size", &limit.to_string());
        let is_asked = |seen: &Seen| seen.param("filter_limit") == limit.to_string();
        wait_until("a page of the new size", || fake.requests().iter().any(is_asked));
        process_of(&mut db, site) == before
    });
    assert!(heeded, "only new processes heeded the setting");
}

#[test]
fn another_sessions_sync_is_waited_for_and_a_disabled_site_left_alone() {
    let (cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    let arguments =
        format!("'analytics', 1, '{}', every => '1 second', enabled => false", noon.text(1));
    let site = register(&mut db, &arguments);
    fake.clear_requests();
    run(&mut db, "SELECT count(*) FROM generate_series(1, 3), pg_sleep(1)");
    assert_eq!(asked(&fake), [""; 0]);
    // Another session syncs it and hangs.
    fake.fail(Fault::Hang, When::live());
    let mut other = cluster.connect("postgres");
    let token = other.cancel_token();
    let call = format!("CALL matomo_sync_site({site})");
    let hanging = std::thread::spawn(move || other.batch_execute(&call).unwrap_err());
    wait_until("it hangs", || fake.requests().iter().any(|seen| seen.fault.is_some()));
    fake.clear_requests();
    run(&mut db, &format!("SELECT matomo_alter_site({site}, enabled => true)"));
    run(&mut db, "SELECT count(*) FROM generate_series(1, 3), pg_sleep(1)");
    assert_eq!(asked(&fake), [""; 0]);
    fake.heal();
    token.cancel_query(postgres::NoTls).unwrap();
    assert_eq!(hanging.join().unwrap().code().unwrap().code(), "57014");
    wait_until("it is synced", || runs(&mut db, site, "succeeded") > 0);
}

#[test]
fn what_a_clock_that_was_ahead_has_left_is_waited_for_by_nobody() {
    let (_cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    let ids = [("one", "1 second"), ("two", "1 day")].map(|(table, every)| {
        run(&mut db, &format!("SELECT matomo_create_table('{table}')"));
        let rest = format!("'{}', '{table}', every => '{every}'", noon.text(1));
        register(&mut db, &format!("'analytics', 1, {rest}"))
    });
    let tended = "SELECT count(*) FROM matomo_site_state WHERE tended_on <= current_date + 1";
    for site in ids {
        wait_until("it is synced", || runs(&mut db, site, "succeeded") > 0);
    }
    wait_until("it is looked after", || one::<i64>(&mut db, tended) == 2);
    // A little over an hour may be the wait after a failure.
    for (failures, ahead) in [(0, "3 days"), (3, "1 day 3 hours")] {
        // Not before the coordinator has seen the last process end.
        run(&mut db, "SELECT pg_sleep(2)");
        let before = ids.map(|site| runs(&mut db, site, "succeeded"));
        run(
            &mut db,
            &format!(
                "UPDATE matomo_site_state SET next_at = now() + interval '{ahead}', failures = {failures},
                     tended_on = current_date + 3, last_success_at = now() + interval '{ahead}'"
            ),
        );
        for (site, before) in ids.into_iter().zip(before) {
            wait_until("it is synced again", || runs(&mut db, site, "succeeded") > before);
        }
        wait_until("it is looked after again", || one::<i64>(&mut db, tended) == 2);
    }
    // A usual wait is kept.
    let count = runs(&mut db, ids[1], "succeeded");
    run(&mut db, "SELECT pg_sleep(3)");
    assert_eq!(runs(&mut db, ids[1], "succeeded"), count);
}

#[test]
fn a_run_that_ends_well_is_at_no_moment_seen_to_have_failed() {
    let (_cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    let site =
        register(&mut db, &format!("'analytics', 1, '{}', every => '1 second'", noon.text(1)));
    let seen = "SELECT (SELECT count(*) FROM matomo_runs WHERE status = 'failed')
                    + (SELECT sum(failures) FROM matomo_status)";
    let seen = db.prepare(&format!("SELECT ({seen})::bigint")).unwrap();
    wait_long(60, "it was synced often", || {
        for _ in 0..100 {
            let failed: i64 = db.query_one(&seen, &[]).unwrap().get(0);
            assert_eq!(failed, 0, "after {} runs", runs(&mut db, site, "succeeded"));
        }
        runs(&mut db, site, "succeeded") > 15
    });
}

#[test]
fn of_a_disabled_site_a_dead_run_is_noted_and_none_begun() {
    let (_cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    let site = register(
        &mut db,
        &format!("'analytics', 1, '{}', retention => '9 years', enabled => false", noon.text(1)),
    );
    fake.clear_requests();
    // A run started before the site's last change.
    run(
        &mut db,
        "INSERT INTO matomo_run_log (job_pid, database, username, command, status, start_time, site_id,
             owner, owner_name, server, idsite, destination, changes)
         SELECT 1, current_database(), current_user, '', 'running', now(), id, owner, pg_get_userbyid(owner), server, idsite,
             destination::text, -1 FROM matomo_site_config",
    );
    let noted = "SELECT count(*) FROM matomo_run_log WHERE status = 'failed'";
    wait_until("it is noted", || one::<i64>(&mut db, noted) == 1);
    run(&mut db, "SELECT pg_sleep(2)");
    assert_eq!(runs(&mut db, site, "succeeded"), 0);
    assert_eq!(fake.requests().len(), 0);
}

#[test]
fn no_lock_that_sql_can_take_or_give_back_concerns_a_run() {
    let (cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    let site = register(
        &mut db,
        &format!("'analytics', 1, '{}', every => '1 second', enabled => false", noon.text(1)),
    );
    // Any key: those of 0.1.0, and those that pg_locks shows for ours.
    run(
        &mut db,
        &format!(
            "SELECT pg_advisory_lock(1835103343, {site}), pg_advisory_lock(0, {site}), pg_advisory_lock({site}),
                 pg_advisory_lock(1835103332, {site}), pg_advisory_lock('matomo'::regclass::oid::int, 1);
             SELECT matomo_alter_site({site}, enabled => true)"
        ),
    );
    wait_until("it is synced", || runs(&mut db, site, "succeeded") > 0);
    // A trigger releases all advisory locks of the session.
    run(
        &mut db,
        &format!(
            "SELECT matomo_alter_site({site}, enabled => false);
             CREATE FUNCTION give_back() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_advisory_unlock_all(); RETURN NULL; END $$;
             CREATE TRIGGER give_back AFTER INSERT ON matomo FOR EACH STATEMENT EXECUTE FUNCTION give_back();
             DELETE FROM matomo; SET matomo.lookback = 10"
        ),
    );
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'userlock' AND granted";
    let count = look_before_each(&fake, cluster.connect("postgres"), |db| one::<i64>(db, held));
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    fake.clear_before_each();
    let count: Vec<_> = count.iter().map(|(_, held)| held).collect();
    assert!(count.len() >= 2 && count.iter().all(|held| *held >= 1), "{count:?}");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_site_whose_owner_is_gone_hinders_no_other() {
    let (cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    run(&mut db, "SELECT matomo_create_table('there')");
    let from = noon.text(1);
    register(&mut db, &format!("'analytics', 1, '{from}', 'there', enabled => false"));
    run(
        &mut db,
        "CREATE ROLE gone; UPDATE matomo_site_config SET owner = 'gone', enabled = true; DROP ROLE gone",
    );
    let site = register(&mut db, &format!("'analytics', 1, '{from}', every => '1 second'"));
    wait_until("the other is synced", || runs(&mut db, site, "succeeded") >= 3);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM there"), 0);
    let log = cluster.log();
    assert_eq!(log.matches("WARNING").count(), 1, "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn a_new_site_wakes_it_and_a_new_naptime_is_heeded_at_once() {
    let cluster = crate::support::cluster::Cluster::start_with(&PRELOADED.replace("'1s'", "'1h'"));
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    // The worker may have looked before that.
    run(&mut db, "SELECT pg_reload_conf()");
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    let sleeps = |db: &mut postgres::Client| {
        wait_until("it sleeps", || {
            workers(db).iter().any(|line| line.ends_with("matomo: 0 at work, sleeps until"))
        });
    };
    sleeps(&mut db);
    let site = register(&mut db, &format!("'analytics', 1, '{}'", noon.text(1)));
    wait_until("it is synced", || runs(&mut db, site, "succeeded") == 1);
    sleeps(&mut db);
    run(&mut db, &format!("SELECT matomo_alter_site({site}, every => '1 hour')"));
    wait_until("it is synced again", || runs(&mut db, site, "succeeded") == 2);
    sleeps(&mut db);
    // The postmaster may tell late that the process has ended, which wakes it once more.
    run(&mut db, "SELECT pg_sleep(1)");
    sleeps(&mut db);
    // Without a signal it is found after a nap.
    let due = format!("UPDATE matomo_site_state SET next_at = now() WHERE site_id = {site}");
    run(&mut db, &due);
    run(&mut db, "SELECT pg_sleep(2)");
    assert_eq!(runs(&mut db, site, "succeeded"), 2);
    set(&mut db, "matomo.naptime", "1s");
    wait_until("it is synced", || runs(&mut db, site, "succeeded") == 3);
    sleeps(&mut db);
    run(&mut db, &due);
    wait_until("it is synced", || runs(&mut db, site, "succeeded") == 4);
}

#[test]
fn two_databases_have_a_worker_each() {
    let (cluster, mut db) = cluster_with_worker();
    run(&mut db, "CREATE DATABASE second");
    let mut second = cluster.connect("second");
    run(&mut second, "CREATE EXTENSION matomo_postgres");
    set(&mut db, "matomo.database", "postgres, second");
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    for db in [&mut db, &mut second] {
        store(db, "analytics", &fake);
        let site = register(db, &format!("'analytics', 1, '{}'", noon.text(1)));
        wait_until("it is synced", || runs(db, site, "succeeded") > 0);
        assert_equal(db, "matomo", &all_of(&fake, 1));
    }
}

/// Two Matomos, each with a site 1; one site is in two tables.
#[test]
fn progress_tells_apart_sites_of_the_same_id() {
    let (cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let [first, second] = [3, 5].map(|days| serve(noon.world(days)));
    store(&mut db, "first", &first);
    store(&mut db, "second", &second);
    run(&mut db, "SELECT matomo_create_table('matomo'); SELECT matomo_create_table('copy')");
    run(&mut db, "SELECT matomo_create_table('apart')");
    let mut at = |server: &str, ago: u64, table: &str| {
        let arguments = format!("'{server}', 1, '{}', '{table}', enabled => false", noon.text(ago));
        register(&mut db, &arguments)
    };
    let sites = [at("first", 2, "matomo"), at("second", 4, "apart"), at("second", 4, "copy")];
    // The first steps hang.
    for fake in [&first, &second] {
        fake.fail(Fault::Hang, When::live());
    }
    // Until a Matomo has answered, the worker syncs one of its sites; a session syncs the other.
    let of_worker =
        format!("UPDATE matomo_site_config SET enabled = true WHERE id <> {}", sites[2]);
    run(&mut db, &of_worker);
    let mut caller = cluster.connect("postgres");
    let calling = pid(&mut caller);
    let call = format!("CALL matomo_sync_site({})", sites[2]);
    let called = std::thread::spawn(move || error(&mut caller, &call).code().code().to_owned());
    let progress = "SELECT concat_ws(' ', site_id, server, idsite, destination, phase, days, visits, runid IS NULL)
        FROM matomo_progress ORDER BY site_id";
    let line = |site: i32, server: &str, table: &str, phase: &str| {
        format!("{site} {server} 1 public.{table} {phase} 0 0 f")
    };
    let expected = [
        line(sites[0], "first", "matomo", "begins"),
        line(sites[1], "second", "apart", "begins"),
        line(sites[2], "second", "copy", "begins"),
    ];
    wait_until("all three are under way", || texts(&mut db, progress) == expected);
    run(&mut db, &format!("SELECT pg_cancel_backend({calling})"));
    assert_eq!(called.join().unwrap(), "57014");
}
