//! Compares and replaces stored rows by key, with plain SQL: where a row has no place (ctid, tableoid)
//! that means anything, as on a worker of Citus or a foreign server. SPI only.
//!
//! No generic plan, FOR UPDATE or ON CONFLICT either: Citus, columnar or foreign tables refuse these, or
//! count wrong. Only rows that differ come here.

use std::ops::Range;

use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiClient;

use crate::error::Result;
use crate::pg::local_settings::LocalSettings;
use crate::pg::spi::{query, spi, write_once};
use crate::rows::batch::TableRows;
use crate::rows::visit_tally::count;
use crate::store::compare::{Changes, ChangesByKey, Comparison};
use crate::store::statements::column_arrays;
use crate::store::table_writer::TableWriter;
use crate::store::written::Written;

/// First columns of the result of `compare_by_key`; the stored row's key follows.
const KEY: usize = 6;

impl Comparison<'_> {
    /// The second step, by key.
    pub(super) fn by_key(
        &mut self,
        client: &mut SpiClient,
        visits: &[(i64, Range<usize>)],
        changes: &mut Changes,
    ) -> Result<()> {
        let rows: Vec<usize> = visits.iter().flat_map(|(_, rows)| rows.clone()).collect();
        let mut args = column_arrays(self.rows, &rows);
        args.push(texts(rows.iter()).into());
        args.extend(self.visit_args(visits.iter().map(|(id, _)| *id)));
        // Any session's style reads it.
        let _iso = LocalSettings::of(&[(c"datestyle", c"ISO")]);
        for row in query(client, &self.statements.by_key.compare, &args)? {
            let place: Option<i64> = row.get(1).map_err(spi)?;
            let place = place.and_then(|place| usize::try_from(place).ok());
            let is_stored = row.get(2).map_err(spi)? == Some(true);
            let visit: Option<String> = row.get(3).map_err(spi)?;
            let visit = visit.and_then(|id| id.parse::<i64>().ok()).unwrap_or_default();
            let is_doubled = row.get(5).map_err(spi)? == Some(true);
            changes.visits.insert(visit);
            if let (Some(line), true, false) = (place, is_stored, is_doubled) {
                changes.by_key.update.push((visit, line));
                continue;
            }
            if is_stored {
                let key = (KEY..KEY + self.statements.by_key.width)
                    .map(|column| row.get::<String>(column).map_err(spi));
                let at: Option<f64> = row.get(4).map_err(spi)?;
                changes.by_key.delete.push((visit, at, key.collect::<Result<_>>()?));
            }
            // Once, also for a row that is stored twice.
            changes.insert.extend(
                place
                    .filter(|line| changes.insert.iter().all(|rows| !rows.contains(line)))
                    .map(|line| line..line + 1),
            );
        }
        Ok(())
    }
}

impl TableWriter {
    /// Deletes and updates rows by key.
    pub(super) fn replace_by_key(
        &self,
        client: &mut SpiClient,
        table: &TableRows,
        changes: &Changes,
    ) -> Result<Written> {
        let mut written = Written::default();
        let ChangesByKey { update, delete } = &changes.by_key;
        let (delete, without_key): (Vec<_>, Vec<_>) =
            delete.iter().partition(|(_, _, key)| key.iter().all(Option::is_some));
        if !without_key.is_empty() {
            let args = [texts(without_key.iter().map(|(visit, ..)| visit)).into()];
            written.deleted =
                count(write_once(client, &self.statements.by_key.delete_without_key, &args)?);
        }
        if !delete.is_empty() {
            let mut columns = vec![Vec::with_capacity(delete.len()); self.statements.by_key.width];
            for (_, _, key) in &delete {
                columns.iter_mut().zip(key).for_each(|(column, cell)| column.push(cell.clone()));
            }
            let mut args: Vec<DatumWithOid> = columns.into_iter().map(DatumWithOid::from).collect();
            let instants = delete.iter().map(|(_, at, _)| at.unwrap_or(f64::NAN));
            args.extend(self.near(delete.iter().map(|(visit, ..)| visit), instants));
            let sql = &self.statements.by_key.delete;
            written.deleted += count(write_once(client, sql, &args)?);
        }
        if !update.is_empty() {
            let rows: Vec<usize> = update.iter().map(|(_, row)| *row).collect();
            let mut args = column_arrays(table, &rows);
            let instants = rows.iter().map(|row| table.rows.instants()[*row] as f64);
            args.extend(self.near(update.iter().map(|(visit, _)| visit), instants));
            let sql = &self.statements.by_key.update;
            written.updated = count(write_once(client, sql, &args)?);
        }
        Ok(written)
    }

    /// What limits a statement to the shards and partitions concerned, as its last arguments: visits, and
    /// the span of instants. Columnar partitions outside the span need not be writable.
    fn near<'a>(
        &self,
        visits: impl Iterator<Item = &'a i64>,
        instants: impl Iterator<Item = f64>,
    ) -> Vec<DatumWithOid<'a>> {
        let mut args = vec![texts(visits).into()];
        if self.destination.key_has_time() {
            let none = (f64::INFINITY, f64::NEG_INFINITY);
            let (from, to) = instants.fold(none, |(from, to), at| (from.min(at), to.max(at)));
            args.extend([from.floor().into(), to.ceil().into()]);
        }
        args
    }
}

fn texts<'a, T: ToString + 'a>(numbers: impl Iterator<Item = &'a T>) -> Vec<String> {
    numbers.map(T::to_string).collect()
}
