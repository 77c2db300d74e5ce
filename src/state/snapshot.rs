//! Checks that a transaction is not older than what the ledger says. SPI only.

use pgrx::pg_sys;

use crate::error::{Error, Result};
use crate::pg::extension::Extension;
use crate::pg::spi::{one, query, read_now, sees_commits};

/// Checks that the transaction sees all that the ledger has of a destination of this name.
///
/// # Errors
/// [`Error::TooNew`].
pub fn check_sees_days(extension: &Extension, destination: pg_sys::Oid, name: &str) -> Result<()> {
    if sees_commits() {
        return Ok(());
    }
    let sql = format!(
        "SELECT count(*) || ' ' || sum(hashtext(concat(l.ctid, l.xmin))) FROM {}.matomo_ledger l \
         WHERE l.destination = $1",
        extension.schema
    );
    let (seen, there) = extension.run(|client| {
        let args = [destination.into()];
        let seen: Option<String> = one(query(client, &sql, &args)?)?;
        Ok((seen, one(read_now(client, &sql, &args)?)?))
    })?;
    match seen == there {
        true => Ok(()),
        false => Err(Error::TooNew(format!("a day of table {name}"))),
    }
}
