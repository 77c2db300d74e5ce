-- What a role may do here does not depend on the default privileges of whoever creates the extension:
-- nobody but the owner may do anything, except for what is granted below. So functions that reach the
-- network, and could have the server send requests to any host or fill its disks, are the
-- administrator's to grant.
DO $$
DECLARE
    change pg_catalog.text;
BEGIN
    FOR change IN
        WITH object AS (
            SELECT d.classid, d.objid FROM pg_catalog.pg_depend d
            JOIN pg_catalog.pg_extension e ON e.oid OPERATOR(pg_catalog.=) d.refobjid
            WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass
              AND d.deptype OPERATOR(pg_catalog.=) 'e' AND e.extname OPERATOR(pg_catalog.=) 'matomo_postgres'
        ), granted AS (
            SELECT pg_catalog.format('ROUTINE %s', p.oid::pg_catalog.regprocedure) AS object, p.proowner AS owner,
                   coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) AS acl
            FROM object o JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) o.objid
            WHERE o.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
            UNION ALL
            SELECT pg_catalog.format('%s %s', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
                       c.oid::pg_catalog.regclass), c.relowner, c.relacl
            FROM object o JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) o.objid
            WHERE o.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
        )
        SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %s FROM %s', g.object, CASE a.grantee
                   WHEN 0::pg_catalog.oid THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END)
        FROM granted g CROSS JOIN LATERAL pg_catalog.aclexplode(g.acl) a
        WHERE a.grantee OPERATOR(pg_catalog.<>) g.owner
    LOOP
        EXECUTE change;
    END LOOP;
END
$$;

-- Views of what is one's own, and the template of the tables.
GRANT SELECT ON matomo_action, matomo_days, matomo_sites, matomo_runs, matomo_status, matomo_progress TO PUBLIC;
GRANT EXECUTE ON FUNCTION matomo_may_see(oid), matomo_find_table(text[]), matomo_is_running(integer), matomo_run_is_dead(bigint), matomo_today(text) TO PUBLIC;

-- Works with the caller's rights on tables.
GRANT EXECUTE ON FUNCTION
    matomo_create_table(text, boolean, name),
    matomo_partition_ranges(regclass),
    matomo_create_partitions(regclass, timestamptz, timestamptz),
    matomo_forget(text, text, regclass),
    matomo_drop_step(regclass, timestamptz, integer, interval, jsonb),
    matomo_drop_rows(regclass, timestamptz, integer, interval, text, jsonb)
TO PUBLIC;
GRANT EXECUTE ON PROCEDURE matomo_drop_before(regclass, timestamptz, integer, interval, interval) TO PUBLIC;

-- Checks whose the registered site is. What procedures are made of, whoever may call these has to be
-- able to call; matomo_run_step sees to it that nobody else does.
GRANT EXECUTE ON FUNCTION
    matomo_remove_site(integer),
    matomo_run_outside_transaction(text),
    matomo_run_sites(),
    matomo_run_step(integer, boolean)
TO PUBLIC;

COMMENT ON FUNCTION matomo_sync(integer, text, text, date, date, text, boolean, integer, text) IS
    'Copies the visits of a Matomo site from start_date to end_date (today) into a table; gives a row per day';

COMMENT ON FUNCTION matomo_check(integer, date, date, text, text, text, boolean, boolean, integer, text, boolean) IS
    'Compares what Matomo lists of a site with what a table holds, day by day, and mends what differs if asked to';

COMMENT ON FUNCTION matomo_change_url(regclass, text, text) IS
    'Tells that a Matomo has moved to another URL: what is known of the days that a table holds of it goes on counting; gives their number';

COMMENT ON FUNCTION matomo_add_site(text, integer, date, text, interval, interval, boolean) IS
    'Registers a site, so that the procedures and the background worker sync it into a table with your rights; gives its ID';
COMMENT ON FUNCTION matomo_alter_site(integer, text, integer, date, text, interval, interval, boolean, text) IS
    'Changes a registered site; what is NULL stays as it is. A site that failed is tried again';
COMMENT ON FUNCTION matomo_remove_site(integer) IS 'Removes a registered site; the copied visits stay';

COMMENT ON FUNCTION matomo_drop_step(regclass, timestamptz, integer, interval, jsonb) IS
    'Internal: one step of matomo_drop_before: at first tells the ledger what goes, then drops a partition or deletes a batch of rows';

COMMENT ON FUNCTION matomo_today(text) IS 'Internal: today in a timezone as Matomo names it';
