//! Bounds how long a step of a registered site may run without progress, for any cause. For
//! example, `lock_timeout` does not stop a trigger that sleeps, and a background process has no
//! `statement_timeout`.

use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

use crate::pg::locks;
use crate::pg::process;

/// Postgres' timers, for which pgrx has no bindings.
mod timers {
    use std::ffi::c_int;

    /// The first ID for extensions.
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

/// Time beyond that of a request: to wait for a lock and to store a batch.
const MARGIN: Duration = locks::LONGEST_WAIT.saturating_add(Duration::from_secs(10));

/// ID of the timer; 0 before it is registered.
static TIMER: AtomicI32 = AtomicI32::new(0);
/// In milliseconds; 0 without a watch.
static LIMIT: AtomicI32 = AtomicI32::new(0);
/// How often the timer has fired since the last progress.
static FIRED: AtomicU32 = AtomicU32::new(0);

/// Until this is dropped, work without progress is cancelled.
#[must_use]
pub struct Watch(());

impl Watch {
    /// Starts to watch work whose requests have this timeout.
    pub fn begin(request_timeout: Duration) -> Watch {
        FIRED.store(0, Ordering::Relaxed);
        allow(request_timeout);
        Watch(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        LIMIT.store(0, Ordering::Relaxed);
        // SAFETY: main thread; the timer is registered. A cancel that fired too late must not hit
        // later work.
        unsafe {
            timers::disable_timeout(TIMER.load(Ordering::Relaxed), false);
            if FIRED.swap(0, Ordering::Relaxed) > 0 {
                (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
            }
        }
    }
}

/// How many [`Unwatched`] there are.
static UNWATCHED: AtomicU32 = AtomicU32::new(0);

/// Until this is dropped, progress is ignored: triggers of the table may call Matomo too.
#[must_use]
pub struct Unwatched(());

impl Unwatched {
    /// Begins work that runs code of others.
    pub fn begin() -> Unwatched {
        UNWATCHED.fetch_add(1, Ordering::Relaxed);
        Unwatched(())
    }
}

impl Drop for Unwatched {
    fn drop(&mut self) {
        UNWATCHED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sets the request timeout.
pub fn allow(request_timeout: Duration) {
    let limit = request_timeout.saturating_add(MARGIN).as_millis();
    LIMIT.store(c_int::try_from(limit).unwrap_or(c_int::MAX), Ordering::Relaxed);
    progress();
}

/// Records progress: restarts the timer if there is a watch.
pub fn progress() {
    let limit = LIMIT.load(Ordering::Relaxed);
    if limit == 0 || has_fired() || UNWATCHED.load(Ordering::Relaxed) > 0 {
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

/// Whether the work was cancelled for lack of progress.
pub fn has_fired() -> bool {
    FIRED.load(Ordering::Relaxed) > 0
}

/// How long work may run without progress.
pub fn limit() -> Duration {
    Duration::from_millis(LIMIT.load(Ordering::Relaxed).unsigned_abs().into())
}

/// The timer's handler: cancels. If the cancel is caught, the next one terminates a background
/// worker.
unsafe extern "C-unwind" fn fire() {
    let again = FIRED.fetch_add(1, Ordering::Relaxed) > 0;
    let signal = if again && process::is_ours() { libc::SIGTERM } else { libc::SIGINT };
    // SAFETY: both may be called in a handler.
    unsafe { libc::kill(libc::getpid(), signal) };
}
