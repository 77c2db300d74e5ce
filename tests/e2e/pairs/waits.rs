//! Which operation waits for which, and for how long.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::pairs::operations::Operation;
use crate::pairs::scene::{Scene, VISITOR};
use crate::pairs::session::outcome;
use crate::support::cluster::shared;
use crate::support::*;

const FORGET: &str = "SELECT * FROM matomo_forget('00000000deadbeef')";

/// Starts an operation in a transaction that stays open.
fn begin(scene: &Scene, operation: Operation) -> Client {
    let mut db = scene.connect();
    let sql = operation.sql(scene);
    run(&mut db, &format!("BEGIN; {sql}"));
    db
}

#[test]
fn an_erasure_gives_up_a_sync_that_does_not_end_and_hinders_no_other() {
    let mut scene = Scene::new();
    scene.reset(false);
    run(&mut scene.db, "SELECT matomo_create_table('elsewhere')");
    let mut syncing = begin(&scene, Operation::Sync);
    let holder = pid(&mut syncing);
    let mut officer = scene.connect();
    run(&mut officer, "SET lock_timeout = '300 ms'");
    let refused = error(&mut officer, FORGET);
    let message = "could not erase: site 1 is still being synced into public.visits";
    assert_says(&refused, "55P03", message, &[], &format!("pg_terminate_backend({holder})"));
    // A table into which nothing is synced.
    run(&mut officer, &format!("SELECT * FROM matomo_forget('{VISITOR}', only_in => 'elsewhere')"));
    let refused = error(
        &mut officer,
        &format!("SELECT * FROM matomo_forget('{VISITOR}', only_in => 'visits')"),
    );
    assert_eq!(refused.code().code(), "55P03");
    // One week of the table being synced.
    let one_week =
        format!("SELECT * FROM matomo_forget('{VISITOR}', only_in => '{}')", scene.partition);
    // It is a part of a destination, and so refused without a wait.
    assert_eq!(error(&mut officer, &one_week).code().code(), "22023");
    // While the erasure waits, other sites can be synced, and so can this one.
    run(&mut officer, "RESET lock_timeout");
    let waiting = pid(&mut officer);
    let erasing = thread::spawn(move || outcome(&mut officer, FORGET));
    let waits = format!(
        "SELECT wait_event = 'Extension' AND query LIKE '%matomo_forget%' FROM pg_stat_activity WHERE pid = {waiting}"
    );
    wait_until("the erasure waits", || one::<Option<bool>>(&mut scene.db, &waits) == Some(true));
    let mut other = scene.connect();
    run(&mut other, "SET lock_timeout = '2 s'");
    run(&mut other, &Operation::OtherSync.sql(&scene));
    run(&mut syncing, "ROLLBACK");
    assert!(erasing.join().unwrap().is_ok());
    let left = format!("SELECT count(*) FROM visits WHERE visitorid = '{VISITOR}'");
    assert_eq!(one::<i64>(&mut scene.db, &left), 0);
}

#[test]
fn an_erasure_that_gives_up_a_drop_says_so() {
    let mut scene = Scene::new();
    scene.reset(false);
    for (site, message) in [
        ("1", "could not erase: old rows of site 1 are still being removed from public.visits"),
        (
            "NULL",
            "could not erase: old rows are still being removed from public.visits, or its URL or companions changed",
        ),
    ] {
        let mut dropping = scene.connect();
        let holder = pid(&mut dropping);
        let step = format!(
            "BEGIN; SELECT * FROM matomo_drop_step('visits', to_timestamp({}), {site}, '100 ms')",
            scene.bound()
        );
        run(&mut dropping, &step);
        let mut officer = scene.connect();
        run(&mut officer, "SET lock_timeout = '300 ms'");
        let refused = error(&mut officer, FORGET);
        assert_says(&refused, "55P03", message, &[], &format!("pg_terminate_backend({holder})"));
        run(&mut dropping, "ROLLBACK");
    }
}

#[test]
fn an_erasure_that_waits_is_cancelled_at_once() {
    let mut scene = Scene::new();
    scene.reset(false);
    let mut syncing = begin(&scene, Operation::Sync);
    let mut officer = scene.connect();
    run(&mut officer, "SET statement_timeout = '300 ms'");
    let begun = Instant::now();
    assert_eq!(error(&mut officer, FORGET).code().code(), "57014");
    assert!(begun.elapsed() < Duration::from_secs(5));
    run(&mut syncing, "ROLLBACK");
}

#[test]
fn an_erasure_finds_the_table_of_a_first_sync() {
    let scene = Scene::new();
    let mut syncing = scene.connect();
    let first = format!(", '{}'", scene.noon.text(19));
    run(&mut syncing, &format!("BEGIN; {}", sync_sql(&scene.fake, 1, &first)));
    let of_person = format!("SELECT count(*) FROM matomo WHERE visitorid = '{VISITOR}'");
    assert!(one::<i64>(&mut syncing, &of_person) > 0);
    let mut officer = scene.connect();
    // It has made the companions, too, but it is a sync.
    run(&mut officer, "SET lock_timeout = '300 ms'");
    assert_says(
        &error(&mut officer, FORGET),
        "55P03",
        "could not erase: site 1 is still being synced into a new table",
        &[],
        "Call it again when that sync has ended",
    );
    run(&mut officer, "RESET lock_timeout");
    let erasing = thread::spawn(move || outcome(&mut officer, FORGET));
    thread::sleep(Duration::from_millis(200));
    assert!(!erasing.is_finished());
    run(&mut syncing, "COMMIT");
    assert!(erasing.join().unwrap().is_ok());
    assert_eq!(one::<i64>(&mut syncing, &of_person), 0);
}

#[test]
fn a_removal_in_a_transaction_that_sees_no_commits_is_refused() {
    let mut scene = Scene::new();
    scene.reset(false);
    let step = format!(
        "SELECT * FROM matomo_drop_step('visits', to_timestamp({}), 1, '100 ms')",
        scene.bound()
    );
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let message =
            "rows cannot be removed in a transaction that does not see what others have committed";
        for call in [FORGET, step.as_str()] {
            run(&mut scene.db, &format!("BEGIN ISOLATION LEVEL {level}"));
            assert_says(&error(&mut scene.db, call), "0A000", message, &[], "READ COMMITTED");
            run(&mut scene.db, "ROLLBACK");
        }
    }
}

#[test]
fn a_sync_waits_for_a_step_that_removes_old_rows_and_not_for_ever() {
    let mut scene = Scene::new();
    scene.reset(false);
    let mut dropping = scene.connect();
    let step = format!(
        "BEGIN; SELECT * FROM matomo_drop_step('visits', to_timestamp({}), 1, '100 ms')",
        scene.bound()
    );
    run(&mut dropping, &step);
    let mut db = scene.connect();
    run(&mut db, "SET lock_timeout = '300 ms'");
    let sync = Operation::Sync.sql(&scene);
    assert_says(
        &error(&mut db, &sync),
        "55P03",
        "another session is removing old rows of \"public.visits\", or changing its URL or companions",
        &[],
        "Wait for it to end",
    );
    run(&mut db, "RESET lock_timeout");
    let syncing = thread::spawn(move || outcome(&mut db, &sync));
    thread::sleep(Duration::from_millis(100));
    assert!(!syncing.is_finished());
    run(&mut dropping, "COMMIT");
    assert!(syncing.join().unwrap().is_ok());
}

#[test]
fn a_run_is_dead_when_another_process_has_the_lock_of_its_site() {
    let mut scene = Scene::new();
    scene.reset(false);
    let mut running = scene.connect();
    run(&mut running, "SET hold.me = 'INSERT'");
    run(&mut scene.db, "SELECT pg_advisory_lock(4711)");
    let call = Operation::Run.sql(&scene);
    let syncing = thread::spawn(move || outcome(&mut running, &call));
    let said = "SELECT string_agg(status, ' ' ORDER BY runid) FROM matomo_runs";
    wait_until("it runs", || {
        one::<Option<String>>(&mut scene.db, said).as_deref() == Some("running")
    });
    // As a run that died, before the next run has committed that it recorded this.
    run(
        &mut scene.db,
        "INSERT INTO matomo_run_log (job_pid, database, username, command, status, start_time, site_id,
             owner, owner_name, server, idsite, destination)
         SELECT 1, database, username, command, status, start_time, site_id, owner, owner_name, server, idsite, destination
         FROM matomo_run_log",
    );
    assert_eq!(texts(&mut scene.db, said), ["running failed"]);
    let failures = format!("SELECT failures FROM matomo_status WHERE site_id = {}", scene.site);
    assert_eq!(one::<i32>(&mut scene.db, &failures), 1);
    run(&mut scene.db, "SELECT pg_advisory_unlock(4711)");
    assert!(syncing.join().unwrap().is_ok());
}

#[test]
fn the_second_sync_into_an_emptied_table_waits_for_the_first_and_undoes_nothing_of_it() {
    let mut scene = Scene::new();
    scene.reset(false);
    run(&mut scene.db, "TRUNCATE visits");
    let mut first = begin(&scene, Operation::Sync);
    let mut second =
        shared().connect(&one::<String>(&mut scene.db, "SELECT current_database()::text"));
    run(&mut second, "SET lock_timeout = '300 ms'");
    let sync = Operation::OtherSync.sql(&scene);
    assert_says(
        &error(&mut second, &sync),
        "55P03",
        "\"public.visits\" was emptied, and another session is the first to sync into it",
        &[],
        "Wait for it to end",
    );
    run(&mut second, "RESET lock_timeout");
    let syncing = thread::spawn(move || outcome(&mut second, &sync));
    thread::sleep(Duration::from_millis(100));
    assert!(!syncing.is_finished());
    run(&mut first, "COMMIT");
    assert!(syncing.join().unwrap().is_ok());
    let unread = "SELECT count(*) FROM matomo_ledger WHERE NOT sealed AND day < current_date - 3";
    assert_eq!(one::<i64>(&mut scene.db, unread), 0);
    assert_eq!(one::<i64>(&mut scene.db, "SELECT count(*) FROM visits"), 2 * 3 * 3 * 20);
}
