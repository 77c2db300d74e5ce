-- Syncs of registered sites that commit as they go. What is done in each transaction, and what comes
-- next, is in Rust (src/calls.rs), and the same as in the background worker.
-- Procedures that commit may have no SET clause: whatever they name is qualified, and there is no
-- operator but in full.

CREATE PROCEDURE matomo_sync_site(id integer)
LANGUAGE plpgsql
AS $$
BEGIN
    WHILE @extschema@.matomo_run_step(id, false) LOOP
        COMMIT;
    END LOOP;
END
$$;

COMMENT ON PROCEDURE matomo_sync_site(integer) IS 'Syncs a registered site and commits as it goes';

CREATE PROCEDURE matomo_sync_all()
LANGUAGE plpgsql
AS $$
DECLARE
    site pg_catalog.int4;
BEGIN
    FOREACH site IN ARRAY @extschema@.matomo_run_sites() LOOP
        COMMIT;
        WHILE @extschema@.matomo_run_step(site, true) LOOP
            COMMIT;
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON PROCEDURE matomo_sync_all() IS 'Syncs all registered sites that are enabled and whose owner''s rights you have, one after the other, and commits as it goes; a site that fails is a WARNING. Retention goes on for the others too';

COMMENT ON FUNCTION matomo_run_outside_transaction(text) IS 'Internal: raises an error where a procedure cannot commit';
COMMENT ON FUNCTION matomo_run_sites() IS 'Internal: the registered sites that matomo_sync_all has something to do for';
COMMENT ON FUNCTION matomo_run_step(integer, boolean) IS 'Internal: does what comes next for a registered site, to be committed; gives whether there is more';
