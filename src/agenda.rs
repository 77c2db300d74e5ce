//! What the worker of a database has to do, and the functions by which it does it. SPI only.

use std::time::Duration;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

use crate::credentials::Credentials;
use crate::destination::{query, spi};
use crate::error::{Error, Result, Stored};
use crate::extension::Extension;
use crate::owner::AsSiteOwner;
use crate::report::warn_of;
use crate::sites;
use crate::upkeep;

/// The sites of a database as they are at some moment.
pub struct Agenda {
    /// The schema of the extension, quoted.
    schema: String,
    /// The sites that are due, in the order in which they came due.
    pub due: Vec<i32>,
    /// Until the next one is.
    pub pause: Option<Duration>,
    /// The sites whose table was not seen to today.
    pub untended: Vec<i32>,
}

/// What a run is called for by, in `matomo_runs`.
const COMMAND: &str = "background worker";

/// A site that there may be something to do for.
struct Waiting {
    site: i32,
    owner: pg_sys::Oid,
    /// Whether the owner is still there.
    is_owned: bool,
    /// Whether it is to be synced, and not only what is too old removed.
    is_enabled: bool,
    server: String,
    /// Seconds until it is due; `None`: never.
    seconds: Option<f64>,
    /// The credentials that Matomo has refused.
    refused: Option<String>,
    /// As Matomo names it.
    timezone: String,
    /// The day on which its table was seen to last.
    tended_on: Option<String>,
}

/// Looks at the sites; `None` where the extension is not created.
///
/// # Errors
/// Only internal ones.
pub fn read() -> Result<Option<Agenda>> {
    if !is_created()? {
        return Ok(None);
    }
    let extension = Extension::find()?;
    let schema = extension.schema.clone();
    let mut agenda = Agenda { schema, due: Vec::new(), pause: None, untended: Vec::new() };
    let (all, ownerless): (Vec<_>, Vec<_>) =
        waiting(&extension)?.into_iter().partition(|waiting| waiting.is_owned);
    if !ownerless.is_empty() {
        for site in sites::note_ownerless(&extension)? {
            warn_of(&Stored::NoOwner(site).into());
        }
    }
    for waiting in all {
        if !waiting.is_tended() {
            agenda.untended.push(waiting.site);
        }
        if !waiting.is_enabled {
            continue;
        }
        match waiting.seconds {
            Some(seconds) if seconds <= 0.0 => agenda.due.push(waiting.site),
            Some(seconds) if agenda.pause.is_none() => {
                agenda.pause = Duration::try_from_secs_f64(seconds.max(0.001)).ok();
            }
            // Not asked again before somebody has altered server or user mapping.
            None if waiting.has_new_credentials() => agenda.due.push(waiting.site),
            _ => {}
        }
    }
    Ok(Some(agenda))
}

fn is_created() -> Result<bool> {
    let sql = "SELECT 1 FROM pg_catalog.pg_extension e \
               WHERE e.extname OPERATOR(pg_catalog.=) 'matomo_postgres'";
    Spi::connect_mut(|client| Ok(!query(client, sql, &[])?.is_empty()))
}

/// The sites that are enabled, or have a retention, the one first that is due first.
fn waiting(extension: &Extension) -> Result<Vec<Waiting>> {
    let sql = format!(
        "SELECT s.id, s.owner::oid, s.server::text, \
             CASE WHEN isfinite(a.at) THEN date_part('epoch', a.at - clock_timestamp()) END, \
             t.refused_credentials, s.timezone, t.tended_on::text, r.oid IS NOT NULL, s.enabled \
         FROM {0}.matomo_site_config s LEFT JOIN pg_roles r ON r.oid = s.owner \
         LEFT JOIN {0}.matomo_site_state t ON t.site_id = s.id \
         CROSS JOIN LATERAL (SELECT coalesce(t.next_at, now())) AS a(at) \
         WHERE s.enabled OR s.retention IS NOT NULL ORDER BY a.at, s.id",
        extension.schema
    );
    extension.run(|client| {
        let corrupt = || Error::Internal("a registered site lacks what it cannot lack".to_owned());
        query(client, &sql, &[])?
            .map(|row| {
                Ok(Waiting {
                    site: row.get(1).map_err(spi)?.ok_or_else(corrupt)?,
                    owner: row.get(2).map_err(spi)?.ok_or_else(corrupt)?,
                    server: row.get(3).map_err(spi)?.ok_or_else(corrupt)?,
                    seconds: row.get(4).map_err(spi)?,
                    refused: row.get(5).map_err(spi)?,
                    timezone: row.get(6).map_err(spi)?.unwrap_or_default(),
                    tended_on: row.get(7).map_err(spi)?,
                    is_owned: row.get(8).map_err(spi)?.ok_or_else(corrupt)?,
                    is_enabled: row.get(9).map_err(spi)?.ok_or_else(corrupt)?,
                })
            })
            .collect()
    })
}

impl Waiting {
    /// Whether its table was seen to today.
    fn is_tended(&self) -> bool {
        let tended_on = self.tended_on.as_deref().and_then(|day| day.parse().ok());
        tended_on >= Some(upkeep::today(&self.timezone))
    }

    /// Whether the credentials are no longer those that were refused.
    fn has_new_credentials(&self) -> bool {
        let Some(refused) = &self.refused else { return false };
        let _owner = AsSiteOwner::become_(self.owner);
        // Where there are none, the run tells why; it asks nobody.
        Credentials::of_server(&self.server).map_or(true, |found| found.version != *refused)
    }
}

impl Agenda {
    /// Begins a run; `None` when another session syncs the site.
    ///
    /// # Errors
    /// Postgres' own.
    pub fn begin(&self, site: i32) -> Result<Option<i64>> {
        self.call("matomo_run_begin($1, $2)", &[site.into(), COMMAND.into()])
    }

    /// A step of a run; gives its status.
    ///
    /// # Errors
    /// Postgres' own.
    pub fn step(&self, run: i64) -> Result<String> {
        self.status("matomo_run_step($1)", run.into())
    }

    /// Tells the log what a run failed with.
    ///
    /// # Errors
    /// Postgres' own.
    pub fn report(&self, run: i64) -> Result<()> {
        self.call::<String>("matomo_run_report($1, false)::pg_catalog.text", &[run.into()])?;
        Ok(())
    }

    /// A step of a site's upkeep; gives whether there are more.
    ///
    /// # Errors
    /// Postgres' own.
    pub fn look_after(&self, site: i32) -> Result<String> {
        self.status("matomo_upkeep_step($1)", site.into())
    }

    fn status(&self, call: &str, argument: DatumWithOid) -> Result<String> {
        let status = self.call(call, &[argument])?;
        status.ok_or_else(|| Error::Internal(format!("{call} gave no status")))
    }

    fn call<T: FromDatum + IntoDatum>(
        &self,
        call: &str,
        args: &[DatumWithOid],
    ) -> Result<Option<T>> {
        // Not as long as somebody drops it.
        Extension::find()?;
        let sql = format!("SELECT {}.{call}", self.schema);
        Spi::connect_mut(|client| query(client, &sql, args)?.first().get_one().map_err(spi))
    }
}
