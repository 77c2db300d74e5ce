//! Changes in the middle of a run count for all of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::cluster::shared;
use crate::support::sites::{self, add_site};
use crate::support::zones::{first_day, hourly, lost, midnight, without_local_time, zone};
use crate::support::*;

/// Does something before the n-th answer.
fn before_answer(
    fake: &fake_matomo::Fake,
    n: usize,
    work: impl Fn(&mut fake_matomo::World) + Send + std::marker::Sync + 'static,
) {
    let asked = AtomicUsize::new(0);
    fake.before_each(Box::new(move |world, _| {
        if asked.fetch_add(1, Ordering::SeqCst) == n {
            work(world);
        }
    }));
}

#[test]
fn a_timezone_that_changes_in_the_middle_loses_no_visit_and_shifts_no_time() {
    for (before, after) in [(0, -5), (5, -7), (-3, 9)] {
        for is_run in [true, false] {
            let fake = serve(hourly(before));
            let mut db = database();
            let settings = "SET matomo.settle_time = 0; SET matomo.fetch_workers = 1";
            run(&mut db, &format!("LOAD 'matomo_postgres'; {settings}"));
            without_local_time(&mut db);
            sites::server(&mut db, &fake);
            let (first, since) = (first_day(&fake, 5), midnight(&fake, 5));
            before_answer(&fake, 3, move |world| world.site_mut(1).timezone = zone(after));
            if is_run {
                let site = add_site(&mut db, &format!(", start_date => '{first}'"));
                run(&mut db, &format!("CALL matomo_sync_site({site})"));
                let known = texts(&mut db, "SELECT timezone FROM matomo_status");
                assert_eq!(known, [zone(after)]);
            } else {
                sync(&mut db, &fake, &format!(", '{first}'"));
            }
            fake.clear_before_each();
            let since = since.min(fake.world().site(1).zone().midnight(first));
            assert_eq!(lost(&mut db, &fake, since), [0; 0], "{before} to {after}, {is_run}");
            let check = format!(
                "SELECT sum(missing + extra + stale)::bigint FROM matomo_check(1, '{first}', '{}', '{}', \
                 '{}', deep => true)",
                fake.world().today(1),
                fake.url(),
                fake.token()
            );
            assert_eq!(one::<i64>(&mut db, &check), 0, "{before} to {after}, {is_run}");
        }
    }
}

#[test]
fn a_run_comes_to_its_end_by_a_clock_that_was_set_back() {
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    let (name, mut db) = named_database();
    sites::server(&mut db, &fake);
    let site = add_site(&mut db, &format!(", start_date => '{}'", noon.text(1)));
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    run(&mut db, "SET matomo.lookback = 2; SET matomo.page_size = 2; SET matomo.step_pages = 1");
    let other = Mutex::new(shared().connect(&name));
    let asked = AtomicUsize::new(0);
    fake.before_each(Box::new(move |_, _| {
        // As if it had begun by a clock that was a day ahead; and an end for one that finds none.
        let by = match asked.fetch_add(1, Ordering::SeqCst) {
            0 => "1 day",
            100 => "-1 day",
            _ => return,
        };
        let sql = format!(
            "UPDATE matomo_run_log SET start_time = start_time + interval '{by}' \
             WHERE status = 'running'"
        );
        // A client of its own cannot be used by the fake's threads.
        std::thread::scope(|scope| scope.spawn(|| run(&mut other.lock().unwrap(), &sql)).join())
            .unwrap();
    }));
    fake.clear_requests();
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    fake.clear_before_each();
    let requests = fake.requests().len();
    assert!(requests < 30, "{requests} requests");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

/// The next step of the one site finds a table that is no longer empty.
#[test]
fn a_table_that_is_emptied_and_filled_by_another_site_in_the_middle_of_a_run_is_whole_after_it() {
    let noon = Noon::new();
    let mut world = noon.world(5);
    let mut other = fake_matomo::Site::new(2, "Other", &noon.zone);
    for visit in &world.site(1).visits {
        other.add(fake_matomo::Visit { id: visit.id + 2000, ..visit.clone() });
    }
    world.add_site(other);
    let fake = serve(world);
    let (name, mut db) = named_database();
    sites::server(&mut db, &fake);
    let site = add_site(&mut db, &format!(", start_date => '{}'", noon.text(4)));
    run(&mut db, "SET matomo.fetch_workers = 1");
    let (mut second, look) = (shared().connect(&name), shared().connect(&name));
    let waiting = pid(&mut second);
    let begun = hold_third_answer(&fake, look, waiting);
    let sync = sync_sql(&fake, 2, &format!(", '{}'", noon.text(4)));
    let fills = std::thread::spawn(move || {
        begun.recv_timeout(Duration::from_secs(60)).unwrap();
        run(&mut second, &format!("BEGIN; TRUNCATE matomo; {sync}; COMMIT"));
    });
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    fake.clear_before_each();
    fills.join().unwrap();
    let oracle: Vec<_> = all_of(&fake, 1).into_iter().chain(all_of(&fake, 2)).collect();
    assert_equal(&mut db, "matomo", &oracle);
    assert!(one::<bool>(&mut db, "SELECT failures = 0 FROM matomo_status"));
}

/// Holds the third answer until a session waits for a lock, and tells when it is asked for.
fn hold_third_answer(
    fake: &fake_matomo::Fake,
    look: postgres::Client,
    waiting: i32,
) -> std::sync::mpsc::Receiver<()> {
    let (begin, begun) = std::sync::mpsc::channel();
    let look = Mutex::new(look);
    before_answer(fake, 3, move |_| {
        begin.send(()).unwrap();
        let wait = || wait_until("TRUNCATE waits", || waits(&mut look.lock().unwrap(), waiting));
        std::thread::scope(|scope| scope.spawn(wait).join()).unwrap();
    });
    begun
}

#[test]
fn a_table_that_is_emptied_in_the_middle_of_a_run_is_whole_after_it() {
    let noon = Noon::new();
    let fake = serve(noon.world(5));
    let (name, mut db) = named_database();
    sites::server(&mut db, &fake);
    let site = add_site(&mut db, &format!(", start_date => '{}'", noon.text(4)));
    run(&mut db, "SET matomo.fetch_workers = 1");
    let (mut other, look) = (shared().connect(&name), shared().connect(&name));
    let waiting = pid(&mut other);
    let begun = hold_third_answer(&fake, look, waiting);
    let truncates = std::thread::spawn(move || {
        begun.recv_timeout(Duration::from_secs(60)).unwrap();
        run(&mut other, "TRUNCATE matomo");
    });
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    fake.clear_before_each();
    truncates.join().unwrap();
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert!(one::<bool>(&mut db, "SELECT failures = 0 FROM matomo_status"));
}
