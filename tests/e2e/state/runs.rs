//! Past and present runs in `matomo_runs`, `matomo_status` and `matomo_progress`; interrupted
//! runs.

use std::time::{Duration, Instant};

use fake_matomo::{Clock, Fake, Fault, Plan, SitePlan, When, World};
use postgres::Client;

use crate::support::cluster::{Cluster, is_gone, shared};
use crate::support::sites::*;
use crate::support::traps::{call, cancel, cancelled, end_of};
use crate::support::*;

const START: &str = ", start_date => '2026-10-19'";

fn serve_days(seed: u64) -> Fake {
    serve(World::generate(&Plan {
        seed,
        sites: vec![SitePlan::new(1, "Europe/Paris", 20)],
        first_day: day("2026-10-19"),
        last_day: day("2026-10-30"),
        now: Clock::Real,
    }))
}

/// A database with the server and its registered site 1.
fn registered(fake: &Fake) -> (String, Client, i32) {
    let (name, mut db) = named_database();
    server(&mut db, fake);
    let site = add_site(&mut db, START);
    (name, db, site)
}

fn hangs(fake: &Fake) {
    wait_until("Matomo hangs", || fake.requests().iter().any(|seen| seen.fault.is_some()));
}

#[test]
fn a_run_tells_all_that_it_did() {
    let fake = serve_days(121);
    let (_, mut db, site) = registered(&fake);
    fake.clear_requests();
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let pages = fake.requests().iter().filter(|seen| seen.method.starts_with("Live")).count();
    let mut whole = database();
    sync(&mut whole, &fake, START);
    let sums: String = one(
        &mut whole,
        "SELECT concat_ws(' ', count(*), sum(visits), sum(actions), sum(truncated_visits)) FROM matomo_days",
    );
    let told = "SELECT concat_ws(' ', days, visits, actions, truncated_visits) FROM matomo_runs";
    assert_eq!(one::<String>(&mut db, told), sums);
    let rest = format!(
        "SELECT days_total = days AND pages = {pages} AND inserted = (SELECT count(*) FROM matomo) AND updated = 0
             AND deleted = 0 AND bytes > 100000 AND job_pid = pg_backend_pid() AND database = current_database()
             AND username = 'postgres' AND owner = 'postgres' AND command = 'CALL matomo_sync_site({site})'
             AND status = 'succeeded' AND end_time > start_time AND return_message IS NULL AND sqlstate IS NULL
             AND server = 'analytics' AND idsite = 1 AND destination = 'public.matomo' AND site_id = {site} FROM matomo_runs"
    );
    assert!(one::<bool>(&mut db, &rest));
    // Changes are counted in the next run.
    run(&mut db, "DELETE FROM matomo WHERE action_id IN (SELECT min(action_id) FROM matomo); UPDATE matomo SET city = 'Atlantis'
                  WHERE action_id IN (SELECT max(action_id) FROM matomo); SET matomo.lookback = 1000");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let written: String = one(
        &mut db,
        "SELECT concat_ws(' ', inserted, updated, deleted) FROM matomo_runs ORDER BY runid DESC LIMIT 1",
    );
    assert!(written.starts_with("1 1") || written.starts_with("1 "), "{written}");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn status_says_how_a_site_is() {
    let noon = Noon::new();
    let fake = serve(noon.world(3));
    let (_, mut db) = named_database();
    server(&mut db, &fake);
    let start = format!(", start_date => '{}', every => '1 hour'", noon.text(2));
    let site = add_site(&mut db, &start);
    let state = "SELECT concat_ws(' ', enabled, running, synced_to IS NULL, lag IS NULL, sealed_to, visits_today, failures,
        coalesce(last_error, '-'), next_run <= now()) FROM matomo_status";
    assert_eq!(one::<String>(&mut db, state), "t f t t 0 0 - t");
    let before: f64 = one(&mut db, "SELECT date_part('epoch', clock_timestamp())");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(one::<String>(&mut db, state), format!("t f f f {} 3 0 - f", noon.text(1)));
    let exact = format!(
        "SELECT date_part('epoch', synced_to) >= {before} AND lag BETWEEN '0' AND '1 min' AND next_run = synced_to + '1 hour'
             AND newest_action = to_timestamp({}) FROM matomo_status",
        noon.at(0, "10:00:40")
    );
    assert!(one::<bool>(&mut db, &exact));
    // A failure keeps the last success, adds the error, and is retried sooner.
    fake.fail(Fault::Status(404, fake_matomo::Page::Empty), When::always());
    let failed = error(&mut db, &format!("CALL matomo_sync_site({site})"));
    let told = "SELECT concat_ws(' | ', failures, last_sqlstate, last_error, last_detail, last_hint) FROM matomo_status";
    assert_eq!(
        one::<String>(&mut db, told),
        format!(
            "1 | 08P01 | {} | {} | {}",
            failed.message(),
            failed.detail().unwrap(),
            failed.hint().unwrap()
        )
    );
    let later = |db: &mut Client| -> f64 {
        one(db, "SELECT date_part('epoch', next_run - last_error_at) FROM matomo_status")
    };
    assert!((59.0..61.0).contains(&later(&mut db)));
    for wait in [120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0] {
        error(&mut db, &format!("CALL matomo_sync_site({site})"));
        let later = later(&mut db);
        assert!((wait - 1.0..wait + 1.0).contains(&later), "{later} is not {wait}");
    }
    assert_eq!(one::<i64>(&mut db, "SELECT visits_today FROM matomo_status"), 3);
    run(&mut db, &format!("SELECT matomo_alter_site({site}, enabled => false)"));
    assert!(one::<bool>(
        &mut db,
        "SELECT next_run IS NULL AND NOT enabled AND failures = 0 FROM matomo_status"
    ));
    // Nothing is synced into another table yet.
    fake.heal();
    run(&mut db, &format!("SELECT matomo_alter_site({site}, destination => 'matomo_partitioned')"));
    let anew =
        "SELECT synced_to IS NULL AND sealed_to IS NULL AND visits_today = 0 FROM matomo_status";
    assert!(one::<bool>(&mut db, anew));
}

#[test]
fn only_so_many_runs_of_each_site_are_kept() {
    let fake = serve_days(122);
    let (name, mut db, site) = registered(&fake);
    let busy = add_site(&mut db, ", destination => 'matomo_partitioned'");
    run(&mut db, "SET matomo.keep_runs = 3");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    for _ in 0..5 {
        run(&mut db, &format!("CALL matomo_sync_site({busy})"));
    }
    let numbers =
        "SELECT string_agg(format('%s-%s', site_id, runid), ' ' ORDER BY runid) FROM matomo_runs";
    assert_eq!(one::<String>(&mut db, numbers), format!("{site}-1 {busy}-4 {busy}-5 {busy}-6"));
    // Removed sites share this number of runs.
    run(&mut db, &format!("SELECT matomo_remove_site({busy})"));
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_runs"), 4);
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    run(&mut db, &format!("SELECT matomo_remove_site({site})"));
    assert_eq!(one::<String>(&mut db, numbers), format!("{busy}-5 {busy}-6 {site}-7"));
    // Where another session is removing the same, nobody waits.
    let mut third = shared().connect(&name);
    run(&mut third, "BEGIN; SELECT FROM matomo_run_log FOR UPDATE");
    let another = add_site(&mut db, "");
    run(
        &mut db,
        &format!(
            "SET lock_timeout = '500 ms'; SET matomo.keep_runs = 2; SELECT matomo_remove_site({another})"
        ),
    );
    run(&mut third, "COMMIT");
    // Ordinary roles cannot change the number.
    let role = role(&mut db);
    let denied =
        error(&mut connect_as(&name, &role), "LOAD 'matomo_postgres'; SET matomo.keep_runs = 1");
    assert_eq!(denied.code().code(), "42501");
}

#[test]
fn a_cancelled_run_has_failed_and_lets_go() {
    let fake = serve_days(123);
    let (name, mut db, site) = registered(&fake);
    let mut other = shared().connect(&name);
    for (set, reason) in
        [("", "user request"), ("SET statement_timeout = '4 s'", "statement timeout")]
    {
        fake.clear_requests();
        fake.fail(Fault::Hang, When::live().param("date", "2026-10-22,2026-10-22"));
        run(&mut db, set);
        let pid = pid(&mut db);
        let running = call(db, "CALL matomo_sync_all()".to_owned());
        hangs(&fake);
        if set.is_empty() {
            assert_eq!(
                runs(&mut other, site),
                ["running 3 3 ".to_owned() + visits_of(&fake, 3).as_str()]
            );
            // libpq's cancel arrives twice, perhaps the second time while the first is being
            // recorded.
            cancel(&mut other, pid);
        }
        let (again, result, _) = running.join().unwrap();
        db = again;
        assert_eq!(end_of(result), cancelled(reason));
        let last = "SELECT concat_ws(' | ', status, sqlstate, return_message, end_time IS NULL) FROM matomo_runs ORDER BY runid DESC LIMIT 1";
        // The error reaches the client before the lock is released.
        wait_until("it is over", || {
            one::<String>(&mut other, last) == "failed | the run was interrupted | t"
        });
        assert!(!one::<bool>(&mut other, "SELECT running FROM matomo_status"));
        fake.heal();
    }
    // Nothing blocks the next run, in another session.
    run(&mut other, "CALL matomo_sync_all()");
    assert_equal(&mut other, "matomo", &all_of(&fake, 1));
    assert_eq!(
        one::<String>(&mut other, "SELECT string_agg(status, ' ' ORDER BY runid) FROM matomo_runs"),
        "failed failed succeeded"
    );
}

/// The number of visits in the first days.
fn visits_of(fake: &Fake, days: u64) -> String {
    let first = day("2026-10-19");
    let world = fake.world();
    let visits: usize =
        (0..days).map(|n| world.site(1).visits_of(first + chrono::Days::new(n)).len()).sum();
    visits.to_string()
}

#[test]
fn a_run_whose_session_ends_has_failed() {
    let fake = serve_days(124);
    let (name, mut db, site) = registered(&fake);
    fake.fail(Fault::Hang, When::live().param("date", "2026-10-22,2026-10-22"));
    let mut first = shared().connect(&name);
    let pid = pid(&mut first);
    let running = call(first, format!("CALL matomo_sync_site({site})"));
    hangs(&fake);
    assert!(one::<bool>(&mut db, &format!("SELECT pg_terminate_backend({pid}, 5000)")));
    assert!(running.join().unwrap().1.is_err());
    // At once for a reader, and recorded with the next run.
    let last =
        "SELECT concat_ws(' | ', status, return_message, days) FROM matomo_runs WHERE runid = 1";
    assert_eq!(one::<String>(&mut db, last), "failed | the run was interrupted | 3");
    let kept = "SELECT concat_ws(' | ', status, return_message, end_time IS NOT NULL) FROM matomo_run_log WHERE runid = 1";
    assert_eq!(one::<String>(&mut db, kept), "running | f");
    fake.heal();
    fake.clear_requests();
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(one::<String>(&mut db, kept), "failed | the run was interrupted | t");
    let asked = asked(&fake);
    assert!(asked.iter().any(|line| line == "day 2026-10-22"));
    assert!(!asked.iter().any(|line| line == "day 2026-10-21"), "{asked:?}");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_crash_in_the_middle_costs_one_step() {
    let fake = serve(world(125, "Europe/Paris", 100, "2026-10-24", "2026-10-26"));
    let cluster = Cluster::start();
    let name = cluster.database();
    let mut db = cluster.connect(&name);
    server(&mut db, &fake);
    run(&mut db, "ALTER SERVER analytics OPTIONS (ADD page_size '10')");
    run(&mut db, &format!("ALTER DATABASE {name} SET matomo.step_pages = 2"));
    let site = add_site(&mut db, ", start_date => '2026-10-24'");
    // The 20th page: in the middle of the second day.
    fake.fail(Fault::Hang, When::live().after(19));
    let running = call(cluster.connect(&name), format!("CALL matomo_sync_site({site})"));
    hangs(&fake);
    let done = "SELECT string_agg(concat_ws(' ', day, sealed, visits), ', ' ORDER BY day) FROM matomo_days";
    let (before, rows): (String, i64) =
        (one(&mut db, done), one(&mut db, "SELECT count(*) FROM matomo"));
    assert!(before.starts_with("2026-10-24 t ") && before.contains(", 2026-10-25 f "), "{before}");
    let postmaster = cluster.postmaster();
    let all: Vec<i32> = one(&mut db, "SELECT array_agg(pid) FROM pg_stat_activity");
    // SAFETY: a signal to a process of this test.
    assert_eq!(unsafe { libc::kill(postmaster, libc::SIGKILL) }, 0);
    assert!(running.join().unwrap().1.is_err());
    wait_until("nothing of the server is left", || {
        all.iter().chain([&postmaster]).all(|pid| is_gone(*pid))
    });
    fake.heal();
    cluster.start_again();
    let mut db = cluster.connect(&name);
    assert_eq!(
        (one::<String>(&mut db, done), one::<i64>(&mut db, "SELECT count(*) FROM matomo")),
        (before, rows)
    );
    assert!(runs(&mut db, site)[0].starts_with("failed 1 "), "{:?}", runs(&mut db, site));
    fake.clear_requests();
    run(&mut db, "CALL matomo_sync_all()");
    let asked = asked(&fake);
    assert_eq!(asked[0], "site");
    assert!(asked[1].starts_with("day 2026-10-25 after "), "{asked:?}");
    assert!(!asked.iter().any(|line| line.contains("2026-10-24")), "{asked:?}");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    let mut whole = database();
    sync(&mut whole, &fake, ", start_date => '2026-10-24'");
    assert_eq!(ledger(&mut db, "matomo"), ledger(&mut whole, "matomo"));
}

#[test]
fn progress_is_seen_from_other_sessions() {
    let fake = serve_days(127);
    let (name, db, site) = registered(&fake);
    let mut other = shared().connect(&name);
    let stranger = role(&mut other);
    let progress = "SELECT concat_ws(' | ', username, runid, site_id, server, idsite, destination, phase, days, days_total > days,
        visits, actions > visits, actions_per_second > 0, time_left >= '0', start_time <= now()) FROM matomo_progress";
    let visits = visits_of(&fake, 3);
    let expect = |of_run: &str, phase: &str| {
        format!(
            "postgres{of_run}1 |{} {phase} | 3 | t | {visits} | t | t | t | t",
            if of_run.contains("analytics") { " public.matomo |" } else { "" }
        )
    };
    let mut db = db;
    for (sql, of_run, phase) in [
        (
            format!("CALL matomo_sync_site({site})"),
            format!(" | 1 | {site} | analytics | "),
            "reads 2026-10-22",
        ),
        (
            "SELECT matomo_sync(1, server => 'analytics', start_date => '2026-10-19', force => true)"
                .to_owned(),
            " | ".to_owned(),
            "2026-10-21",
        ),
    ] {
        fake.clear_requests();
        fake.fail(Fault::Hang, When::live().param("date", "2026-10-22,2026-10-22"));
        let pid = pid(&mut db);
        let running = call(db, sql);
        hangs(&fake);
        // The previous day may still be being stored.
        let expected = [expect(&of_run, phase)];
        wait_until("progress is told", || texts(&mut other, progress) == expected);
        // A role that may not see others' statements sees no progress.
        let mut theirs = connect_as(&name, &stranger);
        assert_eq!(one::<i64>(&mut theirs, "SELECT count(*) FROM matomo_progress"), 0);
        cancel(&mut other, pid);
        db = running.join().unwrap().0;
        fake.heal();
    }
    // The error reaches the client before the session is shown as idle.
    let any = "SELECT count(*) FROM matomo_progress";
    wait_until("nothing is under way", || one::<i64>(&mut other, any) == 0);
}

#[test]
fn an_owner_sees_the_run_that_a_superuser_does() {
    let fake = serve_days(128);
    let (name, mut admin, owner) = database_and_role();
    server_for(&mut admin, &fake, &owner);
    let mut db = connect_as(&name, &owner);
    let site = add_site(&mut db, START);
    fake.fail(Fault::Hang, When::live().param("date", "2026-10-22,2026-10-22"));
    let token = admin.cancel_token();
    let running = call(admin, "CALL matomo_sync_all()".to_owned());
    hangs(&fake);
    let progress = "SELECT concat_ws(' | ', username, site_id, phase, days, days_total > days) FROM matomo_progress";
    assert_eq!(texts(&mut db, progress), [format!("postgres | {site} | waits | 3 | t")]);
    assert!(one::<bool>(&mut db, "SELECT running FROM matomo_status"));
    token.cancel_query(postgres::NoTls).unwrap();
    assert!(running.join().unwrap().1.is_err());
}

#[test]
fn what_others_write_into_their_statements_breaks_no_view() {
    let (name, mut admin) = named_database();
    let mut db = shared().connect(&name);
    let huge = "9".repeat(40);
    for text in [
        format!(
            "matomo: site {huge}, x: {huge} of {huge} days, {huge} visits, {huge} actions, {huge} actions/s, {huge} h left"
        ),
        "matomo: site 1, x: 1 of 2 days, 3 visits, 4 actions, 5 actions/s, never left".to_owned(),
        "matomo: site 1".to_owned(),
        format!("matomo: site 1 (registered site {huge}), x: 1 of 2 days, 3 visits, 4 actions"),
    ] {
        let begin = Instant::now();
        // The statement is invalid, but shown until it is refused.
        let liar = std::thread::spawn(move || {
            while begin.elapsed() < Duration::from_millis(200) {
                let _ = db.batch_execute(&text);
            }
            db
        });
        for _ in 0..50 {
            run(&mut admin, "SELECT * FROM matomo_progress");
        }
        db = liar.join().unwrap();
    }
}
