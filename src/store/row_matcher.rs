//! Compares stored rows with those of a batch, text by text. No SPI.

use std::collections::HashMap;

use memchr::memchr;

use crate::pg::encoding::to_server;
use crate::rows::columns::position;
use crate::rows::lines::{self, Lines};
use crate::store::row_texts::RowTexts;

/// Positions of columns. `ACTION_ID` finds the row to compare with, so it has to be the first.
const ACTION_ID: usize = position("action_id");
const IDSITE: usize = position("idsite");
const IDVISIT: usize = position("idvisit");
const ACTION_TIMESTAMP: usize = position("action_timestamp");
const VISITORID: usize = position("visitorid");
const _: () = assert!(ACTION_ID == 0);

/// The rows of a batch by `action_id`, and which of them are stored as they are.
pub struct RowMatcher<'a> {
    rows: &'a Lines,
    by_action: HashMap<&'a [u8], usize>,
    pub matched: Vec<bool>,
}

/// A stored row.
#[derive(Default)]
pub struct StoredRow {
    pub visit: String,
    pub site: String,
    /// `action_timestamp`.
    pub at: String,
    pub visitor: Option<Vec<u8>>,
    /// Whether all of its texts are those of the batch.
    pub is_equal: bool,
}

impl<'a> RowMatcher<'a> {
    /// Indexes the rows of a batch by action_id.
    pub fn of(rows: &'a Lines) -> RowMatcher<'a> {
        let action = |row: usize| rows.cells(row).nth(ACTION_ID).unwrap_or_default().as_bytes();
        let by_action = (0..rows.len()).map(|row| (action(row), row)).collect();
        RowMatcher { rows, by_action, matched: vec![false; rows.len()] }
    }

    /// Compares a stored row with the batch's row of the same `action_id`.
    pub fn compare(&mut self, texts: &mut RowTexts, row: usize) -> StoredRow {
        let mut found = StoredRow::default();
        let owned =
            |text: Option<&[u8]>| text.map(|text| String::from_utf8_lossy(text).into_owned());
        let (mut line, mut cells) = (None, None);
        texts.row(row, |column, text| {
            match column {
                ACTION_ID => {
                    line = text.and_then(|text| self.by_action.get(text)).copied();
                    cells = line.map(|line| self.rows.cells(line));
                    found.is_equal = line.is_some_and(|line| !self.matched[line]);
                }
                IDSITE => found.site = owned(text).unwrap_or_default(),
                IDVISIT => found.visit = owned(text).unwrap_or_default(),
                ACTION_TIMESTAMP => found.at = owned(text).unwrap_or_default(),
                VISITORID => found.visitor = text.map(<[u8]>::to_vec),
                _ => {}
            }
            if found.is_equal {
                let cell = cells.as_mut().and_then(Iterator::next).unwrap_or_default();
                found.is_equal = is_equal(cell, text);
            }
        });
        if let Some(line) = line.filter(|_| found.is_equal) {
            self.matched[line] = true;
        }
        found
    }
}

/// Whether a cell has this value, which is in the database's encoding.
fn is_equal(cell: &str, value: Option<&[u8]>) -> bool {
    match value {
        Some(value) if memchr(b'\\', cell.as_bytes()).is_none() => *to_server(cell) == *value,
        value => {
            let of_cell = lines::value(cell);
            of_cell.as_deref().map(to_server).as_deref() == value
        }
    }
}
