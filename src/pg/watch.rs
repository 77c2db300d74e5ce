//! Bounds how long a step of a registered site may go on without progress, whatever it waits for: a
//! trigger that sleeps has no lock to wait for, and a process without a client no `statement_timeout`.

use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

use crate::pg::locks;
use crate::pg::process;

/// Postgres' own timers, of which pgrx knows nothing.
mod timers {
    use std::ffi::c_int;

    /// The first that extensions may have.
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    pub const USER_TIMEOUT: c_int = 12;
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    pub const USER_TIMEOUT: c_int = 13;

    unsafe extern "C-unwind" {
        pub fn RegisterTimeout(id: c_int, handler: unsafe extern "C-unwind" fn()) -> c_int;
        pub fn enable_timeout_every(id: c_int, first: i64, milliseconds: c_int);
        pub fn disable_timeout(id: c_int, keep_indicator: bool);
    }
}

/// What a step may take beyond a request: the wait for a lock, and some time to store a batch.
const MARGIN: Duration = locks::LONGEST_WAIT.saturating_add(Duration::from_secs(10));

/// The timer's number; 0 before there is one.
static TIMER: AtomicI32 = AtomicI32::new(0);
/// In milliseconds; 0 while nothing is watched.
static LIMIT: AtomicI32 = AtomicI32::new(0);
/// How often the timer has gone off since the last progress.
static FIRED: AtomicU32 = AtomicU32::new(0);

/// As long as this lives, what makes no progress is cancelled.
#[must_use]
pub struct Watch(());

impl Watch {
    /// Begins to watch work that waits so long for a request.
    pub fn begin(request_timeout: Duration) -> Watch {
        FIRED.store(0, Ordering::Relaxed);
        allow(request_timeout);
        Watch(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        LIMIT.store(0, Ordering::Relaxed);
        // SAFETY: main thread; the timer is registered. A cancel of ours that came too late to be
        // heeded must not meet what follows.
        unsafe {
            timers::disable_timeout(TIMER.load(Ordering::Relaxed), false);
            if FIRED.swap(0, Ordering::Relaxed) > 0 {
                (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
            }
        }
    }
}

/// The request timeout is this one.
pub fn allow(request_timeout: Duration) {
    let limit = request_timeout.saturating_add(MARGIN).as_millis();
    LIMIT.store(c_int::try_from(limit).unwrap_or(c_int::MAX), Ordering::Relaxed);
    progress();
}

/// There was progress: the time begins anew, if anything is watched.
pub fn progress() {
    let limit = LIMIT.load(Ordering::Relaxed);
    if limit == 0 || has_fired() {
        return;
    }
    // SAFETY: main thread; the handler may run at any time.
    unsafe {
        if TIMER.load(Ordering::Relaxed) == 0 {
            let timer = timers::RegisterTimeout(timers::USER_TIMEOUT, fire);
            TIMER.store(timer, Ordering::Relaxed);
        }
        let first = pg_sys::GetCurrentTimestamp() + i64::from(limit) * 1000;
        timers::enable_timeout_every(TIMER.load(Ordering::Relaxed), first, limit);
    }
}

/// Whether the work was cancelled for want of progress.
pub fn has_fired() -> bool {
    FIRED.load(Ordering::Relaxed) > 0
}

/// How long work may go on without progress.
pub fn limit() -> Duration {
    Duration::from_millis(LIMIT.load(Ordering::Relaxed).unsigned_abs().into())
}

/// The signal's handler: cancels. Who catches that, in a process of ours, is ended the next time.
unsafe extern "C-unwind" fn fire() {
    let again = FIRED.fetch_add(1, Ordering::Relaxed) > 0;
    let signal = if again && process::is_ours() { libc::SIGTERM } else { libc::SIGINT };
    // SAFETY: both may be called in a handler.
    unsafe { libc::kill(libc::getpid(), signal) };
}
