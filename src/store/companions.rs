//! The companions of destinations: tables of their visits, conversions and items, in
//! `matomo_companion`. SPI only.

use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::pg::extension::Extension;
use crate::pg::local_settings::{LocalSettings, SAFE_PATH};
use crate::pg::spi::{query, spi};
use crate::rows::columns::Kind;

/// SQL for whether a row `c` of `matomo_companion` is of a destination (a parameter), also by name.
fn is_of(schema: &str, destination: &str) -> String {
    format!(
        "(c.destination = {destination} OR c.destination = 0::oid \
         AND {schema}.matomo_find_table(c.destination_name) = {destination})"
    )
}

/// The companions of a destination that exist, in the order of [`Kind`].
///
/// # Errors
/// Only internal ones.
pub fn of(extension: &Extension, destination: pg_sys::Oid) -> Result<Vec<(Kind, pg_sys::Oid)>> {
    let schema = &extension.schema;
    let sql = format!(
        "SELECT DISTINCT ON (c.kind) c.kind, r.oid FROM {schema}.matomo_companion c \
         JOIN pg_class r ON r.oid = CASE c.companion WHEN 0::oid \
             THEN {schema}.matomo_find_table(c.companion_name) ELSE c.companion::oid END \
         WHERE {} ORDER BY c.kind, c.destination DESC",
        is_of(schema, "$1")
    );
    let mut found = extension.run(|client| {
        let rows = query(client, &sql, &[destination.into()])?.map(|row| {
            let name: Option<String> = row.get(1).map_err(spi)?;
            let oid: Option<pg_sys::Oid> = row.get(2).map_err(spi)?;
            let kind =
                Kind::COMPANIONS.into_iter().find(|kind| Some(kind.name()) == name.as_deref());
            Ok(kind.zip(oid))
        });
        Ok(rows.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect::<Vec<_>>())
    })?;
    found.sort_unstable_by_key(|(kind, _)| *kind);
    Ok(found)
}

/// Makes companions of a destination that it does not have yet, as its owner's. Returns them.
///
/// # Errors
/// [`Error::NotATable`], [`Error::Privilege`] for a caller without the rights of the destination's owner;
/// Postgres' own, as for a name that is taken.
pub fn create(
    extension: &Extension,
    destination: pg_sys::Oid,
    wanted: &[Kind],
) -> Result<Vec<pg_sys::Oid>> {
    let known = of(extension, destination)?;
    let missing = wanted.iter().filter(|kind| known.iter().all(|(other, _)| other != *kind));
    let _safe = LocalSettings::of(&[SAFE_PATH]);
    let mut made = Vec::new();
    for kind in missing {
        let companion = create_one(extension, destination, *kind)?;
        let schema = &extension.schema;
        let register = format!(
            "WITH gone AS (DELETE FROM {schema}.matomo_companion c WHERE c.kind = $2 AND {}) \
             INSERT INTO {schema}.matomo_companion (destination, kind, companion) VALUES ($1, $2, $3)",
            is_of(schema, "$1")
        );
        let args = [destination.into(), kind.name().into(), companion.into()];
        extension.run(|client| query(client, &register, &args).map(drop))?;
        made.push(companion);
    }
    Ok(made)
}

fn create_one(extension: &Extension, destination: pg_sys::Oid, kind: Kind) -> Result<pg_sys::Oid> {
    let sql = format!(
        "SELECT {}.matomo_create_companion($1::regclass, $2, $3::text[], $4)::oid",
        extension.schema
    );
    // The key of the table: what tells rows apart, and the visit first, by which they are found.
    let mut key = vec!["idvisit"];
    key.extend(kind.identity().iter().filter(|column| **column != "idvisit"));
    let args = [destination.into(), kind.name().into(), key.into(), kind.time().into()];
    let oid = Spi::connect_mut(|client| {
        query(client, &sql, &args)?.first().get_one::<pg_sys::Oid>().map_err(spi)
    })?;
    oid.ok_or_else(|| Error::Internal("a companion that was not made".to_owned()))
}

/// Remembers restored companions of a destination, known by name so far, by what they are, so that
/// renaming is followed from now on.
///
/// # Errors
/// Only internal ones.
pub fn take_restored(extension: &Extension, destination: pg_sys::Oid) -> Result<()> {
    let schema = &extension.schema;
    let sql = format!(
        "UPDATE {schema}.matomo_companion c \
         SET destination = $1, companion = {schema}.matomo_find_table(c.companion_name), \
             destination_name = '{{}}', companion_name = '{{}}' \
         WHERE c.destination = 0::oid AND c.companion = 0::oid \
           AND {schema}.matomo_find_table(c.destination_name) = $1 \
           AND {schema}.matomo_find_table(c.companion_name) IS NOT NULL \
           AND NOT EXISTS (SELECT FROM {schema}.matomo_companion o \
               WHERE o.destination = $1 AND o.kind = c.kind)"
    );
    extension.run(|client| query(client, &sql, &[destination.into()]).map(drop))
}

/// Forgets companions that were dropped, and those of destinations that were.
///
/// # Errors
/// Only internal ones.
pub fn forget_dropped(extension: &Extension) -> Result<()> {
    let sql = format!(
        "DELETE FROM {}.matomo_companion c WHERE (c.destination <> 0::oid AND NOT EXISTS ( \
             SELECT FROM pg_class r WHERE r.oid = c.destination)) \
         OR (c.companion <> 0::oid AND NOT EXISTS (SELECT FROM pg_class r WHERE r.oid = c.companion))",
        extension.schema
    );
    extension.run(|client| query(client, &sql, &[]).map(drop))
}
