//! A sync: plans, fetches on helper threads, stores in order, records. Also checks, which compare and
//! repair, and the creation of destinations.

pub mod check;
pub mod fetch;
pub mod helper;
pub mod known_days;
pub mod metadata;
pub mod new_tables;
pub mod notices;
pub mod on_helper;
pub mod pages;
pub mod plan;
pub mod progress;
pub mod recheck;
pub mod site_days;
pub mod site_sync;
