//! Writes batches into the destination. SPI only; the only module that writes user tables.
//!
//! A visit is replaced as a unit: of its rows, new ones are inserted, those that differ updated,
//! those that no longer exist deleted, and equal ones not touched at all: no dead row, no WAL.

use std::collections::HashSet;
use std::ops::{AddAssign, Range};

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::compare::{Changes, Comparison, Lock, columns, span_args};
use crate::copy_from::copy_from;
use crate::destination::{Destination, query, spi};
use crate::encoding;
use crate::error::Result;
use crate::fetch::Batch;
use crate::indexes::ByVisit;
use crate::lines::Lines;
use crate::memory::Room;
use crate::rows::COLUMNS;
use crate::scope::Scope;
use crate::seen::count;
use crate::statements::Statements;

/// What became of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
    /// Visits with rows of which none was stored before.
    pub new_visits: i64,
}

impl Written {
    fn replaced(&self) -> i64 {
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

/// Writes visits into one destination.
pub struct Store {
    destination: Destination,
    statements: Statements,
    /// Days, by number since 1970 in UTC, whose partitions are known to be there.
    days: HashSet<i64>,
    /// From when to when, in seconds, partitions are known to be there.
    ranges: Vec<(f64, f64)>,
    /// Whether rows of a visit may lie at any time.
    everywhere: bool,
}

const DAY: i64 = 86_400;

/// From the year 6 to 9891.
const ALWAYS: (i64, i64) = (-62_000_000_000, 250_000_000_000);

impl Store {
    /// Prepares to write visits.
    pub fn new(destination: Destination) -> Store {
        let statements = Statements::of(&destination);
        let (days, ranges) = (HashSet::new(), Vec::new());
        Store { destination, statements, days, ranges, everywhere: false }
    }

    /// Looks for stored rows at any time, not only about when the visits were.
    pub fn everywhere(self) -> Store {
        Store { everywhere: true, ..self }
    }

    /// Replaces the batch's visits.
    ///
    /// # Errors
    /// Only internal ones; Postgres' own, such as a constraint of the user's, are raised.
    pub fn write(&mut self, batch: &Batch) -> Result<Written> {
        // Triggers and defaults of the user's keep his search_path, but no row may depend on the
        // session's TimeZone: the Node tool's trigger makes weeks of it. JIT costs more than it
        // brings for a page of rows.
        let _plain = Scope::of(&[(c"timezone", c"UTC"), (c"jit", c"off")]);
        check_room(&batch.rows);
        Spi::connect_mut(|client| {
            self.make_partitions(client, &batch.rows)?;
            let mut changes = self.changes(client, batch, Lock::No)?;
            let mut written = self.replace(client, batch, &changes)?;
            if written.replaced() < changes.replaced() {
                // Somebody has changed some of these rows since they were compared, and a row that has
                // moved is passed over: once more, and this time nobody comes in between. What is
                // missing still, a trigger has refused.
                changes = self.changes(client, batch, Lock::Rows)?;
                written += self.replace(client, batch, &changes)?;
            }
            written.new_visits = changes.new_visits;
            if !changes.insert.is_empty() {
                written.inserted = self.insert(client, &batch.rows, changes.insert)?;
            }
            self.destination.check_name()?;
            Ok(written)
        })
    }

    /// Deletes and updates rows where they lie.
    fn replace(&self, client: &mut SpiClient, batch: &Batch, changes: &Changes) -> Result<Written> {
        let _by_ctid = Scope::of(&[(c"enable_seqscan", c"off")]);
        let span = self.span(batch);
        let mut written = Written::default();
        for (partition, ctids) in &changes.delete {
            let mut args = vec![pg_sys::Oid::from(*partition).into(), ctids.clone().into()];
            args.extend(span_args(span));
            written.deleted += count(query(client, &self.statements.delete, &args)?.len());
        }
        for (partition, (rows, ctids)) in &changes.update {
            let mut args = columns(&batch.rows, rows);
            args.extend([pg_sys::Oid::from(*partition).into(), ctids.clone().into()]);
            args.extend(span_args(span));
            written.updated += count(query(client, &self.statements.update, &args)?.len());
        }
        Ok(written)
    }

    /// How many of the batch's visits are not stored as they are.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn differing(&mut self, batch: &Batch) -> Result<usize> {
        let _plain = Scope::of(&[(c"timezone", c"UTC"), (c"jit", c"off")]);
        check_room(&batch.rows);
        let changes = Spi::connect_mut(|client| self.changes(client, batch, Lock::No))?;
        Ok(changes.visits.len())
    }

    /// Removes all rows of visits.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn remove(&self, site: i32, visits: &[i64]) -> Result<()> {
        let visits: Vec<_> = visits.iter().map(i64::to_string).collect();
        let args = [vec![site.to_string()].into(), visits.into()];
        Spi::connect_mut(|client| query(client, &self.statements.remove, &args).map(drop))
    }

    /// Makes the weekly partitions that the rows need, before they are routed.
    fn make_partitions(&mut self, client: &mut SpiClient, rows: &Lines) -> Result<()> {
        if !self.destination.key_has_time() {
            return Ok(());
        }
        // By whole days: next to partitions with the bounds of another zone the Node tool's trigger
        // looks for the week of a row's instant in UTC, which lies in the same day. Not by whole
        // weeks: the rest of one may belong to a partition of months that is still to be made.
        for day in rows.instants().iter().map(|at| at.div_euclid(DAY)) {
            if !self.days.insert(day) {
                continue;
            }
            let (from, to) = ((day * DAY) as f64, (day * DAY + DAY - 1) as f64);
            let is_there =
                |ranges: &[(f64, f64)]| ranges.iter().any(|(a, b)| *a <= from && to < *b);
            if is_there(&self.ranges) {
                continue;
            }
            let destination = self.destination.oid;
            let args = [destination.into(), from.into(), to.into()];
            query(client, &self.statements.make_partitions, &args)?;
            self.ranges.clear();
            for row in query(client, &self.statements.partition_ranges, &[destination.into()])? {
                let (from, to) = (row.get(1).map_err(spi)?, row.get(2).map_err(spi)?);
                self.ranges.extend(from.zip(to));
            }
        }
        Ok(())
    }

    /// What differs between the batch and what is stored of its visits.
    fn changes(&mut self, client: &mut SpiClient, batch: &Batch, lock: Lock) -> Result<Changes> {
        // Operators are found by search_path too.
        let _by_visit = ByVisit::only();
        let _safe =
            Scope::of(&[(c"search_path", c"pg_catalog, pg_temp"), (c"enable_seqscan", c"off")]);
        let span = self.span(batch);
        Comparison { statements: &mut self.statements, span, lock }.changes(client, batch)
    }

    fn insert(
        &self,
        client: &mut SpiClient,
        lines: &Lines,
        rows: Vec<Range<usize>>,
    ) -> Result<i64> {
        let parts: Vec<_> =
            rows.iter().map(|rows| encoding::to_server(lines.text(rows.clone()))).collect();
        if let Some(inserted) = copy_from(self.destination.oid, &parts)? {
            return Ok(i64::try_from(inserted).unwrap_or(i64::MAX));
        }
        let rows: Vec<_> = rows.into_iter().flatten().collect();
        Ok(count(query(client, &self.statements.insert, &columns(lines, &rows))?.len()))
    }

    /// Between which instants stored rows of the batch's visits lie, where that narrows the search.
    fn span(&self, batch: &Batch) -> Option<(f64, f64)> {
        // A day more on each side, for rows that were stored with the other kind of time.
        let (from, to) = batch.span.filter(|_| !self.everywhere).unwrap_or(ALWAYS);
        let span = ((from - DAY) as f64, (to + DAY) as f64);
        self.destination.key_has_time().then_some(span)
    }
}

/// Raises an ERROR when there is no memory for what is made of a batch: texts in other encodings, and a
/// text of its own for each cell.
fn check_room(rows: &Lines) {
    let cell = size_of::<Option<String>>() + 32;
    let bytes = rows.len() * COLUMNS.len() * cell + 4 * rows.size() + Room::of_all();
    // SAFETY: main thread, within a transaction.
    unsafe { pg_sys::pfree(pg_sys::MemoryContextAllocHuge(pg_sys::CurrentMemoryContext, bytes)) };
}
