//! Settings for polls and rechecks of open days.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// Covers a queue of tracking requests that is processed every minute or two.
static OVERLAP: GucSetting<i32> = GucSetting::<i32>::new(300);
static RECHECK: GucSetting<i32> = GucSetting::<i32>::new(3600);

/// Registers these settings.
pub fn register() {
    GucRegistry::define_int_guc(
        c"matomo.overlap",
        c"Sets how far before the newest copied visit a poll of an open day starts.",
        c"Finds visits that reach Matomo's database late, for example through a queue.",
        &OVERLAP,
        0,
        86_400,
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"matomo.recheck",
        c"Sets the time between two rechecks of an open day; 0 or less disables them.",
        c"A recheck lists all visits of the day without their actions, and fetches those that differ.",
        &RECHECK,
        -1,
        30 * 86_400,
        GucContext::Userset,
        GucFlags::UNIT_S,
    );
}

/// `matomo.overlap` in seconds.
pub fn overlap() -> i64 {
    OVERLAP.get().into()
}

/// `matomo.recheck` in seconds; `None` if disabled.
pub fn recheck() -> Option<i64> {
    Some(RECHECK.get().into()).filter(|seconds| *seconds > 0)
}
