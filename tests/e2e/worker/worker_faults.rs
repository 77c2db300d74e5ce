//! Which failures the background worker survives, and which end it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{Days, Utc};
use fake_matomo::{Fault, When};

use crate::support::report::{all_there, every_row, proven};
use crate::support::worker::*;
use crate::support::*;

#[test]
fn a_fast_shutdown_waits_for_no_answer() {
    let (cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    fake.fail(Fault::Hang, When::live());
    register(&mut db, &format!("'analytics', 1, '{}', every => '1 second'", noon.text(1)));
    wait_until("it hangs", || fake.requests().iter().any(|seen| seen.fault.is_some()));
    let begin = Instant::now();
    cluster.stop("fast");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    println!("fast shutdown beside a hanging request: {} ms", took.as_millis());
    fake.heal();
    cluster.start_again();
    let mut db = cluster.connect("postgres");
    wait_until("it goes on", || runs(&mut db, 1, "succeeded") >= 1);
    let all = all_there(&mut db, "matomo", &all_of(&fake, 1));
    let left = "SELECT return_message FROM matomo_runs WHERE status = 'failed'";
    let left = texts(&mut db, left);
    assert_eq!(left, ["the run was interrupted"]);
    proven(
        "Crash",
        "a fast shutdown",
        "`pg_ctl stop -m fast` while the worker waits for an answer that does not come",
        "it takes less than a second; after the start the import goes on",
        &format!("in time; the run: {}; then {all}", left[0]),
    );
}

#[test]
fn kill_9_in_the_middle_of_a_years_import_loses_one_step() {
    let (cluster, mut db) = cluster_with_worker();
    let [first, last] = [366, 2].map(|ago| (Utc::now().date_naive() - Days::new(ago)).to_string());
    let fake = serve(world(111, "UTC", 2, &first, &last));
    store(&mut db, "analytics", &fake);
    let site = register(&mut db, &format!("'analytics', 1, '{first}', every => '1 second'"));
    fake.clear_requests();
    let sealed = "SELECT count(*) FROM matomo_ledger WHERE sealed";
    wait_long(120, "a part is done", || one::<i64>(&mut db, sealed) > 100);
    let mut pid = None;
    wait_until("a process works on it", || {
        pid = process_of(&mut db, site);
        pid.is_some()
    });
    let pid = pid.unwrap();
    // SAFETY: a process of this test.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    // All sessions end with it, and the server restarts.
    wait_until("this session has ended", || db.query("SELECT 1", &[]).is_err());
    wait_long(30, "the server is back", || {
        cluster.config("postgres", "postgres").connect(postgres::NoTls).is_ok_and(|mut again| {
            let up = again.query_opt("SELECT 1 FROM matomo_site_config", &[]).is_ok();
            db = again;
            up
        })
    });
    let kept: i64 = one(&mut db, sealed);
    assert!((101..365).contains(&kept), "what was committed is still there: {kept} days");
    wait_long(120, "the import is done", || runs(&mut db, site, "succeeded") >= 1);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    // One day is requested twice: that of the lost step. Today is open.
    let mut days: HashMap<String, usize> = HashMap::new();
    for line in asked(&fake).into_iter().filter(|line| line.starts_with("day 202")) {
        *days.entry(line[..14].to_owned()).or_default() += 1;
    }
    let again: Vec<_> =
        days.iter().filter(|(day, count)| **count > 1 && day[4..] <= *last).collect();
    assert!(again.len() <= 1, "{again:?}");
    let failed = "SELECT return_message FROM matomo_runs WHERE status = 'failed'";
    assert_eq!(texts(&mut db, failed), ["the run was interrupted"]);
}

const MISSING: &str = "extension \"matomo_postgres\" is not created";

#[test]
fn the_extension_may_be_dropped_and_created_while_it_works() {
    let (cluster, mut db) = cluster_with_worker();
    let [first, last] = [60, 1].map(|ago| (Utc::now().date_naive() - Days::new(ago)).to_string());
    let fake = serve(world(112, "UTC", 2, &first, &last));
    fake.knobs().latency = Duration::from_millis(20);
    let pid = coordinator_pid(&mut db, "postgres");
    for round in 0..2 {
        store(&mut db, "analytics", &fake);
        let site = register(&mut db, &format!("'analytics', 1, '{first}'"));
        wait_until("it works", || runs(&mut db, site, "running") == 1);
        if round == 0 {
            let tables = all_four("matomo");
            run(&mut db, &format!("DROP EXTENSION matomo_postgres CASCADE; DROP TABLE {tables}"));
            wait_until("it is missed", || cluster.log().contains(MISSING));
            run(&mut db, "CREATE EXTENSION matomo_postgres");
        } else {
            fake.knobs().latency = Duration::ZERO;
            wait_long(60, "the import is done", || runs(&mut db, site, "succeeded") == 1);
        }
    }
    let all = every_row(&mut db, "matomo", &all_of(&fake, 1));
    assert_eq!(coordinator_pid(&mut db, "postgres"), pid, "it is still the same");
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
    let missed = cluster.log().lines().filter(|line| line.contains(MISSING)).count();
    assert!(missed > 0);
    proven(
        "Lifecycle",
        "DROP EXTENSION while the worker works",
        "CASCADE in the midst of an import; then all of it made again",
        "the worker says so in the log and stays; it goes on with what is registered anew",
        &format!("the log: {MISSING}; the same process imports {all}"),
    );
}

#[test]
fn a_cancel_ends_a_run_and_not_the_worker() {
    let (cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    wait_until("it works", || coordinator_pid(&mut db, "postgres").is_some());
    let pid = coordinator_pid(&mut db, "postgres").unwrap();
    let cancel = |pid| format!("SELECT pg_cancel_backend({pid})");
    // Nothing to cancel.
    run(&mut db, &cancel(pid));
    fake.fail(Fault::Hang, When::live().times(1));
    let site =
        register(&mut db, &format!("'analytics', 1, '{}', every => '1 second'", noon.text(1)));
    wait_until("it hangs", || fake.requests().iter().any(|seen| seen.fault.is_some()));
    let process = process_of(&mut db, site).unwrap();
    run(&mut db, &cancel(process));
    wait_until("the run has failed", || runs(&mut db, site, "failed") == 1);
    let told = "SELECT sqlstate || ' ' || return_message FROM matomo_runs WHERE status = 'failed'";
    let told = texts(&mut db, told);
    assert_eq!(told, ["57014 canceling statement due to user request"]);
    wait_until("the next one succeeds", || runs(&mut db, site, "succeeded") > 0);
    assert_eq!(coordinator_pid(&mut db, "postgres"), Some(pid));
    assert!(!cluster.log().contains("exited"), "{}", cluster.log());
    proven(
        "Crash",
        "pg_cancel_backend of the worker",
        "while it waits for an answer that does not come",
        "the run fails, the coordinator stays, the next run succeeds",
        &format!("the run: {}; the next one succeeded", told[0]),
    );
}

#[test]
fn rows_are_written_with_the_owners_rights_only() {
    let (cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    run(
        &mut db,
        &format!(
            "CREATE ROLE etl LOGIN; CREATE SCHEMA analytics AUTHORIZATION etl; CREATE TABLE secret AS SELECT 1 AS x;
             GRANT EXECUTE ON FUNCTION matomo_add_site TO etl; GRANT EXECUTE ON PROCEDURE matomo_sync_all() TO etl;
             CREATE SERVER analytics FOREIGN DATA WRAPPER matomo OPTIONS (url '{}');
             GRANT USAGE ON FOREIGN SERVER analytics TO etl",
            fake.url()
        ),
    );
    let mut etl = cluster.connect_as("postgres", "etl");
    run(
        &mut etl,
        &format!(
            "CREATE USER MAPPING FOR etl SERVER analytics OPTIONS (token '{}');
             SELECT matomo_create_table('analytics.visits');
             CREATE TABLE analytics.tried (statement text, outcome text);
             CREATE FUNCTION analytics.climb() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE statement text;
             BEGIN
                 FOREACH statement IN ARRAY ARRAY['ALTER ROLE etl SUPERUSER', 'SET ROLE postgres', 'RESET ROLE',
                     'SET SESSION AUTHORIZATION postgres', 'SELECT x FROM public.secret', 'SELECT current_user',
                     'DELETE FROM public.matomo_site_config', 'CREATE TEMP TABLE t (x int)'] LOOP
                     BEGIN
                         EXECUTE statement;
                         INSERT INTO analytics.tried VALUES (statement, 'done as ' || current_user);
                     EXCEPTION WHEN OTHERS THEN
                         INSERT INTO analytics.tried VALUES (statement, SQLSTATE);
                     END;
                 END LOOP;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER climb AFTER INSERT ON analytics.visits FOR EACH STATEMENT EXECUTE FUNCTION analytics.climb();
             SELECT matomo_add_site('analytics', 1, '{}', 'analytics.visits')",
            fake.token(),
            noon.text(1)
        ),
    );
    wait_until("it is synced", || runs(&mut db, 1, "succeeded") == 1);
    assert_equal(&mut db, "analytics.visits", &all_of(&fake, 1));
    let tried = "SELECT DISTINCT statement || ': ' || outcome FROM analytics.tried ORDER BY 1";
    let tried = texts(&mut db, tried);
    assert_eq!(
        tried,
        [
            "ALTER ROLE etl SUPERUSER: 42501",
            "CREATE TEMP TABLE t (x int): 42501",
            "DELETE FROM public.matomo_site_config: 42501",
            "RESET ROLE: 42501",
            "SELECT current_user: done as etl",
            "SELECT x FROM public.secret: 42501",
            "SET ROLE postgres: 42501",
            "SET SESSION AUTHORIZATION postgres: 42501",
        ]
    );
    assert!(!one::<bool>(&mut db, "SELECT rolsuper FROM pg_roles WHERE rolname = 'etl'"));
    proven(
        "Privileges",
        "an owner's trigger under the worker",
        "it tries to become more, to read and to delete what is not its own, and notes what comes of it",
        "the worker lends nothing of its superuser's rights",
        &tried.join(", "),
    );
}

#[test]
fn a_site_whose_owner_is_gone_is_told_of_once() {
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    let (cluster, mut db) = cluster_with_worker();
    store(&mut db, "analytics", &fake);
    let site = register(&mut db, "'analytics', 1, every => '1 second'");
    wait_until("it is synced", || runs(&mut db, site, "succeeded") > 0);
    run(
        &mut db,
        &format!(
            "CREATE ROLE etl; GRANT USAGE ON FOREIGN SERVER analytics TO etl; GRANT ALL ON {} TO etl;
             CREATE USER MAPPING FOR etl SERVER analytics OPTIONS (token '{}');
             SELECT matomo_alter_site({site}, owner => 'etl');",
            all_four("matomo"),
            fake.token()
        ),
    );
    let by_etl = "SELECT count(*) FROM matomo_runs WHERE owner = 'etl' AND status = 'succeeded'";
    wait_until("it is synced again", || one::<i64>(&mut db, by_etl) > 0);
    run(&mut db, "DROP OWNED BY etl; DROP ROLE etl");
    let before = runs(&mut db, site, "succeeded");
    let message = format!("the owner of registered site {site} does not exist any more");
    let hint =
        format!("Give it another one with SELECT matomo_alter_site({site}, owner => '...').");
    let status =
        "SELECT concat_ws('|', failures, last_sqlstate, last_error, last_detail, last_hint)
        FROM matomo_status WHERE last_error_at IS NOT NULL";
    // A run of the role may have been in progress.
    let told = format!("|42704|{message}|The last known name of the role is etl.|{hint}");
    wait_until("it is noted", || texts(&mut db, status).iter().any(|line| line.ends_with(&told)));
    let told = texts(&mut db, status);
    // A new coordinator looks again, and the procedure reports it on every call.
    run(
        &mut db,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'matomo coordinator'",
    );
    let (mut caller, said) = connect_with_notices(&cluster, "postgres", "postgres");
    for _ in 0..2 {
        run(&mut caller, "CALL matomo_sync_all()");
        let warnings = said.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let message = format!("registered site {site}: {message}");
        let detail = "The last known name of the role is etl.";
        assert_says(&warnings[0], "42704", &message, &[detail], &hint);
    }
    wait_until("the worker is back", || coordinator_pid(&mut db, "postgres").is_some());
    wait_until("it has looked", || {
        let line = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'matomo coordinator' AND query LIKE 'matomo: 0 at work%'";
        one::<i64>(&mut db, line) == 1
    });
    assert_eq!(texts(&mut db, status), told);
    let log = cluster.log();
    let lines = log.lines().filter(|line| line.contains("WARNING") && line.contains(&message));
    assert_eq!(lines.filter(|line| !line.contains("registered site 1: ")).count(), 1, "{log}");
    // With another owner the site is synced again.
    run(&mut db, &format!("SELECT matomo_alter_site({site}, owner => 'postgres')"));
    wait_until("it is synced once more", || runs(&mut db, site, "succeeded") > before);
    assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status"), 0);
}

/// No user table is written then; the failure is recorded.
#[test]
fn where_transactions_are_read_only_by_default_runs_fail_and_that_is_noted() {
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    let (_cluster, mut db) = cluster_with_worker();
    store(&mut db, "analytics", &fake);
    let site = register(&mut db, "'analytics', 1, every => '1 second', enabled => false");
    run(&mut db, "ALTER DATABASE postgres SET default_transaction_read_only = on");
    run(
        &mut db,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'matomo coordinator'",
    );
    run(&mut db, &format!("SELECT matomo_alter_site({site}, enabled => true)"));
    let failed = "SELECT regexp_replace(last_error, ' [A-Z]+ ', ' ') FROM matomo_status
        WHERE failures > 0 AND last_sqlstate = '25006'";
    wait_until("it is noted", || !texts(&mut db, failed).is_empty());
    assert_eq!(texts(&mut db, failed), ["cannot execute in a read-only transaction"]);
    assert!(runs(&mut db, site, "failed") > 0);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 0);
    run(&mut db, "ALTER DATABASE postgres RESET default_transaction_read_only");
    run(&mut db, &format!("SELECT matomo_alter_site({site})"));
    wait_until("it is synced", || runs(&mut db, site, "succeeded") > 0);
}
