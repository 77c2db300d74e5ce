//! What differs between a batch of visits and what is stored of them. SPI only.
//!
//! Two sieves. The first reads the stored rows and compares texts: what is equal as text is equal,
//! and nearly all rows that are read again are. Only visits in which some text differs go through
//! the second, which has Postgres compare values by their types: `1.50` and `1.5` are one number.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use chrono::{DateTime, NaiveDateTime};
use memchr::memchr;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::error::{Error, Result};
use crate::pg::encoding::to_server;
use crate::pg::local_settings::Scope;
use crate::pg::spi::{query, spi};
use crate::rows::batch::Batch;
use crate::rows::lines::{self, Lines};
use crate::rows::mapping::{ACTION_TIMESTAMP, COLUMNS, VISITORID};
use crate::rows::visits_read::count;
use crate::store::row_texts::Texts;
use crate::store::statements::Statements;

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
    /// The destination.
    pub name: &'a str,
    pub statements: &'a mut Statements,
    /// The instants between which the stored rows lie, as arguments of the statements.
    pub span: Option<(f64, f64)>,
    pub lock: Lock,
}

/// Offsets of zones are multiples of it, in seconds.
const QUARTER: u64 = 900;
/// From the one end of the earth to the other.
const MOST_OFFSET: u64 = 26 * 3600;

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

/// What is stored of a visit that differs.
#[derive(Default)]
struct Differing {
    site: String,
    /// Whether it is the visit that Matomo has under that ID, as far as can be told.
    is_same: bool,
    /// Its first instant, as ISO text.
    first: String,
}

impl Comparison<'_> {
    /// Compares the batch's visits.
    ///
    /// # Errors
    /// [`Error::OtherVisit`] when a stored visit of the same ID is another visit.
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
        let args = self.of_visits(visits);
        // Texts are those of Postgres' own style, as the batch's.
        let _as_sent = Scope::of(&[(c"datestyle", c"ISO")]);
        self.statements.stored.run(client, &args)?;
        // SAFETY: read before the next query.
        let mut texts = unsafe { Texts::of_last_query() };
        let mut stored = Stored::default();
        if texts.len() == 0 {
            return Ok(stored);
        }
        let mut sieve = Sieve::of(&batch.rows);
        let mut differing: HashMap<i64, Differing> = HashMap::new();
        let visits: HashMap<i64, &Range<usize>> =
            batch.visits.iter().map(|(id, rows)| (*id, rows)).collect();
        for row in 0..texts.len() {
            let found = sieve.compare(&mut texts, row);
            let Ok(id) = found.visit.parse() else { continue };
            let is_first = stored.visits.insert(id);
            if found.is_equal {
                // Which settles it for its other rows.
                if !is_first && let Some(visit) = differing.get_mut(&id) {
                    visit.is_same = true;
                }
                continue;
            }
            let visit = differing
                .entry(id)
                .or_insert_with(|| Differing { is_same: !is_first, ..Differing::default() });
            visit.is_same = visit.is_same || may_be_of(batch, id, visits.get(&id).copied(), &found);
            if visit.first.is_empty() || found.at < visit.first {
                (visit.first, visit.site) = (found.at, found.site);
            }
        }
        if let Some((id, visit)) = differing.iter().find(|(_, visit)| !visit.is_same) {
            let day = |at: i64| DateTime::from_timestamp(at, 0).map(|at| at.date_naive());
            let asked = instants(batch, *id, visits.get(id).copied()).min();
            return Err(Error::OtherVisit {
                name: self.name.to_owned(),
                visit: *id,
                stored: (visit.site.clone(), instant(&visit.first).and_then(day)),
                asked: asked.and_then(day),
            });
        }
        stored.differing.extend(differing.keys());
        for (id, rows) in &batch.visits {
            if stored.visits.contains(id) && rows.clone().any(|row| !sieve.met[row]) {
                stored.differing.insert(*id);
            }
        }
        Ok(stored)
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
        args.extend(self.of_visits(visits.iter().map(|(id, _)| *id)));
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
    fn of_visits<'b>(&self, visits: impl Iterator<Item = i64>) -> Vec<DatumWithOid<'b>> {
        let visits: Vec<_> = visits.map(|id| id.to_string()).collect();
        let mut args = vec![visits.into()];
        args.extend(span_args(self.span));
        args
    }
}

/// Whether a stored row may be of the visit that Matomo has under that ID, not of one of before its
/// numbers began anew: it has the visitor, or an instant of it. A visitor's ID changes when he logs in,
/// a late hit may come before the first, and a cart goes when it is ordered. Kinds of time differ by the
/// offset of a zone. What is unknown proves nothing.
fn may_be_of(batch: &Batch, id: i64, rows: Option<&Range<usize>>, found: &Found) -> bool {
    let visitor = match rows.filter(|rows| !rows.is_empty()) {
        Some(rows) => batch.rows.cells(rows.start).nth(VISITORID).and_then(lines::value),
        None => batch.bare.get(&id).and_then(Option::as_deref).map(Cow::Borrowed),
    };
    let (Some(visitor), Some(stored)) = (visitor, &found.visitor) else { return true };
    let Some(at) = instant(&found.at).filter(|_| *to_server(&visitor) != **stored) else {
        return true;
    };
    instants(batch, id, rows).any(|of_visit| {
        let apart = of_visit.abs_diff(at);
        apart % QUARTER == 0 && apart <= MOST_OFFSET
    })
}

/// The instants of a visit of the batch, in seconds.
fn instants<'a>(
    batch: &'a Batch,
    id: i64,
    rows: Option<&Range<usize>>,
) -> impl Iterator<Item = i64> + 'a {
    let of_rows = &batch.rows.instants()[rows.cloned().unwrap_or_default()];
    let ends = batch.ends.get(&id).into_iter().flatten().flatten();
    of_rows.iter().chain(ends).copied()
}

/// An instant as ISO text in UTC, in seconds.
fn instant(text: &str) -> Option<i64> {
    let text = text.get(..19)?;
    let at = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok()?;
    Some(at.and_utc().timestamp())
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
    visit: String,
    site: String,
    /// `action_timestamp`.
    at: String,
    visitor: Option<Vec<u8>>,
    /// Whether it is as in the batch, in every text.
    is_equal: bool,
}

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
            match column {
                0 => {
                    line = text.and_then(|text| self.by_action.get(text)).copied();
                    cells = line.map(|line| self.rows.cells(line));
                    found.is_equal = line.is_some_and(|line| !self.met[line]);
                }
                1 => found.site = owned(text).unwrap_or_default(),
                ACTION_TIMESTAMP => found.at = owned(text).unwrap_or_default(),
                VISITORID => found.visitor = text.map(<[u8]>::to_vec),
                2 => found.visit = owned(text).unwrap_or_default(),
                _ => {}
            }
            if found.is_equal {
                let cell = cells.as_mut().and_then(Iterator::next).unwrap_or_default();
                found.is_equal = is(cell, text);
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
