//! The runs of registered sites: the table `matomo_run_log`, and what each means for the state of its
//! site. SPI only.

use chrono::NaiveDate;
use pgrx::prelude::*;

use crate::copy::DayResult;
use crate::destination::{query, spi};
use crate::encoding::ServerText;
use crate::error::{Error, Result, Stored};
use crate::extension::Extension;
use crate::plan::Due;
use crate::sites::Site;

/// A run, as its row says.
#[derive(Debug, Clone)]
pub struct Run {
    pub run: i64,
    pub site: i32,
    /// When it began, in seconds.
    pub began: i64,
    pub days: i32,
    pub visits: i64,
    pub actions: i64,
    pub truncated_visits: i64,
    /// The first day that it has not done.
    pub next_day: Option<NaiveDate>,
    /// Days after that which it has done.
    pub done: Vec<NaiveDate>,
    /// The site's, as Matomo told it.
    pub timezone: Option<String>,
}

/// An error as it is noted.
pub struct Failed {
    pub state: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

/// What a dead session left behind.
const LEFT_BEHIND: &str = "the session ended before the run did";

/// Notes the beginning of a run; gives its number. Runs that are over, though nobody has said so,
/// have failed; and the oldest of the site are forgotten.
///
/// # Errors
/// Only internal ones.
pub fn begin(
    extension: &Extension,
    site: &Site,
    user: &str,
    command: &str,
    keep: i32,
) -> Result<i64> {
    let schema = &extension.schema;
    // The lock of this site is ours: no other run of it is alive.
    let sweep = format!(
        "WITH dead AS (UPDATE {schema}.matomo_run_log r SET status = 'failed', \
             return_message = $2, end_time = clock_timestamp() \
             WHERE r.status = 'running' AND (r.site_id = $1 OR NOT {schema}.matomo_is_running(r.site_id)) \
             RETURNING r.site_id) \
         UPDATE {schema}.matomo_site_state t SET failures = t.failures + 1, \
             last_error_at = clock_timestamp(), last_sqlstate = NULL, last_error = $2, \
             last_detail = NULL, last_hint = NULL \
         FROM (SELECT DISTINCT site_id FROM dead) d WHERE t.site_id = d.site_id"
    );
    let insert = format!(
        "INSERT INTO {schema}.matomo_run_log (job_pid, database, username, command, status, start_time, \
             site_id, owner, server, idsite, destination) \
         SELECT pg_backend_pid(), current_database(), $2, $3, 'running', clock_timestamp(), \
             s.id, s.owner, s.server, s.idsite, s.destination::text \
         FROM {schema}.matomo_site_config s WHERE s.id = $1 RETURNING runid"
    );
    let forget = format!(
        "DELETE FROM {schema}.matomo_run_log WHERE site_id = $1 AND status <> 'running' AND runid <= \
             (SELECT runid FROM {schema}.matomo_run_log WHERE site_id = $1 \
             ORDER BY runid DESC OFFSET $2 LIMIT 1)"
    );
    extension.run(|client| {
        query(client, &sweep, &[site.id.into(), LEFT_BEHIND.into()])?;
        let args = [site.id.into(), user.into(), command.into()];
        let run: Option<i64> = query(client, &insert, &args)?.first().get_one().map_err(spi)?;
        let run = run.ok_or(Stored::NoSite(site.id))?;
        query(client, &forget, &[site.id.into(), i64::from(keep).into()])?;
        Ok(run)
    })
}

/// Forgets the oldest runs of sites that are registered no more: of all these together so many are
/// kept.
///
/// # Errors
/// Only internal ones.
pub fn forget_removed(extension: &Extension, keep: i32) -> Result<()> {
    let schema = &extension.schema;
    let removed =
        format!("NOT EXISTS (SELECT FROM {schema}.matomo_site_config s WHERE s.id = r.site_id)");
    let sql = format!(
        "DELETE FROM {schema}.matomo_run_log r WHERE {removed} AND status <> 'running' AND runid <= \
             (SELECT runid FROM {schema}.matomo_run_log r WHERE {removed} \
             ORDER BY runid DESC OFFSET $1 LIMIT 1)"
    );
    extension.run(|client| query(client, &sql, &[i64::from(keep).into()]).map(drop))
}

impl Run {
    /// Reads the row of a run.
    ///
    /// # Errors
    /// [`Stored::NoRun`].
    pub fn get(extension: &Extension, run: i64) -> Result<Run> {
        let sql = format!(
            "SELECT site_id, date_part('epoch', start_time), days, visits, actions, truncated_visits, \
                 next_day::text, array_to_string(done, ','), timezone \
             FROM {}.matomo_run_log WHERE runid = $1",
            extension.schema
        );
        extension.run(|client| {
            let row = query(client, &sql, &[run.into()])?.next().ok_or(Stored::NoRun(run))?;
            let corrupt = || Error::Internal("a run holds what it cannot hold".to_owned());
            let parse = |text: &str| text.parse::<NaiveDate>().map_err(|_| corrupt());
            let next_day: Option<String> = row.get(7).map_err(spi)?;
            let done: Option<String> = row.get(8).map_err(spi)?;
            let done = done.unwrap_or_default();
            Ok(Run {
                run,
                site: row.get(1).map_err(spi)?.ok_or_else(corrupt)?,
                began: row.get::<f64>(2).map_err(spi)?.ok_or_else(corrupt)? as i64,
                days: row.get(3).map_err(spi)?.ok_or_else(corrupt)?,
                visits: row.get(4).map_err(spi)?.ok_or_else(corrupt)?,
                actions: row.get(5).map_err(spi)?.ok_or_else(corrupt)?,
                truncated_visits: row.get(6).map_err(spi)?.ok_or_else(corrupt)?,
                next_day: next_day.as_deref().map(parse).transpose()?,
                done: done
                    .split(',')
                    .filter(|day| !day.is_empty())
                    .map(parse)
                    .collect::<Result<_>>()?,
                timezone: row.get(9).map_err(spi)?,
            })
        })
    }

    /// Whether the run has not done a day.
    pub fn has_to_do(&self, due: &Due) -> bool {
        self.next_day.is_none_or(|next| due.day >= next) && !self.done.contains(&due.day)
    }

    /// Notes what a step has done of the days that were due, and how many bytes it took; gives how
    /// many days are left.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn add(
        &mut self,
        extension: &Extension,
        due: &[NaiveDate],
        results: &[DayResult],
        bytes: u64,
    ) -> Result<usize> {
        let sum = |each: &dyn Fn(&DayResult) -> i64| results.iter().map(each).sum::<i64>();
        let is_done = |(read, _): &&DayResult| read.rest.is_none();
        self.done.extend(results.iter().filter(is_done).map(|(read, _)| read.day));
        let new_days = i32::try_from(results.iter().filter(is_done).count()).unwrap_or(i32::MAX);
        let left: Vec<_> = due.iter().filter(|day| !self.done.contains(day)).collect();
        if let Some(next) = left.first().copied().copied() {
            self.next_day = Some(next);
        } else if let Some(last) = due.last() {
            self.next_day = last.succ_opt();
        }
        self.done.retain(|day| Some(*day) > self.next_day);
        self.days += new_days;
        self.truncated_visits +=
            sum(&|(read, _)| read.met.truncated_visits - read.met_before.truncated_visits);
        let total = self.days.saturating_add(i32::try_from(left.len()).unwrap_or(i32::MAX));
        let done: Vec<_> = self.done.iter().map(NaiveDate::to_string).collect();
        let sql = format!(
            "UPDATE {}.matomo_run_log SET days = $2, days_total = $3, pages = pages + $4, \
                 visits = visits + $5, actions = actions + $6, inserted = inserted + $7, \
                 updated = updated + $8, deleted = deleted + $9, truncated_visits = $10, \
                 bytes = bytes + $11, next_day = $12::date, done = $13::text[]::date[], timezone = $14 \
             WHERE runid = $1",
            extension.schema
        );
        let args = [
            self.run.into(),
            self.days.into(),
            total.into(),
            sum(&|(read, _)| read.pages.into()).into(),
            sum(&|(read, _)| read.met.visits - read.met_before.visits).into(),
            sum(&|(read, _)| read.met.actions - read.met_before.actions).into(),
            sum(&|(_, written)| written.inserted).into(),
            sum(&|(_, written)| written.updated).into(),
            sum(&|(_, written)| written.deleted).into(),
            self.truncated_visits.into(),
            i64::try_from(bytes).unwrap_or(i64::MAX).into(),
            self.next_day.map(|day| day.to_string()).into(),
            done.into(),
            self.timezone.as_deref().into(),
        ];
        extension.run(|client| query(client, &sql, &args).map(drop))?;
        Ok(left.len())
    }

    /// Notes that the run has come to its end well: the table holds what Matomo had when it began.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn succeed(&self, extension: &Extension) -> Result<()> {
        let schema = &extension.schema;
        let sql = format!(
            "WITH r AS (UPDATE {schema}.matomo_run_log SET status = 'succeeded', \
                 end_time = clock_timestamp() WHERE runid = $1 RETURNING site_id, start_time) \
             INSERT INTO {schema}.matomo_site_state AS t (site_id, last_success_at, next_at) \
             SELECT s.id, r.start_time, r.start_time + s.every \
             FROM r JOIN {schema}.matomo_site_config s ON s.id = r.site_id \
             ON CONFLICT (site_id) DO UPDATE SET last_success_at = excluded.last_success_at, \
                 next_at = excluded.next_at, failures = 0, refused_credentials = NULL"
        );
        extension.run(|client| query(client, &sql, &[self.run.into()]).map(drop))
    }
}

/// Notes that a run has failed, and over which credentials if Matomo has refused them. The longer a
/// site fails, the later it is tried again, after an hour at the latest; with a refused token never.
///
/// # Errors
/// Only internal ones.
pub fn fail(extension: &Extension, run: i64, error: &Failed, refused: Option<&str>) -> Result<()> {
    let schema = &extension.schema;
    let sql = format!(
        "WITH r AS (UPDATE {schema}.matomo_run_log SET status = 'failed', \
             end_time = clock_timestamp(), sqlstate = $2, return_message = $3, detail = $4, hint = $5 \
             WHERE runid = $1 RETURNING site_id), \
         f AS (SELECT s.id, s.every, coalesce(t.failures, 0) + 1 AS failures \
             FROM r JOIN {schema}.matomo_site_config s ON s.id = r.site_id \
             LEFT JOIN {schema}.matomo_site_state t ON t.site_id = s.id) \
         INSERT INTO {schema}.matomo_site_state AS t (site_id, next_at, failures, last_error_at, \
             last_sqlstate, last_error, last_detail, last_hint, refused_credentials) \
         SELECT f.id, CASE WHEN $6 IS NULL THEN clock_timestamp() + least(interval '1 hour', \
                 least(f.every, interval '1 minute') * power(2, least(f.failures, 30) - 1)) \
             ELSE 'infinity' END, \
             f.failures, clock_timestamp(), $2, $3, $4, $5, $6 FROM f \
         ON CONFLICT (site_id) DO UPDATE SET next_at = excluded.next_at, \
             failures = excluded.failures, last_error_at = excluded.last_error_at, \
             last_sqlstate = excluded.last_sqlstate, last_error = excluded.last_error, \
             last_detail = excluded.last_detail, last_hint = excluded.last_hint, \
             refused_credentials = excluded.refused_credentials",
    );
    let args = [
        run.into(),
        error.state.as_str().into(),
        error.message.as_str().into(),
        error.detail.as_deref().into(),
        error.hint.as_deref().into(),
        refused.into(),
    ];
    extension.run(|client| query(client, &sql, &args).map(drop))
}

/// Takes back a run that has done nothing.
///
/// # Errors
/// Only internal ones.
pub fn take_back(extension: &Extension, run: i64) -> Result<()> {
    let sql = format!("DELETE FROM {}.matomo_run_log WHERE runid = $1", extension.schema);
    extension.run(|client| query(client, &sql, &[run.into()]).map(drop))
}

/// The error that a run has failed with, if it has, and of which site and owner it is.
///
/// # Errors
/// Only internal ones.
pub fn failure(extension: &Extension, run: i64) -> Result<Option<(i32, pg_sys::Oid, Failed)>> {
    let sql = format!(
        "SELECT site_id, owner::oid, coalesce(sqlstate, 'XX000'), coalesce(return_message, ''), detail, \
             hint FROM {}.matomo_run_log WHERE runid = $1 AND status = 'failed'",
        extension.schema
    );
    extension.run(|client| {
        let Some(row) = query(client, &sql, &[run.into()])?.next() else { return Ok(None) };
        let text = |column: usize| {
            let text = row.get::<ServerText>(column).map_err(spi)?;
            Ok::<_, Error>(text.map(|text| text.0))
        };
        let failed = Failed {
            state: text(3)?.unwrap_or_default(),
            message: text(4)?.unwrap_or_default(),
            detail: text(5)?,
            hint: text(6)?,
        };
        let of = row.get::<i32>(1).map_err(spi)?.zip(row.get(2).map_err(spi)?);
        Ok(of.map(|(site, owner)| (site, owner, failed)))
    })
}
