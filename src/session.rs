//! The run that this session does: which it is, the lock that keeps others from the same site, and
//! what one step leaves for the next. The lock is the session's, as a run commits many times; it is
//! given back with the commit that ends the run, and with every transaction that fails.

use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pgrx::pg_sys;

use crate::client::Client;
use crate::error::{Result, Stored};

/// First half of the key of our advisory locks: "mato". The second is the registered site.
const LOCK: u32 = 1_835_103_343;

/// A run under way.
pub struct Run {
    pub run: i64,
    pub site: i32,
    /// Which credentials the step used last.
    pub version: Option<String>,
    /// The connection to the Matomo, and which credentials it is of.
    pub client: Option<(String, Client)>,
    /// What to make of an error of the last step.
    pub failure: Failure,
    /// Whether the next commit ends it.
    ends: bool,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Any that may pass.
    Passing,
    /// Another session syncs the same site without being a run.
    Busy,
    /// Matomo refuses the token.
    Refused,
}

/// Only the main thread looks.
static RUN: Mutex<Option<Run>> = Mutex::new(None);

fn current() -> MutexGuard<'static, Option<Run>> {
    RUN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has Postgres tell of the end of transactions. Called once, when the library is loaded.
pub fn register() {
    // SAFETY: called from _PG_init on the main thread.
    unsafe { pg_sys::RegisterXactCallback(Some(transaction_ends), ptr::null_mut()) };
}

/// Takes the lock of a registered site; gives false when another session has it. A run of this
/// session that was left behind ends.
pub fn lock(site: i32) -> bool {
    release();
    let tag = tag(site);
    // SAFETY: main thread, within a transaction.
    let result =
        unsafe { pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as pg_sys::LOCKMODE, true, true) };
    let is_locked = result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL;
    if is_locked {
        let failure = Failure::Passing;
        *current() = Some(Run { run: 0, site, version: None, client: None, failure, ends: false });
    }
    is_locked
}

/// The run that was locked is this one.
pub fn begins(run: i64) {
    if let Some(current) = current().as_mut() {
        current.run = run;
    }
}

/// The next commit ends the run.
pub fn ends() {
    if let Some(current) = current().as_mut() {
        current.ends = true;
    }
}

/// Looks at or changes the run under way.
///
/// # Errors
/// [`Stored::NoRun`] when it is not this one.
pub fn with<T>(run: i64, work: impl FnOnce(&mut Run) -> T) -> Result<T> {
    match current().as_mut().filter(|current| current.run == run && !current.ends) {
        Some(current) => Ok(work(current)),
        None => Err(Stored::NoRun(run).into()),
    }
}

/// Gives the lock back.
fn release() {
    // Not held while the client is dropped.
    let run = current().take();
    if let Some(run) = run {
        // SAFETY: main thread; the lock is held by the session, and releasing it needs no
        // transaction.
        unsafe {
            pg_sys::LockRelease(&tag(run.site), pg_sys::ExclusiveLock as pg_sys::LOCKMODE, true);
        }
    }
}

/// As `pg_try_advisory_lock(LOCK, site)`.
fn tag(site: i32) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        // SAFETY: main thread; a number that is set when the session begins.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: LOCK,
        locktag_field3: site.cast_unsigned(),
        locktag_field4: 2,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

/// Called by Postgres on the main thread.
unsafe extern "C-unwind" fn transaction_ends(
    event: pg_sys::XactEvent::Type,
    _: *mut std::ffi::c_void,
) {
    let is_over = match event {
        pg_sys::XactEvent::XACT_EVENT_ABORT => true,
        pg_sys::XactEvent::XACT_EVENT_COMMIT => current().as_ref().is_some_and(|run| run.ends),
        _ => false,
    };
    if is_over {
        release();
    }
}
