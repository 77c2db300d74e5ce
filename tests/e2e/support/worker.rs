//! A server with a background worker, and a registered site.

use std::time::{Duration, Instant};

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::*;

/// Settings of a server with a worker in the database postgres.
pub const PRELOADED: &str = "shared_preload_libraries = 'matomo_postgres'\nmatomo.database = 'postgres'\n\
    matomo.naptime = '1s'\nmatomo.settle_time = 0\nmatomo.max_retries = 0\n";

/// A server whose worker finds the extension, and a connection to it.
pub fn cluster_with_worker() -> (Cluster, Client) {
    let cluster = Cluster::start_with(PRELOADED);
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    (cluster, db)
}

/// Creates a server and a user mapping for the current user.
pub fn store(db: &mut Client, server: &str, fake: &Fake) {
    run(
        db,
        &format!(
            "CREATE SERVER {server} FOREIGN DATA WRAPPER matomo OPTIONS (url '{}');
             CREATE USER MAPPING FOR CURRENT_USER SERVER {server} OPTIONS (token '{}')",
            fake.url(),
            fake.token()
        ),
    );
}

/// Registers a site; returns its ID.
pub fn register(db: &mut Client, arguments: &str) -> i32 {
    one(db, &format!("SELECT matomo_add_site({arguments})"))
}

/// The process ID of a database's coordinator, if it runs.
pub fn coordinator_pid(db: &mut Client, database: &str) -> Option<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'matomo coordinator' AND datname = $1";
    db.query_opt(sql, &[&database]).unwrap().map(|row| row.get(0))
}

/// The launcher and the other background processes, one line each: `type (database) query`.
pub fn workers(db: &mut Client) -> Vec<String> {
    texts(
        db,
        "SELECT concat_ws(' ', backend_type, '(' || datname || ')', regexp_replace(query, ' [0-9-]+ [0-9:]+ UTC', ''))
         FROM pg_stat_activity WHERE backend_type LIKE 'matomo %' ORDER BY 1",
    )
}

/// Number of runs of a site with this status.
pub fn runs(db: &mut Client, site: i32, status: &str) -> i64 {
    one(
        db,
        &format!("SELECT count(*) FROM matomo_runs WHERE site_id = {site} AND status = '{status}'"),
    )
}

/// Waits up to `seconds` for a condition.
pub fn wait_long(seconds: u64, what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(seconds), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Changes a setting and reloads the configuration.
pub fn set(db: &mut Client, name: &str, value: &str) {
    run(db, &format!("ALTER SYSTEM SET {name} = '{value}'"));
    run(db, "SELECT pg_reload_conf()");
}

/// The ID of the process that syncs a site, if there is one.
pub fn process_of(db: &mut Client, site: i32) -> Option<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'matomo worker' AND application_name = $1";
    let name = format!("matomo worker: site {site}");
    db.query_opt(sql, &[&name]).unwrap().map(|row| row.get(0))
}

/// Kills a process, with which the server restarts, and connects again.
pub fn kill(cluster: &Cluster, db: &mut Client, pid: i32) {
    // SAFETY: a process of this test.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    wait_until("this session has ended", || db.query("SELECT 1", &[]).is_err());
    wait_long(30, "the server is back", || {
        cluster.config("postgres", "postgres").connect(postgres::NoTls).is_ok_and(|again| {
            *db = again;
            true
        })
    });
}
