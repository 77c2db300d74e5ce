//! Pages skip no visit, grow within a second, and shrink when Matomo is overloaded.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fake_matomo::{Action, Clock, Fake, Fault, Page, Site, Visit, When, World};
use postgres::Client;

use crate::support::*;

const DAY: &str = "2026-11-10";

/// Site 1 in UTC with this many visits of one page, the n-th at `at(n)` seconds after 08:00.
fn visits(count: i64, at: impl Fn(i64) -> i64) -> World {
    let mut world = World::new(Clock::Real);
    let site = world.add_site(Site::new(1, "Pages", "UTC"));
    let begin = instant("2026-11-10T08:00:00Z");
    for n in 0..count {
        let at = begin + at(n);
        site.add(Visit::new(1000 + n, at).and(Action::page(at, format!("/{n}"), "Page")));
    }
    world
}

fn limits(fake: &Fake) -> Vec<i64> {
    let all = fake.requests();
    let live = all.iter().filter(|seen| seen.method == "Live.getLastVisitsDetails");
    live.map(|seen| seen.param("filter_limit").parse().unwrap()).collect()
}

fn of_pages(db: &mut Client, fake: &Fake, page_size: i32) -> Sums {
    Sync::of(fake, DAY, DAY).pages_of(page_size).run(db)
}

/// Creates a table of which the sequence `batches` counts the batches stored, each after a pause in seconds.
fn count_batches(db: &mut Client, pause: &str) {
    run(
        db,
        &format!(
            "SELECT matomo_create_table('matomo');
             CREATE SEQUENCE batches;
             CREATE FUNCTION note_batch() RETURNS trigger LANGUAGE plpgsql
                 AS 'BEGIN PERFORM nextval(''batches''), pg_sleep({pause}); RETURN NULL; END';
             CREATE TRIGGER note BEFORE INSERT ON matomo EXECUTE FUNCTION note_batch()"
        ),
    );
}

#[test]
fn a_page_full_of_one_second_grows() {
    let fake = serve(visits(60, |n| if n < 50 { 5 } else { n }));
    let mut db = database();
    let sums = of_pages(&mut db, &fake, 10);
    assert_eq!((sums.visits, sums.inserted, sums.updated), (60, 60, 0));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert_eq!(limits(&fake), [10, 10, 20, 40, 80]);
}

#[test]
fn more_than_a_thousand_visits_in_a_second_are_stepped_through() {
    for (page_size, last) in [
        (1, "day 2026-11-10 after 1794297604, offset 1024"),
        (500, "day 2026-11-10 after 1794297604, offset 2000"),
    ] {
        let fake = serve(visits(2100, |n| if n < 2050 { 5 } else { 6 + n }));
        let mut db = database();
        let sums = of_pages(&mut db, &fake, page_size);
        assert_eq!((sums.visits, sums.inserted), (2100, 2100));
        assert_equal(&mut db, "matomo", &all_of(&fake, 1));
        let asked = asked(&fake);
        assert!(asked.iter().any(|line| line == last), "{page_size}: {asked:?}");
        assert!(asked.len() < 80, "{} requests", asked.len());
    }
}

#[test]
fn visits_that_grow_and_arrive_while_paging_are_all_seen() {
    for page_size in [1, 3, 7] {
        let fake = serve(visits(60, |n| n / 3));
        let turn = AtomicUsize::new(0);
        fake.before_each(Box::new(move |world, _| {
            let turn = turn.fetch_add(1, Ordering::SeqCst) as i64;
            // Ends before the first visits do: a site that never rests has no last page.
            if turn >= 40 {
                return;
            }
            let at = instant("2026-11-10T09:00:00Z") + turn;
            let site = world.site_mut(1);
            site.visit_mut(1000 + turn).push(Action::page(at, "/more", "More"));
            site.add(Visit::new(5000 + turn, at).and(Action::page(at, "/new", "New")));
        }));
        let mut db = database();
        let sums = of_pages(&mut db, &fake, page_size);
        assert_equal(&mut db, "matomo", &all_of(&fake, 1));
        assert_eq!(sums.visits, fake.world().site(1).visits.len() as i64);
    }
}

#[test]
fn pages_that_come_while_others_are_stored_go_into_one_batch_with_each_visit_as_last_listed() {
    let fake = serve(visits(60, |n| n / 3));
    let turn = AtomicUsize::new(0);
    fake.before_each(Box::new(move |world, _| {
        // The visits at the end of one page are longer in the next.
        let turn = turn.fetch_add(1, Ordering::SeqCst) as i64;
        for n in (0..60).filter(|n| n / 3 == turn) {
            let at = instant("2026-11-10T08:00:00Z") + turn;
            world.site_mut(1).visit_mut(1000 + n).push(Action::page(at, "/more", "More"));
        }
    }));
    let mut db = database();
    count_batches(&mut db, "0.5");
    let sums = of_pages(&mut db, &fake, 4);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert_eq!(sums.visits, 60);
    let (batches, pages) =
        (one::<i64>(&mut db, "SELECT last_value FROM batches"), limits(&fake).len());
    assert!(batches < 8 && pages > 15, "{batches} batches of {pages} pages");
}

#[test]
fn a_day_begins_to_be_stored_before_its_first_page_is_converted_whole() {
    for (count, batches) in [(100, 1), (2_000, 2)] {
        let fake = serve(visits(count, |n| n));
        let mut db = database();
        count_batches(&mut db, "0");
        assert_eq!(of_pages(&mut db, &fake, 5_000).visits, count);
        assert_eq!(limits(&fake), [5_000]);
        assert_eq!(one::<i64>(&mut db, "SELECT last_value FROM batches"), batches);
        assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    }
}

#[test]
fn ties_and_pages_of_one_skip_nothing() {
    let fake = serve(visits(40, |n| n / 4));
    let mut db = database();
    let sums = of_pages(&mut db, &fake, 1);
    assert_eq!((sums.visits, sums.inserted), (40, 40));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

/// Syncs 200 visits in pages of 64 from a Matomo that fails for more than 20; returns the limits
/// requested.
fn overstrained(fault: Fault, settings: &str) -> Vec<i64> {
    let fake = serve(visits(200, |n| n));
    let mut db = database();
    run(&mut db, &format!("LOAD 'matomo_postgres'; {settings}"));
    fake.fail(fault, When::live().limit_over(20));
    let sums = of_pages(&mut db, &fake, 64);
    assert_eq!((sums.visits, sums.inserted, sums.updated), (200, 200, 0));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    limits(&fake)
}

#[test]
fn pages_that_are_too_much_are_halved_and_grow_again() {
    let memory = "Allowed memory size of 134217728 bytes exhausted (tried to allocate 8192 bytes)";
    let time = "The query exceeded the maximum execution time of 10 seconds";
    for fault in [
        Fault::Status(502, Page::Html),
        Fault::Status(504, Page::Empty),
        Fault::Status500Envelope(memory.to_owned()),
        Fault::ErrorEnvelope(memory.to_owned()),
        // At HTTP 200, as PHP prints it in the middle of the JSON.
        Fault::CutBy(300, memory),
        Fault::Raw(memory.into()),
        Fault::ErrorEnvelope(time.to_owned()),
    ] {
        let what = format!("{fault:?}");
        let limits = overstrained(fault, "");
        // After four answers it tries twice the limit, which is too much again.
        assert_eq!(limits[..8], [64, 32, 16, 16, 16, 16, 32, 16], "{what}");
        assert_eq!(limits.iter().filter(|limit| **limit == 32).count(), 4, "{what}: {limits:?}");
    }
}

#[test]
fn an_answer_larger_than_allowed_is_asked_for_in_parts() {
    let limits = overstrained(Fault::OverSize(300_000), "SET matomo.max_response_size = '200kB'");
    assert_eq!(limits[..8], [64, 32, 16, 16, 16, 16, 32, 16]);
}

#[test]
fn a_page_that_times_out_falls_to_an_eighth() {
    let fake = serve(visits(40, |n| n));
    let mut db = database();
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.request_timeout = 1");
    fake.fail(Fault::Hang, When::live().limit_over(20).times(1));
    let sums = of_pages(&mut db, &fake, 64);
    assert_eq!((sums.visits, sums.inserted), (40, 40));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    let limits = limits(&fake);
    assert_eq!(limits, [64, 8, 8, 8, 8, 16]);
}

#[test]
fn pages_grow_back_to_their_size_when_matomo_has_recovered() {
    let fake = serve(visits(300, |n| n));
    let mut db = database();
    fake.fail(Fault::Status(502, Page::Html), When::live().limit_over(20).times(2));
    of_pages(&mut db, &fake, 64);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert_eq!(limits(&fake), [64, 32, 16, 16, 16, 16, 32, 32, 32, 32, 64, 64]);
}

#[test]
fn a_page_of_visits_without_any_time_is_passed_over() {
    for table in ["matomo", "matomo_partitioned"] {
        let fake = serve(visits(4, |n| n));
        for visit in &mut fake.world().site_mut(1).visits[..2] {
            visit.actions.clear();
            let times = ["firstActionTimestamp", "lastActionTimestamp", "serverTimestamp"];
            visit.omit = times.map(str::to_owned).into();
        }
        let mut db = database();
        let sums = Sync::of(&fake, DAY, DAY).into(table).pages_of(1).run(&mut db);
        assert_eq!((sums.visits, sums.inserted), (4, 2));
        assert_equal(&mut db, table, &all_of(&fake, 1));
    }
}

#[test]
fn a_single_visit_that_is_too_much_is_an_error_that_names_it() {
    let fake = serve(visits(4, |n| n));
    let mut db = database();
    run(&mut db, "SELECT matomo_create_table('matomo')");
    fake.fail(
        Fault::ErrorEnvelope("Allowed memory size of 1 bytes exhausted".to_owned()),
        When::live(),
    );
    let failed = Sync::of(&fake, DAY, DAY).pages_of(4).error(&mut db);
    assert_says(
        &failed,
        "54000",
        "the request is too much for Matomo: Allowed memory size of 1 bytes exhausted",
        &["Live.getLastVisitsDetails", "site 1", "day 2026-11-10", "HTTP status 200"],
        "",
    );
    assert_eq!(limits(&fake), [4, 2, 1]);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 0);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_ledger"), 0);
}

#[test]
fn truncated_visits_are_counted_a_day_and_warned_of_once_a_run() {
    let warnings = std::sync::Arc::new(Mutex::new(Vec::new()));
    let theirs = warnings.clone();
    let mut config = crate::support::cluster::shared()
        .config(&crate::support::cluster::shared().database(), "postgres");
    config.notice_callback(move |notice| {
        if notice.severity() == "WARNING" {
            theirs
                .lock()
                .unwrap()
                .push((notice.message().to_owned(), notice.hint().unwrap_or("").to_owned()));
        }
    });
    let mut db = config.connect(postgres::NoTls).unwrap();
    let mut world = World::new(Clock::Real);
    world.max_actions = 5;
    let site = world.add_site(Site::new(1, "Long", "UTC"));
    for (id, at, actions) in [
        (1, "2026-11-08T08:00:00Z", 6),
        (2, "2026-11-08T09:00:00Z", 9),
        (3, "2026-11-09T08:00:00Z", 5),
        (4, "2026-11-10T08:00:00Z", 7),
    ] {
        let at = instant(at);
        let visit = site.add(Visit::new(id, at));
        for n in 0..actions {
            visit.push(Action::page(at + n, format!("/{n}"), "Page"));
        }
    }
    let fake = serve(world);
    let rows = db.query(&Sync::of(&fake, "2026-11-08", DAY).sql(), &[]).unwrap();
    let per_day: Vec<i64> = rows.iter().map(|row| row.get("truncated_visits")).collect();
    assert_eq!(per_day, [2, 0, 1]);
    assert_eq!(
        ledger(&mut db, "matomo"),
        ["1 2026-11-08 sealed 2 10 2", "1 2026-11-09 sealed 1 5 0", "1 2026-11-10 sealed 1 5 1"]
    );
    let said = std::mem::take(&mut *warnings.lock().unwrap());
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(said[0].0, "Matomo listed only the first actions of 3 visits");
    assert!(said[0].1.contains("visitor_log_maximum_actions_per_visit"), "{said:?}");
    // Sealed days are not read again, and there is no warning about them.
    assert_eq!(Sync { force: false, ..Sync::of(&fake, "2026-11-08", DAY) }.run(&mut db).days, 0);
    assert!(warnings.lock().unwrap().is_empty());
    // With a higher limit in Matomo all actions arrive, without a warning.
    fake.world().max_actions = 500;
    Sync::of(&fake, "2026-11-08", DAY).run(&mut db);
    assert_eq!(ledger(&mut db, "matomo")[0], "1 2026-11-08 sealed 2 15 0");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert!(warnings.lock().unwrap().is_empty());
}

#[test]
fn a_second_whose_visits_come_in_another_order_each_time_is_not_paged_without_end() {
    let fake = serve(visits(1300, |_| 5));
    fake.before_each(Box::new(|world, _| world.order += 1));
    // Too weak for a page of the whole second.
    fake.fail(Fault::Status(502, Page::Html), When::live().limit_over(200));
    let mut db = database();
    run(
        &mut db,
        "LOAD 'matomo_postgres'; SET matomo.max_retries = 1; SET statement_timeout = '60 s'",
    );
    let error = Sync::of(&fake, DAY, DAY).pages_of(200).error(&mut db);
    let message =
        "unexpected answer of Matomo: the visits of one second in another order each time";
    assert_says(
        &error,
        "08P01",
        message,
        &["day 2026-11-10"],
        "all servers that answer at this URL",
    );
}
