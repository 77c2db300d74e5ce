//! The companions of destinations: the table `matomo_companion`. SPI only.

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::error::{Error, Result, SiteError};
use crate::pg::extension::Extension;
use crate::pg::local_settings::{LocalSettings, SAFE_PATH};
use crate::pg::roles::{self, AsRestricted};
use crate::pg::spi::{get, one, query, read_now, values};
use crate::rows::columns::TableKind;
use crate::store::catalog;

/// SQL for whether a row `c` of `matomo_companion` is of a destination (a parameter), also by name.
pub fn is_of(schema: &str, destination: &str) -> String {
    format!(
        "(c.destination::oid = {destination} OR c.destination::oid = 0::oid \
         AND {schema}.matomo_find_table(c.destination_name) = {destination})"
    )
}

/// SQL for the table of a row (an alias) of `matomo_companion` that is known only by name; NULL if it is
/// missing, also if the name is that of another companion by now.
pub fn by_name(schema: &str, row: &str) -> String {
    format!(
        "(SELECT f.oid FROM {schema}.matomo_find_table({row}.companion_name) AS f (oid) \
         WHERE NOT EXISTS (SELECT FROM {schema}.matomo_companion o WHERE o.companion::oid = f.oid))"
    )
}

/// SQL for whether a restored row `c` of `matomo_companion` is outdated: the destination (a parameter) has
/// one of its own of the same kind.
pub fn is_outdated(schema: &str, destination: &str) -> String {
    format!(
        "(c.destination::oid = 0::oid AND EXISTS (SELECT FROM {schema}.matomo_companion o \
         WHERE o.destination::oid = {destination} AND o.kind = c.kind))"
    )
}

/// SQL for whether a row of `matomo_companion` meets a condition on it, `c`, and no other session has it
/// locked; then it is locked. The condition may end with a LIMIT.
pub fn is_free(schema: &str, condition: &str) -> String {
    format!(
        "ctid = ANY (ARRAY(SELECT c.ctid FROM {schema}.matomo_companion c WHERE {condition} \
         FOR UPDATE SKIP LOCKED))"
    )
}

/// SQL for whether a destination (a parameter) has days of its own. While it had another owner than in the
/// dump, its restored companions were not found, so that these days lack their rows.
pub fn has_own_days(schema: &str, destination: &str) -> String {
    format!(
        "EXISTS (SELECT FROM {schema}.matomo_ledger l WHERE l.destination::oid = {destination})"
    )
}

/// SQL for whether a dropped destination (an expression) may have been synced: restored days may belong to it.
fn may_have_days(schema: &str, destination: &str) -> String {
    let ledger = format!("{schema}.matomo_ledger");
    format!("EXISTS (SELECT FROM {ledger} l WHERE l.destination IN ({destination}, 0::oid))")
}

/// The companions of a destination that exist, in the order of [`TableKind`]; of two restored ones, that of the
/// days that were read last.
///
/// # Errors
/// [`SiteError::CompanionOwner`].
pub fn of(
    extension: &Extension,
    destination: pg_sys::Oid,
) -> Result<Vec<(TableKind, pg_sys::Oid)>> {
    let (found, by_name) = find(extension, destination, false)?;
    // SAFETY: main thread; whether the transaction may write.
    if by_name && !unsafe { pg_sys::XactReadOnly } {
        for (kind, companion) in &found {
            resolve(extension, destination, *kind, *companion)?;
        }
    }
    Ok(found)
}

/// The companions that exist by now, also those that the transaction does not see.
///
/// # Errors
/// [`SiteError::CompanionOwner`].
pub fn now(extension: &Extension, destination: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    let (found, _) = find(extension, destination, true)?;
    Ok(found.into_iter().map(|(_, oid)| oid).collect())
}

/// Finds companions; also returns whether any is known only by name.
fn find(
    extension: &Extension,
    destination: pg_sys::Oid,
    now: bool,
) -> Result<(Vec<(TableKind, pg_sys::Oid)>, bool)> {
    let schema = &extension.schema;
    let sql = format!(
        "SELECT DISTINCT ON (c.kind) c.kind, r.oid, c.destination::oid = 0::oid OR c.companion::oid = 0::oid, \
             CASE WHEN r.relowner <> d.relowner THEN format('%I.%I', n.nspname, r.relname) END, \
             pg_get_userbyid(d.relowner)::text \
         FROM {schema}.matomo_companion c \
         JOIN pg_class d ON d.oid = $1 \
         JOIN pg_class r ON r.oid = CASE c.companion::oid WHEN 0::oid \
             THEN {} ELSE c.companion::oid END \
         JOIN pg_namespace n ON n.oid = r.relnamespace \
         WHERE {} ORDER BY c.kind, c.destination::oid DESC, \
             CASE c.destination::oid WHEN 0::oid THEN (SELECT max(l.read_at) FROM {schema}.matomo_ledger l \
                 WHERE l.destination::oid = 0::oid AND l.destination_name = c.destination_name) END \
             DESC NULLS LAST",
        by_name(schema, "c"),
        is_of(schema, "$1")
    );
    let (mut found, mut by_name) = (Vec::new(), false);
    extension.run(|client| {
        let args = [destination.into()];
        let rows = if now { read_now(client, &sql, &args) } else { query(client, &sql, &args) };
        for row in rows? {
            let name: Option<String> = get(&row, 1)?;
            let oid: Option<pg_sys::Oid> = get(&row, 2)?;
            by_name |= get(&row, 3)? == Some(true);
            if let Some(name) = get::<String>(&row, 4)? {
                let owner = get(&row, 5)?.unwrap_or_default();
                return Err(SiteError::CompanionOwner { name, owner }.into());
            }
            found.extend(name.as_deref().and_then(TableKind::companion).zip(oid));
        }
        Ok(())
    })?;
    found.sort_unstable_by_key(|(kind, _)| *kind);
    Ok((found, by_name))
}

/// Replaces the name of a restored companion by its OID, so that later renames are followed. Skips a row that
/// another session has locked, perhaps in a long transaction that only reads. Does nothing if days were copied
/// without this companion: the next sync then takes it and reads these days again.
fn resolve(
    extension: &Extension,
    destination: pg_sys::Oid,
    kind: TableKind,
    companion: pg_sys::Oid,
) -> Result<()> {
    let sql = format!(
        "WITH free AS (SELECT c.ctid AS place FROM {0}.matomo_companion c WHERE c.kind = $2 AND {1} \
             AND (c.destination::oid = 0::oid OR c.companion::oid = 0::oid) \
             AND cardinality(c.companion_name) < 4 AND NOT {2} AND NOT {3} \
             AND CASE c.companion::oid WHEN 0::oid THEN {4} ELSE c.companion::oid END = $3 \
             LIMIT 1 FOR UPDATE SKIP LOCKED) \
         UPDATE {0}.matomo_companion c SET destination = $1, companion = $3, destination_name = '{{}}', \
             companion_name = '{{}}' FROM free f WHERE c.ctid = f.place",
        extension.schema,
        is_of(&extension.schema, "$1"),
        is_outdated(&extension.schema, "$1"),
        has_own_days(&extension.schema, "$1"),
        by_name(&extension.schema, "c")
    );
    let args = [destination.into(), kind.name().into(), companion.into()];
    extension.run(|client| query(client, &sql, &args).map(drop))
}

/// Notes a companion. Returns the destinations that it belonged to.
fn register(
    extension: &Extension,
    destination: pg_sys::Oid,
    kind: TableKind,
    companion: pg_sys::Oid,
) -> Result<Vec<pg_sys::Oid>> {
    let table = format!("{}.matomo_companion", extension.schema);
    let forget = format!(
        "DELETE FROM {table} c WHERE c.kind = $2 AND (c.companion::oid = $3 OR {}) \
         RETURNING c.destination::oid",
        is_of(&extension.schema, "$1")
    );
    let note = format!(
        "INSERT INTO {table} (destination, kind, companion) VALUES ($1, $2, $3) \
         ON CONFLICT DO NOTHING"
    );
    let args = [destination.into(), kind.name().into(), companion.into()];
    extension.run(|client| {
        let former = values(query(client, &forget, &args)?)?;
        query(client, &note, &args)?;
        Ok(former)
    })
}

/// Makes companions of a destination that it does not have yet, as its owner's, or takes tables that are
/// there, as after `DROP EXTENSION`. Returns them, and the destinations that they were companions of.
///
/// # Errors
/// Postgres' own for a caller without the rights of the destination's owner, or for a name that is taken;
/// [`Error::MissingColumns`], [`Error::NoUniqueIndex`], [`Error::Argument`] for an unusable table.
pub fn create(
    extension: &Extension,
    destination: pg_sys::Oid,
    wanted: &[TableKind],
) -> Result<(Vec<pg_sys::Oid>, Vec<pg_sys::Oid>)> {
    let known = of(extension, destination)?;
    let missing = wanted.iter().filter(|kind| known.iter().all(|(other, _)| other != *kind));
    // An existing table that is taken was not named by the caller: reading it may run its owner's functions.
    let _owner = roles::lock_as_owner(destination).map(AsRestricted::switch_to);
    let _safe = LocalSettings::of(&[SAFE_PATH]);
    let (mut made, mut former) = (Vec::new(), Vec::new());
    let mut missing = missing.peekable();
    if missing.peek().is_some() {
        Spi::connect_mut(|client| {
            let name = name_of(client, destination)?;
            catalog::known_columns(client, destination, &name, TableKind::Actions, true).map(drop)
        })?;
    }
    for kind in missing {
        let companion = create_one(extension, destination, *kind)?;
        check(extension, companion, *kind)?;
        former.extend(register(extension, destination, *kind, companion)?);
        made.push(companion);
    }
    Ok((made, former))
}

fn create_one(
    extension: &Extension,
    destination: pg_sys::Oid,
    kind: TableKind,
) -> Result<pg_sys::Oid> {
    let sql = format!(
        "SELECT {}.matomo_create_companion($1::regclass, $2, $3::text[], $4)::oid",
        extension.schema
    );
    // The key of the table: what tells rows apart, and the visit first, by which they are found.
    let mut key = vec!["idvisit"];
    key.extend(kind.identity().iter().filter(|column| **column != "idvisit"));
    let args = [destination.into(), kind.name().into(), key.into(), kind.time().into()];
    let oid = Spi::connect_mut(|client| one::<pg_sys::Oid>(query(client, &sql, &args)?))?;
    oid.ok_or_else(|| Error::Internal("a companion that was not made".to_owned()))
}

fn name_of(client: &mut SpiClient, table: pg_sys::Oid) -> Result<String> {
    let name = one(query(client, "SELECT $1::regclass::text", &[table.into()])?)?;
    Ok(name.unwrap_or_default())
}

/// The destination of which a table, or the table that it is a partition of, is a companion.
///
/// # Errors
/// Only internal ones.
pub fn destination_of(extension: &Extension, companion: pg_sys::Oid) -> Result<Option<String>> {
    let schema = &extension.schema;
    let sql = format!(
        "SELECT d.oid::regclass::text FROM {schema}.matomo_companion c \
         JOIN pg_class d ON d.oid = CASE c.destination::oid WHEN 0::oid \
             THEN {schema}.matomo_find_table(c.destination_name)::oid ELSE c.destination::oid END \
         WHERE CASE c.companion::oid WHEN 0::oid THEN {} ELSE c.companion::oid END \
             IN (SELECT $1::oid UNION SELECT a.relid::oid FROM pg_partition_ancestors($1::oid::regclass) a)",
        by_name(schema, "c")
    );
    extension.run(|client| Ok(values(query(client, &sql, &[companion.into()])?)?.pop()))
}

/// The destination that a table is a partition or child of.
///
/// # Errors
/// Only internal ones.
pub fn root_of(extension: &Extension, table: pg_sys::Oid) -> Result<Option<String>> {
    let schema = &extension.schema;
    let sql = format!(
        "WITH RECURSIVE above AS (SELECT i.inhparent AS oid FROM pg_inherits i WHERE i.inhrelid = $1 \
             UNION SELECT i.inhparent FROM above a JOIN pg_inherits i ON i.inhrelid = a.oid) \
         SELECT a.oid::regclass::text FROM above a \
         WHERE {} OR EXISTS (SELECT FROM {schema}.matomo_companion c WHERE {}) \
         OR EXISTS (SELECT FROM (SELECT DISTINCT l.destination_name AS name FROM {schema}.matomo_ledger l \
             WHERE l.destination::oid = 0::oid) n WHERE {schema}.matomo_find_table(n.name) = a.oid)",
        has_own_days(schema, "a.oid"),
        is_of(schema, "a.oid")
    );
    extension.run(|client| Ok(values(query(client, &sql, &[table.into()])?)?.pop()))
}

/// Companions that are there and whose destination was dropped or not restored, those of one destination
/// together. Leaves out those of a table that was never synced, as anybody may create and drop one.
///
/// # Errors
/// Only internal ones.
pub fn orphans(extension: &Extension) -> Result<Vec<Vec<pg_sys::Oid>>> {
    let sql = format!(
        "SELECT array_agg(c.oid ORDER BY k.kind DESC) FROM {0}.matomo_companion k \
         JOIN pg_class c ON c.oid = CASE k.companion::oid WHEN 0::oid \
             THEN {1} ELSE k.companion::oid END \
         WHERE NOT EXISTS (SELECT FROM pg_class d WHERE d.oid = CASE k.destination::oid WHEN 0::oid \
             THEN {0}.matomo_find_table(k.destination_name)::oid ELSE k.destination::oid END) \
         AND (k.destination::oid = 0::oid OR {2}) \
         AND (c.relpersistence <> 't' OR c.relnamespace = pg_my_temp_schema()) \
         GROUP BY CASE WHEN k.destination::oid <> 0::oid THEN k.destination::oid::text \
             WHEN k.destination_name[1] = '?' THEN k.destination_name[3] ELSE k.destination_name::text END \
         ORDER BY 1",
        extension.schema,
        by_name(&extension.schema, "k"),
        may_have_days(&extension.schema, "k.destination::oid")
    );
    extension.run(|client| values(query(client, &sql, &[])?))
}

/// Checks that a table can be a companion, and is that of no other destination.
fn check(extension: &Extension, companion: pg_sys::Oid, kind: TableKind) -> Result<()> {
    let name = Spi::connect_mut(|client| {
        let name = name_of(client, companion)?;
        catalog::known_columns(client, companion, &name, kind, true)?;
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

/// Forgets companions that were dropped, and those of dropped destinations that were never synced. Notes that
/// other destinations were dropped, as a later table may get the same OID: erasures search their companions.
///
/// # Errors
/// Only internal ones.
pub fn forget_dropped(extension: &Extension) -> Result<()> {
    let schema = &extension.schema;
    let table = format!("{schema}.matomo_companion");
    let of_free = |condition: &str| is_free(schema, condition);
    let is_gone = |oid: &str| {
        format!("{oid} <> 0::oid AND NOT EXISTS (SELECT FROM pg_class r WHERE r.oid = {oid})")
    };
    let (companion, destination) = (is_gone("c.companion::oid"), is_gone("c.destination::oid"));
    let days = may_have_days(schema, "c.destination::oid");
    let is_over = format!("{companion} OR {destination} AND NOT {days}");
    let forget = format!("DELETE FROM {table} WHERE {}", of_free(&is_over));
    let note = format!(
        "UPDATE {table} SET destination = 0, destination_name = ARRAY['?', companion::oid::text, destination::oid::text] \
         WHERE {}",
        of_free(&destination)
    );
    extension.run(|client| {
        query(client, &forget, &[])?;
        query(client, &note, &[]).map(drop)
    })
}
