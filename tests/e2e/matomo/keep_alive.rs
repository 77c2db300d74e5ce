//! A session keeps connections between syncs, and replaces a broken one without an error.

use std::time::Duration;

use fake_matomo::{Fault, Options, TlsKind, When};

use crate::support::*;

const FIRST: &str = "2026-10-24";
const LAST: &str = "2026-10-26";

/// A session that reports every failed request and retries none.
fn strict() -> (postgres::Client, Notices) {
    let (mut db, notices) = database_with_notices();
    run(&mut db, "SET matomo.max_retries = 0");
    (db, notices)
}

#[test]
fn syncs_of_a_session_share_one_connection() {
    for tls in [None, Some(TlsKind::Good)] {
        let world = world(61, "Europe/Paris", 5, FIRST, LAST);
        let fake = fake_matomo::Fake::start(Options { tls, ..Options::new(world) });
        let (mut db, _) = strict();
        let file = format!("/tmp/matomo_e2e_keep.{}.{}.pem", std::process::id(), fake.port());
        if tls.is_some() {
            std::fs::write(&file, fake.ca_pem()).unwrap();
            run(&mut db, &format!("SET matomo.ca_file = '{file}'"));
        }
        for _ in 0..10 {
            Sync::of(&fake, FIRST, LAST).run(&mut db);
            // Settings that do not concern the connection do not cause a new one.
            run(&mut db, "SET matomo.page_size = 100; SET matomo.max_response_size = '9 MB'");
        }
        assert_equal(&mut db, "matomo", &oracle(&fake, FIRST, LAST));
        assert_eq!((fake.connections(), fake.requests().len()), (1, 40), "{tls:?}");
        let _ = std::fs::remove_file(file);
    }
}

#[test]
fn parallel_workers_keep_theirs_too() {
    let fake = serve(world(62, "UTC", 20, FIRST, LAST));
    let (mut db, _) = strict();
    run(&mut db, "SET matomo.fetch_workers = 3");
    fake.knobs().latency = Duration::from_millis(20);
    for _ in 0..5 {
        Sync::of(&fake, FIRST, LAST).run(&mut db);
    }
    assert_eq!(fake.connections(), 3);
    assert_equal(&mut db, "matomo", &oracle(&fake, FIRST, LAST));
}

#[test]
fn a_server_that_closes_idle_connections_is_connected_to_again() {
    let fake = serve(world(63, "UTC", 5, FIRST, LAST));
    let (mut db, notices) = strict();
    for round in 1..=5 {
        Sync::of(&fake, FIRST, LAST).run(&mut db);
        assert_eq!(fake.connections(), round);
        fake.hang_up();
    }
    assert_eq!(failures(&notices), [""; 0]);
}

/// The server closes the connection while our request is on its way.
#[test]
fn a_request_that_meets_a_connection_just_closed_is_sent_again_at_once() {
    let fake = serve(world(64, "UTC", 5, FIRST, LAST));
    let (mut db, notices) = strict();
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    for when in [When::once(), When::live().param("date", &format!("{LAST},{LAST}")).times(1)] {
        fake.clear_requests();
        fake.fail(Fault::Reset, when);
        Sync::of(&fake, FIRST, LAST).run(&mut db);
        let requests = fake.requests();
        assert_eq!(requests.len(), 5, "one of four was sent twice");
        let at = requests.iter().position(|seen| seen.fault.is_some()).unwrap();
        assert_eq!(requests[at].params.0, requests[at + 1].params.0);
        assert!(requests[at + 1].at - requests[at].at < Duration::from_millis(200));
    }
    assert_eq!(fake.connections(), 3);
    assert_eq!(failures(&notices), [""; 0]);
    // A break of a new connection is a failure.
    fake.fail(Fault::Reset, When::once().times(2));
    assert_eq!(Sync::of(&fake, FIRST, LAST).error(&mut db).code().code(), "08006");
    assert_eq!(fake.connections(), 4);
}

#[test]
fn a_sync_that_was_broken_off_leaves_no_connection_to_the_next() {
    let fake = serve(world(65, "UTC", 5, FIRST, LAST));
    let (mut db, _) = strict();
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    run(&mut db, "SET statement_timeout = '300 ms'");
    fake.fail(Fault::HangMidBody, When::live());
    assert_eq!(Sync::of(&fake, FIRST, LAST).error(&mut db).code().code(), "57014");
    wait_until("the connection is closed", || fake.open_connections() == 0);
    fake.heal();
    run(&mut db, "RESET statement_timeout");
    fake.clear_requests();
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    assert_eq!((fake.connections(), fake.requests().len()), (2, 4));
    assert_equal(&mut db, "matomo", &oracle(&fake, FIRST, LAST));
}

#[test]
fn settings_of_the_connection_make_another_one_and_few_are_kept() {
    let fake = serve(world(66, "UTC", 5, FIRST, LAST));
    let (mut db, _) = strict();
    for seconds in [10, 20, 10, 20] {
        run(&mut db, &format!("SET matomo.connect_timeout = {seconds}"));
        Sync::of(&fake, FIRST, LAST).run(&mut db);
    }
    assert_eq!(fake.connections(), 2);
    for seconds in 30..40 {
        run(&mut db, &format!("SET matomo.connect_timeout = {seconds}"));
        Sync::of(&fake, FIRST, LAST).run(&mut db);
    }
    assert_eq!(fake.connections(), 12);
    wait_until("four are left", || fake.open_connections() == 4);
    drop(db);
    wait_until("none is left", || fake.open_connections() == 0);
}

/// The notices that report a failure.
fn failures(notices: &Notices) -> Vec<String> {
    let all = notices.take().into_iter().map(|(_, line)| line);
    all.filter(|line| line.contains("retry")).collect()
}
