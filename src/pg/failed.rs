//! An error to record in a table, and to report later.

use std::ffi::{CString, c_char};
use std::ptr;

use pgrx::pg_sys::panic::ErrorReportWithLevel;
use pgrx::{PgLogLevel, pg_sys};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::pg::encoding;
use crate::pg::ereport;

/// SQLSTATE, message, DETAIL and HINT of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub state: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Whether Postgres or code of the destination raised it, as all errors that SQL has caught.
    #[serde(skip, default = "caught_by_sql")]
    is_raised: bool,
}

fn caught_by_sql() -> bool {
    true
}

impl Failed {
    /// From one of our own errors.
    pub fn of(error: &Error) -> Failed {
        let state = unpack(ereport::code(error.state()) as i32);
        let (detail, hint) = (error.detail(), error.hint());
        Failed { state, message: error.to_string(), detail, hint, is_raised: false }
    }

    /// From an error that Postgres raised.
    pub fn raised(report: &ErrorReportWithLevel) -> Failed {
        Failed {
            state: unpack(report.sql_error_code() as i32),
            message: report.message().to_owned(),
            detail: report.detail().map(str::to_owned),
            hint: report.hint().map(str::to_owned),
            is_raised: true,
        }
    }

    /// Whether Matomo did not answer. Code of the destination may raise a connection exception (class 08)
    /// too, for example of a foreign table.
    pub fn is_unanswered(&self) -> bool {
        !self.is_raised && self.state.starts_with("08") && self.state != "08P01"
    }

    /// Whether another session was in the way: a lock timeout or a deadlock.
    pub fn is_lock_conflict(&self) -> bool {
        ["55P03", "40P01"].contains(&self.state.as_str())
    }

    /// The message, as far as it may be recorded: without what an error of a type quotes.
    pub fn kept_message(&self) -> String {
        let is_of_value = self.is_raised && self.state.starts_with("22");
        if is_of_value { without_quoted(&self.message) } else { self.message.clone() }
    }

    /// The DETAIL, if it may be recorded. Errors of constraints and types can quote a row's values,
    /// which monitoring roles must not read and `matomo_forget` would not find.
    pub fn kept_detail(&self) -> Option<&str> {
        let quotes = ["22", "23", "44"].iter().any(|class| self.state.starts_with(class));
        self.detail.as_deref().filter(|_| !(self.is_raised && quotes))
    }

    /// Adds the subject of the error to its message.
    pub fn about(mut self, what: &str) -> Failed {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Reports it at a level; ERROR does not return.
    pub fn tell(self, level: PgLogLevel) {
        let c_text = |text: String| {
            CString::new(encoding::message(text).replace('\0', " ")).unwrap_or_default()
        };
        let (message, detail, hint) =
            (c_text(self.message), self.detail.map(c_text), self.hint.map(c_text));
        let pointer = |text: &Option<CString>| {
            text.as_ref().map_or(ptr::null_mut(), |text| text.as_ptr().cast_mut())
        };
        let mut data = pg_sys::ErrorData {
            elevel: level as i32,
            sqlerrcode: pack(&self.state),
            message: message.as_ptr().cast_mut().cast::<c_char>(),
            detail: pointer(&detail),
            hint: pointer(&hint),
            ..Default::default()
        };
        // SAFETY: main thread; Postgres copies the texts.
        unsafe { pg_sys::ThrowErrorData(&mut data) };
    }
}

/// Replaces all from the first to the last quotation mark by an ellipsis. Languages have different marks.
fn without_quoted(message: &str) -> String {
    const MARKS: [char; 6] = ['"', '«', '»', '„', '“', '”'];
    let Some(begin) = message.find(MARKS) else { return message.to_owned() };
    let end = message.rfind(MARKS).filter(|end| *end > begin).unwrap_or(message.len());
    format!("{}…{}", &message[..begin], message[end..].trim_start_matches(MARKS))
}

/// As the macro MAKE_SQLSTATE: six bits per character.
fn pack(text: &str) -> i32 {
    let bits =
        |(place, letter): (usize, u8)| i32::from(letter.wrapping_sub(b'0') & 0x3f) << (6 * place);
    text.bytes().take(5).enumerate().map(bits).sum()
}

fn unpack(code: i32) -> String {
    (0..5).map(|place| char::from(((code >> (6 * place)) & 0x3f) as u8 + b'0')).collect()
}

#[cfg(test)]
mod tests {
    use pgrx::PgSqlErrorCode;

    use super::*;

    #[test]
    fn what_is_quoted_is_left_out() {
        for (message, kept) in [
            (
                "invalid input syntax for type uuid: \"a \"b\" c\"",
                "invalid input syntax for type uuid: …",
            ),
            (
                "value \"12\" is out of range for type smallint",
                "value … is out of range for type smallint",
            ),
            (
                "ungültige Eingabesyntax für Typ uuid: »a«",
                "ungültige Eingabesyntax für Typ uuid: …",
            ),
            ("cut \"off", "cut …"),
            ("division by zero", "division by zero"),
        ] {
            assert_eq!(without_quoted(message), kept);
        }
    }

    #[test]
    fn states_are_packed_as_postgres_packs_them() {
        for (text, code) in [
            ("42P01", PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE),
            ("XX000", PgSqlErrorCode::ERRCODE_INTERNAL_ERROR),
        ] {
            assert_eq!(pack(text), code as i32);
            assert_eq!(unpack(code as i32), text);
        }
    }
}
