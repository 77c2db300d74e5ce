//! Reads site-days from Matomo and makes batches of rows of them. Runs on a helper thread: HTTP,
//! JSON and pure Rust only.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde_json::value::RawValue;

use crate::client::{Client, SiteInfo};
use crate::error::{Error, Result};
use crate::pager::Pager;
use crate::plan::Due;
use crate::rows::{self, Row, Site};
use crate::visit::Visit;

/// A page's visits, ready to be stored.
#[derive(Debug, Default)]
pub struct Batch {
    /// idVisit of each visit and where its rows stand in `rows`; also of those without actions,
    /// whose old rows must go.
    pub visits: Vec<(i64, Range<usize>)>,
    /// Their rows.
    pub rows: Vec<Row>,
    /// Between which instants their rows lie or may have lain, in seconds.
    pub span: Option<(i64, i64)>,
}

/// What is known of a site-day when all its pages are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayRead {
    /// The day, and how much of it was to be read.
    pub due: Due,
    /// Requests made.
    pub pages: i32,
    /// Distinct visits.
    pub visits: i64,
    /// Their actions, as Matomo listed them.
    pub actions: i64,
    /// Visits of which Matomo listed only the first actions.
    pub truncated_visits: i64,
    /// The greatest `lastActionTimestamp` met.
    pub newest: Option<i64>,
}

/// What comes from the helper thread.
#[derive(Debug)]
pub enum News {
    /// What Matomo knows of the site.
    Site(SiteInfo),
    /// Rows to store.
    Batch(Batch),
    /// A day is complete.
    Day(DayRead),
    /// A request failed and is asked again; a line for the user.
    Retry(String),
    /// The end: something failed for good.
    Failed(Error),
}

/// Asks for the site and hands the answer, or the failure, to `send`.
pub fn site(client: &Client, site: i32, send: &mut dyn FnMut(News) -> bool) {
    let asked = client.site(site, &mut |error, retry, wait| {
        send(News::Retry(retry_line(error, retry, wait)));
    });
    send(asked.map_or_else(News::Failed, News::Site));
}

/// Reads the days in order and hands everything to `send`, which gives false to stop; a failure
/// comes last.
pub fn days(
    client: &Client,
    site: Site,
    days: &[Due],
    page_size: u32,
    send: &mut dyn FnMut(News) -> bool,
) {
    for due in days {
        match read_day(client, site, *due, page_size, send) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                send(News::Failed(error));
                return;
            }
        }
    }
}

fn read_day(
    client: &Client,
    site: Site,
    due: Due,
    page_size: u32,
    send: &mut dyn FnMut(News) -> bool,
) -> Result<bool> {
    let day = due.day;
    let begin = site.zone.midnight(day);
    let end = day.succ_opt().map_or(i64::MAX, |next| site.zone.midnight(next));
    let mut pager = Pager::new(page_size, due.since);
    // Per visit its actions and whether it was cut; the last sight of a visit counts.
    let mut seen: HashMap<i64, (usize, bool)> = HashMap::new();
    let (mut pages, mut newest) = (0, None);
    loop {
        let asked = client.visits(site.id, day, pager.page(), &mut |error, retry, wait| {
            send(News::Retry(retry_line(error, retry, wait)));
        });
        pages += 1;
        let body = match asked {
            Err(error) if error.is_overload() && pager.halve() => {
                let limit = pager.page().limit;
                send(News::Retry(format!("matomo: {error}; asks for {limit} visits at once")));
                continue;
            }
            done => done?,
        };
        let list: Vec<&RawValue> = serde_json::from_str(&body).map_err(|error| {
            client.unexpected(site.id, day, &format!("it breaks off or is no JSON: {error}"))
        })?;
        let visits: Vec<_> = list.iter().map(|raw| Visit::read(raw)).collect();
        let newest_of_page = visits.iter().filter_map(|visit| visit.last).max();
        let more = pager.advance(visits.len(), newest_of_page);
        newest = newest.max(newest_of_page);

        // Matomo counts the first second of the next day as well; the visit is of that day.
        let of_day = visits.iter().filter(|visit| visit.last != Some(end));
        let (mut batch, mut met) = (Batch::default(), HashSet::new());
        for visit in of_day {
            let id = visit
                .id
                .ok_or_else(|| client.unexpected(site.id, day, "a visit without idVisit"))?;
            // Twice in one page: once will do.
            if !met.insert(id) {
                continue;
            }
            let rows = rows::rows(visit, id, site, begin);
            seen.insert(id, (rows.len(), visit.truncated > 0));
            batch.add(visit, id, rows, site);
        }
        if !batch.visits.is_empty() && !send(News::Batch(batch)) {
            return Ok(false);
        }
        if !more {
            break;
        }
    }
    Ok(send(News::Day(DayRead {
        due,
        pages,
        newest,
        visits: count(seen.len()),
        actions: count(seen.values().map(|(actions, _)| actions).sum()),
        truncated_visits: count(seen.values().filter(|(_, cut)| *cut).count()),
    })))
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Batch {
    fn add(&mut self, visit: &Visit, id: i64, rows: Vec<Row>, site: Site) {
        // The visit's own bounds too: rows of an earlier sight, with either kind of time.
        let bounds = [visit.first, visit.last].into_iter().filter_map(rows::sane);
        let bounds = bounds.flat_map(|at| [at, at.saturating_add(site.zone.offset_at(at))]);
        for at in rows.iter().map(|row| row.at).chain(bounds) {
            let (from, to) = self.span.unwrap_or((at, at));
            self.span = Some((from.min(at), to.max(at)));
        }
        let begin = self.rows.len();
        self.rows.extend(rows);
        self.visits.push((id, begin..self.rows.len()));
    }
}

/// The line that tells the user of a retry.
pub fn retry_line(error: &Error, retry: u32, wait: std::time::Duration) -> String {
    format!("matomo: {error}; retry {retry} in {:.1} s", wait.as_secs_f64())
}
