//! Visits of Matomo and the rows that are made of them, a piece that is stored at once. Pure.

use std::collections::HashMap;
use std::ops::Range;

use chrono::NaiveDate;

use crate::error::{Fault, Result};
use crate::matomo::client::Client;
use crate::matomo::json;
use crate::matomo::visit::{VISIT_KEYS, Visit};
use crate::rows::lines::Lines;
use crate::rows::mapping::{self, Site};

/// A visit as Matomo lists it, without its actions.
#[derive(Debug, Clone)]
pub struct Listed {
    /// idVisit.
    pub id: i64,
    /// In the order of [`crate::rows::mapping::VISIT_COLUMNS`].
    pub values: Vec<Option<String>>,
}

/// Visits of Matomo, ready to be stored.
#[derive(Debug, Default)]
pub struct Batch {
    /// idVisit of each visit and where its rows stand in `rows`; also of those without actions,
    /// whose old rows must go.
    pub visits: Vec<(i64, Range<usize>)>,
    /// Their rows.
    pub rows: Lines,
    /// The visitors of those without actions.
    pub bare: HashMap<i64, Option<String>>,
    /// When each visit began and ended by its own account, in seconds: its rows may not tell, as a
    /// cart goes once it is ordered.
    pub ends: HashMap<i64, [Option<i64>; 2]>,
}

fn visitor(visit: &Visit) -> Option<String> {
    let place = VISIT_KEYS.iter().position(|key| *key == "visitorId")?;
    visit.values[place].and_then(json::text)
}

/// Bytes of rows from which on a batch is handed over: so large that what each costs of its own
/// does not count, so small that a few of them are no burden.
const LARGE: usize = 2 << 20;

impl Batch {
    /// Whether it is large enough to be handed over.
    pub fn is_large(&self) -> bool {
        self.rows.size() >= LARGE
    }

    /// Adds a visit of a day, or of whichever; its rows may take no more than an answer. `from` is the
    /// instant of last resort for its actions.
    ///
    /// # Errors
    /// [`Fault::VisitTooLarge`], [`Fault::OutOfMemory`].
    pub fn add(
        &mut self,
        client: &Client,
        site: Site,
        (id, visit): (i64, &Visit),
        day: Option<NaiveDate>,
        from: i64,
    ) -> Result<()> {
        let (begin, most) = (self.rows.len(), client.max_response_size());
        let room = usize::try_from(most).unwrap_or(usize::MAX);
        if !mapping::add(&mut self.rows, visit, id, site, from, room) {
            let fault = match self.rows.is_cut() {
                true => Fault::OutOfMemory,
                false => Fault::VisitTooLarge(id, most),
            };
            return Err(client.failed(site.id, day, fault));
        }
        self.visits.push((id, begin..self.rows.len()));
        self.ends.insert(id, [visit.first, visit.last]);
        if begin == self.rows.len() {
            self.bare.insert(id, visitor(visit));
        }
        Ok(())
    }
}
