//! SQL functions for the tables of visits, conversions and items beside a destination.

use pgrx::prelude::*;

use crate::config::settings;
use crate::error::{Error, Result};
use crate::pg::ereport::or_raise;
use crate::pg::extension::Extension;
use crate::state::snapshot::check_sees_days;
use crate::state::table::Table;
use crate::state::{adoption, ledger};
use crate::store::companions;
use crate::store::destination::row_locks::lock_all_rows;

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
    SetOfIterator::new(or_raise(create(destination)))
}

fn create(destination: Option<pg_sys::Oid>) -> Result<Vec<pg_sys::Oid>> {
    let destination = destination.ok_or(Error::Null("destination"))?;
    let wanted = settings::companions()?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let extension = Extension::find()?;
    if let Some(table) = Table::find(destination)? {
        // Before the lock, which keeps others' syncs from the table.
        table.check_owner()?;
        // A sync that began without them would seal days that they lack.
        lock_all_rows(destination, &table.name)?;
        check_sees_days(&extension, destination, &table.name)?;
    }
    let (made, former) = companions::create(&extension, destination, &wanted)?;
    adoption::inherit(&extension, destination, former)?;
    if !made.is_empty() {
        // Of days that were copied without them, too.
        ledger::reread_all(&extension, destination)?;
    }
    Ok(made)
}
