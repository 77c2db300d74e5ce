//! The settings of the background worker.

use std::ffi::CString;
use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::config::databases;

static DATABASE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(60);
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(2);

/// What to do when there is no room for another process.
pub const MORE_PROCESSES: &str = "Increase max_worker_processes: the launcher needs one, and each database \
    of matomo.database 1 + matomo.max_workers.";

/// Makes them known to Postgres. Called once, when the library is loaded.
pub fn register() {
    let none = GucFlags::default();
    GucRegistry::define_string_guc(
        c"matomo.database",
        c"Databases in which a background worker syncs the registered sites.",
        c"A list. The library must be in shared_preload_libraries.",
        &DATABASE,
        GucContext::Sighup,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.naptime",
        c"Longest time between two looks of the background worker for sites that are due.",
        c"",
        &NAPTIME,
        1,
        86_400,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"matomo.max_workers",
        c"Sites that the background worker syncs at the same time, in each database.",
        c"Each has a process of its own, of max_worker_processes.",
        &MAX_WORKERS,
        1,
        1000,
        GucContext::Sighup,
        none,
    );
}

/// Databases with a coordinator.
pub fn databases() -> Vec<String> {
    let list = DATABASE.get().map(|list| list.to_string_lossy().into_owned());
    databases::parse(&list.unwrap_or_default())
}

/// Between two looks for sites that are due.
pub fn naptime() -> Duration {
    Duration::from_secs(NAPTIME.get().unsigned_abs().into())
}

/// Sites at the same time.
pub fn max_workers() -> usize {
    MAX_WORKERS.get().unsigned_abs() as usize
}
