//! Whether this process is one of our background workers.

use std::sync::atomic::{AtomicBool, Ordering};

static IS_OURS: AtomicBool = AtomicBool::new(false);

/// Whether this process is one of our background workers and not a client's session.
pub fn is_ours() -> bool {
    IS_OURS.load(Ordering::Relaxed)
}

/// Marks this process as one of our background workers.
pub fn mark_ours() {
    IS_OURS.store(true, Ordering::Relaxed);
}
