//! Runs work in a subtransaction, so that an error of a registered site's destination affects only that
//! site.

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};

use crate::error::{Result, SiteError};
use crate::pg::ereport::raised;
use crate::pg::failed::Failed;
use crate::pg::process;
use crate::pg::subtransaction;
use crate::pg::watch;

/// Runs `work` in a subtransaction, which is rolled back on error. A cancel of the session is raised
/// again.
///
/// # Errors
/// Those of `work`, returned or raised.
pub fn attempt<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Failed> {
    let work = || work().map_err(|error| Ended::Failed(Failed::of(&error)));
    subtransaction::within(work, ended).map_err(|ended| match ended {
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
        return Ended::Failed(Failed::of(&SiteError::NoProgress(watch::limit()).into()));
    }
    // A background worker serves only one site, and records the failure.
    if process::is_ours() {
        return Ended::Failed(Failed::raised(report));
    }
    Ended::Cancelled(Box::new(caught))
}

/// Whether the session was interrupted, by a cancel or `statement_timeout`. A trigger or another server
/// may raise the same SQLSTATE with any message, but not from this function.
fn is_interrupt(report: &ErrorReportWithLevel) -> bool {
    report.sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED
        && report.function_name() == Some("ProcessInterrupts")
}
