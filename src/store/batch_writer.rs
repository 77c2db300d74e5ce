//! Writes batches into a destination and its companions. SPI only.

use std::collections::HashSet;

use pgrx::prelude::*;

use crate::error::{MissingPartitions, Result};
use crate::matomo::memory::Reservation;
use crate::pg::local_settings::LocalSettings;
use crate::pg::watch::Unwatched;
use crate::rows::batch::Batch;
use crate::store::destination::Destination;
use crate::store::table_writer::TableWriter;
use crate::store::written::Written;

/// Writes visits into a destination and its companions.
pub struct Writer {
    destination: Destination,
    /// In the order of [`Batch::tables`].
    tables: Vec<TableWriter>,
}

impl Writer {
    /// Prepares to write visits.
    pub fn new(destination: &Destination) -> Writer {
        let tables = destination.tables().cloned().enumerate();
        let tables = tables.map(|(place, table)| TableWriter::new(place, table)).collect();
        Writer { destination: destination.clone(), tables }
    }

    /// Replaces the batch's visits.
    ///
    /// # Errors
    /// [`crate::error::Busy::Drops`]; Postgres' own, such as a constraint of the user's, are raised.
    pub fn write(&mut self, batch: &Batch) -> Result<Written> {
        self.destination.lock_rows_of_others(&batch.other_sites)?;
        // The user's triggers and defaults keep the session's search_path, but no row may depend on
        // its TimeZone: the Node tool's trigger derives weeks from it. JIT costs more than it gains
        // for a page of rows.
        let _plain = LocalSettings::of(&[(c"timezone", c"UTC"), (c"jit", c"off")]);
        let _triggers = Unwatched::begin();
        check_room(batch);
        let mut of_actions = None;
        for table in &mut self.tables {
            let written = table.write(batch)?;
            of_actions.get_or_insert(written);
        }
        Ok(of_actions.unwrap_or_default())
    }

    /// Plans what the first batch of an import needs.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn plan_ahead(&mut self) -> Result<()> {
        let _plain = LocalSettings::of(&[(c"timezone", c"UTC"), (c"jit", c"off")]);
        Spi::connect_mut(|client| {
            self.tables.iter_mut().try_for_each(|table| table.plan_ahead(client))
        })
    }

    /// Creates the partitions that the batch needs, before it is written. Returns where some were missing:
    /// until the transaction ends, other sessions cannot make any.
    ///
    /// # Errors
    /// Those of [`crate::store::partitions::create`].
    pub fn prepare(&mut self, batch: &Batch) -> Result<Vec<MissingPartitions>> {
        let mut missing = Vec::new();
        for table in &mut self.tables {
            missing.extend(table.prepare(batch)?);
        }
        Ok(missing)
    }

    /// How many of the batch's visits are not stored as they are.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn differing(&mut self, batch: &Batch) -> Result<usize> {
        let _plain = LocalSettings::of(&[(c"timezone", c"UTC"), (c"jit", c"off")]);
        check_room(batch);
        let mut differing = HashSet::new();
        for table in &mut self.tables {
            differing.extend(table.differing(batch)?);
        }
        Ok(differing.len())
    }

    /// Removes all rows of visits.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn remove(&self, site: i32, visits: &[i64]) -> Result<()> {
        let _plain = LocalSettings::of(&[(c"timezone", c"UTC")]);
        let _triggers = Unwatched::begin();
        self.tables.iter().try_for_each(|table| table.remove(site, visits))
    }
}

/// Raises an ERROR if there is no memory to store a batch: for its text in the server's encoding,
/// and for a string per cell.
fn check_room(batch: &Batch) {
    let cell = size_of::<Option<String>>() + 32;
    let bytes = batch
        .tables()
        .iter()
        .map(|table| table.rows.len() * table.layout.width() * cell + 4 * table.rows.size());
    let bytes = bytes.sum::<usize>() + Reservation::total_bytes();
    // SAFETY: main thread, within a transaction.
    unsafe { pg_sys::pfree(pg_sys::MemoryContextAllocHuge(pg_sys::CurrentMemoryContext, bytes)) };
}
