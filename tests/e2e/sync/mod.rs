//! Syncs, checks and erasures.

mod check;
mod check_ledger;
mod check_refusals;
mod forget;
mod idle;
mod interrupts;
mod leftovers;
mod mid_run;
mod open_days;
mod progress;
mod rollups;
mod sessions;
mod timezones;
mod workers;
