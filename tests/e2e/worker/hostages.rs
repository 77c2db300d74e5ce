//! `CALL matomo_sync_all()` and the background worker with destinations that misbehave: each makes
//! its own site fail, which is recorded, and the next site is synced.

use std::time::{Duration, Instant};

use fake_matomo::{Fault, When};
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::sites::many::{START, sites};
use crate::support::sites::*;
use crate::support::traps::{call, end_of};
use crate::support::worker::{
    cluster_with_worker, kill, process_of, register, store, wait_long, workers,
};
use crate::support::*;

/// Two sites, each with its own table; returns the database and the site IDs.
fn two(fake: &fake_matomo::Fake) -> (String, Client, [i32; 2]) {
    let (name, mut db) = named_database();
    server(&mut db, fake);
    run(&mut db, "SELECT matomo_create_table('one'), matomo_create_table('two')");
    let ids = [(1, "one"), (2, "two")].map(|(site, table)| {
        let arguments = format!("'analytics', {site}, destination => '{table}'{START}");
        register(&mut db, &arguments)
    });
    (name, db, ids)
}

fn trigger(table: &str, body: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION {table}_trigger() RETURNS trigger LANGUAGE plpgsql AS $t$ BEGIN {body} RETURN NULL; END $t$;
         DROP TRIGGER IF EXISTS t ON {table};
         CREATE TRIGGER t AFTER INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {table}_trigger()"
    )
}

fn state(db: &mut Client, site: i32) -> String {
    let sql = "SELECT concat_ws('|', failures, last_sqlstate, last_error) FROM matomo_status WHERE site_id =";
    one(db, &format!("{sql} {site}"))
}

#[test]
fn whatever_a_trigger_raises_fails_its_own_site() {
    let fake = serve(sites(411, 2));
    let (name, mut db, [first, second]) = two(&fake);
    for (failures, (body, state_of_it, message)) in [
        ("ASSERT false, 'untrue';", "P0004", "untrue"),
        (
            "RAISE query_canceled USING MESSAGE = 'canceling statement due to user request';",
            "57014",
            "canceling statement due to user request",
        ),
        ("PERFORM 1 / 0;", "22012", "division by zero"),
        ("RAISE 'no' USING ERRCODE = 'insufficient_resources';", "53000", "no"),
    ]
    .into_iter()
    .enumerate()
    {
        run(&mut db, &trigger("one", body));
        run(&mut db, "DELETE FROM two; SET matomo.lookback = 1000");
        let (mut caller, said) = connect_with_notices(shared(), &name, "postgres");
        run(&mut caller, "CALL matomo_sync_all()");
        let warnings = said.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_says(
            &warnings[0],
            state_of_it,
            &format!("registered site {first}: {message}"),
            &[],
            "",
        );
        let noted = format!("{}|{state_of_it}|{message}", failures + 1);
        assert_eq!(state(&mut db, first), noted);
        assert_eq!(state(&mut db, second), "0");
        assert_equal(&mut db, "two", &all_of(&fake, 2));
        // A sync of this site alone raises its error, and nothing of it remains.
        run(
            &mut db,
            &format!("UPDATE matomo_site_state SET failures = {failures} WHERE site_id = {first}"),
        );
        let raised = error(&mut db, &format!("CALL matomo_sync_site({first})"));
        assert_eq!((raised.code().code(), raised.message()), (state_of_it, message));
        assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM one"), 0);
    }
}

#[test]
fn a_cancel_ends_a_call_at_once_and_counts_as_a_failure() {
    let fake = serve(sites(412, 2));
    let (name, mut db, [first, second]) = two(&fake);
    let mut other = shared().connect(&name);
    for how in ["", "SET statement_timeout = '3 s'"] {
        fake.fail(Fault::Hang, When::live());
        fake.clear_requests();
        run(&mut db, how);
        let token = db.cancel_token();
        let running = call(db, "CALL matomo_sync_all()".to_owned());
        wait_until("it hangs", || fake.requests().iter().any(|seen| seen.fault.is_some()));
        let begin = Instant::now();
        if how.is_empty() {
            token.cancel_query(postgres::NoTls).unwrap();
        }
        let (again, result, _) = running.join().unwrap();
        db = again;
        assert_eq!(end_of(result).0.code(), "57014");
        assert!(begin.elapsed() < Duration::from_secs(5));
        let untouched = format!(
            "SELECT count(*) FROM matomo_runs WHERE site_id = {second}
             UNION ALL SELECT count(*) FROM matomo_site_state WHERE tended_on IS NOT NULL"
        );
        let counts = other.query(&untouched, &[]).unwrap();
        assert!(counts.iter().all(|row| row.get::<_, i64>(0) == 0), "no upkeep, no other site");
        let waits = format!(
            "SELECT next_at > now() + interval '50 s' FROM matomo_site_state WHERE site_id = {first}"
        );
        assert!(one::<bool>(&mut other, &waits));
        fake.heal();
    }
    // Two failures. The client hears of a cancel before the lock is released.
    wait_until("both are counted", || state(&mut other, first).starts_with('2'));
    run(&mut db, "SET statement_timeout = 0");
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(state(&mut other, first), "0|the run was interrupted");
    assert_equal(&mut other, "one", &all_of(&fake, 1));
}

#[test]
fn what_others_have_locked_is_not_waited_for_for_long_and_no_lock_stays() {
    let fake = serve(sites(413, 2));
    let (name, mut db, [first, second]) = two(&fake);
    let mut holder = shared().connect(&name);
    let (mut caller, said) = connect_with_notices(shared(), &name, "postgres");
    run(&mut caller, "LOAD 'matomo_postgres'; SET lock_timeout = '1 s'");
    for lock in [
        "LOCK TABLE one".to_owned(),
        // The rows that a run writes first, and those that it writes last.
        format!("SELECT matomo_alter_site({first}, every => '1 hour')"),
        format!("SELECT * FROM matomo_run_log WHERE site_id = {first} FOR UPDATE"),
    ] {
        run(&mut holder, &format!("BEGIN; {lock}"));
        run(&mut db, "DELETE FROM two; SET matomo.lookback = 1000");
        let begin = Instant::now();
        run(&mut caller, "CALL matomo_sync_all()");
        assert!(begin.elapsed() < Duration::from_secs(9), "{lock}");
        let warnings = said.warnings();
        if !lock.contains("run_log") {
            assert_eq!(warnings[0].code().code(), "55P03", "{lock}: {warnings:?}");
        }
        assert_equal(&mut db, "two", &all_of(&fake, 2));
        // No lock is left that would keep others from syncing the site.
        let held = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
            WHERE l.locktype = 'userlock' AND d.datname = current_database()";
        assert_eq!(one::<i64>(&mut db, held), 0, "{lock}");
        run(&mut holder, "ROLLBACK");
        assert_eq!(said.notices_of("skipped"), [""; 0]);
    }
    run(&mut db, "CALL matomo_sync_all()");
    assert_equal(&mut db, "one", &all_of(&fake, 1));
    assert_eq!(state(&mut db, second), "0");
}

#[test]
fn a_matomo_that_hangs_costs_one_request_timeout() {
    let fake = serve(sites(421, 2));
    let (name, mut db, [first, second]) = two(&fake);
    fake.fail(Fault::Hang, When::always().param("idSite", "1"));
    let (mut caller, said) = connect_with_notices(shared(), &name, "postgres");
    run(
        &mut caller,
        "LOAD 'matomo_postgres'; SET matomo.request_timeout = '3 s'; SET matomo.max_retries = 3",
    );
    let begin = Instant::now();
    run(&mut caller, &format!("CALL matomo_sync_site({second})"));
    let alone = begin.elapsed();
    let begin = Instant::now();
    run(&mut caller, "CALL matomo_sync_all()");
    let took = begin.elapsed();
    assert!(took < alone + Duration::from_secs(6), "{took:?}, alone {alone:?}");
    assert_eq!(said.warnings()[0].code().code(), "08006");
    assert!(state(&mut db, first).starts_with("1|08006|"), "{}", state(&mut db, first));
    assert_equal(&mut db, "two", &all_of(&fake, 2));
}

#[test]
fn a_step_that_makes_no_progress_is_cancelled() {
    let fake = serve(sites(414, 2));
    let (name, mut db, [first, second]) = two(&fake);
    run(&mut db, &trigger("one", "PERFORM pg_sleep(1000);"));
    run(&mut db, "ALTER SERVER analytics OPTIONS (ADD timeout '1')");
    let (mut caller, said) = connect_with_notices(shared(), &name, "postgres");
    let begin = Instant::now();
    run(&mut caller, "CALL matomo_sync_all()");
    assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
    let message = format!("registered site {first}: canceled after 16 s without progress");
    assert_says(&said.warnings()[0], "57014", &message, &[], "slow trigger");
    assert_eq!(state(&mut db, first), "1|57014|canceled after 16 s without progress");
    assert_eq!(state(&mut db, second), "0");
    assert_equal(&mut db, "two", &all_of(&fake, 2));
}

/// A trigger that catches its cancel is ended with its process.
#[test]
fn no_trigger_holds_a_process_for_ever() {
    let (_cluster, mut db) = cluster_with_worker();
    // Of one Matomo, the worker would start one run only.
    let fakes = [415, 439].map(|seed| serve(sites(seed, 1)));
    // An answer of Matomo to a trigger is no progress of the step.
    let bodies = [("one", "pg_sleep(1000)"), ("two", "pg_sleep(0.1), matomo_list_sites('two')")];
    let held = [0, 1].map(|n| {
        let (table, call) = bodies[n];
        store(&mut db, table, &fakes[n]);
        run(
            &mut db,
            &format!(
                "ALTER SERVER {table} OPTIONS (ADD timeout '1'); SELECT matomo_create_table('{table}')"
            ),
        );
        let body = format!(
            "LOOP BEGIN PERFORM {call}; EXCEPTION WHEN query_canceled OR OTHERS THEN NULL; END; END LOOP;"
        );
        run(&mut db, &trigger(table, &body));
        register(&mut db, &format!("'{table}', 1, destination => '{table}'{START}"))
    });
    for site in held {
        wait_until("it is held", || process_of(&mut db, site).is_some());
    }
    for site in held {
        wait_long(60, "it has failed", || state(&mut db, site).starts_with("1|the run was"));
        assert_eq!(process_of(&mut db, site), None);
    }
}

#[test]
fn a_step_is_no_place_to_begin_another() {
    let fake = serve(sites(416, 2));
    let (_, mut db, [first, second]) = two(&fake);
    run(&mut db, "CREATE TABLE tried (what text, came text)");
    run(
        &mut db,
        &trigger(
            "one",
            &format!(
                "DECLARE what text; BEGIN
                     FOREACH what IN ARRAY ARRAY['SELECT matomo_run_step({first}, true)', 'SELECT matomo_run_step({second}, false)',
                         'SELECT matomo_run_sites()', 'CALL matomo_sync_all()', 'CALL matomo_sync_site({first})'] LOOP
                         BEGIN EXECUTE what; INSERT INTO tried VALUES (what, 'done');
                         EXCEPTION WHEN OTHERS THEN INSERT INTO tried VALUES (what, SQLSTATE); END;
                     END LOOP; END;"
            ),
        ),
    );
    // Here without a trigger's SPI in between.
    let column =
        format!("ALTER TABLE two ADD again boolean DEFAULT matomo_run_step({first}, true)");
    run(&mut db, &column);
    run(&mut db, "CALL matomo_sync_all()");
    let came = texts(&mut db, "SELECT DISTINCT came FROM tried");
    assert_eq!(came, ["25001"]);
    assert_eq!(one::<i64>(&mut db, "SELECT count(DISTINCT what) FROM tried"), 5);
    assert_equal(&mut db, "one", &all_of(&fake, 1));
    assert_eq!(state(&mut db, first), "0");
    let told = "1|25001|matomo_sync_all() cannot run inside a transaction block";
    assert_eq!(state(&mut db, second), told);
    run(&mut db, "ALTER TABLE two DROP again");
    run(&mut db, "CALL matomo_sync_all()");
    assert_equal(&mut db, "two", &all_of(&fake, 2));
}

#[test]
fn intervals_are_checked_by_their_fields() {
    let fake = serve(sites(417, 2));
    let (_, mut db, [first, second]) = two(&fake);
    for (argument, value) in [
        ("every", "1 day -1 second"),
        ("every", "2147483647 days -2147483647 hours"),
        ("every", "0.5 seconds"),
        ("every", "101 years"),
        ("retention", "1 month -1 day"),
        ("retention", "2147483647 days -2147483647 hours"),
        ("retention", "36001 days"),
    ] {
        let hint =
            if argument == "every" { "1 second to 100 years" } else { "keeps visits for ever" };
        let call = format!("SELECT matomo_alter_site({first}, {argument} => '{value}')");
        let message = format!("{argument} is out of range");
        assert_says(&error(&mut db, &call), "22023", &message, &[], hint);
    }
    run(
        &mut db,
        &format!(
            "SELECT matomo_alter_site({first}, every => '100 years', retention => '100 years')"
        ),
    );
    // Intervals stored by an older version.
    for (every, retention) in [
        ("2147483647 days -2147483647 hours", "2147483647 days -2147483647 hours"),
        ("-178000000 years 2147483647 days 2000000000 hours", "178000000 years"),
        ("178000000 years", "-178000000 years"),
    ] {
        for fails in [false, true] {
            run(
                &mut db,
                &format!(
                    "UPDATE matomo_site_config SET every = '{every}', retention = '{retention}' WHERE id = {first};
                     UPDATE matomo_site_state SET failures = 0, tended_on = NULL; DELETE FROM two; SET matomo.lookback = 1000"
                ),
            );
            if fails {
                fake.fail(Fault::Html, When::always().param("idSite", "1"));
            }
            run(&mut db, "CALL matomo_sync_all()");
            fake.heal();
            assert_eq!(one::<i32>(&mut db, &failures(first)), i32::from(fails), "{every}");
            assert_equal(&mut db, "two", &all_of(&fake, 2));
            assert_eq!(state(&mut db, second), "0");
        }
    }
}

fn failures(site: i32) -> String {
    format!("SELECT failures FROM matomo_status WHERE site_id = {site}")
}

#[test]
fn a_statement_timeout_shorter_than_a_step_still_makes_progress() {
    let fake = serve(world(418, "UTC", 60, "2026-10-24", "2026-10-24"));
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    let site = add_site(&mut db, ", start_date => '2026-10-24'");
    fake.knobs().latency = Duration::from_millis(400);
    let (mut caller, said) = connect_with_notices(shared(), &name, "postgres");
    run(
        &mut caller,
        "LOAD 'matomo_postgres'; SET matomo.page_size = 3; SET statement_timeout = '3 s'",
    );
    let call = format!("CALL matomo_sync_site({site})");
    // About twenty pages in eight seconds; later about every third call makes progress.
    let mut calls = 0;
    while one::<i64>(&mut db, "SELECT count(*) FROM matomo") == 0 {
        assert_eq!(error(&mut caller, &call).code().code(), "57014");
        calls += 1;
        assert!(calls < 5, "no progress");
    }
    let hints: Vec<_> =
        said.warnings().iter().filter_map(|line| line.hint().map(str::to_owned)).collect();
    assert!(hints.iter().any(|hint| hint.contains("matomo.step_pages")), "{hints:?}");
    while caller.batch_execute(&call).is_err() {
        calls += 1;
        assert!(calls < 15, "no end");
    }
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

/// The poll of an open day commits each time, and the step after it never.
#[test]
fn polls_of_open_days_do_not_hide_a_step_that_is_cut_each_time() {
    let today = chrono::Utc::now().date_naive();
    let [first, last] = [4, 3].map(|ago| today - chrono::Days::new(ago));
    let mut fake_world = world(421, "UTC", 60, &first.to_string(), &last.to_string());
    let large = last.and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp();
    let mut small = 0;
    fake_world.site_mut(1).visits.retain(|visit| {
        small += i32::from(visit.last < large);
        visit.last >= large || small <= 2
    });
    let fake = serve(fake_world);
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    let site = add_site(&mut db, &format!(", start_date => '{first}'"));
    let mut caller = shared().connect(&name);
    run(
        &mut caller,
        "LOAD 'matomo_postgres'; SET matomo.page_size = 3; SET matomo.fetch_workers = 1;
         SET matomo.settle_time = '30 d'",
    );
    fake.knobs().latency = Duration::from_millis(400);
    run(&mut caller, "SET statement_timeout = '4 s'");
    let mut calls = 0;
    while caller.batch_execute(&format!("CALL matomo_sync_site({site})")).is_err() {
        calls += 1;
        assert!(calls < 20, "no end");
    }
    assert!(calls > 0);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn what_is_changed_during_a_run_is_filled_by_the_next_one_at_once() {
    let fake = serve(sites(419, 2));
    let (cluster, mut db) = cluster_with_worker();
    store(&mut db, "analytics", &fake);
    run(&mut db, "SELECT matomo_create_table('one'), matomo_create_table('two')");
    fake.fail(Fault::Hang, When::live().param("date", "2026-10-22,2026-10-22").times(1));
    let arguments = format!("'analytics', 1, destination => 'one', every => '1 hour'{START}");
    let site = register(&mut db, &arguments);
    wait_until("it hangs", || fake.requests().iter().any(|seen| seen.fault.is_some()));
    run(&mut db, &format!("SELECT matomo_alter_site({site}, destination => 'two')"));
    let process = process_of(&mut db, site).unwrap();
    // The step resumes and completes.
    run(&mut db, &format!("SELECT pg_cancel_backend({process})"));
    wait_long(30, "the new one is filled", || {
        differences(&mut db, "two", &all_of(&fake, 1)).is_empty()
    });
    wait_until("that is the state", || state(&mut db, site).starts_with('0'));
    // A run that succeeds does not count a table as synced that it did not fill.
    run(&mut db, &format!("SELECT matomo_alter_site({site}, enabled => false)"));
    let (asks, wait) = (std::sync::mpsc::channel::<()>(), std::sync::mpsc::channel::<()>());
    let wait_for = std::sync::Mutex::new(wait.1);
    let ask = std::sync::Mutex::new(Some(asks.0));
    fake.before_each(Box::new(move |_, request| {
        if request.method.starts_with("Live") && ask.lock().unwrap().take().is_some() {
            let _ = wait_for.lock().unwrap().recv();
        }
    }));
    let other = cluster.connect("postgres");
    let running = call(other, format!("CALL matomo_sync_site({site})"));
    assert!(asks.1.recv().is_err(), "it asks");
    run(&mut db, "SELECT matomo_create_table('three')");
    run(&mut db, &format!("SELECT matomo_alter_site({site}, destination => 'three')"));
    drop(wait.0);
    running.join().unwrap().1.unwrap();
    fake.clear_before_each();
    let open = "SELECT synced_to IS NULL AND lag IS NULL FROM matomo_status";
    assert!(one::<bool>(&mut db, open));
    assert!(one::<bool>(&mut db, "SELECT next_at <= now() FROM matomo_site_state"));
    run(&mut db, &format!("SELECT matomo_alter_site({site}, enabled => true)"));
    wait_long(30, "it is filled", || differences(&mut db, "three", &all_of(&fake, 1)).is_empty());
    wait_until("it is synced", || !one::<bool>(&mut db, open));
}

#[test]
fn runs_that_are_killed_wait_longer_and_longer() {
    let fake = serve(sites(420, 1));
    let (cluster, mut db) = cluster_with_worker();
    store(&mut db, "analytics", &fake);
    run(&mut db, "SELECT matomo_create_table('one')");
    fake.fail(Fault::Hang, When::live());
    let every = "every => '1 second'";
    let site = register(&mut db, &format!("'analytics', 1, destination => 'one', {every}{START}"));
    for _ in 0..4 {
        let mut pid = None;
        wait_long(20, "it hangs", || {
            let hangs = fake.requests().iter().any(|seen| seen.fault.is_some());
            pid = process_of(&mut db, site);
            hangs && pid.is_some()
        });
        fake.clear_requests();
        kill(&cluster, &mut db, pid.unwrap());
        // Counted when somebody looks, or recorded by the process that already has the lock.
        wait_until("it counts", || one::<i32>(&mut db, &failures(site)) > 0);
    }
    wait_long(20, "that is noted", || state(&mut db, site) == "4|the run was interrupted");
    // 1, 2, 4 seconds, plus the time of a restart.
    let waits = "SELECT date_part('epoch', start_time - lag(start_time) OVER (ORDER BY runid))::text FROM matomo_runs ORDER BY runid OFFSET 1";
    let waits: Vec<f64> = texts(&mut db, waits).iter().map(|text| text.parse().unwrap()).collect();
    for (wait, least) in waits.iter().zip([1.0, 2.0, 4.0]) {
        assert!(*wait >= least, "{waits:?}");
    }
    fake.heal();
    wait_long(30, "it is synced", || runs_of(&mut db, "succeeded") > 0);
    assert_equal(&mut db, "one", &all_of(&fake, 1));
}

#[test]
fn upkeep_that_does_not_end_leaves_a_process_to_syncs() {
    let fake = serve(sites(423, 3));
    let (_cluster, mut db) = cluster_with_worker();
    store(&mut db, "analytics", &fake);
    run(
        &mut db,
        "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql
             AS 'BEGIN PERFORM pg_sleep(1000); RETURN old; END'",
    );
    let (mut slow, tables) = (Vec::new(), ["one", "two"]);
    for (table, idsite) in tables.iter().zip(1..) {
        run(&mut db, &format!("SELECT matomo_create_table('{table}')"));
        let arguments = format!("'analytics', {idsite}, destination => '{table}'{START}");
        slow.push(register(&mut db, &arguments));
    }
    wait_long(60, "they are synced", || runs_of(&mut db, "succeeded") >= 2);
    wait_long(30, "they rest", || {
        let tended = "SELECT count(*) FROM matomo_site_state WHERE tended_on IS NOT NULL";
        one::<i64>(&mut db, tended) == 2
            && slow.iter().all(|site| process_of(&mut db, *site).is_none())
    });
    // The sync of the first one's process is over, so it asks its Matomo for nothing.
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    for (table, site) in tables.iter().zip(&slow) {
        run(
            &mut db,
            &format!(
                "CREATE TRIGGER sleep BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION sleep();
                 SELECT matomo_alter_site({site}, retention => '1 day')"
            ),
        );
        wait_long(30, "one sleeps", || one::<i64>(&mut db, sleeping) > 0);
    }
    run(&mut db, "SELECT matomo_create_table('healthy')");
    let arguments = format!("'analytics', 3, destination => 'healthy', every => '1 second'{START}");
    let healthy = register(&mut db, &arguments);
    let synced = format!(
        "SELECT count(*) FROM matomo_runs WHERE site_id = {healthy} AND status = 'succeeded'"
    );
    wait_long(60, "the healthy site is synced", || one::<i64>(&mut db, &synced) >= 3);
    assert_eq!(one::<i64>(&mut db, sleeping), 1);
}

#[test]
fn upkeep_of_a_site_that_is_being_altered_holds_no_process() {
    let fake = serve(sites(424, 2));
    let (cluster, mut db) = cluster_with_worker();
    run(&mut db, "ALTER SYSTEM SET matomo.max_workers = 1");
    run(&mut db, "SELECT pg_reload_conf()");
    store(&mut db, "analytics", &fake);
    run(&mut db, "SELECT matomo_create_table('one'), matomo_create_table('two')");
    let first = format!("'analytics', 1, destination => 'one', every => '1 hour'{START}");
    let first = register(&mut db, &first);
    wait_long(30, "it is tended", || {
        let tended = "SELECT count(*) FROM matomo_site_state WHERE tended_on IS NOT NULL";
        let rests = workers(&mut db).iter().any(|line| line.contains("matomo: 0 at work"));
        rests && one::<i64>(&mut db, tended) == 1
    });
    let mut holder = cluster.connect("postgres");
    run(&mut holder, "UPDATE matomo_site_state SET tended_on = NULL");
    run(&mut holder, &format!("BEGIN; SELECT matomo_alter_site({first}, every => '2 hours')"));
    wait_long(30, "its process waits", || process_of(&mut db, first).is_some());
    let second = format!("'analytics', 2, destination => 'two', every => '1 second'{START}");
    register(&mut db, &second);
    wait_long(40, "the other one is synced", || runs_of(&mut db, "succeeded") >= 3);
    run(&mut holder, "ROLLBACK");
}

#[test]
fn upkeep_that_kills_its_process_is_given_up_for_the_day() {
    let fake = serve(sites(422, 1));
    let (cluster, mut db) = cluster_with_worker();
    store(&mut db, "analytics", &fake);
    run(&mut db, "SELECT matomo_create_table('one')");
    let site = register(&mut db, &format!("'analytics', 1, destination => 'one'{START}"));
    wait_long(30, "it is synced", || runs_of(&mut db, "succeeded") > 0);
    run(
        &mut db,
        "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql
             AS 'BEGIN PERFORM pg_sleep(1000); RETURN old; END';
         CREATE TRIGGER sleep BEFORE DELETE ON one FOR EACH ROW EXECUTE FUNCTION sleep()",
    );
    run(
        &mut db,
        &format!("SELECT matomo_alter_site({site}, enabled => false, retention => '1 day')"),
    );
    for death in 1..=3 {
        let mut pid = None;
        wait_long(20, "it sleeps", || {
            pid = process_of(&mut db, site);
            let sleeps =
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')";
            pid.is_some() && one::<bool>(&mut db, sleeps)
        });
        if death > 1 {
            kill(&cluster, &mut db, pid.unwrap());
            continue;
        }
        // It waits first: matomo.naptime, five minutes at most.
        run(&mut db, "ALTER SYSTEM SET matomo.naptime = '1h'");
        run(&mut db, "SELECT pg_reload_conf()");
        kill(&cluster, &mut db, pid.unwrap());
        let coordinator = "SELECT min(pid) FROM pg_stat_activity
            WHERE backend_type = 'matomo coordinator' AND query LIKE '%0 at work, sleeps until%'";
        let mut waits = None;
        wait_long(20, "the coordinator is back", || {
            waits = one::<Option<i32>>(&mut db, coordinator);
            waits.is_some()
        });
        for _ in 0..20 {
            assert_eq!(process_of(&mut db, site), None, "it does not wait");
            std::thread::sleep(Duration::from_millis(100));
        }
        run(&mut db, "ALTER SYSTEM RESET matomo.naptime");
        run(&mut db, "SELECT pg_reload_conf()");
        kill(&cluster, &mut db, waits.unwrap());
    }
    wait_long(20, "that is noted", || {
        let noted = "SELECT coalesce(upkeep_error, '') FROM matomo_status";
        one::<String>(&mut db, noted) == "the upkeep was interrupted again and again"
    });
}

/// Another server behind the table is not Matomo, whose other sites then wait for nothing.
#[test]
fn only_a_matomo_that_does_not_answer_counts_as_unanswered() {
    let fake = serve(sites(433, 2));
    let (_, mut db, [site, _]) = two(&fake);
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.max_retries = 0");
    let fails = |db: &mut Client| -> bool {
        let failed = error(db, &format!("CALL matomo_sync_site({site})"));
        assert_eq!(&failed.code().code()[..2], "08", "{failed:?}");
        one(db, &format!("SELECT is_unanswered FROM matomo_site_state WHERE site_id = {site}"))
    };
    run(&mut db, &trigger("one", "RAISE 'no' USING ERRCODE = '08006';"));
    assert!(!fails(&mut db));
    fake.fail(Fault::Reset, When::always());
    assert!(fails(&mut db));
    fake.heal();
    assert!(!fails(&mut db));
}

#[test]
fn a_session_that_ends_takes_its_lock_along() {
    let fake = serve(sites(431, 2));
    let (name, mut db, [site, _]) = two(&fake);
    let mut other = connect_as(&name, "postgres");
    // The run starts and is not continued.
    run(&mut other, &format!("DO $$ BEGIN PERFORM matomo_run_step({site}, false); END $$"));
    let held = format!("SELECT matomo_is_running({site})");
    assert!(one::<bool>(&mut db, &held));
    drop(other);
    wait_until("the lock is gone", || !one::<bool>(&mut db, &held));
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_equal(&mut db, "one", &all_of(&fake, 1));
}

fn runs_of(db: &mut Client, status: &str) -> i64 {
    one(db, &format!("SELECT count(*) FROM matomo_runs WHERE status = '{status}'"))
}
