//! The settings `matomo.*`. Those of requests, hosts, open days and the worker stand in files of their own.

use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum, pg_sys};

use crate::config::text_setting::text;
use crate::config::{hosts, open_days, requests, worker};
use crate::error::{Error, Result};
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

static INITIAL_OFFSET: GucSetting<i32> = GucSetting::<i32>::new(3);
static STEP_PAGES: GucSetting<i32> = GucSetting::<i32>::new(20);
static KEEP_RUNS: GucSetting<i32> = GucSetting::<i32>::new(1000);
static LOOKBACK: GucSetting<i32> = GucSetting::<i32>::new(0);
static SETTLE_TIME: GucSetting<i32> = GucSetting::<i32>::new(3 * 3600);
static DESTINATION: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"matomo"));
static COMPANIONS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"visits, conversions, items"));
static PREMAKE: GucSetting<i32> = GucSetting::<i32>::new(4);
static ACTION_TIME: GucSetting<ActionTimeSetting> =
    GucSetting::<ActionTimeSetting>::new(ActionTimeSetting::Utc);

/// Registers the settings. Called once, when the library is loaded.
pub fn register() {
    requests::register();
    hosts::register();
    open_days::register();
    worker::register();
    let none = GucFlags::default();
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
    // SAFETY: called from _PG_init on the main thread; the name is static.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"matomo".as_ptr()) };
}

/// Days before today at which a first sync starts.
pub fn initial_offset() -> u32 {
    INITIAL_OFFSET.get().unsigned_abs()
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

/// The time in `action_timestamp`.
pub fn action_time() -> ActionTime {
    match ACTION_TIME.get() {
        ActionTimeSetting::Utc => ActionTime::Utc,
        ActionTimeSetting::AsSent => ActionTime::AsSent,
    }
}
