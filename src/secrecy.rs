//! Keeps the key of `matomo_sync(…, key, …)` out of sight: the text of a statement is shown by
//! `pg_stat_activity` while it runs, and logged with every error it meets.

use std::ffi::CString;
use std::sync::atomic::{AtomicI64, Ordering};

use pgrx::pg_sys;

/// Start of the statement whose text the log must not show; a statement's start identifies it.
static SECRET_STATEMENT: AtomicI64 = AtomicI64::new(i64::MIN);

static mut NEXT_HOOK: pg_sys::emit_log_hook_type = None;

/// Puts our hook into the server log's way. Called once, when the library is loaded.
pub fn register() {
    // SAFETY: called from _PG_init on the main thread.
    unsafe {
        NEXT_HOOK = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(hide_statement);
    }
}

/// From now on the log shows neither text nor context of the running statement, whoever raises
/// the error: errors of ours, a cancel, or a unique index of the user.
pub fn hide_running_statement() {
    // SAFETY: main thread, inside a statement.
    let start = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    SECRET_STATEMENT.store(start, Ordering::Relaxed);
}

/// Shows `text` in `pg_stat_activity` in place of the statement.
pub fn show_activity(text: &str) {
    // Cut at a NUL, of which there is none.
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: main thread; the text is copied.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()) };
}

/// Runs for each line that is about to be logged.
unsafe extern "C-unwind" fn hide_statement(line: *mut pg_sys::ErrorData) {
    // SAFETY: Postgres hands over a valid line, on the main thread.
    unsafe {
        if pg_sys::GetCurrentStatementStartTimestamp() == SECRET_STATEMENT.load(Ordering::Relaxed) {
            (*line).hide_stmt = true;
            (*line).hide_ctx = true;
        }
        if let Some(next) = NEXT_HOOK {
            next(line);
        }
    }
}
