//! Requests and parses the pages of a site-day. Runs on a helper thread.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::NaiveDate;

use crate::error::{Error, Fault, Result};
use crate::matomo::answer;
use crate::matomo::client::{Client, VisitSelection};
use crate::matomo::memory::Body;
use crate::matomo::pager::{Pager, Stuck};
use crate::matomo::visit::Visit;
use crate::rows::cell::representable;
use crate::rows::site_context::SiteContext;
use crate::rows::visit_cells::id_site;

/// Options for reading days.
#[derive(Debug, Clone, Copy)]
pub struct ReadOptions {
    pub site: SiteContext,
    /// Visits per page.
    pub page_size: u32,
    pub budget: Budget,
    /// Start of the reading, in Unix seconds.
    pub began: i64,
    /// Whether Matomo has just reported the site's timezone.
    pub is_zone_confirmed: bool,
}

/// How much may be read of a day before the transaction ends.
#[derive(Debug, Clone, Copy)]
pub enum Budget {
    /// All of it, as a function does.
    Unlimited,
    /// A number of pages, or what some time is enough for, as a step of a run does.
    Step { pages: i32, time: Duration, until: Instant },
}

impl Budget {
    /// The budget of a step that begins now.
    pub fn step(pages: i32, time: Duration) -> Budget {
        Budget::Step { pages, time, until: Instant::now() + time }
    }

    /// The same budget, spent from now on.
    pub fn anew(self) -> Budget {
        match self {
            Budget::Unlimited => self,
            Budget::Step { pages, time, .. } => Budget::step(pages, time),
        }
    }

    /// Whether it is spent, after so many pages.
    pub fn is_spent(&self, asked: i32) -> bool {
        match self {
            Budget::Unlimited => false,
            Budget::Step { pages, until, .. } => asked >= *pages || Instant::now() >= *until,
        }
    }
}

/// Requests the pages of a site-day, one after the other.
pub struct Pages<'a> {
    client: &'a Client,
    site: SiteContext,
    day: NaiveDate,
    /// The first second of the next day. Matomo lists its visits for this day too.
    end: i64,
    /// Start of the reading.
    now: i64,
    actions: bool,
    pager: Pager,
    more: bool,
    /// Requests so far.
    pub asked: i32,
}

/// A parsed page.
pub struct Page<'a> {
    /// Visits with their idVisit, without duplicates.
    pub visits: Vec<(i64, Visit<'a>)>,
    /// Number of elements in the answer, with duplicates.
    pub length: usize,
    /// The greatest `lastActionTimestamp` within the day and up to now.
    pub newest: Option<i64>,
}

impl<'a> Pages<'a> {
    /// The pages of a day, optionally from an instant on, with or without the visits' actions.
    pub fn new(
        client: &'a Client,
        reading: ReadOptions,
        day: NaiveDate,
        since: Option<i64>,
        actions: bool,
    ) -> Pages<'a> {
        let ReadOptions { site, page_size, began: now, .. } = reading;
        let end = site.zone.day_end(day);
        let pager = Pager::new(page_size, since);
        Pages { client, site, day, end, now, actions, pager, more: true, asked: 0 }
    }

    /// The instant from which another reading can resume, if more pages follow, and that instant is
    /// neither this reading's own start nor in the future.
    pub fn resume_at(&self) -> Option<i64> {
        self.pager.resume_at().filter(|since| self.more && *since <= self.now)
    }

    /// Whether the next page has visits of the future only. Once they are past, another reading lists
    /// them.
    pub fn has_reached_now(&self) -> bool {
        self.pager.resume_at().is_some_and(|since| since > self.now)
    }

    /// Requests the next page; `None` after the last one.
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

    /// Parses the page and advances to the next one.
    ///
    /// # Errors
    /// [`Fault::Unexpected`].
    pub fn read<'b>(&mut self, body: &'b str) -> Result<Page<'b>> {
        let mut page = read_page(self.client, self.site.id, Some(self.day), body)?;
        self.pager.listed(page.visits.iter().map(|(id, visit)| (*id, representable(visit.last))));
        self.more = self.pager.advance(page.length, page.newest);
        if let Some(stuck) = self.pager.stuck().filter(|_| self.more) {
            let what = match stuck {
                Stuck::SamePage => "the same page again and again",
                Stuck::OtherOrder => "the visits of one second in another order each time",
            };
            return Err(self.client.unexpected(self.site.id, Some(self.day), what));
        }
        page.visits.retain(|(_, visit)| visit.last != Some(self.end));
        // A visit after the day (today's window has no end) or in the future (a tracker's clock may
        // be ahead) does not move the cursor: earlier visits are still to come.
        let most = self.now.min(self.end - 1);
        let ends = page.visits.iter().filter_map(|(_, visit)| representable(visit.last));
        page.newest = ends.filter(|last| *last <= most).max();
        Ok(page)
    }
}

impl Page<'_> {
    /// Whether at least one visit confirms the site's timezone and none contradicts it.
    pub fn proves(&self, site: SiteContext) -> bool {
        let mut visits = self.agreeing(site);
        visits.next() == Some(true) && visits.all(|agrees| agrees)
    }

    /// Whether at least one visit contradicts the site's timezone and none confirms it.
    pub fn contradicts(&self, site: SiteContext) -> bool {
        let mut visits = self.agreeing(site);
        visits.next() == Some(false) && !visits.any(|agrees| agrees)
    }

    /// For each visit of the site itself with its wall clock in its actions: whether the clock at the
    /// first or last action matches the timezone at the visit's start or end.
    fn agreeing(&self, site: SiteContext) -> impl Iterator<Item = bool> {
        let is_own = move |visit: &Visit| id_site(visit, site) == i64::from(site.id);
        let own = self.visits.iter().filter(move |(_, visit)| is_own(visit));
        own.filter_map(move |(_, visit)| {
            let clocks = || visit.actions.iter().filter_map(|action| action.wall);
            let is_at = |at: Option<i64>, wall: i64| {
                representable(at).is_some_and(|at| at + site.zone.offset_at(at) == wall)
            };
            let (first, last) = clocks().min().zip(clocks().max())?;
            Some(is_at(visit.first, first) || is_at(visit.last, last))
        })
    }
}

/// Divisor of the page size after an overload. A request that timed out may do so again, so its page
/// shrinks faster.
fn part(error: &Error) -> u32 {
    match error {
        Error::Request { fault: Fault::TimedOut(_), .. } => 8,
        _ => 2,
    }
}

/// Parses an answer.
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
    // The last one of duplicates counts.
    let mut places = HashMap::new();
    for visit in list {
        let id = visit.id.ok_or_else(|| client.unexpected(site, day, "a visit without idVisit"))?;
        page.newest = page.newest.max(representable(visit.last));
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

/// The NOTICE about a retry.
pub fn retry_line(error: &Error, retry: u32, wait: std::time::Duration) -> String {
    format!("matomo: {error}; retry {retry} in {:.1} s", wait.as_secs_f64())
}
