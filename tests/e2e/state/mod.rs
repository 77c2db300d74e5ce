//! The extension's own tables: ledger, sites, runs; and retention.

mod drop_steps;
mod dump;
mod ledger;
mod ledger_apart;
mod ledger_keeping;
pub mod metadata;
mod moved;
mod named_views;
mod old_snapshots;
mod registered_at_once;
mod restored_companions;
mod restored_days;
mod restored_names;
mod restored_twice;
mod restores;
mod retention;
mod retention_locks;
mod retention_rights;
mod rollups;
mod runs;
mod site_owners;
mod sites;
mod undeletable;
