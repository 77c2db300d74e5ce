//! A Matomo that has moved to another URL: what is known of it under the old one. SPI only.

use crate::error::Result;
use crate::matomo::http::endpoint::Endpoint;
use crate::pg::spi::{query, spi};
use crate::state::restored;
use crate::store::destination::Destination;

/// Gives the ledger's entries of a Matomo in a destination to its new URL; gives their number.
///
/// # Errors
/// [`crate::error::Error::AlreadyRunning`].
pub fn change_url(destination: &Destination, old: &Endpoint, new: &Endpoint) -> Result<i64> {
    restored::resolve(&destination.extension)?;
    let schema = &destination.extension.schema;
    let sites = format!(
        "SELECT DISTINCT idsite FROM {schema}.matomo_ledger WHERE destination = $1 AND matomo = $2 \
         ORDER BY 1"
    );
    let sites: Vec<i32> = destination.extension.run(|client| {
        let args = [destination.oid.into(), old.url().into()];
        let sites = query(client, &sites, &args)?.map(|row| row.get(1).map_err(spi));
        Ok(sites.collect::<Result<Vec<Option<i32>>>>()?.into_iter().flatten().collect())
    })?;
    // A sync would write what it knew before.
    for site in sites {
        destination.lock_rows(site)?;
    }
    // Tables that 0.1.0 has written may have days of both: the new entry counts.
    let both = format!(
        "DELETE FROM {schema}.matomo_ledger l WHERE destination = $1 AND matomo = $2 AND EXISTS ( \
             SELECT FROM {schema}.matomo_ledger n WHERE n.destination = $1 AND n.matomo = $3 \
             AND n.idsite = l.idsite AND n.day = l.day)"
    );
    let entries = format!(
        "WITH moved AS (UPDATE {schema}.matomo_ledger SET matomo = $3 \
             WHERE destination = $1 AND matomo = $2 RETURNING 1) \
         SELECT count(*) FROM moved"
    );
    // So that the status of registered sites does not forget them until their next run.
    let states = format!(
        "UPDATE {schema}.matomo_site_state t SET matomo = $3 FROM {schema}.matomo_site_config s \
         WHERE s.id = t.site_id AND s.destination = $1 AND t.matomo = $2"
    );
    destination.extension.run(|client| {
        let args = [destination.oid.into(), old.url().into(), new.url().into()];
        query(client, &both, &args)?;
        let days: Option<i64> = query(client, &entries, &args)?.first().get_one().map_err(spi)?;
        query(client, &states, &args)?;
        Ok(days.unwrap_or(0))
    })
}
