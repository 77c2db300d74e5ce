//! What a sceptic wants to see: faults of the network, bad certificates, hosts that nobody may
//! ask, secrets. Each test here is a section of `docs/trust.md`; the rows of other sections come from
//! tests elsewhere. `make trust` writes it anew.
//!
//! A failure names the case and what was promised. Where a row of the report is compared (`proven`),
//! what was seen then stands there: the test saw something else this time.

mod hosts;
mod network;
mod protocol;
mod secrets;
mod stage;
mod tls;
mod wire;
