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
//! - `verdict.rs` says what must match: rows, ledger and both results; `scene.rs` is the database
//!   before them.

mod operations;
mod scene;
mod verdict;
mod waits;

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use postgres::error::DbError;

use crate::pairs::operations::{ALL, Operation, Stop};
use crate::pairs::scene::Scene;
use crate::support::*;

/// The result of one of the two.
pub type Outcome = Result<(), Box<DbError>>;

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
    all_with(&[Operation::AlterSite, Operation::GiveSite, Operation::MoveSite]);
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
            scene.reset([*first, *second].contains(&Operation::Retention));
            let outcomes = both(&mut scene, *first, *second);
            for fault in verdict::faults(&mut scene, *first, *second, &outcomes) {
                let said = |outcome: &Outcome| match outcome {
                    Ok(()) => "done".to_owned(),
                    Err(error) => format!("{} {}", error.code().code(), error.message()),
                };
                wrong.push(format!(
                    "{first:?} ({}), {second:?} meanwhile ({}): {fault}",
                    said(&outcomes.0),
                    said(&outcomes.1)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Stops the first operation, starts the second, and resumes the first once the second waits or
/// has ended.
fn both(scene: &mut Scene, first: Operation, second: Operation) -> (Outcome, Outcome) {
    let (mut one, mut two) = (scene.connect(), scene.connect());
    let (pid_one, pid_two) = (pid(&mut one), pid(&mut two));
    first.prepare(scene);
    let sql = first.sql(scene);
    let go_on: thread::JoinHandle<(Outcome, Client)> = match first.stop() {
        Stop::AtCommit => {
            let begun = outcome(&mut one, &format!("BEGIN; {sql}"));
            let end = if begun.is_ok() { "COMMIT" } else { "ROLLBACK" };
            let second = begin(two, second, scene);
            await_rest(scene, pid_two, &second);
            let ended = outcome(&mut one, end);
            return (begun.and(ended), second.join().unwrap().0);
        }
        Stop::AtRow(event) => {
            run(&mut scene.db, "SELECT pg_advisory_lock(4711)");
            run(&mut one, &format!("SET hold.me = '{event}'"));
            thread::spawn(move || (outcome(&mut one, &sql), one))
        }
    };
    let stands = format!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {pid_one} AND locktype = 'advisory' AND NOT granted)"
    );
    wait_until(&format!("{first:?} stands still"), || {
        assert!(!go_on.is_finished(), "{first:?} did not stop: {:?}", scene.said());
        one_of(&mut scene.db, &stands)
    });
    let second = begin(two, second, scene);
    await_rest(scene, pid_two, &second);
    run(&mut scene.db, "SELECT pg_advisory_unlock(4711)");
    (go_on.join().unwrap().0, second.join().unwrap().0)
}

fn one_of(db: &mut Client, sql: &str) -> bool {
    one(db, sql)
}

fn begin(
    mut db: Client,
    operation: Operation,
    scene: &Scene,
) -> thread::JoinHandle<(Outcome, Client)> {
    operation.prepare(scene);
    let sql = operation.sql(scene);
    thread::spawn(move || (outcome(&mut db, &sql), db))
}

fn outcome(db: &mut Client, sql: &str) -> Outcome {
    db.batch_execute(sql).map_err(|error| {
        Box::new(error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).clone())
    })
}

/// Waits until the second waits for another process or has ended, but not for long.
fn await_rest<T>(scene: &mut Scene, pid: i32, second: &thread::JoinHandle<T>) {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} \
         AND (wait_event_type = 'Lock' OR wait_event = 'PgSleep'))"
    );
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(150)
        && !second.is_finished()
        && !one_of(&mut scene.db, &sql)
    {
        thread::sleep(Duration::from_millis(5));
    }
}
