//! The settings by which open days are kept exact.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// As long as a queue of tracking requests that is worked off every minute or two may well take.
static OVERLAP: GucSetting<i32> = GucSetting::<i32>::new(300);
static RECHECK: GucSetting<i32> = GucSetting::<i32>::new(3600);

/// Makes them known to Postgres.
pub fn register() {
    GucRegistry::define_int_guc(
        c"matomo.overlap",
        c"Time before the newest visit copied from which on a poll of an open day reads again.",
        c"For visits that reach Matomo's database later than newer ones, as by a queue.",
        &OVERLAP,
        0,
        86_400,
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"matomo.recheck",
        c"Time between two rechecks of an open day; 0 or less: never.",
        c"A recheck lists all visits of the day without their actions, and fetches those that differ.",
        &RECHECK,
        -1,
        30 * 86_400,
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
}

/// Seconds before the newest visit copied.
pub fn overlap() -> i64 {
    OVERLAP.get().into()
}

/// Seconds between two rechecks of an open day; `None`: never.
pub fn recheck() -> Option<i64> {
    Some(RECHECK.get().into()).filter(|seconds| *seconds > 0)
}
