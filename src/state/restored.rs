//! What a dump was restored with: tables and roles by name, until they are found. SPI only.

use pgrx::prelude::*;

use crate::error::{Result, StoredError};
use crate::pg::extension::Extension;
use crate::pg::locks;
use crate::pg::spi::{query, spi};

/// Finds the tables and roles that are known by name only, as far as they are there. All that reads the
/// destinations of the ledger or of sites begins with it. Writes once after a restore; never where
/// nothing can be written.
///
/// # Errors
/// Only internal ones.
pub fn resolve(extension: &Extension) -> Result<()> {
    // SAFETY: main thread; whether the transaction may write.
    if unsafe { pg_sys::XactReadOnly } {
        return Ok(());
    }
    let schema = &extension.schema;
    let any = format!(
        "SELECT 1 WHERE EXISTS (SELECT FROM {schema}.matomo_ledger WHERE destination = 0::oid) \
         OR EXISTS (SELECT FROM {schema}.matomo_site_config WHERE destination = 0::oid OR owner = 0::oid)"
    );
    let tables = format!(
        "{} SELECT m.name, f.found FROM missing m \
         CROSS JOIN LATERAL (SELECT {schema}.matomo_find_table(m.name)) f(found) \
         WHERE f.found IS NOT NULL",
        missing_names(schema)
    );
    // A sync may have begun anew before the table belonged to the role of the dump.
    let known = format!(
        "DELETE FROM {schema}.matomo_ledger l USING {schema}.matomo_ledger k \
         WHERE l.destination = 0::oid AND l.destination_name = $1 AND k.destination = $2 \
         AND (k.idsite, k.matomo, k.day) = (l.idsite, l.matomo, l.day)"
    );
    let days = format!(
        "UPDATE {schema}.matomo_ledger SET destination = $2, destination_name = '{{}}' \
         WHERE destination = 0::oid AND destination_name = $1"
    );
    // Of two, the older one was of a table that had been dropped.
    let sites = format!(
        "UPDATE {schema}.matomo_site_config s SET destination = f.found FROM ( \
             SELECT DISTINCT ON (n.server, n.idsite, t.found) n.id, t.found \
             FROM {schema}.matomo_site_config n \
             CROSS JOIN LATERAL (SELECT {schema}.matomo_find_table(n.destination_name)) t(found) \
             WHERE n.destination = 0::oid AND t.found IS NOT NULL \
             ORDER BY n.server, n.idsite, t.found, n.id DESC) f \
         WHERE s.id = f.id AND s.destination = 0::oid \
         AND NOT EXISTS (SELECT FROM {schema}.matomo_site_config o \
             WHERE (o.server, o.idsite, o.destination) = (s.server, s.idsite, f.found))"
    );
    let owners = format!(
        "UPDATE {schema}.matomo_site_config s SET owner = r.oid FROM pg_roles r \
         WHERE s.owner = 0::oid AND r.rolname = s.owner_name"
    );
    extension.run(|client| {
        if query(client, &any, &[])?.is_empty() {
            return Ok(());
        }
        // Another session may resolve them in a transaction that goes on.
        let _bounded = locks::bounded_waits();
        let found = query(client, &tables, &[])?.map(|row| {
            let name: Option<Vec<Option<String>>> = row.get(1).map_err(spi)?;
            let oid: Option<pg_sys::Oid> = row.get(2).map_err(spi)?;
            Ok((name, oid))
        });
        for (name, oid) in found.collect::<Result<Vec<_>>>()? {
            let args = [name.into(), oid.into()];
            query(client, &known, &args)?;
            query(client, &days, &args)?;
        }
        query(client, &sites, &[])?;
        query(client, &owners, &[]).map(drop)
    })
}

/// The names of the tables that the ledger has days of and that are missing.
///
/// # Errors
/// Only internal ones.
pub fn missing(extension: &Extension) -> Result<Vec<String>> {
    let sql = format!(
        "{} SELECT format('%I.%I', m.name[1], m.name[2]) FROM missing m",
        missing_names(&extension.schema)
    );
    extension.run(|client| {
        let names = query(client, &sql, &[])?.map(|row| row.get::<String>(1).map_err(spi));
        names.filter_map(Result::transpose).collect()
    })
}

/// From name to name, as there may be very many days.
fn missing_names(schema: &str) -> String {
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

/// Notes of the sites whose owner is gone that they fail, once: no run of theirs can begin that would.
/// Gives what is new.
///
/// # Errors
/// Only internal ones.
pub fn note_ownerless(extension: &Extension) -> Result<Vec<StoredError>> {
    let schema = &extension.schema;
    let ownerless = format!(
        "SELECT s.id, CASE WHEN t.failures > 0 THEN t.last_error END, s.owner_name::text \
         FROM {schema}.matomo_site_config s \
         LEFT JOIN {schema}.matomo_site_state t ON t.site_id = s.id \
         WHERE (s.enabled OR s.retention IS NOT NULL) \
         AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = s.owner) ORDER BY s.id"
    );
    let note = format!(
        "INSERT INTO {schema}.matomo_site_state AS t (site_id, failures, last_error_at, last_sqlstate, \
             last_error, last_detail, last_hint) VALUES ($1, 1, clock_timestamp(), '42704', $2, $3, $4) \
         ON CONFLICT (site_id) DO UPDATE SET failures = t.failures + 1, \
             last_error_at = excluded.last_error_at, last_sqlstate = excluded.last_sqlstate, \
             last_error = excluded.last_error, last_detail = excluded.last_detail, last_hint = excluded.last_hint"
    );
    resolve(extension)?;
    extension.run(|client| {
        let mut news = Vec::new();
        for row in query(client, &ownerless, &[])? {
            let Some(id) = row.get::<i32>(1).map_err(spi)? else { continue };
            let role = row.get::<String>(3).map_err(spi)?.unwrap_or_default();
            let error = StoredError::NoOwner { site: id, role };
            if row.get::<String>(2).map_err(spi)? != Some(error.to_string()) {
                news.push((id, error));
            }
        }
        for (id, error) in &news {
            let (detail, hint) = (error.detail(), error.hint());
            let args = [(*id).into(), error.to_string().into(), detail.into(), hint.into()];
            query(client, &note, &args)?;
        }
        Ok(news.into_iter().map(|(_, error)| error).collect())
    })
}
