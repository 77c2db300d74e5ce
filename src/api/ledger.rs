//! SQL functions for the ledger.

use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::matomo::http::endpoint::Endpoint;
use crate::pg::ereport::or_raise;
use crate::pg::spi::refuse_read_only;
use crate::state::change_url;
use crate::store::destination::Destination;

/// Moves a destination's ledger entries to a Matomo's new URL. Returns the number of site-days
/// moved.
#[pg_extern(
    volatile,
    parallel_unsafe,
    sql = "CREATE FUNCTION matomo_change_url(destination regclass, old_url text, new_url text) RETURNS bigint
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';"
)]
fn matomo_change_url_0_2_reconnect(
    destination: Option<pg_sys::Oid>,
    old_url: Option<&str>,
    new_url: Option<&str>,
) -> i64 {
    refuse_read_only(c"matomo_change_url()");
    or_raise(change_url(destination, old_url, new_url))
}

fn change_url(
    destination: Option<pg_sys::Oid>,
    old_url: Option<&str>,
    new_url: Option<&str>,
) -> Result<i64> {
    let oid = destination.ok_or(Error::Null("destination"))?;
    let old = Endpoint::parse(old_url.ok_or(Error::Null("old_url"))?)?;
    let new = Endpoint::parse(new_url.ok_or(Error::Null("new_url"))?)?;
    let gone = || Error::NoDestination(oid.to_u32().to_string());
    let destination = Destination::open_known(oid)?.ok_or_else(gone)?;
    let moved = change_url::change_url(&destination, &old, &new)?;
    if moved == 0 && old == new {
        return Err(Error::Argument {
            message: format!("old_url and new_url are the same Matomo, {}", old.url()),
            hint: String::new(),
        });
    }
    Ok(moved)
}
