//! Erases a visitor from all destinations, also those that the caller may not read: completely or not at
//! all. SPI only.

use std::collections::BTreeSet;
use std::time::Duration;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

use crate::error::{Busy, Error, LockHolder, Result};
use crate::pg::ereport::warn;
use crate::pg::extension::Extension;
use crate::pg::locks::{self, ALL_SITES, Held, LockKind};
use crate::pg::spi::{query, sees_commits, undefer, values};
use crate::rows::visit_tally::count;
use crate::state::ledger;
use crate::state::restored;
use crate::state::table::Table;
use crate::store::companions;
use crate::store::engine::ctids;
use crate::store::unregistered;

/// Maximum wait for locks if the session has no `lock_timeout`.
const PATIENCE: Duration = Duration::from_secs(60);

/// A visitor, by visitor ID, user ID, IP address, or several of these.
#[derive(Default)]
pub struct Visitor<'a> {
    pub id: Option<&'a str>,
    pub account: Option<&'a str>,
    pub ip: Option<&'a str>,
}

impl Visitor<'_> {
    /// The columns by which rows are found, and their values.
    fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let given = [("visitorid", self.id), ("userid", self.account), ("visitip", self.ip)];
        given.into_iter().filter_map(|(column, value)| value.map(|value| (column, value)))
    }

    fn columns(&self) -> impl Iterator<Item = &'static str> {
        self.given().map(|(column, _)| column)
    }
}

/// A destination or another table, with the tables of its visits, conversions and items.
struct Group {
    table: Table,
    companions: Vec<Table>,
}

/// A table, and the numbers of visits and actions deleted from it.
pub type Erased = (pg_sys::Oid, i64, i64);

/// Deletes all rows of a visitor, from one table or from all.
///
/// # Errors
/// [`Error::Privilege`] and [`Error::RowSecurity`] if the caller cannot delete all rows of a table;
/// [`crate::error::SiteError::SeenBefore`] if it may not see all; those of the tables' triggers and
/// constraints.
pub fn forget(visitor: &Visitor, only_in: Option<pg_sys::Oid>) -> Result<Vec<Erased>> {
    if !sees_commits() {
        return Err(Error::OldSnapshot);
    }
    let extension = Extension::find()?;
    let longest = locks::own_timeout().unwrap_or(PATIENCE);
    if let Some(table) = only_in {
        check_is_whole(&extension, table)?;
    }
    let is_named = only_in.is_some();
    let destinations = || match only_in {
        Some(oid) => with_companions(&extension, vec![oid]),
        None => destinations(&extension),
    };
    // Check privileges before the wait; nothing is written until then.
    let known = destinations()?;
    for oids in &known {
        Group::find(oids)?.map_or(Ok(()), |group| group.check(visitor, is_named))?;
    }
    outwait_syncs(only_in, &known.concat(), longest)?;
    let _bounded = locks::waits_up_to(longest);
    if only_in.is_none() {
        ledger::forget_dropped(&extension)?;
        warn_of_missing(&restored::missing(&extension)?, "ledger", "destination");
    }
    let missing = restored::missing_companions(&extension, only_in)?;
    warn_of_missing(&missing, "companion", "companion");
    let mut groups = Vec::new();
    // By now, the tables of first syncs are known.
    for oids in destinations()? {
        let Some(group) = Group::find(&oids)? else { continue };
        group.check(visitor, is_named)?;
        for table in group.tables() {
            // The lock keeps its owner, policies and triggers unchanged.
            let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
            // SAFETY: main thread, within a transaction.
            unsafe { pg_sys::LockRelationOid(table.oid, lock) };
        }
        let Some(group) = Group::find(&oids)? else { continue };
        // Its columns may have changed during the wait for the lock.
        group.check(visitor, is_named)?;
        groups.push(group);
    }
    for table in groups.iter().flat_map(Group::tables) {
        ctids::check_is_unseen(table.oid)?;
    }
    warn_of_unsearched(&extension, &groups)?;
    if only_in.is_none() {
        // Deferred constraints would run without the owners' rights.
        undefer()?;
    }
    groups.iter().map(|group| group.erase(visitor, is_named)).collect()
}

/// Checks that a table is not a part of a destination.
fn check_is_whole(extension: &Extension, table: pg_sys::Oid) -> Result<()> {
    let (what, destination) = match companions::destination_of(extension, table)? {
        Some(destination) => ("companion", destination),
        None => match companions::root_of(extension, table)? {
            Some(destination) => ("partition", destination),
            None => return Ok(()),
        },
    };
    Err(Error::Argument {
        message: format!("only_in is a {what} of {destination}"),
        hint: format!(
            "Give only_in => '{destination}': all of it is searched, and its companions."
        ),
    })
}

impl Group {
    /// Of a destination and its companions, or of companions without a destination.
    fn find(oids: &[pg_sys::Oid]) -> Result<Option<Group>> {
        let mut tables = Vec::new();
        for oid in oids {
            tables.extend(Table::find(*oid)?);
        }
        let mut tables = tables.into_iter();
        Ok(tables.next().map(|table| Group { table, companions: tables.collect() }))
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        std::iter::once(&self.table).chain(&self.companions)
    }

    /// Checks that all rows of the visitor can be found, and deleted by the current user.
    fn check(&self, visitor: &Visitor, is_named: bool) -> Result<()> {
        for table in self.tables() {
            table.check()?;
            table.check_temporary(is_named)?;
        }
        let mut known = Vec::new();
        for table in self.tables() {
            known.extend(table.columns()?);
        }
        let is_missing = |column: &&str| !known.iter().any(|known| known == column);
        let columns: Vec<_> = visitor.columns().filter(is_missing).map(str::to_owned).collect();
        match columns.is_empty() {
            true => Ok(()),
            false => Err(Error::MissingColumns { name: self.table.name.clone(), columns }),
        }
    }

    fn erase(&self, visitor: &Visitor, is_named: bool) -> Result<Erased> {
        let gone = self.delete(&self.table, visitor, &BTreeSet::new(), is_named)?;
        let mut actions = gone.len();
        let mut visits: BTreeSet<String> = gone.into_iter().collect();
        let of_actions = visits.clone();
        for companion in &self.companions {
            let gone = self.delete(companion, visitor, &visits, is_named)?;
            visits.extend(gone);
        }
        // The Node tool never updates a row, so rows from before a login have another visitor ID.
        actions += self.delete(&self.table, &Visitor::default(), &visits, is_named)?.len();
        // Visits that only the row of a companion says are the visitor's.
        let others: BTreeSet<_> = visits.difference(&of_actions).cloned().collect();
        for companion in self.companions.iter().filter(|_| !others.is_empty()) {
            self.delete(companion, &Visitor::default(), &others, is_named)?;
        }
        Ok((self.table.oid, count(visits.len()), count(actions)))
    }

    /// Deletes the rows of the visitor, and those of these visits; gives the visit of each.
    fn delete(
        &self,
        table: &Table,
        visitor: &Visitor,
        visits: &BTreeSet<String>,
        is_named: bool,
    ) -> Result<Vec<String>> {
        let known = table.columns()?;
        let has = |column: &str| known.iter().any(|known| known == column);
        let (mut which, mut args) = (Vec::new(), Vec::<DatumWithOid>::new());
        for (column, text) in visitor.given().filter(|(column, _)| has(column)) {
            // As it was given, and as a type other than a text shows it.
            let mut texts = vec![text.to_owned()];
            texts.extend(table.shown(column, text)?);
            args.push(texts.into());
            which.push(column);
        }
        if !visits.is_empty() {
            args.push(visits.iter().cloned().collect::<Vec<_>>().into());
            which.push("idvisit");
        }
        if which.is_empty() {
            return Ok(Vec::new());
        }
        let is_one = |(column, n): (&&str, usize)| {
            format!("d.{column}::pg_catalog.text OPERATOR(pg_catalog.=) ANY (${n})")
        };
        let which: Vec<_> = which.iter().zip(1..).map(is_one).collect();
        table.delete(&which.join(" OR "), &args, is_named)
    }
}

/// Waits for all running syncs and repairs: then the rows that they have read of the visitor are visible.
/// Later ones read the current data of Matomo. Does not wait for sessions that remove rows of
/// tables that are not `known`: anybody could do so in a table of their own, and delay erasures.
fn outwait_syncs(
    only_in: Option<pg_sys::Oid>,
    known: &[pg_sys::Oid],
    longest: Duration,
) -> Result<()> {
    let trees = only_in.map_or(Ok(Vec::new()), tree)?;
    // Temporary tables of other sessions are inaccessible.
    let is_out_of_reach = |oid| {
        // SAFETY: main thread, within a transaction.
        unsafe { pg_sys::isOtherTempNamespace(pg_sys::get_rel_namespace(oid)) }
    };
    let is_meant = |held: &Held| {
        let oid = pg_sys::Oid::from(held.class);
        let is_searched = !is_out_of_reach(oid) && (!held.is_exclusive || known.contains(&oid));
        if only_in.is_some() { trees.contains(&oid) } else { is_searched }
    };
    let Some(held) = locks::outwait(LockKind::Rows, is_meant, longest) else { return Ok(()) };
    let table = Table::find(held.class.into())?;
    let name = table.map_or_else(|| "a new table".to_owned(), |table| table.name);
    let holder = match held.pid {
        0 => LockHolder::Prepared(held.prepared()?.unwrap_or_default()),
        pid => LockHolder::Process(pid),
    };
    let is_its = |other: &Held| held.is_of_same(other) && other.class == held.class;
    let its: Vec<_> =
        locks::held(LockKind::Rows).into_iter().filter(is_its).chain([held]).collect();
    let site = its.iter().map(Held::rank).max().map_or(ALL_SITES, |(_, site)| site);
    // A first sync has made companions, too.
    if its.iter().any(|held| held.is_exclusive)
        && !its.iter().any(|held| held.is_share_update_exclusive)
    {
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

/// Warns that missing tables keep their rows of the visitor. `rows` and `column` are where they are named.
fn warn_of_missing(tables: &[String], rows: &str, column: &str) {
    if !tables.is_empty() {
        let literals: Vec<_> =
            tables.iter().map(|name| format!("'{}'", name.replace('\'', "''"))).collect();
        warn(
            format!(
                "tables that a dump was restored without are not searched: {}",
                tables.join(", ")
            ),
            &format!(
                "Restore them, then erase again; or, if they are gone for good, DELETE FROM matomo_{rows} \
                 WHERE {column} = 0 AND format('%I.%I', {column}_name[1], {column}_name[2]) IN ({}).",
                literals.join(", ")
            ),
        );
    }
}

/// Warns of tables that look like companions and keep their rows of the visitor.
fn warn_of_unsearched(extension: &Extension, groups: &[Group]) -> Result<()> {
    for Group { table, companions } in groups {
        if companions.is_empty() {
            let mut found = unregistered::companions(extension, table.oid)?;
            // Such as companions that a destination that was dropped has left.
            let is_searched =
                |oid| groups.iter().flat_map(Group::tables).any(|table| table.oid == oid);
            found.retain(|(oid, _)| !is_searched(*oid));
            unregistered::warn_of_unsearched(&table.name, &found);
        }
    }
    Ok(())
}

/// All tables that syncs have written to, a destination with its companions, except temporary tables of
/// other sessions, which are inaccessible and end with these.
fn destinations(extension: &Extension) -> Result<Vec<Vec<pg_sys::Oid>>> {
    let schema = &extension.schema;
    let sql = format!(
        "{} SELECT c.oid FROM pg_class c WHERE c.oid IN (SELECT l.destination FROM {schema}.matomo_ledger l \
             UNION ALL SELECT {schema}.matomo_find_table(m.name) FROM missing m) \
         AND (c.relpersistence <> 't' OR c.relnamespace = pg_my_temp_schema()) ORDER BY 1",
        restored::missing_names(schema)
    );
    let destinations = extension.run(|client| values(query(client, &sql, &[])?))?;
    let mut all = with_companions(extension, destinations)?;
    all.extend(companions::orphans(extension)?);
    Ok(all)
}

fn with_companions(
    extension: &Extension,
    destinations: Vec<pg_sys::Oid>,
) -> Result<Vec<Vec<pg_sys::Oid>>> {
    let with = |destination| {
        let companions = companions::of(extension, destination)?.into_iter().map(|(_, oid)| oid);
        Ok(std::iter::once(destination).chain(companions).collect())
    };
    destinations.into_iter().map(with).collect()
}
