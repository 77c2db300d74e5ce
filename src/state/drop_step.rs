//! The steps of `matomo_drop_before` and of retention, which remove old rows from a table. SPI only.

use std::collections::BTreeSet;
use std::time::Duration;

use pgrx::JsonB;
use pgrx::datum::{DatumWithOid, Interval};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::pg::extension::Extension;
use crate::pg::local_settings::{LocalSettings, SAFE_PATH};
use crate::pg::locks::{self, ALL_SITES, Held, Lock, LockKind, Mode, Until};
use crate::pg::report;
use crate::pg::spi::{query, sees_commits, spi, undefer};
use crate::pg::subtransaction;
use crate::rows::columns as rows;
use crate::state::emptied_days::{self, Bounds, Gone, Noted};
use crate::state::metadata;
use crate::state::table::Table;
use crate::store::companions;
use crate::store::engine::hint::with_engine_hint_of;
use crate::store::engine::{self, Engine, chunks};
use crate::store::relation::{has_name, lock_mode};

/// Arguments of a step: the rows to remove, and where the last step stopped.
pub struct DropArguments {
    pub destination: pg_sys::Oid,
    pub before: TimestampWithTimeZone,
    pub site: Option<i32>,
    pub lock_timeout: Interval,
    pub place: Option<JsonB>,
}

/// Result of a step, and whether more steps may follow.
#[derive(Default)]
pub struct Dropped {
    pub place: Option<JsonB>,
    pub more: bool,
    pub dropped: Option<String>,
    pub actions: i64,
    pub blocked: Option<String>,
    pub holders: Option<String>,
}

/// Drops a partition or deletes a batch of rows, and seals the days that are then empty, so that no sync
/// copies them again. Days are sealed as empty only here. Does not wait for syncs, nor for locks on
/// ledger entries.
///
/// # Errors
/// [`Error::Argument`] for an instant in the future, a roll-up site, or a partition of a destination with
/// companions; [`Error::Privilege`] and [`Error::RowSecurity`] if the caller cannot delete all rows.
pub fn drop_step(arguments: DropArguments) -> Result<Dropped> {
    // Otherwise a partition may be dropped with rows that another session has committed.
    if !sees_commits() {
        return Err(Error::OldSnapshot);
    }
    let Some(table) = Table::find(arguments.destination)? else { return Ok(Dropped::default()) };
    let DropArguments { destination, before, site, lock_timeout, place } = arguments;
    let path: Option<String> = Spi::connect_mut(|client| {
        let sql = "SELECT pg_catalog.current_setting('search_path')";
        query(client, sql, &[])?.first().get_one().map_err(spi)
    })?;
    let _safe = LocalSettings::of(&[SAFE_PATH, (c"timezone", c"UTC"), (c"datestyle", c"ISO")]);
    let sql = "SELECT $1::text, $1 > now()";
    let (text, is_future): (Option<String>, Option<bool>) = Spi::connect_mut(|client| {
        query(client, sql, &[before.into()])?.first().get_two().map_err(spi)
    })?;
    let text = text.unwrap_or_default();
    if is_future != Some(false) {
        return Err(Error::Argument {
            message: format!("{text} is in the future"),
            hint: "Use TRUNCATE to empty the whole table.".to_owned(),
        });
    }
    table.check()?;
    // Upkeep may have stopped yesterday, with another instant.
    let place = place.filter(|JsonB(place)| place.get(BEFORE) == Some(&json!(text)));
    let extension = Extension::find()?;
    if let Some(site) = site {
        metadata::check_has_rows(&extension, destination, site)?;
    }
    if let Some(root) = companions::root_of(&extension, destination)? {
        return Err(Error::Argument {
            message: format!("table {} is a partition of {root}", table.name),
            hint: format!("Give {root}, whose companions lose the same days."),
        });
    }
    let companions = companions::of(&extension, destination)?;
    for (_, companion) in &companions {
        Table::find(*companion)?.map_or(Ok(()), |table| table.check())?;
    }
    let blocked = |place, what: String, holders| {
        let blocked = Some(what);
        Ok(Dropped { place, more: true, blocked, holders, ..Dropped::default() })
    };
    // Rows of a concurrent sync would remain in days that are sealed as empty; and the sync would seal
    // days that lose rows here.
    let rows = Lock::Rows(destination, site.unwrap_or(ALL_SITES));
    if !locks::try_take(rows, Mode::Exclusive, Until::TransactionEnd) {
        return blocked(place, table.name, processes_of(destination, site));
    }
    let bounds = Bounds { destination, table: &table.name, site, before: seconds(before) };
    // Statements use the name, which another table may have got.
    let check_name = || match has_name(destination, &table.name)? {
        true => Ok(()),
        false => Err(DropFailure::TableLocked),
    };
    let rows = || {
        // Otherwise the commit would undo all of the step.
        undefer()?;
        // Do not wait for an exclusive lock on a partition either.
        let wait = u64::try_from(lock_timeout.micros()).unwrap_or_default();
        let _bounded = locks::waits_up_to(Duration::from_micros(wait));
        // SAFETY: main thread, within a transaction.
        unsafe { pg_sys::LockRelationOid(destination, lock_mode(false)) };
        check_name()?;
        let rows_of = |table: pg_sys::Oid,
                       kind: rows::TableKind,
                       place: Option<&Value>,
                       failed: &mut Option<Value>| {
            with_engine_hint_of(table, || {
                let (has_places, chunks) = places(table, kind.time())?;
                let args = [
                    table.into(),
                    before.into(),
                    site.into(),
                    lock_timeout.into(),
                    path.as_deref().into(),
                    kind.time().into(),
                    has_places.into(),
                    chunks.into(),
                    place.map(|place| JsonB(place.clone())).into(),
                ];
                drop_rows(&extension, &args, failed)
            })
        };
        let own = place.as_ref().map(|JsonB(place)| place);
        let mut failed = own.and_then(|place| place.get(FAILED)).cloned();
        // The rows of the companions go after those of the actions.
        let at = own.and_then(|place| place.get(COMPANION)).and_then(Value::as_str);
        let mut has_rows_left = own.and_then(|place| place.get(LEFT)) == Some(&json!(true));
        if at.is_none() {
            let (mut dropped, gone) =
                rows_of(destination, rows::TableKind::Actions, own, &mut failed)?;
            if dropped.blocked.is_none() && (gone.is_some() || !dropped.more) {
                match emptied_days::note(&extension, &bounds, gone.as_ref())? {
                    Noted::Done => {}
                    // Rows before the place were skipped: scan from the start once more.
                    Noted::RowsLeft => {
                        dropped.more = place.is_some() && failed.is_none();
                        has_rows_left = true;
                    }
                    Noted::Locked => return Err(DropFailure::Locked),
                }
            }
            if dropped.more {
                dropped.place = with_failed(dropped.place, failed);
                return Ok(dropped);
            }
        }
        for (kind, companion) in
            companions.iter().filter(|(kind, _)| at.is_none_or(|at| *kind >= named(at)))
        {
            let inner =
                own.and_then(|place| place.get("place")).filter(|_| at == Some(kind.name()));
            let (mut dropped, _) =
                rows_of(*companion, *kind, inner.filter(|place| !place.is_null()), &mut failed)?;
            if dropped.more {
                let inner = dropped.place.map(|JsonB(place)| place);
                let place = json!({ COMPANION: kind.name(), "place": inner, LEFT: has_rows_left });
                dropped.place = with_failed(Some(JsonB(place)), failed);
                // Of the actions alone.
                dropped.actions = 0;
                return Ok(dropped);
            }
        }
        if at.is_some() && !has_rows_left {
            match emptied_days::note(&extension, &bounds, None)? {
                Noted::Done => {}
                // A sync has stored them since: scan from the start once more.
                Noted::RowsLeft => return Ok(Dropped { more: true, ..Dropped::default() }),
                Noted::Locked => return Err(DropFailure::Locked),
            }
        }
        // The next step raises it, when this one is committed.
        let more = failed.is_some();
        let place = failed.map(|failed| JsonB(json!({ FAILED: failed, "over": true })));
        Ok(Dropped { place, more, ..Dropped::default() })
    };
    // The lock does not prevent renaming its schema.
    let rows = || rows().and_then(|dropped| check_name().map(|()| dropped));
    let undone = subtransaction::within(rows, raised).map(|mut dropped| {
        dropped.place = dropped.place.map(|place| with(Some(place), BEFORE, json!(text)));
        dropped
    });
    undone.or_else(|undone| match undone {
        DropFailure::Failed(error) => Err(error),
        DropFailure::Raised(caught) => caught.rethrow(),
        DropFailure::Locked => {
            let ledger = format!("{}.matomo_ledger", extension.schema);
            let holders = holders(&ledger, &["RowShareLock", "RowExclusiveLock"])?;
            blocked(place, ledger, holders)
        }
        DropFailure::TableLocked => {
            let holders = holders(&table.name, &["AccessExclusiveLock"])?;
            blocked(place, table.name, holders)
        }
    })
}

/// The key for the instant that a place is for, as text.
const BEFORE: &str = "before";
/// The key of a place in a companion: its kind.
const COMPANION: &str = "companion";
/// The key for whether rows of actions were left that cannot be removed.
const LEFT: &str = "left";
/// The key for why the first rows that could not be deleted were not.
const FAILED: &str = "failed";

fn with_failed(place: Option<JsonB>, failed: Option<Value>) -> Option<JsonB> {
    let Some(failed) = failed else { return place };
    Some(with(place, FAILED, failed))
}

fn with(place: Option<JsonB>, key: &str, value: Value) -> JsonB {
    let mut place = place.map_or_else(|| json!({}), |JsonB(place)| place);
    place[key] = value;
    JsonB(place)
}

fn named(name: &str) -> rows::TableKind {
    rows::TableKind::companion(name).unwrap_or(rows::TableKind::Visits)
}

/// Why a step is rolled back.
enum DropFailure {
    Failed(Error),
    Raised(Box<CaughtError>),
    /// Another session has locked a ledger entry.
    Locked,
    /// Another session has locked the table or a partition, or has just renamed it.
    TableLocked,
}

fn raised(caught: CaughtError) -> DropFailure {
    match report::raised(&caught).sql_error_code() {
        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE => DropFailure::TableLocked,
        _ => DropFailure::Raised(Box::new(caught)),
    }
}

impl From<Error> for DropFailure {
    fn from(error: Error) -> DropFailure {
        DropFailure::Failed(error)
    }
}

/// Converts microseconds since 2000 to seconds since 1970.
fn seconds(at: TimestampWithTimeZone) -> i64 {
    i64::from(at).div_euclid(1_000_000).saturating_add(946_684_800)
}

/// Whether rows of a table's ordinary partitions can be found by their place: Citus has those of its
/// shards, and TimescaleDB none of compressed rows. Also the chunks of a hypertable.
///
/// # Errors
/// [`crate::error::SiteError::SharedPlaces`].
fn places(table: pg_sys::Oid, time: &str) -> Result<(bool, Option<JsonB>)> {
    engine::places::check(table)?;
    Spi::connect_mut(|client| {
        Ok(match Engine::of(client, table)? {
            Engine::Citus => (false, None),
            Engine::Timescale => (false, chunks::of(client, table, time)?),
            _ => (true, None),
        })
    })
}

/// Calls `matomo_drop_rows` with the caller's rights. Also returns the removed rows, if any. Keeps the
/// first failure.
fn drop_rows(
    extension: &Extension,
    args: &[DatumWithOid],
    failed: &mut Option<Value>,
) -> Result<(Dropped, Option<Gone>)> {
    let sql = format!(
        "SELECT s.place, s.more, s.dropped, s.actions, s.blocked, s.holders, \
             s.first_gone, s.last_gone, s.sites_gone, s.failed \
         FROM {}.matomo_drop_rows($1::regclass, $2, $3, $4, $5, $6, $7, $8, $9) AS s",
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
        let now_failed: Option<JsonB> = row.get(10).map_err(spi)?;
        *failed = failed.take().or(now_failed.map(|JsonB(failed)| failed));
        let gone = first.zip(last).map(|(first, last)| Gone {
            first: seconds(first),
            last: seconds(last),
            sites,
        });
        Ok((dropped, gone))
    })
}

/// Holders of locks in some modes on a table or its partitions, as text.
fn holders(table: &str, modes: &[&str]) -> Result<Option<String>> {
    let sql = "WITH RECURSIVE tree AS (SELECT to_regclass($1)::oid AS oid UNION \
                   SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid) \
               SELECT string_agg(DISTINCT coalesce('process ' || l.pid, 'a prepared transaction'), ', ') \
               FROM pg_locks l \
               WHERE l.relation IN (SELECT t.oid FROM tree t) \
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

/// Holders of locks of syncs of a site, or of any, into a destination, as text.
fn processes_of(destination: pg_sys::Oid, site: Option<i32>) -> Option<String> {
    let is_meant = |held: &Held| {
        let is_site = site.is_none_or(|site| held.object == site.cast_unsigned());
        held.class == destination.to_u32() && is_site
    };
    let held = locks::held(LockKind::Rows).into_iter().filter(is_meant).map(|held| held.pid);
    let held: BTreeSet<i32> = held.collect();
    let held: Vec<_> = held.iter().map(|pid| who(*pid)).collect();
    (!held.is_empty()).then(|| held.join(", "))
}
