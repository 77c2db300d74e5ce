-- Syncs of registered sites that commit as they go. A run is
--     matomo_run_begin(site_id integer, command text) RETURNS bigint
-- (NULL: another session syncs the site), then, each in a transaction of its own,
--     matomo_run_step(run bigint) RETURNS text
-- until that no longer gives 'running' but 'succeeded', 'failed' or 'skipped'. Both are to be called
-- in the session that began the run, by a role that has the rights of the site's owner; the background
-- worker makes the same calls as these procedures.
-- Procedures that commit may have no SET clause: whatever they name is qualified, and there is no
-- operator but in full.

-- One transaction of a run. What fails in it is undone, and noted.
CREATE FUNCTION matomo_run_step(run bigint) RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    state pg_catalog.text;
    message pg_catalog.text;
    detail pg_catalog.text;
    hint pg_catalog.text;
BEGIN
    RETURN @extschema@.matomo_run_copy(run);
EXCEPTION WHEN OTHERS OR query_canceled THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN @extschema@.matomo_run_fail(run, state, message, detail, hint);
END
$$;

COMMENT ON FUNCTION matomo_run_step(bigint) IS 'Internal: a step of a run, to be committed; gives the run''s status after it';

CREATE PROCEDURE matomo_sync_site(id integer)
LANGUAGE plpgsql
AS $$
DECLARE
    run pg_catalog.int8;
    status pg_catalog.text;
BEGIN
    PERFORM @extschema@.matomo_run_outside_transaction('matomo_sync_site()');
    run := @extschema@.matomo_run_begin(id, pg_catalog.format('CALL matomo_sync_site(%s)', id));
    COMMIT;
    IF run IS NOT NULL THEN
        LOOP
            status := @extschema@.matomo_run_step(run);
            COMMIT;
            EXIT WHEN status OPERATOR(pg_catalog.<>) 'running';
        END LOOP;
        -- Whether or not it has failed: what is too old goes all the same.
        CALL @extschema@.matomo_upkeep_site(id);
        PERFORM @extschema@.matomo_run_report(run, true);
    END IF;
END
$$;

COMMENT ON PROCEDURE matomo_sync_site(integer) IS 'Syncs a registered site and commits as it goes';

CREATE PROCEDURE matomo_sync_all()
LANGUAGE plpgsql
AS $$
DECLARE
    sites pg_catalog.int4[];
    site pg_catalog.int4;
    enabled pg_catalog.bool[];
    run pg_catalog.int8;
    status pg_catalog.text;
    state pg_catalog.text;
    message pg_catalog.text;
    detail pg_catalog.text;
    hint pg_catalog.text;
BEGIN
    PERFORM @extschema@.matomo_run_outside_transaction('matomo_sync_all()');
    PERFORM @extschema@.matomo_note_ownerless();
    COMMIT;
    SELECT pg_catalog.array_agg(s.id ORDER BY s.id), pg_catalog.array_agg(s.enabled ORDER BY s.id)
    INTO sites, enabled
    FROM @extschema@.matomo_sites s
    WHERE (s.enabled OR s.retention IS NOT NULL AND EXISTS (
            SELECT FROM pg_catalog.pg_roles r
            WHERE r.oid OPERATOR(pg_catalog.=) s.owner::pg_catalog.oid))
      AND pg_catalog.pg_has_role(s.owner::pg_catalog.oid, 'USAGE');
    FOR number IN 1 .. coalesce(pg_catalog.cardinality(sites), 0) LOOP
        site := sites[number];
        IF NOT enabled[number] THEN
            -- What is too old goes although nothing new comes.
            CALL @extschema@.matomo_upkeep_site(site);
            CONTINUE;
        END IF;
        BEGIN
            run := @extschema@.matomo_run_begin(site, 'CALL matomo_sync_all()');
        EXCEPTION WHEN OTHERS THEN
            -- Removed, given to somebody else, or without an owner, since the list was made or before.
            run := NULL;
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
                detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            PERFORM @extschema@.matomo_run_warn(state,
                pg_catalog.format('registered site %s: %s', site, message), detail, hint);
        END;
        COMMIT;
        CONTINUE WHEN run IS NULL;
        LOOP
            status := @extschema@.matomo_run_step(run);
            COMMIT;
            EXIT WHEN status OPERATOR(pg_catalog.<>) 'running';
        END LOOP;
        CALL @extschema@.matomo_upkeep_site(site);
        PERFORM @extschema@.matomo_run_report(run, false);
    END LOOP;
END
$$;

COMMENT ON PROCEDURE matomo_sync_all() IS 'Syncs all registered sites that are enabled and whose owner''s rights you have, one after the other, and commits as it goes; a site that fails is a WARNING. Retention goes on for the others too';
