//! Reads the names of a site's goals and custom dimensions, and registers new sites where they are wanted:
//! once per day in the site's timezone, after a run that has succeeded. A failure of this does not count as
//! one of the site: it is recorded, and the next attempt is on the next day.

use std::time::Duration;

use chrono::NaiveDate;
use pgrx::PgLogLevel;

use crate::config::access::Access;
use crate::config::credentials::Credentials;
use crate::error::Result;
use crate::matomo::http::endpoint::Endpoint;
use crate::matomo::metadata::{Metadata, SiteDetail};
use crate::pg::ereport::say;
use crate::pg::extension::Extension;
use crate::pg::locks;
use crate::pg::roles::AsRestricted;
use crate::pg::watch::Watch;
use crate::state::ledger::matomo_of_table;
use crate::state::metadata;
use crate::state::new_sites;
use crate::state::retention;
use crate::state::sites::{self, RegisteredSite};
use crate::sync;
use crate::worker::attempt::attempt;
use crate::worker::wake;

/// Maximum wait for an answer, even if `request_timeout` is longer: other sites wait for this process.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Maximum requests of a reading.
const REQUESTS: u32 = 4;

/// The error of a reading whose process has ended.
const INTERRUPTED: &str = "the reading of names was interrupted";

/// Today in the site's timezone, unless its names were read today. Records an interruption in
/// advance: a reading that crashes the process must not be repeated by each run.
///
/// # Errors
/// Only internal ones.
pub fn begin(extension: &Extension, id: i32) -> Result<Option<NaiveDate>> {
    let Some((timezone, read_on)) = metadata::last_read(extension, id)? else { return Ok(None) };
    let today = retention::today(&timezone);
    // A later day comes from a clock that was ahead.
    if read_on == Some(today) {
        return Ok(None);
    }
    metadata::begin(extension, id, today, INTERRUPTED)?;
    Ok(Some(today))
}

/// Reads them, after [`begin`]. A transaction of its own, so that no other session waits for the rows
/// meanwhile. Only a cancel of the session is raised.
pub fn step(id: i32, today: NaiveDate) {
    let _bounded = locks::bounded_waits();
    let outcome = {
        let _watch = Watch::begin(LONGEST_WAIT * REQUESTS);
        attempt(|| refresh(id, today))
    };
    if let Err(failed) = outcome {
        let note = || metadata::end(&Extension::find()?, id, today, Some(&failed.kept_message()));
        if let Err(second) = attempt(note) {
            second.about(&format!("registered site {id}")).tell(PgLogLevel::WARNING);
        }
    }
}

fn refresh(id: i32, today: NaiveDate) -> Result<()> {
    let extension = Extension::find()?;
    let site = RegisteredSite::get(&extension, id)?;
    let Told { matomo, site: told, all } = as_owner(&extension, &site)?;
    // The site may have got another table since its run.
    matomo_of_table::check(&extension, site.destination, &matomo)?;
    metadata::store(&extension, site.destination, &told)?;
    let register = |all: Result<Vec<SiteDetail>>| {
        new_sites::wait_for_others(&site.server, site.owner);
        register_new(&extension, id, &all?)
    };
    let new = all.map_or(Ok(()), register);
    let errors = [told.goals.err(), told.dimensions.err(), new.err()].into_iter().flatten();
    let errors: Vec<_> = errors.map(|error| error.to_string()).collect();
    let error = (!errors.is_empty()).then(|| errors.join("; "));
    metadata::end(&extension, id, today, error.as_deref())
}

/// Registers the sites that are new to a registered site that is marked to have them.
fn register_new(extension: &Extension, id: i32, all: &[SiteDetail]) -> Result<()> {
    let (known, unknown): (Vec<_>, Vec<_>) =
        all.iter().cloned().partition(|site| site.zone().is_ok());
    let has_retention = retention::of(extension, id)?.is_some();
    let (left_out, known): (Vec<_>, Vec<_>) =
        known.into_iter().partition(|site| has_retention && site.is_rollup());
    let new = new_sites::register(extension, id, &known)?;
    for idsite in &new {
        let line = format!("matomo: new site {idsite} is registered like registered site {id}");
        say(PgLogLevel::LOG, line);
    }
    if !new.is_empty() {
        wake::after_commit(extension)?;
    }
    for site in left_out {
        if new_sites::is_new(extension, id, site.idsite)? {
            return Err(metadata::of_rollup(site.idsite));
        }
    }
    unknown.first().map_or(Ok(()), |site| site.zone().map(drop))
}

/// What Matomo has told of a site, and of all sites if new ones are to be registered.
struct Told {
    matomo: Endpoint,
    site: Metadata,
    all: Option<Result<Vec<SiteDetail>>>,
}

fn as_owner(extension: &Extension, site: &RegisteredSite) -> Result<Told> {
    let follows = new_sites::follows(extension, site.id)?;
    let _owner = AsRestricted::switch_to(site.owner);
    let credentials = Credentials::of_site(site.id, &site.server)?;
    sites::check_not_refused(extension, site, &credentials.version)?;
    let client = Access::stored(credentials)?.client.with_answer_timeout_below(LONGEST_WAIT);
    let told = sync::metadata::of_site(&client, site.idsite, Some(site.id))?;
    let all = follows.then(|| sync::metadata::sites(&client));
    Ok(Told { matomo: client.endpoint().clone(), site: told, all })
}
