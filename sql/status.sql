-- Status of registered sites, and progress of syncs.

CREATE VIEW matomo_overdue WITH (security_barrier) AS
    SELECT s.id AS site_id
    FROM matomo_site_config s
    LEFT JOIN matomo_site_state t ON t.site_id = s.id
    WHERE s.enabled AND coalesce(t.failures, 0) = 0
      AND pg_catalog.now() - greatest(coalesce(t.changed_at, s.created_at), t.last_success_at) - interval '1 hour' > s.every
      AND NOT EXISTS (SELECT FROM matomo_run_log r WHERE r.site_id = s.id AND r.status IN ('running', 'paused')
          AND coalesce(r.step_at, r.start_time) > pg_catalog.now() - interval '1 hour');

COMMENT ON VIEW matomo_overdue IS 'Internal: sites without failures that should have been synced over an hour ago, and of which no run has done a step since';
COMMENT ON COLUMN matomo_overdue.site_id IS 'ID of the registered site';

CREATE VIEW matomo_status WITH (security_barrier) AS
    SELECT s.id AS site_id, s.server, s.idsite, s.name, s.timezone, v.destination, v.owner, s.enabled,
           matomo_is_running(s.id) AS running,
           t.last_success_at AS synced_to,
           pg_catalog.now() - t.last_success_at AS lag,
           d.sealed_to, d.newest_action, coalesce(d.visits_today, 0) AS visits_today,
           -- An interrupted run that is not yet recorded as failed counts too.
           coalesce(t.failures, 0) + (SELECT pg_catalog.count(*) FROM matomo_run_log r
               WHERE r.site_id = s.id AND r.status = 'running' AND r.changes = t.changes
                 AND matomo_run_is_dead(r.runid))::integer + o.is_overdue::integer AS failures,
           CASE WHEN o.is_overdue THEN pg_catalog.now() ELSE t.last_error_at END AS last_error_at,
           CASE WHEN o.is_overdue THEN '55000' ELSE t.last_sqlstate END AS last_sqlstate,
           CASE WHEN o.is_overdue THEN 'the background worker is late with the site by more than an hour'
                ELSE t.last_error END AS last_error,
           CASE WHEN o.is_overdue THEN NULL ELSE t.last_detail END AS last_detail,
           CASE WHEN o.is_overdue THEN 'Look for the launcher and the coordinator of this database in pg_stat_activity, and for their messages in the log of the server.'
                ELSE t.last_hint END AS last_hint,
           CASE WHEN s.enabled THEN coalesce(t.next_at, pg_catalog.now()) END AS next_run,
           t.upkeep_error, t.metadata_error
    FROM matomo_sites v
    JOIN matomo_site_config s ON s.id = v.id
    LEFT JOIN matomo_site_state t ON t.site_id = s.id
    CROSS JOIN LATERAL (
        SELECT pg_catalog.max(l.day) FILTER (WHERE l.sealed) AS sealed_to,
               pg_catalog.max(l.newest) AS newest_action,
               pg_catalog.max(l.visits) FILTER (WHERE l.day = matomo_today(s.timezone)) AS visits_today
        FROM matomo_ledger l
        WHERE l.destination::pg_catalog.oid IN (s.destination::pg_catalog.oid, 0::pg_catalog.oid) AND l.idsite = s.idsite AND l.matomo = t.matomo
          -- Restored entries have only the table's name until the site's first sync.
          AND (l.destination::pg_catalog.oid <> 0::pg_catalog.oid
               OR l.destination_name OPERATOR(pg_catalog.=) s.destination_name AND s.destination IS NOT NULL)
    ) d
    -- For when no process can record it. Not for sites that only pg_cron or the like syncs, however often
    -- that is.
    CROSS JOIN LATERAL (SELECT matomo_has_worker()
        AND EXISTS (SELECT FROM matomo_overdue x WHERE x.site_id = s.id)) AS o (is_overdue);

COMMENT ON FUNCTION matomo_today(text) IS 'Internal: today in a timezone, named as Matomo does';
COMMENT ON FUNCTION matomo_has_worker() IS 'Internal: whether matomo.database has the background worker sync the sites of this database';

COMMENT ON VIEW matomo_status IS 'Status of your registered sites: one row per site';
COMMENT ON COLUMN matomo_status.destination IS 'Destination: table of the actions';
COMMENT ON COLUMN matomo_status.owner IS 'Role whose rights and user mapping its syncs use';
COMMENT ON COLUMN matomo_status.running IS 'Whether any session is syncing the site';
COMMENT ON COLUMN matomo_status.synced_to IS 'Start of the last successful run: the table has all visits that Matomo had then, except late ones since the last recheck of open days';
COMMENT ON COLUMN matomo_status.lag IS 'Time since synced_to';
COMMENT ON COLUMN matomo_status.sealed_to IS 'Last sealed day: read whole after it had ended and settled';
COMMENT ON COLUMN matomo_status.newest_action IS 'Last action of the newest copied visit';
COMMENT ON COLUMN matomo_status.visits_today IS 'Copied visits of today, in the site''s timezone';
COMMENT ON COLUMN matomo_status.failures IS 'Failed runs since the last success; also 1 if the background worker is late with the site by more than an hour; 0 means healthy';
COMMENT ON COLUMN matomo_status.last_error_at IS 'When a run last failed, even if runs have succeeded since';
COMMENT ON COLUMN matomo_status.last_hint IS 'HINT of its error: what to do';
COMMENT ON COLUMN matomo_status.next_run IS 'When the background worker, if running, next syncs the site; infinity if the token must be fixed first; NULL if the site is disabled';
COMMENT ON COLUMN matomo_status.upkeep_error IS 'Today''s error of retention or of creating partitions ahead; it does not make a run fail';
COMMENT ON COLUMN matomo_status.metadata_error IS 'Today''s error of reading the names of goals and custom dimensions; it does not make a run fail';

-- Parses what src/sync/progress.rs writes to pg_stat_activity, which shows the text of other roles'
-- sessions only to members of pg_read_all_stats. Runs of the user's own sites are shown as of their last commit, whichever role runs
-- them. Any session can put such text there, so the pattern accepts no number that would overflow.
CREATE VIEW matomo_progress WITH (security_barrier) AS
    WITH live AS (
        SELECT a.pid, a.usename, a.query_start,
               pg_catalog.regexp_match(a.query, '^matomo: site ([0-9]{1,9})(?: [(]registered site ([0-9]{1,9})[)])?, ([^:]*)(?:: ([0-9]{1,9}) of ([0-9]{1,9}) days, ([0-9]{1,18}) visits, ([0-9]{1,18}) actions(?:, ([0-9]{1,18}) actions/s, ([0-9]{1,6} h [0-9]{1,2} min|[0-9]{1,2} min [0-9]{1,2} s|[0-9]{1,2} s) left)?)?$') AS part
        FROM pg_catalog.pg_stat_activity a
        WHERE a.datname = pg_catalog.current_database() AND a.state = 'active' AND a.query LIKE 'matomo: site %'
    ), run AS (
        SELECT r.* FROM matomo_run_log r
        WHERE r.status = 'running' AND matomo_may_see(r.owner::pg_catalog.oid) AND matomo_is_running(r.site_id)
    )
    SELECT coalesce(l.pid, r.job_pid) AS pid, coalesce(r.username, l.usename) AS username,
           r.runid, r.site_id, r.server, coalesce(r.idsite, l.part[1]::integer) AS idsite, r.destination,
           coalesce(l.part[3], 'waits') AS phase,
           coalesce(l.part[4]::integer, r.days) AS days,
           coalesce(l.part[5]::integer, r.days_total) AS days_total,
           coalesce(l.part[6]::bigint, r.visits) AS visits,
           coalesce(l.part[7]::bigint, r.actions) AS actions,
           l.part[8]::bigint AS actions_per_second,
           l.part[9]::interval AS time_left,
           coalesce(r.start_time, l.query_start) AS start_time
    FROM (SELECT * FROM live WHERE part IS NOT NULL) l
    FULL JOIN run r ON r.job_pid = l.pid AND r.site_id = l.part[2]::integer;

COMMENT ON VIEW matomo_progress IS 'Progress of syncs and checks of your registered sites, and of sessions that you may see in pg_stat_activity';
COMMENT ON COLUMN matomo_progress.pid IS 'Process ID';
COMMENT ON COLUMN matomo_progress.runid IS 'ID of the run in matomo_runs; NULL for a call of matomo_sync or matomo_check';
COMMENT ON COLUMN matomo_progress.phase IS 'The last stored day, or what it is waiting for';
COMMENT ON COLUMN matomo_progress.actions_per_second IS 'Actions per second since it started';
COMMENT ON COLUMN matomo_progress.time_left IS 'Time left if the remaining days are like those done';
