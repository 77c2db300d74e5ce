//! What a user sees while a sync runs.

use std::time::{Duration, Instant};

use fake_matomo::{Clock, Plan, SitePlan, World};

use crate::support::sites::{add_site, server};
use crate::support::*;

const FIRST: &str = "2026-04-01";
const LAST: &str = "2026-05-30";
const LAST_LINE: &str = "2026-05-30: 60 of 60 days, ";

/// The progress messages, without the site's name.
fn lines(notices: &Notices) -> Vec<String> {
    let said = notices.take().into_iter().filter(|(severity, _)| severity == "NOTICE");
    said.filter_map(|(_, line)| {
        let rest = line.strip_prefix("matomo: site 1")?;
        rest.contains(" days, ").then(|| rest.split_once(", ").unwrap().1.to_owned())
    })
    .collect()
}

/// Visits on this many of the last days; a sync covers 60.
fn sixty_days(with_visits: u64) -> World {
    World::generate(&Plan {
        seed: 5,
        sites: vec![SitePlan::new(1, "UTC", 30)],
        first_day: day(LAST) - chrono::Days::new(with_visits - 1),
        last_day: day(LAST),
        now: Clock::Real,
    })
}

fn assert_one_a_second(lines: &[String], began: Instant) {
    assert!(lines.len() as u64 <= began.elapsed().as_secs() + 1, "{lines:#?}");
    assert!(lines.last().unwrap().starts_with(LAST_LINE), "{lines:#?}");
}

#[test]
fn a_sync_tells_its_progress_once_a_second_and_at_its_end() {
    let fake = serve(sixty_days(60));
    fake.knobs().latency = Duration::from_millis(40);
    let (mut db, notices) = database_with_notices();
    let began = Instant::now();
    let sums = Sync::of(&fake, FIRST, LAST).run(&mut db);
    let lines = lines(&notices);
    assert_one_a_second(&lines, began);
    assert!(lines.len() > 1, "{lines:#?}");
    // Enough for a thousands separator.
    assert!(sums.actions > 1_000);
    let actions = format!("{},{:03} actions", sums.actions / 1_000, sums.actions % 1_000);
    assert!(lines.last().unwrap().contains(&actions), "{lines:#?}");
}

#[test]
fn a_run_does_so_over_all_its_transactions() {
    let fake = serve(sixty_days(60));
    let (mut db, notices) = database_with_notices();
    server(&mut db, &fake);
    add_site(&mut db, &format!(", start_date => '{FIRST}'"));
    notices.take();
    fake.knobs().latency = Duration::from_millis(20);
    let began = Instant::now();
    run(&mut db, "CALL matomo_sync_all()");
    let lines = lines(&notices);
    assert!(lines.len() as u64 <= began.elapsed().as_secs() + 1, "{lines:#?}");
    let runs: i64 = one(&mut db, "SELECT days::bigint FROM matomo_runs");
    assert!(lines.last().unwrap().contains(&format!(": {runs} of {runs} days, ")), "{lines:#?}");
}

#[test]
fn days_without_visits_in_a_row_are_one_line() {
    let fake = serve(sixty_days(1));
    fake.knobs().latency = Duration::from_millis(60);
    let (mut db, notices) = database_with_notices();
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    let lines = lines(&notices);
    assert_eq!(lines.iter().filter(|line| line.contains(", no visits: ")).count(), 1, "{lines:#?}");
    assert!(lines.len() <= 2 && lines.last().unwrap().starts_with(LAST_LINE), "{lines:#?}");
}
