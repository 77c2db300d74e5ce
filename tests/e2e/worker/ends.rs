//! Whatever ends in the midst of runs: the database, a process of the worker, the primary server.

use std::time::{Duration, Instant};

use chrono::{Days, Utc};
use fake_matomo::{Fault, When};

use crate::support::cluster::Cluster;
use crate::support::report::every_row;
use crate::support::worker::*;
use crate::support::*;

fn hangs(fake: &fake_matomo::Fake) -> bool {
    fake.requests().iter().any(|seen| seen.fault.is_some())
}

#[test]
fn a_database_is_dropped_by_force_while_its_runs_hang() {
    let cluster = Cluster::start_with(&PRELOADED.replace("'postgres'\n", "'postgres, second'\n"));
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    run(&mut db, "CREATE DATABASE second");
    let mut second = cluster.connect("second");
    run(&mut second, "CREATE EXTENSION matomo_postgres");
    store(&mut second, "analytics", &fake);
    fake.fail(Fault::Hang, When::live());
    let arguments = format!("'analytics', 1, '{}', every => '1 second'", noon.text(1));
    let site = register(&mut second, &arguments);
    wait_until("it hangs", || hangs(&fake));
    assert!(process_of(&mut second, site).is_some());
    drop(second);
    let begin = Instant::now();
    run(&mut db, "DROP DATABASE second WITH (FORCE)");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let gone = "database \"second\" of matomo.database does not exist";
    wait_until("it is missed", || cluster.log().contains(gone));
    wait_until("its processes have ended", || workers(&mut db).len() == 2);
    // The other database is served as before.
    fake.heal();
    store(&mut db, "analytics", &fake);
    let site = register(&mut db, &arguments);
    wait_until("it is synced", || runs(&mut db, site, "succeeded") > 0);
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
}

#[test]
fn kill_9_of_coordinator_or_launcher_loses_one_step() {
    let (cluster, mut db) = cluster_with_worker();
    let [first, last] = [200, 2].map(|ago| (Utc::now().date_naive() - Days::new(ago)).to_string());
    let fake = serve(world(441, "UTC", 2, &first, &last));
    fake.knobs().latency = Duration::from_millis(30);
    store(&mut db, "analytics", &fake);
    let site = register(&mut db, &format!("'analytics', 1, '{first}', every => '1 second'"));
    let sealed = "SELECT count(*) FROM matomo_ledger WHERE sealed";
    for kind in ["coordinator", "launcher"] {
        let before: i64 = one(&mut db, sealed);
        wait_long(60, "days are done", || one::<i64>(&mut db, sealed) > before + 5);
        let pid = format!("SELECT pid FROM pg_stat_activity WHERE backend_type = 'matomo {kind}'");
        let pid: i32 = one(&mut db, &pid);
        kill(&cluster, &mut db, pid);
        assert!(one::<i64>(&mut db, sealed) > before + 5, "{kind}: what was committed is there");
        wait_until("all processes are back", || coordinator_pid(&mut db, "postgres").is_some());
        assert_eq!(runs(&mut db, site, "succeeded"), 0, "{kind}: it was in the midst of a run");
        // Not to wait for the whole backoff.
        run(&mut db, "UPDATE matomo_site_state SET next_at = now()");
    }
    fake.knobs().latency = Duration::ZERO;
    wait_long(90, "the import is done", || runs(&mut db, site, "succeeded") > 0);
    every_row(&mut db, "matomo", &all_of(&fake, 1));
    assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status"), 0);
}

#[test]
fn a_promoted_standby_resumes_a_run_that_was_halfway() {
    let (cluster, mut db) = cluster_with_worker();
    let [first, last] = [60, 2].map(|ago| (Utc::now().date_naive() - Days::new(ago)).to_string());
    let fake = serve(world(442, "UTC", 2, &first, &last));
    let standby = cluster.standby();
    let mut there = standby.connect("postgres");
    store(&mut db, "analytics", &fake);
    fake.fail(Fault::Hang, When::live().after(30));
    let site = register(&mut db, &format!("'analytics', 1, '{first}', every => '1 second'"));
    wait_until("it hangs", || hangs(&fake));
    let sealed = "SELECT count(*) FROM matomo_ledger WHERE sealed";
    let done: i64 = one(&mut db, sealed);
    assert!(done > 20, "{done}");
    let table = "SELECT to_regclass('matomo_ledger') IS NOT NULL";
    wait_until("it is replicated", || {
        one::<bool>(&mut there, table) && one::<i64>(&mut there, sealed) == done
    });
    assert_eq!(runs(&mut there, site, "running"), 1);
    drop(db);
    cluster.stop("immediate");
    fake.heal();
    fake.clear_requests();
    run(&mut there, "SELECT pg_promote()");
    wait_until("it takes over", || coordinator_pid(&mut there, "postgres").is_some());
    wait_until("the run is noted as interrupted", || {
        let told = "SELECT return_message FROM matomo_runs WHERE status = 'failed'";
        texts(&mut there, told) == ["the run was interrupted"]
    });
    run(&mut there, "UPDATE matomo_site_state SET next_at = now()");
    wait_long(60, "the import is done", || runs(&mut there, site, "succeeded") > 0);
    every_row(&mut there, "matomo", &all_of(&fake, 1));
    // Sealed days are not read again.
    let mut days = asked(&fake);
    days.retain(|line| line.starts_with("day ") && line[4..14] < *last);
    assert!(days.len() as i64 <= 59 - done, "{done}: {days:?}");
    assert_eq!(one::<i32>(&mut there, "SELECT failures FROM matomo_status"), 0);
}
