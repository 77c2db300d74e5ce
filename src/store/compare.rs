//! Compares a batch of visits with the stored ones. SPI only.
//!
//! In two steps. The first reads the stored rows and compares texts; nearly all rows that are read
//! again are equal. Only visits with a text that differs go to the second step, in which Postgres
//! compares values by their types: `1.50` and `1.5` are one number.

mod by_key;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use chrono::{DateTime, NaiveDateTime};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::error::{Error, Result};
use crate::pg::encoding::to_server;
use crate::pg::local_settings::LocalSettings;
use crate::pg::spi::{get, query};
use crate::rows::batch::{Batch, TableRows};
use crate::rows::columns::TableKind;
use crate::rows::id_ranges::IdRanges;
use crate::rows::lines;
use crate::rows::visit_tally::count;
use crate::store::row_matcher::{RowMatcher, StoredRow};
use crate::store::row_texts::RowTexts;
use crate::store::statements::{Statements, column_arrays, span_args};

/// Where a stored row lies: its partition, its ctid as text.
type RowAddress = (u32, String);

/// The changes that make the stored rows equal to a batch.
#[derive(Default)]
pub struct Changes {
    /// Visits that have rows, none of them stored.
    pub new_visits: i64,
    /// Visits that differ in any way.
    pub visits: HashSet<i64>,
    /// Rows of the batch.
    pub insert: Vec<Range<usize>>,
    /// By partition: rows of the batch, and the ctids of the rows they replace.
    pub update: BTreeMap<u32, (Vec<usize>, Vec<String>)>,
    /// By partition: ctids.
    pub delete: BTreeMap<u32, Vec<String>>,
    /// The same where rows have no place.
    pub by_key: ChangesByKey,
}

/// Changes of stored rows, by key.
#[derive(Default)]
pub struct ChangesByKey {
    /// Visit and row of the batch.
    pub update: Vec<(i64, usize)>,
    /// Visit, instant in seconds if the key has one, and key.
    pub delete: Vec<(i64, Option<f64>, Vec<Option<String>>)>,
}

impl Changes {
    /// Whether none of the batch's visits was stored, other than by this sync.
    pub fn is_all_new(&self, table: &TableRows, written: &IdRanges) -> bool {
        let mut with_rows = table.visits.iter().filter(|(_, rows)| !rows.is_empty());
        let is_new = |(id, _): &(i64, _)| self.visits.contains(id) || written.contains(*id);
        self.replaced() == 0 && with_rows.all(is_new)
    }

    /// Number of stored rows to update or delete.
    pub fn replaced(&self) -> i64 {
        let updated = self.update.values().map(|(rows, _)| rows.len());
        let by_key = [self.by_key.update.len(), self.by_key.delete.len()];
        count(updated.chain(self.delete.values().map(Vec::len)).chain(by_key).sum())
    }
}

/// What to compare with.
pub struct Comparison<'a> {
    /// The destination.
    pub name: &'a str,
    pub statements: &'a mut Statements,
    /// The instants between which the stored rows lie, as arguments of the statements.
    pub span: Option<(f64, f64)>,
    pub lock: RowLock,
    /// Whether stored rows can be found by ctid.
    pub has_ctids: bool,
    /// Rows of the batch in this table.
    pub rows: &'a TableRows,
    /// Visits that are known to have no stored rows.
    pub new: IdRanges,
}

/// The offset of every zone is a multiple of this, in seconds.
const QUARTER: u64 = 900;
/// Greatest difference between the offsets of two zones, in seconds.
const MOST_OFFSET: u64 = 26 * 3600;

/// Which stored rows are locked until the end of the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowLock {
    No,
    /// Those of visits that differ.
    Rows,
}

/// The result of the first step.
#[derive(Default)]
struct StoredVisits {
    visits: HashSet<i64>,
    /// Those with a text that differs.
    differing: HashSet<i64>,
}

/// A stored visit that differs.
#[derive(Default)]
struct DifferingVisit {
    site: String,
    /// Whether it seems to be the same visit that Matomo has under this ID.
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
        let stored = self.stored_visits(client, batch)?;
        let mut changes = Changes::default();
        let mut compared = Vec::new();
        for (id, rows) in &self.rows.visits {
            if stored.differing.contains(id) {
                compared.push((*id, rows.clone()));
            } else if !stored.visits.contains(id) && !rows.is_empty() {
                changes.new_visits += 1;
                changes.visits.insert(*id);
                push(&mut changes.insert, rows.clone());
            }
        }
        match compared.is_empty() {
            true => {}
            false if self.has_ctids => self.by_type(client, &compared, &mut changes)?,
            false => self.by_key(client, &compared, &mut changes)?,
        }
        Ok(changes)
    }

    /// Which of the batch's visits are stored, and which of these differ in some text.
    fn stored_visits(&mut self, client: &mut SpiClient, batch: &Batch) -> Result<StoredVisits> {
        let mut stored = StoredVisits::default();
        let visits: HashMap<i64, &Range<usize>> = self
            .rows
            .visits
            .iter()
            .filter(|(id, _)| !self.new.contains(*id))
            .map(|(id, rows)| (*id, rows))
            .collect();
        if visits.is_empty() {
            return Ok(stored);
        }
        let args = self.visit_args(visits.keys().copied());
        // The batch has dates in this style.
        let _as_sent = LocalSettings::of(&[(c"datestyle", c"ISO")]);
        self.statements.select.run(client, &args)?;
        // SAFETY: read before the next query.
        let mut texts = unsafe { RowTexts::of_last_query() };
        if texts.len() == 0 {
            return Ok(stored);
        }
        let rows = visits.values().copied().cloned().flatten();
        let mut matcher = RowMatcher::of(&self.rows.rows, &self.rows.layout, rows);
        let mut differing: HashMap<i64, DifferingVisit> = HashMap::new();
        for row in 0..texts.len() {
            let found = matcher.compare(&mut texts, row);
            let Ok(id) = found.visit.parse() else { continue };
            let is_first = stored.visits.insert(id);
            if found.is_equal {
                // The visit is the same, so its other rows are too.
                if !is_first && let Some(visit) = differing.get_mut(&id) {
                    visit.is_same = true;
                }
                continue;
            }
            let visit = differing.entry(id).or_insert_with(|| DifferingVisit {
                // Whether it is the same visit is decided by the rows of actions, not by those of companions.
                is_same: !is_first || self.rows.layout.kind != TableKind::Actions,
                ..DifferingVisit::default()
            });
            visit.is_same = visit.is_same
                || may_be_same_visit(batch, self.rows, id, visits.get(&id).copied(), &found);
            if visit.first.is_empty() || found.at < visit.first {
                (visit.first, visit.site) = (found.at, found.site);
            }
        }
        if let Some((id, visit)) = differing.iter().find(|(_, visit)| !visit.is_same) {
            let day = |at: i64| DateTime::from_timestamp(at, 0).map(|at| at.date_naive());
            let asked = instants(batch, self.rows, *id, visits.get(id).copied()).min();
            return Err(Error::OtherVisit {
                name: self.name.to_owned(),
                visit: *id,
                stored: (visit.site.clone(), instant(&visit.first).and_then(day)),
                asked: asked.and_then(day),
            });
        }
        stored.differing.extend(differing.keys());
        for (id, rows) in &visits {
            if stored.visits.contains(id) && (*rows).clone().any(|row| !matcher.matched[row]) {
                stored.differing.insert(*id);
            }
        }
        Ok(stored)
    }

    /// The second step.
    fn by_type(
        &mut self,
        client: &mut SpiClient,
        visits: &[(i64, Range<usize>)],
        changes: &mut Changes,
    ) -> Result<()> {
        let rows: Vec<usize> = visits.iter().flat_map(|(_, rows)| rows.clone()).collect();
        let mut args = column_arrays(self.rows, &rows);
        args.extend(self.visit_args(visits.iter().map(|(id, _)| *id)));
        let sql = match self.lock {
            RowLock::No => &self.statements.by_ctid.compare,
            RowLock::Rows => &self.statements.by_ctid.compare_locked,
        };
        for row in query(client, sql, &args)? {
            let place = get::<i64>(&row, 1)?;
            let line = place.and_then(|place| rows.get(usize::try_from(place - 1).ok()?)).copied();
            let partition = get::<pg_sys::Oid>(&row, 2)?.map(pg_sys::Oid::to_u32);
            let visit = get::<String>(&row, 4)?;
            changes.visits.extend(visit.and_then(|id| id.parse::<i64>().ok()));
            let place: Option<RowAddress> = partition.zip(get::<String>(&row, 3)?);
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

    /// Arguments of statements that find the rows of visits.
    fn visit_args<'b>(&self, visits: impl Iterator<Item = i64>) -> Vec<DatumWithOid<'b>> {
        let visits: Vec<_> = visits.map(|id| id.to_string()).collect();
        let mut args = vec![visits.into()];
        args.extend(span_args(self.span));
        args
    }
}

/// Whether a stored row may belong to the visit that Matomo now has under this ID, and not to an
/// older visit from before Matomo's IDs restarted. It does if it has the same visitor or an instant
/// of the visit. The visitor's ID changes with a login, a late hit may precede the first one, and
/// an abandoned cart disappears once it is ordered. The two values of matomo.action_time differ by
/// the offset of a zone. Without a visitor or an instant to compare, the answer is yes.
fn may_be_same_visit(
    batch: &Batch,
    table: &TableRows,
    id: i64,
    rows: Option<&Range<usize>>,
    found: &StoredRow,
) -> bool {
    let visitor = match rows.filter(|rows| !rows.is_empty()) {
        Some(rows) => {
            let place = table.layout.position("visitorid");
            let cell = place.and_then(|place| table.rows.cells(rows.start).nth(place));
            cell.and_then(lines::value)
        }
        None => {
            batch.visitors_without_actions.get(&id).and_then(Option::as_deref).map(Cow::Borrowed)
        }
    };
    let (Some(visitor), Some(stored)) = (visitor, &found.visitor) else { return true };
    let Some(at) = instant(&found.at).filter(|_| *to_server(&visitor) != **stored) else {
        return true;
    };
    instants(batch, table, id, rows).any(|of_visit| {
        let apart = of_visit.abs_diff(at);
        apart % QUARTER == 0 && apart <= MOST_OFFSET
    })
}

/// The instants of a visit of the batch, in seconds; `rows` are its rows in the table.
fn instants<'a>(
    batch: &'a Batch,
    table: &'a TableRows,
    id: i64,
    rows: Option<&Range<usize>>,
) -> impl Iterator<Item = i64> + 'a {
    let of_rows = &table.rows.instants()[rows.cloned().unwrap_or_default()];
    let ends = batch.ends.get(&id).into_iter().flatten().flatten();
    of_rows.iter().chain(ends).copied()
}

/// An instant as ISO text in UTC, in seconds.
fn instant(text: &str) -> Option<i64> {
    let text = text.get(..19)?;
    let at = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok()?;
    Some(at.and_utc().timestamp())
}

/// Appends rows; adjacent ones become one range.
fn push(ranges: &mut Vec<Range<usize>>, rows: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == rows.start => last.end = rows.end,
        _ => ranges.push(rows),
    }
}
