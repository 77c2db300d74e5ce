//! One sync on the main thread: plan, fetch on helper threads, store in order, record; and the check, which compares and repairs.

pub mod check;
pub mod fetch;
pub mod helper;
pub mod known_days;
pub mod notices;
pub mod pages;
pub mod plan;
pub mod progress;
pub mod recheck;
pub mod remote;
pub mod site_days;
pub mod site_sync;
