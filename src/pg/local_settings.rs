//! Settings of Postgres that hold for a few statements of ours, and no longer.

use std::ffi::CStr;

use pgrx::pg_sys;

/// As `SET LOCAL` within a function that has `SET` clauses: undone on drop, or by the abort of
/// the transaction when an ERROR unwinds the stack.
pub struct LocalSettings(i32);

impl LocalSettings {
    /// Sets each (name, value).
    pub fn of(settings: &[(&CStr, &CStr)]) -> LocalSettings {
        // SAFETY: main thread; set_config_option copies both texts.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            for (name, value) in settings {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            LocalSettings(level)
        }
    }
}

impl Drop for LocalSettings {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: main thread; levels are left in the reverse order of entering.
            unsafe { pg_sys::AtEOXact_GUC(true, self.0) };
        }
    }
}
