//! The rows that a step removes, and the call of `matomo_drop_rows`, which removes them.

use pgrx::JsonB;
use pgrx::datum::Interval;
use pgrx::prelude::*;
use pgrx::spi::SpiHeapTupleData;

use crate::error::{Error, Result};
use crate::pg::extension::Extension;
use crate::pg::spi::{get, query};
use crate::state::drop_step::cursor::Cursor;
use crate::state::drop_step::holders;
use crate::state::emptied_days::Gone;
use crate::store::engine::hint::with_engine_hint_of;
use crate::store::engine::{self, Engine, chunks};

/// Which rows to remove.
pub struct OldRows {
    pub before: TimestampWithTimeZone,
    pub site: Option<i32>,
    pub lock_timeout: Interval,
    /// The caller's, which triggers see.
    pub search_path: Option<String>,
}

/// Result of a step, and whether more steps may follow.
#[derive(Default)]
pub struct Dropped {
    /// Where the next step resumes.
    pub place: Option<JsonB>,
    pub more: bool,
    pub dropped: Option<String>,
    pub actions: i64,
    pub blocked: Option<String>,
    pub holders: Option<String>,
}

impl OldRows {
    /// Drops a partition of a table or deletes a batch of its rows, with the caller's rights. Moves the
    /// cursor, which keeps the first failure. Also returns the removed rows, if any.
    ///
    /// # Errors
    /// [`crate::error::SiteError::SharedCtids`].
    pub fn remove_from(
        &self,
        extension: &Extension,
        table: pg_sys::Oid,
        cursor: &mut Cursor,
    ) -> Result<(Dropped, Option<Gone>)> {
        let sql = format!(
            "SELECT s.more, s.dropped, s.actions, s.blocked, \
                 s.first_gone, s.last_gone, s.sites_gone, s.scan_position, s.failed::text \
             FROM {}.matomo_drop_rows($1::regclass, $2, $3, $4, $5, $6, $7, $8, $9) AS s",
            extension.schema
        );
        let time = cursor.table.time();
        with_engine_hint_of(table, || {
            let (has_ctids, chunks) = ctids_and_chunks(table, time)?;
            let args = [
                table.into(),
                self.before.into(),
                self.site.into(),
                self.lock_timeout.into(),
                self.search_path.as_deref().into(),
                time.into(),
                has_ctids.into(),
                chunks.into(),
                cursor.scan_position.take().map(JsonB).into(),
            ];
            Spi::connect_mut(|client| match query(client, &sql, &args)?.next() {
                Some(row) => {
                    move_cursor(&row, cursor)?;
                    Ok((dropped(&row)?, gone(&row)?))
                }
                None => Ok((Dropped::default(), None)),
            })
        })
    }
}

/// Whether rows of a table's ordinary partitions can be found by ctid: Citus has those of its shards, and TimescaleDB none of compressed rows. Also the chunks of a hypertable.
///
/// # Errors
/// [`crate::error::SiteError::SharedCtids`].
fn ctids_and_chunks(table: pg_sys::Oid, time: &str) -> Result<(bool, Option<JsonB>)> {
    engine::ctids::check(table)?;
    Spi::connect_mut(|client| {
        Ok(match Engine::of(client, table)? {
            Engine::Citus => (false, None),
            Engine::Timescale => (false, chunks::of(client, table, time)?),
            _ => (true, None),
        })
    })
}

fn dropped(row: &SpiHeapTupleData) -> Result<Dropped> {
    let blocked: Option<String> = get(row, 4)?;
    let held = blocked.as_deref().map(holders::of_table).transpose()?.flatten();
    Ok(Dropped {
        more: get(row, 1)?.unwrap_or(false),
        dropped: get(row, 2)?,
        actions: get(row, 3)?.unwrap_or(0),
        holders: held,
        blocked,
        ..Dropped::default()
    })
}

fn gone(row: &SpiHeapTupleData) -> Result<Option<Gone>> {
    let first: Option<TimestampWithTimeZone> = get(row, 5)?;
    let last: Option<TimestampWithTimeZone> = get(row, 6)?;
    let sites = get(row, 7)?;
    Ok(first.zip(last).map(|(first, last)| Gone {
        first: seconds(first),
        last: seconds(last),
        sites,
    }))
}

fn move_cursor(row: &SpiHeapTupleData, cursor: &mut Cursor) -> Result<()> {
    cursor.scan_position = get(row, 8)?.map(|JsonB(position)| position);
    if cursor.failed.is_none()
        && let Some(failed) = get::<String>(row, 9)?
    {
        let failed = serde_json::from_str(&failed);
        cursor.failed = Some(failed.map_err(|error| Error::Internal(error.to_string()))?);
    }
    Ok(())
}

/// Converts microseconds since 2000 to seconds since 1970.
pub fn seconds(at: TimestampWithTimeZone) -> i64 {
    i64::from(at).div_euclid(1_000_000).saturating_add(POSTGRES_EPOCH)
}

/// The start of 2000, from which Postgres counts, in Unix seconds.
pub const POSTGRES_EPOCH: i64 = 946_684_800;
