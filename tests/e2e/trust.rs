//! Evidence for a sceptic: faults of the network, bad certificates, forbidden hosts, secrets. Each test
//! here is a section of `docs/trust.md`; tests elsewhere add rows to other sections. `make trust`
//! regenerates it.
//!
//! A failure names the case and what was promised. A row that is compared with the report (`proven`)
//! has the earlier result: this time the test saw something else.

mod hosts;
mod network;
mod protocol;
mod secrets;
mod stage;
mod tls;
mod wire;
