//! Questions to Matomo's HTTP API, asked until there is an answer. No Postgres.

use std::time::{Duration, Instant};

use chrono::NaiveDate;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Call, Error, Fault, Result};
use crate::matomo::backoff::backoff;
use crate::matomo::http::endpoint::Endpoint;
use crate::matomo::http::http_settings::HttpSettings;
use crate::matomo::http::patience::Patience;
use crate::matomo::http::request::Http;
use crate::matomo::http::stop::Stop;
use crate::matomo::http::token::Token;
use crate::matomo::json;
use crate::matomo::memory::Body;
use crate::matomo::pager::Page;
use crate::matomo::refusal;
use crate::matomo::understanding::{self, english};
use crate::matomo::zone::Zone;

/// What an overloaded Matomo gets before a smaller request.
const RESPITE: Duration = Duration::from_millis(200);

const LIVE: &str = "Live.getLastVisitsDetails";

/// What `SitesManager.getSiteFromId` tells of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteInfo {
    /// Its name there, if it was asked for.
    pub name: Option<String>,
    pub zone: Zone,
    /// The zone's name, as Matomo has it.
    pub timezone: String,
    /// Whether it shows the visits of other sites, if it was asked for.
    pub is_rollup: Option<bool>,
}

/// Which visits to ask for.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// Those whose last action lies in a site-day, a page of them.
    Day(NaiveDate, Page),
    /// Those of these IDs, of any time.
    Ids(&'a [i64]),
}

/// Told before a request is asked again: the failure, which retry it is, how long until then.
pub type OnRetry<'a> = &'a mut dyn FnMut(&Error, u32, Duration);

/// One Matomo, one token; connections are kept and used again. Its clones share them, and
/// nobody else does.
#[derive(Clone)]
pub struct Client {
    http: Http,
    manner: HttpSettings,
    patience: Patience,
    stop: Stop,
}

impl Client {
    /// Prepares a client; connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::Argument`] when the CA file holds no certificate.
    pub fn new(
        endpoint: Endpoint,
        token: Token,
        manner: HttpSettings,
        stop: Stop,
    ) -> Result<Client> {
        let patience = Patience::new(manner.patience);
        let http = Http::new(endpoint, token, &manner, stop.clone())?;
        Ok(Client { http, manner, patience, stop })
    }

    /// The same client with a patience of one request timeout.
    pub fn patient(mut self) -> Client {
        self.manner.patience = Some(self.manner.request_timeout);
        self.patience = Patience::new(self.manner.patience);
        self
    }

    /// The Matomo.
    pub fn endpoint(&self) -> &Endpoint {
        &self.http.endpoint
    }

    /// Bytes of all answers so far, unpacked.
    pub fn received(&self) -> u64 {
        self.http.received()
    }

    /// Breaks off whatever is under way, from any thread; gives when that was done first. The
    /// client is of no use afterwards.
    pub fn shut_down(&self) -> Instant {
        let since = self.stop.set();
        self.http.shut_down();
        since
    }

    /// `SitesManager.getSiteFromId`: the site's name and timezone, and whether the token may see it.
    ///
    /// # Errors
    /// [`Error::Request`], for an unknown site and a refused token too.
    pub fn site(&self, site: i32, on_retry: OnRetry) -> Result<SiteInfo> {
        let call = self.call("SitesManager.getSiteFromId", site, None);
        let body = self.ask(&call, &[english()], false, on_retry)?;
        #[derive(Deserialize)]
        struct Answer<'a> {
            #[serde(borrow)]
            name: Option<&'a RawValue>,
            timezone: String,
            #[serde(borrow, rename = "type")]
            kind: Option<&'a RawValue>,
        }
        let answer: Answer = serde_json::from_str(&body).map_err(|_| {
            self.fault(&call, Fault::Unexpected("a site without timezone".to_owned()))
        })?;
        let zone = Zone::parse(&answer.timezone).ok_or_else(|| {
            let zone = refusal::excerpt(&self.hide(&answer.timezone));
            self.fault(&call, Fault::Unexpected(format!("timezone \"{zone}\"")))
        })?;
        // A name of digits only may come as a number.
        let name = answer.name.and_then(json::text).unwrap_or_default();
        let name = Some(self.hide(&name));
        // A type of the plugin RollUpReporting.
        let is_rollup = Some(answer.kind.and_then(json::text).is_some_and(|kind| kind == "rollup"));
        Ok(SiteInfo { name, zone, timezone: answer.timezone, is_rollup })
    }

    /// `Live.getLastVisitsDetails`: visits as the text of a JSON list, without their actions if
    /// those are not wanted.
    ///
    /// # Errors
    /// [`Error::Request`].
    pub fn visits(
        &self,
        site: i32,
        which: Which,
        actions: bool,
        on_retry: OnRetry,
    ) -> Result<Body> {
        let mut params = vec![("filter_sort_order", "asc".to_owned())];
        let (day, limit) = match which {
            Which::Day(day, page) => {
                // A range of one day, as period=day of today also returns yesterday.
                params.extend([("period", "range".to_owned()), ("date", format!("{day},{day}"))]);
                params.push(("filter_offset", page.offset.to_string()));
                if let Some(after) = page.after {
                    params.push(("minTimestamp", after.to_string()));
                }
                (Some(day), page.limit)
            }
            Which::Ids(ids) => {
                let segment: Vec<_> = ids.iter().map(|id| format!("visitId=={id}")).collect();
                params.push(("segment", segment.join(",")));
                (None, u32::try_from(ids.len()).unwrap_or(u32::MAX))
            }
        };
        params.push(("filter_limit", limit.to_string()));
        if !actions {
            params.push(("doNotFetchActions", "1".to_owned()));
        }
        if let Some(language) = &self.manner.language {
            params.push(("language", language.clone()));
        }
        let call = self.call(LIVE, site, day);
        let body = self.ask(&call, &params, day.is_some() && limit > 1, on_retry)?;
        if !body.trim_start().starts_with('[') {
            let what = "an object where a list of visits belongs".to_owned();
            return Err(self.fault(&call, Fault::Unexpected(what)));
        }
        Ok(body)
    }

    /// Whether to ask for less after this failure.
    pub fn may_shrink(&self, error: &Error) -> bool {
        self.manner.max_retries > 0 && error.is_overload() && self.patience.allows(Duration::ZERO)
    }

    /// The error for an answer to `Live.getLastVisitsDetails` that the caller could not read.
    pub fn unexpected(&self, site: i32, day: Option<NaiveDate>, what: &str) -> Error {
        self.failed(site, day, Fault::Unexpected(self.hide(what)))
    }

    /// The error for an answer to `Live.getLastVisitsDetails` of which no use can be made.
    pub fn failed(&self, site: i32, day: Option<NaiveDate>, fault: Fault) -> Error {
        self.fault(&self.call(LIVE, site, day), fault)
    }

    /// Bytes that an answer may have, and the rows that are made of one visit.
    pub fn max_response_size(&self) -> u64 {
        self.manner.max_response_size
    }

    fn call(&self, method: &'static str, site: i32, day: Option<NaiveDate>) -> Call {
        Call { method, site, day, host: self.http.endpoint.host().to_owned(), status: None }
    }

    fn fault(&self, call: &Call, fault: Fault) -> Error {
        Error::Request { fault, call: call.clone() }
    }

    /// Asks until there is an answer or a failure that will not pass, or that a smaller request may
    /// avoid where there is one.
    fn ask(
        &self,
        call: &Call,
        params: &[(&'static str, String)],
        can_shrink: bool,
        on_retry: OnRetry,
    ) -> Result<Body> {
        let can_shrink = can_shrink && self.manner.max_retries > 0;
        let mut retry = 0;
        loop {
            let timeout = self.patience.timeout(self.manner.request_timeout, can_shrink);
            let besides = || self.patience.timeout(self.manner.request_timeout, false);
            let error = match understanding::ask(&self.http, call, params, timeout, &besides) {
                Err(error) if can_shrink && self.may_shrink(&error) => {
                    self.stop.sleep(RESPITE);
                    return Err(error);
                }
                Err(error) if error.is_transient() && retry < self.manner.max_retries => error,
                Err(error) => return Err(error),
                Ok(body) => {
                    self.patience.renew();
                    return Ok(body);
                }
            };
            retry += 1;
            let wait = backoff(retry, &error);
            if self.stop.is_set() || !self.patience.allows(wait) {
                return Err(error);
            }
            on_retry(&error, retry, wait);
            if self.stop.sleep(wait) {
                return Err(error);
            }
        }
    }

    fn hide(&self, words: &str) -> String {
        self.http.token.hide_in(words)
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
