//! End-to-end tests: a real Postgres with the built extension, and a fake Matomo over real HTTP.
//! `make test` builds what they need.

mod bad_input;
mod check;
mod check_refusals;
mod cluster;
mod credentials;
mod cron;
mod dump;
mod exactness;
mod forget;
mod histories;
mod interrupts;
mod ledger;
mod ledger_apart;
mod ledger_keeping;
mod leftovers;
mod node_tables;
mod node_tool;
mod odd_data;
mod own_tables;
mod paging;
mod procedures;
mod readme;
mod recordings;
mod rights;
mod runs;
mod schema;
mod secrecy;
mod secrecy_calls;
mod sessions;
mod sites;
mod stored;
mod support;
mod traps;
mod workers;
