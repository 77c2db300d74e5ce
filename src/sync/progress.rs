//! Progress of a sync, shown in NOTICEs and in `pg_stat_activity`, whose text the view
//! `matomo_progress` parses.

use std::time::{Duration, Instant};

use chrono::NaiveDate;

use crate::sync::fetch::DayRead;
use crate::sync::notices::{Notices, readable};

/// Progress of a sync.
#[derive(Debug, Clone)]
pub struct Progress {
    site: i32,
    /// The registered site, if this is a run.
    registered: Option<i32>,
    days_to_do: usize,
    days_done: usize,
    visits: i64,
    actions: i64,
    /// Time of earlier transactions of the same sync.
    earlier: Duration,
    begin: Instant,
    pub notices: Notices,
}

impl Progress {
    /// Starts a sync of this many days.
    pub fn new(site: i32, days_to_do: usize) -> Progress {
        let (earlier, begin) = (Duration::ZERO, Instant::now());
        let (registered, days_done, visits, actions) = (None, 0, 0, 0);
        let notices = Notices::begin();
        Progress {
            site,
            registered,
            days_to_do,
            days_done,
            visits,
            actions,
            earlier,
            begin,
            notices,
        }
    }

    /// Sets the registered site: one idSite may be registered more than once.
    pub fn of_registered(self, registered: Option<i32>) -> Progress {
        Progress { registered, ..self }
    }

    /// Sets the state of NOTICEs from earlier transactions.
    pub fn having_said(self, notices: Notices) -> Progress {
        Progress { notices, ..self }
    }

    /// Adds the progress of earlier transactions.
    pub fn resume(self, days: usize, visits: i64, actions: i64, earlier: Duration) -> Progress {
        let days_to_do = self.days_to_do + days;
        Progress { days_to_do, days_done: days, visits, actions, earlier, ..self }
    }

    /// Whether any progress has been made.
    pub fn has_begun(&self) -> bool {
        self.days_done > 0 || self.visits > 0
    }

    /// Counts a stored day, or part of one. Returns a NOTICE if one is due.
    pub fn read(&mut self, read: &DayRead) -> Option<String> {
        let visits = read.met.visits - read.met_before.visits;
        self.add(read.rest.is_none(), visits, read.met.actions - read.met_before.actions);
        let is_due = self.notices.say(read.day, visits > 0);
        is_due.then(|| self.readable_line(read.day, visits > 0))
    }

    /// The last NOTICE, if one is due.
    pub fn end(&mut self) -> Option<String> {
        self.notices.end().map(|day| self.readable_line(day, true))
    }

    fn add(&mut self, is_day_done: bool, visits: i64, actions: i64) {
        self.days_done += usize::from(is_day_done);
        self.visits += visits;
        self.actions += actions;
    }

    /// The text for `pg_stat_activity`: days done of days to do, visits, actions, rate and time left.
    pub fn line(&self, what: &str) -> String {
        self.line_after(what, self.earlier + self.begin.elapsed(), |number| number.to_string())
    }

    /// The NOTICE for a day.
    fn readable_line(&self, day: NaiveDate, has_visits: bool) -> String {
        let what = if has_visits { day.to_string() } else { format!("{day}, no visits") };
        self.line_after(&what, self.earlier + self.begin.elapsed(), readable)
    }

    fn line_after(&self, what: &str, elapsed: Duration, shown: fn(i64) -> String) -> String {
        let Progress { site, days_to_do, days_done, .. } = self;
        let days = |days: &usize| shown(i64::try_from(*days).unwrap_or(i64::MAX));
        let registered =
            self.registered.map(|id| format!(" (registered site {id})")).unwrap_or_default();
        let mut line = format!(
            "matomo: site {site}{registered}, {what}: {} of {} days, {} visits, {} actions",
            days(days_done),
            days(days_to_do),
            shown(self.visits),
            shown(self.actions)
        );
        let seconds = elapsed.as_secs_f64();
        if *days_done > 0 && seconds > 0.0 {
            let rate = (self.actions as f64 / seconds).round() as i64;
            let days_left = days_to_do.saturating_sub(*days_done);
            let left = seconds / *days_done as f64 * days_left as f64;
            line += &format!(", {} actions/s, {} left", shown(rate), duration(left));
        }
        line
    }
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(number: i64) -> String {
        number.to_string()
    }

    #[test]
    fn a_line() {
        let mut progress = Progress::new(7, 4);
        assert_eq!(
            progress.line_after("begins", Duration::ZERO, plain),
            "matomo: site 7, begins: 0 of 4 days, 0 visits, 0 actions"
        );
        progress.add(true, 10, 300);
        assert_eq!(
            progress.line_after("2026-11-24", Duration::from_secs(30), plain),
            "matomo: site 7, 2026-11-24: 1 of 4 days, 10 visits, 300 actions, 10 actions/s, 1 min 30 s left"
        );
        // Part of a day, in a later transaction.
        let mut progress =
            Progress::new(7, 3).of_registered(Some(12)).resume(1, 10, 300, Duration::from_secs(30));
        progress.add(false, 5, 100);
        assert_eq!(
            progress.line_after("2026-11-25", Duration::from_secs(40), plain),
            "matomo: site 7 (registered site 12), 2026-11-25: 1 of 4 days, 15 visits, 400 actions, 10 actions/s, 2 min 0 s left"
        );
    }

    #[test]
    fn a_line_for_a_person() {
        let mut progress = Progress::new(7, 1_096);
        progress.add(true, 1_500, 30_000);
        assert_eq!(
            progress.line_after("2026-11-24", Duration::from_secs(2), readable),
            "matomo: site 7, 2026-11-24: 1 of 1,096 days, 1,500 visits, 30,000 actions, 15,000 actions/s, 36 min 30 s left"
        );
    }

    #[test]
    fn the_last_line_is_said_by_a_step_that_finds_nothing_to_do() {
        let day = NaiveDate::from_ymd_opt(2026, 11, 24).unwrap();
        let mut notices = Notices::begin();
        assert!(!notices.say(day, true), "the first second has not passed");
        let step = Progress::new(7, 0).resume(2, 10, 300, Duration::from_secs(1));
        let mut step = step.having_said(notices);
        let line = step.end().expect("a last line");
        assert!(line.starts_with("matomo: site 7, 2026-11-24: 2 of 2 days, 10 visits"), "{line}");
        assert_eq!(step.end(), None);
    }

    #[test]
    fn durations() {
        assert_eq!(duration(59.4), "59 s");
        assert_eq!(duration(60.0), "1 min 0 s");
        assert_eq!(duration(7_260.0), "2 h 1 min");
    }
}
