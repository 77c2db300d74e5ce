//! What the server saw of a request.

use crate::params::Params;
use std::time::Instant;

/// Where the token stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    None,
    Body,
    Query,
    BodyAndQuery,
    /// An Authorization header; Matomo 5.2 does not look at it.
    Header,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Matomo's method, for instance `Live.getLastVisitsDetails`; "" when not given.
    pub method: String,
    /// GET, POST, ...
    pub verb: String,
    pub path: String,
    /// All parameters but the token, the body's first.
    pub params: Params,
    pub token: TokenPlace,
    /// All headers in lower case, but `authorization`.
    pub headers: Vec<(String, String)>,
    /// When it came.
    pub at: Instant,
    /// The status answered; 0 when none was (yet).
    pub status: u16,
    /// The fault that was played, if any.
    pub fault: Option<String>,
}

impl Seen {
    /// The value of a parameter, "" when there is none.
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).unwrap_or("")
    }
}
