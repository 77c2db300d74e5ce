//! Hides the key of `matomo_sync(…, key, …)`. `pg_stat_activity` shows the text of a running
//! statement, and the log has it with every error and in plans.

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use pgrx::prelude::*;

/// Start of the statement that the log must not show. The start identifies a statement.
static SECRET_STATEMENT: AtomicI64 = AtomicI64::new(i64::MIN);

/// The last keys of this session, each reduced to a part that no quoting changes. A plan may be
/// logged long after the statement has ended.
static KEYS: Mutex<Vec<String>> = Mutex::new(Vec::new());
const KEPT_KEYS: usize = 16;

/// Functions that take a key.
const CALLS: [&[u8]; 3] = [b"matomo_sync", b"matomo_check", b"matomo_refresh_metadata"];

/// The text before the plan in messages of auto_explain.
const PLAN: &[u8] = b" ms  plan:\n";

static mut NEXT_HOOK: pg_sys::emit_log_hook_type = None;

/// Installs the hook. Called once, when the library is loaded.
pub fn register() {
    // SAFETY: called from _PG_init on the main thread.
    unsafe {
        NEXT_HOOK = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(hide_statement);
    }
}

/// Hides the text and context of the running statement from the log, for errors of any origin.
/// Until the result is dropped, errors go without the caller's context as well: plpgsql quotes its
/// SQL there, with the key, and also to the client.
pub fn hide_running_statement(key: &str) -> WithoutContext {
    keep(key);
    // SAFETY: main thread, inside a statement.
    let start = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    SECRET_STATEMENT.store(start, Ordering::Relaxed);
    // SAFETY: main thread; code that catches an ERROR restores the stack.
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
        // While an ERROR unwinds the stack, it is not yet reported.
        if !std::thread::panicking() {
            // SAFETY: main thread; the caller's frames still exist.
            unsafe { pg_sys::error_context_stack = self.0 };
        }
    }
}

/// Shows `text` instead of the statement in `pg_stat_activity`.
pub fn show_activity(text: &str) {
    // Our texts contain no NUL.
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: main thread; the text is copied.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()) };
}

/// Remembers a key to mask it in log messages. Not if the call comes from a trigger in another role's
/// session: it could choose words that the log of that session then lacks. Its statement is hidden anyway.
fn keep(key: &str) {
    // SAFETY: main thread; reads a flag.
    if unsafe { pg_sys::InSecurityRestrictedOperation() } {
        return;
    }
    let plain = key.split(|c: char| !c.is_ascii_alphanumeric()).max_by_key(|part| part.len());
    // Short parts occur in ordinary words.
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

/// Called for each message before it is logged.
#[pg_guard]
unsafe extern "C-unwind" fn hide_statement(line: *mut pg_sys::ErrorData) {
    // SAFETY: main thread; Postgres passes a valid message, which owns its texts. The statement's
    // text is valid too.
    unsafe {
        let is_secret =
            pg_sys::GetCurrentStatementStartTimestamp() == SECRET_STATEMENT.load(Ordering::Relaxed);
        let statement = match pg_sys::debug_query_string.is_null() {
            true => &[],
            false => CStr::from_ptr(pg_sys::debug_query_string).to_bytes(),
        };
        let (message, details) = ((*line).message, [&mut (*line).detail, &mut (*line).detail_log]);
        let mut has_parameters = may_call(statement) && (*line).elevel <= pg_sys::LOG as i32;
        if is_secret {
            (*line).hide_stmt = true;
            (*line).hide_ctx = true;
            // log_min_duration_statement and auto_explain quote the statement in the message.
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

/// Whether a statement may call a function that gets a key, its name in lower or upper case.
fn may_call(statement: &[u8]) -> bool {
    let has = |name: &[u8]| statement.windows(name.len()).any(|at| at.eq_ignore_ascii_case(name));
    CALLS.into_iter().any(has)
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() { None } else { text.windows(part.len()).position(|at| at == part) }
}

/// Cuts a text before a part of it. Returns whether the part was found.
///
/// # Safety
/// The text is a writable C string or null.
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

/// Cuts the plan from a message of auto_explain if the statement has a key, or may have an earlier
/// one: a plan contains the statement, its parameters and the call, in any format. Returns whether
/// it did.
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
        let is_cut = is_secret || had_keys && may_call(text);
        if is_cut {
            *message.add(at + PLAN.len() - 1) = 0;
        }
        is_cut
    }
}

/// Overwrites each occurrence of a key in a text with asterisks.
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
