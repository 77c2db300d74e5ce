//! How far a sync is, in a line for the user. Pure.

use std::time::Duration;

/// Counts days, visits and actions of a sync.
#[derive(Debug, Clone)]
pub struct Progress {
    site: i32,
    days_to_do: usize,
    days_done: usize,
    visits: i64,
    actions: i64,
}

impl Progress {
    /// A sync of so many days.
    pub fn new(site: i32, days_to_do: usize) -> Progress {
        Progress { site, days_to_do, days_done: 0, visits: 0, actions: 0 }
    }

    /// Takes note of a day that is stored.
    pub fn day_done(&mut self, visits: i64, actions: i64) {
        self.days_done += 1;
        self.visits += visits;
        self.actions += actions;
    }

    /// Days done of days to do, visits, actions, rate and time left, after `elapsed`.
    pub fn line(&self, what: &str, elapsed: Duration) -> String {
        let Progress { site, days_to_do, days_done, visits, actions } = self;
        let mut line = format!(
            "matomo: site {site}, {what}: {days_done} of {days_to_do} days, {visits} visits, {actions} actions"
        );
        let seconds = elapsed.as_secs_f64();
        if *days_done > 0 && seconds > 0.0 {
            let rate = *actions as f64 / seconds;
            let left = seconds / *days_done as f64 * (days_to_do - days_done) as f64;
            line += &format!(", {rate:.0} actions/s, {} left", duration(left));
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

    #[test]
    fn a_line() {
        let mut progress = Progress::new(7, 4);
        assert_eq!(
            progress.line("begins", Duration::ZERO),
            "matomo: site 7, begins: 0 of 4 days, 0 visits, 0 actions"
        );
        progress.day_done(10, 300);
        assert_eq!(
            progress.line("2026-11-24", Duration::from_secs(30)),
            "matomo: site 7, 2026-11-24: 1 of 4 days, 10 visits, 300 actions, 10 actions/s, 1 min 30 s left"
        );
    }

    #[test]
    fn durations() {
        assert_eq!(duration(59.4), "59 s");
        assert_eq!(duration(60.0), "1 min 0 s");
        assert_eq!(duration(7_260.0), "2 h 1 min");
    }
}
