//! The mark to register new sites of a server: one registered site has it, and new ones are registered
//! like that one. SPI only.

use pgrx::pg_sys;
use pgrx::spi::SpiClient;

use crate::error::Result;
use crate::matomo::metadata::SiteDetail;
use crate::pg::extension::Extension;
use crate::pg::locks::{self, Held, LONGEST_WAIT, Lock, LockKind, Mode, own_timeout};
use crate::pg::roles::has_rights_of;
use crate::pg::spi::{get, query, values};
use crate::state::restored::{OWNER_OF_SITE, table_of_site};

/// Puts the mark on a registered site: on `like`, else on the first of the server, owner and destination.
/// `known` are the sites that there are now. Returns its ID, if there is one.
///
/// # Errors
/// Only internal ones.
pub fn follow(
    extension: &Extension,
    server: &str,
    owner: pg_sys::Oid,
    destination: pg_sys::Oid,
    like: Option<i32>,
    known: &[SiteDetail],
) -> Result<Option<i32>> {
    let schema = &extension.schema;
    let is_of_owner = format!("s.server = $1::name AND {OWNER_OF_SITE} = $2");
    let end = format!(
        "UPDATE {schema}.matomo_site_config s SET known_sites = NULL \
         WHERE {is_of_owner} AND s.known_sites IS NOT NULL"
    );
    let follow = format!(
        "UPDATE {schema}.matomo_site_config SET known_sites = $5 WHERE id = coalesce($4, ( \
             SELECT s.id FROM {schema}.matomo_site_config s WHERE {is_of_owner} AND {} = $3 \
             ORDER BY s.id LIMIT 1)) RETURNING id",
        table_of_site(schema)
    );
    // A site whose timezone we do not know is left out: once it has another one, it counts as new.
    let known = known.iter().filter(|site| site.zone().is_ok());
    let ids: Vec<i32> = known.map(|site| site.idsite).collect();
    extension.run(|client| {
        let args = [server.into(), owner.into(), destination.into(), like.into(), ids.into()];
        query(client, &end, &args[..2])?;
        Ok(values(query(client, &follow, &args)?)?.into_iter().next())
    })
}

/// Removes the marks for a server that belong to roles whose rights the current user has. Returns their number.
///
/// # Errors
/// Only internal ones.
pub fn ignore(extension: &Extension, server: &str) -> Result<i32> {
    let schema = &extension.schema;
    let marks = format!(
        "SELECT s.id, {OWNER_OF_SITE} FROM {schema}.matomo_site_config s \
         WHERE s.server = $1::name AND s.known_sites IS NOT NULL"
    );
    let end = format!("UPDATE {schema}.matomo_site_config SET known_sites = NULL WHERE id = $1");
    let all: Vec<(Option<i32>, Option<pg_sys::Oid>)> = extension.run(|client| {
        let rows = query(client, &marks, &[server.into()])?;
        rows.map(|row| Ok((get(&row, 1)?, get(&row, 2)?))).collect()
    })?;
    let yours = all.into_iter().filter(|(_, owner)| owner.is_some_and(has_rights_of));
    let yours: Vec<_> = yours.collect();
    extension.run(|client| {
        for (id, _) in &yours {
            query(client, &end, &[(*id).into()])?;
        }
        Ok(())
    })?;
    Ok(i32::try_from(yours.len()).unwrap_or(i32::MAX))
}

/// Waits for other sessions that register all sites of a server for a role. Those that come later wait for
/// the end of this transaction.
pub fn wait_for_others(server: &str, owner: pg_sys::Oid) {
    locks::wait_for(Lock::Registration(owner, locks::hash(server)), Mode::AccessExclusive);
}

/// Waits up to [`LONGEST_WAIT`] for sessions that register all sites of a server for roles whose rights the
/// current user has: their sites count as registered. Called after [`wait_for_others`], so that of two
/// superusers, the later one finds the other; if they start together, both waits time out. Sites of a session
/// that takes longer do not count.
pub fn wait_for_yours(server: &str) {
    let hash = locks::hash(server);
    let is_yours = |held: &Held| held.object == hash && has_rights_of(held.class.into());
    let longest = own_timeout().unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
    locks::outwait(LockKind::Registration, is_yours, longest);
}

/// Whether the mark is on a registered site.
///
/// # Errors
/// Only internal ones.
pub fn follows(extension: &Extension, site: i32) -> Result<bool> {
    let sql = format!(
        "SELECT 1 FROM {}.matomo_site_config WHERE id = $1 AND known_sites IS NOT NULL",
        extension.schema
    );
    extension.run(|client| Ok(!query(client, &sql, &[site.into()])?.is_empty()))
}

/// SQL for whether a site (`$2`) is new to the registered site `s`. Sites that were there before, also those
/// that were removed since, are not.
const IS_NEW: &str = "$2 <> ALL (s.known_sites) AND NOT EXISTS (SELECT FROM {schema}.matomo_site_config o \
    WHERE o.server = s.server AND o.idsite = $2 AND o.owner = s.owner)";

/// Whether a site is new to a registered site.
///
/// # Errors
/// Only internal ones.
pub fn is_new(extension: &Extension, like: i32, idsite: i32) -> Result<bool> {
    let schema = &extension.schema;
    let is_new = IS_NEW.replace("{schema}", schema);
    let sql = format!("SELECT 1 FROM {schema}.matomo_site_config s WHERE s.id = $1 AND {is_new}");
    extension.run(|client| Ok(!query(client, &sql, &[like.into(), idsite.into()])?.is_empty()))
}

/// Registers the new ones of these sites, like the registered site. Returns their idSites.
///
/// # Errors
/// Only internal ones.
pub fn register(extension: &Extension, like: i32, sites: &[SiteDetail]) -> Result<Vec<i32>> {
    let schema = &extension.schema;
    let insert = format!(
        "WITH s AS (INSERT INTO {schema}.matomo_site_config (server, idsite, destination, owner, start_date, \
                 every, retention, enabled, name, timezone, destination_name, owner_name) \
             SELECT s.server, $2, s.destination, s.owner, s.start_date, s.every, s.retention, s.enabled, \
                 $3, $4, s.destination_name, s.owner_name \
             FROM {schema}.matomo_site_config s WHERE s.id = $1 AND {} \
             ON CONFLICT DO NOTHING RETURNING id) \
         INSERT INTO {schema}.matomo_site_state (site_id) SELECT s.id FROM s RETURNING site_id",
        IS_NEW.replace("{schema}", schema)
    );
    let note = format!(
        "UPDATE {schema}.matomo_site_config SET known_sites = known_sites || ARRAY( \
             SELECT x FROM unnest($2::integer[]) x WHERE x <> ALL (known_sites)) \
         WHERE id = $1 AND NOT $2 <@ known_sites"
    );
    let ids: Vec<i32> = sites.iter().map(|site| site.idsite).collect();
    extension.run(|client: &mut SpiClient| {
        let mut new = Vec::new();
        for site in sites {
            let (name, timezone) = (site.name.as_str(), site.timezone.as_str());
            let args = [like.into(), site.idsite.into(), name.into(), timezone.into()];
            if !values::<i32>(query(client, &insert, &args)?)?.is_empty() {
                new.push(site.idsite);
            }
        }
        query(client, &note, &[like.into(), ids.into()])?;
        Ok(new)
    })
}
