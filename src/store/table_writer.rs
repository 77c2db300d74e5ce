//! Writes rows of batches into one table, with copy_from.rs. SPI only.
//!
//! A visit is replaced as a unit: of its rows, new ones are inserted, those that differ updated,
//! those that no longer exist deleted, and equal ones not touched at all: no dead row, no WAL.

mod by_key;
mod new_visits;
pub mod read_back;
mod removal;
mod span;

use std::collections::HashSet;
use std::ops::Range;

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::error::{MissingPartitions, Result};
use crate::pg::encoding;
use crate::pg::local_settings::{LocalSettings, PLANNED_ANEW, SAFE_PATH};
use crate::pg::spi::{get, query, write_once};
use crate::rows::batch::{Batch, TableRows};
use crate::rows::id_ranges::IdRanges;
use crate::rows::visit_tally::count;
use crate::store::compare::{Changes, Comparison, RowLock};
use crate::store::copy_from::copy_from;
use crate::store::destination::Destination;
use crate::store::engine::Engine;
use crate::store::partitions;
use crate::store::planner_hook::VisitIndexOnly;
use crate::store::statements::{Statements, column_arrays, span_args};
use crate::store::written::Written;

/// Writes visits into one table.
pub struct TableWriter {
    /// Which of the batch's tables are its rows.
    place: usize,
    destination: Destination,
    statements: Statements,
    /// UTC days since 1970 whose partitions are known to exist.
    days: HashSet<i64>,
    /// Ranges, in seconds, whose partitions are known to exist.
    ranges: Vec<(f64, f64)>,
    /// Which visits have been written.
    written: IdRanges,
    /// Ranges in which no other visits are stored.
    free: IdRanges,
    /// Of each batch written: the least and the greatest visit, and the span of its rows.
    spans: Vec<([i64; 2], (f64, f64))>,
    /// Whether the last batch had only new visits, as in an import.
    expects_new: bool,
    /// Whether rows that were inserted have been seen in the table.
    is_read_back: bool,
}

const DAY: i64 = 86_400;

impl TableWriter {
    /// Prepares to write visits.
    pub fn new(place: usize, destination: Destination) -> TableWriter {
        let statements = Statements::of(&destination);
        let (days, ranges) = (HashSet::new(), Vec::new());
        TableWriter {
            place,
            destination,
            statements,
            days,
            ranges,
            written: IdRanges::default(),
            free: IdRanges::default(),
            spans: Vec::new(),
            expects_new: true,
            is_read_back: false,
        }
    }

    /// Replaces the batch's visits.
    ///
    /// # Errors
    /// Only internal ones; Postgres' own, such as a constraint of the user's, are raised.
    pub fn write(&mut self, batch: &Batch) -> Result<Written> {
        let rows = &batch.tables()[self.place];
        self.destination.check_name()?;
        Spi::connect_mut(|client| {
            self.create_partitions(client, rows)?;
            let is_new = self.knows_as_new(rows);
            let span = if is_new { self.span_of_new(rows) } else { self.span(client, rows)? };
            let mut changes = self.changes(client, batch, span, RowLock::No)?;
            self.expects_new = changes.is_all_new(rows, &self.written);
            self.note_written(rows);
            let mut written = self.replace(client, rows, span, &changes)?;
            if written.replaced() < changes.replaced() {
                // Another session has changed or moved some of these rows since they were compared.
                // Compare again, with the rows locked. If rows are still missing then, a trigger
                // has refused them.
                changes = self.changes(client, batch, span, RowLock::Rows)?;
                written += self.replace(client, rows, span, &changes)?;
            }
            written.new_visits = changes.new_visits;
            if !changes.insert.is_empty() {
                written.inserted = self.insert(client, rows, &changes.insert)?;
                self.read_back(client, rows, changes.insert, written.inserted)?;
            }
            self.destination.check_name()?;
            Ok(written)
        })
    }

    /// Deletes and updates rows where they lie, or by key.
    fn replace(
        &self,
        client: &mut SpiClient,
        table: &TableRows,
        span: Option<(f64, f64)>,
        changes: &Changes,
    ) -> Result<Written> {
        if changes.replaced() == 0 {
            return Ok(Written::default());
        }
        let _by_ctid = LocalSettings::of(&[(c"enable_seqscan", c"off")]);
        if !self.destination.engine.is_heap() {
            return self.replace_by_key(client, table, changes);
        }
        let mut written = Written::default();
        for (partition, ctids) in &changes.delete {
            let mut args = vec![pg_sys::Oid::from(*partition).into(), ctids.clone().into()];
            args.extend(span_args(span));
            written.deleted += count(query(client, &self.statements.by_ctid.delete, &args)?.len());
        }
        for (partition, (rows, ctids)) in &changes.update {
            let mut args = column_arrays(table, rows);
            args.extend([pg_sys::Oid::from(*partition).into(), ctids.clone().into()]);
            args.extend(span_args(span));
            written.updated += count(query(client, &self.statements.by_ctid.update, &args)?.len());
        }
        Ok(written)
    }

    /// The batch's visits that are not stored as they are.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn differing(&mut self, batch: &Batch) -> Result<HashSet<i64>> {
        let changes = Spi::connect_mut(|client| {
            let span = self.span(client, &batch.tables()[self.place])?;
            self.changes(client, batch, span, RowLock::No)
        })?;
        Ok(changes.visits)
    }

    /// Creates the weekly partitions that the batch needs. Returns where some were missing.
    ///
    /// # Errors
    /// Those of [`crate::store::partitions::create`].
    pub fn prepare(&mut self, batch: &Batch) -> Result<Vec<MissingPartitions>> {
        Spi::connect_mut(|client| self.create_partitions(client, &batch.tables()[self.place]))
    }

    fn create_partitions(
        &mut self,
        client: &mut SpiClient,
        rows: &TableRows,
    ) -> Result<Vec<MissingPartitions>> {
        let mut missing = Vec::new();
        if !self.destination.key_has_time() {
            return Ok(missing);
        }
        // By whole days: beside partitions with bounds in another zone, the Node tool's trigger
        // looks up the week of a row's instant in UTC, which is in the same day. Not by whole
        // weeks: the rest of a week may belong to a monthly partition that does not exist yet.
        let mut days: Vec<_> = rows.rows.instants().iter().map(|at| at.div_euclid(DAY)).collect();
        days.dedup();
        for day in days {
            if !self.days.insert(day) {
                continue;
            }
            let (begin, end) = (day * DAY, day * DAY + DAY - 1);
            let (from, to) = (begin as f64, end as f64);
            let is_there =
                |ranges: &[(f64, f64)]| ranges.iter().any(|(a, b)| *a <= from && to < *b);
            if self.ranges.is_empty() {
                self.read_ranges(client)?;
            }
            if is_there(&self.ranges) {
                continue;
            }
            let destination = self.destination.oid;
            if partitions::create_between(destination, (begin, end))? > 0 {
                let table = destination.to_u32();
                missing.push(MissingPartitions { table, from: begin, to: end, is_regular: false });
            }
            self.read_ranges(client)?;
        }
        Ok(missing)
    }

    /// Reads the ranges of the partitions that exist, whoever has made them.
    fn read_ranges(&mut self, client: &mut SpiClient) -> Result<()> {
        self.find_engine(client)?;
        self.is_read_back = false;
        self.ranges.clear();
        let table = self.destination.oid;
        for row in query(client, &self.statements.partition_ranges, &[table.into()])? {
            let (from, to) = (get(&row, 1)?, get(&row, 2)?);
            self.ranges.extend(from.zip(to));
        }
        Ok(())
    }

    /// Partitions are made with the access method of the table or of the session.
    fn find_engine(&mut self, client: &mut SpiClient) -> Result<()> {
        let engine = Engine::of(client, self.destination.oid)?;
        if engine != self.destination.engine {
            self.destination.engine = engine;
            self.statements = Statements::of(&self.destination);
        }
        Ok(())
    }

    /// The differences between the batch and its stored visits.
    fn changes(
        &mut self,
        client: &mut SpiClient,
        batch: &Batch,
        span: Option<(f64, f64)>,
        lock: RowLock,
    ) -> Result<Changes> {
        let new = self.new_visits(client, &batch.tables()[self.place], span)?;
        // The search_path decides which operators are used, too.
        let _by_visit = VisitIndexOnly::set();
        let _safe = LocalSettings::of(&[SAFE_PATH, (c"enable_seqscan", c"off")]);
        let Destination { name, engine, .. } = &self.destination;
        let _planned_anew = (!engine.is_heap()).then(|| LocalSettings::of(&[PLANNED_ANEW]));
        let (rows, has_ctids) = (&batch.tables()[self.place], engine.is_heap());
        let statements = &mut self.statements;
        Comparison { name, statements, span, lock, has_ctids, rows, new }.changes(client, batch)
    }

    fn insert(
        &self,
        client: &mut SpiClient,
        table: &TableRows,
        rows: &[Range<usize>],
    ) -> Result<i64> {
        if self.destination.engine.is_heap() {
            let text = |rows: &Range<usize>| encoding::to_server(table.rows.text(rows.clone()));
            let parts: Vec<_> = rows.iter().map(text).collect();
            if let Some(inserted) = copy_from(self.destination.oid, &table.layout, &parts)? {
                return Ok(i64::try_from(inserted).unwrap_or(i64::MAX));
            }
        }
        let rows: Vec<_> = rows.iter().cloned().flatten().collect();
        let args = column_arrays(table, &rows);
        Ok(count(write_once(client, &self.statements.insert, &args)?))
    }
}
