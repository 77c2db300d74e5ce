//! SQL functions for the tables of visits, conversions and items beside a destination.

use pgrx::prelude::*;

use crate::error::Error;
use crate::pg::ereport::or_raise;
use crate::sync::new_tables::create_companions;

/// Makes the companions of a destination that `matomo.companions` names and it does not have. Returns
/// them.
#[pg_extern(
    volatile,
    parallel_unsafe,
    sql = "CREATE FUNCTION matomo_create_companions(destination regclass) RETURNS SETOF regclass
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn matomo_create_companions_0_2_reconnect(
    destination: Option<pg_sys::Oid>,
) -> SetOfIterator<'static, pg_sys::Oid> {
    let destination = destination.ok_or(Error::Null("destination"));
    SetOfIterator::new(or_raise(destination.and_then(create_companions)))
}
