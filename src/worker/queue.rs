//! The work that is due in a database, in order. SPI only.

use std::collections::HashSet;
use std::time::Duration;

use pgrx::prelude::*;

use crate::config::credentials::Credentials;
use crate::error::{Error, Result};
use crate::matomo::http::endpoint::Endpoint;
use crate::pg::extension::Extension;
use crate::pg::locks::{self, LockKind};
use crate::pg::roles::AsRestricted;
use crate::pg::spi::{get, query};
use crate::state::restored::{self, OWNER_OF_SITE};
use crate::state::retention;
use crate::state::runs;
use crate::state::sites::URL_OF_SERVER;
use crate::state::upkeep_state;

/// A snapshot of the work of a database.
#[derive(Default)]
pub struct Queue {
    /// Tasks in the order in which they became due. The sync of a failing site counts as due [`FAILING_DELAY`]
    /// or [`UNANSWERED_DELAY`] seconds later, so that it comes after the others but does not starve.
    pub tasks: Vec<Task>,
    /// Time until the next task is due.
    pub pause: Option<Duration>,
    /// Whether there are sites without an owner.
    pub has_ownerless: bool,
    /// The Matomos of enabled sites.
    pub matomos: HashSet<String>,
    /// Sites whose last run failed because their Matomo was unreachable.
    pub unanswered: HashSet<i32>,
}

/// How much later than others failing sites are due, in seconds.
const FAILING_DELAY: f64 = 60.0;
/// The same for a site whose Matomo failed to answer twice: each attempt costs a request timeout, and there
/// may be many such sites.
const UNANSWERED_DELAY: f64 = 3600.0;

/// Due time of a site whose refused token was renewed: somebody waits for the result.
const AT_ONCE: f64 = f64::NEG_INFINITY;

/// The work that is due for a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub site: i32,
    /// The URL of its Matomo, or the name of its server if the URL is unknown.
    pub matomo: String,
    /// Whether to sync it.
    pub syncs: bool,
    /// Whether to do its upkeep; a process does only one of both.
    pub does_upkeep: bool,
    pub is_failing: bool,
    /// When it became due, as text. A process that makes progress changes it.
    pub due_at: String,
    /// As text. Progress or a restart changes it.
    pub upkeep_state: String,
    /// Attempts at its upkeep that have not ended: crashes, if no process is working on it.
    pub upkeep_deaths: i32,
}

/// A site that may have work.
struct Candidate {
    site: i32,
    owner: pg_sys::Oid,
    /// Whether the owner exists.
    is_owned: bool,
    /// Whether to sync it; otherwise only retention applies.
    is_enabled: bool,
    server: String,
    /// Option of the server.
    url: Option<String>,
    /// Seconds until it is due; `None` means never.
    seconds: Option<f64>,
    due_at: String,
    failures: i32,
    /// Whether the last run failed because its Matomo did not answer.
    is_unanswered: bool,
    upkeep_state: String,
    upkeep_deaths: i32,
    /// Whether its last run was interrupted and that is not yet recorded.
    is_dead: bool,
    /// Version of the credentials that Matomo refused.
    refused: Option<String>,
    /// As named by Matomo.
    timezone: String,
    /// Day of the last upkeep.
    tended_on: Option<String>,
}

/// Reads the work of all sites; `None` if the extension is not created.
///
/// # Errors
/// Only internal ones.
pub fn read() -> Result<Option<Queue>> {
    if !is_created()? {
        return Ok(None);
    }
    let extension = Extension::find()?;
    restored::resolve(&extension)?;
    let (mut queue, mut tasks) = (Queue::default(), Vec::new());
    for waiting in waiting(&extension)? {
        if !waiting.is_owned {
            queue.has_ownerless = true;
            continue;
        }
        let matomo = waiting.matomo();
        if waiting.is_enabled {
            queue.matomos.insert(matomo.clone());
        }
        if waiting.is_unanswered {
            queue.unanswered.insert(waiting.site);
        }
        let does_upkeep = !waiting.is_upkeep_done();
        let syncs = waiting.is_dead
            || waiting.is_enabled
                && match waiting.seconds {
                    Some(seconds) => seconds <= 0.0,
                    // After a refused token: once the server or user mapping was altered.
                    None => waiting.has_new_credentials(),
                };
        if syncs || does_upkeep {
            let is_failing = waiting.is_dead || waiting.failures > 0;
            let later = match is_failing {
                true if waiting.is_unanswered && waiting.failures > 1 => UNANSWERED_DELAY,
                true => FAILING_DELAY,
                false => 0.0,
            };
            // Upkeep is due from midnight on.
            let seconds = if syncs {
                waiting.seconds.unwrap_or(AT_ONCE) + later
            } else {
                -retention::seconds_of_today(&waiting.timezone)
            };
            let Candidate { site, due_at, upkeep_state, upkeep_deaths, .. } = waiting;
            let task = Task {
                site,
                matomo,
                syncs,
                does_upkeep,
                is_failing,
                due_at,
                upkeep_state,
                upkeep_deaths,
            };
            tasks.push((seconds, task));
        }
        if let Some(seconds) = waiting.seconds.filter(|_| waiting.is_enabled && !syncs) {
            let pause = Duration::try_from_secs_f64(seconds.max(0.001)).ok();
            queue.pause = queue.pause.into_iter().chain(pause).min();
        }
    }
    tasks.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    queue.tasks = tasks.into_iter().map(|(_, task)| task).collect();
    Ok(Some(queue))
}

/// Whether the extension is created in this database.
///
/// # Errors
/// Only internal ones.
pub fn is_created() -> Result<bool> {
    let sql = "SELECT 1 FROM pg_catalog.pg_extension e \
               WHERE e.extname OPERATOR(pg_catalog.=) 'matomo_postgres'";
    Spi::connect_mut(|client| Ok(!query(client, sql, &[])?.is_empty()))
}

/// Sites that are enabled or have a retention, and that no session is working on.
fn waiting(extension: &Extension) -> Result<Vec<Candidate>> {
    let sql = format!(
        "SELECT s.id, {OWNER_OF_SITE}, s.server::text, \
             CASE WHEN NOT isfinite(a.at) THEN NULL WHEN a.at > clock_timestamp() AND {1} THEN 0 \
                 ELSE date_part('epoch', a.at - clock_timestamp()) END, \
             t.refused_credentials, s.timezone, t.tended_on::text, r.oid IS NOT NULL, s.enabled, \
             a.at::text, coalesce(t.failures, 0), EXISTS (SELECT FROM {0}.matomo_run_log g \
                 WHERE g.site_id = s.id AND g.status = 'running'), concat_ws(' ', t.changes, t.upkeep_place), \
             t.failures > 0 AND t.is_unanswered AND NOT EXISTS (SELECT FROM {0}.matomo_run_log g \
                 WHERE g.site_id = s.id AND g.status = 'paused'), \
             {URL_OF_SERVER}, \
             coalesce(t.upkeep_begun, 0) \
         FROM {0}.matomo_site_config s LEFT JOIN pg_roles r ON r.oid = {OWNER_OF_SITE} \
         LEFT JOIN {0}.matomo_site_state t ON t.site_id = s.id \
         CROSS JOIN LATERAL (SELECT coalesce(t.next_at, now())) AS a(at) \
         WHERE (s.enabled OR s.retention IS NOT NULL) \
         AND s.id <> ALL ($1) ORDER BY s.id",
        extension.schema,
        runs::IS_DUE
    );
    let worked_on: Vec<i32> =
        locks::held(LockKind::Run).iter().map(|held| held.object.cast_signed()).collect();
    extension.run(|client| {
        let corrupt = || Error::Internal("invalid row in matomo_site_config".to_owned());
        query(client, &sql, &[worked_on.into()])?
            .map(|row| {
                Ok(Candidate {
                    site: get(&row, 1)?.ok_or_else(corrupt)?,
                    owner: get(&row, 2)?.ok_or_else(corrupt)?,
                    server: get(&row, 3)?.ok_or_else(corrupt)?,
                    seconds: get(&row, 4)?,
                    refused: get(&row, 5)?,
                    timezone: get(&row, 6)?.unwrap_or_default(),
                    tended_on: get(&row, 7)?,
                    is_owned: get(&row, 8)?.ok_or_else(corrupt)?,
                    is_enabled: get(&row, 9)?.ok_or_else(corrupt)?,
                    due_at: get(&row, 10)?.ok_or_else(corrupt)?,
                    failures: get(&row, 11)?.ok_or_else(corrupt)?,
                    is_dead: get(&row, 12)?.ok_or_else(corrupt)?,
                    upkeep_state: get(&row, 13)?.ok_or_else(corrupt)?,
                    is_unanswered: get(&row, 14)? == Some(true),
                    url: get(&row, 15)?,
                    upkeep_deaths: get(&row, 16)?.ok_or_else(corrupt)?,
                })
            })
            .collect()
    })
}

impl Candidate {
    /// The key of its Matomo; several servers may have the same.
    fn matomo(&self) -> String {
        let endpoint = self.url.as_deref().and_then(|url| Endpoint::parse(url).ok());
        endpoint.map_or_else(|| self.server.clone(), |endpoint| endpoint.url().to_owned())
    }

    /// Whether today's upkeep is done.
    fn is_upkeep_done(&self) -> bool {
        let tended_on = self.tended_on.as_deref().and_then(|day| day.parse().ok());
        upkeep_state::is_done(tended_on, &self.timezone)
    }

    /// Whether the credentials differ from those that were refused.
    fn has_new_credentials(&self) -> bool {
        let Some(refused) = &self.refused else { return false };
        let _owner = AsRestricted::switch_to(self.owner);
        // Without credentials, the run fails before its first request and reports why.
        Credentials::of_server(&self.server).map_or(true, |found| found.version != *refused)
    }
}
