//! The registered site that this session works on: its lock, and state that one step leaves for the
//! next. It is a session-level lock, as a run commits many times. It is released by the commit that ends
//! or pauses the run, by every abort, and at the end of the process.

use std::ptr;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use chrono::NaiveDate;
use pgrx::prelude::*;

use crate::error::{Error, MissingPartitions, Result};
use crate::matomo::client::Client;
use crate::pg::failed::Failed;
use crate::pg::locks::{self, Lock, Mode, Until};
use crate::sync::notices::Notices;

/// The current work.
pub struct Work {
    pub site: i32,
    pub phase: Phase,
    /// The day on which the names of goals and custom dimensions are to be read after the run.
    pub metadata_day: Option<NaiveDate>,
    /// Failure of the run.
    pub failed: Option<Failed>,
    /// Version of the credentials that the last step used.
    pub version: Option<String>,
    /// The client of the Matomo, with the version of its credentials.
    pub client: Option<(String, Client)>,
    /// State of the run's progress NOTICEs.
    pub notices: Notices,
    /// Kind of the last step's error, if it fails.
    pub failure: Failure,
    /// Partitions that the last step lacked.
    pub missing_partitions: Option<Vec<MissingPartitions>>,
    /// Those that were created before it.
    pub created_partitions: Option<Vec<MissingPartitions>>,
    is_locked: bool,
    /// Whether the next commit releases the lock.
    releases_lock: bool,
}

/// The next step of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A step of a run, by its ID.
    Run(i64),
    /// The names of its goals and custom dimensions, on a day.
    Metadata(NaiveDate),
    /// A step of the site's upkeep; how often it was blocked.
    Upkeep(u32),
    /// The end, which reports the failure, if any.
    End,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Other,
    /// Another session that is not a run conflicts.
    Busy,
    /// Matomo refuses the token.
    Refused,
}

/// Used only by the main thread.
static WORK: Mutex<Option<Work>> = Mutex::new(None);

fn current() -> MutexGuard<'static, Option<Work>> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers a callback for the end of transactions. Called once, when the library is loaded.
pub fn register() {
    // SAFETY: called from _PG_init on the main thread.
    unsafe { pg_sys::RegisterXactCallback(Some(transaction_ends), ptr::null_mut()) };
}

/// Starts work on a site; drops any previous work of this session.
pub fn begin(site: i32, phase: Phase) {
    clear();
    *current() = Some(Work {
        site,
        phase,
        metadata_day: None,
        failed: None,
        version: None,
        client: None,
        notices: Notices::begin(),
        failure: Failure::Other,
        missing_partitions: None,
        created_partitions: None,
        is_locked: false,
        releases_lock: false,
    });
}

/// Takes the lock of the current work's site. Returns false if another session has it.
pub fn lock(site: i32) -> bool {
    static AT_EXIT: Once = Once::new();
    // SAFETY: main thread.
    AT_EXIT
        .call_once(|| unsafe { pg_sys::on_shmem_exit(Some(process_ends), pg_sys::Datum::null()) });
    let is_locked = locks::try_take(Lock::Run(site), Mode::ShareUpdateExclusive, Until::Released);
    if let Some(work) = current().as_mut().filter(|_| is_locked) {
        work.is_locked = true;
    }
    is_locked
}

/// Makes the next commit release the lock.
pub fn release_lock_on_commit() {
    if let Some(work) = current().as_mut() {
        work.releases_lock = true;
    }
}

/// The next step for a site, if this session works on it.
pub fn phase(site: i32) -> Option<Phase> {
    current().as_ref().filter(|work| work.site == site).map(|work| work.phase)
}

/// Reads or changes the current work.
///
/// # Errors
/// [`Error::Internal`] if there is none.
pub fn with<T>(look: impl FnOnce(&mut Work) -> T) -> Result<T> {
    let none = || Error::Internal("no registered site is worked on".to_owned());
    current().as_mut().map(look).ok_or_else(none)
}

/// Drops the current work and releases its lock.
pub fn clear() -> Option<Work> {
    // The mutex is not held while a client is dropped.
    let mut left = current().take();
    if let Some(work) = &mut left {
        work.unlock();
    }
    left
}

impl Work {
    fn unlock(&mut self) {
        if std::mem::take(&mut self.is_locked) {
            locks::release(Lock::Run(self.site), Mode::ShareUpdateExclusive);
        }
    }
}

/// Called by Postgres on the main thread. If a process ends between two transactions, none is aborted,
/// and Postgres does not release such a lock: the next process in the same slot would hold it.
#[pg_guard]
unsafe extern "C-unwind" fn process_ends(_code: i32, _argument: pg_sys::Datum) {
    clear();
}

/// Called by Postgres on the main thread.
#[pg_guard]
unsafe extern "C-unwind" fn transaction_ends(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_ABORT => {
            clear();
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT => {
            if let Some(work) = current().as_mut().filter(|work| work.releases_lock) {
                work.unlock();
                work.releases_lock = false;
            }
        }
        _ => {}
    }
}
