//! Whose process this is.

use std::sync::atomic::{AtomicBool, Ordering};

static IS_OURS: AtomicBool = AtomicBool::new(false);

/// Whether this process is a background worker of ours, and no session of anybody's.
pub fn is_ours() -> bool {
    IS_OURS.load(Ordering::Relaxed)
}

/// Notes that this process is a background worker of ours.
pub fn mark_ours() {
    IS_OURS.store(true, Ordering::Relaxed);
}
