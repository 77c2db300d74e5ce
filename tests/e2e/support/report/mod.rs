//! The report `docs/trust.md`, and helpers for tests that add rows to it.

mod table;
mod words;

pub use table::{Section, proven};
pub use words::{all_there, every_row, said};
