//! Tables that look like companions of a destination without any, such as those from before `DROP EXTENSION`.
//! SPI only.

use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::ereport::warn;
use crate::pg::extension::Extension;
use crate::pg::spi::{get, query};
use crate::rows::columns::TableKind;
use crate::store::destination::Destination;

/// The tables that `matomo_create_companions` would take for a destination, with their names.
///
/// # Errors
/// Only internal ones.
pub fn companions(
    extension: &Extension,
    destination: pg_sys::Oid,
) -> Result<Vec<(pg_sys::Oid, String)>> {
    let schema = &extension.schema;
    let kinds = TableKind::COMPANIONS.map(|kind| {
        let needed = kind.columns().iter().map(|column| column.name);
        let needed: Vec<_> = needed.filter(|column| kind.needs(column)).collect();
        format!("('{}', '{{{}}}'::text[])", kind.name(), needed.join(","))
    });
    let sql = format!(
        "SELECT r.oid, format('%I.%I', n.nspname, r.relname) FROM (VALUES {}) AS k (kind, needed) \
         JOIN pg_class r ON r.oid = {schema}.matomo_find_companion($1::oid::regclass, k.kind, k.needed)::oid \
         JOIN pg_namespace n ON n.oid = r.relnamespace \
         WHERE NOT EXISTS (SELECT FROM {schema}.matomo_companion c JOIN pg_class d ON d.oid = c.destination::oid \
             WHERE c.companion::oid = r.oid) ORDER BY r.oid",
        kinds.join(", ")
    );
    extension.run(|client| {
        let mut found = Vec::new();
        for row in query(client, &sql, &[destination.into()])? {
            let oid: Option<pg_sys::Oid> = get(&row, 1)?;
            found.extend(oid.zip(get::<String>(&row, 2)?));
        }
        Ok(found)
    })
}

/// Warns after a sync that such tables were not written.
///
/// # Errors
/// Only internal ones.
pub fn warn_of_unwritten(prefix: &str, destination: &Destination) -> Result<()> {
    if destination.companions.is_empty() {
        let found = companions(&destination.extension, destination.oid)?;
        warn_of(prefix, &destination.name, "updated", "", &found);
    }
    Ok(())
}

/// Warns in an erasure that such tables are not searched.
pub fn warn_of_unsearched(destination: &str, found: &[(pg_sys::Oid, String)]) {
    warn_of("", destination, "searched", ", then erase again", found);
}

fn warn_of(
    prefix: &str,
    destination: &str,
    done: &str,
    then: &str,
    found: &[(pg_sys::Oid, String)],
) {
    let names: Vec<_> = found.iter().map(|(_, name)| name.as_str()).collect();
    if !names.is_empty() {
        warn(
            format!(
                "{prefix}tables that look like companions of {destination} are not {done}: {}",
                names.join(", ")
            ),
            &format!(
                "Run SELECT matomo_create_companions('{}'){then}; rename those that are no companions.",
                destination.replace('\'', "''")
            ),
        );
    }
}
