//! `CALL matomo_sync_site` and `CALL matomo_sync_all` copy all visits, with a commit after each step.

use std::time::Duration;

use crate::support::cluster::shared;
use crate::support::sites::many::*;
use crate::support::sites::*;
use crate::support::*;

#[test]
fn a_site_is_copied_day_by_day_and_each_is_committed() {
    let fake = serve(sites(101, 1));
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    let site = add_site(&mut db, START);
    let sealed = |db: &mut postgres::Client| -> i64 {
        one(db, "SELECT count(*) FROM matomo_days WHERE sealed")
    };
    let seen = look_before_each(&fake, shared().connect(&name), sealed);
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    fake.clear_before_each();
    let seen: Vec<_> =
        seen.iter().map(|(asked, days)| (asked.param("date").to_owned(), days)).collect();
    assert_eq!(seen[0], ("2026-10-19,2026-10-19".to_owned(), 0));
    assert_eq!(seen[7], ("2026-10-26,2026-10-26".to_owned(), 7));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    let days = seen.len();
    assert_eq!(
        runs(&mut db, site)[0].split(' ').take(2).collect::<Vec<_>>(),
        ["succeeded", &days.to_string()]
    );
    // The next run polls: today, and yesterday if it has not settled. Without visits, which would
    // tell the site's timezone, it requests the timezone.
    fake.clear_requests();
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let mut asked = asked(&fake);
    asked.retain(|line| line != "site");
    assert!(asked.len() <= 2 && asked.iter().all(|line| line.starts_with("day ")), "{asked:?}");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_run_asks_for_the_site_once_and_keeps_its_connection() {
    let fake = serve(sites(102, 1));
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, START);
    fake.clear_requests();
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let asked = asked(&fake);
    assert_eq!(asked.iter().filter(|line| *line == "site").count(), 1);
    assert!(asked.len() > 12);
    let mut distinct = asked.clone();
    distinct.dedup();
    assert_eq!(asked, distinct, "a day is asked for twice");
}

#[test]
fn several_days_make_a_step_where_several_are_fetched_at_once() {
    let fake = serve(sites(103, 1));
    fake.knobs().latency = Duration::from_millis(20);
    let mut db = database();
    server(&mut db, &fake);
    run(&mut db, "ALTER SERVER analytics OPTIONS (ADD fetch_workers '4')");
    let site = add_site(&mut db, START);
    fake.clear_requests();
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(fake.peak_requests(), 4);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_large_day_takes_several_steps_and_counts_once() {
    let mut world = world(104, "Europe/Paris", 150, "2026-10-24", "2026-10-25");
    // More visits in one second than fit on a page: no step ends between them.
    let at = instant("2026-10-24T10:00:00Z");
    for _ in 0..12 {
        let id = world.next_visit_id();
        let page = fake_matomo::Action::page(at, "https://ties.test/", "Tie");
        world.site_mut(1).add(fake_matomo::Visit::new(id, at).and(page));
    }
    let fake = serve(world);
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    let site = add_site(&mut db, ", start_date => '2026-10-24'");
    run(&mut db, "SET matomo.page_size = 10; SET matomo.step_pages = 2");
    // The ledger after each commit.
    let seen = look_before_each(&fake, shared().connect(&name), |db| {
        ledger(db, "matomo").into_iter().find(|line| line.starts_with("1 2026-10-24"))
    });
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    fake.clear_before_each();
    let mut seen: Vec<_> = seen.iter().filter_map(|(_, line)| line).collect();
    seen.dedup();
    assert!(seen.len() > 5, "{seen:?}");
    assert!(seen[..seen.len() - 1].iter().all(|line| line.contains(" open ")), "{seen:?}");
    assert!(seen.last().unwrap().contains(" sealed "), "{seen:?}");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    // The same result as in one step.
    let in_steps = ledger(&mut db, "matomo");
    let totals = "SELECT concat_ws(' ', visits, actions, truncated_visits) FROM matomo_runs WHERE site_id = ";
    let run_totals: String = one(&mut db, &format!("{totals} {site}"));
    let mut whole = database();
    sync(&mut whole, &fake, ", start_date => '2026-10-24'");
    assert_eq!(in_steps, ledger(&mut whole, "matomo"));
    let sums: String = one(
        &mut whole,
        "SELECT concat_ws(' ', sum(visits), sum(actions), sum(truncated_visits)) FROM matomo_days",
    );
    assert_eq!(run_totals, sums);
    // The ledger keeps no place in an unfinished day.
    assert_eq!(
        one::<i64>(
            &mut db,
            "SELECT count(*) FROM matomo_ledger WHERE num_nonnulls(pass_began, pass_since, pass_seen) > 0"
        ),
        0
    );
}

#[test]
fn a_large_day_in_progress_takes_several_steps_too() {
    let noon = Noon::new();
    let mut world = noon.world(2);
    for n in 0..60 {
        let (id, at) = (5000 + n, noon.at(0, "05:00:00") + 7 * n);
        let page = fake_matomo::Action::page(at, "https://noon.test/early", "Early");
        world.site_mut(1).add(fake_matomo::Visit::new(id, at).and(page));
    }
    let fake = serve(world);
    for lookback in ["0", "1"] {
        let mut db = database();
        server(&mut db, &fake);
        let site = add_site(&mut db, &format!(", start_date => '{}'", noon.text(1)));
        run(
            &mut db,
            &format!(
                "SET matomo.page_size = 10; SET matomo.step_pages = 1; SET matomo.lookback = {lookback}"
            ),
        );
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        assert_equal(&mut db, "matomo", &all_of(&fake, 1));
        let today = "SELECT concat_ws(' ', days, days_total, visits) FROM matomo_runs";
        assert_eq!(
            one::<i64>(&mut db, "SELECT visits FROM matomo_days ORDER BY day DESC LIMIT 1"),
            63
        );
        assert!(one::<String>(&mut db, today).starts_with("2 2 "));
    }
}

#[test]
fn a_visit_met_in_two_steps_of_a_day_counts_once() {
    let fake = serve(world(105, "Europe/Paris", 60, "2026-10-24", "2026-10-24"));
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, ", start_date => '2026-10-24'");
    run(&mut db, "SET matomo.page_size = 10; SET matomo.step_pages = 1");
    // A late hit moves the first visit behind all others after it was read.
    let calls = std::sync::atomic::AtomicUsize::new(0);
    fake.before_each(Box::new(move |world, _| {
        if calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 3 {
            let at = instant("2026-10-24T21:59:00Z");
            let site = world.site_mut(1);
            let first =
                site.visits_of(day("2026-10-24")).iter().min_by_key(|visit| visit.last).unwrap().id;
            site.visit_mut(first).push(fake_matomo::Action::page(at, "https://late.test/", "Late"));
        }
    }));
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    fake.clear_before_each();
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    let mut whole = database();
    sync(&mut whole, &fake, ", start_date => '2026-10-24'");
    assert_eq!(ledger(&mut db, "matomo"), ledger(&mut whole, "matomo"));
}

#[test]
fn days_that_are_looked_back_at_are_read_once_a_run() {
    let fake = serve(sites(106, 1));
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, START);
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    fake.clear_requests();
    run(
        &mut db,
        "SET matomo.lookback = 1000; SET matomo.page_size = 6; SET matomo.step_pages = 1; SET matomo.fetch_workers = 3",
    );
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let days = |asked: &[String]| {
        let firsts: Vec<_> = asked
            .iter()
            .filter(|line| line.starts_with("day") && !line.contains("after"))
            .cloned()
            .collect();
        let mut distinct = firsts.clone();
        distinct.sort();
        distinct.dedup();
        (firsts.len(), distinct.len())
    };
    let (begun, distinct) = days(&asked(&fake));
    assert!(distinct > 12);
    assert_eq!(begun, distinct);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_procedure_that_cannot_commit_says_so_at_once() {
    let fake = serve(sites(107, 1));
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, START);
    fake.clear_requests();
    let (detail, hint) = ("commits", "use matomo_sync");
    run(&mut db, "CREATE PROCEDURE wrapped() LANGUAGE plpgsql AS 'BEGIN CALL matomo_sync_all(); END';
                  CREATE FUNCTION within() RETURNS void LANGUAGE plpgsql AS 'BEGIN CALL matomo_sync_all(); END'");
    for (call, name) in [
        ("matomo_sync_all()".to_owned(), "matomo_sync_all()"),
        (format!("matomo_sync_site({site})"), "matomo_sync_site()"),
    ] {
        run(&mut db, "BEGIN");
        let refused = error(&mut db, &format!("CALL {call}"));
        run(&mut db, "ROLLBACK");
        let message = format!("{name} cannot run inside a transaction block");
        assert_says(&refused, "25001", &message, &[detail], hint);
    }
    let refused = error(&mut db, "SELECT within()");
    assert_says(
        &refused,
        "25001",
        "matomo_sync_all() cannot be executed from a function",
        &[detail],
        hint,
    );
    run(&mut db, "SET default_transaction_read_only = on");
    let refused = error(&mut db, "CALL matomo_sync_all()");
    let message = "cannot execute matomo_sync_all() in a read-only transaction";
    assert_says(&refused, "25006", message, &[], "");
    run(&mut db, "SET default_transaction_read_only = off");
    assert_eq!(asked(&fake), [""; 0]);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_runs"), 0);
    // Here COMMIT is allowed.
    run(&mut db, "CALL wrapped()");
    run(&mut db, "DO $$ BEGIN CALL matomo_sync_all(); END $$");
    assert_eq!(
        one::<i64>(&mut db, "SELECT count(*) FROM matomo_runs WHERE status = 'succeeded'"),
        2
    );
}
