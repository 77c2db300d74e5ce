//! A flag with which the main thread stops its helpers, and on which a helper can sleep.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared between threads; a clone is the same flag.
#[derive(Clone, Default)]
pub struct Stop(Arc<(Mutex<Option<Instant>>, Condvar)>);

impl Stop {
    /// Sets the flag and wakes sleepers. Returns when it was first set.
    pub fn set(&self) -> Instant {
        let (since, bell) = &*self.0;
        let mut since = since.lock().unwrap_or_else(PoisonError::into_inner);
        bell.notify_all();
        *since.get_or_insert_with(Instant::now)
    }

    /// Whether to stop.
    pub fn is_set(&self) -> bool {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Sleeps until the time is over or the flag is set. Returns whether it is set.
    pub fn sleep(&self, time: Duration) -> bool {
        let (since, bell) = &*self.0;
        let guard = since.lock().unwrap_or_else(PoisonError::into_inner);
        let slept = bell.wait_timeout_while(guard, time, |since| since.is_none());
        slept.unwrap_or_else(PoisonError::into_inner).0.is_some()
    }
}
