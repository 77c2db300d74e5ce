//! Random histories: whatever happens to a site and to its syncs, everything that syncs can know is
//! stored, and everything is after a check with repair. `MATOMO_HISTORIES` sets the number of
//! histories, `MATOMO_HISTORY_SEED` runs and prints a single one.
//!
//! How to read a failure:
//! - It starts with the seed and ends with the fault; in between are all steps, one per line, in
//!   order: `events.rs` has the events of the site, `trouble.rs` those of a sync.
//! - `MATOMO_HISTORY_SEED=n` runs that history alone, and prints it.
//! - "after the sync", "after the kill", "after the repair": when the table was compared. The expected
//!   rows come from `witness.rs`, which sees each answer of the fake; the expected result of a check
//!   from `reckoning.rs`.
//! - "too quiet": nothing failed, but too little happened to prove anything.

mod bench;
mod course;
mod events;
mod hypertables;
mod killed_import;
mod random;
mod reckoning;
mod trouble;
mod witness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use self::bench::{Bench, Engine};
use self::course::{Course, Tally};
use crate::support::cluster::{Cluster, shared};

const HISTORIES: u64 = 300;

struct Histories {
    many: u64,
    /// Every so manieth is one in which the server is killed.
    kills: u64,
    /// That of all tables; otherwise any.
    engine: Option<Engine>,
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Lives through a history; a failure tells the seed and all steps.
fn live(seed: u64, bench: &mut Bench, with_kills: bool, told: bool) -> Result<Tally, String> {
    let mut course = Course::new(seed, bench, with_kills);
    let stage = course.steps();
    let result = catch_unwind(AssertUnwindSafe(|| course.run()));
    let tally = course.tally;
    drop(course);
    let steps = stage.scene().steps.join("\n");
    if told {
        println!("{steps}\n{tally:?}");
    }
    let why = match result {
        Ok(Ok(())) => return Ok(tally),
        Ok(Err(why)) => why,
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => "a panic".to_owned(),
        },
    };
    Err(format!("MATOMO_HISTORY_SEED={seed}\n{steps}\n{why}"))
}

/// Lives through all histories, or the one asked for; those with kills on a server of their own.
fn live_all(of: &Histories, peaceful: &Cluster, own: impl Fn() -> Cluster + Sync) -> Tally {
    let Histories { kills, engine, .. } = *of;
    let many = variable("MATOMO_HISTORIES").unwrap_or(of.many);
    if let Some(seed) = variable("MATOMO_HISTORY_SEED") {
        let own = seed.is_multiple_of(kills).then(own);
        let mut bench = Bench::only(own.as_ref().unwrap_or(peaceful), engine);
        return live(seed, &mut bench, seed.is_multiple_of(kills), true)
            .unwrap_or_else(|why| panic!("{why}"));
    }
    let sum = Mutex::new(Tally::default());
    let failures = Mutex::new(Vec::new());
    let next = AtomicU64::new(1);
    let next_kill = AtomicU64::new(kills);
    let work = |bench: &mut Bench, next: &AtomicU64, step: u64, skip: u64| {
        loop {
            let seed = next.fetch_add(step, Ordering::Relaxed);
            if seed > many || failures.lock().unwrap().len() >= 3 {
                return;
            }
            if seed.is_multiple_of(skip) {
                continue;
            }
            match live(seed, bench, seed.is_multiple_of(kills), false) {
                Ok(tally) => *sum.lock().unwrap() += tally,
                Err(why) => failures.lock().unwrap().push(why),
            }
            if bench.db.is_closed() {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| work(&mut Bench::only(peaceful, engine), &next, 1, kills));
        }
        scope.spawn(|| work(&mut Bench::only(&own(), engine), &next_kill, kills, u64::MAX));
    });
    let sum = sum.into_inner().unwrap();
    println!("{sum:?}");
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} histories fail:\n\n{}", failures.len(), failures.join("\n\n"));
    assert_eq!(sum.histories as u64, many);
    sum
}

#[test]
fn after_any_history_all_that_can_be_known_is_stored_and_after_a_repair_everything() {
    let histories = Histories { many: HISTORIES, kills: 15, engine: None };
    let sum = live_all(&histories, shared(), Cluster::start);
    if sum.histories as u64 >= HISTORIES {
        let Tally { failed, cancelled, killed, killed_late, excused, found, .. } = sum;
        let rare = [failed, cancelled, killed - killed_late, killed_late, excused];
        assert!(rare.iter().all(|times| *times > 0), "too quiet: {sum:?}");
        assert!(found.missing > 0 && found.extra > 0 && found.stale > 0, "too quiet: {sum:?}");
    }
}
