-- A column that a view shows as it stands in a table has the comment of the table's column. The columns
-- named here have their own, beside the view. packaging/update-script knows this block by its first line.
DO $$ -- Comments of views.
DECLARE
    change pg_catalog.text;
BEGIN
    FOR change IN
        SELECT pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', x.view, a.attname, pg_catalog.col_description(t.attrelid, t.attnum))
        FROM (VALUES
            ('matomo_days'::pg_catalog.regclass, 'matomo_ledger'::pg_catalog.regclass, '{destination}'::pg_catalog.name[]),
            ('matomo_sites', 'matomo_site_config', '{destination,owner}'),
            ('matomo_site_details', 'matomo_site_metadata', '{destination,goals,goals_read_at,dimensions,dimensions_read_at}'),
            ('matomo_runs', 'matomo_run_log', '{owner}'),
            ('matomo_status', 'matomo_site_config', '{destination,owner}'),
            ('matomo_status', 'matomo_site_state', '{failures,last_error_at,last_hint,upkeep_error,metadata_error}'),
            ('matomo_progress', 'matomo_run_log', '{runid}')) AS x (view, base, own)
        JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) x.view::pg_catalog.oid
            AND a.attname OPERATOR(pg_catalog.<>) ALL (x.own)
        JOIN pg_catalog.pg_attribute t ON t.attrelid OPERATOR(pg_catalog.=) x.base::pg_catalog.oid
            AND t.attname OPERATOR(pg_catalog.=) a.attname AND t.attnum OPERATOR(pg_catalog.>) 0
    LOOP
        EXECUTE change;
    END LOOP;
END
$$;
