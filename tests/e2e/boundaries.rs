//! Kill -9, at every boundary between two things that are written or asked for: nothing half-done is
//! ever seen, and what was committed goes on where it was, without anybody's doing.

mod course;
mod hold;
mod points;
mod scene;
mod victim;

use course::Course;
use points::{POINTS, Way};
use victim::Victim;

/// Goes through all boundaries of some ways.
fn all(ways: &[Way], victim: Victim, conf: &str) {
    let mut course = Course::new(conf);
    let only = std::env::var("BOUNDARY").unwrap_or_default();
    for point in POINTS.iter().filter(|point| point.name.contains(&only)) {
        for way in point.ways.iter().filter(|way| ways.contains(way)) {
            let begin = std::time::Instant::now();
            println!("{victim:?}, {way:?}: {}", point.name);
            course.run(point, *way, victim);
            println!("    {} ms", begin.elapsed().as_millis());
        }
    }
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
    all(&SESSIONS, Victim::Process, "");
}

#[test]
fn a_session_terminated_at_any_boundary_loses_one_step() {
    all(&SESSIONS, Victim::Terminated, "");
}

#[test]
fn a_worker_killed_at_any_boundary_loses_one_step() {
    all(&[Way::Worker], Victim::Process, WORKER);
}

#[test]
fn a_postmaster_killed_at_any_boundary_of_a_session_loses_one_step() {
    all(&SESSIONS, Victim::Postmaster, "");
}

#[test]
fn a_postmaster_killed_at_any_boundary_of_the_worker_loses_one_step() {
    all(&[Way::Worker], Victim::Postmaster, WORKER);
}
