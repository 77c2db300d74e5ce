//! Names of sites, goals and custom dimensions: the table `matomo_site_metadata`. SPI only.

use chrono::NaiveDate;
use pgrx::pg_sys;
use pgrx::spi::SpiClient;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::matomo::client::{ROLLUP, SiteInfo};
use crate::matomo::metadata::Metadata;
use crate::pg::extension::Extension;
use crate::pg::spi::{get, query, values};

/// Records what Matomo has told of a site. Goals and dimensions that it no longer lists are kept, as older
/// visits have them.
///
/// # Errors
/// Only internal ones.
pub fn store(extension: &Extension, destination: pg_sys::Oid, told: &Metadata) -> Result<()> {
    let schema = &extension.schema;
    let merged = |list: &str, id: &str| {
        format!(
            "CASE WHEN excluded.{list}_read_at IS NULL THEN m.{list} ELSE ( \
                 SELECT coalesce(jsonb_agg(a.entry ORDER BY (a.entry->>'{id}')::integer), '[]') FROM ( \
                     SELECT n AS entry FROM jsonb_array_elements(excluded.{list}) n \
                     UNION ALL SELECT jsonb_build_object('deleted_at', now()) || o \
                     FROM jsonb_array_elements(m.{list}) o WHERE NOT EXISTS ( \
                         SELECT FROM jsonb_array_elements(excluded.{list}) n \
                         WHERE n->'{id}' = o->'{id}')) a) END"
        )
    };
    let store = format!(
        "INSERT INTO {schema}.matomo_site_metadata AS m (destination, idsite, name, main_url, site_group, \
             site_type, timezone, currency, ecommerce, created_at, read_at, goals, goals_read_at, \
             dimensions, dimensions_read_at) \
         SELECT $1::regclass, s.*, now(), coalesce($3::jsonb, '[]'), CASE WHEN $3 IS NOT NULL THEN now() END, \
             coalesce($4::jsonb, '[]'), CASE WHEN $4 IS NOT NULL THEN now() END \
         FROM jsonb_to_record($2::jsonb) AS s (idsite integer, name text, main_url text, site_group text, \
             site_type text, timezone text, currency text, ecommerce boolean, created_at timestamptz) \
         ON CONFLICT (destination, idsite, destination_name) DO UPDATE SET name = excluded.name, \
             main_url = excluded.main_url, site_group = excluded.site_group, \
             site_type = excluded.site_type, timezone = excluded.timezone, currency = excluded.currency, \
             ecommerce = excluded.ecommerce, created_at = excluded.created_at, read_at = excluded.read_at, \
             goals = {}, goals_read_at = coalesce(excluded.goals_read_at, m.goals_read_at), \
             dimensions = {}, \
             dimensions_read_at = coalesce(excluded.dimensions_read_at, m.dimensions_read_at)",
        merged("goals", "goalid"),
        merged("dimensions", "iddimension")
    );
    let goals = told.goals.as_ref().ok().map(json).transpose()?;
    let dimensions = told.dimensions.as_ref().ok().map(json).transpose()?;
    let site = json(&told.site)?;
    extension.run(|client| {
        adopt(client, schema, destination, told.site.idsite)?;
        let args = [destination.into(), site.into(), goals.into(), dimensions.into()];
        query(client, &store, &args).map(drop)
    })
}

/// Records whether a site is a roll-up, if a sync has just learned it and it was not known.
///
/// # Errors
/// Only internal ones.
pub fn note_type(
    extension: &Extension,
    destination: pg_sys::Oid,
    site: i32,
    info: &SiteInfo,
) -> Result<()> {
    let Some(is_rollup) = info.is_rollup else { return Ok(()) };
    let schema = &extension.schema;
    let note = format!(
        "INSERT INTO {schema}.matomo_site_metadata (destination, idsite, name, site_type, timezone, read_at) \
         VALUES ($1::regclass, $2, coalesce($3, ''), '{ROLLUP}', $4, now()) \
         ON CONFLICT (destination, idsite, destination_name) DO UPDATE SET site_type = '{ROLLUP}'"
    );
    let no_longer = format!(
        "UPDATE {schema}.matomo_site_metadata SET site_type = NULL WHERE destination = $1 AND idsite = $2"
    );
    let name = info.name.as_deref();
    extension.run(|client| {
        if rollups(client, schema, destination)?.contains(&site) == is_rollup {
            return Ok(());
        }
        adopt(client, schema, destination, site)?;
        if !is_rollup {
            return query(client, &no_longer, &[destination.into(), site.into()]).map(drop);
        }
        let args = [destination.into(), site.into(), name.into(), info.timezone.as_str().into()];
        query(client, &note, &args).map(drop)
    })
}

/// Gives a table the restored description of a site, or deletes that if the table has a newer one.
fn adopt(client: &mut SpiClient, schema: &str, destination: pg_sys::Oid, site: i32) -> Result<()> {
    let restored = format!(
        "m.destination = 0::oid AND m.idsite = $2 AND {schema}.matomo_find_table(m.destination_name) = $1"
    );
    let adopt = format!(
        "UPDATE {schema}.matomo_site_metadata SET destination = $1::regclass, destination_name = '{{}}' \
         WHERE ctid = (SELECT m.ctid FROM {schema}.matomo_site_metadata m WHERE {restored} \
             ORDER BY m.read_at DESC LIMIT 1) \
         AND NOT EXISTS (SELECT FROM {schema}.matomo_site_metadata m WHERE m.destination = $1 AND m.idsite = $2)"
    );
    let outdated = format!("DELETE FROM {schema}.matomo_site_metadata m WHERE {restored}");
    let ids = [destination.into(), site.into()];
    query(client, &adopt, &ids)?;
    query(client, &outdated, &ids).map(drop)
}

/// Checks that a table may have rows of a site, as far as Matomo has described it: visits of a roll-up are
/// stored under the IDs of the sites that they come from.
///
/// # Errors
/// [`Error::Argument`].
pub fn check_has_rows(extension: &Extension, destination: pg_sys::Oid, site: i32) -> Result<()> {
    let is_rollup = rollups_of(extension, destination)?.contains(&site);
    if is_rollup { Err(of_rollup(site)) } else { Ok(()) }
}

/// The sites of a table that Matomo has described as roll-ups.
///
/// # Errors
/// Only internal ones.
pub fn rollups_of(extension: &Extension, destination: pg_sys::Oid) -> Result<Vec<i32>> {
    extension.run(|client| rollups(client, &extension.schema, destination))
}

fn rollups(client: &mut SpiClient, schema: &str, destination: pg_sys::Oid) -> Result<Vec<i32>> {
    let table = format!("{schema}.matomo_site_metadata");
    let sql = format!(
        "SELECT m.idsite FROM {table} m WHERE m.site_type = '{ROLLUP}' AND (m.destination = $1 \
         OR m.destination = 0::oid AND {schema}.matomo_find_table(m.destination_name) = $1 \
         AND NOT EXISTS (SELECT FROM {table} o WHERE o.destination = $1 AND o.idsite = m.idsite))"
    );
    values(query(client, &sql, &[destination.into()])?)
}

/// The error of a retention for a roll-up site.
pub fn of_rollup(site: i32) -> Error {
    Error::Argument {
        message: format!("site {site} is a roll-up, which has no visits of its own"),
        hint:
            "Give the retention to the sites that its visits come from, or call matomo_drop_before \
               without a site."
                .to_owned(),
    }
}

/// Deletes the names of a table's sites.
///
/// # Errors
/// Only internal ones.
pub fn forget_table(extension: &Extension, table: pg_sys::Oid) -> Result<()> {
    let sql =
        format!("DELETE FROM {}.matomo_site_metadata WHERE destination = $1", extension.schema);
    extension.run(|client| query(client, &sql, &[table.into()]).map(drop))
}

/// Deletes the names of tables that no longer exist.
///
/// # Errors
/// Only internal ones.
pub fn forget_dropped(extension: &Extension) -> Result<()> {
    let table = format!("{}.matomo_site_metadata", extension.schema);
    let sql = format!(
        "DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT m.ctid FROM {table} m \
         WHERE m.destination <> 0::oid \
         AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.destination) \
         FOR UPDATE SKIP LOCKED))"
    );
    extension.run(|client| query(client, &sql, &[]).map(drop))
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Internal(error.to_string()))
}

/// The timezone of a registered site, and the day in it on which its names were last read.
///
/// # Errors
/// Only internal ones.
pub fn last_read(extension: &Extension, site: i32) -> Result<Option<(String, Option<NaiveDate>)>> {
    let sql = format!(
        "SELECT s.timezone, t.metadata_on::text FROM {0}.matomo_site_config s \
         LEFT JOIN {0}.matomo_site_state t ON t.site_id = s.id WHERE s.id = $1",
        extension.schema
    );
    extension.run(|client| {
        let Some(row) = query(client, &sql, &[site.into()])?.next() else { return Ok(None) };
        let timezone: String = get(&row, 1)?.unwrap_or_default();
        let read_on: Option<String> = get(&row, 2)?;
        Ok(Some((timezone, read_on.and_then(|day| day.parse().ok()))))
    })
}

/// Records that a reading of the names of a registered site begins, and the error if it does not end.
///
/// # Errors
/// Only internal ones.
pub fn begin(extension: &Extension, site: i32, day: NaiveDate, error: &str) -> Result<()> {
    let sql = format!(
        "UPDATE {}.matomo_site_state SET metadata_on = $2::date, metadata_error = $3 WHERE site_id = $1",
        extension.schema
    );
    let args = [site.into(), day.to_string().into(), error.into()];
    extension.run(|client| query(client, &sql, &args).map(drop))
}

/// Records that the reading of a day has ended, and its error. One of a site that was altered meanwhile
/// does not count.
///
/// # Errors
/// Only internal ones.
pub fn end(extension: &Extension, site: i32, day: NaiveDate, error: Option<&str>) -> Result<()> {
    let sql = format!(
        "UPDATE {}.matomo_site_state SET metadata_error = $3 WHERE site_id = $1 AND metadata_on = $2::date",
        extension.schema
    );
    let args = [site.into(), day.to_string().into(), error.into()];
    extension.run(|client| query(client, &sql, &args).map(drop))
}
