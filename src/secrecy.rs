//! Keeps the key of `matomo_sync(…, key, …)` out of sight: the text of a statement is shown by
//! `pg_stat_activity` while it runs, and logged with every error it meets.

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::atomic::{AtomicI64, Ordering};

use pgrx::{PgLogLevel, pg_sys};

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
/// the error: errors of ours, a cancel, or a unique index of the user. As long as the result lives,
/// nobody is told the context in which we were called: a caller in plpgsql quotes its SQL there,
/// key and all, to the client too.
pub fn hide_running_statement() -> WithoutContext {
    // SAFETY: main thread, inside a statement.
    let start = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    SECRET_STATEMENT.store(start, Ordering::Relaxed);
    // SAFETY: main thread; whoever catches an ERROR restores the stack himself.
    unsafe {
        let context = pg_sys::error_context_stack;
        pg_sys::error_context_stack = ptr::null_mut();
        WithoutContext(context)
    }
}

/// Restores the error context on drop.
#[must_use]
pub struct WithoutContext(*mut pg_sys::ErrorContextCallback);

impl Drop for WithoutContext {
    fn drop(&mut self) {
        // The ERROR that unwinds the stack is yet to be reported.
        if !std::thread::panicking() {
            // SAFETY: main thread; our caller's frames are as they were.
            unsafe { pg_sys::error_context_stack = self.0 };
        }
    }
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
            // What only the log is meant to tell: durations and plans.
            if (*line).elevel == PgLogLevel::LOG as i32 && cut_statement((*line).message) {
                // The parameters.
                (*line).detail = ptr::null_mut();
            }
        }
        if let Some(next) = NEXT_HOOK {
            next(line);
        }
    }
}

/// Ends a message before the text of the running statement, as log_min_duration_statement and
/// auto_explain quote it. Gives whether it was there.
///
/// # Safety
/// The message is a C string of ours to write to, or null.
unsafe fn cut_statement(message: *mut c_char) -> bool {
    // SAFETY: the caller's promise; debug_query_string is a C string or null.
    unsafe {
        if message.is_null() || pg_sys::debug_query_string.is_null() {
            return false;
        }
        let statement = CStr::from_ptr(pg_sys::debug_query_string).to_bytes();
        let text = CStr::from_ptr(message).to_bytes();
        if statement.is_empty() || statement.len() > text.len() {
            return false;
        }
        let at = text.windows(statement.len()).position(|part| part == statement);
        if let Some(at) = at {
            *message.add(at) = 0;
        }
        at.is_some()
    }
}
