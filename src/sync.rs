//! One sync of one site: plan, fetch, store, tell. Runs on the backend's main thread, in the
//! caller's transaction.

use std::time::{Duration, Instant};

use chrono::{NaiveDate, Utc};
use pgrx::prelude::*;

use crate::client::{Client, SiteInfo, Token};
use crate::destination::{Destination, query, spi};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::fetch::{self, DayRead, News};
use crate::helper::Helper;
use crate::plan::{self, Start};
use crate::progress::Progress;
use crate::report::{say, warn};
use crate::rows::Site;
use crate::secrecy::show_activity;
use crate::settings;
use crate::stop::Stop;
use crate::store::{Store, Written};

/// What the caller wants.
pub struct Order {
    /// idSite.
    pub site: i32,
    pub endpoint: Endpoint,
    pub token: Token,
    pub start: Option<NaiveDate>,
    pub end: Option<NaiveDate>,
    /// The name of the destination, as given.
    pub destination: String,
    /// Visits a page.
    pub page_size: u32,
}

/// What became of a day.
pub type DayResult = (DayRead, Written);

/// Batches that may wait to be stored: enough to fetch while storing, few enough for memory.
const ROOM: usize = 2;

/// Does it all; gives a result per day.
///
/// # Errors
/// Any of [`Error`]; nothing of the transaction remains then.
pub fn run(order: Order) -> Result<Vec<DayResult>> {
    let Order { site, endpoint, token, start, end, destination, page_size } = order;
    let destination = Destination::open(&destination)?;
    lock(&endpoint, site, &destination)?;
    let start = match start {
        Some(day) => Start::Day(day),
        None => match destination.newest(site)? {
            Some(newest) => Start::Newest(newest),
            None => Start::Ago(settings::initial_offset()),
        },
    };
    let client = Client::new(endpoint, token, settings::manner()?, Stop::default())?;
    let SiteInfo { zone, .. } = ask_for_site(&client, site)?;
    let today = zone.day(Utc::now().timestamp()).unwrap_or_default();
    let days = plan::days(start, end, today, zone)?;
    let site = Site { id: site, zone, action_time: settings::action_time() };
    let results = copy_days(&client, site, days, page_size, Store::new(destination))?;
    warn_of_truncation(&results);
    Ok(results)
}

/// One sync at a time for a Matomo, site and destination, till the end of the transaction.
fn lock(endpoint: &Endpoint, site: i32, destination: &Destination) -> Result<()> {
    let what = format!("matomo_sync {} {site} {}", endpoint.url(), destination.oid.to_u32());
    let sql = "SELECT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended($1, 0))";
    let locked = Spi::connect_mut(|client| {
        query(client, sql, &[what.into()])?.first().get_one::<bool>().map_err(spi)
    })?;
    match locked {
        Some(true) => Ok(()),
        _ => Err(Error::AlreadyRunning { site, name: destination.name.clone() }),
    }
}

/// Starts a thread that works with the client and tells its news.
fn start_helper(
    client: &Client,
    work: impl FnOnce(&Client, &mut dyn FnMut(News) -> bool) + Send + 'static,
) -> Result<Helper<News>> {
    let (ours, theirs) = (client.clone(), client.clone());
    let cancel = move || ours.shut_down();
    Helper::start(ROOM, cancel, move |outbox| work(&theirs, &mut |news| outbox.send(news)))
}

fn ask_for_site(client: &Client, site: i32) -> Result<SiteInfo> {
    show_activity(&Progress::new(site, 0).line("asks for the site", Duration::ZERO));
    let mut helper = start_helper(client, move |client, send| fetch::site(client, site, send))?;
    let mut found = Err(Error::Internal("the thread that fetches ended without a word".to_owned()));
    while let Some(news) = helper.next() {
        match news {
            News::Site(info) => found = Ok(info),
            News::Failed(error) => found = Err(error),
            News::Retry(line) => say(PgLogLevel::NOTICE, line),
            News::Batch(_) | News::Day(_) => {}
        }
    }
    found
}

/// Fetches and stores the days at the same time.
fn copy_days(
    client: &Client,
    site: Site,
    days: Vec<NaiveDate>,
    page_size: u32,
    mut store: Store,
) -> Result<Vec<DayResult>> {
    let begin = Instant::now();
    let days_to_do = days.len();
    let mut progress = Progress::new(site.id, days_to_do);
    show_activity(&progress.line("begins", Duration::ZERO));
    let mut helper = start_helper(client, move |client, send| {
        fetch::days(client, site, &days, page_size, send)
    })?;
    let mut results = Vec::with_capacity(days_to_do);
    let mut written = Written::default();
    while let Some(news) = helper.next() {
        match news {
            News::Batch(batch) => written += store.write(&batch)?,
            News::Day(read) => {
                progress.day_done(&read);
                let line = progress.line(&read.day.to_string(), begin.elapsed());
                show_activity(&line);
                say(PgLogLevel::NOTICE, line);
                results.push((read, std::mem::take(&mut written)));
            }
            News::Retry(line) => say(PgLogLevel::NOTICE, line),
            News::Failed(error) => return Err(error),
            News::Site(_) => {}
        }
    }
    if results.len() < days_to_do {
        return Err(Error::Internal("the thread that fetches ended without a word".to_owned()));
    }
    Ok(results)
}

/// Says once that Matomo did not list all actions of some visits.
fn warn_of_truncation(results: &[DayResult]) {
    let visits: i64 = results.iter().map(|(read, _)| read.truncated_visits).sum();
    if visits > 0 {
        warn(
            format!("Matomo listed only the first actions of {visits} visits"),
            "Raise visitor_log_maximum_actions_per_visit in the section [General] of Matomo's config.ini.php, then sync these days again.",
        );
    }
}
