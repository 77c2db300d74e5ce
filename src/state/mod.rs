//! The extension's own tables: ledger, registered sites, runs, names; and retention.

pub mod adoption;
pub mod change_url;
pub mod day_state;
pub mod drop_step;
pub mod emptied_days;
pub mod forget;
pub mod late_companions;
pub mod ledger;
pub mod metadata;
pub mod new_sites;
pub mod not_begun;
pub mod registration;
pub mod restored;
pub mod retention;
pub mod run_row;
pub mod runs;
pub mod sites;
pub mod snapshot;
pub mod table;
pub mod upkeep_state;
