//! The background worker as a process: when it starts, when it is idle, what ends it.

use crate::support::cluster::{Cluster, is_gone};
use crate::support::worker::*;
use crate::support::*;

const MISSING: &str = "extension \"matomo_postgres\" is not created in database";

#[test]
fn without_the_extension_it_says_so_once_and_waits_for_it() {
    let cluster = Cluster::start_with(PRELOADED);
    let mut db = cluster.connect("postgres");
    let idle = [
        "matomo coordinator (postgres) matomo: 0 at work, sleeps until",
        "matomo launcher matomo: databases: 1",
    ];
    wait_until("the worker sleeps", || workers(&mut db) == idle);
    let pid = coordinator_pid(&mut db, "postgres");
    // A few naps without another log message.
    let naps = "SELECT count(*) FROM generate_series(1, 3), pg_sleep(1)";
    run(&mut db, naps);
    assert_eq!(cluster.log().matches(MISSING).count(), 1, "{}", cluster.log());
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    run(&mut db, naps);
    run(&mut db, "DROP EXTENSION matomo_postgres");
    wait_until("it misses the extension", || cluster.log().matches(MISSING).count() == 2);
    assert_eq!(coordinator_pid(&mut db, "postgres"), pid, "it is still the same");
    let log = cluster.log();
    for word in ["ERROR", "FATAL", "WARNING"] {
        assert!(!log.contains(word), "{log}");
    }
}

#[test]
fn the_list_of_databases_is_followed() {
    let cluster = Cluster::start_with(
        "shared_preload_libraries = 'matomo_postgres'\nmatomo.database = 'postgres, nowhere'\nmatomo.naptime = '1s'\n",
    );
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE DATABASE \"Second, one\"");
    run(&mut db, "CREATE DATABASE closed ALLOW_CONNECTIONS false");
    wait_until("one works", || coordinator_pid(&mut db, "postgres").is_some());
    let first = coordinator_pid(&mut db, "postgres");
    set(&mut db, "matomo.database", "postgres, \"Second, one\", nowhere, closed");
    wait_until("two work", || coordinator_pid(&mut db, "Second, one").is_some());
    assert_eq!(coordinator_pid(&mut db, "postgres"), first, "the first goes on");
    run(&mut db, "SELECT count(*) FROM generate_series(1, 2), pg_sleep(1)");
    let log = cluster.log();
    let nowhere = "WARNING:  database \"nowhere\" of matomo.database does not exist";
    assert_eq!(log.matches(nowhere).count(), 1, "{log}");
    let closed = "WARNING:  database \"closed\" of matomo.database does not accept connections";
    assert_eq!(log.matches(closed).count(), 1, "{log}");
    // A database created later is found.
    run(&mut db, "CREATE DATABASE nowhere");
    wait_until("three work", || coordinator_pid(&mut db, "nowhere").is_some());

    set(&mut db, "matomo.database", "\"Second, one\"");
    wait_until("one is left", || {
        workers(&mut db)
            == [
                "matomo coordinator (Second, one) matomo: 0 at work, sleeps until",
                "matomo launcher matomo: databases: 1",
            ]
    });
    set(&mut db, "matomo.database", "");
    wait_until("none is left", || workers(&mut db) == ["matomo launcher matomo: databases: 0"]);
}

#[test]
fn a_database_is_dropped_by_force_or_when_it_is_off_the_list() {
    let cluster = Cluster::start_with(&PRELOADED.replace("'postgres'\n", "'postgres, second'\n"));
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE DATABASE second");
    wait_until("it works", || coordinator_pid(&mut db, "second").is_some());
    run(&mut db, "DROP DATABASE second WITH (FORCE)");
    let gone = "database \"second\" of matomo.database does not exist";
    wait_until("it is missed", || cluster.log().matches(gone).count() > 0);
    assert_eq!(workers(&mut db).len(), 2, "launcher and the other worker");
    run(&mut db, "CREATE DATABASE second");
    wait_until("it works again", || coordinator_pid(&mut db, "second").is_some());
    run(&mut db, "ALTER SYSTEM SET matomo.database = 'postgres'");
    run(&mut db, "SELECT pg_reload_conf()");
    wait_until("it has left", || coordinator_pid(&mut db, "second").is_none());
    run(&mut db, "DROP DATABASE second");
}

/// As docs/scheduling.md describes.
#[test]
fn a_database_is_renamed_once_it_is_off_the_list() {
    let cluster = Cluster::start_with(
        "shared_preload_libraries = 'matomo_postgres'\nmatomo.database = 'postgres, shop'\nmatomo.naptime = '1s'\n",
    );
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE DATABASE shop");
    wait_until("it works", || coordinator_pid(&mut db, "shop").is_some());
    let refused = error(&mut db, "ALTER DATABASE shop RENAME TO store");
    assert_says(&refused, "55006", "database \"shop\" is being accessed by other users", &[], "");
    set(&mut db, "matomo.database", "postgres");
    run(&mut db, "ALTER DATABASE shop RENAME TO store");
    set(&mut db, "matomo.database", "postgres, store");
    wait_until("it works again", || coordinator_pid(&mut db, "store").is_some());
}

#[test]
fn one_that_is_terminated_is_started_again() {
    let cluster = Cluster::start_with(PRELOADED);
    let mut db = cluster.connect("postgres");
    wait_until("it works", || coordinator_pid(&mut db, "postgres").is_some());
    let first = coordinator_pid(&mut db, "postgres");
    run(&mut db, &format!("SELECT pg_terminate_backend({})", first.unwrap()));
    wait_until("another works", || {
        coordinator_pid(&mut db, "postgres").is_some_and(|pid| Some(pid) != first)
    });
    // The launcher too; its workers end with it, so a database never has two.
    let launcher = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'matomo launcher'";
    let before: i32 = one(&mut db, launcher);
    run(&mut db, &format!("SELECT pg_terminate_backend({before})"));
    wait_until("another launches", || {
        texts(&mut db, &launcher.replace("pid FROM", "pid::text FROM"))
            .iter()
            .any(|pid| *pid != before.to_string())
    });
    let idle = [
        "matomo coordinator (postgres) matomo: 0 at work, sleeps until",
        "matomo launcher matomo: databases: 1",
    ];
    wait_until("all is as it was", || workers(&mut db) == idle);
}

#[test]
fn without_room_for_another_process_it_says_what_to_do_once() {
    let cluster = Cluster::start_with(&format!("{PRELOADED}max_worker_processes = 2\n"));
    let mut db = cluster.connect("postgres");
    let hint = "HINT:  Increase max_worker_processes: the launcher needs one, and each database of matomo.database 1 + matomo.max_workers.";
    wait_until("it is said", || cluster.log().contains(hint));
    run(&mut db, "SELECT count(*) FROM generate_series(1, 3), pg_sleep(1)");
    let said = "WARNING:  could not start the coordinator of database \"postgres\"";
    assert_eq!(cluster.log().matches(said).count(), 1, "{}", cluster.log());
}

#[test]
fn a_standby_has_none_until_it_is_promoted() {
    let cluster = Cluster::start_with(PRELOADED);
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    let standby = cluster.standby();
    let mut there = standby.connect("postgres");
    assert!(one::<bool>(&mut there, "SELECT pg_is_in_recovery()"));
    run(&mut there, "SELECT count(*) FROM generate_series(1, 2), pg_sleep(1)");
    assert_eq!(workers(&mut there), [""; 0]);
    for word in ["extension", "launcher", "worker", "WARNING", "ERROR", "FATAL"] {
        assert!(!standby.log().contains(word), "{}", standby.log());
    }
    run(&mut there, "SELECT pg_promote()");
    wait_until("it takes over", || coordinator_pid(&mut there, "postgres").is_some());
}

#[test]
fn it_is_gone_with_its_postmaster() {
    let cluster = Cluster::start_with(PRELOADED);
    let mut db = cluster.connect("postgres");
    wait_until("it works", || coordinator_pid(&mut db, "postgres").is_some());
    let pid = coordinator_pid(&mut db, "postgres").unwrap();
    let postmaster = cluster.postmaster();
    // SAFETY: a process of this test.
    assert_eq!(unsafe { libc::kill(postmaster, libc::SIGKILL) }, 0);
    wait_until("it has ended", || is_gone(pid) && is_gone(postmaster));
}
