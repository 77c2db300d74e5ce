//! A run of a registered site, step by step. Each step is a transaction: its days, their ledger entries
//! and the run's row are committed together. Runs on the main thread.

use std::time::Duration;

use chrono::{NaiveDate, Utc};
use pgrx::prelude::*;

use crate::config::access::Access;
use crate::config::credentials::{Credentials, user_name};
use crate::config::{requests, settings};
use crate::error::{Busy, Error, Fault, MissingPartitions, Result, SiteError};
use crate::matomo::client::{Client, SiteInfo};
use crate::pg::ereport::say;
use crate::pg::extension::Extension;
use crate::pg::failed::Failed;
use crate::pg::locks;
use crate::pg::roles::AsRestricted;
use crate::pg::spi::{one, query, undefer};
use crate::pg::watch::{self, Watch};
use crate::rows::batch::Misfits;
use crate::state::metadata::note_type;
use crate::state::not_begun;
use crate::state::restored;
use crate::state::retention;
use crate::state::run_row::Run;
use crate::state::runs::{self, Begun};
use crate::state::sites::{self, RegisteredSite};
use crate::store::destination::Destination;
use crate::store::engine::hint::with_engine_hint;
use crate::store::partitions;
use crate::store::unregistered;
use crate::sync::notices::Notices;
use crate::sync::pages::Budget;
use crate::sync::progress::Progress;
use crate::sync::site_days::{CopyResult, DayResult, counts};
use crate::sync::site_sync::{
    Range, RunContext, Sync, count_zone_change, warn_of_misfits, warn_of_truncation,
};
use crate::worker::attempt::attempt;
use crate::worker::background;
use crate::worker::current_work::{self, Failure, Phase};
use crate::worker::holders;
use crate::worker::metadata_step;

/// Status of a run after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Running,
    Succeeded,
    Failed(Failed),
    /// Another session is syncing the site.
    Skipped,
}

/// Starts a run of a site, or resumes a paused one. `None` if another session is syncing the site, or if
/// it is not due; `at_once` starts it in that case too.
///
/// # Errors
/// [`SiteError::ProcedurePrivilege`]; those of [`RegisteredSite::get`].
pub fn begin(site: i32, command: &str, at_once: bool) -> Result<Option<i64>> {
    let _bounded = locks::bounded_waits();
    let extension = Extension::find()?;
    check_may_call(&extension)?;
    restored::resolve(&extension)?;
    let site = RegisteredSite::get(&extension, site)?;
    current_work::begin(site.id, Phase::End);
    if !current_work::lock(site.id) {
        current_work::clear();
        let mut holders = holders::held_sites(&extension, &[])?;
        holders.retain(|(held, _)| *held == site.id);
        not_begun::note_held(&extension, &holders)?;
        say_busy(site.id);
        return Ok(None);
    }
    match runs::begin(&extension, &site, &user_name(), command, at_once)? {
        Begun::Run(run) => {
            current_work::with(|work| work.phase = Phase::Run(run))?;
            Ok(Some(run))
        }
        Begun::Waits => {
            current_work::release_lock_on_commit();
            Ok(None)
        }
    }
}

/// Runs a step and records its failure. Nothing that the site's destination does affects more than the
/// run; only a cancel of the session is raised.
pub fn step(run: i64) -> Status {
    let _bounded = locks::bounded_waits();
    let outcome = {
        let _watch = Watch::begin(requests::request_timeout());
        attempt(|| copy(run)).or_else(|failed| {
            let Ok(Some(missing)) = current_work::with(|work| work.missing_partitions.take())
            else {
                return Err(failed);
            };
            attempt(|| create_partitions(run, missing))
        })
    };
    let outcome = outcome.or_else(|failed| {
        // If recording the failure fails too, the run still ends: its lock is released, and the site waits as
        // long as was recorded at the start of the run.
        attempt(|| fail(run, &failed)).or_else(|second| {
            second.about("could not note a failure").tell(PgLogLevel::WARNING);
            Ok(Status::Failed(failed))
        })
    });
    let status = outcome.unwrap_or_else(Status::Failed);
    if status != Status::Running {
        current_work::release_lock_on_commit();
    }
    status
}

/// Pauses a run.
///
/// # Errors
/// Only internal ones.
pub fn pause(run: i64) -> Result<()> {
    let _bounded = locks::bounded_waits();
    runs::pause(&Extension::find()?, run)?;
    current_work::release_lock_on_commit();
    Ok(())
}

/// Checks that the current user may call one of the procedures.
///
/// # Errors
/// [`SiteError::ProcedurePrivilege`].
pub fn check_may_call(extension: &Extension) -> Result<()> {
    let schema = &extension.schema;
    let sql = "SELECT pg_catalog.has_function_privilege($1, 'EXECUTE') \
               OR pg_catalog.has_function_privilege($2, 'EXECUTE')";
    let procedures =
        [format!("{schema}.matomo_sync_site(integer)"), format!("{schema}.matomo_sync_all()")];
    let may_call: Option<bool> =
        Spi::connect_mut(|client| one(query(client, sql, &procedures.map(Into::into))?))?;
    if may_call == Some(true) { Ok(()) } else { Err(SiteError::ProcedurePrivilege.into()) }
}

fn say_busy(site: i32) {
    let line =
        format!("matomo: registered site {site} is being synced by another session, skipped");
    say(PgLogLevel::NOTICE, line);
}

/// Runs a step; on error, the caller must roll it back.
fn copy(run: i64) -> Result<Status> {
    let (cached, notices) = current_work::with(|work| {
        work.failure = Failure::Other;
        work.version = None;
        (work.client.take(), work.notices)
    })?;
    let extension = Extension::find()?;
    let mut state = Run::get(&extension, run)?;
    state.follow_clock(&extension)?;
    let site = RegisteredSite::get(&extension, state.site)?;
    let mut step =
        as_owner(&extension, &site, &mut state, cached, notices).inspect_err(|error| {
            let failure = match error {
                Error::Busy(
                    Busy::Syncs { .. }
                    | Busy::Drops(_)
                    | Busy::FirstAfterTruncate(_)
                    | Busy::FirstAfterRestore(_),
                ) => Failure::Busy,
                Error::Site(SiteError::RefusedBefore { .. })
                | Error::Request { fault: Fault::TokenRefused(_), .. } => Failure::Refused,
                _ => Failure::Other,
            };
            let missing = match error {
                Error::Busy(Busy::Partitions { missing, .. }) => Some(missing.clone()),
                _ => None,
            };
            // Cannot fail: the call above has found the work.
            let _ = current_work::with(|work| {
                (work.failure, work.missing_partitions) = (failure, missing)
            });
        })?;
    if state.timezone.as_ref() != Some(&step.info.timezone) {
        sites::note(&extension, site.id, &step.info, step.client.endpoint().url())?;
        state.timezone = Some(step.info.timezone);
    }
    let left =
        state.add(&extension, &step.due, &counts(&step.results, step.misfits, step.bytes))?;
    if left > 0 {
        current_work::with(|work| {
            let version = work.version.clone();
            work.client = version.map(|version| (version, step.client));
            work.notices = step.progress.notices;
        })?;
        return Ok(Status::Running);
    }
    if let Some(line) = step.progress.end() {
        say(PgLogLevel::NOTICE, line);
    }
    let prefix = format!("registered site {}: ", site.id);
    warn_of_truncation(&prefix, state.truncated_visits);
    warn_of_misfits(&prefix, &state.misfits);
    runs::succeed(&extension, run)?;
    let metadata_day = metadata_step::begin(&extension, site.id)?;
    if metadata_day.is_some() {
        // Not with each poll.
        unregistered::warn_of_unwritten(&prefix, &step.destination)?;
    }
    current_work::with(|work| work.metadata_day = metadata_day)?;
    Ok(Status::Succeeded)
}

/// Maximum time of a step, after which it only finishes its current page. A recheck may add the same time per
/// day, to fetch what it has found. Meanwhile the step holds its locks, and other sites wait for their turn.
const STEP: Duration = Duration::from_secs(5);

/// Result of a step.
struct StepResult {
    client: Client,
    destination: Destination,
    info: SiteInfo,
    /// The days that were due.
    due: Vec<NaiveDate>,
    results: Vec<DayResult>,
    misfits: Misfits,
    bytes: u64,
    progress: Progress,
}

/// Runs the part of a step that accesses Matomo and the destination, as the owner of the site.
fn as_owner(
    extension: &Extension,
    site: &RegisteredSite,
    run: &mut Run,
    cached: Option<(String, Client)>,
    notices: Notices,
) -> Result<StepResult> {
    let not_before = retention::first_day(extension, site.id)?;
    let _mode = background::as_by_default();
    let _owner = AsRestricted::switch_to(site.owner);
    undefer()?;
    let credentials = Credentials::of_site(site.id, &site.server)?;
    let version = credentials.version.clone();
    if let Some(seconds) = credentials.options.timeout {
        watch::allow(Duration::from_secs(seconds.into()));
    }
    current_work::with(|work| work.version = Some(version.clone()))?;
    sites::check_not_refused(extension, site, &version)?;
    let mut access = Access::stored(credentials)?;
    access.client = access.client.with_answer_timeout();
    if let Some((_, client)) = cached.filter(|(of, _)| *of == version) {
        // Keep its connections.
        access.client = client;
    }
    let destination =
        Destination::open_known(site.destination)?.ok_or_else(|| site.no_destination())?;
    let (client, fetch_threads) = (access.client.clone(), access.fetch_threads);
    let received = client.received();
    let range = Range { start: site.start, end: None, not_before };
    let known = run.timezone.as_deref().and_then(SiteInfo::of_timezone);
    let of_run = RunContext { registered: site.id, began: run.began };
    let pages = run.step_pages.map_or_else(settings::step_pages, |n| n.min(settings::step_pages()));
    let mut told = known;
    let copy_due = || loop {
        let (access, copy) = (access.clone(), destination.clone());
        let mut sync = Sync::prepare(site.idsite, access, copy, range, false, told, Some(of_run))?;
        // Includes days that the run has done if the table was emptied since, whichever site's sync
        // noticed that.
        let record = &sync.copy.record;
        sync.copy.made_before = current_work::with(|work| work.created_partitions.take())?;
        sync.due.retain(|due| run.has_to_do(due.day) || record.is_to_read_anew(due.day));
        let due: Vec<_> = sync.due.iter().map(|due| due.day).collect();
        sync.due.truncate(fetch_threads);
        let elapsed = Utc::now().timestamp().saturating_sub(run.began);
        let mut progress = Progress::new(site.idsite, due.len())
            .of_registered(Some(site.id))
            .resume(
                usize::try_from(run.days).unwrap_or_default(),
                run.visits,
                run.actions,
                Duration::from_secs(elapsed.unsigned_abs()),
            )
            .having_said(notices);
        match sync.copy.days(sync.due, Budget::step(pages, STEP), &mut progress)? {
            CopyResult::Done(results, misfits) => {
                let Destination { extension, oid, .. } = &destination;
                note_type(extension, *oid, site.idsite, &sync.info)?;
                break Ok((sync.info, due, results, misfits, progress));
            }
            CopyResult::ZoneChanged(info) => {
                run.zone_changes = count_zone_change(run.zone_changes, &client, site.idsite)?;
                run.begin_anew();
                told = Some(info);
            }
        }
    };
    let (info, due, results, misfits, progress) = with_engine_hint(&destination, copy_due)?;
    // A trigger may have deferred them anew.
    undefer()?;
    let bytes = client.received().saturating_sub(received);
    Ok(StepResult { client, destination, info, due, results, misfits, bytes, progress })
}

/// Number of weeks whose partitions are created at once, up to the current one: each time costs a step.
const WEEKS: i64 = 8;

/// Creates the partitions that a step lacked, so that no step holds the lock for that while it waits for
/// Matomo.
fn create_partitions(run: i64, missing: Vec<MissingPartitions>) -> Result<Status> {
    let extension = Extension::find()?;
    let site = RegisteredSite::get(&extension, Run::get(&extension, run)?.site)?;
    {
        let _mode = background::as_by_default();
        let _owner = AsRestricted::switch_to(site.owner);
        let now = Utc::now().timestamp();
        for MissingPartitions { table, from, to, is_regular } in &missing {
            let ahead = if *is_regular { WEEKS * partitions::WEEK } else { 0 };
            let to = to.saturating_add(ahead).min(now).max(*to);
            partitions::create_between((*table).into(), (*from, to))?;
        }
    }
    current_work::with(|work| work.created_partitions = Some(missing))?;
    Ok(Status::Running)
}

/// Records the failure of the last step, which ends the run.
fn fail(run: i64, error: &Failed) -> Result<Status> {
    let (failure, version) = current_work::with(|work| (work.failure, work.version.clone()))?;
    let extension = Extension::find()?;
    let state = Run::get(&extension, run)?;
    if failure == Failure::Busy && state.timezone.is_none() {
        runs::take_back(&extension, run)?;
        not_begun::note_held(&extension, &[(state.site, error.clone())])?;
        say_busy(state.site);
        return Ok(Status::Skipped);
    }
    let refused = version.filter(|_| failure == Failure::Refused);
    runs::fail(&extension, run, error, refused.as_deref())?;
    Ok(Status::Failed(error.clone()))
}
