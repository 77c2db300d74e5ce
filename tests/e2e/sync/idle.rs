//! Reads take no transaction ID and write no WAL, so they work in a read-only transaction and on a
//! standby.

use std::time::{Duration, Instant};

use crate::support::case::Case;
use crate::support::cluster::Cluster;
use crate::support::worker::*;
use crate::support::*;

/// Postgres' own processes also write at times, but not all the time.
const STILL: Duration = Duration::from_secs(6);

#[test]
fn a_worker_with_nothing_due_takes_no_transaction_id_and_writes_no_wal() {
    let cluster = Cluster::start_with(&format!("{PRELOADED}autovacuum = off\n"));
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    let noon = Noon::new();
    let fake = serve(noon.world(3));
    store(&mut db, "analytics", &fake);
    let site = register(&mut db, "'analytics', 1, every => '1 hour'");
    wait_until("it is synced", || runs(&mut db, site, "succeeded") == 1);
    let now = "SELECT concat_ws(' ', pg_current_wal_insert_lsn(), pg_snapshot_xmax(pg_current_snapshot()))";
    let (mut before, mut since) = (String::new(), Instant::now());
    wait_long(60, "nothing is written", || {
        let now = one(&mut db, now);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        since.elapsed() > STILL
    });
    // The worker looked meanwhile: a due site is synced within a naptime.
    assert!(coordinator_pid(&mut db, "postgres").is_some());
}

/// Runs a statement in a transaction, and asserts that it took no transaction ID.
fn assert_takes_no_id(case: &mut Case, sql: &str) {
    run(&mut case.db, &format!("BEGIN; {sql}"));
    let id: Option<String> = one(&mut case.db, "SELECT pg_current_xact_id_if_assigned()::text");
    assert_eq!(id, None, "{sql}");
    run(&mut case.db, "COMMIT");
}

#[test]
fn what_only_reads_takes_no_transaction_id() {
    for table in ["matomo", "matomo_partitioned"] {
        let mut case = Case::new(table);
        store(&mut case.db, "analytics", &case.fake);
        register(&mut case.db, &format!("'analytics', 1, destination => '{table}'"));
        let deep = case.sql(", deep => true");
        for sql in [
            &case.sql(""),
            &deep,
            "SELECT * FROM matomo_status",
            "SELECT * FROM matomo_progress",
            "SELECT * FROM matomo_sites",
            "SELECT * FROM matomo_runs",
            "SELECT * FROM matomo_days",
        ] {
            assert_takes_no_id(&mut case, sql);
        }
    }
}

#[test]
fn a_poll_with_nothing_new_takes_no_transaction_id() {
    for table in ["matomo", "matomo_partitioned"] {
        let mut case = Case::new(table);
        let poll = format!(", destination => '{table}'");
        let poll = sync_sql(&case.fake, 1, &poll);
        run(&mut case.db, &poll);
        case.fake.clear_requests();
        assert_takes_no_id(&mut case, &poll);
        assert_eq!(case.fake.requests().len(), 1);
    }
}

#[test]
fn a_standby_checks_and_shows() {
    let cluster = Cluster::start();
    let name = cluster.database();
    let mut db = cluster.connect(&name);
    let fake = serve(world(61, "Europe/Berlin", 20, "2026-01-01", "2026-01-03"));
    let call = Sync::of(&fake, "2026-01-01", "2026-01-03").into("matomo_partitioned");
    assert!(call.run(&mut db).inserted > 0);
    run(
        &mut db,
        "DELETE FROM matomo_partitioned WHERE idvisit = (SELECT max(idvisit) FROM matomo_partitioned)",
    );
    // The locks of runs exist on the primary only.
    run(
        &mut db,
        "INSERT INTO matomo_run_log (job_pid, database, username, command, status, start_time, site_id, owner,
             server, idsite, destination)
         VALUES (1, current_database(), 'postgres', 'CALL matomo_sync_all()', 'running', now(), 1, 'postgres',
             'analytics', 1, 'matomo_partitioned')",
    );
    let standby = cluster.standby();
    let mut there = standby.connect(&name);
    let status = "SELECT status FROM matomo_runs";
    assert_eq!([one::<String>(&mut db, status), one(&mut there, status)], ["failed", "running"]);
    assert!(one::<bool>(&mut there, "SELECT pg_is_in_recovery()"));
    let check = |more: &str| {
        format!(
            "SELECT sum(missing)::int8, sum(extra)::int8, sum(stale)::int8 \
             FROM matomo_check(1, '2026-01-01', '2026-01-03', '{}', '{}', 'matomo_partitioned'{more})",
            fake.url(),
            fake.token()
        )
    };
    for more in ["", ", deep => true"] {
        let row = there.query_one(&check(more), &[]).unwrap_or_else(|error| panic!("{error:?}"));
        let found: Vec<i64> = (0..3).map(|column| row.get(column)).collect();
        assert_eq!(found, [1, 0, 0], "{more}");
    }
    assert_eq!(ledger(&mut there, "matomo_partitioned"), ledger(&mut db, "matomo_partitioned"));
    run(&mut there, "SELECT * FROM matomo_status");
    fake.clear_requests();
    for (sql, called) in
        [(check(", repair => true"), "matomo_check(repair)"), (call.sql(), "matomo_sync()")]
    {
        let refused = error(&mut there, &sql);
        let message = format!("cannot execute {called} in a read-only transaction");
        assert_eq!((refused.code().code(), refused.message()), ("25006", &*message));
    }
    assert_eq!(asked(&fake), [""; 0]);
}
