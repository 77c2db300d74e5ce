//! Keeps the key of `matomo_sync(…, key, …)` out of sight: the text of a statement is shown by
//! `pg_stat_activity` while it runs, and logged with every error it meets; plans quote it too.

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use pgrx::pg_sys;

/// Start of the statement whose text the log must not show; a statement's start identifies it.
static SECRET_STATEMENT: AtomicI64 = AtomicI64::new(i64::MIN);

/// The last keys of this session, as the part of each that reads the same in any quotes or escapes.
/// A plan may be logged when the statement is long over.
static KEYS: Mutex<Vec<String>> = Mutex::new(Vec::new());
const KEPT_KEYS: usize = 16;

/// What a statement that may hold a key calls.
const CALLS: [&[u8]; 2] = [b"matomo_sync", b"matomo_check"];

/// What comes before the plan in a message of auto_explain.
const PLAN: &[u8] = b" ms  plan:\n";

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
pub fn hide_running_statement(key: &str) -> WithoutContext {
    keep(key);
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

/// Keeps a key in mind, so that no line shows it.
fn keep(key: &str) {
    let plain = key.split(|c: char| !c.is_ascii_alphanumeric()).max_by_key(|part| part.len());
    // A short one is in many words.
    let Some(plain) = plain.filter(|part| part.len() >= 8) else { return };
    if let Ok(mut keys) = KEYS.lock()
        && !keys.iter().any(|key| key == plain)
    {
        if keys.len() == KEPT_KEYS {
            keys.remove(0);
        }
        keys.push(plain.to_owned());
    }
}

/// Runs for each line that is about to be logged.
unsafe extern "C-unwind" fn hide_statement(line: *mut pg_sys::ErrorData) {
    // SAFETY: Postgres hands over a valid line, on the main thread; its texts are its own, as is the
    // text of the statement.
    unsafe {
        let is_secret =
            pg_sys::GetCurrentStatementStartTimestamp() == SECRET_STATEMENT.load(Ordering::Relaxed);
        let statement = match pg_sys::debug_query_string.is_null() {
            true => &[],
            false => CStr::from_ptr(pg_sys::debug_query_string).to_bytes(),
        };
        let (message, details) = ((*line).message, [&mut (*line).detail, &mut (*line).detail_log]);
        let mut has_parameters = CALLS.iter().any(|name| find(statement, name).is_some())
            && (*line).elevel <= pg_sys::LOG as i32;
        if is_secret {
            (*line).hide_stmt = true;
            (*line).hide_ctx = true;
            // As log_min_duration_statement and auto_explain quote it.
            has_parameters |= end_before(message, statement);
        }
        if has_parameters {
            details.into_iter().for_each(|detail| *detail = ptr::null_mut());
        }
        if let Ok(keys) = KEYS.try_lock() {
            if end_after_plan(message, is_secret, !keys.is_empty()) {
                (*line).context = ptr::null_mut();
            }
            let texts = [message, (*line).detail, (*line).detail_log, (*line).hint];
            for text in texts.into_iter().chain([(*line).context, (*line).internalquery]) {
                keys.iter().for_each(|key| mask(text, key.as_bytes()));
            }
        }
        if let Some(next) = NEXT_HOOK {
            next(line);
        }
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() { None } else { text.windows(part.len()).position(|at| at == part) }
}

/// Ends a text before a part of it; whether that was there.
///
/// # Safety
/// The text is a C string that may be written to, or null.
unsafe fn end_before(text: *mut c_char, part: &[u8]) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if text.is_null() {
            return false;
        }
        let at = find(CStr::from_ptr(text).to_bytes(), part);
        if let Some(at) = at {
            *text.add(at) = 0;
        }
        at.is_some()
    }
}

/// Takes the plan out of a message of auto_explain of a statement that has a key, or, where there were
/// keys before, may have one: it holds the statement, its parameters and the call, in whatever format.
///
/// # Safety
/// As above.
unsafe fn end_after_plan(message: *mut c_char, is_secret: bool, had_keys: bool) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        if message.is_null() {
            return false;
        }
        let text = CStr::from_ptr(message).to_bytes();
        let Some(at) = find(text, PLAN) else { return false };
        let is_cut = is_secret || had_keys && CALLS.iter().any(|name| find(text, name).is_some());
        if is_cut {
            *message.add(at + PLAN.len() - 1) = 0;
        }
        is_cut
    }
}

/// Writes asterisks over each place of a key in a text.
///
/// # Safety
/// As above.
unsafe fn mask(text: *mut c_char, key: &[u8]) {
    // SAFETY: the caller's promise.
    unsafe {
        if text.is_null() {
            return;
        }
        while let Some(at) = find(CStr::from_ptr(text).to_bytes(), key) {
            ptr::write_bytes(text.add(at), b'*', key.len());
        }
    }
}
