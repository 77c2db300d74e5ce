//! The users' tables: nothing else writes them.

pub mod catalog;
pub mod companions;
pub mod compare;
pub mod copy_from;
pub mod destination;
pub mod engine;
pub mod inspect;
pub mod partitions;
pub mod planner_hook;
pub mod portable;
pub mod read_back;
pub mod relation;
pub mod removal;
pub mod row_locks;
pub mod row_matcher;
pub mod row_texts;
pub mod statements;
pub mod table_writer;
pub mod writer;
pub mod written;
