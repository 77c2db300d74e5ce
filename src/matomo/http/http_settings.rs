//! The settings of requests. Pure.

use std::time::Duration;

use crate::matomo::http::hosts::AllowedHosts;

/// A snapshot of the settings for helper threads, which cannot read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
    /// Maximum time without an answer, over retries, their waits, and smaller pages. `None` for no
    /// bound.
    pub answer_timeout: Option<Duration>,
    /// Maximum retries after a transient failure.
    pub max_retries: u32,
    /// Bytes, after decompression.
    pub max_response_size: u64,
    /// `matomo.language`; `None` leaves it to the token's user.
    pub language: Option<String>,
    /// The contents of `matomo.ca_file`; `None` for the system's store.
    pub ca_pem: Option<Vec<u8>>,
    /// Hosts to which connections are allowed.
    pub hosts: AllowedHosts,
}
