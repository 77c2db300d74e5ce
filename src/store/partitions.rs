//! Creates the weekly partitions of a destination and its companions, as the tables' owner. SPI only.

use pgrx::datum::to_timestamp;
use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::extension::Extension;
use crate::pg::roles::{self, AsRestricted};
use crate::pg::spi::{one, query};
use crate::store::companions;
use crate::store::engine::hint::with_engine_hint_of;

/// The length of a partition, in seconds.
pub const WEEK: i64 = 7 * 86_400;

/// Creates the missing partitions between two instants. Returns the number of those of the destination.
///
/// # Errors
/// [`crate::error::SiteError::CompanionOwner`]; Postgres' own for a caller without the rights of the
/// table's owner, if a partition is missing.
pub fn create(
    destination: pg_sys::Oid,
    from: TimestampWithTimeZone,
    to: TimestampWithTimeZone,
) -> Result<i32> {
    let extension = Extension::find()?;
    let companions = companions::of(&extension, destination)?;
    let created = create_in(&extension, destination, from, to)?;
    // They have the same weeks.
    for (_, companion) in companions {
        create_in(&extension, companion, from, to)?;
    }
    Ok(created)
}

fn create_in(
    extension: &Extension,
    table: pg_sys::Oid,
    from: TimestampWithTimeZone,
    to: TimestampWithTimeZone,
) -> Result<i32> {
    // The owner's functions may be in expressions of its indexes and constraints, which are evaluated for
    // each new partition.
    let _owner = roles::lock_as_owner(table).map(AsRestricted::switch_to);
    let sql =
        format!("SELECT {}.matomo_create_weeks($1::pg_catalog.regclass, $2, $3)", extension.schema);
    with_engine_hint_of(table, || {
        Spi::connect_mut(|client| {
            let args = [table.into(), from.into(), to.into()];
            Ok(one(query(client, &sql, &args)?)?.unwrap_or(0))
        })
    })
}

/// The same between two instants in Unix seconds.
///
/// # Errors
/// Those of [`create`].
pub fn create_between(destination: pg_sys::Oid, (from, to): (i64, i64)) -> Result<i32> {
    create(destination, to_timestamp(from as f64), to_timestamp(to as f64))
}
