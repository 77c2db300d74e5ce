//! Which visits of a batch have no stored rows. SPI only.
//!
//! In an import, nearly all visits are new. Finding once that a range of IDs is empty costs less
//! than a look at each visit.

use std::collections::BTreeMap;

use pgrx::spi::SpiClient;

use crate::error::Result;
use crate::pg::local_settings::{LocalSettings, SAFE_PATH};
use crate::pg::spi::get;
use crate::rows::batch::TableRows;
use crate::rows::id_ranges::{IdRanges, length, ranges_of, widen};
use crate::store::planner_hook::VisitIndexOnly;
use crate::store::statements::span_args;
use crate::store::table_writer::TableWriter;
use crate::store::table_writer::span::{FEW, ends};

impl TableWriter {
    /// Whether all visits of a batch have IDs in ranges that were empty, in every partition, when this sync
    /// first looked. Visits stored since lie in [`TableWriter::span_of_new`].
    pub(super) fn knows_as_new(&self, table: &TableRows) -> bool {
        self.expects_new && table.visits.iter().all(|(id, _)| self.free.contains(*id))
    }

    /// Plans the look for stored visits. A new session needs tens of milliseconds for that, which pass while the
    /// first page is on its way.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn plan_ahead(&mut self, client: &mut SpiClient) -> Result<()> {
        if self.destination.engine.is_heap() {
            let no_span = self.destination.key_has_time().then_some((0.0, 0.0));
            let _by_visit = VisitIndexOnly::set();
            let _safe = LocalSettings::of(&[SAFE_PATH, (c"enable_seqscan", c"off")]);
            self.is_any_between(client, [1, 0], no_span)?;
        }
        Ok(())
    }

    fn is_any_between(
        &mut self,
        client: &mut SpiClient,
        range: [i64; 2],
        span: Option<(f64, f64)>,
    ) -> Result<bool> {
        let mut args = Vec::from(range.map(|id| id.to_string().into()));
        args.extend(span_args(span));
        Ok(!self.statements.any_between.run(client, &args)?.is_empty())
    }

    /// Ranges in which no visit has stored rows. Does not look again at those of earlier batches.
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
        let _by_visit = VisitIndexOnly::set();
        let _safe = LocalSettings::of(&[SAFE_PATH, (c"enable_seqscan", c"off")]);
        for range in self.gaps(table).collect::<Vec<_>>() {
            if !self.is_any_between(client, range, span)? {
                new.add(range);
                if span.is_some() && !self.free.cover(range) {
                    self.find_free(client, range[0])?;
                }
            }
        }
        Ok(new)
    }

    /// Remembers up to which ID no visit is stored in any partition. Otherwise each batch of an import would
    /// search all partitions.
    fn find_free(&mut self, client: &mut SpiClient, least: i64) -> Result<()> {
        let Some(next_stored) = &mut self.statements.next_stored else { return Ok(()) };
        let next: Option<i64> = match next_stored.run(client, &[least.into()])?.next() {
            Some(row) => get(&row, 1)?,
            None => Some(i64::MAX),
        };
        if let Some(next) = next.filter(|next| *next > least) {
            self.free.add([least, next - 1]);
        }
        Ok(())
    }

    /// Ranges of the batch's visits, between those of batches before.
    fn gaps(&self, table: &TableRows) -> impl Iterator<Item = [i64; 2]> + use<> {
        let mut gaps = BTreeMap::new();
        for (id, _) in table.visits.iter().filter(|(id, _)| !self.written.contains(*id)) {
            widen(gaps.entry((self.written.gap(*id), length(*id))).or_insert([*id, *id]), *id);
        }
        gaps.into_values()
    }

    /// Remembers the visits of a batch.
    pub(super) fn note_written(&mut self, table: &TableRows) {
        ranges_of(table.visits.iter().map(|(id, _)| *id)).for_each(|range| self.written.add(range));
        self.spans.extend(ends(table).zip(self.own_span(table)));
    }
}
