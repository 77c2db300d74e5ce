//! Starts, pauses and ends runs of registered sites, and updates the state of their sites. SPI only.

use pgrx::pg_sys;
use pgrx::spi::SpiClient;

use crate::config::settings;
use crate::error::{Result, SiteError};
use crate::pg::ereport::warn;
use crate::pg::extension::Extension;
use crate::pg::failed::Failed;
use crate::pg::locks::{self, LockKind};
use crate::pg::spi::{get, one, query};
use crate::state::restored::{OWNER_OF_SITE, table_of_site};
use crate::state::sites::RegisteredSite;

/// Message of a run that was cancelled, or ended with its session or server.
const INTERRUPTED: &str = "the run was interrupted";

/// Message of a paused run whose site was changed.
const CHANGED: &str = "the registered site was changed";

/// SQL for a failing site's wait: a minute, or its `every` if that is less, doubled after each failure,
/// at most an hour. Computed in seconds, so that no interval overflows.
fn backoff(failures: &str) -> String {
    format!(
        "make_interval(secs => least(3600, least(greatest(date_part('epoch', s.every), 1), 60) \
         * power(2, least({failures}, 30) - 1)))"
    )
}

/// SQL for the next due time after a success. Older versions accepted intervals whose fields may
/// overflow.
const NEXT: &str = "r.start_time + CASE WHEN s.every BETWEEN '1 second' AND '100 years' \
    AND date_part('year', s.every) BETWEEN 0 AND 100 AND date_part('month', s.every) >= 0 \
    AND date_part('day', s.every) BETWEEN 0 AND 36000 THEN s.every \
    ELSE make_interval(secs => least(greatest(date_part('epoch', s.every), 1), 3110400000)) END";

/// SQL for whether a site (`s`, its state `t`) is due: also if it would wait longer than possible, after
/// a clock that was ahead. The factor allows for months and years of different lengths.
pub const IS_DUE: &str = "(t.next_at <= clock_timestamp() OR isfinite(t.next_at) \
    AND t.next_at > clock_timestamp() + make_interval(secs => greatest( \
        1.1 * least(date_part('epoch', s.every), 3110400000), CASE t.failures WHEN 0 THEN 60 ELSE 3600 END)))";

/// Result of [`begin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// The ID of a new or resumed run.
    Run(i64),
    /// The site is not due, possibly because its last run was interrupted, which is now recorded.
    Waits,
}

/// Starts a run of a site whose lock the caller has. After its commit, the site waits as if the run had
/// failed, in case the run is interrupted. `at_once` starts it even if the site is not due or not
/// enabled.
///
/// # Errors
/// Only internal ones.
pub fn begin(
    extension: &Extension,
    site: &RegisteredSite,
    user: &str,
    command: &str,
    at_once: bool,
) -> Result<Begun> {
    let (schema, table, id) = (&extension.schema, table_of_site(&extension.schema), site.id);
    let resume = format!(
        "UPDATE {schema}.matomo_run_log SET status = 'running', job_pid = pg_backend_pid(), \
             username = $2, command = $3 WHERE site_id = $1 AND status = 'paused' RETURNING runid"
    );
    let insert = format!(
        "INSERT INTO {schema}.matomo_run_log (job_pid, database, username, command, status, start_time, \
             site_id, owner, server, idsite, destination, changes, step_pages, owner_name) \
         SELECT pg_backend_pid(), current_database(), $2, $3, 'running', clock_timestamp(), \
             s.id, {OWNER_OF_SITE}, s.server, s.idsite, coalesce((SELECT c.oid::regclass::text FROM pg_class c \
                 WHERE c.oid = {table}), format('%I.%I', s.destination_name[1], \
                 s.destination_name[2])), coalesce(t.changes, 0), $4, pg_get_userbyid({OWNER_OF_SITE}) \
         FROM {schema}.matomo_site_config s LEFT JOIN {schema}.matomo_site_state t ON t.site_id = s.id \
         WHERE s.id = $1 RETURNING runid"
    );
    // After a refused token, the coordinator has already checked that the token has changed.
    let is_due = format!(
        "SELECT FROM {schema}.matomo_site_state t JOIN {schema}.matomo_site_config s ON s.id = t.site_id \
         WHERE t.site_id = $1 AND s.enabled AND ({IS_DUE} OR t.next_at = 'infinity')"
    );
    let wait = format!(
        "UPDATE {schema}.matomo_site_state t SET next_at = clock_timestamp() + {} \
         FROM {schema}.matomo_site_config s WHERE s.id = $1 AND t.site_id = s.id",
        backoff("t.failures + 1")
    );
    let forget = format!(
        "DELETE FROM {schema}.matomo_run_log WHERE site_id = $1 AND status IN ('succeeded', 'failed') \
         AND runid <= (SELECT runid FROM {schema}.matomo_run_log WHERE site_id = $1 \
             ORDER BY runid DESC OFFSET $2 LIMIT 1)"
    );
    extension.run(|client| {
        note_dead(client, schema, id)?;
        if !at_once && query(client, &is_due, &[id.into()])?.is_empty() {
            return Ok(Begun::Waits);
        }
        query(client, &wait, &[id.into()])?;
        let args = [id.into(), user.into(), command.into()];
        if let Some(row) = query(client, &resume, &args)?.next() {
            let run: Option<i64> = get(&row, 1)?;
            return run.map(Begun::Run).ok_or_else(|| SiteError::NoSite(id).into());
        }
        let pages = smaller_steps(client, schema, id)?;
        let args = [id.into(), user.into(), command.into(), pages.into()];
        let row = query(client, &insert, &args)?.next().ok_or(SiteError::NoSite(id))?;
        let run: Option<i64> = get(&row, 1)?;
        query(client, &forget, &[id.into(), i64::from(settings::keep_runs()).into()])?;
        run.map(Begun::Run).ok_or_else(|| SiteError::NoSite(id).into())
    })
}

/// Records interrupted runs of a site. The caller has the site's lock, so a run with status running is
/// not alive.
fn note_dead(client: &mut SpiClient, schema: &str, site: i32) -> Result<()> {
    let dead = format!(
        "WITH dead AS (UPDATE {schema}.matomo_run_log SET status = 'failed', return_message = $2, \
             end_time = clock_timestamp() WHERE site_id = $1 AND status = 'running' RETURNING changes) \
         SELECT max(changes) FROM dead"
    );
    // A run from before the site was changed does not count as its failure.
    let count = format!(
        "UPDATE {schema}.matomo_site_state t SET failures = t.failures + 1, \
             next_at = clock_timestamp() + {}, last_error_at = clock_timestamp(), last_sqlstate = NULL, \
             is_unanswered = false, last_error = $2, last_detail = NULL, last_hint = NULL \
         FROM {schema}.matomo_site_config s \
         WHERE s.id = $1 AND t.site_id = s.id AND t.changes = $3",
        backoff("t.failures + 1")
    );
    let changed = format!(
        "UPDATE {schema}.matomo_run_log r SET status = 'failed', return_message = $2, \
             end_time = clock_timestamp() WHERE r.site_id = $1 AND r.status = 'paused' \
         AND r.changes IS DISTINCT FROM \
             (SELECT t.changes FROM {schema}.matomo_site_state t WHERE t.site_id = $1)"
    );
    query(client, &changed, &[site.into(), CHANGED.into()])?;
    let args = [site.into(), INTERRUPTED.into()];
    let changes: Option<i32> = one(query(client, &dead, &args)?)?;
    if changes.is_some() {
        query(client, &count, &[site.into(), INTERRUPTED.into(), changes.into()])?;
    }
    Ok(())
}

/// Whether a run was interrupted without recording it in its row: its process does not hold the site's
/// lock. A run releases its lock after the commit of its row, so the row is read again after the check of
/// the lock. Meanwhile another session may have recorded that it was interrupted.
///
/// # Errors
/// Only internal ones.
pub fn is_dead(extension: &Extension, run: i64) -> Result<bool> {
    let schema = &extension.schema;
    let before = format!(
        "SELECT r.site_id, r.job_pid, CASE WHEN r.status = 'running' THEN concat_ws(' ', r.ctid, r.xmin) END \
         FROM {schema}.matomo_run_log r WHERE r.runid = $1"
    );
    let same = format!(
        "SELECT FROM {schema}.matomo_run_log r \
         WHERE r.runid = $1 AND (r.status = 'running' AND concat_ws(' ', r.ctid, r.xmin) = $2 \
             OR r.status = 'failed' AND r.return_message = $3)"
    );
    extension.run(|client| {
        let Some(row) = query(client, &before, &[run.into()])?.next() else { return Ok(false) };
        let site: Option<i32> = get(&row, 1)?;
        let process: Option<i32> = get(&row, 2)?;
        let row: Option<String> = get(&row, 3)?;
        let is_its = |held: &locks::Held| {
            Some(held.object.cast_signed()) == site && Some(held.pid) == process
        };
        // SAFETY: main thread. A standby does not have the locks of its primary.
        if unsafe { pg_sys::RecoveryInProgress() } || locks::held(LockKind::Run).iter().any(is_its)
        {
            return Ok(false);
        }
        Ok(!query(client, &same, &[run.into(), row.into(), INTERRUPTED.into()])?.is_empty())
    })
}

/// Pages of a day per step of the next run, if fewer than usual: otherwise a run that is interrupted
/// within a step each time would never succeed. Polls of open days are steps, too.
fn smaller_steps(client: &mut SpiClient, schema: &str, site: i32) -> Result<Option<i32>> {
    let sql = format!(
        "SELECT pages < coalesce(step_pages, $3), step_pages FROM (SELECT * FROM {schema}.matomo_run_log WHERE site_id = $1 \
         ORDER BY runid DESC LIMIT 1) r WHERE status = 'failed' AND return_message = $2 \
         AND sqlstate IS NULL"
    );
    let args = [site.into(), INTERRUPTED.into(), settings::step_pages().into()];
    let Some(row) = query(client, &sql, &args)?.next() else {
        return Ok(None);
    };
    let before: Option<i32> = get(&row, 2)?;
    if get(&row, 1)? != Some(true) {
        return Ok(before);
    }
    let pages = (before.unwrap_or_else(settings::step_pages) / 2).max(1);
    // Warn from the second time on.
    if before.is_some() {
        warn(
            format!(
                "registered site {site}: runs are interrupted early, \
                 this one commits every {pages} pages of a day"
            ),
            "Raise statement_timeout, if that is what ends them, or set matomo.step_pages and matomo.page_size lower.",
        );
    }
    Ok(Some(pages))
}

/// Pauses a run, and queues its site after those that are already due.
///
/// # Errors
/// Only internal ones.
pub fn pause(extension: &Extension, run: i64) -> Result<()> {
    let schema = &extension.schema;
    let sql = format!(
        "WITH r AS (UPDATE {schema}.matomo_run_log SET status = 'paused' WHERE runid = $1 \
             RETURNING site_id) \
         UPDATE {schema}.matomo_site_state t SET next_at = clock_timestamp() \
         FROM r WHERE t.site_id = r.site_id"
    );
    extension.run(|client| query(client, &sql, &[run.into()]).map(drop))
}

/// Records that a run has succeeded: the table has all visits that Matomo had when it started. A site
/// that was changed meanwhile is due at once.
///
/// # Errors
/// Only internal ones.
pub fn succeed(extension: &Extension, run: i64) -> Result<()> {
    let schema = &extension.schema;
    let sql = format!(
        "WITH r AS (UPDATE {schema}.matomo_run_log SET status = 'succeeded', \
             end_time = clock_timestamp() WHERE runid = $1 RETURNING site_id, start_time, changes) \
         INSERT INTO {schema}.matomo_site_state AS t (site_id, last_success_at, next_at, changes) \
         SELECT s.id, r.start_time, {NEXT}, r.changes \
         FROM r JOIN {schema}.matomo_site_config s ON s.id = r.site_id \
         ON CONFLICT (site_id) DO UPDATE SET last_success_at = excluded.last_success_at, \
             next_at = excluded.next_at, failures = 0, refused_credentials = NULL \
         WHERE t.changes = excluded.changes"
    );
    extension.run(|client| query(client, &sql, &[run.into()]).map(drop))?;
    due_if_changed(extension, run)
}

/// Makes the site of a run due at once if it was changed meanwhile.
fn due_if_changed(extension: &Extension, run: i64) -> Result<()> {
    let sql = format!(
        "UPDATE {0}.matomo_site_state t SET next_at = clock_timestamp() FROM {0}.matomo_run_log r \
         WHERE r.runid = $1 AND t.site_id = r.site_id AND t.changes <> r.changes",
        extension.schema
    );
    extension.run(|client| query(client, &sql, &[run.into()]).map(drop))
}

/// Records that a run has failed, and the version of the credentials if Matomo has refused them. The
/// site is retried with backoff, after at most an hour; with a refused token, not at all. It is no failure
/// of a site that was changed meanwhile, perhaps to another owner's.
///
/// # Errors
/// Only internal ones.
pub fn fail(extension: &Extension, run: i64, error: &Failed, refused: Option<&str>) -> Result<()> {
    let schema = &extension.schema;
    let sql = format!(
        "WITH r AS (UPDATE {schema}.matomo_run_log SET status = 'failed', \
             end_time = clock_timestamp(), sqlstate = $2, return_message = $3, detail = $4, hint = $5 \
             WHERE runid = $1 RETURNING site_id, changes), \
         f AS (SELECT s.id, s.every, r.changes, coalesce(t.failures, 0) + 1 AS failures \
             FROM r JOIN {schema}.matomo_site_config s ON s.id = r.site_id \
             LEFT JOIN {schema}.matomo_site_state t ON t.site_id = s.id) \
         INSERT INTO {schema}.matomo_site_state AS t (site_id, next_at, failures, last_error_at, \
             last_sqlstate, last_error, last_detail, last_hint, refused_credentials, changes, is_unanswered) \
         SELECT s.id, CASE WHEN $6 IS NULL THEN clock_timestamp() + {} ELSE 'infinity' END, \
             s.failures, clock_timestamp(), $2, $3, $4, $5, $6, s.changes, $7 FROM f AS s \
         ON CONFLICT (site_id) DO UPDATE SET next_at = excluded.next_at, \
             failures = excluded.failures, last_error_at = excluded.last_error_at, \
             last_sqlstate = excluded.last_sqlstate, last_error = excluded.last_error, \
             last_detail = excluded.last_detail, last_hint = excluded.last_hint, \
             is_unanswered = excluded.is_unanswered, \
             refused_credentials = excluded.refused_credentials \
         WHERE t.changes = excluded.changes",
        backoff("s.failures")
    );
    let args = [
        run.into(),
        error.state.as_str().into(),
        error.kept_message().into(),
        error.kept_detail().into(),
        error.hint.as_deref().into(),
        refused.into(),
        error.is_unanswered().into(),
    ];
    extension.run(|client| query(client, &sql, &args).map(drop))?;
    due_if_changed(extension, run)
}

/// Deletes a run that has done nothing.
///
/// # Errors
/// Only internal ones.
pub fn take_back(extension: &Extension, run: i64) -> Result<()> {
    let sql = format!("DELETE FROM {}.matomo_run_log WHERE runid = $1", extension.schema);
    extension.run(|client| query(client, &sql, &[run.into()]).map(drop))
}

/// Ends the runs of removed sites, and deletes all but the newest `keep` of them.
///
/// # Errors
/// Only internal ones.
pub fn forget_removed(extension: &Extension, keep: i32) -> Result<()> {
    let schema = &extension.schema;
    let removed =
        format!("NOT EXISTS (SELECT FROM {schema}.matomo_site_config s WHERE s.id = r.site_id)");
    // Not those of others, which another session may have locked.
    let free = |which: &str| {
        format!(
            "ctid = ANY (ARRAY(SELECT r.ctid FROM {schema}.matomo_run_log r WHERE {removed} AND {which} \
             FOR UPDATE SKIP LOCKED))"
        )
    };
    let old = format!(
        "(status <> 'running' OR NOT {schema}.matomo_is_running(r.site_id)) AND runid <= \
             (SELECT runid FROM {schema}.matomo_run_log r WHERE {removed} \
             ORDER BY runid DESC OFFSET $1 LIMIT 1)"
    );
    let sql = format!("DELETE FROM {schema}.matomo_run_log WHERE {}", free(&old));
    let end = format!(
        "UPDATE {schema}.matomo_run_log SET status = 'failed', return_message = $1, \
             end_time = clock_timestamp() WHERE {}",
        free("status = 'paused'")
    );
    extension.run(|client| {
        query(client, &end, &[CHANGED.into()])?;
        query(client, &sql, &[i64::from(keep).into()]).map(drop)
    })
}
