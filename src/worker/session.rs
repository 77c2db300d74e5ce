//! The registered site that this session works on: the lock that keeps others from it, and what one
//! step leaves for the next. The lock is the session's, as a run commits many times; it is given back
//! with the commit that ends or pauses the run, with every transaction that fails, and with the process.

use std::ptr;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::matomo::client::Client;
use crate::pg::failed::Failed;
use crate::pg::locks::{self, Lock, Until};
use crate::sync::notices::Notices;

/// The work under way.
pub struct Work {
    pub site: i32,
    pub phase: Phase,
    /// What the run has failed with.
    pub failed: Option<Failed>,
    /// Which credentials the step used last.
    pub version: Option<String>,
    /// The connection to the Matomo, and which credentials it is of.
    pub client: Option<(String, Client)>,
    /// What was said of the run's progress.
    pub notices: Notices,
    /// What to make of an error of the last step.
    pub failure: Failure,
    is_locked: bool,
    /// Whether the next commit gives the lock back.
    ends: bool,
}

/// What comes next of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A step of a run, by its number.
    Run(i64),
    /// A step of the site's upkeep; how often somebody was in the way.
    Upkeep(u32),
    /// The end, which tells what went wrong.
    End,
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
static WORK: Mutex<Option<Work>> = Mutex::new(None);

fn current() -> MutexGuard<'static, Option<Work>> {
    WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has Postgres tell of the end of transactions. Called once, when the library is loaded.
pub fn register() {
    // SAFETY: called from _PG_init on the main thread.
    unsafe { pg_sys::RegisterXactCallback(Some(transaction_ends), ptr::null_mut()) };
}

/// Begins work on a site; what this session worked on before is left.
pub fn begin(site: i32, phase: Phase) {
    clear();
    let (failed, version, client, failure) = (None, None, None, Failure::Passing);
    let (notices, is_locked, ends) = (Notices::begin(), false, false);
    let work = Work { site, phase, failed, version, client, notices, failure, is_locked, ends };
    *current() = Some(work);
}

/// Takes the lock of the site that the work is on; gives false when another session has it.
pub fn lock(site: i32) -> bool {
    static AT_EXIT: Once = Once::new();
    // SAFETY: main thread.
    AT_EXIT
        .call_once(|| unsafe { pg_sys::on_shmem_exit(Some(process_ends), pg_sys::Datum::null()) });
    let is_locked = locks::try_take(Lock::Run(site), Until::Released);
    if let Some(work) = current().as_mut().filter(|_| is_locked) {
        work.is_locked = true;
    }
    is_locked
}

/// The next commit gives the lock back.
pub fn ends() {
    if let Some(work) = current().as_mut() {
        work.ends = true;
    }
}

/// What comes next for a site, if this session works on it.
pub fn phase(site: i32) -> Option<Phase> {
    current().as_ref().filter(|work| work.site == site).map(|work| work.phase)
}

/// Looks at or changes the work under way.
///
/// # Errors
/// Only internal ones: there is none.
pub fn with<T>(look: impl FnOnce(&mut Work) -> T) -> Result<T> {
    let none = || Error::Internal("no registered site is worked on".to_owned());
    current().as_mut().map(look).ok_or_else(none)
}

/// Leaves the work, and gives its lock back.
pub fn clear() -> Option<Work> {
    // Not held while a client is dropped.
    let mut left = current().take();
    if let Some(work) = &mut left {
        work.unlock();
    }
    left
}

impl Work {
    fn unlock(&mut self) {
        if std::mem::take(&mut self.is_locked) {
            locks::release(Lock::Run(self.site));
        }
    }
}

/// Called by Postgres on the main thread. A process that ends between two transactions aborts none, and
/// Postgres itself gives back no lock of this kind then: whoever gets its place would hold it.
unsafe extern "C-unwind" fn process_ends(_code: i32, _: pg_sys::Datum) {
    clear();
}

/// Called by Postgres on the main thread.
unsafe extern "C-unwind" fn transaction_ends(
    event: pg_sys::XactEvent::Type,
    _: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_ABORT => {
            clear();
        }
        pg_sys::XactEvent::XACT_EVENT_COMMIT => {
            if let Some(work) = current().as_mut().filter(|work| work.ends) {
                work.unlock();
                work.ends = false;
            }
        }
        _ => {}
    }
}
