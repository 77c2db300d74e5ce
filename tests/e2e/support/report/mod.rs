//! The report `docs/trust.md`, and what tests all over the suite say in its rows.

mod table;
mod words;

pub use table::{Section, proven};
pub use words::{all_there, every_row, said};
