//! The SQL surface: arguments in, rows out. What the functions do lies on the floors below.

pub mod deletion;
pub mod ledger;
pub mod runs;
pub mod schema;
pub mod server;
pub mod sites;
pub mod sync;
