//! The SQL functions: they check arguments and return rows. The work is done in the layers below.
//!
//! The Rust name of a function that uses the extension's tables ends with the first version that has it in
//! this form. In a session with an older library, Postgres's error quotes the missing symbol: could not
//! find function "matomo_sync_0_2_reconnect_wrapper".

pub mod companions;
pub mod deletion;
pub mod ledger;
pub mod many_sites;
pub mod metadata;
pub mod partitions;
pub mod procedures;
pub mod released;
pub mod schema;
pub mod server;
pub mod sites;
pub mod sync;
