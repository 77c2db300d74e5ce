//! What tests all over the suite say in rows of `docs/trust.md`.

use fake_matomo::OracleRow;
use postgres::Client;
use postgres::error::DbError;

use crate::support::assert_equal;

/// An error as the table shows it.
pub fn said(error: &DbError) -> String {
    format!("`{}` {}", error.code().code(), error.message())
}

/// The comparison of a table with what it should hold, and what the report says then.
#[track_caller]
pub fn all_there(db: &mut Client, table: &str, rows: &[OracleRow]) -> String {
    every_row(db, table, rows);
    format!("all {} rows as they should be", rows.len())
}

/// The same where their number depends on the day.
#[track_caller]
pub fn every_row(db: &mut Client, table: &str, rows: &[OracleRow]) -> &'static str {
    assert!(!rows.is_empty(), "nothing to compare");
    assert_equal(db, table, rows);
    "every row as it should be"
}
