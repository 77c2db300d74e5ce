//! What the server saw of a request.

use crate::params::Params;
use std::time::Instant;

/// Where the token was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    None,
    Body,
    Query,
    BodyAndQuery,
    /// An Authorization header; Matomo 5.2 ignores it.
    Header,
}

#[derive(Clone, Debug)]
pub struct Seen {
    /// Matomo's method, for instance `Live.getLastVisitsDetails`; "" when missing.
    pub method: String,
    /// GET, POST, ...
    pub verb: String,
    pub path: String,
    /// All parameters except the token, the body's first.
    pub params: Params,
    pub token: TokenPlace,
    /// All headers except `authorization`, in lower case.
    pub headers: Vec<(String, String)>,
    pub at: Instant,
    /// The status sent; 0 while there is none.
    pub status: u16,
    /// The fault that was injected, if any.
    pub fault: Option<String>,
}

impl Seen {
    /// The value of a parameter, "" when there is none.
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).unwrap_or("")
    }
}
