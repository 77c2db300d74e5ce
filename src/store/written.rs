//! What was written.

use std::ops::AddAssign;

/// Counts of written rows of actions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
    /// Visits that have rows, none of them stored before.
    pub new_visits: i64,
}

impl Written {
    /// Stored rows that were changed or deleted.
    pub fn replaced(&self) -> i64 {
        self.updated + self.deleted
    }
}

impl AddAssign for Written {
    fn add_assign(&mut self, other: Written) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.new_visits += other.new_visits;
    }
}
