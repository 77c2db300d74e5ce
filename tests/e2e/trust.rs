//! What a sceptic wants to see: faults of the network, bad certificates, hosts that nobody may
//! ask, secrets. Each test here is a section of `docs/trust.md`, which says of each case what was
//! injected, what was promised and what was seen; other sections are of rows from tests elsewhere.
//! `make trust` writes it anew.

mod hosts;
mod network;
mod proofs;
mod protocol;
mod secrets;
mod stage;
mod table;
mod tls;
mod wire;

pub use proofs::{all_there, every_row, proven, said};
pub use table::Section;
