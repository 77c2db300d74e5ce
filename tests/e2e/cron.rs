//! pg_cron runs `CALL matomo_sync_all()` every minute, in both of its modes.

use std::thread;
use std::time::{Duration, Instant};

use chrono::Utc;
use fake_matomo::{Action, Visit};

use crate::cluster::Cluster;
use crate::stored::server;
use crate::support::*;

/// As README has it.
const SCHEDULE: &str = "SELECT cron.schedule('matomo', '* * * * *', 'CALL matomo_sync_all()');";

/// Until something holds, which takes minutes here.
fn within_minutes(what: &str, begin: Instant, mut holds: impl FnMut() -> bool) {
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(150), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn runs_every_minute(mode: &str) {
    let cluster = Cluster::start_with(&format!(
        "shared_preload_libraries = 'pg_cron'\ncron.host = '127.0.0.1'\ncron.use_background_workers = {mode}\n"
    ));
    let noon = Noon::new();
    let fake = serve(noon.world(4));
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION pg_cron; CREATE EXTENSION matomo_postgres");
    server(&mut db, &fake);
    let sql = format!("SELECT matomo_add_site('analytics', 1, start_date => '{}')", noon.text(3));
    run(&mut db, &sql);
    run(&mut db, SCHEDULE);
    let begin = Instant::now();
    let grow = || {
        let mut world = fake.world();
        let (id, at) = (world.next_visit_id(), Utc::now().timestamp());
        let page = Action::page(at, "https://noon.test/now", "Now");
        world.site_mut(1).add(Visit::new(id, at).and(page));
    };
    let succeeded = "SELECT count(*) FROM matomo_runs WHERE status = 'succeeded'";
    // Today grows until the second run is done ...
    within_minutes(&format!("two runs are done, mode {mode}"), begin, || {
        grow();
        let lag: Option<f64> = one(&mut db, "SELECT date_part('epoch', lag) FROM matomo_status");
        assert!(lag.is_none_or(|lag| lag < 120.0), "lag of {lag:?} s, mode {mode}");
        one::<i64>(&mut db, succeeded) >= 2
    });
    // ... and what came after that run is not there yet, unlike all that came before it.
    let since: f64 = one(&mut db, "SELECT date_part('epoch', max(synced_to)) FROM matomo_status");
    let oracle: Vec<_> = {
        let mut world = fake.world();
        let later: Vec<_> = world
            .site(1)
            .visits
            .iter()
            .filter(|visit| visit.last > since as i64 - 1)
            .map(|visit| visit.id)
            .collect();
        for id in later {
            world.site_mut(1).delete(id);
        }
        drop(world);
        all_of(&fake, 1)
    };
    assert!(oracle.len() > 3 * 4 * 3 + 100, "today has not grown: {}", oracle.len());
    let before = format!(
        "(SELECT * FROM matomo WHERE action_timestamp <= to_timestamp({}) OR action_title <> 'Now') copied",
        since as i64 - 1
    );
    assert_equal(&mut db, &before, &oracle);
    // Each run is one of pg_cron's, and nothing failed.
    let jobs = "SELECT count(*) FILTER (WHERE status = 'succeeded') >= 2 AND count(*) FILTER (WHERE status = 'failed') = 0
        FROM cron.job_run_details";
    within_minutes("pg_cron says so too", begin, || one(&mut db, jobs));
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_runs WHERE status = 'failed'"), 0);
    assert_eq!(
        one::<String>(&mut db, "SELECT min(command) FROM matomo_runs"),
        "CALL matomo_sync_all()"
    );
}

#[test]
fn every_minute_in_both_modes_with_a_lag_below_two() {
    assert!(include_str!("../../README.md").contains(SCHEDULE));
    if !std::path::Path::new(&format!("{}/pg_cron.so", pkglibdir())).exists() {
        // tests/setup installs it wherever apt has it.
        println!("no pg_cron here");
        return;
    }
    let modes = ["off", "on"].map(|mode| thread::spawn(move || runs_every_minute(mode)));
    for mode in modes {
        mode.join().unwrap();
    }
}

/// Where the server that is tested has its libraries.
fn pkglibdir() -> String {
    let config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".to_owned());
    let output = std::process::Command::new(config).arg("--pkglibdir").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
