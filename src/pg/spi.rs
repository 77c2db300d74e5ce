//! Statements through SPI. Only those that write take a transaction ID.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, PreparedStatement, SpiClient, SpiTupleTable};

use crate::error::{Error, Result};
use crate::pg::encoding;
use crate::pg::subtransaction::{self, RolledBack};

/// Runs a statement, which sees earlier writes of this transaction.
///
/// # Errors
/// Errors of SPI itself are internal. Postgres' own are raised.
pub fn query<'conn>(
    client: &mut SpiClient<'conn>,
    sql: &str,
    args: &[DatumWithOid],
) -> Result<SpiTupleTable<'conn>> {
    let kinds: Vec<_> = args.iter().map(|arg| PgOid::from(arg.oid())).collect();
    run_plan(client, &client.prepare_mut(sql, &kinds).map_err(spi)?, args)
}

/// A statement and the types of its arguments.
type Prepared = (String, Vec<PgOid>);

thread_local! {
    /// Never freed: when the destructors of a process run, Postgres' memory is gone.
    static KEPT: RefCell<HashMap<Prepared, &'static OwnedPreparedStatement>> = RefCell::default();
}

/// As [`query`], for a statement that a sync runs several times: it stays planned until the session ends. Its
/// text names no table of the user's, so that a session keeps only a few.
///
/// # Errors
/// As above.
pub fn query_kept<'conn>(
    client: &mut SpiClient<'conn>,
    sql: &str,
    args: &[DatumWithOid],
) -> Result<SpiTupleTable<'conn>> {
    let key = (sql.to_owned(), args.iter().map(|arg| PgOid::from(arg.oid())).collect::<Vec<_>>());
    let kept = KEPT.with_borrow(|kept| kept.get(&key).copied());
    let plan = match kept {
        Some(plan) => plan,
        None => {
            let plan = client.prepare_mut(sql, &key.1).map_err(spi)?.keep();
            let plan: &'static _ = Box::leak(Box::new(plan));
            KEPT.with_borrow_mut(|kept| kept.insert(key, plan));
            plan
        }
    };
    run_plan(client, plan, args)
}

/// Raises an ERROR in a read-only transaction and on a standby. `what` is the call that writes.
pub fn refuse_read_only(what: &CStr) {
    // SAFETY: main thread; the text is only read.
    unsafe { pg_sys::PreventCommandIfReadOnly(what.as_ptr()) };
}

/// Fires deferred constraints now, and makes all others immediate: with the rights of the current user, and
/// where an error can be recorded. At COMMIT nothing would bound it.
///
/// # Errors
/// As of [`query`].
pub fn undefer() -> Result<()> {
    Spi::connect_mut(|client| query(client, "SET CONSTRAINTS ALL IMMEDIATE", &[]).map(drop))
}

/// Runs a statement that writes, planned with its values. Unlike a setting, that does not reach the
/// statements of triggers.
///
/// # Errors
/// As above.
pub fn write_once(client: &mut SpiClient, sql: &str, args: &[DatumWithOid]) -> Result<usize> {
    let converted = encoding::arguments(args);
    Ok(client.update(sql, None, converted.as_deref().unwrap_or(args)).map_err(spi)?.len())
}

/// Runs a statement prepared with `prepare_mut`.
///
/// Uses `select` with `prepare_mut` even for statements that write: pgrx's `update` takes a
/// transaction ID even for a query, and so fails on a standby. `select` with `prepare` would not see
/// this transaction's own writes.
///
/// # Errors
/// As above.
pub fn run_plan<'conn>(
    client: &SpiClient<'conn>,
    plan: &PreparedStatement<'conn>,
    args: &[DatumWithOid],
) -> Result<SpiTupleTable<'conn>> {
    let converted = encoding::arguments(args);
    client.select(plan, None, converted.as_deref().unwrap_or(args)).map_err(spi)
}

/// Runs a statement that only reads. It sees what others have committed, and this transaction's own writes,
/// at every isolation level.
///
/// # Errors
/// As above.
pub fn read_now<'conn>(
    client: &SpiClient<'conn>,
    sql: &str,
    args: &[DatumWithOid],
) -> Result<SpiTupleTable<'conn>> {
    let kinds: Vec<_> = args.iter().map(|arg| PgOid::from(arg.oid())).collect();
    let plan = client.prepare(sql, &kinds).map_err(spi)?;
    // pgrx runs a statement that only reads, which uses the active snapshot, as such only in a
    // transaction that has not written: this one is new.
    let read = || {
        // SAFETY: main thread, within a transaction. After an ERROR its abort removes the snapshot.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
        let rows = run_plan(client, &plan, args);
        // SAFETY: main thread; the one of above.
        unsafe { pg_sys::PopActiveSnapshot() };
        rows
    };
    subtransaction::attempt(read).map_err(|rolled_back| match rolled_back {
        RolledBack::Failed(error) => error,
        RolledBack::Raised(caught) => caught.rethrow(),
    })
}

/// The first column of a result, without NULLs.
///
/// # Errors
/// Only internal ones.
pub fn values<T: FromDatum + IntoDatum>(rows: SpiTupleTable) -> Result<Vec<T>> {
    rows.filter_map(|row| row.get(1).map_err(spi).transpose()).collect()
}

/// Whether each statement of the transaction sees what others have committed before it.
pub fn sees_commits() -> bool {
    // SAFETY: main thread; the isolation level of the transaction.
    unsafe { pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Converts an SPI error.
pub fn spi(error: pgrx::spi::SpiError) -> Error {
    Error::Internal(error.to_string())
}
