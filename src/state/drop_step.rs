//! The steps by which old rows go from a table, for `matomo_drop_before` and for retention. SPI only.

use std::collections::BTreeSet;
use std::time::Duration;

use pgrx::JsonB;
use pgrx::datum::{DatumWithOid, Interval};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::pg::extension::Extension;
use crate::pg::local_settings::LocalSettings;
use crate::pg::locks::{self, ALL_SITES, Held, Kind, Lock, Mode, Until};
use crate::pg::report;
use crate::pg::spi::{query, spi};
use crate::pg::subtransaction;
use crate::state::emptied_days::{self, Bounds, Gone, Noted};
use crate::state::forget::Table;

/// What is to be dropped, and where the last step was.
pub struct Step {
    pub destination: pg_sys::Oid,
    pub before: TimestampWithTimeZone,
    pub site: Option<i32>,
    pub lock_timeout: Interval,
    pub place: Option<JsonB>,
}

/// What a step has done, and whether there may be more to do.
#[derive(Default)]
pub struct Dropped {
    pub place: Option<JsonB>,
    pub more: bool,
    pub dropped: Option<String>,
    pub actions: i64,
    pub blocked: Option<String>,
    pub holders: Option<String>,
}

/// Drops a partition, or deletes a batch of rows, and seals the days that are empty then: no sync shall
/// bring them back, and days are sealed as empty in no other way. Waits for nobody, neither a sync nor
/// rows of the ledger.
///
/// # Errors
/// [`Error::Argument`] for an instant of the future; [`Error::Privilege`] and [`Error::RowSecurity`] for
/// who cannot delete all of it.
pub fn drop_step(step: Step) -> Result<Dropped> {
    let Some(table) = Table::find(step.destination)? else { return Ok(Dropped::default()) };
    let Step { destination, before, site, lock_timeout, place } = step;
    let path: Option<String> = Spi::connect_mut(|client| {
        let sql = "SELECT pg_catalog.current_setting('search_path')";
        query(client, sql, &[])?.first().get_one().map_err(spi)
    })?;
    let _safe = LocalSettings::of(&[
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"timezone", c"UTC"),
        (c"datestyle", c"ISO"),
    ]);
    let sql = "SELECT $1::text, $1 > now()";
    let (text, is_future): (Option<String>, Option<bool>) = Spi::connect_mut(|client| {
        query(client, sql, &[before.into()])?.first().get_two().map_err(spi)
    })?;
    if is_future != Some(false) {
        return Err(Error::Argument {
            message: format!("{} is in the future", text.unwrap_or_default()),
            hint: "To empty the whole table use TRUNCATE.".to_owned(),
        });
    }
    table.check()?;
    let extension = Extension::find()?;
    let blocked = |place, what: String, holders| {
        let blocked = Some(what);
        Ok(Dropped { place, more: true, blocked, holders, ..Dropped::default() })
    };
    // What a sync has stored and not committed would stay, in days that are sealed as empty; and it would
    // seal days as whole of which rows go.
    let rows = Lock::Rows(destination, site.unwrap_or(ALL_SITES));
    if !locks::try_take(rows, Mode::Exclusive, Until::TransactionEnd) {
        return blocked(place, table.name, processes_of(destination, site));
    }
    let bounds = Bounds { destination, table: &table.name, site, before: seconds(before) };
    let rows = || {
        // Whoever has a partition to itself is not waited for either.
        let wait = u64::try_from(lock_timeout.micros()).unwrap_or_default();
        let _bounded = locks::waits_up_to(Duration::from_micros(wait));
        let args = [
            destination.into(),
            before.into(),
            site.into(),
            lock_timeout.into(),
            path.as_deref().into(),
            place.as_ref().map(|JsonB(place)| JsonB(place.clone())).into(),
        ];
        let (mut dropped, gone) = drop_rows(&extension, &args)?;
        if dropped.blocked.is_none() {
            match emptied_days::note(&extension, &bounds, gone.as_ref())? {
                Noted::Done => {}
                // What was passed over for its place is looked through once more.
                Noted::RowsLeft => dropped.more = place.is_some(),
                Noted::Locked => return Err(Undone::Locked),
            }
        }
        Ok(dropped)
    };
    let undone = subtransaction::within(rows, raised);
    undone.or_else(|undone| match undone {
        Undone::Failed(error) => Err(error),
        Undone::Raised(caught) => caught.rethrow(),
        Undone::Locked => {
            let ledger = format!("{}.matomo_ledger", extension.schema);
            let holders = holders(&ledger, &["RowShareLock", "RowExclusiveLock"])?;
            blocked(place, ledger, holders)
        }
        Undone::TableLocked => {
            let holders = holders(&table.name, &["AccessExclusiveLock"])?;
            blocked(place, table.name, holders)
        }
    })
}

/// Why a step is undone.
enum Undone {
    Failed(Error),
    Raised(Box<CaughtError>),
    /// Another session holds an entry of the ledger.
    Locked,
    /// Or the table or a partition.
    TableLocked,
}

fn raised(caught: CaughtError) -> Undone {
    match report::raised(&caught).sql_error_code() {
        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE => Undone::TableLocked,
        _ => Undone::Raised(Box::new(caught)),
    }
}

impl From<Error> for Undone {
    fn from(error: Error) -> Undone {
        Undone::Failed(error)
    }
}

/// From microseconds since 2000 to seconds since 1970.
fn seconds(at: TimestampWithTimeZone) -> i64 {
    i64::from(at).div_euclid(1_000_000).saturating_add(946_684_800)
}

/// Does what `matomo_drop_rows` does, with the caller's rights; gives what it has removed, if anything.
fn drop_rows(extension: &Extension, args: &[DatumWithOid]) -> Result<(Dropped, Option<Gone>)> {
    let sql = format!(
        "SELECT s.place, s.more, s.dropped, s.actions, s.blocked, s.holders, \
             s.first_gone, s.last_gone, s.sites_gone \
         FROM {}.matomo_drop_rows($1::regclass, $2, $3, $4, $5, $6) AS s",
        extension.schema
    );
    Spi::connect_mut(|client| {
        let Some(row) = query(client, &sql, args)?.next() else {
            return Ok((Dropped::default(), None));
        };
        let dropped = Dropped {
            place: row.get(1).map_err(spi)?,
            more: row.get(2).map_err(spi)?.unwrap_or(false),
            dropped: row.get(3).map_err(spi)?,
            actions: row.get(4).map_err(spi)?.unwrap_or(0),
            blocked: row.get(5).map_err(spi)?,
            holders: row.get(6).map_err(spi)?,
        };
        let first: Option<TimestampWithTimeZone> = row.get(7).map_err(spi)?;
        let last: Option<TimestampWithTimeZone> = row.get(8).map_err(spi)?;
        let sites = row.get(9).map_err(spi)?;
        let gone = first.zip(last).map(|(first, last)| Gone {
            first: seconds(first),
            last: seconds(last),
            sites,
        });
        Ok((dropped, gone))
    })
}

/// Who has a table, or a partition of it, locked in one of some modes.
fn holders(table: &str, modes: &[&str]) -> Result<Option<String>> {
    let sql = "SELECT string_agg(DISTINCT coalesce('process ' || l.pid, 'a prepared transaction'), ', ') \
               FROM pg_locks l \
               WHERE l.relation IN (SELECT t.relid FROM pg_partition_tree($1::regclass) t) \
               AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() \
               AND l.mode = ANY ($2) \
               AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())";
    Spi::connect_mut(|client| {
        query(client, sql, &[table.into(), modes.to_vec().into()])?.first().get_one().map_err(spi)
    })
}

fn who(pid: i32) -> String {
    if pid == 0 { "a prepared transaction".to_owned() } else { format!("process {pid}") }
}

/// The processes that sync a site, or any, into a destination.
fn processes_of(destination: pg_sys::Oid, site: Option<i32>) -> Option<String> {
    let is_meant = |held: &Held| {
        let is_site = site.is_none_or(|site| held.object == site.cast_unsigned());
        held.class == destination.to_u32() && is_site
    };
    let held = locks::held(Kind::Rows).into_iter().filter(is_meant).map(|held| held.pid);
    let held: BTreeSet<i32> = held.collect();
    let held: Vec<_> = held.iter().map(|pid| who(*pid)).collect();
    (!held.is_empty()).then(|| held.join(", "))
}
