//! What the launcher and the workers have in common: they are processes of the server without a
//! client, which wait, heed signals, and survive errors.

use std::ffi::CString;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use pgrx::PgSqlErrorCode;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::prelude::*;

use crate::error::Result;
use crate::report::or_raise;

/// The server's own handlers, as it wants to be given them: pgrx's only wrap them.
mod handlers {
    unsafe extern "C-unwind" {
        /// Ends the process at the next check for interrupts, also within a statement.
        pub fn die(signal: std::ffi::c_int);
        /// Notes that the configuration is to be read, and wakes the process.
        pub fn SignalHandlerForConfigReload(signal: std::ffi::c_int);
    }
}

/// Makes a background worker of this process, in a database or in none, as the superuser.
pub fn begin(database: Option<&str>) {
    // SAFETY: the main thread of a background worker that has just begun, with signals blocked.
    unsafe {
        handle(pg_sys::SIGTERM, handlers::die);
        handle(pg_sys::SIGHUP, handlers::SignalHandlerForConfigReload);
        pg_sys::BackgroundWorkerUnblockSignals();
    }
    BackgroundWorker::connect_worker_to_spi(database, None);
    // SAFETY: main thread, connected.
    unsafe { pg_sys::pgstat_report_appname((*pg_sys::MyBgworkerEntry).bgw_name.as_ptr()) };
}

/// # Safety
/// Main thread; the handler may run at any time.
unsafe fn handle(signal: u32, handler: unsafe extern "C-unwind" fn(std::ffi::c_int)) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(signal as i32, Some(handler));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(signal as i32, Some(handler));
    }
}

/// Sleeps so long, or until a signal wakes it; a fast shutdown ends the process here. Reads the
/// configuration when it has changed.
pub fn sleep(time: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = i64::try_from(time.as_millis()).unwrap_or(i64::MAX).min(i32::MAX.into());
    // SAFETY: main thread, outside of a transaction; MyLatch lives as long as the process.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        // There is nothing to cancel, and the error would end the process.
        (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
    }
    pgrx::check_for_interrupts!();
    // SAFETY: main thread, outside of a transaction; a handler only sets the flag.
    unsafe {
        if (&raw const pg_sys::ConfigReloadPending).read_volatile() != 0 {
            (&raw mut pg_sys::ConfigReloadPending).write_volatile(0);
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// Shows in `pg_stat_activity` what an idle process waits for.
pub fn show_idle(text: &str) {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: main thread; the text is copied.
    unsafe {
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, text.as_ptr());
        // Autovacuum shall know of what was done before a long sleep.
        pg_sys::pgstat_report_stat(true);
    }
}

/// Why a transaction came to nothing.
#[derive(Debug, Clone)]
pub struct Failure {
    code: PgSqlErrorCode,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Failure {
    fn of(caught: CaughtError) -> Failure {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. }) = caught;
        Failure {
            code: report.sql_error_code(),
            message: report.message().to_owned(),
            detail: report.detail().map(str::to_owned),
            hint: report.hint().map(str::to_owned),
        }
    }

    /// Tells the server log.
    pub fn log(self) {
        let mut report = ErrorReport::new(self.code, self.message, "matomo");
        if let Some(detail) = self.detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = self.hint {
            report = report.set_hint(hint);
        }
        report.report(PgLogLevel::WARNING);
    }
}

/// Does something in a transaction of its own. An error undoes it and ends nothing else.
pub fn transaction<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Failure> {
    let attempt = AssertUnwindSafe(|| {
        // SAFETY: main thread, outside of a transaction.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let result = or_raise(work());
        // SAFETY: main thread; ends what began above.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(result)
    });
    let result = PgTryBuilder::new(attempt)
        .catch_others(|caught| {
            let failure = Failure::of(caught);
            // SAFETY: main thread; whatever state the error left the transaction in.
            unsafe { pg_sys::AbortCurrentTransaction() };
            Err(failure)
        })
        .execute();
    // SAFETY: main thread, outside of a transaction.
    unsafe { pg_sys::pgstat_report_stat(false) };
    result
}
