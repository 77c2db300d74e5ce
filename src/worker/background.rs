//! What the launcher and the workers have in common: they are processes of the server without a
//! client, which wait, heed signals, and survive errors.

use std::ffi::CString;
use std::panic::AssertUnwindSafe;
use std::ptr;
use std::time::{Duration, Instant};

use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::failed::Failed;
use crate::pg::local_settings::LocalSettings;
use crate::pg::process;
use crate::pg::report::or_raise;
use crate::pg::report::raised;

/// What a process of ours is connected to.
#[derive(Debug, Clone, Copy)]
pub enum Database<'a> {
    None,
    Named(&'a str),
    Of(pg_sys::Oid),
}

/// The server's own handlers, as it wants to be given them: pgrx's only wrap them.
mod handlers {
    unsafe extern "C-unwind" {
        /// Ends the process at the next check for interrupts, also within a statement.
        pub fn die(signal: std::ffi::c_int);
        /// Notes that the configuration is to be read, and wakes the process.
        pub fn SignalHandlerForConfigReload(signal: std::ffi::c_int);
    }
}

/// Makes a background worker of this process, as the superuser.
pub fn begin(database: Database) {
    process::mark_ours();
    // SAFETY: the main thread of a background worker that has just begun, with signals blocked.
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

/// Waits within a transaction, and heeds what interrupts it.
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

/// Does something in a transaction of its own. An error undoes it and ends nothing else.
pub fn transaction<T>(work: impl FnOnce() -> Result<T>) -> std::result::Result<T, Failed> {
    let attempt = AssertUnwindSafe(|| {
        // SAFETY: main thread, outside of a transaction.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            // What comes of a site is noted also where `default_transaction_read_only` is on.
            pg_sys::XactReadOnly = false;
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
            let failed = Failed::raised(raised(&caught));
            // SAFETY: main thread; whatever state the error left the transaction in.
            unsafe { pg_sys::AbortCurrentTransaction() };
            Err(failed)
        })
        .execute();
    // SAFETY: main thread, outside of a transaction.
    unsafe { pg_sys::pgstat_report_stat(false) };
    result
}

/// As long as this lives, nothing is written where `default_transaction_read_only` is on: for the part
/// of a step that reaches users' tables.
pub fn as_by_default() -> Option<LocalSettings> {
    // SAFETY: main thread; a setting of the session.
    let is_read_only = unsafe { pg_sys::DefaultXactReadOnly };
    is_read_only.then(|| LocalSettings::of(&[(c"transaction_read_only", c"on")]))
}

/// A process that this one has started, and that ends with it.
pub struct Child(*mut pg_sys::BackgroundWorkerHandle);

impl Child {
    /// Has the postmaster start one; `None` where `max_worker_processes` leaves no room. This process
    /// wakes when it begins and when it ends.
    pub fn start(builder: BackgroundWorkerBuilder) -> Option<Child> {
        let mut handle = ptr::null_mut();
        // SAFETY: main thread, outside of a transaction; what is registered is copied. The handle
        // must outlive whatever the current memory context is.
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

    /// Whether it has ended, or could not be started.
    pub fn has_ended(&self) -> bool {
        let mut pid = 0;
        // SAFETY: main thread; the handle is good as long as self is.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_STOPPED
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: main thread; the handle is not used any more. There may be nothing to end.
        unsafe {
            pg_sys::TerminateBackgroundWorker(self.0);
            pg_sys::pfree(self.0.cast());
        }
    }
}

/// A background worker that begins when there is no recovery (any more): a standby has none.
pub fn builder(name: &str, kind: &str, function: &str) -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new(name)
        .set_type(kind)
        .set_library("matomo_postgres")
        .set_function(function)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
}

/// Has the children of this process end with it.
pub fn end_with<T>(children: &mut T) -> &mut T {
    unsafe extern "C-unwind" fn end<T>(_code: i32, children: pg_sys::Datum) {
        // SAFETY: the process' own, which nobody uses any more, and which nobody drops.
        unsafe { children.cast_mut_ptr::<T>().drop_in_place() };
    }
    // SAFETY: main thread; the pointer is good till the end.
    unsafe { pg_sys::before_shmem_exit(Some(end::<T>), pg_sys::Datum::from(&raw mut *children)) };
    children
}
