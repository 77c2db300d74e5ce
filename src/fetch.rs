//! Reads site-days from Matomo and makes batches of rows of them. Runs on a helper thread: HTTP,
//! JSON and pure Rust only.

use std::collections::{BTreeSet, HashMap};

use chrono::NaiveDate;
use serde_json::value::RawValue;

use crate::client::{Client, SiteInfo};
use crate::error::{Error, Result};
use crate::pager::Pager;
use crate::rows::{self, Row, Site};
use crate::visit::Visit;

/// A page's visits, ready to be stored.
#[derive(Debug, Default)]
pub struct Batch {
    /// idVisit of each visit, also of those without actions, whose old rows must go.
    pub visits: Vec<i64>,
    /// Their sites: the one asked for, or those that a roll-up of sites is made of.
    pub sites: BTreeSet<String>,
    /// Their rows.
    pub rows: Vec<Row>,
    /// Between which instants their rows lie or may have lain, in seconds.
    pub span: Option<(i64, i64)>,
}

/// What is known of a site-day when all its pages are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayRead {
    pub day: NaiveDate,
    /// Requests made.
    pub pages: i32,
    /// Distinct visits.
    pub visits: i64,
    /// Their actions, as Matomo listed them.
    pub actions: i64,
    /// Visits of which Matomo listed only the first actions.
    pub truncated_visits: i64,
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
    days: &[NaiveDate],
    page_size: u32,
    send: &mut dyn FnMut(News) -> bool,
) {
    for day in days {
        match read_day(client, site, *day, page_size, send) {
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
    day: NaiveDate,
    page_size: u32,
    send: &mut dyn FnMut(News) -> bool,
) -> Result<bool> {
    let begin = site.zone.midnight(day);
    let end = day.succ_opt().map_or(i64::MAX, |next| site.zone.midnight(next));
    let mut pager = Pager::new(page_size);
    // Per visit its actions and whether it was cut; the last sight of a visit counts.
    let mut seen: HashMap<i64, (usize, bool)> = HashMap::new();
    let mut pages = 0;
    let mut page_before = Vec::new();
    loop {
        let page = pager.page();
        let body = client.visits(site.id, day, page, &mut |error, retry, wait| {
            send(News::Retry(retry_line(error, retry, wait)));
        })?;
        pages += 1;
        let list: Vec<&RawValue> = serde_json::from_str(&body).map_err(|error| {
            client.unexpected(site.id, day, &format!("it breaks off or is no JSON: {error}"))
        })?;
        let visits: Vec<_> = list.iter().map(|raw| Visit::read(raw)).collect();
        let newest = visits.iter().filter_map(|visit| rows::sane(visit.last)).max();
        let more = pager.advance(visits.len(), newest);
        // A server that ignores offsets would be asked without end.
        let ids: Vec<_> = visits.iter().map(|visit| visit.id).collect();
        if more && page.offset > 0 && ids == page_before {
            return Err(client.unexpected(site.id, day, "the same page again and again"));
        }
        page_before = ids;

        // Matomo counts the first second of the next day as well; the visit is of that day.
        let mut of_day = Vec::with_capacity(visits.len());
        for visit in visits.iter().filter(|visit| visit.last != Some(end)) {
            let id = visit
                .id
                .ok_or_else(|| client.unexpected(site.id, day, "a visit without idVisit"))?;
            of_day.push((id, visit));
        }
        // Of a visit that comes twice the last sight counts.
        let places = of_day.iter().enumerate().map(|(place, (id, _))| (*id, place));
        let last_sights: HashMap<_, _> = places.collect();
        let mut batch = Batch::default();
        for (place, (id, visit)) in of_day.into_iter().enumerate() {
            if last_sights.get(&id) != Some(&place) {
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
        day,
        pages,
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
        self.visits.push(id);
        self.sites.insert(rows::id_site(visit, site));
        self.rows.extend(rows);
    }
}

/// The line that tells the user of a retry.
pub fn retry_line(error: &Error, retry: u32, wait: std::time::Duration) -> String {
    format!("matomo: {error}; retry {retry} in {:.1} s", wait.as_secs_f64())
}
