//! Work in a subtransaction, whatever error it ends with: what a registered site's destination raises
//! is a failure of that site, and nothing more.

use std::panic::AssertUnwindSafe;
use std::ptr;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::prelude::*;

use crate::error::{Result, StoredError};
use crate::pg::failed::Failed;
use crate::pg::process;
use crate::pg::report::raised;
use crate::pg::watch;

/// Does something in a subtransaction, which an error undoes. A cancel of the session undoes it too,
/// and goes on.
pub fn attempt<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Failed> {
    // SAFETY: main thread, within a transaction.
    let (context, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(ptr::null());
        pg_sys::CurrentMemoryContext = before.0;
        before
    };
    let work = AssertUnwindSafe(|| work().map_err(|error| Ended::Failed(Failed::of(&error))));
    let outcome = PgTryBuilder::new(work).catch_others(|caught| Err(ended(caught))).execute();
    // SAFETY: main thread; ends what began above, and restores what was before it.
    unsafe {
        match &outcome {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::CurrentMemoryContext = context;
        pg_sys::CurrentResourceOwner = owner;
    }
    outcome.map_err(|ended| match ended {
        Ended::Failed(failed) => failed,
        Ended::Cancelled(caught) => caught.rethrow(),
    })
}

enum Ended {
    Failed(Failed),
    Cancelled(Box<CaughtError>),
}

fn ended(caught: CaughtError) -> Ended {
    let report = raised(&caught);
    if !is_interrupt(report) {
        return Ended::Failed(Failed::raised(report));
    }
    if watch::has_fired() {
        return Ended::Failed(Failed::of(&StoredError::NoProgress(watch::limit()).into()));
    }
    // A process of ours serves one site only, and goes on.
    if process::is_ours() {
        return Ended::Failed(Failed::raised(report));
    }
    Ended::Cancelled(Box::new(caught))
}

/// Whether the session was to be interrupted: by a cancel or `statement_timeout`. A trigger or another
/// server may raise the same SQLSTATE, with any words, but from elsewhere.
fn is_interrupt(report: &ErrorReportWithLevel) -> bool {
    report.sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED
        && report.function_name() == Some("ProcessInterrupts")
}
