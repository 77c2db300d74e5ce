//! Changes settings for a few statements.

use std::ffi::CStr;

use pgrx::pg_sys;

/// A search_path in which no user object shadows a built-in one.
pub const SAFE_PATH: (&CStr, &CStr) = (c"search_path", c"pg_catalog, pg_temp");

/// Each statement is planned with its values, whatever the session has set: Citus cannot run a generic
/// plan.
pub const PLANNED_ANEW: (&CStr, &CStr) = (c"plan_cache_mode", c"force_custom_plan");

/// Changed settings, as by the `SET` clauses of a function. Undone on drop, or after an ERROR when
/// the transaction aborts.
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
            // SAFETY: main thread; nested levels end in reverse order.
            unsafe { pg_sys::AtEOXact_GUC(true, self.0) };
        }
    }
}
