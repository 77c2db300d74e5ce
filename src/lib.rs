//! Copies the visits of a Matomo site into Postgres tables, from inside the database.
//!
//! Data flows one way: *plan* (which days) → *fetch* (client, pager) → *rows* (visit to rows) →
//! *store* → the result. `README.md` tells users of it.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

use std::ffi::CStr;

use pgrx::prelude::*;

mod access;
mod address;
mod agenda;
mod agent;
mod answer;
mod api;
mod api_ledger;
mod api_runs;
mod api_server;
mod api_sites;
mod api_upkeep;
mod attempt;
mod background;
mod backoff;
mod batch;
mod calls;
mod certificates;
mod check;
mod client;
mod compare;
mod coordinator;
mod copy;
mod copy_from;
mod credentials;
mod databases;
mod destination;
mod dial;
mod encoding;
mod endpoint;
mod error;
mod extension;
mod failed;
mod fault;
mod fetch;
mod fleet;
mod forget;
mod helper;
mod hosts;
mod http;
mod indexes;
mod inspect;
mod json;
mod launcher;
mod ledger;
mod lines;
mod locks;
mod memory;
mod moved;
mod open_days;
mod options;
mod owner;
mod pager;
mod pages;
mod patience;
mod plan;
mod progress;
mod recheck;
mod refusal;
mod remote;
mod report;
mod retention;
mod rows;
mod run;
mod runs;
mod scope;
mod secrecy;
mod seen;
mod session;
mod settings;
mod sites;
mod sql_state;
mod statements;
mod step;
mod stop;
mod store;
mod stored;
mod stored_error;
mod sync;
mod times;
mod tls;
mod token;
mod transport;
mod understanding;
mod upkeep;
mod valid;
mod values;
mod visit;
mod wake;
mod watch;
mod worker;
mod zone;

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
extension_sql_file!("../sql/forget.sql", name = "forget", requires = [api_upkeep::matomo_forget]);
extension_sql_file!(
    "../sql/retention.sql",
    name = "retention",
    requires = [api_runs::matomo_run_outside_transaction]
);
extension_sql_file!("../sql/sites.sql", name = "sites");
extension_sql_file!(
    "../sql/runs.sql",
    name = "runs",
    requires = ["sites", api_runs::matomo_run_is_dead]
);
extension_sql_file!(
    "../sql/status.sql",
    name = "status",
    requires = ["ledger", "runs", api_sites::matomo_today]
);
extension_sql_file!(
    "../sql/server.sql",
    name = "server",
    requires = [api_server::matomo_fdw_validator]
);
extension_sql_file!(
    "../sql/procedures.sql",
    name = "procedures",
    requires = ["runs", "retention", api_runs::matomo_run_sites, api_runs::matomo_run_step]
);
extension_sql_file!(
    "../sql/privileges.sql",
    name = "privileges",
    requires = ["procedures", api_ledger::matomo_change_url],
    finalize
);

/// Runs when a backend loads the library.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::register();
    secrecy::register();
    indexes::register();
    launcher::register();
    session::register();
}
