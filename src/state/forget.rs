//! Erases a visitor from all destinations, also those that the caller may not read: completely or not at
//! all. SPI only.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use pgrx::PgLogLevel;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use crate::error::{Busy, Error, Holder, Result};
use crate::pg::extension::Extension;
use crate::pg::failed::Failed;
use crate::pg::local_settings::{LocalSettings, SAFE_PATH};
use crate::pg::locks::{self, ALL_SITES, Held, Kind};
use crate::pg::report::warn;
use crate::pg::roles::{AsSiteOwner, has_rights_of};
use crate::pg::spi::{query, sees_commits, spi, values};
use crate::state::ledger;
use crate::state::restored;

/// Maximum wait for locks if the session has no `lock_timeout`.
const PATIENCE: Duration = Duration::from_secs(60);

/// A visitor, by visitor ID, user ID, or both.
pub struct Visitor<'a> {
    pub id: Option<&'a str>,
    pub account: Option<&'a str>,
}

/// A table, and the numbers of visits and actions deleted from it.
pub type Erased = (pg_sys::Oid, i64, i64);

/// Deletes all rows of a visitor, from one table or from all.
///
/// # Errors
/// [`Error::Privilege`] and [`Error::RowSecurity`] if the caller cannot delete all rows of a table; those
/// of the tables' triggers and constraints.
pub fn forget(visitor: &Visitor, only_in: Option<pg_sys::Oid>) -> Result<Vec<Erased>> {
    if !sees_commits() {
        return Err(Error::OldSnapshot);
    }
    let extension = Extension::find()?;
    let longest = locks::own_timeout().unwrap_or(PATIENCE);
    let destinations = || only_in.map_or_else(|| destinations(&extension), |oid| Ok(vec![oid]));
    // Check privileges before the wait; nothing is written until then.
    for oid in destinations()? {
        Table::find(oid)?.map_or(Ok(()), |table| table.check())?;
    }
    outwait_syncs(only_in, longest)?;
    let _bounded = locks::waits_up_to(longest);
    if only_in.is_none() {
        ledger::forget_dropped(&extension)?;
        warn_of_missing(&restored::missing(&extension)?);
    }
    let mut tables = Vec::new();
    // By now, the tables of first syncs are known.
    for oid in destinations()? {
        let Some(table) = Table::find(oid)? else { continue };
        table.check()?;
        // The lock keeps its owner, policies and triggers unchanged.
        let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
        // SAFETY: main thread, within a transaction.
        unsafe { pg_sys::LockRelationOid(oid, lock) };
        tables.extend(Table::find(oid)?);
    }
    if only_in.is_none() {
        // Deferred constraints would run without the owners' rights.
        Spi::connect_mut(|client| query(client, "SET CONSTRAINTS ALL IMMEDIATE", &[]).map(drop))?;
    }
    tables.iter().map(|table| table.erase(visitor, only_in.is_some())).collect()
}

/// Waits for all running syncs and repairs: then the rows that they have read of the visitor are visible.
/// Later ones read the current data of Matomo.
fn outwait_syncs(only_in: Option<pg_sys::Oid>, longest: Duration) -> Result<()> {
    let trees = only_in.map_or(Ok(Vec::new()), tree)?;
    // Temporary tables of other sessions are inaccessible.
    let is_out_of_reach = |oid| {
        // SAFETY: main thread, within a transaction.
        unsafe { pg_sys::isOtherTempNamespace(pg_sys::get_rel_namespace(oid)) }
    };
    let is_meant = |held: &Held| {
        let oid = pg_sys::Oid::from(held.class);
        if only_in.is_some() { trees.contains(&oid) } else { !is_out_of_reach(oid) }
    };
    let Some(held) = locks::outwait(Kind::Rows, is_meant, longest) else { return Ok(()) };
    let table = Table::find(held.class.into())?;
    let name = table.map_or_else(|| "a new table".to_owned(), |table| table.name);
    let holder = match held.pid {
        0 => Holder::Prepared(held.prepared()?.unwrap_or_default()),
        pid => Holder::Process(pid),
    };
    let is_its = |other: &Held| held.is_of_same(other) && other.class == held.class;
    let its: Vec<_> = locks::held(Kind::Rows).into_iter().filter(is_its).chain([held]).collect();
    // A sync may have a lock of all sites besides that of its own.
    let site = its.iter().map(|held| held.object.cast_signed()).max().unwrap_or(ALL_SITES);
    if its.iter().any(|held| held.is_exclusive) {
        let site = (site != ALL_SITES).then_some(site);
        return Err(Busy::StillDrops { site, name, holder }.into());
    }
    Err(Busy::StillSyncs { site, name, holder }.into())
}

/// A table, its ancestors and its partitions or children.
fn tree(oid: pg_sys::Oid) -> Result<Vec<pg_sys::Oid>> {
    let sql = "WITH RECURSIVE above AS (SELECT $1::pg_catalog.oid AS oid UNION \
                   SELECT i.inhparent FROM above a JOIN pg_catalog.pg_inherits i \
                   ON i.inhrelid OPERATOR(pg_catalog.=) a.oid), \
               below AS (SELECT $1::pg_catalog.oid AS oid UNION \
                   SELECT i.inhrelid FROM below b JOIN pg_catalog.pg_inherits i \
                   ON i.inhparent OPERATOR(pg_catalog.=) b.oid) \
               SELECT a.oid FROM above a UNION ALL SELECT b.oid FROM below b";
    Spi::connect_mut(|client| values(query(client, sql, &[oid.into()])?))
}

/// Warns that missing tables keep their rows of the visitor.
fn warn_of_missing(tables: &[String]) {
    if !tables.is_empty() {
        let names = tables.join(", ");
        warn(
            format!("tables that a dump was restored without are not searched: {names}"),
            "Restore them, then erase again; or, if they are gone for good, DELETE FROM matomo_ledger WHERE destination = 0.",
        );
    }
}

/// All tables that syncs have written to, except temporary tables of other sessions, which are
/// inaccessible and end with these.
fn destinations(extension: &Extension) -> Result<Vec<pg_sys::Oid>> {
    let schema = &extension.schema;
    let sql = format!(
        "{} SELECT c.oid FROM pg_class c WHERE c.oid IN (SELECT l.destination FROM {schema}.matomo_ledger l \
             UNION ALL SELECT {schema}.matomo_find_table(m.name) FROM missing m) \
         AND (c.relpersistence <> 't' OR c.relnamespace = pg_my_temp_schema()) ORDER BY 1",
        restored::missing_names(schema)
    );
    extension.run(|client| values(query(client, &sql, &[])?))
}

/// A table to delete rows from.
pub struct Table {
    oid: pg_sys::Oid,
    /// Schema-qualified and quoted.
    pub name: String,
    owner: pg_sys::Oid,
}

impl Table {
    /// Finds a table; `None` if it does not exist.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn find(oid: pg_sys::Oid) -> Result<Option<Table>> {
        let _safe = LocalSettings::of(&[SAFE_PATH]);
        let sql = "SELECT format('%I.%I', n.nspname, c.relname), c.relowner \
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
        Spi::connect_mut(|client| {
            let Some(row) = query(client, sql, &[oid.into()])?.next() else { return Ok(None) };
            let name: Option<String> = row.get(1).map_err(spi)?;
            let owner: Option<pg_sys::Oid> = row.get(2).map_err(spi)?;
            Ok(name.zip(owner).map(|(name, owner)| Table { oid, name, owner }))
        })
    }

    /// Checks that the current user may read and delete all of its rows.
    ///
    /// # Errors
    /// [`Error::Privilege`] and [`Error::RowSecurity`].
    pub fn check(&self) -> Result<()> {
        let _safe = LocalSettings::of(&[SAFE_PATH]);
        let sql = "SELECT concat_ws(', ', \
                       CASE WHEN NOT coalesce(has_table_privilege($1, 'SELECT'), false) AND EXISTS ( \
                           SELECT FROM pg_attribute a WHERE a.attrelid = $1 AND NOT a.attisdropped \
                           AND a.attname IN ('visitorid', 'userid', 'idsite', 'idvisit', 'action_timestamp') \
                           AND NOT has_column_privilege($1, a.attnum, 'SELECT')) THEN 'SELECT' END, \
                       CASE WHEN NOT coalesce(has_table_privilege($1, 'DELETE'), false) THEN 'DELETE' END), \
                   row_security_active($1)";
        let (missing, hides): (Option<String>, Option<bool>) = Spi::connect_mut(|client| {
            query(client, sql, &[self.oid.into()])?.first().get_two().map_err(spi)
        })?;
        match missing.filter(|missing| !missing.is_empty()) {
            Some(missing) => {
                Err(Error::Privilege { name: self.name.clone(), missing: vec![missing] })
            }
            None if hides == Some(true) => Err(Error::RowSecurity(self.name.clone())),
            None => Ok(()),
        }
    }

    /// Deletes the visitor's rows: with the caller's rights if the caller named the table, otherwise with
    /// the owner's, as the triggers are the owner's.
    fn erase(&self, visitor: &Visitor, is_named: bool) -> Result<Erased> {
        // Triggers use the session's search_path, as at an INSERT. But a caller without the owner's
        // rights could use it to make them call other functions.
        let is_trusted = is_named || has_rights_of(self.owner);
        let _owner = (!is_named).then(|| AsSiteOwner::become_(self.owner));
        let _path = (!is_trusted).then(|| LocalSettings::of(&[SAFE_PATH]));
        // Row-level security may apply to the owner too.
        self.check()?;
        let sql = format!(
            "WITH gone AS (DELETE FROM {} AS d WHERE d.visitorid OPERATOR(pg_catalog.=) $1 \
                 OR d.userid OPERATOR(pg_catalog.=) $2 RETURNING d.idsite, d.idvisit) \
             SELECT pg_catalog.count(DISTINCT (g.idsite, g.idvisit)), pg_catalog.count(*) FROM gone AS g",
            self.name
        );
        let args = [visitor.id.into(), visitor.account.into()];
        let delete = || {
            Spi::connect_mut(|client| query(client, &sql, &args)?.first().get_two().map_err(spi))
        };
        let counts: Result<(Option<i64>, Option<i64>)> =
            PgTryBuilder::new(AssertUnwindSafe(delete))
                .catch_others(|caught| self.name_in(caught))
                .execute();
        let (visits, actions) = counts?;
        // The lock prevents renaming the table, but not its schema.
        if Table::find(self.oid)?.is_none_or(|table| table.name != self.name) {
            return Err(Error::Renamed(self.name.clone()));
        }
        Ok((self.oid, visits.unwrap_or(0), actions.unwrap_or(0)))
    }

    /// Raises an error of the table's triggers or constraints again, with the name of the table.
    fn name_in<T>(&self, caught: CaughtError) -> T {
        if let CaughtError::PostgresError(report) = &caught {
            let mut failed = Failed::raised(report);
            let place = format!("Rows of table {} were to be deleted.", self.name);
            failed.detail =
                Some(failed.detail.map_or_else(|| place.clone(), |of| format!("{of} {place}")));
            failed.hint.get_or_insert_with(|| {
                "To erase elsewhere, name one table after the other as only_in.".to_owned()
            });
            failed.tell(PgLogLevel::ERROR);
        }
        caught.rethrow()
    }
}
