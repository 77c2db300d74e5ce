//! Compares stored rows by key, with plain SQL: where a row has no place (ctid, tableoid) that means
//! anything, as on a worker of Citus or a foreign server. SPI only.
//!
//! No generic plan, FOR UPDATE or ON CONFLICT either: Citus, columnar or foreign tables refuse these, or
//! count wrong. Only rows that differ come here.

use std::ops::Range;

use pgrx::spi::SpiClient;

use crate::error::Result;
use crate::pg::local_settings::LocalSettings;
use crate::pg::spi::{get, query};
use crate::store::compare::{Changes, Comparison};
use crate::store::statements::{column_arrays, texts};

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
            let place: Option<i64> = get(&row, 1)?;
            let place = place.and_then(|place| usize::try_from(place).ok());
            let is_stored = get(&row, 2)? == Some(true);
            let visit: Option<String> = get(&row, 3)?;
            let visit = visit.and_then(|id| id.parse::<i64>().ok()).unwrap_or_default();
            let is_doubled = get(&row, 5)? == Some(true);
            changes.visits.insert(visit);
            if let (Some(line), true, false) = (place, is_stored, is_doubled) {
                changes.by_key.update.push((visit, line));
                continue;
            }
            if is_stored {
                let key = (KEY..KEY + self.statements.by_key.width)
                    .map(|column| get::<String>(&row, column));
                let at: Option<f64> = get(&row, 4)?;
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
