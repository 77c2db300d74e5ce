//! Reads site-days from Matomo and converts them to batches of rows. Runs on a helper thread: HTTP,
//! JSON and pure Rust only.

use std::collections::HashMap;

use chrono::NaiveDate;

use crate::error::{Error, Fault, Result};
use crate::matomo::client::{Client, SiteInfo, VisitSelection};
use crate::matomo::metadata;
use crate::matomo::visit::Visit;
use crate::rows::batch::{Batch, Layouts, ListedVisit};
use crate::rows::cell::representable;
use crate::rows::site_context::SiteContext;
use crate::rows::visit_cells;
use crate::rows::visit_tally::{Counts, VisitTally};
use crate::state::day_state::Pass;
use crate::sync::helper::Outbox;
use crate::sync::pages::{Budget, Page, Pages, ReadOptions, read_page, retry_line};
use crate::sync::plan::{Due, Extent};

/// A site-day after all its pages are read, or the maximum for one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayRead {
    pub day: NaiveDate,
    /// Whether the day is now sealed.
    pub seals: bool,
    /// Which part of the day was requested.
    pub extent: Extent,
    /// Number of requests.
    pub pages: i32,
    /// Distinct visits read; includes those of earlier steps of the same reading.
    pub met: Counts,
    /// Those read in earlier steps.
    pub met_before: Counts,
    /// The greatest `lastActionTimestamp` read.
    pub newest: Option<i64>,
    /// Where the reading or the recheck resumes, if it is unfinished.
    pub rest: Option<Pass>,
    /// Start of the recheck, if it is finished.
    pub rechecked: Option<i64>,
}

/// A message from a helper thread that reads days.
#[derive(Debug)]
pub enum Message {
    /// Rows to store.
    Batch(Batch),
    /// Visits of an open day, to compare with the stored ones.
    Listed(Vec<ListedVisit>),
    /// The end of a day.
    Day(DayRead),
    /// A NOTICE for the user, for example about a retry.
    Notice(String),
    /// The last message: the site has another timezone than expected.
    ZoneChanged(SiteInfo),
    /// The last message: an error.
    Failed(Error),
}

/// Reads the days in order. An error is the last message.
pub fn days(
    client: &Client,
    mut reading: ReadOptions,
    layouts: &Layouts,
    days: Vec<Due>,
    outbox: &mut Outbox<Message>,
) {
    for due in days {
        match read_day(client, &mut reading, layouts, due, outbox) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                outbox.send(Message::Failed(error));
                return;
            }
        }
    }
}

fn read_day(
    client: &Client,
    reading: &mut ReadOptions,
    layouts: &Layouts,
    mut due: Due,
    outbox: &mut Outbox<Message>,
) -> Result<bool> {
    let ReadOptions { site, budget, began, .. } = *reading;
    let mut pages = Pages::new(client, *reading, due.day, due.extent.since(), true);
    let (mut tally, began) = match &mut due.extent {
        Extent::Rest(pass) => (pass.tally.take().unwrap_or_default(), pass.began),
        Extent::Whole | Extent::Since(_) => (VisitTally::default(), began),
    };
    let met_before = tally.counts();
    let day = (due.day, &mut pages);
    let Some((newest, rest)) = read_visits(client, reading, layouts, day, &mut tally, outbox)?
    else {
        return Ok(false);
    };
    let met = tally.counts();
    let tally = if due.extent.is_whole() { tally } else { VisitTally::default() };
    let mut rest = rest.map(|since| Pass { began, since, tally: Some(tally) });
    let (mut asked, mut rechecked) = (pages.asked, None);
    // A recheck waits until all new visits are read.
    if let Some(pass) = due.recheck.take().filter(|_| rest.is_none()) {
        let midnight = site.zone.midnight(due.day);
        let mut pages = Pages::new(client, *reading, due.day, Some(pass.since), false);
        pages.asked = asked;
        let more = list(client, &mut pages, layouts, &mut reading.site, midnight, budget, outbox)?;
        rechecked = more.is_none().then_some(pass.began);
        rest = more.map(|since| Pass { since, ..pass });
        asked = pages.asked;
    }
    let (Due { day, seals, extent, .. }, pages) = (due, asked);
    let read = DayRead { day, seals, extent, pages, met, met_before, newest, rest, rechecked };
    Ok(outbox.send(Message::Day(read)))
}

/// Reads the visits of a day page by page, at least one page. Returns the greatest `lastActionTimestamp`,
/// and the instant from which there are more; `None` if nobody waits for them any more, or the timezone
/// has changed.
fn read_visits(
    client: &Client,
    reading: &mut ReadOptions,
    layouts: &Layouts,
    (day, pages): (NaiveDate, &mut Pages),
    tally: &mut VisitTally,
    outbox: &mut Outbox<Message>,
) -> Result<Option<(Option<i64>, Option<i64>)>> {
    let ReadOptions { site, budget, .. } = *reading;
    let midnight = site.zone.midnight(day);
    let (mut newest, mut rest) = (None, None);
    let (mut batch, mut is_first) = (Batch::new(layouts), true);
    while let Some(body) = pages.next(&mut |line| {
        outbox.send(Message::Notice(line));
    })? {
        let page = pages.read(&body)?;
        if !confirm_timezone(client, reading, &page, outbox)? {
            return Ok(None);
        }
        newest = newest.max(page.newest);
        for (id, visit) in &page.visits {
            let site = site_of(client, &mut reading.site, (*id, visit), &mut |line| {
                outbox.send(Message::Notice(line));
            })?;
            let misfits = batch.add(client, site, (*id, visit), Some(day), midnight)?;
            // Pages overlap.
            if tally.insert(*id, visit.actions.len(), visit.truncated > 0) {
                batch.misfits.merge(&misfits);
            }
            let is_enough = is_first && outbox.is_empty() && batch.is_worth_storing();
            if batch.is_large() || is_enough {
                is_first = false;
                if !hand_over(&mut batch, layouts, outbox) {
                    return Ok(None);
                }
            }
        }
        // While earlier batches wait to be stored, the next page is added to this one: few large batches are
        // cheaper than many small ones.
        if outbox.is_empty() && !batch.visits().is_empty() {
            is_first = false;
            if !hand_over(&mut batch, layouts, outbox) {
                return Ok(None);
            }
        }
        if budget.is_spent(pages.asked) {
            rest = pages.resume_at();
            if rest.is_some() || pages.has_reached_now() {
                break;
            }
        }
    }
    let is_waited_for = batch.visits().is_empty() || outbox.send(Message::Batch(batch));
    Ok(is_waited_for.then_some((newest, rest)))
}

/// Asks Matomo for the site's timezone where a page leaves it in doubt, as it may have changed since
/// Matomo reported it. If it has, the reading ends, and this returns false.
fn confirm_timezone(
    client: &Client,
    reading: &mut ReadOptions,
    page: &Page,
    outbox: &mut Outbox<Message>,
) -> Result<bool> {
    let site = reading.site;
    let is_in_doubt = match reading.is_zone_confirmed {
        true => page.contradicts(site),
        false => !page.proves(site),
    };
    if is_in_doubt {
        let info = client.site(site.id, &mut |error, retry, wait| {
            outbox.send(Message::Notice(retry_line(error, retry, wait)));
        })?;
        if info.zone != site.zone {
            outbox.send(Message::ZoneChanged(info));
            return Ok(false);
        }
        reading.site.is_rollup = info.is_rollup;
    }
    reading.is_zone_confirmed = true;
    Ok(true)
}

/// Sends a batch and begins the next one. False if nobody waits for it any more.
fn hand_over(batch: &mut Batch, layouts: &Layouts, outbox: &mut Outbox<Message>) -> bool {
    let full = std::mem::replace(batch, Batch::new(layouts));
    outbox.send(Message::Batch(full))
}

/// Lists visits page by page, at least one page. Returns the instant from which there are more.
fn list(
    client: &Client,
    pages: &mut Pages,
    layouts: &Layouts,
    site: &mut SiteContext,
    midnight: i64,
    budget: Budget,
    outbox: &mut Outbox<Message>,
) -> Result<Option<i64>> {
    while let Some(body) = pages.next(&mut |line| {
        outbox.send(Message::Notice(line));
    })? {
        let page = pages.read(&body)?;
        let listed = listed(client, &page, layouts, site, midnight, &mut |line| {
            outbox.send(Message::Notice(line));
        })?;
        if !outbox.send(Message::Listed(listed)) {
            return Ok(None);
        }
        if budget.is_spent(pages.asked) {
            let rest = pages.resume_at();
            if rest.is_some() || pages.has_reached_now() {
                return Ok(rest);
            }
        }
    }
    Ok(None)
}

fn listed(
    client: &Client,
    page: &Page,
    layouts: &Layouts,
    site: &mut SiteContext,
    midnight: i64,
    notice: &mut dyn FnMut(String),
) -> Result<Vec<ListedVisit>> {
    let mut all = Vec::with_capacity(page.visits.len());
    for (id, visit) in &page.visits {
        let of_visit = site_of(client, site, (*id, visit), notice)?;
        let short = || client.failed(site.id, None, Fault::OutOfMemory);
        let of_visits = layouts.iter().filter(|layout| layout.kind.is_of_every_visit());
        let values = of_visits
            .map(|layout| visit_cells::visit_values(layout, visit, *id, of_visit, midnight));
        let values = values.collect::<Option<_>>().ok_or_else(short)?;
        all.push(ListedVisit { id: *id, last: representable(visit.last), values });
    }
    Ok(all)
}

/// Lists the visits of a site-day without their actions.
///
/// # Errors
/// Those of [`Client::visits`].
pub fn list_day(
    client: &Client,
    mut reading: ReadOptions,
    layouts: &Layouts,
    day: NaiveDate,
    notice: &mut dyn FnMut(String),
) -> Result<Vec<ListedVisit>> {
    let midnight = reading.site.zone.midnight(day);
    let mut pages = Pages::new(client, reading, day, None, false);
    let mut all = HashMap::new();
    while let Some(body) = pages.next(notice)? {
        let page =
            listed(client, &pages.read(&body)?, layouts, &mut reading.site, midnight, notice)?;
        all.extend(page.into_iter().map(|visit| (visit.id, visit)));
    }
    Ok(all.into_values().collect())
}

/// Maximum IDs per request: the segment must fit into a URL, and a visit may have many actions.
pub const IDS: usize = 50;

/// Fetches visits by ID, with or without their actions. Returns a batch and the IDs that did not fit into
/// it. IDs unknown to Matomo are in neither. `midnight` is the instant of a visit without any time.
///
/// # Errors
/// Those of [`Client::visits`].
pub fn by_id(
    client: &Client,
    mut site: SiteContext,
    layouts: &Layouts,
    (midnight, mut ids): (i64, Vec<i64>),
    actions: bool,
    notice: &mut dyn FnMut(String),
) -> Result<(Batch, Vec<i64>)> {
    let mut batch = Batch::new(layouts);
    while !ids.is_empty() && !batch.is_large() {
        let rest = ids.split_off(ids.len().min(IDS));
        let asked = std::mem::replace(&mut ids, rest);
        let which = VisitSelection::Ids(&asked);
        let body = client.visits(site.id, which, actions, &mut |error, retry, wait| {
            notice(retry_line(error, retry, wait));
        })?;
        for (id, visit) in &read_page(client, site.id, None, &body)?.visits {
            if !asked.contains(id) {
                continue;
            }
            let site = site_of(client, &mut site, (*id, visit), notice)?;
            if batch.is_large() {
                ids.push(*id);
                continue;
            }
            let misfits = batch.add(client, site, (*id, visit), None, midnight)?;
            batch.misfits.merge(&misfits);
        }
    }
    Ok((batch, ids))
}

/// The requested site as the rows of a visit need it. The visits of a roll-up are of other sites, and have
/// the timezones of these. Asks Matomo only when needed, and only once.
fn site_of(
    client: &Client,
    site: &mut SiteContext,
    (id, visit): (i64, &Visit),
    notice: &mut dyn FnMut(String),
) -> Result<SiteContext> {
    let other = visit_cells::id_site(visit, *site);
    if other == i64::from(site.id) {
        return Ok(*site);
    }
    if site.is_rollup.is_none() {
        let info = client.site(site.id, &mut |error, retry, wait| {
            notice(retry_line(error, retry, wait));
        })?;
        site.is_rollup = info.is_rollup;
    }
    if site.is_rollup != Some(true) {
        return Err(client.failed(site.id, None, Fault::OtherSite(id, other)));
    }
    let Some(child) = i32::try_from(other).ok().filter(|id| *id > 0) else { return Ok(*site) };
    Ok(SiteContext { zone: metadata::zone_of_child(client, child, site.zone)?, ..*site })
}
