//! One sync of one site: plan, fetch, store, tell. Runs on the backend's main thread, in the
//! caller's transaction.

use std::collections::BTreeMap;

use chrono::{Days, NaiveDate, Utc};
use pgrx::prelude::*;

use crate::access::Access;
use crate::client::{Client, SiteInfo};
use crate::copy::{Copy, DayResult, Record};
use crate::destination::Destination;
use crate::error::{Error, Result};
use crate::fetch::Reading;
use crate::ledger::{Entry, Ledger};
use crate::locks::{self, Lock, Until};
use crate::pages::retry_line;
use crate::plan::{self, Again, Due, Known, Start, Times};
use crate::progress::Progress;
use crate::remote;
use crate::report::{say, warn};
use crate::rows::Site;
use crate::secrecy::show_activity;
use crate::settings;
use crate::store::Store;
use crate::zone::Zone;

/// What the caller of `matomo_sync` wants.
pub struct Order {
    /// idSite.
    pub site: i32,
    pub access: Access,
    pub start: Option<NaiveDate>,
    pub end: Option<NaiveDate>,
    /// The name of the destination, as given.
    pub destination: String,
    /// Whether sealed days are read again.
    pub force: bool,
}

/// What is known of a site's days, by day.
pub type Entries = BTreeMap<NaiveDate, Entry>;

/// Does it all; gives a result per day.
///
/// # Errors
/// Any of [`Error`]; nothing of the transaction remains then.
pub fn run(order: Order) -> Result<Vec<DayResult>> {
    let Order { site, access, start, end, destination, force } = order;
    let destination = Destination::open_or_create(&destination)?;
    let range = Range { start, end, not_before: None };
    let sync = Sync::prepare(site, access, destination, range, force, None)?;
    let mut progress = Progress::new(site, sync.due.len());
    let results = sync.copy.days(sync.due, i32::MAX, &mut progress)?;
    warn_of_truncation("", results.iter().map(|(read, _)| read.met.truncated_visits).sum());
    Ok(results)
}

/// The days that are asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Range {
    pub start: Option<NaiveDate>,
    pub end: Option<NaiveDate>,
    /// The first day that is kept.
    pub not_before: Option<NaiveDate>,
}

/// What the earlier steps of a run have found out.
#[derive(Debug, Clone)]
pub struct Before {
    /// The registered site.
    pub registered: i32,
    /// When the run began.
    pub began: i64,
    /// What Matomo told of the site.
    pub site: Option<SiteInfo>,
}

/// A sync that is ready to begin.
pub struct Sync {
    pub copy: Copy,
    pub info: SiteInfo,
    /// The days to read.
    pub due: Vec<Due>,
}

impl Sync {
    /// Locks, and finds out which days are due.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn prepare(
        site: i32,
        access: Access,
        destination: Destination,
        range: Range,
        force: bool,
        before: Option<Before>,
    ) -> Result<Sync> {
        let Access { client, page_size, workers } = access;
        lock(site, &destination)?;
        let ledger = Ledger::of(&destination, client.endpoint(), site);
        let mut known = known_days(&ledger, &destination)?;
        let start = match (range.start, known.keys().next()) {
            (Some(day), _) => Start::Day(day),
            (None, Some(first)) => Start::Known(*first),
            (None, None) => match destination.newest(site)? {
                Some(newest) => Start::Newest(newest),
                None => Start::Ago(settings::initial_offset()),
            },
        };
        let now = Utc::now().timestamp();
        let run_began = before.as_ref().map_or(now, |before| before.began);
        let registered = before.as_ref().map(|before| before.registered);
        let info = match before.and_then(|before| before.site) {
            Some(info) => info,
            None => {
                let info = match known_site(&known, now).filter(|_| !force) {
                    Some(info) => info,
                    None => ask_for_site(&client, site, registered)?,
                };
                if let Some(moved) = moved(&known, &info.timezone) {
                    ledger.open_again(moved)?;
                    for (_, entry) in known.range_mut(moved..) {
                        entry.known = Known::default();
                    }
                }
                info
            }
        };
        let zone = info.zone;
        let today = zone.day(now).unwrap_or_default();
        let mut days = plan::days(start, range.end, today, zone)?;
        days.retain(|day| range.not_before.is_none_or(|first| *day >= first));
        let again = if force { Again::All } else { lookback(today) };
        let of_days = known.iter().map(|(day, entry)| (*day, entry.known.clone())).collect();
        let times = Times { now, run_began, settle: settings::settle_time() };
        let due = plan::due(&days, &of_days, again, zone, times);
        let store = Store::new(destination).wary_of(ledger.other_matomo()?);
        let site = Site { id: site, zone, action_time: settings::action_time() };
        let reading = Reading { site, page_size, most_pages: i32::MAX, began: now };
        let record = Record { ledger, known, timezone: info.timezone.clone(), now };
        Ok(Sync { copy: Copy { client, workers, reading, store, record }, info, due })
    }
}

/// What the ledger knows; if somebody has emptied the table under it, that all has to be read anew.
fn known_days(ledger: &Ledger, destination: &Destination) -> Result<Entries> {
    if ledger.claims_rows()? && destination.is_empty()? {
        ledger.disclaim_rows()?;
        let name = &destination.name;
        say(PgLogLevel::NOTICE, format!("table {name} is empty: all that it had is read anew"));
    }
    let known = ledger.read()?;
    if known.is_empty() {
        // A new table, perhaps in place of one that was dropped.
        crate::ledger::forget_dropped(&destination.extension)?;
    }
    Ok(known)
}

/// The site as the ledger has it, if Matomo was asked on the same day of the site: a poll is one
/// request.
fn known_site(known: &Entries, now: i64) -> Option<SiteInfo> {
    let (day, entry) = known.last_key_value()?;
    let zone = Zone::parse(&entry.timezone)?;
    let timezone = entry.timezone.clone();
    (zone.day(now) == Some(*day)).then_some(SiteInfo { name: None, zone, timezone })
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

/// One sync at a time of a site into a destination, till the end of the transaction.
///
/// # Errors
/// [`Error::AlreadyRunning`].
pub fn lock(site: i32, destination: &Destination) -> Result<()> {
    if locks::try_take(Lock::Rows(destination.oid, site), Until::TransactionEnd) {
        return Ok(());
    }
    Err(Error::AlreadyRunning { site, name: destination.name.clone() })
}

/// What Matomo knows of the site; in a run, that of the registered site.
///
/// # Errors
/// Those of [`Client::site`].
pub fn ask_for_site(client: &Client, site: i32, registered: Option<i32>) -> Result<SiteInfo> {
    let progress = Progress::new(site, 0).of_registered(registered);
    show_activity(&progress.line("asks for the site"));
    remote::ask(client, move |client, notice| {
        client.site(site, &mut |error, retry, wait| notice(retry_line(error, retry, wait)))
    })
}

/// Says once that Matomo did not list all actions of some visits.
pub fn warn_of_truncation(prefix: &str, visits: i64) {
    if visits > 0 {
        warn(
            format!("{prefix}Matomo listed only the first actions of {visits} visits"),
            "Raise visitor_log_maximum_actions_per_visit in the section [General] of Matomo's config.ini.php, then sync these days again.",
        );
    }
}
