//! Sends a request and diagnoses a failure, by further requests if its words are not clear. No
//! Postgres.

use std::time::Duration;

use ureq::http::{HeaderMap, header};

use crate::error::{Call, Error, Fault, Result};
use crate::matomo::classify;
use crate::matomo::http::connection_faults::seconds_to_wait;
use crate::matomo::http::http_client::{Answer, HttpClient};
use crate::matomo::memory::Body;

/// Lists the sites that a token may see. Every token may ask this, and the answer has no language.
const SITES: &str = "SitesManager.getSitesIdWithAtLeastViewAccess";

type Params = [(&'static str, String)];

/// The parameter for English messages, which works with every method.
pub fn english() -> (&'static str, String) {
    ("language", "en".to_owned())
}

/// Sends one request. After an unknown message it repeats the request in English; after a refusal
/// it requests the sites that the token may see. `follow_up_timeout` returns the timeout of these.
///
/// # Errors
/// [`Error::Request`].
pub fn ask(
    http: &HttpClient,
    call: &Call,
    params: &Params,
    timeout: Duration,
    follow_up_timeout: &dyn Fn() -> Duration,
) -> Result<Body> {
    let asked = match exchange(http, call, params, timeout) {
        Err(Error::Request { fault: Fault::Matomo(words), call })
            if !params.contains(&english()) =>
        {
            let others = params.iter().filter(|(key, _)| *key != "language").cloned();
            let params: Vec<_> = others.chain([english()]).collect();
            let again = exchange(http, &call, &params, follow_up_timeout());
            // The failure has passed, but this answer is in the wrong language.
            again.and(Err(Error::Request { fault: Fault::Transient(words), call }))
        }
        done => done,
    };
    match asked {
        Err(Error::Request { fault: Fault::NoAccess(words), call }) => {
            let question = Call { method: SITES, day: None, status: None, ..call.clone() };
            let sites = exchange(http, &question, &[english()], follow_up_timeout());
            Err(Error::Request { fault: refused(words, &call, sites), call })
        }
        done => done,
    }
}

/// The fault of a refusal. It concerns the site, unless Matomo refuses the token for the list of
/// sites too.
fn refused(words: String, call: &Call, sites: Result<Body>) -> Fault {
    match sites {
        Ok(sites) => match classify::sites(&sites) {
            Some(sites) if sites.contains(&call.site) && !classify::names_a_right(&words) => {
                Fault::Matomo(words)
            }
            // Matomo 4 says nothing else about a wrong token.
            Some(sites) if sites.is_empty() && call.status == Some(200) => {
                Fault::TokenRefused(words)
            }
            _ => Fault::NoAccess(words),
        },
        Err(error) => {
            let may_pass = error.is_transient() || error.is_overload();
            match error {
                Error::Request { fault: Fault::NoAccess(said), .. }
                    if classify::speaks_of_token(&said) =>
                {
                    Fault::TokenRefused(said)
                }
                Error::Request {
                    fault: fault @ (Fault::LockedOut(_) | Fault::AddressRefused(_)),
                    ..
                } => fault,
                // Something in between blocks the list of sites, permanently. Otherwise other sites
                // would use the token until Matomo locks out the address.
                _ if !may_pass && classify::speaks_of_token(&words) => Fault::TokenRefused(words),
                _ => Fault::NoAccess(words),
            }
        }
    }
}

/// Sends one request and classifies the answer.
fn exchange(http: &HttpClient, call: &Call, params: &Params, timeout: Duration) -> Result<Body> {
    let failed = |fault, status| Error::Request { fault, call: Call { status, ..call.clone() } };
    let answer = http.ask(call.method, call.site, params, timeout);
    let Answer { status, headers, body } =
        answer.map_err(|(fault, status)| failed(fault, status))?;
    match classify::fault_of(status, &body, &|words| http.token.hide_in(words)) {
        None => Ok(body),
        Some(fault) => Err(failed(with_headers(http, fault, &headers), Some(status.as_u16()))),
    }
}

/// Adds what only the headers tell.
fn with_headers(http: &HttpClient, fault: Fault, headers: &HeaderMap) -> Fault {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match fault {
        Fault::Redirected(_) => {
            let to = header(header::LOCATION).unwrap_or_default();
            let is_plain = http.endpoint.host().starts_with("http:");
            let needs_tls = is_plain && to.starts_with("https:");
            let to = http.token.hide_in(to);
            if needs_tls { Fault::NeedsTls(to) } else { Fault::Redirected(to) }
        }
        Fault::RateLimited(_) => {
            Fault::RateLimited(header(header::RETRY_AFTER).and_then(seconds_to_wait))
        }
        other => other,
    }
}
