//! Settings of the background worker.

use std::ffi::CString;
use std::time::Duration;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::config::databases;

static DATABASE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(60);
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(2);

/// Hint if there is no slot for another background process.
pub const MORE_PROCESSES: &str = "Increase max_worker_processes: the launcher needs one, and each database \
    of matomo.database 1 + matomo.max_workers.";

/// Registers these settings. Called once, when the library is loaded.
pub fn register() {
    let none = GucFlags::default();
    GucRegistry::define_string_guc(
        c"matomo.database",
        c"Sets the databases in which the background worker syncs registered sites.",
        c"A comma-separated list. Requires the library in shared_preload_libraries.",
        &DATABASE,
        GucContext::Sighup,
        none,
    );
    GucRegistry::define_int_guc(
        c"matomo.naptime",
        c"Sets the maximum time between two checks of the background worker for due sites.",
        c"",
        &NAPTIME,
        1,
        86_400,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"matomo.max_workers",
        c"Sets the maximum number of sites that the background worker syncs at once in each database.",
        c"Each site has its own process, which counts towards max_worker_processes.",
        &MAX_WORKERS,
        1,
        1000,
        GucContext::Sighup,
        none,
    );
}

/// Names of the databases with a coordinator.
pub fn databases() -> Vec<String> {
    let list = DATABASE.get().map(|list| list.to_string_lossy().into_owned());
    databases::parse(&list.unwrap_or_default())
}

/// Maximum time between two checks for due sites.
pub fn naptime() -> Duration {
    Duration::from_secs(NAPTIME.get().unsigned_abs().into())
}

/// Maximum number of sites synced at once in each database.
pub fn max_workers() -> usize {
    MAX_WORKERS.get().unsigned_abs() as usize
}
