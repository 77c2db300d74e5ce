//! Writes batches into the destination. SPI only; the only module that writes user tables.
//!
//! A visit is replaced as a unit: of its rows, new ones are inserted, those that differ updated,
//! those that no longer exist deleted, and equal ones not touched at all: no dead row, no WAL.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{AddAssign, Range};

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiTupleTable};

use crate::destination::{Destination, query, spi};
use crate::error::{Error, Result};
use crate::fetch::Batch;
use crate::rows::{Row, VISITORID};
use crate::scope::Scope;
use crate::statements::Statements;

/// What became of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
    /// Visits with rows of which none was stored before.
    pub new_visits: i64,
}

impl AddAssign for Written {
    fn add_assign(&mut self, other: Written) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.new_visits += other.new_visits;
    }
}

/// Writes visits into one destination.
pub struct Store {
    destination: Destination,
    statements: Statements,
    /// Days, by number since 1970 in UTC, whose partitions are known to be there.
    days: HashSet<i64>,
    /// Another Matomo that has a site of the same ID in the destination.
    other_matomo: Option<String>,
    /// Whether rows of a visit may lie at any time.
    everywhere: bool,
}

/// Where a stored row lies: its partition, its ctid as text.
type Place = (u32, String);

/// What has to be done to make the stored rows equal to a batch.
#[derive(Default)]
struct Changes {
    /// Visits with rows of which none is stored.
    new_visits: i64,
    /// Visits that differ in any way.
    visits: HashSet<String>,
    /// Indexes of rows of the batch.
    insert: Vec<usize>,
    /// By partition: indexes of rows of the batch, and the ctids of the rows they replace.
    update: BTreeMap<u32, (Vec<usize>, Vec<String>)>,
    /// By partition: ctids.
    delete: BTreeMap<u32, Vec<String>>,
}

const DAY: i64 = 86_400;

/// From the year 6 to 9891.
const ALWAYS: (i64, i64) = (-62_000_000_000, 250_000_000_000);

impl Store {
    /// Prepares to write visits.
    pub fn new(destination: Destination) -> Store {
        let statements = Statements::of(&destination);
        let (days, other_matomo) = (HashSet::new(), None);
        Store { destination, statements, days, other_matomo, everywhere: false }
    }

    /// Looks for stored rows at any time, not only about when the visits were.
    pub fn everywhere(self) -> Store {
        Store { everywhere: true, ..self }
    }

    /// Looks whether stored visits are those of another Matomo, if there is one.
    pub fn wary_of(self, other_matomo: Option<String>) -> Store {
        Store { other_matomo, ..self }
    }

    /// Replaces the batch's visits.
    ///
    /// # Errors
    /// Only internal ones; Postgres' own, such as a constraint of the user's, are raised.
    pub fn write(&mut self, batch: &Batch) -> Result<Written> {
        // Triggers and defaults of the user's keep his search_path, but no row may depend on the
        // session's TimeZone: the Node tool's trigger makes weeks of it. JIT costs more than it
        // brings for a page of rows.
        let _plain = Scope::of(&[(c"timezone", c"UTC"), (c"jit", c"off")]);
        Spi::connect_mut(|client| {
            self.make_partitions(client, &batch.rows)?;
            let changes = self.compare(client, batch)?;
            let span = self.span(batch);
            let mut written = Written { new_visits: changes.new_visits, ..Written::default() };
            {
                let _by_ctid = Scope::of(&[(c"enable_seqscan", c"off")]);
                for (partition, ctids) in changes.delete {
                    let mut args = vec![pg_sys::Oid::from(partition).into(), ctids.into()];
                    args.extend(span.args());
                    written.deleted += count(query(client, &self.statements.delete, &args)?.len());
                }
                for (partition, (rows, ctids)) in changes.update {
                    let rows: Vec<_> = rows.iter().map(|index| &batch.rows[*index]).collect();
                    let mut args = columns(&rows);
                    args.extend([pg_sys::Oid::from(partition).into(), ctids.into()]);
                    args.extend(span.args());
                    written.updated += count(query(client, &self.statements.update, &args)?.len());
                }
            }
            if !changes.insert.is_empty() {
                let rows: Vec<_> = changes.insert.iter().map(|index| &batch.rows[*index]).collect();
                let inserted = query(client, &self.statements.insert, &columns(&rows))?;
                written.inserted = count(inserted.len());
            }
            Ok(written)
        })
    }

    /// Which of the batch's visits are not stored as they are.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn differing(&self, batch: &Batch) -> Result<Vec<i64>> {
        let _plain = Scope::of(&[(c"timezone", c"UTC"), (c"jit", c"off")]);
        let changes = Spi::connect_mut(|client| self.compare(client, batch))?;
        let differs = |id: &i64| changes.visits.contains(&id.to_string());
        Ok(batch.visits.iter().map(|(id, _)| *id).filter(differs).collect())
    }

    /// Removes all rows of visits.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn remove(&self, site: i32, visits: &[i64]) -> Result<()> {
        let visits: Vec<_> = visits.iter().map(i64::to_string).collect();
        let args = [vec![site.to_string()].into(), visits.into()];
        Spi::connect_mut(|client| query(client, &self.statements.remove, &args).map(drop))
    }

    /// Makes the weekly partitions that the rows need, before they are routed.
    fn make_partitions(&mut self, client: &mut SpiClient, rows: &[Row]) -> Result<()> {
        if !self.destination.key_has_time() {
            return Ok(());
        }
        // By whole days: next to partitions with the bounds of another zone the Node tool's trigger
        // looks for the week of a row's instant in UTC, which lies in the same day. Not by whole
        // weeks: the rest of one may belong to a partition of months that is still to be made.
        for day in rows.iter().map(|row| row.at.div_euclid(DAY)) {
            if self.days.insert(day) {
                let (from, to) = ((day * DAY) as f64, (day * DAY + DAY - 1) as f64);
                let args = [self.destination.oid.into(), from.into(), to.into()];
                query(client, &self.statements.make_partitions, &args)?;
            }
        }
        Ok(())
    }

    /// What differs between the batch and what is stored of its visits.
    fn compare(&self, client: &mut SpiClient, batch: &Batch) -> Result<Changes> {
        // Operators are found by search_path too. Without statistics, which a table being filled
        // does not have, the planner would read it all for each page.
        let _safe =
            Scope::of(&[(c"search_path", c"pg_catalog, pg_temp"), (c"enable_seqscan", c"off")]);
        let visits: Vec<_> = batch.visits.iter().map(|(id, _)| id.to_string()).collect();
        let sites: Vec<_> = batch.sites.iter().cloned().collect();
        let mut of_visits: Vec<DatumWithOid> = vec![sites.into(), visits.into()];
        of_visits.extend(self.span(batch).args());

        // In an import nothing is there yet, and an index tells so quickly.
        let stored =
            self.stored(query(client, &self.statements.stored_visits, &of_visits)?, batch)?;
        let mut changes = Changes::default();
        let mut compared = Vec::new();
        for (id, rows) in &batch.visits {
            if stored.contains(id) {
                compared.extend(rows.clone());
            } else {
                if !rows.is_empty() {
                    changes.new_visits += 1;
                    changes.visits.insert(id.to_string());
                }
                changes.insert.extend(rows.clone());
            }
        }
        if stored.is_empty() {
            return Ok(changes);
        }
        let rows: Vec<_> = compared.iter().map(|index| &batch.rows[*index]).collect();
        let mut args = columns(&rows);
        args.extend(of_visits);
        for row in query(client, &self.statements.compare, &args)? {
            let place = row.get::<i64>(1).map_err(spi)?;
            let index =
                place.and_then(|place| compared.get(usize::try_from(place - 1).ok()?)).copied();
            let partition = row.get::<pg_sys::Oid>(2).map_err(spi)?.map(pg_sys::Oid::to_u32);
            changes.visits.extend(row.get::<String>(4).map_err(spi)?);
            let place: Option<Place> = partition.zip(row.get::<String>(3).map_err(spi)?);
            match (index, place) {
                (Some(index), None) => changes.insert.push(index),
                (Some(index), Some((partition, ctid))) => {
                    let (rows, ctids) = changes.update.entry(partition).or_default();
                    rows.push(index);
                    ctids.push(ctid);
                }
                (None, Some((partition, ctid))) => {
                    changes.delete.entry(partition).or_default().push(ctid)
                }
                (None, None) => {
                    return Err(Error::Internal("a comparison without sides".to_owned()));
                }
            }
        }
        Ok(changes)
    }

    /// Which of the batch's visits are stored.
    ///
    /// # Errors
    /// [`Error::Collision`] when a stored visit of the same ID is another visit.
    fn stored(&self, found: SpiTupleTable, batch: &Batch) -> Result<HashSet<i64>> {
        let visitor_of =
            |rows: &Range<usize>| batch.rows.get(rows.start)?.values[VISITORID].clone();
        let with_rows = batch.visits.iter().filter(|(_, rows)| !rows.is_empty());
        let visitors: HashMap<i64, _> =
            with_rows.map(|(id, rows)| (*id, visitor_of(rows))).collect();
        let key_has = |name: &str| self.destination.key.iter().any(|column| column == name);
        let mut stored = HashSet::new();
        for row in found {
            let visit: String = row.get(1).map_err(spi)?.unwrap_or_default();
            let of_sites = row.get::<bool>(2).map_err(spi)?.unwrap_or(false);
            let site: String = row.get(3).map_err(spi)?.unwrap_or_default();
            let visitor: Option<String> = row.get(4).map_err(spi)?;
            let Ok(id) = visit.parse() else { continue };
            let other = if of_sites {
                stored.insert(id);
                // Of the same site here and there: the visitor tells whether it is the same visit.
                let is_same =
                    visitors.get(&id).is_none_or(|known| known.as_deref() == visitor.as_deref());
                self.other_matomo.clone().filter(|_| !is_same)
            } else {
                let rooms = key_has("idsite") || self.destination.key_has_time();
                (!rooms).then(|| format!("site {site}"))
            };
            if let Some(other) = other {
                return Err(Error::Collision { name: self.destination.name.clone(), visit, other });
            }
        }
        Ok(stored)
    }

    fn span(&self, batch: &Batch) -> Span {
        let span = batch.span.filter(|_| !self.everywhere).unwrap_or(ALWAYS);
        Span(self.destination.key_has_time().then_some(span))
    }
}

/// Between which instants stored rows of the batch's visits lie, where that narrows the search.
struct Span(Option<(i64, i64)>);

impl Span {
    /// A day more on each side, for rows that were stored with the other kind of time.
    fn args<'a>(&self) -> Vec<DatumWithOid<'a>> {
        self.0.map_or_else(Vec::new, |(from, to)| {
            vec![((from - DAY) as f64).into(), ((to + DAY) as f64).into()]
        })
    }
}

fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// The rows as one array a column.
fn columns<'a>(rows: &[&'a Row]) -> Vec<DatumWithOid<'a>> {
    (0..crate::rows::COLUMNS.len())
        .map(|column| {
            let values: Vec<Option<&str>> =
                rows.iter().map(|row| row.values[column].as_deref()).collect();
            values.into()
        })
        .collect()
}
