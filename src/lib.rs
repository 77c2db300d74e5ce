//! Copies the visits of a Matomo site into Postgres tables, from inside the database.
//!
//! Data flows one way: *plan* (which days) → *fetch* (from Matomo) → *rows* (of each visit) → *store*
//! → *record* (the ledger). Each folder is a layer and uses only the layers below it; see
//! `docs/development.md`.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::ffi::CStr;

use pgrx::prelude::*;

mod api;
mod config;
mod error;
mod matomo;
mod pg;
mod rows;
mod state;
mod store;
mod sync;
mod worker;

// pgrx's own `version` would be reported instead of ours.
const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };
::pgrx::pg_module_magic!(name, version = VERSION);

/// Runs when a backend loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    config::settings::register();
    pg::secrecy::register();
    store::planner_hook::register();
    worker::launcher::register();
    worker::current_work::register();
}
