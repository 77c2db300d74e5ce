//! The SQL surface: arguments in, rows out. What the functions do lies on the floors below.
//!
//! Functions that use the extension's tables have the oldest version that may run them in their Rust
//! name. A session that has loaded an older library lacks the symbol, and Postgres's error quotes it:
//! could not find function "matomo_sync_0_2_reconnect_wrapper".

pub mod deletion;
pub mod ledger;
pub mod released;
pub mod runs;
pub mod schema;
pub mod server;
pub mod sites;
pub mod sync;
