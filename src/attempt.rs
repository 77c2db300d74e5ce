//! Work in a subtransaction, whatever error it ends with: what a registered site's destination raises
//! is a failure of that site, and nothing more.

use std::panic::AssertUnwindSafe;
use std::ptr;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::prelude::*;

use crate::background;
use crate::error::{Result, Stored};
use crate::failed::Failed;
use crate::watch;

/// Does something in a subtransaction, which an error undoes. A cancel of the session is not caught.
pub fn attempt<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Failed> {
    // SAFETY: main thread, within a transaction.
    let (context, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(ptr::null());
        pg_sys::CurrentMemoryContext = before.0;
        before
    };
    let outcome =
        PgTryBuilder::new(AssertUnwindSafe(|| work().map_err(|error| Failed::of(&error))))
            .catch_others(|caught| Err(failed_or_cancelled(caught)))
            .execute();
    // SAFETY: main thread; ends what began above, and restores what was before it.
    unsafe {
        match &outcome {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::CurrentMemoryContext = context;
        pg_sys::CurrentResourceOwner = owner;
    }
    outcome
}

fn failed_or_cancelled(caught: CaughtError) -> Failed {
    match report(&caught) {
        report if !is_interrupt(report) => Failed::raised(report),
        _ if watch::has_fired() => Failed::of(&Stored::NoProgress(watch::limit()).into()),
        // A process of ours serves one site only, and goes on.
        report if background::is_ours() => Failed::raised(report),
        _ => caught.rethrow(),
    }
}

/// What was raised.
pub fn report(caught: &CaughtError) -> &ErrorReportWithLevel {
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic { ereport: report, .. }) = caught;
    report
}

/// Whether the session was to be interrupted: by a cancel or `statement_timeout`. A trigger or another
/// server may raise the same SQLSTATE, with any words, but from elsewhere.
fn is_interrupt(report: &ErrorReportWithLevel) -> bool {
    report.sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED
        && report.function_name() == Some("ProcessInterrupts")
}
