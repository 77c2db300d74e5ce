//! Where the stored rows of a batch's visits can be. SPI only.

use std::ops::Range;

use pgrx::spi::SpiClient;

use crate::error::Result;
use crate::pg::local_settings::{LocalSettings, SAFE_PATH};
use crate::pg::spi::get;
use crate::rows::batch::TableRows;
use crate::rows::id_ranges::ranges_of;
use crate::rows::visit_tally::count;
use crate::store::planner_hook::VisitIndexOnly;
use crate::store::table_writer::{DAY, TableWriter};

/// Up to this many visits, all partitions are searched.
pub const FEW: usize = 16;

impl TableWriter {
    /// The span of instants in which all stored rows of the batch's visits lie, for partitioning by
    /// time. Usually that is the span of the batch's own partitions, unless a visit had other times
    /// before or was another visit.
    pub(super) fn span(
        &mut self,
        client: &mut SpiClient,
        table: &TableRows,
    ) -> Result<Option<(f64, f64)>> {
        let Some((mut from, mut to)) = self.own_span(table) else { return Ok(None) };
        if table.visits.len() > FEW && from < to {
            (from, to) = self.partitions_of((from, to));
            if !self.has_rows_outside(client, table, from, to)? {
                return Ok(Some((from, to)));
            }
        }
        Ok(Some((f64::NEG_INFINITY, f64::INFINITY)))
    }

    /// The span of the batch's own rows, for partitioning by time. One more day on each side, for rows
    /// stored with the other `matomo.action_time`.
    pub(super) fn own_span(&self, table: &TableRows) -> Option<(f64, f64)> {
        let instants = table.rows.instants();
        let first = instants.iter().min().map_or(f64::INFINITY, |first| (first - DAY) as f64);
        let last = instants.iter().max().map_or(f64::NEG_INFINITY, |last| (last + DAY) as f64);
        self.destination.key_has_time().then_some((first, last))
    }

    /// The span of the batch, widened to the spans of earlier batches of this sync that may have stored the
    /// same visits. Visits that other sessions have stored meanwhile lie in the batch's own span.
    pub(super) fn span_of_new(&self, table: &TableRows) -> Option<(f64, f64)> {
        let mut span = self.own_span(table)?;
        let [least, greatest] = ends(table)?;
        for ([first, last], (from, to)) in &self.spans {
            let may_have = |(id, _): &(i64, Range<usize>)| (first..=last).contains(&id);
            if *first <= greatest && least <= *last && table.visits.iter().any(may_have) {
                span = (span.0.min(*from), span.1.max(*to));
            }
        }
        Some(self.partitions_of(span))
    }

    /// A span widened to the ends of the partitions that it meets: a trigger may move a row within its own.
    fn partitions_of(&self, (from, to): (f64, f64)) -> (f64, f64) {
        let met = self.ranges.iter().filter(|(a, b)| *a < to && *b > from);
        met.fold((from, to), |(from, to), (a, b)| (from.min(*a), to.max(*b)))
    }

    /// Whether visits of the batch may have stored rows outside a span.
    fn has_rows_outside(
        &mut self,
        client: &mut SpiClient,
        table: &TableRows,
        from: f64,
        to: f64,
    ) -> Result<bool> {
        let _by_visit = VisitIndexOnly::set();
        let _safe = LocalSettings::of(&[SAFE_PATH, (c"enable_seqscan", c"off")]);
        // With more rows than this, searching each partition for each visit is cheaper.
        let most = count(table.visits.len() * self.ranges.len().max(1));
        for ids in ranges_of(table.visits.iter().map(|(id, _)| *id)) {
            let [least, greatest] = ids.map(|id| id.to_string().into());
            let args = [least, greatest, from.into(), to.into(), most.into()];
            let found = self.statements.outside_span.run(client, &args)?;
            if count(found.len()) >= most {
                return Ok(true);
            }
            for row in found {
                let id = get::<String>(&row, 1)?.and_then(|id| id.parse::<i64>().ok());
                if table.visits.iter().any(|(visit, _)| id == Some(*visit)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// The least and the greatest visit.
pub(super) fn ends(table: &TableRows) -> Option<[i64; 2]> {
    let ids = || table.visits.iter().map(|(id, _)| *id);
    Some([ids().min()?, ids().max()?])
}
