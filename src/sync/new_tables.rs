//! Creates destinations and their companions. SPI only.

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::config::settings;
use crate::error::{Error, Result};
use crate::pg::extension::Extension;
use crate::pg::locks::{self, Lock, Mode};
use crate::pg::spi::{one, query};
use crate::state::snapshot::check_sees_days;
use crate::state::table::Table;
use crate::state::{adoption, ledger};
use crate::store::companions;
use crate::store::destination::Destination;
use crate::store::destination::row_locks::lock_all_rows;
use crate::store::relation::find;

/// Tables that the first sync creates: the Node tool's standard and partitioned table.
const STANDARD: &str = "matomo";
const STANDARD_PARTITIONED: &str = "matomo_partitioned";

/// Finds a table by the caller's search_path, creates it if it is a standard one, and checks that a sync
/// can write to it.
///
/// # Errors
/// Those of [`Destination::open_or_create`]; Postgres' own for a schema in which the caller may not create.
pub fn open_or_create(name: &str) -> Result<Destination> {
    Destination::open_or_create(name, create_standard)
}

fn create_standard(
    client: &mut SpiClient,
    name: &str,
    extension_schema: &str,
) -> Result<pg_sys::Oid> {
    let sql =
        "SELECT (pg_catalog.parse_ident($1))[pg_catalog.cardinality(pg_catalog.parse_ident($1))]";
    let table: Option<String> = one(query(client, sql, &[name.into()])?)?;
    let partitioned = match table.as_deref() {
        Some(STANDARD) => false,
        Some(STANDARD_PARTITIONED) => true,
        _ => return Err(Error::NoDestination(name.to_owned())),
    };
    // Two first syncs at once: the second waits, then finds what the first has made.
    let sql = "SELECT (SELECT n.oid FROM pg_catalog.pg_namespace n \
                   WHERE n.nspname OPERATOR(pg_catalog.=) pg_catalog.current_schema())";
    let schema: Option<pg_sys::Oid> = one(query(client, sql, &[])?)?;
    let lock = Lock::Creation(schema.unwrap_or(pg_sys::Oid::INVALID), locks::hash(name));
    locks::wait_for(lock, Mode::AccessExclusive);
    // Unlike a table lock, this lock does not process invalidations.
    // SAFETY: main thread, within a transaction.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    if let Some(oid) = find(name, true) {
        return Ok(oid);
    }
    // All arguments are given, as another schema's function could match with fewer.
    let sql = format!(
        "SELECT {extension_schema}.matomo_create_table($1, $2, pg_catalog.current_schema(), 'typed'::pg_catalog.text)::pg_catalog.oid"
    );
    let oid = one(query(client, &sql, &[name.into(), partitioned.into()])?)?;
    oid.ok_or_else(|| Error::NoDestination(name.to_owned()))
}

/// Creates the companions of a destination that `matomo.companions` names and it does not have. Returns
/// them.
///
/// # Errors
/// Those of a caller who is not the owner, and of [`companions::create`].
pub fn create_companions(destination: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
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
