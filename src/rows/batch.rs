//! A batch: visits of Matomo and their rows, stored at once. Pure.

use std::collections::HashMap;
use std::ops::Range;

use chrono::NaiveDate;

use crate::error::{Fault, Result};
use crate::matomo::client::Client;
use crate::matomo::json;
use crate::matomo::visit::Visit;
use crate::rows::lines::Lines;
use crate::rows::mapping::{self, SiteContext};

/// A visit as Matomo lists it, without its actions.
#[derive(Debug, Clone)]
pub struct ListedVisit {
    /// idVisit.
    pub id: i64,
    /// The values of [`crate::rows::columns::of_visit`].
    pub values: Vec<Option<String>>,
}

/// Visits of Matomo, ready to be stored.
#[derive(Debug, Default)]
pub struct Batch {
    /// idVisit of each visit and the range of its rows in `rows`. The range is empty for visits
    /// without actions, whose stored rows are deleted.
    pub visits: Vec<(i64, Range<usize>)>,
    /// Their rows.
    pub rows: Lines,
    /// visitorId of visits without actions.
    pub visitors_without_actions: HashMap<i64, Option<String>>,
    /// First and last instant of each visit as Matomo gives them, in seconds. Its rows may lack
    /// these: an abandoned cart disappears once it is ordered.
    pub ends: HashMap<i64, [Option<i64>; 2]>,
}

fn visitor(visit: &Visit) -> Option<String> {
    visit.values[const { mapping::visit_key("visitorId") }].and_then(json::text)
}

/// Size of rows at which a batch is handed over: large enough that the cost per batch does not
/// matter, small enough that several fit in memory.
const HANDOVER_BYTES: usize = 2 << 20;

impl Batch {
    /// Whether it is large enough to be handed over.
    pub fn is_large(&self) -> bool {
        self.rows.size() >= HANDOVER_BYTES
    }

    /// Adds a visit. Its rows may be as large as an answer. `from` is the instant for actions
    /// without any time.
    ///
    /// # Errors
    /// [`Fault::VisitTooLarge`], [`Fault::OutOfMemory`].
    pub fn add(
        &mut self,
        client: &Client,
        site: SiteContext,
        (id, visit): (i64, &Visit),
        day: Option<NaiveDate>,
        from: i64,
    ) -> Result<()> {
        let (begin, max_bytes) = (self.rows.len(), client.max_response_size());
        let room = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        if !mapping::add_rows(&mut self.rows, visit, id, site, from, room) {
            let fault = match self.rows.is_cut() {
                true => Fault::OutOfMemory,
                false => Fault::VisitTooLarge(id, max_bytes),
            };
            return Err(client.failed(site.id, day, fault));
        }
        self.visits.push((id, begin..self.rows.len()));
        self.ends.insert(id, [visit.first, visit.last]);
        if begin == self.rows.len() {
            self.visitors_without_actions.insert(id, visitor(visit));
        }
        Ok(())
    }
}
