//! How a Matomo is reached: by a URL and a key in the call, or by a server and its user mapping.

use crate::config::credentials::Credentials;
use crate::config::options::Options;
use crate::config::settings;
use crate::error::Result;
use crate::matomo::client::Client;
use crate::matomo::http::endpoint::Endpoint;
use crate::matomo::http::stop::Stop;
use crate::matomo::http::token::Token;

/// A Matomo, and how much to ask of it at once.
#[derive(Clone)]
pub struct Access {
    pub client: Client,
    /// Visits a page.
    pub page_size: u32,
    /// Days.
    pub workers: usize,
}

impl Access {
    /// By what the call holds.
    ///
    /// # Errors
    /// [`crate::error::Error::Argument`] when the CA file is none.
    pub fn direct(endpoint: Endpoint, token: Token) -> Result<Access> {
        Access::new(endpoint, token, &Options::default())
    }

    /// By what is stored for the current user.
    ///
    /// # Errors
    /// Those of [`Credentials::of_server`]; and as above.
    pub fn stored(credentials: Credentials) -> Result<Access> {
        let Credentials { endpoint, token, options, .. } = credentials;
        Access::new(endpoint, token, &options)
    }

    fn new(endpoint: Endpoint, token: Token, options: &Options) -> Result<Access> {
        let client = Client::new(endpoint, token, settings::http(options)?, Stop::default())?;
        let page_size = options.page_size.unwrap_or_else(|| settings::page_size().unsigned_abs());
        let workers = options.fetch_workers.map_or_else(settings::fetch_workers, |n| n as usize);
        Ok(Access { client, page_size, workers })
    }
}
