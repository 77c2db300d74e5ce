//! Why no connection is made to a host. Pure.

use std::fmt;
use std::net::IpAddr;

/// Why a host may not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRefusal {
    pub host: String,
    pub address: Option<IpAddr>,
    pub why: RefusalReason,
}

/// The rule that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// `matomo.allowed_hosts` has neither the host nor its address.
    NotListed,
    /// What the host or its address is that no Matomo is.
    Reserved(&'static str),
    /// `http://`, and another machine.
    Plain,
}

impl HostRefusal {
    /// Completes the DETAIL.
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

    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self.why {
            RefusalReason::NotListed => "A superuser can add it to matomo.allowed_hosts.",
            RefusalReason::Reserved(_) => {
                "Check the URL. Link-local addresses and metadata services are never allowed, \
                 whatever matomo.allowed_hosts says."
            }
            RefusalReason::Plain => {
                "Use https://. Without it everybody on the way can read the token; where that is no \
                 danger, a superuser can set matomo.allow_http."
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
