//! Evidence for a sceptic: faults of the network, bad certificates, forbidden hosts, secrets. Each test
//! here is a section of `docs/trust.md`; tests elsewhere add rows to other sections. `make trust`
//! regenerates it.
//!
//! A failure names the case and what was promised. No test reads the report.

mod hosts;
mod network;
mod protocol;
mod secrets;
mod stage;
mod tls;
mod wire;
