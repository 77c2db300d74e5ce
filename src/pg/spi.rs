//! Statements through SPI. Only those that write take a transaction ID.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};

use pgrx::JsonB;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{
    OwnedPreparedStatement, PreparedStatement, SpiClient, SpiHeapTupleData, SpiTupleTable,
};

use crate::error::{Error, Result};
use crate::pg::encoding;
use crate::pg::server_text::ServerText;
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
    run_plan(client, &prepare(client, sql, &kinds)?, args)
}

/// Plans a statement, whose names may have any characters of the database.
///
/// # Errors
/// As above.
pub fn prepare<'conn>(
    client: &SpiClient<'conn>,
    sql: &str,
    kinds: &[PgOid],
) -> Result<PreparedStatement<'conn>> {
    client.prepare_mut(text(sql)?.as_c_str(), kinds).map_err(spi)
}

/// A statement in the encoding of the database.
fn text(sql: &str) -> Result<CString> {
    let invalid = |_| Error::Internal("a statement with a NUL".to_owned());
    CString::new(encoding::to_server(sql)).map_err(invalid)
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
            let plan = prepare(client, sql, &key.1)?.keep();
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
    Ok(client
        .update(text(sql)?.as_c_str(), None, converted.as_deref().unwrap_or(args))
        .map_err(spi)?
        .len())
}

/// Runs a planned statement.
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
    let plan = client.prepare(text(sql)?.as_c_str(), &kinds).map_err(spi)?;
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

/// A value of a result. Texts come in the encoding of the database.
pub trait Value: Sized {
    /// Reads it from a row; columns count from 1.
    ///
    /// # Errors
    /// Only internal ones.
    fn read(row: &SpiHeapTupleData, column: usize) -> Result<Option<Self>>;
}

impl Value for String {
    fn read(row: &SpiHeapTupleData, column: usize) -> Result<Option<String>> {
        Ok(row.get::<ServerText>(column).map_err(spi)?.map(|text| text.0))
    }
}

macro_rules! values {
    ($($type:ty),*) => {
        $(impl Value for $type {
            fn read(row: &SpiHeapTupleData, column: usize) -> Result<Option<$type>> {
                row.get(column).map_err(spi)
            }
        })*
    };
}

values!(bool, i16, i32, i64, f64, pg_sys::Oid, TimestampWithTimeZone, Interval, JsonB, Vec<u8>);
// The texts are sites.
values!(Vec<pg_sys::Oid>, Vec<Option<String>>);

/// A value of a row; columns count from 1.
///
/// # Errors
/// Only internal ones.
pub fn get<T: Value>(row: &SpiHeapTupleData, column: usize) -> Result<Option<T>> {
    T::read(row, column)
}

/// The first value of a result; `None` if it is NULL, or there is no row.
///
/// # Errors
/// Only internal ones.
pub fn one<T: Value>(mut rows: SpiTupleTable) -> Result<Option<T>> {
    rows.next().map_or(Ok(None), |row| get(&row, 1))
}

/// The first column of a result, without NULLs.
///
/// # Errors
/// Only internal ones.
pub fn values<T: Value>(rows: SpiTupleTable) -> Result<Vec<T>> {
    rows.filter_map(|row| get(&row, 1).transpose()).collect()
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
