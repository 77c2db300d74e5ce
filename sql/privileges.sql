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
    matomo_partition_ranges(regclass),
    matomo_create_partitions(regclass, timestamptz, timestamptz),
    matomo_make_partitions(regclass, timestamptz, timestamptz),
    matomo_forget(text, text, regclass, text),
    matomo_drop_step(regclass, timestamptz, integer, interval, jsonb),
    matomo_drop_rows(regclass, timestamptz, integer, interval, text, text, boolean, jsonb, jsonb),
    matomo_drop_day(text, text, timestamptz, text, timestamptz, timestamptz, text),
    matomo_drop_partition(text, text, text, text, text),
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

COMMENT ON FUNCTION matomo_create_partitions(regclass, timestamptz, timestamptz) IS
    'Creates the missing weekly partitions (UTC) of a destination and its companions between two instants, and returns the number of those of the destination';
COMMENT ON FUNCTION matomo_create_companions(regclass) IS
    'Makes the tables of visits, conversions and items of a destination, as far as matomo.companions names them, or takes those that are there; returns them';
COMMENT ON FUNCTION matomo_sync(integer, text, text, date, date, text, boolean, integer, text) IS
    'Copies the visits of a Matomo site from start_date to end_date (default today) into a table; returns a row per day';

COMMENT ON FUNCTION matomo_check(integer, date, date, text, text, text, boolean, boolean, integer, text, boolean) IS
    'Compares the visits of a site in Matomo and in a table, day by day, and optionally repairs differences';

COMMENT ON FUNCTION matomo_change_url(regclass, text, text) IS
    'Moves a destination''s ledger entries to a Matomo''s new URL, and returns their number';

COMMENT ON FUNCTION matomo_add_site(text, integer, date, text, interval, interval, boolean) IS
    'Registers a site that the procedures and the background worker sync with your rights; returns its ID';
COMMENT ON FUNCTION matomo_add_sites(text, date, text, interval, interval, boolean, boolean) IS
    'Registers all sites that your token may see and that are not registered, like matomo_add_site; returns them. Optionally new ones too, once a day';
COMMENT ON FUNCTION matomo_ignore_new_sites(text) IS
    'Stops registering new sites of a server; returns the number of marks removed';
COMMENT ON FUNCTION matomo_list_sites(text) IS 'Lists the sites of a server that your token may see';
COMMENT ON FUNCTION matomo_refresh_metadata(integer, text, text, text, text) IS
    'Reads the names of a site, its goals and its custom dimensions from Matomo; returns their numbers';
COMMENT ON FUNCTION matomo_alter_site(integer, text, integer, date, text, interval, interval, boolean, text) IS
    'Changes a registered site; NULL keeps a value. A failed site is retried';
COMMENT ON FUNCTION matomo_remove_site(integer) IS 'Removes a registered site, but not its copied visits';

COMMENT ON FUNCTION matomo_drop_step(regclass, timestamptz, integer, interval, jsonb) IS
    'Internal: one step of matomo_drop_before: drops a partition or deletes a batch of rows, and seals the days that are then empty';

COMMENT ON FUNCTION matomo_today(text) IS 'Internal: today in a timezone, named as Matomo does';
