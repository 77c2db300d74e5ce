//! The settings, `matomo.*`, and a snapshot of them for one sync.

use std::ffi::CString;
use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum, pg_sys};

use crate::config::open_days;
use crate::config::options::{CONNECT_TIMEOUTS, Options, PAGE_SIZES, REQUEST_TIMEOUTS, WORKERS};
use crate::config::worker;
use crate::error::Result;
use crate::matomo::http::certificates;
use crate::matomo::http::hosts::AllowedHosts;
use crate::matomo::http::http_settings::HttpSettings;
use crate::rows::mapping;

/// `matomo.action_time`.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum ActionTime {
    #[name = c"utc"]
    Utc,
    #[name = c"as_sent"]
    AsSent,
}

static PAGE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(500);
static INITIAL_OFFSET: GucSetting<i32> = GucSetting::<i32>::new(3);
/// Measured (tests/bench/RESULTS.md): two halve the time that is spent on waiting and cost nothing where
/// there is none; more than that is for a Matomo that can bear it.
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
static PREMAKE: GucSetting<i32> = GucSetting::<i32>::new(4);
static ACTION_TIME: GucSetting<ActionTime> = GucSetting::<ActionTime>::new(ActionTime::Utc);

/// Makes the settings known to Postgres. Called once, when the library is loaded.
pub fn register() {
    let none = GucFlags::default();
    GucRegistry::define_int_guc(
        c"matomo.page_size",
        c"Visits to ask Matomo for in one request.",
        c"More makes fewer requests, and larger ones; 3,000 exhaust a PHP with 128 MB.",
        &PAGE_SIZE,
        *PAGE_SIZES.start(),
        *PAGE_SIZES.end(),
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.initial_offset",
        c"Days before today at which the first sync of a site begins without start_date.",
        c"",
        &INITIAL_OFFSET,
        0,
        36_500,
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.fetch_workers",
        c"Days to ask Matomo for at once.",
        c"Matomo gets so many requests at once at the most.",
        &FETCH_WORKERS,
        *WORKERS.start(),
        *WORKERS.end(),
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.step_pages",
        c"Pages of a day after which a sync of a registered site commits.",
        c"",
        &STEP_PAGES,
        1,
        1_000_000,
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.keep_runs",
        c"Runs of each registered site to keep in matomo_runs; the oldest go.",
        c"Of sites that were removed, so many all together.",
        &KEEP_RUNS,
        1,
        i32::MAX,
        GucContext::Suset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.lookback",
        c"Days before today that a sync reads again although they are sealed.",
        c"For what does not move a visit's last action: heartbeats, late hits, imports.",
        &LOOKBACK,
        0,
        36_500,
        GucContext::Userset,
        none,
    );
    open_days::register();
    GucRegistry::define_int_guc(
        c"matomo.settle_time",
        c"Time after a day's end from which on a reading of it seals it.",
        c"",
        &SETTLE_TIME,
        0,
        30 * 86_400,
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_string_guc(
        c"matomo.destination",
        c"Table that syncs write to unless they name one.",
        c"",
        &DESTINATION,
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.connect_timeout",
        c"Time to connect to Matomo within.",
        c"",
        &CONNECT_TIMEOUT,
        *CONNECT_TIMEOUTS.start(),
        *CONNECT_TIMEOUTS.end(),
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"matomo.request_timeout",
        c"Time within which Matomo must have answered a request whole.",
        c"",
        &REQUEST_TIMEOUT,
        *REQUEST_TIMEOUTS.start(),
        *REQUEST_TIMEOUTS.end(),
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"matomo.max_retries",
        c"How often a request that failed in passing is asked again.",
        c"",
        &MAX_RETRIES,
        0,
        100,
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.max_response_size",
        c"Largest answer of Matomo to accept, after decompression, and most that the rows of one visit may take.",
        c"",
        &MAX_RESPONSE_SIZE,
        1,
        1024 * 1024,
        GucContext::Userset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_string_guc(
        c"matomo.language",
        c"Language of names such as countries, as in 'fr'; empty leaves it to the token's user.",
        c"",
        &LANGUAGE,
        GucContext::Userset,
        none,
    );
    GucRegistry::define_string_guc(
        c"matomo.ca_file",
        c"File with the certificates (PEM) of the CAs to trust; empty for the system's store.",
        c"Read by the server.",
        &CA_FILE,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    // No hook checks the list: Postgres would put the default, which allows more, in the place of a
    // value in postgresql.conf that is refused. A sync refuses it instead.
    GucRegistry::define_string_guc(
        c"matomo.allowed_hosts",
        c"AllowedHosts that syncs may connect to: names, *.suffix, addresses, CIDR blocks; * for any.",
        c"Link-local addresses and metadata services of clouds are never allowed.",
        &ALLOWED_HOSTS,
        GucContext::Suset,
        GucFlags::from_bits_retain(pg_sys::GUC_LIST_INPUT as i32),
    );
    GucRegistry::define_bool_guc(
        c"matomo.allow_http",
        c"Allows URLs that begin with http:// for other machines than this one.",
        c"Everybody on the way can read the token then.",
        &ALLOW_HTTP,
        GucContext::Suset,
        none,
    );
    GucRegistry::define_enum_guc(
        c"matomo.action_time",
        c"What action_timestamp holds: 'utc', the true instant, or 'as_sent', the site's wall clock.",
        c"'as_sent' keeps the values of the Node tool, for those who go on with its tables.",
        &ACTION_TIME,
        GucContext::Userset,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.premake",
        c"Weeks ahead for which a registered site's table has its partitions made.",
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

/// Visits a page.
pub fn page_size() -> i32 {
    PAGE_SIZE.get()
}

/// Days before today.
pub fn initial_offset() -> u32 {
    INITIAL_OFFSET.get().unsigned_abs()
}

/// Days to ask for at once.
pub fn fetch_workers() -> usize {
    FETCH_WORKERS.get().unsigned_abs() as usize
}

/// Pages of a day in a step of a run.
pub fn step_pages() -> i32 {
    STEP_PAGES.get()
}

/// Runs to keep.
pub fn keep_runs() -> i32 {
    KEEP_RUNS.get()
}

/// Days before today to read again.
pub fn lookback() -> u32 {
    LOOKBACK.get().unsigned_abs()
}

/// Seconds after a day's end.
pub fn settle_time() -> i64 {
    SETTLE_TIME.get().into()
}

/// The destination of syncs that name none.
pub fn destination() -> String {
    text(&DESTINATION).unwrap_or_else(|| "matomo".to_owned())
}

/// Weeks ahead.
pub fn premake() -> i32 {
    PREMAKE.get()
}

/// Time within which Matomo must have answered a request, where a server has no option for it.
pub fn request_timeout() -> Duration {
    Duration::from_secs(REQUEST_TIMEOUT.get().unsigned_abs().into())
}

/// What `action_timestamp` holds.
pub fn action_time() -> mapping::ActionTime {
    match ACTION_TIME.get() {
        ActionTime::Utc => mapping::ActionTime::Utc,
        ActionTime::AsSent => mapping::ActionTime::AsSent,
    }
}

/// How to ask Matomo, where a server has no options of its own for it.
///
/// # Errors
/// [`crate::error::Error::Argument`] when the CA file cannot be read, or the list of hosts.
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
