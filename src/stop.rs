//! A flag by which the main thread tells its helper to stop, and on which a helper can sleep.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Shared between the two threads; a clone is the same flag.
#[derive(Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Tells everyone who looks or sleeps.
    pub fn set(&self) {
        let (flag, bell) = &*self.0;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        bell.notify_all();
    }

    /// Whether to stop.
    pub fn is_set(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps, but wakes at once when told to stop. Gives whether to stop.
    pub fn sleep(&self, time: Duration) -> bool {
        let (flag, bell) = &*self.0;
        let guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
        let slept = bell.wait_timeout_while(guard, time, |stop| !*stop);
        *slept.unwrap_or_else(PoisonError::into_inner).0
    }
}
