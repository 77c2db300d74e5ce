//! The run that this session does: which it is, the lock that keeps others from the same site, and
//! what one step leaves for the next. The lock is the session's, as a run commits many times; it is
//! given back with the commit that ends the run, and with every transaction that fails.
//! In the background worker there may be several, which take turns; a transaction is always one's.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pgrx::pg_sys;

use crate::client::Client;
use crate::error::{Result, Stored};
use crate::locks::{self, Lock, Until};

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
    /// Whether the transaction is its.
    is_at_work: bool,
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
static RUNS: Mutex<Vec<Run>> = Mutex::new(Vec::new());

/// Whether there may be several.
static TAKE_TURNS: AtomicBool = AtomicBool::new(false);

fn all() -> MutexGuard<'static, Vec<Run>> {
    RUNS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on a run does not end the others of this session.
pub fn take_turns() {
    TAKE_TURNS.store(true, Ordering::Relaxed);
}

/// Has Postgres tell of the end of transactions. Called once, when the library is loaded.
pub fn register() {
    // SAFETY: called from _PG_init on the main thread.
    unsafe { pg_sys::RegisterXactCallback(Some(transaction_ends), ptr::null_mut()) };
}

/// Takes the lock of a registered site; gives false when another session has it. A run of this
/// session that was left behind ends.
pub fn lock(site: i32) -> bool {
    let take_turns = TAKE_TURNS.load(Ordering::Relaxed);
    release(|run| !take_turns || run.site == site);
    let is_locked = locks::try_take(Lock::Run(site), Until::Released);
    if is_locked {
        let (version, client, failure) = (None, None, Failure::Passing);
        all().push(Run { run: 0, site, version, client, failure, is_at_work: true, ends: false });
    }
    is_locked
}

/// The run that was locked is this one.
pub fn begins(run: i64) {
    if let Some(locked) = all().last_mut() {
        locked.run = run;
    }
}

/// The next commit ends the run.
pub fn ends() {
    for run in all().iter_mut().filter(|run| run.is_at_work) {
        run.ends = true;
    }
}

/// Looks at or changes a run under way.
///
/// # Errors
/// [`Stored::NoRun`] when it is none of this session.
pub fn with<T>(run: i64, work: impl FnOnce(&mut Run) -> T) -> Result<T> {
    match all().iter_mut().find(|known| known.run == run && !known.ends) {
        Some(known) => {
            known.is_at_work = true;
            Ok(work(known))
        }
        None => Err(Stored::NoRun(run).into()),
    }
}

/// Ends runs, and gives their locks back.
pub fn release(which: impl Fn(&Run) -> bool) {
    // Not held while a client is dropped.
    let ended: Vec<Run> = all().extract_if(.., |run| which(run)).collect();
    for run in ended {
        locks::release(Lock::Run(run.site));
    }
}

/// Called by Postgres on the main thread.
unsafe extern "C-unwind" fn transaction_ends(
    event: pg_sys::XactEvent::Type,
    _: *mut std::ffi::c_void,
) {
    let take_turns = TAKE_TURNS.load(Ordering::Relaxed);
    match event {
        pg_sys::XactEvent::XACT_EVENT_ABORT => release(|run| run.is_at_work || !take_turns),
        pg_sys::XactEvent::XACT_EVENT_COMMIT => {
            release(|run| run.ends);
            for run in all().iter_mut() {
                run.is_at_work = false;
            }
        }
        _ => {}
    }
}
