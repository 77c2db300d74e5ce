//! What the ledger knows of a site-day. Pure.

use crate::rows::visit_tally::VisitTally;

/// What the ledger knows of a day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Read whole after it had ended and settled.
    pub sealed: bool,
    /// `lastActionTimestamp` of the newest visit met: all visits of the day up to it that Matomo had
    /// then are stored.
    pub newest: Option<i64>,
    /// When the day was read last.
    pub read_at: i64,
    /// When the last recheck or reading of the whole day began.
    pub rechecked: Option<i64>,
    /// A reading or a recheck that has not come to its end.
    pub pass: Option<Pass>,
}

/// A reading or a recheck, as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// When it began.
    pub began: i64,
    /// From which instant on it goes on.
    pub since: i64,
    /// What a reading of the whole day has met; nothing for one of what is new, `None` for a recheck.
    pub seen: Option<VisitTally>,
}

impl Pass {
    /// Whether it reads the whole day.
    pub fn is_whole(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| *seen != VisitTally::default())
    }

    /// Whether it reads only what is new.
    pub fn is_of_new(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| *seen == VisitTally::default())
    }
}
