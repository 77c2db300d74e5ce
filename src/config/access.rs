//! Access to a Matomo: by URL and key, or by foreign server and user mapping.

use crate::config::credentials::Credentials;
use crate::config::options::Options;
use crate::config::requests;
use crate::error::Result;
use crate::matomo::client::Client;
use crate::matomo::http::endpoint::Endpoint;
use crate::matomo::http::stop::Stop;
use crate::matomo::http::token::Token;

/// A client of a Matomo, and limits for its requests.
#[derive(Clone)]
pub struct Access {
    pub client: Client,
    /// Visits per page.
    pub page_size: u32,
    /// Days fetched at once.
    pub fetch_threads: usize,
}

impl Access {
    /// From a URL and key given in a call.
    ///
    /// # Errors
    /// [`crate::error::Error::Argument`] if the CA file or the list of hosts is invalid.
    pub fn direct(endpoint: Endpoint, token: Token) -> Result<Access> {
        Access::new(endpoint, token, &Options::default())
    }

    /// From stored credentials.
    ///
    /// # Errors
    /// Those of [`Access::direct`].
    pub fn stored(credentials: Credentials) -> Result<Access> {
        let Credentials { endpoint, token, options, .. } = credentials;
        Access::new(endpoint, token, &options)
    }

    fn new(endpoint: Endpoint, token: Token, options: &Options) -> Result<Access> {
        let client = Client::new(endpoint, token, requests::http(options)?, Stop::default())?;
        let page_size = options.page_size.unwrap_or_else(|| requests::page_size().unsigned_abs());
        let fetch_threads =
            options.fetch_workers.map_or_else(requests::fetch_workers, |n| n as usize);
        Ok(Access { client, page_size, fetch_threads })
    }
}
