//! Settings for the requests to Matomo.

use std::ffi::CString;
use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::config::hosts;
use crate::config::options::{CONNECT_TIMEOUTS, Options, PAGE_SIZES, REQUEST_TIMEOUTS, WORKERS};
use crate::config::text_setting::text;
use crate::error::Result;
use crate::matomo::http::certificates;
use crate::matomo::http::http_settings::HttpSettings;

static PAGE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(500);
/// Measured (tests/bench/RESULTS.md): two halve the time spent waiting for Matomo, and cost nothing
/// if there is no wait. Not every Matomo can serve more.
static FETCH_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(2);
static CONNECT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(10);
static REQUEST_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(120);
static MAX_RETRIES: GucSetting<i32> = GucSetting::<i32>::new(3);
static MAX_RESPONSE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(16 * 1024);
static LANGUAGE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Registers these settings.
pub fn register() {
    let none = GucFlags::default();
    GucRegistry::define_int_guc(
        c"matomo.page_size",
        c"Sets the number of visits per request to Matomo.",
        c"A larger page means fewer requests; 3,000 visits exhaust a PHP memory limit of 128 MB.",
        &PAGE_SIZE,
        *PAGE_SIZES.start(),
        *PAGE_SIZES.end(),
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.fetch_workers",
        c"Sets the maximum number of concurrent requests of a sync.",
        c"Each request fetches another day.",
        &FETCH_WORKERS,
        *WORKERS.start(),
        *WORKERS.end(),
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.connect_timeout",
        c"Sets the maximum time to connect to Matomo.",
        c"",
        &CONNECT_TIMEOUT,
        *CONNECT_TIMEOUTS.start(),
        *CONNECT_TIMEOUTS.end(),
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"matomo.request_timeout",
        c"Sets the maximum time for a complete answer from Matomo.",
        c"",
        &REQUEST_TIMEOUT,
        *REQUEST_TIMEOUTS.start(),
        *REQUEST_TIMEOUTS.end(),
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"matomo.max_retries",
        c"Sets the maximum number of retries of a request after a transient failure.",
        c"",
        &MAX_RETRIES,
        0,
        100,
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.max_response_size",
        c"Sets the maximum size of an answer from Matomo, after decompression.",
        c"The rows of one visit may not be larger either.",
        &MAX_RESPONSE_SIZE,
        1,
        1024 * 1024,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_string_guc(
        c"matomo.language",
        c"Sets the language of names such as countries, for example 'fr'.",
        c"An empty string means the language of the token's user.",
        &LANGUAGE,
        GucContext::Userset,
        none,
    );
}

/// Visits per page.
pub fn page_size() -> i32 {
    PAGE_SIZE.get()
}

/// Days fetched at once.
pub fn fetch_workers() -> usize {
    FETCH_WORKERS.get().unsigned_abs() as usize
}

/// Maximum time for an answer, unless the server has an option for it.
pub fn request_timeout() -> Duration {
    Duration::from_secs(REQUEST_TIMEOUT.get().unsigned_abs().into())
}

/// The HTTP settings, with the options of a server.
///
/// # Errors
/// [`crate::error::Error::Argument`] if the CA file or the list of hosts is invalid.
pub fn http(own: &Options) -> Result<HttpSettings> {
    let seconds = |own: Option<u32>, setting: &GucSetting<i32>| {
        Duration::from_secs(own.unwrap_or(setting.get().unsigned_abs()).into())
    };
    let ca_file = own.ca_file.clone().or_else(hosts::ca_file);
    Ok(HttpSettings {
        connect_timeout: seconds(own.connect_timeout, &CONNECT_TIMEOUT),
        request_timeout: seconds(own.timeout, &REQUEST_TIMEOUT),
        answer_timeout: None,
        max_retries: MAX_RETRIES.get().unsigned_abs(),
        max_response_size: u64::from(MAX_RESPONSE_SIZE.get().unsigned_abs()) * 1024,
        language: own.language.clone().or_else(|| text(&LANGUAGE)),
        ca_pem: ca_file.map(certificates::read).transpose()?,
        hosts: hosts::allowed()?,
    })
}
