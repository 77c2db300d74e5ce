//! The state of a site-day in the ledger. Pure.

use crate::rows::visit_tally::VisitTally;

/// The state of a day. Times are in Unix seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DayState {
    /// Whether it was read whole after it had ended and settled.
    pub sealed: bool,
    /// `lastActionTimestamp` of the newest visit read. All visits up to it that Matomo had at that time
    /// are stored.
    pub newest: Option<i64>,
    /// When the day was last read.
    pub read_at: i64,
    /// Start of the last recheck or reading of the whole day.
    pub rechecked: Option<i64>,
    /// The unfinished reading or recheck, if any.
    pub pass: Option<Pass>,
}

/// An unfinished reading or recheck. Times are in Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// When it started.
    pub began: i64,
    /// The instant from which it resumes.
    pub since: i64,
    /// Visits read by a reading of the whole day; empty for a reading of new visits, `None` for a recheck.
    pub tally: Option<VisitTally>,
}

impl Pass {
    /// Whether it reads the whole day.
    pub fn is_whole(&self) -> bool {
        self.tally.as_ref().is_some_and(|tally| *tally != VisitTally::default())
    }

    /// Whether it reads only new visits.
    pub fn is_of_new(&self) -> bool {
        self.tally.as_ref().is_some_and(|tally| *tally == VisitTally::default())
    }
}
