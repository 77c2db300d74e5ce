//! The table that a sync writes to: found, and checked before the first request to Matomo. SPI only.

pub mod row_locks;

use std::sync::Arc;

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::error::{Error, Result, SiteError};
use crate::pg::extension::Extension;
use crate::pg::local_settings::{LocalSettings, PLANNED_ANEW, SAFE_PATH};
use crate::pg::spi::{one, query, query_kept, spi};
use crate::rows::batch::Layouts;
use crate::rows::column_type::ColumnType;
use crate::rows::columns::TableKind;
use crate::rows::layout::Layout;
use crate::store::catalog::{key, key_without_index, known_columns, missing_privileges};
use crate::store::companions;
use crate::store::engine::{Engine, ctids};
use crate::store::relation::{find, has_name, lock_mode, name_of};

/// A table that a sync can write to.
#[derive(Debug, Clone)]
pub struct Destination {
    pub oid: pg_sys::Oid,
    /// Schema-qualified and quoted, for statements.
    pub name: String,
    /// Those of the known columns that it has.
    pub layout: Arc<Layout>,
    /// The types of these columns, for casts.
    pub types: Vec<String>,
    /// The columns of the unique index that tells its rows apart. Foreign tables have no index: there,
    /// those that tell them apart as long as only syncs write.
    pub key: Vec<String>,
    /// Whether an index keeps the key unique.
    pub is_unique: bool,
    pub engine: Engine,
    /// Its tables of visits, conversions and items, in this order; a companion has none.
    pub companions: Vec<Destination>,
    pub extension: Extension,
}

impl Destination {
    /// Finds the table by the caller's search_path, and checks that a sync can write to it. `create` gets
    /// the name of a table that does not exist, and the extension's schema.
    ///
    /// # Errors
    /// [`Error::NoDestination`] and its siblings, those of `create`; Postgres' own for an impossible name.
    pub fn open_or_create(
        name: &str,
        create: impl FnOnce(&mut SpiClient, &str, &str) -> Result<pg_sys::Oid>,
    ) -> Result<Destination> {
        Destination::open_with(name, true, create)
    }

    /// The same for an existing table, which may be opened read-only.
    ///
    /// # Errors
    /// [`Error::NoDestination`] and its siblings.
    pub fn open(name: &str, to_write: bool) -> Result<Destination> {
        Destination::open_with(name, to_write, |_, name, _| {
            Err(Error::NoDestination(name.to_owned()))
        })
    }

    /// Opens a table by its OID; `None` if it no longer exists.
    ///
    /// # Errors
    /// The siblings of [`Error::NoDestination`].
    pub fn open_known(oid: pg_sys::Oid) -> Result<Option<Destination>> {
        let extension = Extension::find()?;
        // SAFETY: main thread, within a transaction.
        unsafe { pg_sys::LockRelationOid(oid, lock_mode(true)) };
        Spi::connect_mut(|client| check(client, oid, true, extension))
    }

    fn open_with(
        name: &str,
        to_write: bool,
        create: impl FnOnce(&mut SpiClient, &str, &str) -> Result<pg_sys::Oid>,
    ) -> Result<Destination> {
        let extension = Extension::find()?;
        Spi::connect_mut(|client| {
            let oid = match find(name, to_write) {
                Some(oid) => oid,
                None => create(client, name, &extension.schema)?,
            };
            let found = check(client, oid, to_write, extension)?;
            found.ok_or_else(|| Error::NoDestination(name.to_owned()))
        })
    }

    /// Checks that the name still refers to this table: statements use the name, `COPY` the OID.
    /// The lock prevents renaming the table, but not its schema.
    ///
    /// # Errors
    /// [`Error::Renamed`].
    pub fn check_name(&self) -> Result<()> {
        if has_name(self.oid, &self.name)? {
            return Ok(());
        }
        Err(Error::Renamed(self.name.clone()))
    }

    /// Itself and its companions.
    pub fn tables(&self) -> impl Iterator<Item = &Destination> {
        std::iter::once(self).chain(&self.companions)
    }

    /// Its table of visits.
    pub fn visits(&self) -> Option<&Destination> {
        self.companions.iter().find(|table| table.layout.kind == TableKind::Visits)
    }

    /// The layouts of these tables.
    pub fn layouts(&self) -> Layouts {
        self.tables().map(|table| Arc::clone(&table.layout)).collect()
    }

    /// The type of a column in this table, for casts.
    pub fn type_of(&self, column: &str) -> &str {
        self.layout.position(column).map_or("pg_catalog.text", |place| &self.types[place])
    }

    /// Whether a column is one of the key.
    pub fn is_key(&self, column: &str) -> bool {
        self.key.iter().any(|key| key == column)
    }

    /// Whether the key has the time of a row, so that a span of instants can limit the search.
    pub fn key_has_time(&self) -> bool {
        self.is_key(self.layout.kind.time())
    }

    /// Whether the table has no row, of any site. False where a policy may hide rows.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn is_empty(&self) -> Result<bool> {
        if self.is_hidden()? {
            return Ok(false);
        }
        // A statement of its own, as Citus plans it.
        let sql = format!("SELECT 1 FROM {} LIMIT 1", self.name);
        let _planned_anew = LocalSettings::of(&[PLANNED_ANEW]);
        Spi::connect_mut(|client| Ok(query(client, &sql, &[])?.is_empty()))
    }

    /// Names of those of these tables that have rows.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn filled(&self) -> Result<Vec<String>> {
        let mut filled = Vec::new();
        for table in self.tables() {
            if !table.is_empty()? {
                filled.push(table.name.clone());
            }
        }
        Ok(filled)
    }

    /// Whether a policy may hide rows from the current user.
    fn is_hidden(&self) -> Result<bool> {
        let sql = "SELECT 1 WHERE pg_catalog.row_security_active($1)";
        Spi::connect_mut(|client| Ok(!query(client, sql, &[self.oid.into()])?.is_empty()))
    }

    /// Checks that no policy hides rows of any of these tables from the current user, who would take them
    /// for missing. The locks keep it so.
    ///
    /// # Errors
    /// [`Error::RowSecurity`].
    pub fn check_is_whole(&self) -> Result<()> {
        for table in self.tables() {
            if table.is_hidden()? {
                return Err(Error::RowSecurity(table.name.clone()));
            }
        }
        Ok(())
    }

    /// Checks that rows of foreign tables can be changed one by one.
    ///
    /// # Errors
    /// [`crate::error::SiteError::SharedCtids`].
    pub fn check_ctids(&self) -> Result<()> {
        // Citus may know a table that has a foreign partition, too.
        let mut others = self.tables().filter(|table| !table.engine.is_heap());
        others.try_for_each(|table| ctids::check(table.oid))
    }

    /// `action_timestamp` of the site's newest row, in seconds since 1970.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn newest(&self, site: i32) -> Result<Option<i64>> {
        let sql = format!(
            "SELECT pg_catalog.floor(pg_catalog.date_part('epoch', d.action_timestamp))::pg_catalog.int8 \
             FROM {} AS d WHERE d.idsite OPERATOR(pg_catalog.=) $1::{} \
             ORDER BY d.action_timestamp DESC NULLS LAST LIMIT 1",
            self.name,
            self.type_of("idsite")
        );
        let _planned_anew = LocalSettings::of(&[PLANNED_ANEW]);
        Spi::connect_mut(|client| one(query(client, &sql, &[site.to_string().into()])?))
    }
}

/// Checks a table that is locked, and its companions; `None` when it is gone.
fn check(
    client: &mut SpiClient,
    oid: pg_sys::Oid,
    to_write: bool,
    extension: Extension,
) -> Result<Option<Destination>> {
    let found = check_one(client, oid, TableKind::Actions, to_write, extension.clone())?;
    let Some(mut destination) = found else { return Ok(None) };
    for (kind, companion) in companions::of(&extension, oid)? {
        // SAFETY: main thread, within a transaction.
        unsafe { pg_sys::LockRelationOid(companion, lock_mode(to_write)) };
        let found = check_one(client, companion, kind, to_write, extension.clone())?;
        destination.companions.extend(found);
    }
    if to_write && destination.tables().any(|table| table.engine == Engine::Citus) {
        // In this transaction one connection for each worker, not one for each shard: several times as
        // fast for batches.
        let sql =
            "SELECT pg_catalog.set_config('citus.multi_shard_modify_mode', 'sequential', true)";
        query(client, sql, &[])?;
    }
    Ok(Some(destination))
}

/// Checks a table with rows of a kind that is locked; `None` when it is gone.
fn check_one(
    client: &mut SpiClient,
    oid: pg_sys::Oid,
    of: TableKind,
    to_write: bool,
    extension: Extension,
) -> Result<Option<Destination>> {
    let _names_in_full = LocalSettings::of(&[SAFE_PATH]);
    let Some(name) = name_of(oid)? else { return Ok(None) };
    // 28: INSERT, UPDATE and DELETE, as 1 << CMD_INSERT and so on.
    let sql = "SELECT CASE WHEN c.relkind = 'f' AND NOT EXISTS (SELECT FROM pg_foreign_table t \
                       JOIN pg_foreign_server s ON s.oid = t.ftserver JOIN pg_foreign_data_wrapper w \
                       ON w.oid = s.srvfdw WHERE t.ftrelid = c.oid AND w.fdwhandler <> 0) THEN 'x' \
                   WHEN c.relkind = 'f' AND pg_relation_is_updatable(c.oid, false) & 28 <> 28 THEN 'x' \
                   ELSE c.relkind::text END, \
               c.relpersistence = 't' AND c.relowner <> quote_ident(current_user)::regrole \
               FROM pg_class c WHERE c.oid = $1";
    let found = query_kept(client, sql, &[oid.into()])?;
    if found.is_empty() {
        return Err(Error::TooNew(format!("table {name}")));
    }
    let (relkind, foreign) = found.first().get_two::<String, bool>().map_err(spi)?;
    let kind = match relkind.as_deref() {
        Some("r" | "p" | "f") => None,
        Some("v") => Some("a view"),
        Some("m") => Some("a materialized view"),
        Some("x") if !to_write => None,
        Some("x") => Some("a foreign table whose server does not allow INSERT, UPDATE and DELETE"),
        Some("S") => Some("a sequence"),
        Some("i" | "I") => Some("an index"),
        _ => Some("not a table"),
    };
    if let Some(kind) = kind {
        return Err(Error::NotATable { name, kind });
    }
    // Another role's temporary table would hide the table of that name, and its triggers would run
    // with the rights of a SECURITY DEFINER function that calls us.
    if foreign == Some(true) {
        return Err(Error::Privilege { name, missing: vec!["ownership".to_owned()] });
    }
    let (layout, types) = known_columns(client, oid, &name, of, to_write)?;
    let missing = missing_privileges(client, oid, to_write)?;
    if !missing.is_empty() {
        return Err(Error::Privilege { name, missing });
    }
    let engine = Engine::of(client, oid)?;
    let (key, is_unique) = match key(client, oid, &name, of) {
        Err(Error::NoUniqueIndex { .. }) if engine == Engine::Foreign => {
            (key_without_index(of, relkind.as_deref() == Some("p")), false)
        }
        found => (found?, true),
    };
    let column = layout.kind.time();
    let is_local = |at: usize| layout.slots()[at].kind == ColumnType::Timestamp;
    if engine == Engine::Citus && layout.position(column).is_some_and(is_local) {
        return Err(SiteError::NoTimezone { table: name, column }.into());
    }
    let companions = Vec::new();
    Ok(Some(Destination {
        oid,
        name,
        layout,
        types,
        key,
        is_unique,
        engine,
        companions,
        extension,
    }))
}
