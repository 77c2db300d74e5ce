//! pg_cron runs `CALL matomo_sync_all()` every minute, in both of its modes: for two minutes here,
//! for five in `make soak`.

use std::thread;
use std::time::{Duration, Instant};

use chrono::Utc;
use fake_matomo::{Action, Visit};

use crate::support::cluster::Cluster;
use crate::support::sites::server;
use crate::support::soak::{figures, is_long};
use crate::support::*;

/// As in docs/scheduling.md.
const SCHEDULE: &str = "SELECT cron.schedule('matomo', '* * * * *', 'CALL matomo_sync_all()');";

/// The number of minutes.
fn ticks() -> u64 {
    if is_long() { 5 } else { 2 }
}

/// Waits for a condition that takes minutes here.
fn within_minutes(what: &str, begin: Instant, mut holds: impl FnMut() -> bool) {
    while !holds() {
        let limit = Duration::from_secs(60 * ticks() + 150);
        assert!(begin.elapsed() < limit, "waited in vain until {what}");
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
    let mut greatest = 0.0_f64;
    // Today gets new visits until the last run is done ...
    within_minutes(&format!("{} runs are done, mode {mode}", ticks()), begin, || {
        grow();
        let lag: Option<f64> = one(&mut db, "SELECT date_part('epoch', lag) FROM matomo_status");
        greatest = greatest.max(lag.unwrap_or_default());
        assert!(greatest < 120.0, "lag of {greatest} s, mode {mode}");
        one::<i64>(&mut db, succeeded) as u64 >= ticks()
    });
    // ... and those newer than that run are missing, while all older ones are there.
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
    // Each run was started by pg_cron, and none failed.
    let jobs = format!("SELECT count(*) FILTER (WHERE status = 'succeeded') >= {} AND count(*) FILTER (WHERE status = 'failed') = 0
        FROM cron.job_run_details", ticks());
    within_minutes("pg_cron says so too", begin, || one(&mut db, &jobs));
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_runs WHERE status = 'failed'"), 0);
    assert_eq!(
        one::<String>(&mut db, "SELECT min(command) FROM matomo_runs"),
        "CALL matomo_sync_all()"
    );
    figures(
        &format!("pg_cron, cron.use_background_workers = {mode}"),
        &format!(
            "CALL matomo_sync_all() every minute, {} times, beside a Matomo whose today grew by {} visits | \
             the table is the oracle's, row by row; lag of {greatest:.0} s at the most",
            one::<i64>(&mut db, succeeded),
            one::<i64>(
                &mut db,
                "SELECT count(DISTINCT idvisit) FROM matomo WHERE action_title = 'Now'"
            )
        ),
    );
}

#[test]
fn every_minute_in_both_modes_with_a_lag_below_two() {
    assert!(crate::support::pages::page("docs/scheduling.md").contains(SCHEDULE));
    if !is_pg_cron_here() {
        return;
    }
    let modes = ["off", "on"].map(|mode| thread::spawn(move || runs_every_minute(mode)));
    for mode in modes {
        mode.join().unwrap();
    }
}

/// The grants in docs/install.md and docs/scheduling.md are sufficient.
#[test]
fn an_everyday_role_schedules_its_own_sites() {
    if !is_pg_cron_here() {
        return;
    }
    let cluster = Cluster::start_with(
        "shared_preload_libraries = 'pg_cron'\ncron.use_background_workers = on\n",
    );
    let noon = Noon::new();
    let fake = serve(noon.world(4));
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION pg_cron; CREATE EXTENSION matomo_postgres");
    let install = crate::support::pages::page("docs/install.md");
    let role = crate::support::pages::block(&install, "CREATE ROLE etl LOGIN;");
    let role = role.replace("https://analytics.example.org", &fake.url());
    run(&mut db, &role.replace("'TOKEN'", &format!("'{}'", fake.token())));
    let scheduling = crate::support::pages::page("docs/scheduling.md");
    run(&mut db, crate::support::pages::block(&scheduling, "GRANT USAGE ON SCHEMA cron TO etl;"));
    let mut etl = cluster.connect_as("postgres", "etl");
    let add = format!(
        "SELECT matomo_add_site('analytics', 1, start_date => '{}', destination => 'analytics.matomo')",
        noon.text(3)
    );
    run(&mut etl, &add);
    run(&mut etl, SCHEDULE);
    let succeeded = "SELECT count(*) FROM matomo_runs WHERE status = 'succeeded'";
    within_minutes("a run succeeds", Instant::now(), || one::<i64>(&mut etl, succeeded) > 0);
    let jobs = "SELECT count(*) FROM cron.job_run_details WHERE status = 'succeeded'";
    within_minutes("its job is done", Instant::now(), || one::<i64>(&mut etl, jobs) > 0);
}

/// packaging/setup installs pg_cron wherever apt has it.
fn is_pg_cron_here() -> bool {
    let here = std::path::Path::new(&format!("{}/pg_cron.so", pkglibdir())).exists();
    if !here {
        println!("no pg_cron here");
    }
    here
}

/// The library directory of the tested server.
fn pkglibdir() -> String {
    let config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".to_owned());
    let output = std::process::Command::new(config).arg("--pkglibdir").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
