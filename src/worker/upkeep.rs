//! The upkeep of a registered site's table, once per day in the site's timezone: removes rows older than
//! the retention, and creates the partitions of the coming weeks. Each step is a transaction.

use std::time::Duration;

use chrono::{NaiveDate, Utc};
use pgrx::JsonB;
use pgrx::datum::Interval;
use pgrx::prelude::*;

use crate::config::settings;
use crate::error::{Error, Result, SiteError};
use crate::matomo::http::endpoint::Endpoint;
use crate::pg::extension::Extension;
use crate::pg::failed::Failed;
use crate::pg::locks;
use crate::pg::roles::AsRestricted;
use crate::pg::spi::{one, query, undefer};
use crate::pg::watch::{Unwatched, Watch};
use crate::state::drop_step::{DropArguments, POSTGRES_EPOCH, drop_step};
use crate::state::ledger;
use crate::state::ledger::matomo_of_table;
use crate::state::retention;
use crate::state::sites::RegisteredSite;
use crate::state::upkeep_state::{self, UpkeepState};
use crate::store::partitions;
use crate::worker::attempt::attempt;
use crate::worker::background;

/// Maximum retries if another session holds a lock on the table.
pub const MOST_TRIES: u32 = 20;
/// Time between two retries.
pub const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// Maximum time of a step, which may scan a large partition.
const LIMIT: Duration = Duration::from_secs(300);

/// Status of the upkeep after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpkeepStatus {
    More,
    /// Another session holds a lock; retry soon.
    Blocked,
    Done,
    /// Recorded and reported; next attempt tomorrow, or soon after a lock.
    Failed,
}

/// Today's upkeep of a site.
struct Plan {
    today: NaiveDate,
    /// Rows before this instant are removed, in Unix seconds.
    before: Option<i64>,
    /// Where the last step stopped, see [`drop_step`].
    place: Option<String>,
    /// The Matomo whose rows are removed: that of the last run, else that of the server.
    matomo: Option<Endpoint>,
}

impl Plan {
    /// Checks that the rows that it removes are of the site's Matomo: another one may have filled the table.
    fn check_matomo(&self, extension: &Extension, site: &RegisteredSite) -> Result<()> {
        if self.before.is_none() || site.destination == pg_sys::Oid::INVALID {
            return Ok(());
        }
        match &self.matomo {
            Some(matomo) => matomo_of_table::check(extension, site.destination, matomo),
            None if matomo_of_table::other_than(extension, site.destination, "")?.is_some() => {
                Err(SiteError::NoMatomo(site.id, site.server.clone()).into())
            }
            None => Ok(()),
        }
    }
}

/// Maximum crashes in a row of a day's upkeep.
const MOST_DEATHS: i32 = 3;

/// Begins the upkeep in a process of its own. Returns whether to continue: after [`MOST_DEATHS`] it fails for
/// today, as a process that crashes may restart the server.
///
/// # Errors
/// Only internal ones.
pub fn begin(id: i32) -> Result<bool> {
    let _bounded = locks::bounded_waits();
    let extension = Extension::find()?;
    let begun = upkeep_state::begin(&extension, id)?;
    if begun.is_none_or(|begun| begun <= MOST_DEATHS) {
        return Ok(true);
    }
    if let Some((_, plan)) = plan(&extension, id)? {
        let message = "the upkeep was interrupted again and again";
        upkeep_state::note(&extension, id, Some(plan.today), Some(message))?;
    }
    end(id)?;
    Ok(false)
}

/// Ends what [`begin`] has begun.
///
/// # Errors
/// Only internal ones.
pub fn end(id: i32) -> Result<()> {
    let _bounded = locks::bounded_waits();
    let extension = Extension::find()?;
    upkeep_state::end(&extension, id)
}

/// Runs a step, if any is left for today, and records its failure. Only a cancel of the session is
/// raised.
pub fn step(id: i32) -> UpkeepStatus {
    let _bounded = locks::bounded_waits();
    let status = {
        let _watch = Watch::begin(LIMIT);
        let _triggers = Unwatched::begin();
        attempt(|| run_step(id))
    };
    status.unwrap_or_else(|failed| {
        let what = format!("upkeep of registered site {id}");
        if let Err(second) = attempt(|| fail(id, &failed)) {
            second.about(&what).tell(PgLogLevel::WARNING);
        }
        failed.about(&what).tell(PgLogLevel::WARNING);
        UpkeepStatus::Failed
    })
}

fn run_step(id: i32) -> Result<UpkeepStatus> {
    let extension = Extension::find()?;
    let Some((site, plan)) = plan(&extension, id)? else { return Ok(UpkeepStatus::Done) };
    plan.check_matomo(&extension, &site)?;
    let StepResult { status, place, blocked } = as_owner(&site, &plan)?;
    // A first sync of another Matomo may have ended since; none can now.
    plan.check_matomo(&extension, &site)?;
    match status {
        UpkeepStatus::Done => {
            ledger::forget_dropped(&extension)?;
            upkeep_state::note(&extension, id, Some(plan.today), None)?;
        }
        _ => upkeep_state::keep_place(&extension, id, place, blocked)?,
    }
    Ok(status)
}

/// Records a failure of the upkeep; the next attempt is on the next day, but soon after a lock or a
/// deadlock. Does nothing if the site or its owner no longer exists.
fn fail(id: i32, failed: &Failed) -> Result<()> {
    let extension = Extension::find()?;
    let planned = match plan(&extension, id) {
        Err(Error::Site(SiteError::NoSite(_) | SiteError::NoOwner { .. })) => return Ok(()),
        planned => planned?,
    };
    match planned {
        Some((_, plan)) => {
            let passes = failed.is_lock_conflict();
            upkeep_state::note(
                &extension,
                id,
                Some(plan.today).filter(|_| !passes),
                Some(&failed.kept_message()),
            )
        }
        None => Ok(()),
    }
}

/// Plans today's upkeep of a site; `None` if it is done. Keeps others from changing the site until the end of
/// the transaction.
///
/// # Errors
/// Those of [`RegisteredSite::get`].
fn plan(extension: &Extension, id: i32) -> Result<Option<(RegisteredSite, Plan)>> {
    // Before the site is read: a new retention must not meet the former table. A change that comes later waits,
    // and then restarts the upkeep.
    upkeep_state::lock(extension, id)?;
    let site = RegisteredSite::get(extension, id)?;
    let UpkeepState { timezone, tended_on, place, matomo } = upkeep_state::read(extension, id)?;
    if upkeep_state::is_done(tended_on, &timezone) {
        return Ok(None);
    }
    let today = retention::today(&timezone);
    let first = retention::first_day(extension, id)?;
    let begins = |day| retention::begins(extension, &site, day, retention::zone(&timezone));
    let before = first.map(begins).transpose()?;
    let matomo = matomo.and_then(|url| Endpoint::parse(&url).ok());
    Ok(Some((site, Plan { today, before, place, matomo })))
}

/// Result of a step.
struct StepResult {
    status: UpkeepStatus,
    /// Where it stopped.
    place: Option<String>,
    /// Which lock it could not get, and who holds it.
    blocked: Option<String>,
}

/// Runs the part of a step that accesses the table, as the owner of the site.
fn as_owner(site: &RegisteredSite, plan: &Plan) -> Result<StepResult> {
    let done = StepResult { status: UpkeepStatus::Done, place: None, blocked: None };
    let _mode = background::as_by_default();
    let _owner = AsRestricted::switch_to(site.owner);
    undefer()?;
    let sql = "SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c \
               WHERE c.oid OPERATOR(pg_catalog.=) $1";
    let is_table_owner: Option<bool> =
        Spi::connect_mut(|client| one(query(client, sql, &[site.destination.into()])?))?;
    let Some(is_table_owner) = is_table_owner else { return Ok(done) };
    if let Some(before) = plan.before
        && let Some(more) = drop_rows(site, plan, before)?
    {
        return Ok(more);
    }
    // Only the owner of the table creates its partitions. A site that is not synced needs none.
    let weeks = settings::premake();
    if weeks > 0 && is_table_owner && site.is_enabled {
        let now = Utc::now().timestamp();
        let ahead = i64::from(weeks) * partitions::WEEK;
        partitions::create_between(site.destination, (now, now + ahead))?;
    }
    // A trigger may have deferred them anew.
    undefer()?;
    Ok(done)
}

/// Removes rows older than an instant, in Unix seconds, as a step of `matomo_drop_before` does. `None` if none
/// are left.
fn drop_rows(site: &RegisteredSite, plan: &Plan, before: i64) -> Result<Option<StepResult>> {
    const LOCK_TIMEOUT_MICROS: i64 = 100_000;
    let invalid = || Error::Internal("invalid instant of a retention".to_owned());
    let microseconds = (before - POSTGRES_EPOCH).saturating_mul(1_000_000);
    let place = plan.place.as_deref().and_then(|place| serde_json::from_str(place).ok());
    let dropped = drop_step(DropArguments {
        destination: site.destination,
        before: microseconds.try_into().map_err(|_| invalid())?,
        site: Some(site.idsite),
        lock_timeout: Interval::new(0, 0, LOCK_TIMEOUT_MICROS).map_err(|_| invalid())?,
        place: place.map(JsonB),
    })?;
    undefer()?;
    if !dropped.more {
        return Ok(None);
    }
    let holders = dropped.holders.map_or_else(String::new, |who| format!(", held by {who}"));
    let blocked = dropped.blocked.map(|what| format!("could not obtain lock on {what}{holders}"));
    let status = if blocked.is_some() { UpkeepStatus::Blocked } else { UpkeepStatus::More };
    let place = dropped.place.map(|JsonB(place)| place.to_string());
    Ok(Some(StepResult { status, place, blocked }))
}
