//! Several days are fetched in parallel and stored in order.

use std::time::{Duration, Instant};

use fake_matomo::{Fault, When};

use crate::support::*;

const FIRST: &str = "2026-10-19";
const LAST: &str = "2026-10-30";

#[test]
fn as_many_requests_at_once_as_allowed_and_the_same_rows() {
    let fake = serve(world(21, "Europe/Paris", 20, FIRST, LAST));
    for (workers, latency, table) in
        [(1, 5, "matomo"), (3, 100, "matomo_partitioned"), (8, 500, "matomo")]
    {
        // Long enough for all of them to start, even on a busy machine.
        fake.knobs().latency = Duration::from_millis(latency);
        let mut db = database();
        run(&mut db, &format!("SET matomo.fetch_workers = {workers}"));
        fake.clear_requests();
        let sync = Sync::of(&fake, FIRST, LAST).into(table).pages_of(9);
        let days = texts(&mut db, &format!("SELECT day::text FROM ({}) x", sync.sql()));
        assert_eq!(fake.peak_requests(), workers);
        let mut in_order = days.clone();
        in_order.sort();
        assert_eq!((days.len(), &days), (12, &in_order));
        assert_equal(&mut db, table, &oracle(&fake, FIRST, LAST));
    }
}

#[test]
fn a_failure_in_one_day_fails_all() {
    let fake = serve(world(22, "UTC", 10, FIRST, LAST));
    fake.fail(Fault::Html, When::live().param("date", "2026-10-25,2026-10-25"));
    let mut db = database();
    run(&mut db, "SET matomo.fetch_workers = 4");
    let error = Sync::of(&fake, FIRST, LAST).error(&mut db);
    assert_eq!(error.code().code(), "08P01");
    assert!(error.detail().unwrap().contains("day 2026-10-25"), "{error:?}");
    assert_eq!(one::<Option<u32>>(&mut db, "SELECT to_regclass('matomo')::oid"), None);
    fake.heal();
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    assert_equal(&mut db, "matomo", &oracle(&fake, FIRST, LAST));
}

#[test]
fn many_hanging_requests_end_together() {
    let fake = serve(world(23, "UTC", 10, FIRST, LAST));
    fake.fail(Fault::Hang, When::live());
    let mut db = database();
    run(&mut db, "SET matomo.fetch_workers = 8; SET statement_timeout = '500 ms'");
    let before = fake.open_connections();
    let begin = Instant::now();
    let error = Sync::of(&fake, FIRST, LAST).error(&mut db);
    let took = begin.elapsed();
    assert_eq!(error.code().code(), "57014");
    assert!(took < Duration::from_secs(2), "{took:?}");
    wait_until("all connections are closed", || fake.open_connections() <= before);
}
