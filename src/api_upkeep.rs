//! The SQL surface of retention. Internal, but for the procedure that stands on it.

use pgrx::prelude::*;

use crate::error::Error;
use crate::report::or_raise;
use crate::retention;

/// Tells the ledger that rows of a destination before an instant, of one site or of all, are dropped
/// for their age. Called by `matomo_drop_step`. Gives how many days that concerns.
#[pg_extern(volatile, parallel_unsafe)]
fn matomo_seal_dropped(
    destination: Option<pg_sys::Oid>,
    before: Option<TimestampWithTimeZone>,
    site: Option<i32>,
) -> i64 {
    or_raise((|| {
        let destination = destination.ok_or(Error::Null("destination"))?;
        let before = i64::from(before.ok_or(Error::Null("before"))?);
        // From microseconds since 2000.
        let before = before.div_euclid(1_000_000).saturating_add(946_684_800);
        retention::seal_dropped(destination, before, site)
    })())
}
