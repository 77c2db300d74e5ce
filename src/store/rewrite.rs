//! What is to be written anew where rows have no place.

use std::collections::BTreeSet;

use crate::store::written::Written;

/// Stored visits that differ, to be deleted and inserted whole.
#[derive(Default)]
pub struct Rewrite {
    pub visits: Vec<i64>,
    /// Number of their stored rows.
    pub stored: i64,
    /// idSite of their stored rows; `None` if some row has none.
    pub sites: Option<BTreeSet<String>>,
    /// First and last instant of their stored rows, in seconds; `None` if some row has none, or if the
    /// key has no time.
    pub span: Option<(f64, f64)>,
    /// What the rewriting amounts to, in rows.
    pub amounts: Written,
}
