//! The settings `matomo.*`.

use std::ffi::CString;
use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum, pg_sys};

use crate::config::open_days;
use crate::config::options::{CONNECT_TIMEOUTS, Options, PAGE_SIZES, REQUEST_TIMEOUTS, WORKERS};
use crate::config::worker;
use crate::error::{Error, Result};
use crate::matomo::http::certificates;
use crate::matomo::http::hosts::AllowedHosts;
use crate::matomo::http::http_settings::HttpSettings;
use crate::rows::columns::TableKind;
use crate::rows::site_context::ActionTime;

/// `matomo.action_time`.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum ActionTimeSetting {
    #[name = c"utc"]
    Utc,
    #[name = c"as_sent"]
    AsSent,
}

static PAGE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(500);
static INITIAL_OFFSET: GucSetting<i32> = GucSetting::<i32>::new(3);
/// Measured (tests/bench/RESULTS.md): two halve the time spent waiting for Matomo, and cost nothing
/// if there is no wait. Not every Matomo can serve more.
static FETCH_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(2);
static STEP_PAGES: GucSetting<i32> = GucSetting::<i32>::new(20);
static KEEP_RUNS: GucSetting<i32> = GucSetting::<i32>::new(1000);
static LOOKBACK: GucSetting<i32> = GucSetting::<i32>::new(0);
static SETTLE_TIME: GucSetting<i32> = GucSetting::<i32>::new(3 * 3600);
static DESTINATION: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"matomo"));
static CONNECT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(10);
static REQUEST_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(120);
static MAX_RETRIES: GucSetting<i32> = GucSetting::<i32>::new(3);
static MAX_RESPONSE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(16 * 1024);
static LANGUAGE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static CA_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ALLOWED_HOSTS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"*"));
static ALLOW_HTTP: GucSetting<bool> = GucSetting::<bool>::new(false);
static COMPANIONS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"visits, conversions, items"));
static PREMAKE: GucSetting<i32> = GucSetting::<i32>::new(4);
static ACTION_TIME: GucSetting<ActionTimeSetting> =
    GucSetting::<ActionTimeSetting>::new(ActionTimeSetting::Utc);

/// Registers the settings. Called once, when the library is loaded.
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
    GucRegistry::define_string_guc(
        c"matomo.companions",
        c"Sets which tables are made with a destination: visits, conversions, items.",
        c"An empty string means none.",
        &COMPANIONS,
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.initial_offset",
        c"Sets how many days before today the first sync of a site starts without start_date.",
        c"",
        &INITIAL_OFFSET,
        0,
        36_500,
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
        c"matomo.step_pages",
        c"Sets the number of pages of a day after which a sync of a registered site commits.",
        c"",
        &STEP_PAGES,
        1,
        1_000_000,
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.keep_runs",
        c"Sets the number of runs kept in matomo_runs for each registered site.",
        c"All removed sites together keep the same number.",
        &KEEP_RUNS,
        1,
        i32::MAX,
        GucContext::Suset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.lookback",
        c"Sets the number of days before today that a sync reads again although they are sealed.",
        c"Finds changes that do not move a visit's last action: heartbeats, late hits, imports.",
        &LOOKBACK,
        0,
        36_500,
        GucContext::Userset,
        none,
    );
    open_days::register();
    GucRegistry::define_int_guc(
        c"matomo.settle_time",
        c"Sets the time after the end of a day before a sync can seal it.",
        c"",
        &SETTLE_TIME,
        0,
        30 * 86_400,
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_string_guc(
        c"matomo.destination",
        c"Sets the table that syncs write to by default.",
        c"",
        &DESTINATION,
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
    GucRegistry::define_string_guc(
        c"matomo.ca_file",
        c"Sets the file with trusted CA certificates (PEM).",
        c"An empty string means the system's certificate store.",
        &CA_FILE,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    // No check hook: for a refused value in postgresql.conf, Postgres would use the default, which
    // allows more. A sync refuses the value instead.
    GucRegistry::define_string_guc(
        c"matomo.allowed_hosts",
        c"Sets the hosts that syncs may connect to: names, *.suffix, addresses, CIDR blocks; * for any.",
        c"Link-local addresses and cloud metadata services are never allowed.",
        &ALLOWED_HOSTS,
        GucContext::Suset,
        GucFlags::from_bits_retain(pg_sys::GUC_LIST_INPUT as i32),
    );
    GucRegistry::define_bool_guc(
        c"matomo.allow_http",
        c"Allows http:// URLs of other machines.",
        c"The token is then sent unencrypted.",
        &ALLOW_HTTP,
        GucContext::Suset,
        none,
    );
    GucRegistry::define_enum_guc(
        c"matomo.action_time",
        c"Sets the time in action_timestamp: 'utc', the true instant, or 'as_sent', the site's wall clock.",
        c"'as_sent' matches tables that the Node tool filled.",
        &ACTION_TIME,
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.premake",
        c"Sets the number of weeks ahead for which partitions are created for registered sites.",
        c"",
        &PREMAKE,
        0,
        104,
        GucContext::Userset,
        none,
    );
    worker::register();
    // SAFETY: called from _PG_init on the main thread; the name is static.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"matomo".as_ptr()) };
}

/// Visits per page.
pub fn page_size() -> i32 {
    PAGE_SIZE.get()
}

/// Days before today at which a first sync starts.
pub fn initial_offset() -> u32 {
    INITIAL_OFFSET.get().unsigned_abs()
}

/// Days fetched at once.
pub fn fetch_workers() -> usize {
    FETCH_WORKERS.get().unsigned_abs() as usize
}

/// Pages of a day per step.
pub fn step_pages() -> i32 {
    STEP_PAGES.get()
}

/// Runs to keep per registered site.
pub fn keep_runs() -> i32 {
    KEEP_RUNS.get()
}

/// Days before today to read again.
pub fn lookback() -> u32 {
    LOOKBACK.get().unsigned_abs()
}

/// Seconds after a day's end before it can be sealed.
pub fn settle_time() -> i64 {
    SETTLE_TIME.get().into()
}

/// Name of the default destination.
pub fn destination() -> String {
    text(&DESTINATION).unwrap_or_else(|| "matomo".to_owned())
}

/// The tables that are made with a destination.
///
/// # Errors
/// [`Error::Argument`] if it names none.
pub fn companions() -> Result<Vec<TableKind>> {
    let text = text(&COMPANIONS).unwrap_or_default();
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let kind = |name: &str| {
        TableKind::companion(name).ok_or_else(|| Error::Argument {
            message: format!("matomo.companions has \"{name}\""),
            hint: "Give a list of visits, conversions and items, or an empty one.".to_owned(),
        })
    };
    let wanted = names.map(kind).collect::<Result<Vec<_>>>()?;
    Ok(TableKind::COMPANIONS.into_iter().filter(|kind| wanted.contains(kind)).collect())
}

/// Weeks ahead for which partitions are created.
pub fn premake() -> i32 {
    PREMAKE.get()
}

/// Maximum time for an answer, unless the server has an option for it.
pub fn request_timeout() -> Duration {
    Duration::from_secs(REQUEST_TIMEOUT.get().unsigned_abs().into())
}

/// The time in `action_timestamp`.
pub fn action_time() -> ActionTime {
    match ACTION_TIME.get() {
        ActionTimeSetting::Utc => ActionTime::Utc,
        ActionTimeSetting::AsSent => ActionTime::AsSent,
    }
}

/// The HTTP settings, with the options of a server.
///
/// # Errors
/// [`crate::error::Error::Argument`] if the CA file or the list of hosts is invalid.
pub fn http(own: &Options) -> Result<HttpSettings> {
    let seconds = |own: Option<u32>, setting: &GucSetting<i32>| {
        Duration::from_secs(own.unwrap_or(setting.get().unsigned_abs()).into())
    };
    let ca_file = own.ca_file.clone().or_else(|| text(&CA_FILE));
    Ok(HttpSettings {
        connect_timeout: seconds(own.connect_timeout, &CONNECT_TIMEOUT),
        request_timeout: seconds(own.timeout, &REQUEST_TIMEOUT),
        answer_timeout: None,
        max_retries: MAX_RETRIES.get().unsigned_abs(),
        max_response_size: u64::from(MAX_RESPONSE_SIZE.get().unsigned_abs()) * 1024,
        language: own.language.clone().or_else(|| text(&LANGUAGE)),
        ca_pem: ca_file.map(certificates::read).transpose()?,
        hosts: AllowedHosts::new(&text(&ALLOWED_HOSTS).unwrap_or_default(), ALLOW_HTTP.get())?,
    })
}

fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    let text = setting.get()?.to_string_lossy().into_owned();
    (!text.is_empty()).then_some(text)
}
