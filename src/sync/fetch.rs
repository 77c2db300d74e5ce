//! Reads site-days from Matomo and makes batches of rows of them. Runs on a helper thread: HTTP,
//! JSON and pure Rust only.

use std::collections::HashMap;

use chrono::NaiveDate;

use crate::error::{Error, Fault, Result};
use crate::matomo::client::{Client, SiteInfo, VisitSelection};
use crate::matomo::visit::Visit;
use crate::rows::batch::Batch;
use crate::rows::batch::ListedVisit;
use crate::rows::mapping::{self, SiteContext};
use crate::rows::visit_tally::{Counts, VisitTally};
use crate::state::known::Pass;
use crate::sync::pages::ReadOptions;
use crate::sync::pages::{Page, Pages, read_page, retry_line};
use crate::sync::plan::{Due, Extent};

/// What is known of a site-day when all its pages are read, or as many as were to be read at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayRead {
    pub day: NaiveDate,
    /// Whether the day is sealed by this.
    pub seals: bool,
    /// How much of the day was asked for.
    pub part: Part,
    /// Requests made.
    pub pages: i32,
    /// The distinct visits met; those of a reading that went on, all of them.
    pub met: Counts,
    /// Of these, those met before it went on.
    pub met_before: Counts,
    /// The greatest `lastActionTimestamp` met.
    pub newest: Option<i64>,
    /// How the reading or the recheck goes on, if it has not come to its end.
    pub rest: Option<Pass>,
    /// When the recheck began that has come to its end.
    pub rechecked: Option<i64>,
}

/// A part of a site-day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it, from its beginning.
    Whole,
    /// What an unfinished reading of all of it had left.
    Rest,
    /// What is new.
    New,
}

/// What comes from the helper thread while it reads days.
#[derive(Debug)]
pub enum Message {
    /// Rows to store.
    Batch(Batch),
    /// Visits of an open day, to be compared with what is stored.
    Listed(Vec<ListedVisit>),
    /// A day is complete.
    Day(DayRead),
    /// Something went wrong for now; a line for the user.
    Notice(String),
    /// The end: the site has another timezone than was thought.
    ZoneChanged(SiteInfo),
    /// The end: something failed for good.
    Failed(Error),
}

/// Reads the days in order and hands everything to `send`, which gives false to stop; a failure
/// comes last.
pub fn days(
    client: &Client,
    mut reading: ReadOptions,
    days: Vec<Due>,
    send: &mut dyn FnMut(Message) -> bool,
) {
    for due in days {
        match read_day(client, &mut reading, due, send) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                send(Message::Failed(error));
                return;
            }
        }
    }
}

fn read_day(
    client: &Client,
    reading: &mut ReadOptions,
    due: Due,
    send: &mut dyn FnMut(Message) -> bool,
) -> Result<bool> {
    let ReadOptions { site, most_pages, began, .. } = *reading;
    let begin = site.zone.midnight(due.day);
    let mut pages = Pages::new(client, *reading, due.day, due.extent.since(), true);
    let (part, mut seen, began) = match due.extent {
        Extent::Rest(pass) => (Part::Rest, pass.seen.unwrap_or_default(), pass.began),
        Extent::Whole => (Part::Whole, VisitTally::default(), began),
        Extent::Since(_) => (Part::New, VisitTally::default(), began),
    };
    let met_before = seen.counts();
    let (mut newest, mut rest) = (None, None);
    while let Some(body) = pages.next(&mut |line| {
        send(Message::Notice(line));
    })? {
        let page = pages.read(&body)?;
        // It may have been changed since Matomo told it.
        let is_in_doubt = match reading.is_zone_known {
            true => page.contradicts(site.zone),
            false => !page.proves(site.zone),
        };
        if is_in_doubt {
            let info = client.site(site.id, &mut |error, retry, wait| {
                send(Message::Notice(retry_line(error, retry, wait)));
            })?;
            if info.zone != site.zone {
                send(Message::ZoneChanged(info));
                return Ok(false);
            }
            reading.site.is_rollup = info.is_rollup;
        }
        reading.is_zone_known = true;
        newest = newest.max(page.newest);
        let mut batch = Batch::default();
        for (id, visit) in &page.visits {
            check_site(client, &mut reading.site, (*id, visit), &mut |line| {
                send(Message::Notice(line));
            })?;
            seen.insert(*id, visit.actions.len(), visit.truncated > 0);
            batch.add(client, site, (*id, visit), Some(due.day), begin)?;
            if batch.is_large() && !send(Message::Batch(std::mem::take(&mut batch))) {
                return Ok(false);
            }
        }
        if !batch.visits.is_empty() && !send(Message::Batch(batch)) {
            return Ok(false);
        }
        rest = pages.resume_at().filter(|_| pages.asked >= most_pages);
        if rest.is_some() {
            break;
        }
    }
    let met = seen.counts();
    let seen = if part == Part::New { VisitTally::default() } else { seen };
    let mut rest = rest.map(|since| Pass { began, since, seen: Some(seen) });
    let (mut asked, mut rechecked) = (pages.asked, None);
    // Not before all is read that is new.
    if let Some(pass) = due.recheck.filter(|_| rest.is_none()) {
        let mut pages = Pages::new(client, *reading, due.day, Some(pass.since), false);
        pages.asked = asked;
        let more = list(client, &mut pages, &mut reading.site, most_pages, send)?;
        rechecked = more.is_none().then_some(pass.began);
        rest = more.map(|since| Pass { since, ..pass });
        asked = pages.asked;
    }
    let (day, seals, pages) = (due.day, due.seals, asked);
    let read = DayRead { day, seals, part, pages, met, met_before, newest, rest, rechecked };
    Ok(send(Message::Day(read)))
}

/// Lists visits page by page, a page at the least; gives from which instant on there are more.
fn list(
    client: &Client,
    pages: &mut Pages,
    site: &mut SiteContext,
    most_pages: i32,
    send: &mut dyn FnMut(Message) -> bool,
) -> Result<Option<i64>> {
    while let Some(body) = pages.next(&mut |line| {
        send(Message::Notice(line));
    })? {
        let page = pages.read(&body)?;
        let listed = listed(client, &page, site, &mut |line| {
            send(Message::Notice(line));
        })?;
        if !send(Message::Listed(listed)) {
            return Ok(None);
        }
        let rest = pages.resume_at().filter(|_| pages.asked >= most_pages);
        if rest.is_some() {
            return Ok(rest);
        }
    }
    Ok(None)
}

fn listed(
    client: &Client,
    page: &Page,
    site: &mut SiteContext,
    notice: &mut dyn FnMut(String),
) -> Result<Vec<ListedVisit>> {
    let mut all = Vec::with_capacity(page.visits.len());
    for (id, visit) in &page.visits {
        check_site(client, site, (*id, visit), notice)?;
        let short = || client.failed(site.id, None, Fault::OutOfMemory);
        let values = mapping::visit_values(visit, *id, *site).ok_or_else(short)?;
        all.push(ListedVisit { id: *id, values });
    }
    Ok(all)
}

/// The visits of a site-day without their actions.
///
/// # Errors
/// Those of [`Client::visits`].
pub fn list_day(
    client: &Client,
    mut reading: ReadOptions,
    day: NaiveDate,
    notice: &mut dyn FnMut(String),
) -> Result<Vec<ListedVisit>> {
    let mut pages = Pages::new(client, reading, day, None, false);
    let mut all = HashMap::new();
    while let Some(body) = pages.next(notice)? {
        let page = listed(client, &pages.read(&body)?, &mut reading.site, notice)?;
        all.extend(page.into_iter().map(|visit| (visit.id, visit)));
    }
    Ok(all.into_values().collect())
}

/// IDs that are asked for at once: a segment has to fit into a URL, and a visit may have many actions.
pub const IDS: usize = 50;

/// Visits by their IDs, whenever they were, with their actions if those are wanted; and the IDs of those
/// that were too much for one batch. Those that Matomo does not know are missing in both.
///
/// # Errors
/// Those of [`Client::visits`].
pub fn by_id(
    client: &Client,
    mut site: SiteContext,
    mut ids: Vec<i64>,
    actions: bool,
    notice: &mut dyn FnMut(String),
) -> Result<(Batch, Vec<i64>)> {
    let mut batch = Batch::default();
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
            check_site(client, &mut site, (*id, visit), notice)?;
            if batch.is_large() {
                ids.push(*id);
                continue;
            }
            let begin = visit.last.unwrap_or_default();
            batch.add(client, site, (*id, visit), None, begin)?;
        }
    }
    Ok((batch, ids))
}

/// Sees to it that a visit is of the site that was asked for, unless that is a roll-up; Matomo is asked
/// for that once, when it matters.
fn check_site(
    client: &Client,
    site: &mut SiteContext,
    (id, visit): (i64, &Visit),
    notice: &mut dyn FnMut(String),
) -> Result<()> {
    let other = mapping::id_site(visit, *site);
    if other == i64::from(site.id) {
        return Ok(());
    }
    if site.is_rollup.is_none() {
        let info = client.site(site.id, &mut |error, retry, wait| {
            notice(retry_line(error, retry, wait));
        })?;
        site.is_rollup = info.is_rollup;
    }
    if site.is_rollup == Some(true) {
        return Ok(());
    }
    Err(client.failed(site.id, None, Fault::OtherSite(id, other)))
}
