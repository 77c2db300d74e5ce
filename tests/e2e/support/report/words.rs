//! Texts for rows of `docs/trust.md`.

use fake_matomo::OracleRow;
use postgres::Client;
use postgres::error::DbError;

use crate::support::assert_equal;

/// The text for an error.
pub fn said(error: &DbError) -> String {
    format!("`{}` {}", error.code().code(), error.message())
}

/// Asserts the rows of a table, and returns the text for it.
#[track_caller]
pub fn all_there(db: &mut Client, table: &str, rows: &[OracleRow]) -> String {
    every_row(db, table, rows);
    format!("all {} rows as they should be", rows.len())
}

/// The same, if their number depends on the day.
#[track_caller]
pub fn every_row(db: &mut Client, table: &str, rows: &[OracleRow]) -> &'static str {
    assert!(!rows.is_empty(), "nothing to compare");
    assert_equal(db, table, rows);
    "every row as it should be"
}
