//! The SQL surface of runs, on which the procedures stand. Internal: whoever may call the procedures
//! may call these.

use std::ffi::{CString, c_char};
use std::ptr;

use pgrx::PgLogLevel;
use pgrx::prelude::*;

use crate::encoding::{ServerText, to_server};
use crate::error::{Error, Result, Stored};
use crate::report::or_raise;
use crate::runs::Failed;
use crate::step;

/// Raises an error in a transaction that is to last: there is no committing in it; and where nothing
/// can be written.
#[pg_extern(volatile, parallel_unsafe)]
fn matomo_run_outside_transaction(what: &str) {
    // SAFETY: main thread, within a transaction.
    let (in_block, can_commit) =
        unsafe { (pg_sys::IsTransactionBlock(), pg_sys::SPI_inside_nonatomic_context()) };
    or_raise(match (in_block, can_commit) {
        (true, _) => Err(Stored::InTransactionBlock(what.to_owned()).into()),
        (false, false) => Err(Stored::InFunction(what.to_owned()).into()),
        (false, true) => Ok(()),
    });
    prevent_if_read_only(what);
}

/// Raises an ERROR in a read-only transaction and on a standby.
fn prevent_if_read_only(what: &str) {
    let what = CString::new(what).unwrap_or_default();
    // SAFETY: main thread; the text is only read.
    unsafe { pg_sys::PreventCommandIfReadOnly(what.as_ptr()) };
}

/// Begins a run of a registered site; NULL when another session syncs it.
#[pg_extern(volatile, parallel_unsafe)]
fn matomo_run_begin(site: Option<i32>, command: &str) -> Option<i64> {
    prevent_if_read_only("matomo_run_begin()");
    or_raise(site.ok_or(Error::Null("id")).and_then(|site| step::begin(site, command)))
}

/// Does a step of a run; raises what it fails with.
#[pg_extern(volatile, parallel_unsafe)]
fn matomo_run_copy(run: i64) -> &'static str {
    or_raise(step::copy(run)).name()
}

/// Notes what the last step of a run failed with.
#[pg_extern(volatile, parallel_unsafe)]
fn matomo_run_fail(
    run: i64,
    sqlstate: String,
    message: ServerText,
    detail: Option<ServerText>,
    hint: Option<ServerText>,
) -> &'static str {
    let (detail, hint) = (filled(detail), filled(hint));
    let failed = Failed { state: sqlstate, message: message.0, detail, hint };
    or_raise(step::fail(run, &failed)).name()
}

/// Tells what a run has failed with, if it has: as the error that it was, or as a warning. A cancel
/// is always an error.
#[pg_extern(volatile, parallel_unsafe)]
fn matomo_run_report(run: i64, is_error: bool) {
    const CANCELED: &str = "57014";
    if let Some((site, mut failed)) = or_raise(step::failure(run)) {
        if is_error || failed.state == CANCELED {
            or_raise(throw(PgLogLevel::ERROR, failed));
        } else {
            failed.message = format!("registered site {site}: {}", failed.message);
            or_raise(throw(PgLogLevel::WARNING, failed));
        }
    }
}

/// A WARNING of an error that was caught, with what it has of DETAIL and HINT: RAISE in PL/pgSQL would
/// print those that are empty too.
#[pg_extern(volatile, parallel_unsafe)]
fn matomo_run_warn(
    sqlstate: String,
    message: ServerText,
    detail: Option<ServerText>,
    hint: Option<ServerText>,
) {
    let (detail, hint) = (filled(detail), filled(hint));
    let failed = Failed { state: sqlstate, message: message.0, detail, hint };
    or_raise(throw(PgLogLevel::WARNING, failed));
}

fn filled(text: Option<ServerText>) -> Option<String> {
    text.map(|text| text.0).filter(|text| !text.is_empty())
}

/// Reports with any SQLSTATE there may be, also one that Postgres has no name for.
fn throw(level: PgLogLevel, failed: Failed) -> Result<()> {
    let c_text = |text: String| {
        CString::new(to_server(&text))
            .map_err(|_| Error::Internal("an error with a zero byte".to_owned()))
    };
    let message = c_text(failed.message)?;
    let detail = failed.detail.map(c_text).transpose()?;
    let hint = failed.hint.map(c_text).transpose()?;
    let pointer = |text: &Option<CString>| {
        text.as_ref().map_or(ptr::null_mut(), |text| text.as_ptr().cast_mut())
    };
    let mut data = pg_sys::ErrorData {
        elevel: level as i32,
        sqlerrcode: sql_state(&failed.state),
        message: message.as_ptr().cast_mut().cast::<c_char>(),
        detail: pointer(&detail),
        hint: pointer(&hint),
        ..Default::default()
    };
    // SAFETY: main thread; all that is pointed to is copied.
    unsafe { pg_sys::ThrowErrorData(&mut data) };
    Ok(())
}

/// As the macro MAKE_SQLSTATE: six bits a letter.
fn sql_state(text: &str) -> i32 {
    let bits =
        |(place, letter): (usize, u8)| i32::from(letter.wrapping_sub(b'0') & 0x3f) << (6 * place);
    text.bytes().take(5).enumerate().map(bits).sum()
}

#[cfg(test)]
mod tests {
    use pgrx::PgSqlErrorCode;

    use super::*;

    #[test]
    fn states_are_packed_as_postgres_packs_them() {
        assert_eq!(sql_state("42P01"), PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE as i32);
        assert_eq!(sql_state("XX000"), PgSqlErrorCode::ERRCODE_INTERNAL_ERROR as i32);
    }
}
