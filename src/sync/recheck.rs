//! Finds visits whose stored rows differ from Matomo's list, and fetches them. For checks, and for
//! rechecks of open days. Runs on the main thread.

use std::collections::HashSet;

use crate::error::Result;
use crate::matomo::client::Client;
use crate::rows::batch::{Batch, Layouts, ListedVisit};
use crate::rows::site_context::SiteContext;
use crate::store::destination::Destination;
use crate::store::inspect::{self, Differing};
use crate::sync::fetch;
use crate::sync::on_helper;

/// Number of visits to compare per statement.
const AT_ONCE: usize = 500;

/// Finds listed visits that are missing or stale, without comparing their actions.
///
/// # Errors
/// Only internal ones.
pub fn compare(destination: &Destination, listed: &[ListedVisit]) -> Result<Differing> {
    let mut all = Differing::default();
    let of_visits = |table: &&Destination| table.layout.kind.is_of_every_visit();
    for listed in listed.chunks(AT_ONCE) {
        let mut known = HashSet::new();
        for (place, table) in destination.tables().filter(of_visits).enumerate() {
            let found = inspect::differing(table, listed, place)?;
            let mut is_new = |id: &i64| known.insert(*id);
            if place == 0 {
                all.missing.extend(found.missing.into_iter().filter(&mut is_new));
                all.stale.extend(found.stale.into_iter().filter(&mut is_new));
            } else {
                let found: Vec<_> = found.missing.into_iter().chain(found.stale).collect();
                all.in_visits.extend(&found);
                all.stale.extend(found.into_iter().filter(is_new));
            }
        }
    }
    Ok(all)
}

/// The listed visits that are missing or stale, in the same order: idVisit and `lastActionTimestamp`.
///
/// # Errors
/// Only internal ones.
pub fn differing(
    destination: &Destination,
    listed: &[ListedVisit],
) -> Result<Vec<(i64, Option<i64>)>> {
    let found = compare(destination, listed)?;
    let ids: HashSet<_> = found.missing.into_iter().chain(found.stale).collect();
    let differing = listed.iter().filter(|visit| ids.contains(&visit.id));
    Ok(differing.map(|visit| (visit.id, visit.last)).collect())
}

/// Fetches visits by ID until a batch is full, or all of them without actions. Removes their IDs from
/// `ids`. `midnight` is the instant of a visit without any time.
///
/// # Errors
/// Those of [`Client::visits`].
pub fn by_id(
    client: &Client,
    site: SiteContext,
    layouts: &Layouts,
    (midnight, ids): (i64, &mut Vec<i64>),
    actions: bool,
) -> Result<Batch> {
    let wanted = std::mem::take(ids);
    let layouts = layouts.clone();
    let (batch, left) = on_helper::ask(client, move |client, notice| {
        fetch::by_id(client, site, &layouts, (midnight, wanted), actions, notice)
    })?;
    *ids = left;
    Ok(batch)
}
