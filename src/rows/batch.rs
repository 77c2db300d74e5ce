//! A batch: visits of Matomo and their rows, stored at once. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use chrono::NaiveDate;

use crate::error::{Fault, Result};
use crate::matomo::client::Client;
use crate::matomo::json;
use crate::matomo::keys::visit_key;
use crate::matomo::visit::Visit;
use crate::rows::layout::Layout;
use crate::rows::lines::Lines;
use crate::rows::mapping::VisitRows;
use crate::rows::site_context::SiteContext;
use crate::rows::visit_cells::id_site;

/// The layouts of a destination and of its companions, in the order of [`TableKind`]; the first is that of the
/// destination.
pub type Layouts = Vec<Arc<Layout>>;

/// A visit as Matomo lists it, without its actions.
#[derive(Debug, Clone)]
pub struct ListedVisit {
    /// idVisit.
    pub id: i64,
    /// lastActionTimestamp.
    pub last: Option<i64>,
    /// The values of [`Layout::listed`], for each of the [`Layouts`] of actions and of visits.
    pub values: Vec<Vec<Option<String>>>,
}

/// Rows of the visits of a batch in a table.
#[derive(Debug)]
pub struct TableRows {
    pub layout: Arc<Layout>,
    /// idVisit of each visit and the range of its rows in `rows`. The range is empty for visits without
    /// rows in this table, whose stored rows are deleted.
    pub visits: Vec<(i64, Range<usize>)>,
    /// Their rows.
    pub rows: Lines,
}

/// Visits of Matomo, ready to be stored.
#[derive(Debug)]
pub struct Batch {
    /// Rows of a destination, then those of its companions.
    tables: Vec<TableRows>,
    /// visitorId of visits without actions.
    pub visitors_without_actions: HashMap<i64, Option<String>>,
    /// First and last instant of each visit as Matomo gives them, in seconds. Its rows may lack
    /// these: an abandoned cart disappears once it is ordered.
    pub ends: HashMap<i64, [Option<i64>; 2]>,
    /// Other sites than the requested one, a roll-up, that it has visits of.
    pub other_sites: BTreeSet<i64>,
    pub misfits: Misfits,
}

/// Columns, each with the number of values that it cannot hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Misfits(pub BTreeMap<String, i64>);

impl Misfits {
    fn add_all(&mut self, columns: Vec<&'static str>) {
        for column in columns {
            *self.0.entry(column.to_owned()).or_default() += 1;
        }
    }

    /// Adds those of others.
    pub fn merge(&mut self, others: &Misfits) {
        for (column, values) in &others.0 {
            *self.0.entry(column.clone()).or_default() += values;
        }
    }
}

fn visitor(visit: &Visit) -> Option<String> {
    visit.values[const { visit_key("visitorId") }].and_then(json::text)
}

/// Size of rows at which a batch is handed over: large enough that the cost per batch does not
/// matter, small enough that several fit in memory.
const HANDOVER_BYTES: usize = 4 << 20;
/// The same for the first batch of a day if none waits to be stored: the main thread has nothing to do.
const FIRST_HANDOVER_BYTES: usize = 512 << 10;

impl Batch {
    /// A batch without visits, for tables of these columns.
    pub fn new(layouts: &Layouts) -> Batch {
        let empty = |layout: &Arc<Layout>| TableRows {
            layout: Arc::clone(layout),
            visits: Vec::new(),
            rows: Lines::default(),
        };
        Batch {
            tables: layouts.iter().map(empty).collect(),
            visitors_without_actions: HashMap::new(),
            ends: HashMap::new(),
            other_sites: BTreeSet::new(),
            misfits: Misfits::default(),
        }
    }

    /// The rows of actions.
    pub fn actions(&self) -> &TableRows {
        &self.tables[0]
    }

    /// The rows of all tables, those of actions first.
    pub fn tables(&self) -> &[TableRows] {
        &self.tables
    }

    /// The visits, each with its rows of actions.
    pub fn visits(&self) -> &[(i64, Range<usize>)] {
        &self.actions().visits
    }

    /// Whether it is large enough to be handed over.
    pub fn is_large(&self) -> bool {
        self.size() >= HANDOVER_BYTES
    }

    /// Whether it is large enough to be handed over as the first one of a day.
    pub fn is_worth_storing(&self) -> bool {
        self.size() >= FIRST_HANDOVER_BYTES
    }

    fn size(&self) -> usize {
        self.tables.iter().map(|table| table.rows.size()).sum()
    }

    /// Adds a visit, or replaces it if the batch has it already. Its rows may be as large as an answer.
    /// `midnight` is the instant of actions without any time. Returns its misfits, which the batch does not
    /// count.
    ///
    /// # Errors
    /// [`Fault::VisitTooLarge`], [`Fault::OutOfMemory`].
    pub fn add(
        &mut self,
        client: &Client,
        site: SiteContext,
        (id, visit): (i64, &Visit),
        day: Option<NaiveDate>,
        midnight: i64,
    ) -> Result<Misfits> {
        if self.ends.contains_key(&id) {
            self.visitors_without_actions.remove(&id);
            // Its earlier rows stay in the text, but no range refers to them any more.
            self.tables.iter_mut().for_each(|table| table.visits.retain(|(visit, _)| *visit != id));
        }
        let max_bytes = client.max_response_size();
        let room = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let made = VisitRows::of(visit, id, site, midnight);
        let mut all = Misfits::default();
        for table in &mut self.tables {
            let begin = table.rows.len();
            match made.add(&mut table.rows, &table.layout, room) {
                Some(misfits) => all.add_all(misfits),
                None => {
                    let fault = match table.rows.is_cut() {
                        true => Fault::OutOfMemory,
                        false => Fault::VisitTooLarge(id, max_bytes),
                    };
                    return Err(client.failed(site.id, day, fault));
                }
            }
            table.visits.push((id, begin..table.rows.len()));
        }
        self.ends.insert(id, [visit.first, visit.last]);
        self.other_sites
            .extend(Some(id_site(visit, site)).filter(|other| *other != i64::from(site.id)));
        if visit.actions.is_empty() {
            self.visitors_without_actions.insert(id, visitor(visit));
        }
        Ok(all)
    }
}
