//! The companions of destinations: tables of their visits, conversions and items, in
//! `matomo_companion`. SPI only.

use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::pg::extension::Extension;
use crate::pg::local_settings::{LocalSettings, SAFE_PATH};
use crate::pg::spi::{query, spi, values};
use crate::rows::columns::Kind;
use crate::store::catalog;

/// SQL for whether a row `c` of `matomo_companion` is of a destination (a parameter), also by name.
fn is_of(schema: &str, destination: &str) -> String {
    format!(
        "(c.destination::oid = {destination} OR c.destination::oid = 0::oid \
         AND {schema}.matomo_find_table(c.destination_name) = {destination})"
    )
}

/// The companions of a destination that exist, in the order of [`Kind`].
///
/// # Errors
/// [`Error::Privilege`] for one that belongs to another role than the destination: its triggers would run
/// with the rights of whoever writes the destination.
pub fn of(extension: &Extension, destination: pg_sys::Oid) -> Result<Vec<(Kind, pg_sys::Oid)>> {
    let schema = &extension.schema;
    let sql = format!(
        "SELECT DISTINCT ON (c.kind) c.kind, r.oid, c.destination::oid = 0::oid OR c.companion::oid = 0::oid, \
             CASE WHEN r.relowner <> d.relowner THEN format('%I.%I', n.nspname, r.relname) END \
         FROM {schema}.matomo_companion c \
         JOIN pg_class d ON d.oid = $1 \
         JOIN pg_class r ON r.oid = CASE c.companion::oid WHEN 0::oid \
             THEN {schema}.matomo_find_table(c.companion_name) ELSE c.companion::oid END \
         JOIN pg_namespace n ON n.oid = r.relnamespace \
         WHERE {} ORDER BY c.kind, c.destination::oid DESC",
        is_of(schema, "$1")
    );
    let (mut found, mut by_name) = (Vec::new(), false);
    extension.run(|client| {
        for row in query(client, &sql, &[destination.into()])? {
            let name: Option<String> = row.get(1).map_err(spi)?;
            let oid: Option<pg_sys::Oid> = row.get(2).map_err(spi)?;
            by_name |= row.get(3).map_err(spi)? == Some(true);
            if let Some(name) = row.get::<String>(4).map_err(spi)? {
                let missing = vec!["the same owner as its destination".to_owned()];
                return Err(Error::Privilege { name, missing });
            }
            let kind =
                Kind::COMPANIONS.into_iter().find(|kind| Some(kind.name()) == name.as_deref());
            found.extend(kind.zip(oid));
        }
        Ok(())
    })?;
    found.sort_unstable_by_key(|(kind, _)| *kind);
    // SAFETY: main thread; whether the transaction may write.
    if by_name && !unsafe { pg_sys::XactReadOnly } {
        for (kind, companion) in &found {
            resolve(extension, destination, *kind, *companion)?;
        }
    }
    Ok(found)
}

/// Notes a companion that is known by name by its OID, so that later renames are followed. Skips it if
/// another session does so: that may be one that only reads, in a long transaction.
fn resolve(
    extension: &Extension,
    destination: pg_sys::Oid,
    kind: Kind,
    companion: pg_sys::Oid,
) -> Result<()> {
    let sql = format!(
        "WITH free AS (SELECT c.ctid AS place FROM {0}.matomo_companion c WHERE c.kind = $2 AND {1} \
             AND (c.destination::oid = 0::oid OR c.companion::oid = 0::oid) LIMIT 1 FOR UPDATE SKIP LOCKED) \
         UPDATE {0}.matomo_companion c SET destination = $1, companion = $3, destination_name = '{{}}', \
             companion_name = '{{}}' FROM free f WHERE c.ctid = f.place",
        extension.schema,
        is_of(&extension.schema, "$1")
    );
    let args = [destination.into(), kind.name().into(), companion.into()];
    extension.run(|client| query(client, &sql, &args).map(drop))
}

/// Notes a companion.
fn register(
    extension: &Extension,
    destination: pg_sys::Oid,
    kind: Kind,
    companion: pg_sys::Oid,
) -> Result<()> {
    let table = format!("{}.matomo_companion", extension.schema);
    let forget =
        format!("DELETE FROM {table} c WHERE c.kind = $2 AND {}", is_of(&extension.schema, "$1"));
    let note = format!(
        "INSERT INTO {table} (destination, kind, companion) VALUES ($1, $2, $3) \
         ON CONFLICT DO NOTHING"
    );
    let args = [destination.into(), kind.name().into(), companion.into()];
    extension.run(|client| {
        query(client, &forget, &args[..2])?;
        query(client, &note, &args).map(drop)
    })
}

/// Makes companions of a destination that it does not have yet, as its owner's, or takes tables that are
/// there, as after `DROP EXTENSION`. Returns them.
///
/// # Errors
/// Postgres' own for a caller without the rights of the destination's owner, or for a name that is taken;
/// [`Error::MissingColumns`], [`Error::NoUniqueIndex`], [`Error::Argument`] for an unusable table.
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
        check(extension, companion, *kind)?;
        register(extension, destination, *kind, companion)?;
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

/// Checks that a table can be a companion, and is that of no other destination.
fn check(extension: &Extension, companion: pg_sys::Oid, kind: Kind) -> Result<()> {
    let name = Spi::connect_mut(|client| {
        let sql = "SELECT $1::regclass::text";
        let name = query(client, sql, &[companion.into()])?.first().get_one::<String>();
        let name = name.map_err(spi)?.unwrap_or_default();
        catalog::known_columns(client, companion, &name, kind)?;
        catalog::key(client, companion, &name, kind)?;
        Ok::<_, Error>(name)
    })?;
    let sql = format!(
        "SELECT 1 FROM {}.matomo_companion c JOIN pg_class r ON r.oid = c.destination::oid \
         WHERE c.companion::oid = $1",
        extension.schema
    );
    match extension.run(|client| Ok(query(client, &sql, &[companion.into()])?.is_empty()))? {
        true => Ok(()),
        false => Err(Error::Argument {
            message: format!("table {name} belongs to another destination"),
            hint: "Rename it, or leave it out of matomo.companions.".to_owned(),
        }),
    }
}

/// The destination of a companion.
///
/// # Errors
/// Only internal ones.
pub fn destination_of(extension: &Extension, companion: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    let sql = format!(
        "SELECT c.destination::oid FROM {}.matomo_companion c WHERE c.companion::oid = $1 \
         AND c.destination::oid <> 0::oid",
        extension.schema
    );
    extension.run(|client| values(query(client, &sql, &[companion.into()])?))
}

/// Companions whose destination was dropped: they keep their rows.
///
/// # Errors
/// Only internal ones.
pub fn left_alone(extension: &Extension) -> Result<Vec<pg_sys::Oid>> {
    let sql = format!(
        "SELECT r.oid FROM {}.matomo_companion c JOIN pg_class r ON r.oid = c.companion::oid \
         WHERE NOT EXISTS (SELECT FROM pg_class d WHERE d.oid = c.destination::oid) \
         AND (r.relpersistence <> 't' OR r.relnamespace = pg_my_temp_schema()) ORDER BY 1",
        extension.schema
    );
    extension.run(|client| values(query(client, &sql, &[])?))
}

/// Forgets companions that were dropped, and of the others destinations that were: a later table may get
/// the same OID.
///
/// # Errors
/// Only internal ones.
pub fn forget_dropped(extension: &Extension) -> Result<()> {
    let table = format!("{}.matomo_companion", extension.schema);
    let dropped = format!(
        "DELETE FROM {table} c WHERE c.companion::oid <> 0::oid \
         AND NOT EXISTS (SELECT FROM pg_class r WHERE r.oid = c.companion::oid)"
    );
    // No table has such a name.
    let alone = format!(
        "UPDATE {table} c SET destination = 0::oid, destination_name = ARRAY['', '', c.companion::oid::text] \
         WHERE c.destination::oid <> 0::oid AND c.companion::oid <> 0::oid \
         AND NOT EXISTS (SELECT FROM pg_class d WHERE d.oid = c.destination::oid)"
    );
    extension.run(|client| {
        query(client, &dropped, &[])?;
        query(client, &alone, &[]).map(drop)
    })
}
