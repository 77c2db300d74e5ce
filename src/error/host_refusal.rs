//! Hosts that the settings forbid. Pure.

use std::fmt;
use std::net::IpAddr;

/// A forbidden host and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRefusal {
    pub host: String,
    pub address: Option<IpAddr>,
    pub why: RefusalReason,
}

/// The rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// Neither the host nor its address is in `matomo.allowed_hosts`.
    NotListed,
    /// The host or its address is never a Matomo's; what it is.
    Reserved(&'static str),
    /// `http://` to another machine.
    Plain,
}

impl HostRefusal {
    /// The second part of the DETAIL.
    pub fn detail(&self) -> String {
        let address = self.address.map(|address| address.to_string());
        match (self.why, address) {
            (RefusalReason::NotListed, Some(address)) => {
                format!("Neither the host nor its address {address} is in matomo.allowed_hosts.")
            }
            (RefusalReason::NotListed, None) => {
                "The host is not in matomo.allowed_hosts.".to_owned()
            }
            (RefusalReason::Reserved(what), Some(address)) => {
                format!("The host's address {address} is {what}.")
            }
            (RefusalReason::Reserved(what), None) => format!("The host's name is {what}."),
            (RefusalReason::Plain, address) => format!(
                "The host's address {} is of another machine, and the URL begins with http://.",
                address.unwrap_or_default()
            ),
        }
    }

    /// The HINT.
    pub fn hint(&self) -> &'static str {
        match self.why {
            RefusalReason::NotListed => "Ask a superuser to add it to matomo.allowed_hosts.",
            RefusalReason::Reserved(_) => {
                "Check the URL. Link-local addresses and metadata services are never allowed, \
                 whatever matomo.allowed_hosts says."
            }
            RefusalReason::Plain => {
                "Use https://. Without it the token is sent unencrypted; where that is safe, a \
                 superuser can set matomo.allow_http."
            }
        }
    }
}

impl fmt::Display for HostRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why {
            RefusalReason::Plain => {
                write!(f, "a connection to \"{}\" without TLS is not allowed", self.host)
            }
            _ => write!(f, "a connection to \"{}\" is not allowed", self.host),
        }
    }
}

impl std::error::Error for HostRefusal {}
