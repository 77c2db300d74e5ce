//! Two operations at once: the first stops in the middle, the second starts, the first resumes. After
//! both, rows, ledger and results match some order of the two, or one has failed with a clear error.
//!
//! How to read a failure:
//! - One line per pair: both operations, their results, and what does not match any order of the two.
//!   All pairs are tried before the test fails.
//! - `Operation::stop` says where the first one stops: before its COMMIT, or in the trigger that its
//!   first row of a kind fires.
//! - "done" for both, and a fault: one did not see the other's changes. "55P03" for one: it waited for
//!   the other and gave up, which is correct only if its message names the other.
//! - `verdict.rs` says what must match: rows, ledger and both results; `orders.rs` runs the two one after
//!   the other, for comparison; `session.rs` is what an operation returns; `scene.rs` is the database
//!   before them.
//! - "forth" is the first, then the second; "back" the second, then the first; "alone" the one that has not
//!   failed. Each with the lines of rows, ledger and sites that differ.

mod operations;
mod orders;
mod scene;
mod session;
mod verdict;
mod waits;

use std::thread;
use std::time::{Duration, Instant};

use crate::pairs::operations::{ALL, Operation, Stop};
use crate::pairs::orders::in_order;
use crate::pairs::scene::Scene;
use crate::pairs::session::{Outcome, Session};
use crate::support::*;

#[test]
fn a_sync_and_whatever_comes_meanwhile() {
    all_with(&[Operation::Sync, Operation::OtherSync, Operation::Run]);
}

#[test]
fn a_repair_or_an_erasure_and_whatever_comes_meanwhile() {
    all_with(&[Operation::Repair, Operation::Forget, Operation::Retention]);
}

#[test]
fn what_removes_old_rows_and_whatever_comes_meanwhile() {
    all_with(&[Operation::DropBefore]);
}

#[test]
fn what_changes_the_table_and_whatever_comes_meanwhile() {
    all_with(&[Operation::Truncate, Operation::Rename, Operation::Detach, Operation::Attach]);
}

#[test]
fn what_changes_a_companion_and_whatever_comes_meanwhile() {
    all_with(&[Operation::AlterVisits, Operation::TruncateVisits, Operation::DropVisits]);
}

#[test]
fn what_makes_companions_and_whatever_comes_meanwhile() {
    all_with(&[Operation::CreateCompanions]);
}

#[test]
fn what_changes_sites_and_whatever_comes_meanwhile() {
    all_with(&[Operation::AlterSite, Operation::AlterRetention]);
}

#[test]
fn what_moves_sites_and_whatever_comes_meanwhile() {
    all_with(&[Operation::GiveSite, Operation::MoveSite, Operation::ChangeUrl]);
}

#[test]
fn what_removes_sites_and_whatever_comes_meanwhile() {
    all_with(&[Operation::RemoveSite, Operation::DropServer, Operation::DropRole]);
}

/// Tries each of the first operations with every other.
fn all_with(firsts: &[Operation]) {
    let mut scene = Scene::new();
    let mut wrong = Vec::new();
    for first in firsts {
        // Two statements of Postgres itself prove nothing.
        let is_ours = |second: &&Operation| !(first.is_of_postgres() && second.is_of_postgres());
        for second in ALL.iter().filter(is_ours) {
            let forth = in_order(&mut scene, *first, *second, false);
            scene.reset([*first, *second].contains(&Operation::Retention));
            let outcomes = both(&mut scene, *first, *second);
            for fault in verdict::faults(&mut scene, *first, *second, &outcomes, &forth) {
                wrong.push(format!(
                    "{first:?} ({}), {second:?} meanwhile ({}): {fault}",
                    session::said(&outcomes.0),
                    session::said(&outcomes.1)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Stops the first operation, starts the second, and resumes the first once the second waits or
/// has ended.
fn both(scene: &mut Scene, first: Operation, second: Operation) -> (Outcome, Outcome) {
    let (mut early, late) = (Session::new(scene), Session::new(scene));
    let (pid_early, pid_late) = (early.pid, late.pid);
    first.prepare(scene);
    let sql = first.sql(scene);
    let go_on = match first.stop() {
        Stop::AtCommit => {
            let begun = early.outcome(&format!("BEGIN; {sql}"));
            let end = if begun.is_ok() { "COMMIT" } else { "ROLLBACK" };
            let second = begin(late, second, scene);
            await_rest(scene, pid_late, &second);
            let ended = early.outcome(end);
            return (ended.and(begun), second.join().unwrap());
        }
        Stop::AtRow(event) => {
            run(&mut scene.db, "SELECT pg_advisory_lock(4711)");
            run(&mut early.db, &format!("SET hold.me = '{event}'"));
            thread::spawn(move || early.outcome(&sql))
        }
    };
    let stands = format!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {pid_early} AND locktype = 'advisory' AND NOT granted)"
    );
    wait_until(&format!("{first:?} stands still"), || {
        assert!(!go_on.is_finished(), "{first:?} did not stop: {:?}", scene.said());
        one::<bool>(&mut scene.db, &stands)
    });
    let second = begin(late, second, scene);
    await_rest(scene, pid_late, &second);
    run(&mut scene.db, "SELECT pg_advisory_unlock(4711)");
    (go_on.join().unwrap(), second.join().unwrap())
}

fn begin(mut session: Session, operation: Operation, scene: &Scene) -> thread::JoinHandle<Outcome> {
    operation.prepare(scene);
    let sql = operation.sql(scene);
    thread::spawn(move || session.outcome(&sql))
}

/// Waits until the second waits for another process or has ended, but not for long.
fn await_rest<T>(scene: &mut Scene, pid: i32, second: &thread::JoinHandle<T>) {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} \
         AND (wait_event_type = 'Lock' OR wait_event = 'PgSleep'))"
    );
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(500)
        && !second.is_finished()
        && !one::<bool>(&mut scene.db, &sql)
    {
        thread::sleep(Duration::from_millis(5));
    }
}
