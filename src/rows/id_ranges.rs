//! Ranges of visit IDs. Pure.

use std::collections::BTreeMap;

/// Ranges of visit IDs: least and greatest, in order, without overlaps.
#[derive(Debug, Default)]
pub struct IdRanges(Vec<[i64; 2]>);

impl IdRanges {
    /// Whether an ID lies in one of them.
    pub fn contains(&self, id: i64) -> bool {
        let after = self.0.partition_point(|[least, _]| *least <= id);
        after > 0 && id <= self.0[after - 1][1]
    }

    /// Whether a range lies in one of them.
    pub fn cover(&self, [least, greatest]: [i64; 2]) -> bool {
        let after = self.0.partition_point(|[begin, _]| *begin <= least);
        after > 0 && greatest <= self.0[after - 1][1]
    }

    /// Adds a range; those that it meets become one with it.
    pub fn add(&mut self, [mut least, mut greatest]: [i64; 2]) {
        let first = self.0.partition_point(|[_, end]| end.saturating_add(1) < least);
        let after = self.0.partition_point(|[begin, _]| *begin <= greatest.saturating_add(1));
        if let (Some([begin, _]), Some([_, end])) =
            (self.0.get(first), after.checked_sub(1).and_then(|last| self.0.get(last)))
            && first < after
        {
            (least, greatest) = (least.min(*begin), greatest.max(*end));
        }
        self.0.splice(first..after.max(first), [[least, greatest]]);
    }

    /// The gap between ranges in which an ID lies, by its place.
    pub fn gap(&self, id: i64) -> usize {
        self.0.partition_point(|[least, _]| *least <= id)
    }
}

/// The ranges of IDs of the same length. Consecutive IDs are neighbours in an index; as text that holds
/// only among IDs of the same length, with longer ones in between.
pub fn ranges_of(ids: impl Iterator<Item = i64>) -> impl Iterator<Item = [i64; 2]> {
    let mut ranges = BTreeMap::new();
    for id in ids {
        widen(ranges.entry(length(id)).or_insert([id, id]), id);
    }
    ranges.into_values()
}

/// Number of digits of an ID, less one.
pub fn length(id: i64) -> u32 {
    id.checked_ilog10().unwrap_or_default()
}

/// Widens a range so that it contains an ID.
pub fn widen([least, greatest]: &mut [i64; 2], id: i64) {
    (*least, *greatest) = ((*least).min(id), (*greatest).max(id));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_contain_what_was_added_and_nothing_else(
            added in prop::collection::vec((0_i64..60, 0_i64..8), 0..20),
        ) {
            let (mut ranges, mut expected) = (IdRanges::default(), [false; 70]);
            for (least, width) in added {
                ranges.add([least, least + width]);
                expected[least as usize..=(least + width) as usize].fill(true);
            }
            for (id, is_in) in expected.iter().enumerate() {
                prop_assert_eq!(ranges.contains(id as i64), *is_in, "{} in {:?}", id, ranges);
                for end in id..expected.len() {
                    let are_in = expected[id..=end].iter().all(|is_in| *is_in);
                    prop_assert_eq!(ranges.cover([id, end].map(|id| id as i64)), are_in);
                }
            }
            prop_assert!(ranges.0.windows(2).all(|two| two[0][1] + 1 < two[1][0]), "{ranges:?}");
        }
    }
}
