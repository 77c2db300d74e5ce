//! A Matomo that has moved to another URL: what is known of it under the old one. SPI only.

use crate::destination::{Destination, query, spi};
use crate::endpoint::Endpoint;
use crate::error::Result;
use crate::sync::lock;

/// Gives the ledger's entries of a Matomo in a destination to its new URL; gives their number.
///
/// # Errors
/// [`crate::error::Error::AlreadyRunning`].
pub fn change_url(destination: &Destination, old: &Endpoint, new: &Endpoint) -> Result<i64> {
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
        lock(site, destination)?;
    }
    // Of a day that both have, the new entry counts, as it goes on from there. But a day that was read
    // whole and sealed is not opened again, unless it had other bounds then.
    let entries = format!(
        "WITH gone AS (DELETE FROM {schema}.matomo_ledger WHERE destination = $1 AND matomo = $2 RETURNING *), \
         moved AS (INSERT INTO {schema}.matomo_ledger AS l (matomo, idsite, destination, day, sealed, visits, \
                 actions, truncated_visits, newest, timezone, read_at, pass_began, pass_since, pass_seen, \
                 action_time) \
             SELECT $3, idsite, destination, day, sealed, visits, actions, truncated_visits, newest, timezone, \
                 read_at, pass_began, pass_since, pass_seen, action_time FROM gone \
             ON CONFLICT (destination, idsite, matomo, day) DO UPDATE SET sealed = true, \
                 visits = excluded.visits, actions = excluded.actions, \
                 truncated_visits = excluded.truncated_visits, newest = excluded.newest, \
                 read_at = excluded.read_at, action_time = excluded.action_time, pass_began = NULL, pass_since = NULL, pass_seen = NULL \
             WHERE excluded.sealed AND NOT l.sealed AND l.timezone = excluded.timezone) \
         SELECT count(*) FROM gone"
    );
    // So that the status of registered sites does not forget them until their next run.
    let states = format!(
        "UPDATE {schema}.matomo_site_state t SET matomo = $3 FROM {schema}.matomo_site_config s \
         WHERE s.id = t.site_id AND s.destination = $1 AND t.matomo = $2"
    );
    destination.extension.run(|client| {
        let args = [destination.oid.into(), old.url().into(), new.url().into()];
        let days: Option<i64> = query(client, &entries, &args)?.first().get_one().map_err(spi)?;
        query(client, &states, &args)?;
        Ok(days.unwrap_or(0))
    })
}
