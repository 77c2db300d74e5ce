//! Tables and roles that are known only by name after a restore, until they are found. SPI only.

use pgrx::prelude::*;

use crate::error::{Result, SiteError};
use crate::pg::extension::Extension;
use crate::pg::spi::{get, query, values};
use crate::store::companions::{by_name, is_of, is_outdated};

/// SQL for the table of a registered site `s`, found by name if necessary; 0 if it is missing.
pub fn table_of_site(schema: &str) -> String {
    format!(
        "coalesce(CASE s.destination WHEN 0::oid THEN {schema}.matomo_find_table(s.destination_name) \
         ELSE s.destination::oid END, 0::oid)"
    )
}

/// SQL for the owner of a registered site `s`, found by name if necessary; 0 if missing.
pub const OWNER_OF_SITE: &str = "coalesce(CASE s.owner WHEN 0::oid \
    THEN (SELECT n.oid FROM pg_roles n WHERE n.rolname = s.owner_name) ELSE s.owner::oid END, 0::oid)";

/// SQL for whether a ledger entry `l` belongs to a table (a parameter), also by name.
pub fn is_of_table(schema: &str, table: &str) -> String {
    format!(
        "l.destination IN ({table}, 0::oid) AND (l.destination <> 0::oid OR l.destination_name IN ( \
             {} SELECT m.name FROM missing m WHERE {schema}.matomo_find_table(m.name) = {table}))",
        missing_names(schema)
    )
}

/// Resolves the names of tables and roles of registered sites and their runs, so that later renames are
/// followed. Only for short transactions, as it locks the rows that it changes. Skips rows that another
/// session has locked. Writes only once after a restore, and never in a read-only transaction.
///
/// # Errors
/// Only internal ones.
pub fn resolve(extension: &Extension) -> Result<()> {
    // SAFETY: main thread; whether the transaction may write.
    if unsafe { pg_sys::XactReadOnly } {
        return Ok(());
    }
    let schema = &extension.schema;
    let table = table_of_site(schema);
    // If two sites match a table, the table of the older one had been dropped.
    let tables = format!(
        "WITH free AS (SELECT s.id, s.server, s.idsite, {table} AS found FROM {schema}.matomo_site_config s \
             WHERE s.destination = 0::oid AND {table} <> 0::oid \
             AND NOT EXISTS (SELECT FROM {schema}.matomo_site_config o \
                 WHERE (o.server, o.idsite, o.destination) = (s.server, s.idsite, {table})) \
             FOR NO KEY UPDATE OF s SKIP LOCKED) \
         UPDATE {schema}.matomo_site_config s SET destination = f.found \
         FROM (SELECT DISTINCT ON (server, idsite, found) id, found FROM free \
             ORDER BY server, idsite, found, id DESC) f WHERE s.id = f.id"
    );
    let roles = |table: &str, id: &str| {
        format!(
            "WITH free AS (SELECT s.{id}, r.oid FROM {schema}.{table} s \
                 JOIN pg_roles r ON r.rolname = s.owner_name \
                 WHERE s.owner = 0::oid FOR NO KEY UPDATE OF s SKIP LOCKED) \
             UPDATE {schema}.{table} s SET owner = f.oid FROM free f WHERE s.{id} = f.{id}"
        )
    };
    extension.run(|client| {
        query(client, &tables, &[])?;
        query(client, &roles("matomo_site_config", "id"), &[])?;
        query(client, &roles("matomo_run_log", "runid"), &[]).map(drop)
    })
}

/// Names of missing tables of which the ledger has days.
///
/// # Errors
/// Only internal ones.
pub fn missing(extension: &Extension) -> Result<Vec<String>> {
    let schema = &extension.schema;
    let sql = format!(
        "{} SELECT format('%I.%I', m.name[1], m.name[2]) FROM missing m \
         WHERE {schema}.matomo_find_table(m.name) IS NULL",
        missing_names(schema)
    );
    extension.run(|client| values(query(client, &sql, &[])?))
}

/// Names of companions that a dump was restored without, of a destination or of all.
///
/// # Errors
/// Only internal ones.
pub fn missing_companions(
    extension: &Extension,
    destination: Option<pg_sys::Oid>,
) -> Result<Vec<String>> {
    let schema = &extension.schema;
    let of = destination.map_or_else(|| "$1 IS NULL".to_owned(), |_| is_of(schema, "$1"));
    let sql = format!(
        "SELECT DISTINCT format('%I.%I', c.companion_name[1], c.companion_name[2]) \
         FROM {schema}.matomo_companion c WHERE c.companion::oid = 0::oid AND {of} AND {} IS NULL \
         AND NOT {} ORDER BY 1",
        by_name(schema, "c"),
        is_outdated(schema, &format!("{schema}.matomo_find_table(c.destination_name)"))
    );
    extension.run(|client| values(query(client, &sql, &[destination.into()])?))
}

/// SQL for the names of tables in restored ledger entries, as `missing`. Skips from name to name, as
/// there may be very many days.
pub fn missing_names(schema: &str) -> String {
    let next = |and: &str| {
        format!(
            "SELECT l.destination_name FROM {schema}.matomo_ledger l \
             WHERE l.destination = 0::oid{and} ORDER BY 1 LIMIT 1"
        )
    };
    format!(
        "WITH RECURSIVE missing(name) AS (({}) UNION ALL SELECT n.destination_name FROM missing m \
         CROSS JOIN LATERAL ({}) n)",
        next(""),
        next(" AND l.destination_name > m.name")
    )
}

/// Records once that sites without an owner fail, as no run of theirs can start and fail, after [`resolve`].
/// Does not wait for a site that is being changed. Returns the new failures.
///
/// # Errors
/// Only internal ones.
pub fn note_ownerless(extension: &Extension) -> Result<Vec<SiteError>> {
    let schema = &extension.schema;
    let ownerless = format!(
        "SELECT s.id, CASE WHEN t.failures > 0 THEN t.last_error END, s.owner_name::text \
         FROM {schema}.matomo_site_config s \
         LEFT JOIN {schema}.matomo_site_state t ON t.site_id = s.id \
         WHERE (s.enabled OR s.retention IS NOT NULL) \
         AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = {OWNER_OF_SITE}) ORDER BY s.id"
    );
    let note = format!(
        "WITH free AS (SELECT FROM {schema}.matomo_site_state t WHERE t.site_id = $1 FOR UPDATE SKIP LOCKED) \
         INSERT INTO {schema}.matomo_site_state AS t (site_id, failures, last_error_at, last_sqlstate, \
             last_error, last_detail, last_hint) \
         SELECT $1, 1, clock_timestamp(), '42704', $2, $3, $4 WHERE EXISTS (SELECT FROM free) \
             OR NOT EXISTS (SELECT FROM {schema}.matomo_site_state t WHERE t.site_id = $1) \
         ON CONFLICT (site_id) DO UPDATE SET failures = t.failures + 1, \
             last_error_at = excluded.last_error_at, last_sqlstate = excluded.last_sqlstate, \
             last_error = excluded.last_error, last_detail = excluded.last_detail, last_hint = excluded.last_hint \
         RETURNING 1"
    );
    extension.run(|client| {
        let mut news = Vec::new();
        for row in query(client, &ownerless, &[])? {
            let Some(id) = get::<i32>(&row, 1)? else { continue };
            let role = get::<String>(&row, 3)?.unwrap_or_default();
            let error = SiteError::NoOwner { site: id, role };
            if get::<String>(&row, 2)? != Some(error.to_string()) {
                news.push((id, error));
            }
        }
        let mut noted = Vec::new();
        for (id, error) in news {
            let (detail, hint) = (error.detail(), error.hint());
            let args = [id.into(), error.to_string().into(), detail.into(), hint.into()];
            if !query(client, &note, &args)?.is_empty() {
                noted.push(error);
            }
        }
        Ok(noted)
    })
}
