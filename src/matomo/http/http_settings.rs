//! How requests are made. Pure.

use std::time::Duration;

use crate::matomo::http::hosts::Hosts;

/// How to ask: a snapshot of the settings, as helper threads cannot read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
    /// How long a request may stay without an answer in all: with its retries, the waits between
    /// them, and the smaller pages that follow it. `None` for no bound.
    pub patience: Option<Duration>,
    /// How often a request is asked again after a passing failure.
    pub max_retries: u32,
    /// Bytes, after decompression.
    pub max_response_size: u64,
    /// `matomo.language`; `None` leaves it to the token's user.
    pub language: Option<String>,
    /// The contents of `matomo.ca_file`; `None` for the system's store.
    pub ca_pem: Option<Vec<u8>>,
    /// Whom connections may be made to.
    pub hosts: Hosts,
}
