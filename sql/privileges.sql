-- Privileges do not depend on the default privileges of the role that creates the extension: all are
-- revoked, except the grants below. Functions that reach the network could make the server send
-- requests to any host, or fill its disks, so only an administrator grants them.
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

-- Views that show only what the user may see, the templates of the tables, and which table is whose companion.
GRANT SELECT ON matomo_action, matomo_action_node, matomo_visit, matomo_conversion, matomo_item, matomo_companion, matomo_days, matomo_site_details, matomo_goals, matomo_dimensions, matomo_sites, matomo_runs, matomo_status, matomo_progress TO PUBLIC;
GRANT EXECUTE ON FUNCTION matomo_may_see(oid), matomo_find_table(text[]), matomo_is_running(integer), matomo_has_worker(), matomo_run_is_dead(bigint), matomo_today(text) TO PUBLIC;

-- These have only the caller's rights on tables.
GRANT EXECUTE ON FUNCTION
    matomo_create_table(text, boolean, name, text),
    matomo_create_companions(regclass),
    matomo_create_named_views(regclass),
    matomo_grant_as(regclass, regclass),
    matomo_create_companion(regclass, text, text[], text),
    matomo_find_companion(regclass, text, text[]),
    matomo_partition_ranges(regclass),
    matomo_create_partitions(regclass, timestamptz, timestamptz),
    matomo_create_weeks(regclass, timestamptz, timestamptz),
    matomo_create_week(regclass, timestamptz, timestamptz),
    matomo_forget(text, text, regclass, text),
    matomo_drop_step(regclass, timestamptz, integer, interval, jsonb),
    matomo_old_tables(regclass, timestamptz, text, boolean, jsonb),
    matomo_drop_rows(regclass, timestamptz, integer, interval, text, text, boolean, jsonb, jsonb),
    matomo_drop_day(text, text, timestamptz, text, timestamptz, timestamptz, text),
    matomo_drop_partition(oid, text, text, text, text, text),
    matomo_is_of_rows(text, text[])
TO PUBLIC;
GRANT EXECUTE ON PROCEDURE matomo_drop_before(regclass, timestamptz, integer, interval, interval) TO PUBLIC;

-- These check the owner of the registered site. Roles that may call the procedures must be able to call
-- the procedures' functions; matomo_run_step checks that they may.
GRANT EXECUTE ON FUNCTION
    matomo_remove_site(integer),
    matomo_ignore_new_sites(text),
    matomo_run_outside_transaction(text),
    matomo_run_sites(),
    matomo_run_step(integer, boolean)
TO PUBLIC;
