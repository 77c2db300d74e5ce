//! The SQL functions: they check arguments and return rows. The work is done in the layers below.

pub mod deletion;
pub mod ledger;
pub mod runs;
pub mod schema;
pub mod server;
pub mod sites;
pub mod sync;
