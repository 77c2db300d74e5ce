//! Moves ledger entries to a Matomo's new URL. SPI only.

use crate::error::Result;
use crate::matomo::http::endpoint::Endpoint;
use crate::pg::spi::{one, query, values};
use crate::state::restored::{is_of_table, table_of_site};
use crate::state::snapshot::check_sees_days;
use crate::store::destination::Destination;
use crate::store::destination::row_locks::lock_all_rows;

/// Moves a destination's ledger entries to a Matomo's new URL, from its old one and from other spellings of
/// both. Returns their number.
///
/// # Errors
/// [`Busy::Syncs`], [`Busy::Drops`]; those of [`check_sees_days`].
pub fn change_url(destination: &Destination, old: &Endpoint, new: &Endpoint) -> Result<i64> {
    let schema = &destination.extension.schema;
    // A concurrent sync would write entries with the old URL.
    lock_all_rows(destination.oid, &destination.name)?;
    check_sees_days(&destination.extension, destination.oid, &destination.name)?;
    // 0.1.0 kept URLs as typed, and a dump of it may have been restored since.
    let is_meant = is_of_table(schema, "$1");
    let is_of_site = format!("s.id = t.site_id AND {} = $1", table_of_site(schema));
    let known = format!(
        "SELECT l.matomo FROM {schema}.matomo_ledger l WHERE {is_meant} UNION SELECT t.matomo \
         FROM {schema}.matomo_site_state t, {schema}.matomo_site_config s WHERE {is_of_site}"
    );
    // Tables written by 0.1.0 may have entries of both URLs: keep the new one.
    let both = format!(
        "DELETE FROM {schema}.matomo_ledger l WHERE {is_meant} AND l.matomo = $2 AND EXISTS ( \
             SELECT FROM {schema}.matomo_ledger n WHERE n.destination = l.destination \
             AND n.idsite = l.idsite AND n.matomo = $3 AND n.day = l.day \
             AND n.destination_name = l.destination_name)"
    );
    let entries = format!(
        "WITH moved AS (UPDATE {schema}.matomo_ledger l SET matomo = $3 \
             WHERE {is_meant} AND l.matomo = $2 RETURNING 1) \
         SELECT count(*) FROM moved"
    );
    // Otherwise matomo_status would not find these days until the next run.
    let states = format!(
        "UPDATE {schema}.matomo_site_state t SET matomo = $3 FROM {schema}.matomo_site_config s \
         WHERE {is_of_site} AND t.matomo = $2"
    );
    let is_to_move = |url: &String| {
        let is_either = |endpoint: Endpoint| endpoint == *old || endpoint == *new;
        url != new.url() && Endpoint::parse(url).is_ok_and(is_either)
    };
    destination.extension.run(|client| {
        let mut moved = 0;
        let known: Vec<String> = values(query(client, &known, &[destination.oid.into()])?)?;
        for url in known.into_iter().filter(is_to_move) {
            let args = [destination.oid.into(), url.into(), new.url().into()];
            query(client, &both, &args)?;
            let days: Option<i64> = one(query(client, &entries, &args)?)?;
            query(client, &states, &args)?;
            moved += days.unwrap_or(0);
        }
        Ok(moved)
    })
}
