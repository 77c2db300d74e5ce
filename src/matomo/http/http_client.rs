//! Sends a request over HTTP and reads its answer. The only module that sends the token. No
//! Postgres.

use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Response, StatusCode, header};

use crate::error::{Fault, Result};
use crate::matomo::http::agent::Agent;
use crate::matomo::http::connection_faults::{Attempt, head_fault, transport_fault};
use crate::matomo::http::dial::dials;
use crate::matomo::http::endpoint::Endpoint;
use crate::matomo::http::http_settings::HttpSettings;
use crate::matomo::http::stop::Stop;
use crate::matomo::http::token::Token;
use crate::matomo::memory::Body;

/// Largest buffer allocated in advance, whatever Content-Length says.
const MAX_INITIAL_CAPACITY: usize = 8 << 20;

/// Sends the requests of a client and its clones.
#[derive(Clone)]
pub struct HttpClient {
    agent: Agent,
    pub endpoint: Endpoint,
    pub token: Token,
    connect_timeout: Duration,
    max_response_size: u64,
    stop: Stop,
    /// Bytes of answers, after decompression.
    received: Arc<AtomicU64>,
}

/// An answer of any status; its body is mended for the JSON parser.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Body,
}

type HttpResult<T> = std::result::Result<T, Fault>;

impl HttpClient {
    /// Creates a client without connecting.
    ///
    /// # Errors
    /// [`crate::error::Error::Argument`] when the CA file holds no certificate.
    pub fn new(
        endpoint: Endpoint,
        token: Token,
        settings: &HttpSettings,
        stop: Stop,
    ) -> Result<HttpClient> {
        let agent = Agent::obtain(&endpoint, &token, settings)?;
        let HttpSettings { connect_timeout, max_response_size, .. } = *settings;
        let received = Arc::default();
        Ok(HttpClient {
            agent,
            endpoint,
            token,
            connect_timeout,
            max_response_size,
            stop,
            received,
        })
    }

    /// Bytes of all answers so far, after decompression.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Aborts all requests, on any thread, and prevents further ones.
    pub fn shut_down(&self) {
        self.agent.shut_down();
    }

    /// Calls a method of the API, for a site or none (0), within `timeout`.
    ///
    /// # Errors
    /// Faults of the connection, with the status if one came. The agent is not reused then.
    pub fn ask(
        &self,
        method: &str,
        site: i32,
        params: &[(&str, String)],
        timeout: Duration,
    ) -> std::result::Result<Answer, (Fault, Option<u16>)> {
        let (connect_timeout, port) = (self.connect_timeout, self.endpoint.port());
        let attempt = Attempt { connect_timeout, timeout, port };
        let mut status = None;
        let asked = self.send(method, site, params, attempt).and_then(|mut response| {
            status = Some(response.status().as_u16());
            let body = Body::new(self.body(&mut response, attempt)?, self.max_response_size)?;
            let (head, _) = response.into_parts();
            Ok(Answer { status: head.status, headers: head.headers, body })
        });
        asked.map_err(|fault| {
            self.agent.discard();
            (fault, status)
        })
    }

    /// Sends a request and returns the answer up to its headers.
    fn send(
        &self,
        method: &str,
        site: i32,
        params: &[(&str, String)],
        attempt: Attempt,
    ) -> HttpResult<Response<ureq::Body>> {
        let (began, before) = (Instant::now(), dials());
        match self.post(method, site, params, attempt, false) {
            // The server may close a kept connection just as it is reused: retry at once, on a new
            // connection.
            Err(Fault::Broken(_)) if dials() == before && !self.stop.is_set() => {
                let timeout = attempt.timeout.saturating_sub(began.elapsed());
                self.post(method, site, params, Attempt { timeout, ..attempt }, true)
            }
            done => done,
        }
    }

    fn post(
        &self,
        method: &str,
        site: i32,
        params: &[(&str, String)],
        attempt: Attempt,
        is_new_connection: bool,
    ) -> HttpResult<Response<ureq::Body>> {
        let request = self
            .agent
            .post(self.endpoint.url(), attempt.timeout, is_new_connection)
            .query("module", "API")
            .query("method", method)
            .query("format", "JSON")
            .query_pairs((site > 0).then(|| ("idSite", site.to_string())))
            .query_pairs(params.iter().map(|(key, value)| (*key, value.as_str())));
        // In the body: Matomo refuses "secure only" tokens elsewhere, and logs keep URLs.
        let sent = request.send_form([("token_auth", self.token.secret())]);
        sent.map_err(|error| head_fault(error, attempt, &self.token))
    }

    fn body(&self, response: &mut Response<ureq::Body>, attempt: Attempt) -> HttpResult<Vec<u8>> {
        let limit = self.max_response_size;
        // Content-Length decides the initial capacity only.
        let announced = response.headers().get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok());
        let mut body = Vec::new();
        let room = announced.unwrap_or(0).min(MAX_INITIAL_CAPACITY);
        body.try_reserve_exact(room).map_err(|_| Fault::OutOfMemory)?;
        let reader = response.body_mut().with_config().limit(u64::MAX).reader();
        let read = reader.take(limit + 1).read_to_end(&mut body);
        self.received.fetch_add(body.len() as u64, Ordering::Relaxed);
        match read {
            Ok(_) if body.len() as u64 > limit => Err(Fault::TooLarge(limit)),
            Ok(_) => Ok(body),
            Err(error) if error.kind() == ErrorKind::OutOfMemory => Err(Fault::OutOfMemory),
            Err(error) => Err(transport_fault(ureq::Error::from(error), attempt, &self.token)),
        }
    }
}
