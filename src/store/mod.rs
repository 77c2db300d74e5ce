//! The users' tables. Syncs write them only here; erasure and retention delete rows elsewhere, see
//! docs/development.md.

pub mod batch_writer;
pub mod catalog;
pub mod companions;
pub mod compare;
pub mod copy_from;
pub mod destination;
pub mod engine;
pub mod inspect;
pub mod partitions;
pub mod planner_hook;
pub mod relation;
pub mod row_matcher;
pub mod row_texts;
pub mod statements;
pub mod table_writer;
pub mod unregistered;
pub mod written;
