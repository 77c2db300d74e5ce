//! Finds visits that are not stored as Matomo lists them, and fetches them: for checks, and for the
//! rechecks of open days. Runs on the backend's main thread.

use crate::error::Result;
use crate::matomo::client::Client;
use crate::rows::batch::Batch;
use crate::rows::batch::ListedVisit;
use crate::rows::mapping::SiteContext;
use crate::store::destination::Destination;
use crate::store::inspect::{self, Differing};
use crate::sync::fetch;
use crate::sync::remote;

/// So many listed visits are compared at once.
const AT_ONCE: usize = 500;

/// The listed visits that are missing or stale, by what Matomo tells of visits without their actions.
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

/// The visits of these IDs, which are taken away; as many as make a batch, those without their
/// actions all.
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
