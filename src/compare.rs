//! What differs between a batch of visits and what is stored of them. SPI only.
//!
//! Two sieves. The first reads the stored rows and compares texts: what is equal as text is equal,
//! and nearly all rows that are read again are. Only visits in which some text differs go through
//! the second, which has Postgres compare values by their types: `1.50` and `1.5` are one number.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use memchr::memchr;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::destination::{Destination, query, spi};
use crate::encoding::to_server;
use crate::error::{Error, Other, Result};
use crate::fetch::Batch;
use crate::lines::{self, Lines};
use crate::rows::{COLUMNS, VISITORID};
use crate::scope::Scope;
use crate::seen::count;
use crate::statements::Statements;
use crate::stored::Texts;

/// Where a stored row lies: its partition, its ctid as text.
type Place = (u32, String);

/// What has to be done to make the stored rows equal to a batch.
#[derive(Default)]
pub struct Changes {
    /// Visits with rows of which none is stored.
    pub new_visits: i64,
    /// Visits that differ in any way.
    pub visits: HashSet<i64>,
    /// Rows of the batch.
    pub insert: Vec<Range<usize>>,
    /// By partition: rows of the batch, and the ctids of the rows they replace.
    pub update: BTreeMap<u32, (Vec<usize>, Vec<String>)>,
    /// By partition: ctids.
    pub delete: BTreeMap<u32, Vec<String>>,
}

impl Changes {
    /// How many stored rows are to be replaced or removed.
    pub fn replaced(&self) -> i64 {
        let updated = self.update.values().map(|(rows, _)| rows.len());
        count(updated.chain(self.delete.values().map(Vec::len)).sum())
    }
}

/// What to compare with.
pub struct Comparison<'a> {
    pub destination: &'a Destination,
    pub statements: &'a mut Statements,
    /// Another Matomo that has a site of the same ID in the destination.
    pub other_matomo: Option<&'a str>,
    /// The instants between which the stored rows lie, as arguments of the statements.
    pub span: Option<(f64, f64)>,
    pub lock: Lock,
}

/// What is locked till the end of the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    No,
    /// The stored rows of the visits that differ.
    Rows,
}

/// What the first sieve finds.
#[derive(Default)]
struct Stored {
    visits: HashSet<i64>,
    /// Of these, those of which some text differs.
    differing: HashSet<i64>,
}

impl Comparison<'_> {
    /// Compares the batch's visits.
    ///
    /// # Errors
    /// [`Error::Collision`] when a stored visit of the same ID is another visit.
    pub fn changes(&mut self, client: &mut SpiClient, batch: &Batch) -> Result<Changes> {
        let stored = self.stored(client, batch)?;
        let mut changes = Changes::default();
        let mut compared = Vec::new();
        for (id, rows) in &batch.visits {
            if stored.differing.contains(id) {
                compared.push((*id, rows.clone()));
            } else if !stored.visits.contains(id) && !rows.is_empty() {
                changes.new_visits += 1;
                changes.visits.insert(*id);
                push(&mut changes.insert, rows.clone());
            }
        }
        if !compared.is_empty() {
            self.by_type(client, batch, &compared, &mut changes)?;
        }
        Ok(changes)
    }

    /// Which of the batch's visits are stored, and which of these differ in some text.
    fn stored(&mut self, client: &mut SpiClient, batch: &Batch) -> Result<Stored> {
        let visits = batch.visits.iter().map(|(id, _)| *id);
        let args = self.of_visits(batch, visits);
        // Texts are those of Postgres' own style, as the batch's.
        let _as_sent = Scope::of(&[(c"datestyle", c"ISO")]);
        self.statements.run_stored(client, &args)?;
        // SAFETY: read before the next query.
        let mut texts = unsafe { Texts::of_last_query() };
        let mut stored = Stored::default();
        if texts.len() == 0 {
            return Ok(stored);
        }
        let with_rows = batch.visits.iter().filter(|(_, rows)| !rows.is_empty());
        let visitors: HashMap<i64, &str> = with_rows
            .filter_map(|(id, rows)| Some((*id, batch.rows.cells(rows.start).nth(VISITORID)?)))
            .collect();
        let key_has = |name: &str| self.destination.key.iter().any(|column| column == name);
        let rooms = key_has("idsite") || self.destination.key_has_time();
        let mut sieve = Sieve::of(&batch.rows);
        // Of a site that is here and there: visits of another visitor, and visits that begin as ours.
        let (mut strangers, mut begin_alike) = (HashSet::new(), HashSet::new());
        for row in 0..texts.len() {
            let found = sieve.compare(&mut texts, row);
            let Ok(id) = found.visit.parse() else { continue };
            if !found.of_sites {
                if rooms {
                    continue;
                }
                return Err(self.collision(&found.visit, Other::Site(found.site)));
            }
            stored.visits.insert(id);
            if !found.is_equal {
                stored.differing.insert(id);
            }
            if found.begins_alike {
                begin_alike.insert(id);
            }
            if visitors.get(&id).is_some_and(|known| !is(known, found.visitor.as_deref())) {
                strangers.insert(id);
            }
        }
        // The visitor tells whether it is the same visit; but his ID changes when he logs in, and
        // the visit's first action stays.
        if let Some(other) = self.other_matomo {
            let another = |id: &i64| strangers.contains(id) && !begin_alike.contains(id);
            if let Some((id, _)) = batch.visits.iter().find(|(id, _)| another(id)) {
                return Err(self.collision(&id.to_string(), Other::Matomo(other.to_owned())));
            }
        }
        for (id, rows) in &batch.visits {
            if stored.visits.contains(id) && rows.clone().any(|row| !sieve.met[row]) {
                stored.differing.insert(*id);
            }
        }
        Ok(stored)
    }

    fn collision(&self, visit: &str, other: Other) -> Error {
        let (name, visit) = (self.destination.name.clone(), visit.to_owned());
        Error::Collision { name, visit, other }
    }

    /// The second sieve.
    fn by_type(
        &mut self,
        client: &mut SpiClient,
        batch: &Batch,
        visits: &[(i64, Range<usize>)],
        changes: &mut Changes,
    ) -> Result<()> {
        let rows: Vec<usize> = visits.iter().flat_map(|(_, rows)| rows.clone()).collect();
        let mut args = columns(&batch.rows, &rows);
        args.extend(self.of_visits(batch, visits.iter().map(|(id, _)| *id)));
        let sql = match self.lock {
            Lock::No => &self.statements.compare,
            Lock::Rows => &self.statements.compare_locked,
        };
        for row in query(client, sql, &args)? {
            let place = row.get::<i64>(1).map_err(spi)?;
            let line = place.and_then(|place| rows.get(usize::try_from(place - 1).ok()?)).copied();
            let partition = row.get::<pg_sys::Oid>(2).map_err(spi)?.map(pg_sys::Oid::to_u32);
            let visit = row.get::<String>(4).map_err(spi)?;
            changes.visits.extend(visit.and_then(|id| id.parse::<i64>().ok()));
            let place: Option<Place> = partition.zip(row.get::<String>(3).map_err(spi)?);
            match (line, place) {
                (Some(line), None) => push(&mut changes.insert, line..line + 1),
                (Some(line), Some((partition, ctid))) => {
                    let (lines, ctids) = changes.update.entry(partition).or_default();
                    lines.push(line);
                    ctids.push(ctid);
                }
                (None, Some((partition, ctid))) => {
                    changes.delete.entry(partition).or_default().push(ctid);
                }
                (None, None) => {
                    return Err(Error::Internal("a comparison without sides".to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Arguments that find what is stored of visits.
    fn of_visits<'b>(
        &self,
        batch: &Batch,
        visits: impl Iterator<Item = i64>,
    ) -> Vec<DatumWithOid<'b>> {
        let visits: Vec<_> = visits.map(|id| id.to_string()).collect();
        let sites: Vec<_> = batch.sites.iter().cloned().collect();
        let mut args = vec![sites.into(), visits.into()];
        args.extend(span_args(self.span));
        args
    }
}

/// The rows of a batch by `action_id`, and which of them have been met as they are.
struct Sieve<'a> {
    rows: &'a Lines,
    by_action: HashMap<&'a [u8], usize>,
    met: Vec<bool>,
}

/// A stored row.
#[derive(Default)]
struct Found {
    of_sites: bool,
    site: String,
    visit: String,
    visitor: Option<Vec<u8>>,
    /// Whether it is as in the batch, in every text.
    is_equal: bool,
    /// Whether it is its visit's first action, and in the batch too, at the same instant.
    begins_alike: bool,
}

/// By which a visit's first action is known.
const BEGINNING: [&str; 3] = ["serverdateprettyfirstaction", "action_timestamp", "action_url"];

impl<'a> Sieve<'a> {
    fn of(rows: &'a Lines) -> Sieve<'a> {
        let action = |row: usize| rows.cells(row).next().unwrap_or_default().as_bytes();
        let by_action = (0..rows.len()).map(|row| (action(row), row)).collect();
        Sieve { rows, by_action, met: vec![false; rows.len()] }
    }

    /// Compares a stored row with that of the same `action_id`.
    fn compare(&mut self, texts: &mut Texts, row: usize) -> Found {
        let mut found = Found::default();
        let owned =
            |text: Option<&[u8]>| text.map(|text| String::from_utf8_lossy(text).into_owned());
        let (mut line, mut cells) = (None, None);
        texts.row(row, |column, text| {
            // Before the columns of the destination stands whether the row is of the sites asked for.
            let Some(column) = column.checked_sub(1) else {
                found.of_sites = text == Some(b"t");
                return;
            };
            match column {
                0 => {
                    line = text.and_then(|text| self.by_action.get(text)).copied();
                    cells = line.map(|line| self.rows.cells(line));
                    found.is_equal = line.is_some_and(|line| !self.met[line]);
                    found.begins_alike =
                        line.is_some() && text.is_some_and(|text| text.ends_with(b"_0"));
                }
                1 => found.site = owned(text).unwrap_or_default(),
                2 => found.visit = owned(text).unwrap_or_default(),
                VISITORID => found.visitor = text.map(<[u8]>::to_vec),
                _ => {}
            }
            if found.is_equal || found.begins_alike {
                let cell = cells.as_mut().and_then(Iterator::next).unwrap_or_default();
                let is_same = is(cell, text);
                found.is_equal &= is_same;
                found.begins_alike &= is_same || !BEGINNING.contains(&COLUMNS[column]);
            }
        });
        if let Some(line) = line.filter(|_| found.is_equal) {
            self.met[line] = true;
        }
        found
    }
}

/// Whether a cell means this value, which is in the database's encoding.
fn is(cell: &str, value: Option<&[u8]>) -> bool {
    match value {
        Some(value) if memchr(b'\\', cell.as_bytes()).is_none() => *to_server(cell) == *value,
        value => {
            let of_cell = lines::value(cell);
            of_cell.as_deref().map(to_server).as_deref() == value
        }
    }
}

/// Adds rows behind others; neighbours become one range.
fn push(ranges: &mut Vec<Range<usize>>, rows: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == rows.start => last.end = rows.end,
        _ => ranges.push(rows),
    }
}

/// A span as arguments of a statement, the last ones.
pub fn span_args<'a>(span: Option<(f64, f64)>) -> Vec<DatumWithOid<'a>> {
    span.map_or_else(Vec::new, |(from, to)| vec![from.into(), to.into()])
}

/// The rows as one array a column.
pub fn columns<'a>(lines: &Lines, rows: &[usize]) -> Vec<DatumWithOid<'a>> {
    let mut columns: Vec<Vec<Option<String>>> = vec![Vec::with_capacity(rows.len()); COLUMNS.len()];
    for row in rows {
        for (column, cell) in columns.iter_mut().zip(lines.cells(*row)) {
            column.push(lines::value(cell).map(Into::into));
        }
    }
    columns.into_iter().map(DatumWithOid::from).collect()
}
