//! Compares stored rows with those of a batch, text by text. No SPI.

use std::collections::HashMap;

use memchr::{memchr, memchr_iter};

use crate::pg::encoding::to_server;
use crate::rows::columns::Source;
use crate::rows::layout::Layout;
use crate::rows::lines::{self, Lines};
use crate::store::row_texts::RowTexts;

/// The rows of a batch by their identity, and which of them are stored as they are.
pub struct RowMatcher<'a> {
    rows: &'a Lines,
    layout: &'a Layout,
    /// By the texts of the first columns, as in a line of COPY.
    by_identity: HashMap<&'a [u8], usize>,
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
    /// Indexes these rows of a batch by their identity.
    pub fn of(
        rows: &'a Lines,
        layout: &'a Layout,
        which: impl Iterator<Item = usize>,
    ) -> RowMatcher<'a> {
        let width = layout.kind.identity().len();
        let identity = |row: usize| {
            let line = rows.text(row..row + 1).as_bytes();
            let end = memchr_iter(b'\t', line).nth(width - 1);
            &line[..end.unwrap_or(line.len())]
        };
        let by_identity = which.map(|row| (identity(row), row)).collect();
        RowMatcher { rows, layout, by_identity, matched: vec![false; rows.len()] }
    }

    /// Compares a stored row with the batch's row of the same identity.
    pub fn compare(&mut self, texts: &mut RowTexts, row: usize) -> StoredRow {
        let mut found = StoredRow::default();
        let owned =
            |text: Option<&[u8]>| text.map(|text| String::from_utf8_lossy(text).into_owned());
        let (mut line, mut cells, mut identity) = (None, None, Vec::new());
        let (slots, width) = (self.layout.slots(), self.layout.kind.identity().len());
        texts.row(row, |column, text| {
            match slots[column].column.source {
                Source::SiteId => found.site = owned(text).unwrap_or_default(),
                Source::VisitId => found.visit = owned(text).unwrap_or_default(),
                Source::Instant => found.at = owned(text).unwrap_or_default(),
                Source::Visit("visitorId") => found.visitor = text.map(<[u8]>::to_vec),
                _ => {}
            }
            if column < width {
                if column > 0 {
                    identity.push(b'\t');
                }
                identity.extend(text.unwrap_or_default());
                if column + 1 == width {
                    line = self.by_identity.get(identity.as_slice()).copied();
                    cells = line.map(|line| self.rows.cells(line).skip(width));
                    found.is_equal = line.is_some_and(|line| !self.matched[line]);
                }
                return;
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
