//! The client of Matomo's HTTP API, with retries. No Postgres.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::NaiveDate;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Call, Error, Fault, Result};
use crate::matomo::backoff::backoff;
use crate::matomo::classify;
use crate::matomo::diagnosis::{self, english};
use crate::matomo::http::deadline::Deadline;
use crate::matomo::http::endpoint::Endpoint;
use crate::matomo::http::http_client::HttpClient;
use crate::matomo::http::http_settings::HttpSettings;
use crate::matomo::http::stop::Stop;
use crate::matomo::http::token::Token;
use crate::matomo::json;
use crate::matomo::memory::Body;
use crate::matomo::pager::PageRequest;
use crate::matomo::zone::Zone;

/// Pause before a smaller request to an overloaded Matomo.
const PAUSE_BEFORE_SMALLER_PAGE: Duration = Duration::from_millis(200);

const LIVE: &str = "Live.getLastVisitsDetails";

/// The `type` of a site that has the visits of others, from the plugin RollUpReporting.
pub const ROLLUP: &str = "rollup";

/// The answer of `SitesManager.getSiteFromId`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteInfo {
    /// Its name in Matomo, if requested.
    pub name: Option<String>,
    pub zone: Zone,
    /// The zone's name, as Matomo has it.
    pub timezone: String,
    /// Whether it is a roll-up of other sites, if requested.
    pub is_rollup: Option<bool>,
}

impl SiteInfo {
    /// A site of which only the timezone is known, from an earlier answer; `None` if no zone has that name.
    pub fn of_timezone(timezone: &str) -> Option<SiteInfo> {
        let zone = Zone::parse(timezone)?;
        Some(SiteInfo { name: None, zone, timezone: timezone.to_owned(), is_rollup: None })
    }
}

/// The visits to request.
#[derive(Debug, Clone, Copy)]
pub enum VisitSelection<'a> {
    /// A page of the visits whose last action is on a site-day.
    Day(NaiveDate, PageRequest),
    /// The visits with these IDs, of any day.
    Ids(&'a [i64]),
}

/// Called before a retry, with the error, the number of the retry, and the wait.
pub type OnRetry<'a> = &'a mut dyn FnMut(&Error, u32, Duration);

/// A client for one Matomo and one token. It reuses connections, which it shares with its clones
/// only.
#[derive(Clone)]
pub struct Client {
    http: HttpClient,
    settings: HttpSettings,
    deadline: Deadline,
    stop: Stop,
    /// Timezones of all sites that the token may see, once they are asked for.
    pub(super) zones: Arc<Mutex<HashMap<i32, Zone>>>,
}

impl Client {
    /// Creates a client without connecting.
    ///
    /// # Errors
    /// [`Error::Argument`] when the CA file holds no certificate.
    pub fn new(
        endpoint: Endpoint,
        token: Token,
        settings: HttpSettings,
        stop: Stop,
    ) -> Result<Client> {
        let deadline = Deadline::new(settings.answer_timeout);
        let http = HttpClient::new(endpoint, token, &settings, stop.clone())?;
        Ok(Client { http, settings, deadline, stop, zones: Arc::default() })
    }

    /// The same client, with the request timeout as its answer timeout.
    pub fn with_answer_timeout(self) -> Client {
        self.with_answer_timeout_below(Duration::MAX)
    }

    /// The same, or with a shorter one.
    pub fn with_answer_timeout_below(mut self, most: Duration) -> Client {
        self.settings.answer_timeout = Some(self.settings.request_timeout.min(most));
        self.deadline = Deadline::new(self.settings.answer_timeout);
        self
    }

    /// The Matomo that it talks to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.http.endpoint
    }

    /// Bytes of all answers so far, after decompression.
    pub fn received(&self) -> u64 {
        self.http.received()
    }

    /// Aborts all requests, from any thread. Returns when that was first done. The client is
    /// unusable afterwards.
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
            let zone = classify::excerpt(&self.hide(&answer.timezone));
            self.fault(&call, Fault::Unexpected(format!("timezone \"{zone}\"")))
        })?;
        // A name of digits may come as a number.
        let name = answer.name.and_then(json::text).unwrap_or_default();
        let name = Some(self.hide(&name));
        let is_rollup = Some(answer.kind.and_then(json::text).is_some_and(|kind| kind == ROLLUP));
        Ok(SiteInfo { name, zone, timezone: answer.timezone, is_rollup })
    }

    /// `Live.getLastVisitsDetails`: the text of a JSON list of visits, with or without their
    /// actions.
    ///
    /// # Errors
    /// [`Error::Request`].
    pub fn visits(
        &self,
        site: i32,
        which: VisitSelection,
        actions: bool,
        on_retry: OnRetry,
    ) -> Result<Body> {
        let mut params = vec![("filter_sort_order", "asc".to_owned())];
        let (day, limit) = match which {
            VisitSelection::Day(day, page) => {
                // A range of one day, as period=day also returns yesterday's visits when it is
                // today.
                params.extend([("period", "range".to_owned()), ("date", format!("{day},{day}"))]);
                params.push(("filter_offset", page.offset.to_string()));
                if let Some(after) = page.after {
                    params.push(("minTimestamp", after.to_string()));
                }
                (Some(day), page.limit)
            }
            VisitSelection::Ids(ids) => {
                let segment: Vec<_> = ids.iter().map(|id| format!("visitId=={id}")).collect();
                params.push(("segment", segment.join(",")));
                (None, u32::try_from(ids.len()).unwrap_or(u32::MAX))
            }
        };
        params.push(("filter_limit", limit.to_string()));
        if !actions {
            params.push(("doNotFetchActions", "1".to_owned()));
        }
        if let Some(language) = &self.settings.language {
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

    /// The answer of a method about the configuration of a site, or of no site (0), in English and
    /// with all entries of a list.
    ///
    /// # Errors
    /// [`Error::Request`].
    pub fn configuration(
        &self,
        method: &'static str,
        site: i32,
        on_retry: OnRetry,
    ) -> Result<String> {
        let params = [english(), ("filter_limit", "-1".to_owned())];
        let body = self.ask(&self.call(method, site, None), &params, false, on_retry)?;
        Ok(self.hide(&body))
    }

    /// The error for an answer to [`Client::configuration`] that the caller could not parse.
    pub fn unexpected_configuration(&self, method: &'static str, site: i32, what: String) -> Error {
        self.fault(&self.call(method, site, None), Fault::Unexpected(what))
    }

    /// Whether to request a smaller page after this failure.
    pub fn may_shrink(&self, error: &Error) -> bool {
        self.settings.max_retries > 0 && error.is_overload() && self.deadline.allows(Duration::ZERO)
    }

    /// The error for visits that the caller could not parse.
    pub fn unexpected(&self, site: i32, day: Option<NaiveDate>, what: &str) -> Error {
        self.failed(site, day, Fault::Unexpected(self.hide(what)))
    }

    /// The error for unusable visits.
    pub fn failed(&self, site: i32, day: Option<NaiveDate>, fault: Fault) -> Error {
        self.fault(&self.call(LIVE, site, day), fault)
    }

    /// Maximum bytes of an answer, and of the rows of one visit.
    pub fn max_response_size(&self) -> u64 {
        self.settings.max_response_size
    }

    fn call(&self, method: &'static str, site: i32, day: Option<NaiveDate>) -> Call {
        Call { method, site, day, host: self.http.endpoint.host().to_owned(), status: None }
    }

    fn fault(&self, call: &Call, fault: Fault) -> Error {
        Error::Request { fault, call: call.clone() }
    }

    /// Sends a request, with retries, until there is an answer, a permanent failure, or a failure
    /// that a smaller request may avoid.
    fn ask(
        &self,
        call: &Call,
        params: &[(&'static str, String)],
        can_shrink: bool,
        on_retry: OnRetry,
    ) -> Result<Body> {
        let can_shrink = can_shrink && self.settings.max_retries > 0;
        let mut retry = 0;
        loop {
            let timeout = self.deadline.timeout(self.settings.request_timeout, can_shrink);
            let follow_up_timeout = || self.deadline.timeout(self.settings.request_timeout, false);
            let error = match diagnosis::ask(&self.http, call, params, timeout, &follow_up_timeout)
            {
                Err(error) if can_shrink && self.may_shrink(&error) => {
                    self.stop.sleep(PAUSE_BEFORE_SMALLER_PAGE);
                    return Err(error);
                }
                Err(error) if error.is_transient() && retry < self.settings.max_retries => error,
                Err(error) => return Err(error),
                Ok(body) => {
                    self.deadline.renew();
                    return Ok(body);
                }
            };
            retry += 1;
            let wait = backoff(retry, &error);
            if self.stop.is_set() || !self.deadline.allows(wait) {
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
