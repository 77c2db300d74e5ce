//! The background worker with a fleet: sites that hang, fail, are locked or import endlessly do
//! not delay healthy sites. `MATOMO_FLEET_SECONDS` runs it for longer, with 50 healthy sites.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{Days, Utc};
use fake_matomo::{Clock, Fault, Page, Plan, Saying, SitePlan, When, World};
use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::worker::*;
use crate::support::*;

/// Sites 1 to `count`, each with a few visits of yesterday.
fn many(count: i64) -> World {
    let yesterday = Utc::now().date_naive() - Days::new(1);
    World::generate(&Plan {
        seed: 401,
        sites: (1..=count).map(|id| SitePlan::new(id, "UTC", 2)).collect(),
        first_day: yesterday,
        last_day: yesterday,
        now: Clock::Real,
    })
}

/// CPU seconds that a process has used.
fn cpu(pid: i32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?) / 100.0)
}

/// The highest CPU load of any of our processes, each over at least two seconds.
#[derive(Default)]
struct Load {
    begun: HashMap<i32, (Instant, f64)>,
    most: f64,
}

impl Load {
    fn look(&mut self, db: &mut Client) {
        let pids = "SELECT pid::text FROM pg_stat_activity WHERE backend_type LIKE 'matomo %'";
        let pids: Vec<i32> = texts(db, pids).iter().map(|pid| pid.parse().unwrap()).collect();
        self.begun.retain(|pid, _| pids.contains(pid));
        for pid in pids {
            let Some(now) = cpu(pid) else { continue };
            let (since, before) = *self.begun.entry(pid).or_insert((Instant::now(), now));
            let seconds = since.elapsed().as_secs_f64();
            if seconds > 2.0 {
                self.most = self.most.max((now - before) / seconds);
                self.begun.insert(pid, (Instant::now(), now));
            }
        }
    }
}

#[test]
fn sites_that_hang_fail_are_locked_or_import_for_ever_hold_up_no_other() {
    let long = std::env::var("MATOMO_FLEET_SECONDS").ok().map(|text| text.parse().unwrap());
    let (seconds, count, timeout): (u64, i64, u64) = match long {
        Some(seconds) => (seconds, 50, 10),
        None => (26, 10, 3),
    };
    let cluster = Cluster::start_with(&format!(
        "{}matomo.request_timeout = {timeout}\nlog_lock_waits = off\n",
        PRELOADED.replace("matomo.max_retries = 0\n", "")
    ));
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    let [first, last] = [3000, 1].map(|ago| (Utc::now().date_naive() - Days::new(ago)).to_string());
    let well = serve(many(count));
    let (hangs, fails, locked) = (serve(many(1)), serve(many(1)), serve(many(1)));
    let endless = serve(world(402, "UTC", 1, &first, &last));
    let servers = [
        ("well", &well),
        ("hangs", &hangs),
        ("fails", &fails),
        ("locked", &locked),
        ("endless", &endless),
    ];
    for (server, fake) in servers {
        store(&mut db, server, fake);
        run(&mut db, &format!("SELECT matomo_create_table('visits_{server}')"));
    }
    let every = "every => '5 s', enabled => false";
    let mut at = |server: &str, site: i64, first: &str| {
        let table = format!("'visits_{server}'");
        register(&mut db, &format!("'{server}', {site}, '{first}', {table}, {every}"))
    };
    let bad = ["hangs", "fails", "locked"].map(|server| at(server, 1, &last));
    let import = at("endless", 1, &first);
    for site in 1..=count {
        at("well", site, &last);
    }
    hangs.fail(Fault::Hang, When::always());
    fails.fail(Fault::Status(503, Page::Html), When::always());
    endless.knobs().latency = Duration::from_millis(200);
    let mut holder = cluster.connect("postgres");
    run(&mut holder, "BEGIN; LOCK TABLE visits_locked");

    run(
        &mut db,
        "UPDATE matomo_site_config SET enabled = true; UPDATE matomo_site_state SET next_at = now()",
    );
    set(&mut db, "matomo.naptime", "1s");
    let begin = Instant::now();
    let began: String = one(&mut db, "SELECT now()::text");
    let (mut load, mut failed_after) = (Load::default(), HashMap::new());
    while begin.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(250));
        load.look(&mut db);
        for site in &bad {
            let failures = format!("SELECT failures FROM matomo_status WHERE site_id = {site}");
            if one::<i32>(&mut db, &failures) > 0 {
                failed_after.entry(*site).or_insert(begin.elapsed());
            }
        }
    }
    // How late each run of a healthy site started after it was due, including the next run, which
    // is still to come.
    let late = format!(
        "WITH run AS (
             SELECT site_id, start_time, lag(start_time) OVER (PARTITION BY site_id ORDER BY start_time) AS before
             FROM (SELECT site_id, start_time FROM matomo_runs WHERE server = 'well'
                   UNION ALL SELECT id, clock_timestamp() FROM matomo_sites WHERE server = 'well') x)
         SELECT date_part('epoch', max(start_time - coalesce(before + interval '5 s', '{began}'))) FROM run"
    );
    let late: f64 = one(&mut db, &late);
    let count_of = |db: &mut Client, what: &str| {
        one::<i64>(db, &format!("SELECT count(*) FROM matomo_runs WHERE {what}"))
    };
    let runs_well = count_of(&mut db, "server = 'well' AND status = 'succeeded'");
    let turns = "SELECT count(DISTINCT day) FROM matomo_ledger WHERE destination = 'visits_endless'::regclass";
    println!(
        "{count} sites that are well for {seconds} s: {runs_well} runs, {late:.1} s late at most; most CPU of a process {:.0} %; \
         the import is at {} days; failures > 0 after {failed_after:?}; failed runs: {}",
        load.most * 100.0,
        one::<i64>(&mut db, turns),
        count_of(&mut db, "status = 'failed'"),
    );
    assert!(late < 20.0, "{late} s");
    assert!(load.most < 0.9, "{}", load.most);
    let most = Duration::from_secs(2 * timeout.max(10) + 2);
    for site in &bad {
        let after = failed_after.get(site);
        assert!(after.is_some_and(|after| *after < most), "site {site}: {failed_after:?}");
    }
    assert_eq!(count_of(&mut db, "server = 'well' AND status = 'failed'"), 0, "{}", cluster.log());
    assert!(
        count_of(
            &mut db,
            &format!("site_id = {import} AND status IN ('running', 'paused', 'succeeded')")
        ) > 0
    );
    assert!(one::<i64>(&mut db, turns) > 20, "the import goes on");
    let stop = Instant::now();
    cluster.stop("fast");
    let took = stop.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn sites_that_never_failed_of_matomos_that_hang_hold_up_no_site_of_another() {
    let cluster = Cluster::start_with(&format!("{PRELOADED}matomo.request_timeout = 5\n"));
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    let (well, one_hangs, other_hangs) = (serve(many(20)), serve(many(20)), serve(many(10)));
    for (server, fake, count) in
        [("one_hangs", &one_hangs, 20), ("other_hangs", &other_hangs, 10), ("well", &well, 20)]
    {
        store(&mut db, server, fake);
        run(&mut db, &format!("SELECT matomo_create_table('{server}')"));
        for site in 1..=count {
            let every = "every => '5 s', enabled => false";
            register(&mut db, &format!("'{server}', {site}, destination => '{server}', {every}"));
        }
    }
    for fake in [&one_hangs, &other_hangs] {
        fake.fail(Fault::Hang, When::always());
    }
    // Sites that hang come first.
    run(
        &mut db,
        "UPDATE matomo_site_config SET enabled = true;
         UPDATE matomo_site_state SET next_at = now() - interval '5 min' / site_id",
    );
    let due = Instant::now();
    let waits =
        "SELECT coalesce(date_part('epoch', max(clock_timestamp() - last_success_at)), 1000)
        FROM matomo_site_state t JOIN matomo_sites s ON s.id = t.site_id WHERE server = 'well'";
    let all = "SELECT count(*) FROM matomo_site_state t JOIN matomo_sites s ON s.id = t.site_id
        WHERE server = 'well' AND last_success_at IS NOT NULL";
    wait_long(20, "all that are well are synced", || one::<i64>(&mut db, all) == 20);
    let first = due.elapsed();
    let mut most: f64 = 0.0;
    while due.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(250));
        most = most.max(one(&mut db, waits));
    }
    println!("synced after {first:?}, then after {most:.1} s at most");
    // Every five seconds, plus the delay.
    assert!(most < 25.0, "{most} s");
    let failed = "SELECT count(*) FROM matomo_runs WHERE server = 'well' AND status = 'failed'";
    assert_eq!(one::<i64>(&mut db, failed), 0, "{}", cluster.log());
}

#[test]
fn as_many_sites_at_once_as_allowed_once_their_matomo_has_answered_and_seen_by_site() {
    let (_cluster, mut db) = cluster_with_worker();
    let fake = serve(many(4));
    store(&mut db, "analytics", &fake);
    run(&mut db, "SELECT matomo_create_table('matomo')");
    for site in 1..=4 {
        register(&mut db, &format!("'analytics', {site}, every => '1 s', enabled => false"));
    }
    fake.knobs().latency = Duration::from_millis(1500);
    run(&mut db, "UPDATE matomo_site_config SET enabled = true");
    let seen = "SELECT application_name FROM pg_stat_activity WHERE backend_type = 'matomo worker' ORDER BY 1";
    wait_until("one is at work", || !texts(&mut db, seen).is_empty());
    assert_eq!(texts(&mut db, seen), ["matomo worker: site 1"]);
    let mut most = 0;
    wait_long(20, "two are at work", || {
        most = most.max(texts(&mut db, seen).len());
        most == 2
    });
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(100));
        most = most.max(texts(&mut db, seen).len());
    }
    assert_eq!(most, 2);
    set(&mut db, "matomo.max_workers", "4");
    wait_long(20, "all are at work", || texts(&mut db, seen).len() == 4);
}

#[test]
fn sites_that_fail_leave_a_process_free() {
    let (_cluster, mut db) = cluster_with_worker();
    let (bad, good) = (serve(many(5)), serve(many(1)));
    store(&mut db, "bad", &bad);
    store(&mut db, "good", &good);
    run(&mut db, "SELECT matomo_create_table('matomo'); SELECT matomo_create_table('there')");
    for site in 1..=5 {
        register(&mut db, &format!("'bad', {site}, enabled => false"));
    }
    bad.fail(Fault::Hang, When::always());
    run(
        &mut db,
        "UPDATE matomo_site_state SET failures = 1; UPDATE matomo_site_config SET enabled = true",
    );
    let at_work = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'matomo worker'";
    wait_until("one of them is at work", || one::<i64>(&mut db, at_work) == 1);
    let site = register(&mut db, "'good', 1, destination => 'there', every => '1 second'");
    wait_until("the good one is synced", || runs(&mut db, site, "succeeded") >= 2);
    run(&mut db, "SELECT pg_sleep(1)");
    assert!(one::<i64>(&mut db, at_work) <= 2);
    bad.heal();
}

#[test]
fn a_site_that_failed_has_its_turn_beside_imports_without_end() {
    let (_cluster, mut db) = cluster_with_worker();
    let [first, last] = [500, 1].map(|ago| (Utc::now().date_naive() - Days::new(ago)).to_string());
    let (large, small) = (serve(world(432, "UTC", 1, &first, &last)), serve(many(1)));
    store(&mut db, "large", &large);
    store(&mut db, "small", &small);
    large.knobs().latency = Duration::from_millis(150);
    run(&mut db, "SELECT matomo_create_table('failed')");
    for table in ["one", "two", "three"] {
        run(&mut db, &format!("SELECT matomo_create_table('{table}')"));
        register(&mut db, &format!("'large', 1, '{first}', destination => '{table}'"));
    }
    let paused = "SELECT count(*) FROM matomo_runs WHERE status = 'paused'";
    wait_long(30, "they take turns", || one::<i64>(&mut db, paused) > 0);
    let failed = register(&mut db, "'small', 1, destination => 'failed', enabled => false");
    run(
        &mut db,
        &format!(
            "UPDATE matomo_site_state SET failures = 1, next_at = now() - interval '2 minutes'
                 WHERE site_id = {failed};
             UPDATE matomo_site_config SET enabled = true WHERE id = {failed}"
        ),
    );
    wait_long(25, "it has had its turn", || runs(&mut db, failed, "succeeded") > 0);
    let others = format!(
        "SELECT concat_ws(' ', status, return_message) FROM matomo_run_log WHERE site_id <> {failed}"
    );
    let others = texts(&mut db, &others);
    let goes_on = |status: &String| ["running", "paused"].contains(&status.as_str());
    assert!(others.iter().all(goes_on), "{others:?}");
}

#[test]
fn upkeep_has_its_turn_beside_many_sites_that_fail() {
    let conf = format!("{PRELOADED}matomo.max_workers = 2\n");
    let cluster = Cluster::start_with(&conf);
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    let (bad, noon) = (serve(many(40)), Noon::new());
    let good = serve(noon.world(2));
    store(&mut db, "bad", &bad);
    store(&mut db, "good", &good);
    run(&mut db, "SELECT matomo_create_table('matomo'); SELECT matomo_create_table('there')");
    for site in 1..=40 {
        register(&mut db, &format!("'bad', {site}, enabled => false"));
    }
    let tended = register(&mut db, "'good', 1, destination => 'there', enabled => false");
    bad.fail(Fault::Says(Saying::VisitsLogOff), When::always());
    bad.knobs().latency = Duration::from_millis(200);
    // They are due for two hours, its upkeep since midnight.
    run(
        &mut db,
        &format!(
            "UPDATE matomo_site_config SET retention = '1 day' WHERE id = {tended};
             UPDATE matomo_site_state SET failures = 1, next_at = now() - interval '2 hours' WHERE site_id <> {tended};
             UPDATE matomo_site_config SET enabled = true WHERE id <> {tended}"
        ),
    );
    let done =
        format!("SELECT tended_on IS NOT NULL FROM matomo_site_state WHERE site_id = {tended}");
    wait_long(30, "the upkeep is done", || one::<bool>(&mut db, &done));
    let waiting = "SELECT count(*) FROM matomo_site_state WHERE failures = 1";
    assert!(one::<i64>(&mut db, waiting) > 20, "before most of those that fail");
}

#[test]
fn without_room_for_all_processes_it_says_so_once_and_uses_those_it_has() {
    // The launcher, the coordinator and the logical replication launcher leave one slot.
    let conf = format!("{PRELOADED}max_worker_processes = 4\n");
    let cluster = Cluster::start_with(&conf);
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    let fake = serve(many(3));
    store(&mut db, "analytics", &fake);
    run(&mut db, "SELECT matomo_create_table('matomo')");
    let every = "every => '1 second', enabled => false";
    let sites: Vec<_> =
        (1..=3).map(|site| register(&mut db, &format!("'analytics', {site}, {every}"))).collect();
    fake.knobs().latency = Duration::from_millis(200);
    run(&mut db, "UPDATE matomo_site_config SET enabled = true");
    for site in sites {
        wait_until("it is synced", || runs(&mut db, site, "succeeded") >= 2);
    }
    let said = "WARNING:  could not start a process for registered site";
    let log = cluster.log();
    assert!(log.contains(said), "{log}");
    assert!(log.contains("HINT:  Increase max_worker_processes"), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn a_refused_token_costs_a_fleet_few_attempts() {
    let conf = format!("{PRELOADED}matomo.max_workers = 16\nmax_worker_processes = 24\n");
    let cluster = Cluster::start_with(&conf);
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    let fake = serve(many(50));
    store(&mut db, "analytics", &fake);
    run(&mut db, "SELECT matomo_create_table('matomo')");
    let yesterday = (Utc::now().date_naive() - Days::new(1)).to_string();
    for site in 1..=50 {
        register(&mut db, &format!("'analytics', {site}, '{yesterday}', every => '1 second'"));
    }
    let of_status = |status: &str| {
        format!("SELECT count(DISTINCT site_id) FROM matomo_runs WHERE status = '{status}'")
    };
    wait_long(60, "all are synced", || one::<i64>(&mut db, &of_status("succeeded")) == 50);
    // Runs in progress may still use the valid token.
    let before = "UPDATE matomo_site_config SET enabled = false";
    run(&mut db, before);
    wait_until("all are at rest", || {
        workers(&mut db).iter().all(|line| !line.starts_with("matomo worker"))
    });
    fake.clear_requests();
    run(
        &mut db,
        "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token 'revoked');
         UPDATE matomo_site_config SET enabled = true; UPDATE matomo_site_state SET next_at = now()",
    );
    let stopped = "SELECT count(*) FROM matomo_site_state WHERE next_at = 'infinity'";
    wait_long(60, "all are stopped", || one::<i64>(&mut db, stopped) == 50);
    let asked = fake.requests().len();
    println!("{asked} attempts");
    // At most four sites were running at once; each tries once, plus one request to be sure.
    // Matomo locks out after 20 refusals in an hour.
    assert!((1..=10).contains(&asked), "{asked}");
}

/// The failure is visible to the sites' owners, not only in the log.
#[test]
fn sites_that_no_process_can_be_started_for_fail_once_and_are_synced_when_there_is_room() {
    // The launcher, the coordinator and the logical replication launcher leave no slot.
    let conf = format!("{PRELOADED}max_worker_processes = 3\n");
    let cluster = Cluster::start_with(&conf);
    let mut db = cluster.connect("postgres");
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    let fake = serve(many(2));
    store(&mut db, "analytics", &fake);
    for site in 1..=2 {
        register(&mut db, &format!("'analytics', {site}, every => '1 second'"));
    }
    let failed =
        "SELECT concat_ws(' ', failures, last_sqlstate, last_error, last_hint) FROM matomo_status
        WHERE failures > 0 ORDER BY site_id";
    wait_until("it is noted", || texts(&mut db, failed).len() == 2);
    let round = "SELECT query FROM pg_stat_activity WHERE backend_type = 'matomo coordinator'";
    let before: String = one(&mut db, round);
    wait_until("it has looked again", || one::<String>(&mut db, round) != before);
    for (site, line) in (1..).zip(texts(&mut db, failed)) {
        let expected = format!(
            "1 53400 could not start a process for registered site {site} Increase max_worker_processes"
        );
        assert!(line.starts_with(&expected), "{line}");
    }
    drop(db);
    run(&mut cluster.connect("postgres"), "ALTER SYSTEM SET max_worker_processes = 8");
    cluster.stop("fast");
    cluster.start_again();
    let mut db = cluster.connect("postgres");
    wait_until("they are synced", || {
        one::<i64>(
            &mut db,
            "SELECT count(*) FROM matomo_status WHERE failures = 0 AND synced_to IS NOT NULL",
        ) == 2
    });
}
