//! A site that nothing syncs any more has failures, whatever the cause.

use fake_matomo::{Fault, When};
use postgres::Client;

use crate::support::cluster::{Cluster, shared};
use crate::support::sites::many::{START, sites};
use crate::support::sites::{add_site, server};
use crate::support::traps::call;
use crate::support::worker::*;
use crate::support::*;

/// As if all that is recorded had happened hours earlier.
fn hours_later(db: &mut Client) {
    run(
        db,
        "UPDATE matomo_site_state SET changed_at = changed_at - interval '5 h',
             last_success_at = last_success_at - interval '3 h';
         UPDATE matomo_run_log SET start_time = start_time - interval '3 h', step_at = step_at - interval '3 h'",
    );
}

const TOLD: &str =
    "SELECT concat_ws('|', failures, last_sqlstate, last_error, last_hint) FROM matomo_status";

fn told(db: &mut Client) -> String {
    one(db, TOLD)
}

fn held_by(pid: i32, site: i32) -> String {
    format!(
        "1|55P03|process {pid} has kept registered site {site} from a sync for over an hour\
         |End it with pg_terminate_backend({pid}). If it was stopped (SIGSTOP), resume it with kill -CONT {pid}."
    )
}

#[test]
fn a_process_that_was_stopped_is_told_of() {
    let (cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    let arguments = format!("'analytics', 1, '{}', every => '1 second'", noon.text(1));
    let site = register(&mut db, &arguments);
    wait_until("it is synced", || runs(&mut db, site, "succeeded") > 0);
    fake.fail(Fault::Hang, When::live());
    wait_until("it hangs", || fake.requests().iter().any(|seen| seen.fault.is_some()));
    let pid = process_of(&mut db, site).unwrap();
    // SAFETY: a process of this test.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
    run(&mut db, "SELECT count(*) FROM generate_series(1, 3), pg_sleep(1)");
    assert_eq!(told(&mut db), "0");
    hours_later(&mut db);
    wait_until("it is noted", || told(&mut db) == held_by(pid, site));
    // Once.
    run(&mut db, "SELECT count(*) FROM generate_series(1, 3), pg_sleep(1)");
    assert_eq!(told(&mut db), held_by(pid, site));
    fake.heal();
    kill(&cluster, &mut db, pid);
    wait_until("the site is synced again", || told(&mut db).starts_with("0|"));
}

#[test]
fn a_call_that_holds_a_site_without_progress_is_told_of_by_the_next_one() {
    let fake = serve(sites(431, 1));
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    let site = add_site(&mut db, START);
    fake.fail(Fault::Hang, When::live().after(3));
    run(&mut db, "SET matomo.fetch_workers = 1");
    let (token, pid) = (db.cancel_token(), one::<i32>(&mut db, "SELECT pg_backend_pid()"));
    let hanging = call(db, format!("CALL matomo_sync_site({site})"));
    wait_until("it hangs", || fake.requests().iter().any(|seen| seen.fault.is_some()));
    let mut other = shared().connect(&name);
    let skipped = format!("CALL matomo_sync_site({site})");
    hours_later(&mut other);
    // A first import takes hours, but does steps.
    run(&mut other, "UPDATE matomo_run_log SET step_at = now() - interval '50 minutes'");
    run(&mut other, "SELECT pg_sleep(6)");
    run(&mut other, &skipped);
    assert_eq!(told(&mut other), "0");
    run(&mut other, "UPDATE matomo_run_log SET step_at = now() - interval '70 minutes'");
    wait_until("it is told of, once it has held the site for some seconds", || {
        run(&mut other, &skipped);
        told(&mut other) == held_by(pid, site)
    });
    token.cancel_query(postgres::NoTls).unwrap();
    hanging.join().unwrap().1.unwrap_err();
}

#[test]
fn a_site_that_was_just_enabled_or_altered_has_time() {
    let fake = serve(sites(432, 1));
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    let site = add_site(&mut db, START);
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    run(&mut db, "SELECT matomo_create_table('other')");
    let mut holder = shared().connect(&name);
    for change in ["enabled => true", "destination => 'other'"] {
        hours_later(&mut db);
        run(&mut db, "UPDATE matomo_site_config SET created_at = created_at - interval '1 week'");
        run(&mut db, &format!("SELECT matomo_alter_site({site}, {change})"));
        let by_hand = "BEGIN; SELECT matomo_sync(1, server => 'analytics', start_date => current_date, destination => ";
        let table = if change.contains("other") { "other" } else { "matomo" };
        run(&mut holder, &format!("{by_hand}'{table}')"));
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status"), 0, "{change}");
        run(&mut holder, "COMMIT");
    }
}

#[test]
fn runs_that_cannot_begin_have_failed() {
    let (_cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    let break_it = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no room' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER no BEFORE INSERT ON matomo_run_log FOR EACH ROW EXECUTE FUNCTION no()";
    run(&mut db, break_it);
    let arguments = format!("'analytics', 1, '{}', every => '1 second'", noon.text(1));
    let site = register(&mut db, &arguments);
    wait_until("the worker notes it", || told(&mut db) == "1|53100|no room");
    run(&mut db, "UPDATE matomo_site_config SET enabled = false");
    wait_until("it rests", || process_of(&mut db, site).is_none());
    run(&mut db, "UPDATE matomo_site_state SET failures = 0, last_error = NULL");
    run(&mut db, "ALTER SYSTEM SET matomo.database = ''");
    run(&mut db, "SELECT pg_reload_conf()");
    run(&mut db, "UPDATE matomo_site_config SET enabled = true");
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(told(&mut db), "1|53100|no room");
    run(&mut db, "DROP TRIGGER no ON matomo_run_log");
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status"), 0);
}

#[test]
fn where_there_is_no_room_for_a_coordinator_sites_have_failures() {
    // The launcher and the logical replication launcher leave no slot.
    let cluster = Cluster::start_with(&format!("{PRELOADED}max_worker_processes = 2\n"));
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    store(&mut db, "analytics", &fake);
    let site = register(&mut db, &format!("'analytics', 1, '{}'", noon.text(1)));
    assert_eq!(told(&mut db), "0");
    hours_later(&mut db);
    let expected = "1|55000|the background worker is late with the site by more than an hour\
        |Look for the launcher and the coordinator of this database in pg_stat_activity, and for their messages in the log of the server.";
    assert_eq!(told(&mut db), expected);
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(told(&mut db), "0");
    hours_later(&mut db);
    assert_eq!(told(&mut db), expected);
    // A disabled site needs no syncs, and elsewhere somebody else may see to it.
    run(&mut db, "UPDATE matomo_site_config SET enabled = false");
    assert_eq!(told(&mut db), "0");
    run(&mut db, "UPDATE matomo_site_config SET enabled = true");
    set(&mut db, "matomo.database", "nowhere");
    wait_until("the setting is heeded", || told(&mut db) == "0");
}
