//! Syncs one site: plans, then copies the days that are due. Runs on the main thread, in the caller's
//! transaction.

use chrono::{Days, NaiveDate, Utc};
use pgrx::prelude::*;

use crate::config::access::Access;
use crate::config::open_days;
use crate::config::settings;
use crate::error::{Busy, Error, Result};
use crate::matomo::client::{Client, SiteInfo};
use crate::pg::ereport::{say, warn};
use crate::pg::locks::{self, ALL_SITES, Lock, Mode};
use crate::pg::secrecy::show_activity;
use crate::rows::batch::Misfits;
use crate::rows::site_context::SiteContext;
use crate::state::adoption::adopt;
use crate::state::late_companions;
use crate::state::ledger::{Ledger, LedgerDays, reread_all};
use crate::state::metadata;
use crate::store::batch_writer::Writer;
use crate::store::destination::Destination;
use crate::store::engine::hint::with_engine_hint;
use crate::store::inspect;
use crate::store::unregistered;
use crate::sync::known_days;
use crate::sync::new_tables;
use crate::sync::notices::readable;
use crate::sync::on_helper;
use crate::sync::pages::{Budget, ReadOptions, retry_line};
use crate::sync::plan::{self, Due, Reread, Start, Times};
use crate::sync::progress::Progress;
use crate::sync::site_days::{Copier, CopyResult, DayResult, Recorder};

/// Arguments of `matomo_sync` and `matomo_check`.
pub struct SyncRequest {
    /// idSite.
    pub site: i32,
    pub access: Access,
    pub start: Option<NaiveDate>,
    pub end: Option<NaiveDate>,
    /// Name of the destination, as given.
    pub destination: String,
    /// Whether to read sealed days again.
    pub force: bool,
}

/// Syncs a site. Returns a result per day.
///
/// # Errors
/// Any of [`Error`]; the transaction must then abort.
pub fn run(request: SyncRequest) -> Result<Vec<DayResult>> {
    let SyncRequest { site, access, start, end, destination, force } = request;
    let destination = new_tables::open_or_create(&destination)?;
    let range = Range { start, end, not_before: None };
    let (mut info, mut zone_changes) = (None, 0);
    with_engine_hint(&destination, || {
        loop {
            let sync =
                Sync::prepare(site, access.clone(), destination.clone(), range, force, info, None)?;
            let mut progress = Progress::new(site, sync.due.len());
            match sync.copy.days(sync.due, Budget::Unlimited, &mut progress)? {
                CopyResult::Done(results, misfits) => {
                    let Destination { extension, oid, .. } = &destination;
                    metadata::note_type(extension, *oid, site, &sync.info)?;
                    if let Some(line) = progress.end() {
                        say(PgLogLevel::NOTICE, line);
                    }
                    let truncated = results.iter().map(|(read, _)| read.met.truncated_visits).sum();
                    warn_of_truncation("", truncated);
                    warn_of_misfits("", &misfits);
                    unregistered::warn_of_unwritten("", &destination)?;
                    return Ok(results);
                }
                CopyResult::ZoneChanged(told) => {
                    zone_changes = count_zone_change(zone_changes, &access.client, site)?;
                    info = Some(told);
                }
            }
        }
    })
}

/// Maximum changes of the site's timezone during a sync.
const MOST_ZONE_CHANGES: i32 = 5;

/// Counts a change of the timezone.
///
/// # Errors
/// [`crate::error::Fault::Unexpected`] after too many.
pub fn count_zone_change(changes: i32, client: &Client, site: i32) -> Result<i32> {
    if changes >= MOST_ZONE_CHANGES {
        let what = "another timezone of the site again and again";
        return Err(client.unexpected(site, None, what));
    }
    Ok(changes + 1)
}

/// The requested days.
#[derive(Debug, Clone, Copy, Default)]
pub struct Range {
    pub start: Option<NaiveDate>,
    pub end: Option<NaiveDate>,
    /// The first day within the site's retention.
    pub not_before: Option<NaiveDate>,
}

/// The run that a step belongs to.
#[derive(Debug, Clone, Copy)]
pub struct RunContext {
    /// ID of the registered site.
    pub registered: i32,
    /// Start of the run, in Unix seconds.
    pub began: i64,
}

/// A sync that is ready to copy.
pub struct Sync {
    pub copy: Copier,
    pub info: SiteInfo,
    /// The days to read.
    pub due: Vec<Due>,
}

impl Sync {
    /// Takes the lock and plans the days that are due. `told` is the site as Matomo has just reported
    /// it.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn prepare(
        site: i32,
        access: Access,
        destination: Destination,
        range: Range,
        force: bool,
        told: Option<SiteInfo>,
        run: Option<RunContext>,
    ) -> Result<Sync> {
        let Access { client, page_size, fetch_threads } = access;
        let destination = late_companions::locked(destination, site)?;
        let ledger = Ledger::of(&destination, client.endpoint(), site);
        let now = Utc::now().timestamp();
        let mut known = read_ledger(&ledger, &destination, now)?;
        let start = match (range.start, known.keys().next()) {
            (Some(day), _) => Start::Day(day),
            (None, Some(first)) => Start::Known(*first),
            (None, None) => match destination.newest(site)? {
                Some(newest) => Start::Newest(newest),
                None => Start::Ago(settings::initial_offset()),
            },
        };
        let run_began = run.map_or(i64::MAX, |run| run.began);
        let ask = || ask_for_site(&client, site, run.map(|run| run.registered));
        let known_site = known_site(&known, now).filter(|_| told.is_none() && !force);
        let mut is_zone_confirmed = known_site.is_none();
        let mut info = match told.or(known_site) {
            Some(info) => info,
            None => ask()?,
        };
        let action_time = settings::action_time();
        let (days, due) = loop {
            let zone = info.zone;
            if is_zone_confirmed {
                known = in_timezone(known, &ledger, &info, &destination)?;
            }
            let today = zone.day(now).unwrap_or_default();
            let mut days = plan::days(start, range.end, today, zone)?;
            days.retain(|day| range.not_before.is_none_or(|first| *day >= first));
            let again = if force { Reread::All } else { lookback(today) };
            let times = Times {
                now,
                run_began,
                settle: settings::settle_time(),
                overlap: open_days::overlap(),
                recheck: open_days::recheck(),
            };
            let valid = known_days::known(&known, zone, action_time, now);
            let due = plan::due(&days, &valid, again, zone, times);
            if !due.is_empty() || is_zone_confirmed {
                break (days, due);
            }
            // No visits are due that could confirm the timezone.
            info = ask()?;
            is_zone_confirmed = true;
        };
        if let Some((first, last, kind)) =
            known_days::of_other_kind(&known, &days, &due, action_time)
        {
            let name = destination.name.clone();
            return Err(Error::OtherActionTime { name, kind: kind.name(), first, last });
        }
        // Only after Matomo has answered: a mistyped URL is not another Matomo.
        ledger.check_matomo(&destination)?;
        destination.check_ctids()?;
        let store = Writer::new(&destination);
        let (zone, is_rollup) = (info.zone, info.is_rollup);
        let site = SiteContext { id: site, zone, action_time, is_rollup };
        let reading = ReadOptions {
            site,
            page_size,
            budget: Budget::Unlimited,
            began: now,
            is_zone_confirmed,
        };
        let record = Recorder { ledger, known, timezone: info.timezone.clone(), action_time, now };
        let misfits = Misfits::default();
        let copy = Copier {
            client,
            fetch_threads,
            reading,
            destination,
            store,
            record,
            misfits,
            made_before: None,
            since: 0,
        };
        Ok(Sync { copy, info, due })
    }
}

/// If the table, or that of its visits, is empty although the ledger has rows for it, marks all days of
/// all sites to be read again. Must run before each write, as the table is not empty afterwards.
///
/// # Errors
/// [`Busy::FirstAfterTruncate`].
pub fn note_emptied(ledger: &Ledger, destination: &Destination) -> Result<()> {
    if emptied(ledger, destination)?.is_none() {
        return Ok(());
    }
    // One session at a time: a second one would undo what the first has recorded since.
    if !locks::take(Lock::Rows(destination.oid, ALL_SITES), Mode::ShareUpdateExclusive) {
        return Err(Busy::FirstAfterTruncate(destination.name.clone()).into());
    }
    let Some(table) = emptied(ledger, destination)? else { return Ok(()) };
    if table.oid == destination.oid {
        ledger.forget_others(destination)?;
        ledger.reset_all()?;
    } else {
        // With their counts: the actions are there, also of days that Matomo has purged.
        reread_all(&destination.extension, destination.oid)?;
    }
    let name = &table.name;
    say(PgLogLevel::NOTICE, format!("table {name} is empty: all of its days are read again"));
    Ok(())
}

fn emptied<'a>(ledger: &Ledger, destination: &'a Destination) -> Result<Option<&'a Destination>> {
    if !ledger.must_have_rows()? {
        return Ok(None);
    }
    if destination.is_empty()? {
        return Ok(Some(destination));
    }
    let Some(visits) = destination.visits() else { return Ok(None) };
    // If a trigger keeps the table of visits empty, all days would be read again each time.
    let is_emptied = visits.is_empty()? && ledger.must_have_visits()? && !inspect::diverts(visits)?;
    Ok(is_emptied.then_some(visits))
}

/// Reads the ledger. Marks days whose reading lies in the future to be read again.
fn read_ledger(ledger: &Ledger, destination: &Destination, now: i64) -> Result<LedgerDays> {
    note_emptied(ledger, destination)?;
    ledger.take_if_unknown(&destination.name)?;
    if adopt(ledger, destination)? {
        // The dump may have been restored without the visits.
        note_emptied(ledger, destination)?;
    }
    let known = ledger.read()?;
    if known.is_empty() {
        // The table is new, perhaps instead of one that was dropped.
        crate::state::ledger::forget_dropped(&destination.extension)?;
    }
    if known.values().all(|entry| entry.state.read_at <= now) {
        return Ok(known);
    }
    ledger.reset_read_after(now)?;
    ledger.read()
}

/// The site from the ledger, if it has an entry for today: then a poll takes one request. If the visits
/// do not confirm the timezone, Matomo is asked for it.
fn known_site(known: &LedgerDays, now: i64) -> Option<SiteInfo> {
    let entry = known.values().max_by_key(|entry| entry.state.read_at)?;
    let info = SiteInfo::of_timezone(&entry.timezone)?;
    known.contains_key(&info.zone.day(now)?).then_some(info)
}

/// Updates the ledger to the timezone that Matomo reported.
fn in_timezone(
    known: LedgerDays,
    ledger: &Ledger,
    info: &SiteInfo,
    destination: &Destination,
) -> Result<LedgerDays> {
    let has_day = destination.tables().any(|table| table.layout.position("day").is_some());
    let (read, unread) = known_days::of_other_zones(&known, info.zone, has_day);
    if read.is_empty() && unread.is_empty() {
        return Ok(known);
    }
    ledger.set_timezone((read, unread), &info.timezone)?;
    ledger.read()
}

/// The days that `matomo.lookback` reads again.
fn lookback(today: NaiveDate) -> Reread {
    match settings::lookback() {
        0 => Reread::No,
        days => today.checked_sub_days(Days::new(days.into())).map_or(Reread::All, Reread::From),
    }
}

/// Asks Matomo for a site. `registered` is the ID of the registered site in a run.
///
/// # Errors
/// Those of [`Client::site`].
pub fn ask_for_site(client: &Client, site: i32, registered: Option<i32>) -> Result<SiteInfo> {
    let progress = Progress::new(site, 0).of_registered(registered);
    show_activity(&progress.line("asks for the site"));
    on_helper::ask(client, move |client, notice| {
        client.site(site, &mut |error, retry, wait| notice(retry_line(error, retry, wait)))
    })
}

/// Warns that Matomo did not list all actions of some visits.
pub fn warn_of_truncation(prefix: &str, visits: i64) {
    if visits > 0 {
        warn(
            format!("{prefix}Matomo listed only the first actions of {} visits", readable(visits)),
            "Raise visitor_log_maximum_actions_per_visit in the section [General] of Matomo's config.ini.php, then sync these days again.",
        );
    }
}

/// Warns that columns cannot hold some values.
pub fn warn_of_misfits(prefix: &str, misfits: &Misfits) {
    let columns =
        misfits.0.iter().map(|(column, values)| format!("{column} ({})", readable(*values)));
    let columns: Vec<_> = columns.collect();
    if !columns.is_empty() {
        warn(
            format!(
                "{prefix}values that do not fit the types of their columns are NULL: {}",
                columns.join(", ")
            ),
            "A column extra of type jsonb keeps them. Or give the columns other types, then read the days again with force => true.",
        );
    }
}
