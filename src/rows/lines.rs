//! Rows as `COPY` reads them: cells separated by tabs, rows ended by line feeds. Pure.
//!
//! Helper threads format them, so that the main thread only passes them on.

use std::borrow::Cow;
use std::fmt::{Display, Write};
use std::ops::Range;

use crate::matomo::memory::FallibleText;

const NULL: &str = r"\N";
/// More than most lines have.
const ROOM_FOR_LINE: usize = 1024;

/// Rows, each with the instant that decides its partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    text: FallibleText,
    /// Where each line begins.
    begins: Vec<usize>,
    /// In seconds.
    instants: Vec<i64>,
    is_cut: bool,
}

impl Lines {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.begins.len()
    }

    /// Begins a line; end it with [`Cells::end_line`].
    pub fn begin_line(&mut self, at: i64) -> Cells<'_> {
        if self.begins.try_reserve(1).and_then(|()| self.instants.try_reserve(1)).is_ok() {
            self.begins.push(self.text.len());
            self.instants.push(at);
        } else {
            self.is_cut = true;
        }
        self.text.reserve(ROOM_FOR_LINE);
        Cells(&mut self.text)
    }

    /// The instant of each row, in Unix seconds.
    pub fn instants(&self) -> &[i64] {
        &self.instants
    }

    /// Bytes of all lines.
    pub fn size(&self) -> usize {
        self.text.len()
    }

    /// Whether some are missing for lack of memory.
    pub fn is_cut(&self) -> bool {
        self.is_cut || self.text.is_cut()
    }

    /// Whole lines, unparsed.
    pub fn text(&self, lines: Range<usize>) -> &str {
        let begin = |line: usize| self.begins.get(line).copied().unwrap_or(self.text.len());
        self.text.get(begin(lines.start)..begin(lines.end)).unwrap_or_default()
    }

    /// The cells of a line, still escaped.
    pub fn cells(&self, line: usize) -> impl Iterator<Item = &str> {
        cells(self.text(line..line + 1).strip_suffix('\n').unwrap_or_default())
    }
}

/// The cells of a text without its line feed.
pub fn cells(text: &str) -> impl Iterator<Item = &str> {
    text.split('\t')
}

/// The value of a cell.
pub fn value(cell: &str) -> Option<Cow<'_, str>> {
    if cell == NULL {
        return None;
    }
    if !cell.contains('\\') {
        return Some(Cow::Borrowed(cell));
    }
    let mut text = String::with_capacity(cell.len());
    let mut chars = cell.chars();
    while let Some(char) = chars.next() {
        text.push(match char {
            '\\' => match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                other => other.unwrap_or('\\'),
            },
            other => other,
        });
    }
    Some(Cow::Owned(text))
}

/// Writes cells, each followed by a tab.
pub struct Cells<'a>(pub &'a mut FallibleText);

impl Cells<'_> {
    /// NULL.
    pub fn null(&mut self) {
        self.0.push("\\N\t");
    }

    /// Any text.
    pub fn text(&mut self, text: &str) {
        // In a loop that the compiler vectorises.
        let may_escape = |byte: u8| byte < 0x20 || byte == b'\\';
        if !text.bytes().fold(false, |found, byte| found | may_escape(byte)) {
            return self.plain(text);
        }
        let mut from = 0;
        for (at, byte) in text.bytes().enumerate() {
            let escape = match byte {
                b'\\' => r"\\",
                b'\t' => r"\t",
                b'\n' => r"\n",
                b'\r' => r"\r",
                _ => continue,
            };
            self.0.push(&text[from..at]);
            self.0.push(escape);
            from = at + 1;
        }
        self.plain(&text[from..]);
    }

    /// A text that has neither backslashes nor control characters.
    pub fn plain(&mut self, text: &str) {
        self.0.push(text);
        self.0.push("\t");
    }

    /// A value whose text has neither backslashes nor control characters.
    pub fn display(&mut self, what: impl Display) {
        // Never fails.
        let _ = write!(self.0, "{what}\t");
    }

    /// Cells that were written elsewhere.
    pub fn append(&mut self, cells: &FallibleText, part: Range<usize>) {
        self.0.push_part(cells, part);
    }

    /// Ends the line.
    pub fn end_line(self) {
        self.0.pop();
        self.0.push("\n");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_value_comes_back(
            rows in prop::collection::vec(
                prop::collection::vec(prop::option::of("(\\PC|[\\\\\t\n\rN])*"), 1..5),
                0..5,
            ),
        ) {
            let mut lines = Lines::default();
            for (at, row) in rows.iter().enumerate() {
                let mut cells = lines.begin_line(at as i64);
                for value in row {
                    match value {
                        Some(text) => cells.text(text),
                        None => cells.null(),
                    }
                }
                cells.end_line();
            }
            prop_assert_eq!(lines.text(0..rows.len()).lines().count(), rows.len());
            for (at, row) in rows.iter().enumerate() {
                let found: Vec<_> =
                    lines.cells(at).map(|cell| value(cell).map(Cow::into_owned)).collect();
                prop_assert_eq!(&found, row);
            }
        }
    }

    #[test]
    fn as_copy_has_them() {
        let mut text = FallibleText::default();
        let mut cells = Cells(&mut text);
        cells.text("a\\b\tc\nd\re");
        cells.null();
        cells.text(r"\N");
        cells.display(12);
        cells.end_line();
        assert_eq!(&*text, "a\\\\b\\tc\\nd\\re\t\\N\t\\\\N\t12\n");
    }
}
