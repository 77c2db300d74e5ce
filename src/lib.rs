//! Copies the visits of a Matomo site into Postgres tables, from inside the database.
//!
//! Data flows one way: *plan* (which days) → *fetch* (client, pager) → *rows* (visit to rows) →
//! *store* → the result. `README.md` tells users of it.

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

// pgrx' own `version` would stand in place of the name.
const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };
::pgrx::pg_module_magic!(name, version = VERSION);

extension_sql_file!("../sql/tables.sql", name = "tables");
extension_sql_file!("../sql/partitions.sql", name = "partitions", requires = ["tables"]);
extension_sql_file!("../sql/ledger.sql", name = "ledger");
extension_sql_file!(
    "../sql/forget.sql",
    name = "forget",
    requires = [api::deletion::matomo_forget]
);
extension_sql_file!(
    "../sql/retention.sql",
    name = "retention",
    requires = [api::runs::matomo_run_outside_transaction]
);
extension_sql_file!("../sql/sites.sql", name = "sites");
extension_sql_file!(
    "../sql/runs.sql",
    name = "runs",
    requires = ["sites", api::runs::matomo_run_is_dead, api::runs::matomo_is_running]
);
extension_sql_file!(
    "../sql/status.sql",
    name = "status",
    requires = ["ledger", "runs", api::sites::matomo_today]
);
extension_sql_file!(
    "../sql/server.sql",
    name = "server",
    requires = [api::server::matomo_fdw_validator]
);
extension_sql_file!(
    "../sql/procedures.sql",
    name = "procedures",
    requires = ["runs", "retention", api::runs::matomo_run_sites, api::runs::matomo_run_step]
);
extension_sql_file!(
    "../sql/privileges.sql",
    name = "privileges",
    requires = ["procedures", api::ledger::matomo_change_url],
    finalize
);

/// Runs when a backend loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    config::settings::register();
    pg::secrecy::register();
    store::indexes::register();
    worker::launcher::register();
    worker::session::register();
}
