//! Writes visits where rows have no place and COPY from memory may write past the table: with plain SQL by
//! key, planned anew each time. SPI only.
//!
//! A visit that differs is deleted and inserted whole: one DELETE and one INSERT a batch, which go only to
//! the shards concerned, while an UPDATE from a list would read the list on each shard. No ctid, tableoid,
//! generic plan, FOR UPDATE or ON CONFLICT: Citus, columnar or foreign tables refuse these, or count wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiClient;

use crate::error::Result;
use crate::pg::local_settings::{LocalSettings, PLANNED_ANEW, SAFE_PATH};
use crate::pg::spi::{query, spi, write_once};
use crate::rows::batch::{Batch, TableRows};
use crate::rows::visit_tally::count;
use crate::store::compare::{Changes, Comparison, RowLock};
use crate::store::destination::Destination;
use crate::store::rewrite::Rewrite;
use crate::store::statements::column_arrays;
use crate::store::table_writer::TableWriter;
use crate::store::written::Written;

/// A difference between a row of the batch and the stored row of its key.
struct Difference {
    /// The row of the batch.
    row: Option<usize>,
    is_stored: bool,
    visit: i64,
}

/// The stored rows of a visit.
#[derive(Default)]
struct Extent {
    rows: i64,
    has_all_times: bool,
    first: f64,
    last: f64,
    sites: Vec<Option<String>>,
}

impl TableWriter {
    /// Replaces the batch's visits.
    pub(super) fn write_by_key(
        &mut self,
        client: &mut SpiClient,
        batch: &Batch,
        span: Option<(f64, f64)>,
    ) -> Result<Written> {
        let rows = &batch.tables()[self.place];
        let mut changes = self.changes(client, batch, span, RowLock::No)?;
        let length = |ranges: &[Range<usize>]| count(ranges.iter().map(Range::len).sum());
        let mut written = Written { new_visits: changes.new_visits, ..Written::default() };
        written.inserted = length(&changes.insert);
        if let Some(rewrite) = changes.rewrite.take() {
            written += rewrite.amounts;
            let missing = rewrite.stored - self.delete_visits(client, &rewrite)?;
            let kept = if missing > 0 {
                // A trigger has refused some of these rows, or another session has deleted them. What
                // is still there stays, and is not inserted a second time.
                written.deleted = (written.deleted - missing).max(0);
                self.rows_kept(client, rows, span, &rewrite)?
            } else {
                BTreeSet::new()
            };
            let visits: BTreeSet<i64> = rewrite.visits.iter().copied().collect();
            for (_, range) in rows.visits.iter().filter(|(id, _)| visits.contains(id)) {
                let wanted = range.clone().filter(|row| !kept.contains(row));
                changes.insert.extend(wanted.map(|row| row..row + 1));
            }
        }
        if !changes.insert.is_empty() {
            let taken = length(&changes.insert) - self.insert(client, rows, &changes.insert)?;
            // Rows that a trigger or rule of the user's takes away are not counted.
            written.inserted = (written.inserted - taken).max(0);
            self.read_back(client, rows, span, changes.insert)?;
        }
        Ok(written)
    }

    /// Deletes the stored rows of visits. Returns their number.
    fn delete_visits(&self, client: &mut SpiClient, rewrite: &Rewrite) -> Result<i64> {
        let Destination { name, layout, .. } = &self.destination;
        let [site_type, visit_type] =
            ["idsite", "idvisit"].map(|column| self.destination.type_of(column));
        let mut sql = format!(
            "DELETE FROM {name} AS d \
             WHERE d.idvisit OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.text[]::{visit_type}[])"
        );
        let mut args: Vec<DatumWithOid> = vec![texts(&rewrite.visits).into()];
        // One shard, where a table is distributed by site.
        if let Some(sites) = &rewrite.sites {
            sql += &format!(
                " AND d.idsite OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.text[]::{site_type}[])"
            );
            args.push(sites.iter().cloned().collect::<Vec<_>>().into());
        }
        // Partitions that cannot be deleted from, such as columnar ones, are left out.
        if let Some((first, last)) = rewrite.span {
            let (time, n) = (layout.kind.time(), args.len());
            sql += &format!(
                " AND d.{time} OPERATOR(pg_catalog.>=) pg_catalog.to_timestamp(${}) \
                 AND d.{time} OPERATOR(pg_catalog.<=) pg_catalog.to_timestamp(${})",
                n + 1,
                n + 2
            );
            args.extend([first.into(), last.into()]);
        }
        let _by_visit = LocalSettings::of(&[(c"enable_seqscan", c"off")]);
        Ok(count(write_once(client, &sql, &args)?))
    }

    /// The rows of the batch whose key is still stored.
    fn rows_kept(
        &mut self,
        client: &mut SpiClient,
        table: &TableRows,
        span: Option<(f64, f64)>,
        rewrite: &Rewrite,
    ) -> Result<BTreeSet<usize>> {
        let _safe = LocalSettings::of(&[SAFE_PATH, PLANNED_ANEW]);
        let wanted: BTreeSet<i64> = rewrite.visits.iter().copied().collect();
        let visits: Vec<_> =
            table.visits.iter().filter(|(id, _)| wanted.contains(id)).cloned().collect();
        let mut rows: BTreeSet<usize> = visits.iter().flat_map(|(_, rows)| rows.clone()).collect();
        for difference in self.comparison(table, span, RowLock::No).differences(client, &visits)? {
            if let (Some(row), false) = (difference.row, difference.is_stored) {
                rows.remove(&row);
            }
        }
        Ok(rows)
    }
}

impl Comparison<'_> {
    /// The second step, by key.
    pub(super) fn by_key(
        &mut self,
        client: &mut SpiClient,
        visits: &[(i64, Range<usize>)],
        changes: &mut Changes,
    ) -> Result<()> {
        let extents = self.extents(client, visits)?;
        let mut found: BTreeMap<i64, Written> = BTreeMap::new();
        for difference in self.differences(client, visits)? {
            let amounts = found.entry(difference.visit).or_default();
            match (difference.row, difference.is_stored) {
                (Some(_), true) => amounts.updated += 1,
                (Some(_), false) => amounts.inserted += 1,
                (None, _) => {}
            }
        }
        let mut rewrite = Rewrite { sites: Some(BTreeSet::new()), ..Rewrite::default() };
        let mut whole = Extent { has_all_times: true, ..Extent::default() };
        (whole.first, whole.last) = (f64::INFINITY, f64::NEG_INFINITY);
        let none = Extent::default();
        for (id, rows) in visits {
            let (extent, sent) = (extents.get(id).unwrap_or(&none), count(rows.len()));
            // Where no index keeps the key unique, a row may be stored twice.
            let is_same = !found.contains_key(id) && extent.rows == sent;
            if is_same {
                continue;
            }
            let mut amounts = found.remove(id).unwrap_or_default();
            amounts.deleted = (extent.rows + amounts.inserted - sent).max(0);
            rewrite.amounts += amounts;
            rewrite.stored += extent.rows;
            rewrite.visits.push(*id);
            for site in &extent.sites {
                match (site, &mut rewrite.sites) {
                    (Some(site), Some(sites)) => drop(sites.insert(site.clone())),
                    _ => rewrite.sites = None,
                }
            }
            if extent.rows > 0 {
                whole.has_all_times &= extent.has_all_times;
                whole.first = whole.first.min(extent.first);
                whole.last = whole.last.max(extent.last);
            }
        }
        if whole.has_all_times && whole.first.is_finite() && whole.last.is_finite() {
            rewrite.span = Some((whole.first, whole.last));
        }
        changes.visits.extend(&rewrite.visits);
        changes.rewrite = (!rewrite.visits.is_empty()).then_some(rewrite);
        Ok(())
    }

    /// The rows that differ, or that only one side has.
    fn differences(
        &mut self,
        client: &mut SpiClient,
        visits: &[(i64, Range<usize>)],
    ) -> Result<Vec<Difference>> {
        let rows: Vec<usize> = visits.iter().flat_map(|(_, rows)| rows.clone()).collect();
        let mut args = column_arrays(self.rows, &rows);
        args.push(texts(&rows).into());
        args.extend(self.visit_args(visits.iter().map(|(id, _)| *id)));
        let mut found = Vec::new();
        for row in query(client, &self.statements.compare_by_key, &args)? {
            let place: Option<i64> = row.get(1).map_err(spi)?;
            let visit: Option<String> = row.get(3).map_err(spi)?;
            found.push(Difference {
                row: place.and_then(|place| usize::try_from(place).ok()),
                is_stored: row.get(2).map_err(spi)? == Some(true),
                visit: visit.and_then(|id| id.parse().ok()).unwrap_or_default(),
            });
        }
        Ok(found)
    }

    /// The stored rows of each visit.
    fn extents(
        &mut self,
        client: &mut SpiClient,
        visits: &[(i64, Range<usize>)],
    ) -> Result<BTreeMap<i64, Extent>> {
        let args = self.visit_args(visits.iter().map(|(id, _)| *id));
        let mut extents: BTreeMap<i64, Extent> = BTreeMap::new();
        for row in query(client, &self.statements.extents, &args)? {
            let visit: Option<String> = row.get(1).map_err(spi)?;
            let Some(Ok(id)) = visit.map(|id| id.parse()) else { continue };
            let rows: i64 = row.get(3).map_err(spi)?.unwrap_or(0);
            let times: i64 = row.get(4).map_err(spi)?.unwrap_or(0);
            let first: Option<f64> = row.get(5).map_err(spi)?;
            let last: Option<f64> = row.get(6).map_err(spi)?;
            let extent = extents.entry(id).or_insert_with(|| Extent {
                has_all_times: true,
                first: f64::INFINITY,
                last: f64::NEG_INFINITY,
                ..Extent::default()
            });
            extent.rows += rows;
            extent.has_all_times &= times == rows;
            extent.first = extent.first.min(first.unwrap_or(f64::INFINITY).floor());
            extent.last = extent.last.max(last.unwrap_or(f64::NEG_INFINITY).ceil());
            extent.sites.push(row.get(2).map_err(spi)?);
        }
        Ok(extents)
    }
}

fn texts<T: ToString>(numbers: &[T]) -> Vec<String> {
    numbers.iter().map(T::to_string).collect()
}
