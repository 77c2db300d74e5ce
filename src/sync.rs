//! One sync of one site: plan, fetch, store, tell. Runs on the backend's main thread, in the
//! caller's transaction.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{Days, NaiveDate, Utc};
use pgrx::prelude::*;

use crate::client::{Client, SiteInfo};
use crate::destination::{Destination, query, spi};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::fetch::{self, DayRead, News};
use crate::helper::Helper;
use crate::ledger::{Entry, Ledger};
use crate::plan::{self, Again, Due, Known, Start};
use crate::progress::Progress;
use crate::remote;
use crate::report::{say, warn};
use crate::rows::Site;
use crate::secrecy::show_activity;
use crate::settings;
use crate::stop::Stop;
use crate::store::{Store, Written};
use crate::token::Token;
use crate::zone::Zone;

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
    /// Whether sealed days are read again.
    pub force: bool,
    /// Visits a page.
    pub page_size: u32,
}

/// What became of a day.
pub type DayResult = (DayRead, Written);

/// What is known of a site's days, by day.
type Entries = BTreeMap<NaiveDate, Entry>;

/// Batches of a worker that may wait to be stored: enough to fetch while storing, few enough for
/// memory.
const ROOM: usize = 2;

/// Does it all; gives a result per day.
///
/// # Errors
/// Any of [`Error`]; nothing of the transaction remains then.
pub fn run(order: Order) -> Result<Vec<DayResult>> {
    let Order { site, endpoint, token, start, end, destination, force, page_size } = order;
    let destination = Destination::open_or_create(&destination)?;
    lock(&endpoint, site, &destination)?;
    let ledger = Ledger::of(&destination, &endpoint, site);
    let mut known = known_days(&ledger, &destination)?;
    let start = match (start, known.keys().next()) {
        (Some(day), _) => Start::Day(day),
        (None, Some(first)) => Start::Known(*first),
        (None, None) => match destination.newest(site)? {
            Some(newest) => Start::Newest(newest),
            None => Start::Ago(settings::initial_offset()),
        },
    };
    let client = Client::new(endpoint, token, settings::manner()?, Stop::default())?;
    let now = Utc::now().timestamp();
    let SiteInfo { zone, timezone } = match known_site(&known, now).filter(|_| !force) {
        Some(info) => info,
        None => ask_for_site(&client, site)?,
    };
    let today = zone.day(now).unwrap_or_default();
    let days = plan::days(start, end, today, zone)?;
    if let Some(moved) = moved(&known, &timezone) {
        ledger.open_again(moved)?;
        for (_, entry) in known.range_mut(moved..) {
            entry.known = Known::default();
        }
    }
    let again = if force { Again::All } else { lookback(today) };
    let of_days = known.iter().map(|(day, entry)| (*day, entry.known)).collect();
    let due = plan::due(&days, &of_days, again, zone, now, settings::settle_time());
    let site = Site { id: site, zone, action_time: settings::action_time() };
    let store = Store::new(destination).wary_of(ledger.other_matomo()?);
    let record = Record { ledger, known, timezone, now };
    let results = copy_days(&client, site, due, page_size, store, record)?;
    warn_of_truncation(&results);
    Ok(results)
}

/// What the ledger knows; nothing, if somebody has emptied the table under it.
fn known_days(ledger: &Ledger, destination: &Destination) -> Result<Entries> {
    if ledger.claims_rows()? && destination.is_empty()? {
        ledger.clear()?;
    }
    ledger.read()
}

/// The site as the ledger has it, if Matomo was asked on the same day of the site: a poll is one
/// request.
fn known_site(known: &Entries, now: i64) -> Option<SiteInfo> {
    let (day, entry) = known.last_key_value()?;
    let zone = Zone::parse(&entry.timezone)?;
    (zone.day(now) == Some(*day)).then(|| SiteInfo { zone, timezone: entry.timezone.clone() })
}

/// The last days of a site whose timezone has changed: their bounds have moved.
fn moved(known: &Entries, timezone: &str) -> Option<NaiveDate> {
    let (day, _) = known.last_key_value().filter(|(_, entry)| entry.timezone != timezone)?;
    day.checked_sub_days(Days::new(2))
}

/// Which days `matomo.lookback` reads again.
fn lookback(today: NaiveDate) -> Again {
    match settings::lookback() {
        0 => Again::No,
        days => today.checked_sub_days(Days::new(days.into())).map_or(Again::All, Again::From),
    }
}

/// Notes in the ledger what became of days.
struct Record {
    ledger: Ledger,
    /// What was known before.
    known: Entries,
    timezone: String,
    /// When the sync began: a day is sealed by what was asked after it had settled.
    now: i64,
}

impl Record {
    fn day(&self, read: &DayRead, written: &Written) -> Result<()> {
        let day = read.due.day;
        let before = self.known.get(&day);
        let mut entry = before.cloned().unwrap_or_else(|| Entry::new(day, &self.timezone));
        entry.known.sealed = read.due.seals;
        entry.known.newest = entry.known.newest.max(read.newest);
        entry.timezone.clone_from(&self.timezone);
        if read.due.since.is_none() {
            entry.visits = read.visits;
            entry.actions = read.actions;
            entry.truncated_visits = read.truncated_visits;
        } else {
            entry.visits += written.new_visits;
            entry.actions += written.inserted - written.deleted;
            entry.truncated_visits = entry.truncated_visits.max(read.truncated_visits);
        }
        if before != Some(&entry) {
            entry.read_at = self.now;
            self.ledger.write(&entry)?;
        }
        Ok(())
    }
}

/// One sync at a time for a Matomo, site and destination, till the end of the transaction.
///
/// # Errors
/// [`Error::AlreadyRunning`].
pub fn lock(endpoint: &Endpoint, site: i32, destination: &Destination) -> Result<()> {
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

/// What Matomo knows of the site.
///
/// # Errors
/// Those of [`Client::site`].
pub fn ask_for_site(client: &Client, site: i32) -> Result<SiteInfo> {
    show_activity(&Progress::new(site, 0).line("asks for the site", Duration::ZERO));
    remote::ask(client, move |client, notice| {
        client.site(site, &mut |error, retry, wait| notice(fetch::retry_line(error, retry, wait)))
    })
}

/// Fetches and stores the days at the same time.
fn copy_days(
    client: &Client,
    site: Site,
    days: Vec<Due>,
    page_size: u32,
    mut store: Store,
    record: Record,
) -> Result<Vec<DayResult>> {
    let begin = Instant::now();
    let days_to_do = days.len();
    let mut progress = Progress::new(site.id, days_to_do);
    show_activity(&progress.line("begins", Duration::ZERO));
    // Each worker reads every n-th day; what it is ahead waits in its mailbox.
    let workers = settings::fetch_workers().min(days_to_do);
    let mut helpers = (0..workers)
        .map(|first| {
            let of_worker: Vec<_> = days.iter().skip(first).step_by(workers).copied().collect();
            remote::start(client, ROOM, move |client, outbox| {
                fetch::days(client, site, &of_worker, page_size, &mut |news| outbox.send(news));
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut results = Vec::with_capacity(days_to_do);
    for index in 0..days_to_do {
        let (read, written) = store_day(&mut helpers[index % workers], &mut store)?;
        record.day(&read, &written)?;
        progress.day_done(read.visits, read.actions);
        let line = progress.line(&read.due.day.to_string(), begin.elapsed());
        show_activity(&line);
        say(PgLogLevel::NOTICE, line);
        results.push((read, written));
    }
    // Their last word, so that the client can be used again.
    for helper in &mut helpers {
        while helper.next().is_some() {}
    }
    Ok(results)
}

/// Stores what a worker reads of its next day.
fn store_day(helper: &mut Helper<News>, store: &mut Store) -> Result<DayResult> {
    let mut written = Written::default();
    while let Some(news) = helper.next() {
        match news {
            News::Batch(batch) => written += store.write(&batch)?,
            News::Day(read) => return Ok((read, written)),
            News::Notice(line) => say(PgLogLevel::NOTICE, line),
            News::Failed(error) => return Err(error),
        }
    }
    Err(remote::ended_early())
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
