//! A bound on the time without an answer. Pure.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Bounds the time without an answer over all attempts: retries, their waits, and smaller pages. A
/// clone starts afresh.
#[derive(Debug)]
pub struct Deadline {
    most: Option<Duration>,
    /// When the first attempt since the last answer began.
    since: Cell<Option<Instant>>,
}

impl Deadline {
    /// A bound of `most`; `None` for no bound.
    pub fn new(most: Option<Duration>) -> Deadline {
        Deadline { most, since: Cell::new(None) }
    }

    /// The timeout of an attempt that begins now. If a smaller request may follow, this one gets
    /// half of the time left.
    pub fn timeout(&self, request_timeout: Duration, may_shrink: bool) -> Duration {
        let Some(left) = self.left() else { return request_timeout };
        self.since.set(self.since.get().or_else(|| Some(Instant::now())));
        request_timeout.min(if may_shrink { left / 2 } else { left })
    }

    /// Whether another attempt may begin after a wait. The last sixteenth is too short for one.
    pub fn allows(&self, wait: Duration) -> bool {
        let least = self.most.unwrap_or_default() / 16;
        self.left().is_none_or(|left| left > wait + least)
    }

    /// Starts afresh after an answer.
    pub fn renew(&self) {
        self.since.set(None);
    }

    fn left(&self) -> Option<Duration> {
        let gone = self.since.get().map_or(Duration::ZERO, |since| since.elapsed());
        self.most.map(|most| most.saturating_sub(gone))
    }
}

impl Clone for Deadline {
    fn clone(&self) -> Deadline {
        Deadline::new(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// As if the first attempt had begun so many seconds ago.
    fn after(seconds: u64) -> Deadline {
        let deadline = Deadline::new(Some(MINUTE));
        deadline.since.set(Instant::now().checked_sub(Duration::from_secs(seconds)));
        deadline
    }

    fn timeout(deadline: &Deadline, may_shrink: bool) -> u64 {
        deadline.timeout(MINUTE, may_shrink).as_secs_f64().ceil() as u64
    }

    #[test]
    fn each_smaller_page_takes_half_of_what_is_left() {
        for (gone, half, all) in [(0, 30, 60), (30, 15, 30), (45, 8, 15), (59, 1, 1), (90, 0, 0)] {
            assert_eq!(timeout(&after(gone), true), half);
            assert_eq!(timeout(&after(gone), false), all);
        }
        assert_eq!(after(0).timeout(Duration::from_secs(5), true).as_secs(), 5);
    }

    #[test]
    fn an_answer_gives_all_the_time_back() {
        let deadline = after(50);
        assert!(deadline.allows(Duration::ZERO) && !deadline.allows(Duration::from_secs(10)));
        assert!(!after(57).allows(Duration::ZERO));
        deadline.renew();
        assert!(deadline.allows(Duration::from_secs(50)));
        assert_eq!(timeout(&deadline, false), 60);
    }

    #[test]
    fn without_a_bound_each_attempt_has_the_whole_timeout() {
        let deadline = Deadline::new(None);
        assert_eq!(timeout(&deadline, true), 60);
        assert!(deadline.allows(MINUTE * 60));
    }
}
