//! The visits that a reading of a site-day has listed so far, so that each counts once, even across
//! transactions. Pure.

use std::collections::BTreeMap;

/// Visits by ID, each as it was listed last: its number of actions, and whether Matomo cut them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VisitTally(BTreeMap<i64, (usize, bool)>);

/// Sums over the visits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub visits: i64,
    pub actions: i64,
    /// Visits of which Matomo listed only the first actions.
    pub truncated_visits: i64,
}

impl VisitTally {
    /// Adds or replaces a visit. Returns false if it was listed like this before.
    pub fn insert(&mut self, visit: i64, actions: usize, is_truncated: bool) -> bool {
        self.0.insert(visit, (actions, is_truncated)) != Some((actions, is_truncated))
    }

    /// The sums.
    pub fn counts(&self) -> Counts {
        Counts {
            visits: count(self.0.len()),
            actions: count(self.0.values().map(|(actions, _)| actions).sum()),
            truncated_visits: count(self.0.values().filter(|(_, cut)| *cut).count()),
        }
    }

    /// A compact encoding, about four bytes per visit: the difference to the previous ID, then
    /// twice the number of actions, plus one if they were cut.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 * self.0.len());
        let mut before = 0;
        for (visit, (actions, is_truncated)) in &self.0 {
            write(&mut bytes, visit.wrapping_sub(before) as u64);
            write(&mut bytes, (*actions as u64) << 1 | u64::from(*is_truncated));
            before = *visit;
        }
        bytes
    }

    /// Decodes it; `None` if it is invalid.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<VisitTally> {
        let mut tally = VisitTally::default();
        let mut before = 0i64;
        while !bytes.is_empty() {
            before = before.wrapping_add(read(&mut bytes)? as i64);
            let actions = read(&mut bytes)?;
            tally.insert(before, usize::try_from(actions >> 1).ok()?, actions & 1 == 1);
        }
        Some(tally)
    }
}

/// Seven bits per byte, lowest first; the eighth bit means that more follow.
fn write(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// A count as `bigint`.
pub fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_visit_met_twice_counts_once_as_it_was_last() {
        let mut tally = VisitTally::default();
        assert!(tally.insert(7, 3, false) && tally.insert(9, 500, true));
        assert!(tally.insert(7, 4, false) && !tally.insert(7, 4, false));
        assert_eq!(tally.counts(), Counts { visits: 2, actions: 504, truncated_visits: 1 });
    }

    #[test]
    fn what_is_no_such_form_is_refused() {
        assert_eq!(VisitTally::from_bytes(&[0x80]), None);
        assert_eq!(VisitTally::from_bytes(&[1]), None);
        assert_eq!(VisitTally::from_bytes(&[0xff; 20]), None);
        assert_eq!(VisitTally::from_bytes(&[]), Some(VisitTally::default()));
    }

    proptest! {
        #[test]
        fn what_is_kept_comes_back(
            visits in prop::collection::vec((any::<i64>(), 0usize..5_000, any::<bool>()), 0..200),
        ) {
            let mut tally = VisitTally::default();
            for (visit, actions, cut) in visits {
                tally.insert(visit, actions, cut);
            }
            prop_assert_eq!(VisitTally::from_bytes(&tally.to_bytes()), Some(tally));
        }
    }
}
