//! Long use of one process: a session that syncs repeatedly, a worker that polls. Short here;
//! `make soak` sets `MATOMO_SOAK` and records the figures in `tests/SOAK.md`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{Timelike, Utc};
use fake_matomo::{Action, Clock, Fake, Fault, Site, Visit, When, World};

use crate::support::footprint::Footprint;
use crate::support::soak::*;
use crate::support::worker::*;
use crate::support::*;

#[test]
fn thousands_of_calls_of_all_kinds_leave_a_session_as_it_was() {
    let (warm_up, calls) = if is_long() { (550, 11_000) } else { (55, 110) };
    let mut session = Session::new(database());
    let process = pid(&mut session.db);
    (0..warm_up).for_each(|number| session.call(number));
    // One call that succeeds and keeps its connection.
    session.call(0);
    // Twice, since the query itself leaves cached plans behind.
    session.contexts();
    let contexts = session.contexts();
    let before = Footprint::of(process);
    let begin = Instant::now();
    let mut memory = vec![before.memory];
    for number in 0..calls {
        session.call(number);
        if (number + 1) % (calls / 10) == 0 {
            memory.push(Footprint::of(process).memory);
        }
    }
    session.call(0);
    let took = begin.elapsed();
    let after = Footprint::of(process);
    let grown: Vec<_> = session
        .contexts()
        .into_iter()
        .filter_map(|(name, bytes)| {
            let then = contexts.iter().find(|(known, _)| *known == name).map_or(0, |(_, b)| *b);
            (bytes > then).then(|| format!("{name} by {} bytes", bytes - then))
        })
        .collect();
    assert_eq!(after.threads, before.threads);
    assert_eq!(after.files, before.files);
    assert_eq!(after.sockets, before.sockets);
    wait_until("one connection is kept", || session.fake.open_connections() == 1);
    for table in ["matomo", "matomo_partitioned"] {
        run(&mut session.db, "CALL matomo_sync_all()");
        assert_equal(&mut session.db, table, &all_of(&session.fake, 1));
    }
    figures(
        "one session",
        &format!(
            "{} calls, {} of them failed or cancelled, in {:.0} s | after {warm_up} calls and then ten times: memory {memory:?} kB; \
             threads {}, files {}, sockets {}, before and after; memory contexts that grew: {}",
            calls,
            calls / 11,
            took.as_secs_f64(),
            after.threads,
            after.files,
            after.sockets,
            if grown.is_empty() { "none".to_owned() } else { grown.join(", ") }
        ),
    );
    // The caches for four tables and the heap of their batches settle some megabytes higher.
    assert!(after.memory < before.memory + 8 * 1024, "{memory:?} kB, contexts {grown:?}");
}

/// A timezone in which a day ends at the next full hour.
fn late_zone() -> String {
    let offset = 23 - i64::from(Utc::now().hour());
    format!("UTC{:+}", if offset > 12 { offset - 24 } else { offset })
}

/// Adds visits and extends them until told to stop; returns how many.
fn grow(fake: &Fake, end: &AtomicBool) -> i64 {
    let mut count = 0;
    while !end.load(Ordering::Relaxed) {
        let at = Utc::now().timestamp();
        {
            let mut world = fake.world();
            let site = world.site_mut(1);
            count += 1;
            site.add(Visit::new(count, at).and(Action::page(at, "https://x.test/", "Home")));
            // Earlier visits continue: the last one, and one from a while ago.
            for earlier in [count - 1, count - 40] {
                if earlier > 0 && count % 3 > 0 {
                    site.visit_mut(earlier).push(Action::page(at, "https://x.test/on", "On"));
                }
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    count
}

#[test]
fn a_worker_polls_for_long_and_misses_nothing() {
    let length = Duration::from_secs(if is_long() { 300 } else { 4 });
    let (_cluster, mut db) = cluster_with_worker();
    let mut world = World::new(Clock::Real);
    world.add_site(Site::new(1, "Growing", &late_zone()));
    let fake = serve(world);
    store(&mut db, "analytics", &fake);
    let first = (Utc::now() - chrono::TimeDelta::days(1)).date_naive();
    let site =
        register(&mut db, &format!("'analytics', 1, '{first}', 'matomo', every => '1 second'"));
    wait_until("the first run", || runs(&mut db, site, "succeeded") > 0);
    let worker = coordinator_pid(&mut db, "postgres").unwrap();
    let end = AtomicBool::new(false);
    let (mut samples, mut faults, mut requests) = (Vec::new(), 0, 0);
    let visits = thread::scope(|scope| {
        let growing = scope.spawn(|| grow(&fake, &end));
        let begin = Instant::now();
        while begin.elapsed() < length {
            thread::sleep(length / 10);
            // A connection is kept, except after a failure; a sync in progress may have another.
            let files = samples.first().map_or(usize::MAX, |first: &Footprint| first.files + 2);
            samples.push(Footprint::at_rest(worker, |now| {
                now.threads == 1 && now.sockets <= 2 && now.files <= files
            }));
            requests += fake.requests().len();
            fake.clear_requests();
            // Each further failure in a row waits longer.
            if samples.len() % 3 == 2 {
                let fault = [Fault::Reset, Fault::Html, Fault::HalfBody][faults % 3].clone();
                fake.fail(fault, When::live().times(1));
                faults += 1;
            }
        }
        end.store(true, Ordering::Relaxed);
        growing.join().unwrap()
    });
    fake.heal();
    let ended: i64 = one(&mut db, "SELECT max(runid) FROM matomo_runs");
    // A run in progress may have started before the last visit.
    let later = format!(
        "SELECT count(*) FROM matomo_runs WHERE runid > {ended} + 1 AND status = 'succeeded'"
    );
    wait_long(30, "a last run", || {
        one::<i64>(&mut db, &later) > 0 && runs(&mut db, site, "succeeded") > 2
    });
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert_eq!(coordinator_pid(&mut db, "postgres"), Some(worker), "it is still the same");
    let (good, bad) = (runs(&mut db, site, "succeeded"), runs(&mut db, site, "failed"));
    assert!(bad > 0, "{good} {bad}");
    let memory: Vec<_> = samples.iter().map(|sample| sample.memory).collect();
    let last = samples[samples.len() - 1];
    figures(
        "the worker",
        &format!(
            "{good} polls, {bad} failed ones, {requests} requests, {visits} visits that came and went on, in {:.0} s | \
             the table is the oracle's, row by row; memory, ten times: {memory:?} kB; threads {}, sockets {} at the end",
            length.as_secs_f64(),
            last.threads,
            last.sockets
        ),
    );
    // The first sample includes the caches of every session and what a sync needs.
    let half = memory[memory.len() / 2];
    let room = if is_long() { 1024 } else { 4096 };
    assert!(last.memory < half + room, "{memory:?} kB");
}
