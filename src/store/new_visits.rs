//! Which visits of a batch have no stored rows. SPI only.
//!
//! In an import nearly none has any, and that no ID of a range is stored costs less to find out than what
//! is stored of each.

use std::collections::BTreeMap;

use pgrx::spi::SpiClient;

use crate::error::Result;
use crate::pg::local_settings::{LocalSettings, SAFE_PATH};
use crate::rows::batch::TableRows;
use crate::rows::id_ranges::{IdRanges, length, ranges_of, widen};
use crate::store::planner_hook::VisitIndexOnly;
use crate::store::span::FEW;
use crate::store::statements::span_args;
use crate::store::table_writer::TableWriter;

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
