//! The pages of a site-day: asked for one after the other, and taken apart. Runs on a helper thread.

use std::collections::HashMap;

use chrono::NaiveDate;

use crate::error::{Error, Fault, Result};
use crate::matomo::answer;
use crate::matomo::client::{Client, VisitSelection};
use crate::matomo::memory::Body;
use crate::matomo::pager::Pager;
use crate::matomo::visit::Visit;
use crate::matomo::zone::Zone;
use crate::rows::mapping::{self, SiteContext};

/// How to read days.
#[derive(Debug, Clone, Copy)]
pub struct ReadOptions {
    pub site: SiteContext,
    /// Visits a page.
    pub page_size: u32,
    /// Pages of a day after which its reading is broken off, to go on another time.
    pub most_pages: i32,
    /// When it began.
    pub began: i64,
    /// Whether Matomo has just told the site's timezone.
    pub is_zone_known: bool,
}

/// The pages of a site-day, one request after the other.
pub struct Pages<'a> {
    client: &'a Client,
    site: SiteContext,
    day: NaiveDate,
    /// The first second of the next day, whose visits Matomo counts to this one as well.
    end: i64,
    /// When the reading began.
    now: i64,
    actions: bool,
    pager: Pager,
    more: bool,
    /// Requests so far.
    pub asked: i32,
    /// The visits of the page before.
    before: Vec<i64>,
}

/// A page taken apart.
pub struct Page<'a> {
    /// Visits by their ID, each once.
    pub visits: Vec<(i64, Visit<'a>)>,
    /// Elements of the answer.
    pub length: usize,
    /// The greatest `lastActionTimestamp` within the day and up to now.
    pub newest: Option<i64>,
}

impl<'a> Pages<'a> {
    /// The pages of a day from an instant on, with or without the visits' actions.
    pub fn new(
        client: &'a Client,
        reading: ReadOptions,
        day: NaiveDate,
        since: Option<i64>,
        actions: bool,
    ) -> Pages<'a> {
        let ReadOptions { site, page_size, began: now, .. } = reading;
        let end = day.succ_opt().map_or(i64::MAX, |next| site.zone.midnight(next));
        let pager = Pager::new(page_size, since);
        let (more, asked, before) = (true, 0, Vec::new());
        Pages { client, site, day, end, now, actions, pager, more, asked, before }
    }

    /// From which instant on another reading can go on, if there is more to come and it would not
    /// begin where this one has, nor after now.
    pub fn resume_at(&self) -> Option<i64> {
        self.pager.resume_at().filter(|since| self.more && *since <= self.now)
    }

    /// The text of the next page; `None` when there is none.
    ///
    /// # Errors
    /// Those of [`Client::visits`].
    pub fn next(&mut self, notice: &mut dyn FnMut(String)) -> Result<Option<Body>> {
        while self.more {
            self.asked += 1;
            let which = VisitSelection::Day(self.day, self.pager.page());
            let asked =
                self.client.visits(self.site.id, which, self.actions, &mut |error, retry, wait| {
                    notice(retry_line(error, retry, wait));
                });
            match asked {
                Err(error) if self.client.may_shrink(&error) && self.pager.shrink(part(&error)) => {
                    let limit = self.pager.page().limit;
                    notice(format!("matomo: {error}; asks for {limit} visits at once"));
                }
                done => return done.map(Some),
            }
        }
        Ok(None)
    }

    /// Takes the page apart and moves on.
    ///
    /// # Errors
    /// [`Fault::Unexpected`].
    pub fn read<'b>(&mut self, body: &'b str) -> Result<Page<'b>> {
        let mut page = read_page(self.client, self.site.id, Some(self.day), body)?;
        let offset = self.pager.page().offset;
        self.pager.listed(
            page.visits.iter().map(|(id, visit)| (*id, mapping::representable(visit.last))),
        );
        self.more = self.pager.advance(page.length, page.newest);
        // A server that ignores offsets would be asked without end.
        let ids: Vec<_> = page.visits.iter().map(|(id, _)| *id).collect();
        if self.more && offset > 0 && ids == self.before {
            let what = "the same page again and again";
            return Err(self.client.unexpected(self.site.id, Some(self.day), what));
        }
        self.before = ids;
        page.visits.retain(|(_, visit)| visit.last != Some(self.end));
        // Nor does a visit move the cursor that lies after the day (today's window has no end) or
        // after now, as by a tracker's clock that is ahead: others before it are still to come.
        let most = self.now.min(self.end - 1);
        let ends = page.visits.iter().filter_map(|(_, visit)| mapping::representable(visit.last));
        page.newest = ends.filter(|last| *last <= most).max();
        Ok(page)
    }
}

impl Page<'_> {
    /// Whether all visits, of which there are some, prove the site's timezone.
    pub fn proves(&self, zone: Zone) -> bool {
        let mut visits = self.agreeing(zone);
        visits.next() == Some(true) && visits.all(|agrees| agrees)
    }

    /// Whether no visit proves the site's timezone, though there are some that could.
    pub fn contradicts(&self, zone: Zone) -> bool {
        let mut visits = self.agreeing(zone);
        visits.next() == Some(false) && !visits.any(|agrees| agrees)
    }

    /// For each visit that can tell, whether the site's clock at its first or last action shows what it
    /// shows in a timezone at the visit's beginning or end.
    fn agreeing(&self, zone: Zone) -> impl Iterator<Item = bool> {
        self.visits.iter().filter_map(move |(_, visit)| {
            let clocks = || visit.actions.iter().filter_map(|action| action.wall);
            let is_at = |at: Option<i64>, wall: i64| {
                mapping::representable(at).is_some_and(|at| at + zone.offset_at(at) == wall)
            };
            let (first, last) = clocks().min().zip(clocks().max())?;
            Some(is_at(visit.first, first) || is_at(visit.last, last))
        })
    }
}

/// A request that was too much is halved; one that took all the time there is, and may take it
/// again, falls faster.
fn part(error: &Error) -> u32 {
    match error {
        Error::Request { fault: Fault::TimedOut(_), .. } => 8,
        _ => 2,
    }
}

/// Takes an answer apart.
///
/// # Errors
/// [`Fault::Unexpected`].
pub fn read_page<'a>(
    client: &Client,
    site: i32,
    day: Option<NaiveDate>,
    body: &'a str,
) -> Result<Page<'a>> {
    let list = answer::visits(body).map_err(|what| client.unexpected(site, day, &what))?;
    let mut page =
        Page { visits: Vec::with_capacity(list.len()), length: list.len(), newest: None };
    // Of a visit that comes twice the last sight counts.
    let mut places = HashMap::new();
    for visit in list {
        let id = visit.id.ok_or_else(|| client.unexpected(site, day, "a visit without idVisit"))?;
        page.newest = page.newest.max(mapping::representable(visit.last));
        match places.insert(id, page.visits.len()) {
            None => page.visits.push((id, visit)),
            Some(place) => {
                page.visits[place] = (id, visit);
                places.insert(id, place);
            }
        }
    }
    Ok(page)
}

/// The line that tells the user of a retry.
pub fn retry_line(error: &Error, retry: u32, wait: std::time::Duration) -> String {
    format!("matomo: {error}; retry {retry} in {:.1} s", wait.as_secs_f64())
}
