//! SQL function for the partitions of a destination.

use pgrx::prelude::*;

use crate::pg::ereport::or_raise;
use crate::store::partitions;

/// Creates the missing weekly partitions of a destination and its companions.
#[pg_extern(
    volatile,
    parallel_unsafe,
    sql = "CREATE FUNCTION matomo_create_partitions(destination regclass, from_time timestamptz, to_time timestamptz) RETURNS integer
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn matomo_create_partitions_0_2_reconnect(
    destination: Option<pg_sys::Oid>,
    from_time: Option<TimestampWithTimeZone>,
    to_time: Option<TimestampWithTimeZone>,
) -> i32 {
    match (destination, from_time, to_time) {
        (Some(destination), Some(from), Some(to)) => {
            or_raise(partitions::create(destination, from, to))
        }
        _ => 0,
    }
}
