//! Finds visits whose stored rows differ from Matomo's list, and fetches them. For checks, and for
//! rechecks of open days. Runs on the main thread.

use crate::error::Result;
use crate::matomo::client::Client;
use crate::rows::batch::Batch;
use crate::rows::batch::ListedVisit;
use crate::rows::mapping::SiteContext;
use crate::store::destination::Destination;
use crate::store::inspect::{self, Differing};
use crate::sync::fetch;
use crate::sync::remote;

/// Number of visits to compare per statement.
const AT_ONCE: usize = 500;

/// Finds listed visits that are missing or stale, without comparing their actions.
///
/// # Errors
/// Only internal ones.
pub fn compare(destination: &Destination, listed: &[ListedVisit]) -> Result<Differing> {
    let mut all = Differing::default();
    for listed in listed.chunks(AT_ONCE) {
        let found = inspect::differing(destination, listed)?;
        all.missing.extend(found.missing);
        all.stale.extend(found.stale);
    }
    Ok(all)
}

/// Fetches visits by ID until a batch is full, or all of them without actions. Removes their IDs from
/// `ids`.
///
/// # Errors
/// Those of [`Client::visits`].
pub fn by_id(
    client: &Client,
    site: SiteContext,
    ids: &mut Vec<i64>,
    actions: bool,
) -> Result<Batch> {
    let wanted = std::mem::take(ids);
    let (batch, left) = remote::ask(client, move |client, notice| {
        fetch::by_id(client, site, wanted, actions, notice)
    })?;
    *ids = left;
    Ok(batch)
}
