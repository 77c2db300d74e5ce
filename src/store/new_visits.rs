//! Which visits of a batch have no stored rows. SPI only.
//!
//! In an import nearly none has any, and that no ID of a range is stored costs less to find out than what
//! is stored of each.

use std::collections::BTreeMap;

use pgrx::spi::SpiClient;

use crate::error::Result;
use crate::pg::local_settings::{LocalSettings, SAFE_PATH};
use crate::rows::batch::TableRows;
use crate::store::planner_hook::VisitIndexOnly;
use crate::store::span::FEW;
use crate::store::statements::span_args;
use crate::store::table_writer::TableWriter;

/// Ranges of visit IDs: least and greatest, in order, without overlaps.
#[derive(Debug, Default)]
pub struct IdRanges(Vec<[i64; 2]>);

impl IdRanges {
    /// Whether an ID lies in one of them.
    pub fn contains(&self, id: i64) -> bool {
        let after = self.0.partition_point(|[least, _]| *least <= id);
        after > 0 && id <= self.0[after - 1][1]
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

    /// The range after which an ID lies, by its place; no ID of the ranges lies between two IDs of one gap.
    fn gap(&self, id: i64) -> usize {
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

fn length(id: i64) -> u32 {
    id.checked_ilog10().unwrap_or_default()
}

fn widen([least, greatest]: &mut [i64; 2], id: i64) {
    (*least, *greatest) = ((*least).min(id), (*greatest).max(id));
}

impl TableWriter {
    /// Ranges in which no visit has stored rows. Those of batches before are not asked for.
    pub(super) fn new_visits(
        &mut self,
        client: &mut SpiClient,
        table: &TableRows,
        span: Option<(f64, f64)>,
    ) -> Result<IdRanges> {
        let mut new = IdRanges::default();
        if !self.expects_new || table.visits.len() <= FEW || !self.destination.engine.is_heap() {
            return Ok(new);
        }
        let mut gaps = BTreeMap::new();
        for (id, _) in table.visits.iter().filter(|(id, _)| !self.written.contains(*id)) {
            widen(gaps.entry((self.written.gap(*id), length(*id))).or_insert([*id, *id]), *id);
        }
        let _by_visit = VisitIndexOnly::set();
        let _safe = LocalSettings::of(&[SAFE_PATH, (c"enable_seqscan", c"off")]);
        for range in gaps.into_values() {
            let mut args = Vec::from(range.map(|id| id.to_string().into()));
            args.extend(span_args(span));
            if self.statements.any_between.run(client, &args)?.is_empty() {
                new.add(range);
            }
        }
        Ok(new)
    }

    /// Remembers the visits of a batch.
    pub(super) fn note_written(&mut self, table: &TableRows) {
        ranges_of(table.visits.iter().map(|(id, _)| *id)).for_each(|range| self.written.add(range));
    }
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
            for (id, expected) in expected.iter().enumerate() {
                prop_assert_eq!(ranges.contains(id as i64), *expected, "{} in {:?}", id, ranges);
            }
            prop_assert!(ranges.0.windows(2).all(|two| two[0][1] + 1 < two[1][0]), "{ranges:?}");
        }
    }
}
