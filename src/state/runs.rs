//! The course of the runs of registered sites: how each begins, pauses and ends, and what that means
//! for the state of its site. SPI only.

use pgrx::spi::SpiClient;

use crate::config::settings;
use crate::error::{Result, StoredError};
use crate::pg::extension::Extension;
use crate::pg::failed::Failed;
use crate::pg::locks::{self, Kind};
use crate::pg::report::warn;
use crate::pg::spi::{query, spi};
use crate::state::restored::{OWNER_OF_SITE, table_of_site};
use crate::state::sites::RegisteredSite;

/// What is noted of a run that ended without a word: cancelled, or with its session or server.
const INTERRUPTED: &str = "the run was interrupted";

/// What is noted of one that paused while its site was changed.
const CHANGED: &str = "the registered site was changed";

/// How long a site that has failed so often waits: a minute, or its `every` if that is less, doubled
/// each time, an hour at most. By seconds: no interval overflows.
fn backoff(failures: &str) -> String {
    format!(
        "make_interval(secs => least(3600, least(greatest(date_part('epoch', s.every), 1), 60) \
         * power(2, least({failures}, 30) - 1)))"
    )
}

/// When a site that has succeeded is due again. What older versions took for an interval may overflow
/// by its fields.
const NEXT: &str = "r.start_time + CASE WHEN s.every BETWEEN '1 second' AND '100 years' \
    AND date_part('year', s.every) BETWEEN 0 AND 100 AND date_part('month', s.every) >= 0 \
    AND date_part('day', s.every) BETWEEN 0 AND 36000 THEN s.every \
    ELSE make_interval(secs => least(greatest(date_part('epoch', s.every), 1), 3110400000)) END";

/// Whether a site (`s`, its state `t`) is due: also if it would wait longer than any site does, as a
/// clock that was ahead leaves it. Months and years are not all as long.
pub const IS_DUE: &str = "(t.next_at <= clock_timestamp() OR isfinite(t.next_at) \
    AND t.next_at > clock_timestamp() + make_interval(secs => greatest( \
        1.1 * least(date_part('epoch', s.every), 3110400000), CASE t.failures WHEN 0 THEN 60 ELSE 3600 END)))";

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// By its number; it may be one that was paused.
    Run(i64),
    /// Not now: the site is not due, perhaps as the last run was interrupted, which is noted.
    Waits,
}

/// Begins a run of a site whose lock is ours. From its commit on the site waits as if the run had
/// failed: should the run die, that is so already. `at_once`: whether it begins although the site is
/// not due, or not enabled.
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
    // After a refused token: due once that is another one, which the coordinator has seen to.
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
            let run: Option<i64> = row.get(1).map_err(spi)?;
            return run.map(Begun::Run).ok_or_else(|| StoredError::NoSite(id).into());
        }
        let pages = smaller_steps(client, schema, id)?;
        let args = [id.into(), user.into(), command.into(), pages.into()];
        let row = query(client, &insert, &args)?.next().ok_or(StoredError::NoSite(id))?;
        let run: Option<i64> = row.get(1).map_err(spi)?;
        query(client, &forget, &[id.into(), i64::from(settings::keep_runs()).into()])?;
        run.map(Begun::Run).ok_or_else(|| StoredError::NoSite(id).into())
    })
}

/// Notes that runs are over of which nobody has said so. The lock of the site is ours: what is said to
/// run is not alive.
fn note_dead(client: &mut SpiClient, schema: &str, site: i32) -> Result<()> {
    let dead = format!(
        "WITH dead AS (UPDATE {schema}.matomo_run_log SET status = 'failed', return_message = $2, \
             end_time = clock_timestamp() WHERE site_id = $1 AND status = 'running' RETURNING changes) \
         SELECT max(changes) FROM dead"
    );
    // One that was begun before the site was changed says nothing of what it is now.
    let count = format!(
        "UPDATE {schema}.matomo_site_state t SET failures = t.failures + 1, \
             next_at = clock_timestamp() + {}, last_error_at = clock_timestamp(), last_sqlstate = NULL, \
             last_error = $2, last_detail = NULL, last_hint = NULL \
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
    let changes: Option<i32> = query(client, &dead, &args)?.first().get_one().map_err(spi)?;
    if changes.is_some() {
        query(client, &count, &[site.into(), INTERRUPTED.into(), changes.into()])?;
    }
    Ok(())
}

/// Whether a run is over though its row does not say so: its process does not hold the site's lock. A
/// run that ends gives its lock back after its row is committed: the row is looked at again after the
/// lock. Somebody may note meanwhile that it has died.
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
        let site: Option<i32> = row.get(1).map_err(spi)?;
        let process: Option<i32> = row.get(2).map_err(spi)?;
        let row: Option<String> = row.get(3).map_err(spi)?;
        let is_its = |held: &locks::Held| {
            Some(held.object.cast_signed()) == site && Some(held.pid) == process
        };
        if locks::held(Kind::Run).iter().any(is_its) {
            return Ok(false);
        }
        Ok(!query(client, &same, &[run.into(), row.into(), INTERRUPTED.into()])?.is_empty())
    })
}

/// Pages of a day in a step of the next run, if not as many as usual: a run that was interrupted
/// before its first step was done would else be so for ever.
fn smaller_steps(client: &mut SpiClient, schema: &str, site: i32) -> Result<Option<i32>> {
    let sql = format!(
        "SELECT pages = 0, step_pages FROM (SELECT * FROM {schema}.matomo_run_log WHERE site_id = $1 \
         ORDER BY runid DESC LIMIT 1) r WHERE status = 'failed' AND return_message = $2 \
         AND sqlstate IS NULL"
    );
    let Some(row) = query(client, &sql, &[site.into(), INTERRUPTED.into()])?.next() else {
        return Ok(None);
    };
    let before: Option<i32> = row.get(2).map_err(spi)?;
    if row.get(1).map_err(spi)? != Some(true) {
        return Ok(before);
    }
    let pages = (before.unwrap_or_else(settings::step_pages) / 2).max(1);
    // Not for the first time.
    if before.is_some() {
        warn(
            format!(
                "registered site {site}: runs are interrupted before their first step is done, \
                 this one commits every {pages} pages of a day"
            ),
            "Raise statement_timeout, if that is what ends them, or set matomo.step_pages and matomo.page_size lower.",
        );
    }
    Ok(Some(pages))
}

/// Leaves a run to be gone on with by whoever comes next, and has its site wait behind those that are
/// due already.
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

/// Notes that a run has come to its end well: the table holds what Matomo had when it began. A site
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
    let due = format!(
        "UPDATE {schema}.matomo_site_state t SET next_at = clock_timestamp() \
         FROM {schema}.matomo_run_log r \
         WHERE r.runid = $1 AND t.site_id = r.site_id AND t.changes <> r.changes"
    );
    extension.run(|client| {
        query(client, &sql, &[run.into()])?;
        query(client, &due, &[run.into()]).map(drop)
    })
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
             WHERE runid = $1 RETURNING site_id, changes), \
         f AS (SELECT s.id, s.every, r.changes, coalesce(t.failures, 0) + 1 AS failures \
             FROM r JOIN {schema}.matomo_site_config s ON s.id = r.site_id \
             LEFT JOIN {schema}.matomo_site_state t ON t.site_id = s.id) \
         INSERT INTO {schema}.matomo_site_state AS t (site_id, next_at, failures, last_error_at, \
             last_sqlstate, last_error, last_detail, last_hint, refused_credentials, changes) \
         SELECT s.id, CASE WHEN $6 IS NULL THEN clock_timestamp() + {} ELSE 'infinity' END, \
             s.failures, clock_timestamp(), $2, $3, $4, $5, $6, s.changes FROM f AS s \
         ON CONFLICT (site_id) DO UPDATE SET \
             next_at = CASE WHEN t.changes = excluded.changes THEN excluded.next_at \
                 ELSE clock_timestamp() END, \
             failures = excluded.failures, last_error_at = excluded.last_error_at, \
             last_sqlstate = excluded.last_sqlstate, last_error = excluded.last_error, \
             last_detail = excluded.last_detail, last_hint = excluded.last_hint, \
             refused_credentials = CASE WHEN t.changes = excluded.changes \
                 THEN excluded.refused_credentials END",
        backoff("s.failures")
    );
    let args = [
        run.into(),
        error.state.as_str().into(),
        error.message.as_str().into(),
        error.kept_detail().into(),
        error.hint.as_deref().into(),
        refused.into(),
    ];
    extension.run(|client| query(client, &sql, &args).map(drop))
}

/// Notes once of sites that are due what keeps their runs from beginning.
///
/// # Errors
/// Only internal ones.
pub fn note_not_begun(extension: &Extension, sites: &[(i32, Failed)]) -> Result<()> {
    let sql = format!(
        "UPDATE {}.matomo_site_state SET failures = failures + 1, last_error_at = clock_timestamp(), \
             last_sqlstate = $2, last_error = $3, last_detail = $4, last_hint = $5 \
         WHERE site_id = $1 AND (failures = 0 OR last_error IS DISTINCT FROM $3)",
        extension.schema
    );
    extension.run(|client| {
        for (site, error) in sites {
            let args = [
                (*site).into(),
                error.state.as_str().into(),
                error.message.as_str().into(),
                error.kept_detail().into(),
                error.hint.as_deref().into(),
            ];
            query(client, &sql, &args)?;
        }
        Ok(())
    })
}

/// Takes back a run that has done nothing.
///
/// # Errors
/// Only internal ones.
pub fn take_back(extension: &Extension, run: i64) -> Result<()> {
    let sql = format!("DELETE FROM {}.matomo_run_log WHERE runid = $1", extension.schema);
    extension.run(|client| query(client, &sql, &[run.into()]).map(drop))
}

/// Ends the runs of sites that are registered no more, and forgets the oldest: of all these together
/// so many are kept.
///
/// # Errors
/// Only internal ones.
pub fn forget_removed(extension: &Extension, keep: i32) -> Result<()> {
    let schema = &extension.schema;
    let removed =
        format!("NOT EXISTS (SELECT FROM {schema}.matomo_site_config s WHERE s.id = r.site_id)");
    let sql = format!(
        "DELETE FROM {schema}.matomo_run_log r WHERE {removed} \
         AND (status <> 'running' OR NOT {schema}.matomo_is_running(r.site_id)) AND runid <= \
             (SELECT runid FROM {schema}.matomo_run_log r WHERE {removed} \
             ORDER BY runid DESC OFFSET $1 LIMIT 1)"
    );
    let end = format!(
        "UPDATE {schema}.matomo_run_log r SET status = 'failed', return_message = $1, \
             end_time = clock_timestamp() WHERE {removed} AND status = 'paused'"
    );
    extension.run(|client| {
        query(client, &end, &[CHANGED.into()])?;
        query(client, &sql, &[i64::from(keep).into()]).map(drop)
    })
}
