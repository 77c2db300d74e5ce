//! Background worker processes: start, sleep, signals, transactions, child processes.

use std::ffi::CString;
use std::panic::AssertUnwindSafe;
use std::ptr;
use std::time::{Duration, Instant};

use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::ereport::or_raise;
use crate::pg::ereport::raised;
use crate::pg::failed::Failed;
use crate::pg::process;

/// The database that a background worker connects to.
#[derive(Debug, Clone, Copy)]
pub enum Database<'a> {
    None,
    Named(&'a str),
    Of(pg_sys::Oid),
}

/// Postgres' own signal handlers. pgrx exports only wrappers, with another ABI.
mod handlers {
    unsafe extern "C-unwind" {
        /// Terminates the process at the next check for interrupts, also within a statement.
        pub fn die(signal: std::ffi::c_int);
        /// Requests a reload of the configuration, and wakes the process.
        pub fn SignalHandlerForConfigReload(signal: std::ffi::c_int);
    }
}

/// Initializes this background worker, connected as the bootstrap superuser.
pub fn begin(database: Database) {
    process::mark_ours();
    // SAFETY: main thread of a background worker that has just started, with signals blocked.
    unsafe {
        handle(pg_sys::SIGTERM, handlers::die);
        handle(pg_sys::SIGHUP, handlers::SignalHandlerForConfigReload);
        pg_sys::BackgroundWorkerUnblockSignals();
    }
    match database {
        Database::None => BackgroundWorker::connect_worker_to_spi(None, None),
        Database::Named(name) => BackgroundWorker::connect_worker_to_spi(Some(name), None),
        Database::Of(oid) => BackgroundWorker::connect_worker_to_spi_by_oid(Some(oid), None),
    }
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

/// Sleeps for a time or until a signal; a fast shutdown ends the process here. Reloads a changed
/// configuration.
pub fn sleep(time: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = i64::try_from(time.as_millis()).unwrap_or(i64::MAX).min(i32::MAX.into());
    // SAFETY: main thread, outside of a transaction; MyLatch lives as long as the process.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        // There is nothing to cancel, and an ERROR would end the process.
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

/// Waits within a transaction, and checks for interrupts.
pub fn pause(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
        let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
        let milliseconds = i64::try_from(left.as_millis()).unwrap_or(i64::MAX).clamp(1, 100);
        // SAFETY: main thread; MyLatch lives as long as the process.
        unsafe {
            let latch = pg_sys::MyLatch;
            pg_sys::WaitLatch(latch, events as i32, milliseconds, pg_sys::PG_WAIT_EXTENSION);
            pg_sys::ResetLatch(latch);
        }
        pgrx::check_for_interrupts!();
    }
}

/// Shows a text for an idle process in `pg_stat_activity`.
pub fn show_idle(text: &str) {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: main thread; the text is copied.
    unsafe {
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, text.as_ptr());
        // Report statistics before a long sleep, for autovacuum.
        pg_sys::pgstat_report_stat(true);
    }
}

/// Runs `work` in its own transaction. An error aborts only the transaction.
///
/// # Errors
/// Those of `work`, returned or raised.
pub fn transaction<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Failed> {
    let attempt = AssertUnwindSafe(|| {
        // SAFETY: main thread, outside of a transaction.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            // The result of a run is recorded even if `default_transaction_read_only` is on.
            pg_sys::XactReadOnly = false;
            // Retention needs to see what others commit, whatever `default_transaction_isolation` is.
            pg_sys::XactIsoLevel = pg_sys::XACT_READ_COMMITTED as i32;
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let result = or_raise(work());
        // SAFETY: main thread; ends the transaction started above.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(result)
    });
    let result = PgTryBuilder::new(attempt)
        .catch_others(|caught| {
            let failed = Failed::raised(raised(&caught));
            // SAFETY: main thread; allowed in any state of the transaction.
            unsafe { pg_sys::AbortCurrentTransaction() };
            Err(failed)
        })
        .execute();
    // SAFETY: main thread, outside of a transaction.
    unsafe { pg_sys::pgstat_report_stat(false) };
    result
}

/// Applies `default_transaction_read_only` until the result is dropped, for the part of a step that
/// writes users' tables.
pub fn as_by_default() -> Option<ReadOnly> {
    // SAFETY: main thread; a setting of the session.
    unsafe { pg_sys::DefaultXactReadOnly }.then(ReadOnly::begin)
}

/// Makes the transaction read-only until it is dropped. Not by `transaction_read_only`: since Postgres
/// 16, no function may set it locally.
#[must_use]
pub struct ReadOnly(());

impl ReadOnly {
    fn begin() -> ReadOnly {
        // SAFETY: main thread, within a transaction; its abort resets the flag.
        unsafe { pg_sys::XactReadOnly = true };
        ReadOnly(())
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { pg_sys::XactReadOnly = false };
    }
}

/// A process that this one has started. Dropping it terminates the process.
pub struct Child(*mut pg_sys::BackgroundWorkerHandle);

impl Child {
    /// Requests a process from the postmaster; `None` if `max_worker_processes` leaves no slot. This
    /// process is woken when it starts and when it ends.
    pub fn start(builder: BackgroundWorkerBuilder) -> Option<Child> {
        let mut handle = ptr::null_mut();
        // SAFETY: main thread, outside of a transaction; Postgres copies the worker. The handle must
        // outlive the current memory context.
        let is_registered = unsafe {
            let builder = builder.set_notify_pid(pg_sys::MyProcPid);
            let mut worker: pg_sys::BackgroundWorker = (&builder).into();
            let context = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = pg_sys::TopMemoryContext;
            let is_registered = pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle);
            pg_sys::CurrentMemoryContext = context;
            is_registered
        };
        is_registered.then(|| Child(handle))
    }

    /// Its process ID, while it runs.
    pub fn pid(&self) -> Option<i32> {
        let (status, pid) = self.status();
        (status == pg_sys::BgwHandleStatus::BGWH_STARTED).then_some(pid)
    }

    /// Whether it has ended, or could not be started.
    pub fn has_ended(&self) -> bool {
        self.status().0 == pg_sys::BgwHandleStatus::BGWH_STOPPED
    }

    fn status(&self) -> (pg_sys::BgwHandleStatus::Type, i32) {
        let mut pid = 0;
        // SAFETY: main thread; the handle is valid as long as self.
        (unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) }, pid)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: main thread; the last use of the handle. The process may have ended already.
        unsafe {
            pg_sys::TerminateBackgroundWorker(self.0);
            pg_sys::pfree(self.0.cast());
        }
    }
}

/// A background worker that starts once recovery has finished, and so never on a standby.
pub fn builder(name: &str, kind: &str, function: &str) -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new(name)
        .set_type(kind)
        .set_library("matomo_postgres")
        .set_function(function)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
}

/// Makes the children of this process end with it.
pub fn end_with<T>(children: &mut T) -> &mut T {
    unsafe extern "C-unwind" fn end<T>(_code: i32, children: pg_sys::Datum) {
        // SAFETY: leaked by the caller, and not used any more when the process ends. The guard, as
        // ending a child may raise.
        unsafe {
            pg_sys::panic::pgrx_extern_c_guard(|| children.cast_mut_ptr::<T>().drop_in_place());
        }
    }
    // SAFETY: main thread; the pointer is valid until the end of the process.
    unsafe { pg_sys::before_shmem_exit(Some(end::<T>), pg_sys::Datum::from(&raw mut *children)) };
    children
}
