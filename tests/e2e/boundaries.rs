//! Kill -9 at every boundary between two writes or requests: nothing half-done is ever visible, and
//! committed work resumes by itself.
//!
//! How to read a failure:
//! - The last line printed before it names the victim, the writer (a sync, the worker, a drop, …) and
//!   the point of `points.rs` at which it was held.
//! - "it ran through": the point was not reached. The code no longer does what the point waits for.
//! - left and right that differ: the state after the kill and the expected state, in the terms of
//!   `Left` in `points.rs`.
//! - "N times" of a request: the lost step was not repeated exactly once.
//! - To run one point alone, leave only its line in `POINTS`.

mod course;
mod hold;
mod points;
mod scene;
mod victim;

use course::Course;
use points::{POINTS, Way};
use victim::Victim;

use crate::support::report::Section;

/// Tests all boundaries of some ways; each is a row in a section of `docs/trust.md`.
fn all(ways: &[Way], victim: Victim, conf: &str, section: &'static str) {
    let mut course = Course::new(conf);
    let mut section = Section::new(section);
    for point in POINTS {
        // When the postmaster is killed, every process ends, whichever one writes: a boundary
        // tested with the worker need not be tested with a session.
        let of_worker = victim == Victim::Postmaster && point.ways.contains(&Way::Worker);
        if of_worker && !ways.contains(&Way::Worker) {
            continue;
        }
        for way in point.ways.iter().filter(|way| ways.contains(way)) {
            println!("{victim:?}, {way:?}: {}", point.name);
            let [promised, seen] = course.run(point, *way, victim);
            let case = format!("{}: {}", way.name(), point.name);
            section.row(&case, &point.hold.words(), &promised, &seen);
        }
    }
    section.finish();
}

const SESSIONS: [Way; 8] = [
    Way::Sync,
    Way::Call,
    Way::Drop,
    Way::Check,
    Way::Forget,
    Way::AddSite,
    Way::RemoveSite,
    Way::CreateTable,
];

const WORKER: &str = "shared_preload_libraries = 'matomo_postgres'\nmatomo.database = 'postgres'\n\
    matomo.naptime = '1s'\n";

#[test]
fn a_session_killed_at_any_boundary_loses_one_step() {
    all(&SESSIONS, Victim::Process, "", "Session killed");
}

#[test]
fn a_session_terminated_at_any_boundary_loses_one_step() {
    all(&SESSIONS, Victim::Terminated, "", "Session terminated");
}

#[test]
fn a_worker_killed_at_any_boundary_loses_one_step() {
    all(&[Way::Worker], Victim::Process, WORKER, "Worker killed");
}

#[test]
fn a_postmaster_killed_at_any_boundary_of_the_worker_loses_one_step() {
    all(&[Way::Worker], Victim::Postmaster, WORKER, "Postmaster killed, the worker");
}

/// Where the worker never gets to.
#[test]
fn a_postmaster_killed_at_any_other_boundary_loses_one_statement() {
    all(&SESSIONS, Victim::Postmaster, "", "Postmaster killed, a session");
}
