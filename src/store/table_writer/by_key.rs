//! Replaces stored rows by key where they have no place; see [`crate::store::compare`]. SPI only.

use pgrx::datum::DatumWithOid;
use pgrx::spi::SpiClient;

use crate::error::Result;
use crate::pg::spi::write_once;
use crate::rows::batch::TableRows;
use crate::rows::visit_tally::count;
use crate::store::compare::{Changes, ChangesByKey};
use crate::store::statements::{column_arrays, texts};
use crate::store::table_writer::TableWriter;
use crate::store::written::Written;

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
