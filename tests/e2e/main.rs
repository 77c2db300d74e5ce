//! End-to-end tests: a real Postgres with the built extension, and a fake Matomo over real HTTP.
//! `make test` builds what they need.

mod bad_input;
mod check;
mod check_refusals;
mod cluster;
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
mod readme;
mod recordings;
mod retention;
mod retention_locks;
mod schema;
mod secrecy;
mod secrecy_calls;
mod sessions;
mod support;
mod traps;
mod upkeep;
mod worker_faults;
mod worker_life;
mod worker_support;
mod worker_sync;
mod workers;
