//! What the worker of a database has to do, and the functions by which it does it. SPI only.

use std::time::Duration;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;

use crate::destination::{query, spi};
use crate::error::{Error, Result};

/// The sites of a database as they are at some moment.
pub struct Agenda {
    /// The schema of the extension, quoted.
    schema: String,
    /// The sites that are due, in the order in which they came due.
    pub due: Vec<i32>,
    /// Until the next one is.
    pub pause: Option<Duration>,
}

/// What a run is called for by, in `matomo_runs`.
const COMMAND: &str = "background worker";

/// Looks at the sites; `None` where the extension is not created.
///
/// # Errors
/// Only internal ones.
pub fn read() -> Result<Option<Agenda>> {
    Spi::connect_mut(|client| {
        let sql = "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e \
                   JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace \
                   WHERE e.extname OPERATOR(pg_catalog.=) 'matomo_postgres'";
        let found = query(client, sql, &[])?;
        if found.is_empty() {
            return Ok(None);
        }
        let schema: String = found.first().get_one().map_err(spi)?.unwrap_or_default();
        let mut agenda = Agenda { schema, due: Vec::new(), pause: None };
        let sql = format!(
            "SELECT a.site_id, a.seconds FROM {}.matomo_agenda() AS a ORDER BY a.seconds, a.site_id",
            agenda.schema
        );
        for row in query(client, &sql, &[])? {
            let site: Option<i32> = row.get(1).map_err(spi)?;
            let seconds: f64 = row.get(2).map_err(spi)?.unwrap_or(f64::INFINITY);
            match site {
                Some(site) if seconds <= 0.0 => agenda.due.push(site),
                _ if agenda.pause.is_none() => {
                    agenda.pause = Duration::try_from_secs_f64(seconds.max(0.001)).ok();
                }
                _ => {}
            }
        }
        Ok(Some(agenda))
    })
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
        let sql = format!("SELECT {}.{call}", self.schema);
        Spi::connect_mut(|client| query(client, &sql, args)?.first().get_one().map_err(spi))
    }
}

/// Gives up the lock that a run holds for its site.
///
/// # Errors
/// Only internal ones.
pub fn unlock(site: i32) -> Result<()> {
    let sql = "SELECT pg_catalog.pg_advisory_unlock(1835103343, $1)";
    Spi::connect_mut(|client| query(client, sql, &[site.into()]).map(drop))
}
