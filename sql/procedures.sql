-- Syncs of registered sites with a commit after each step. The steps are in Rust (src/worker/procedures.rs),
-- and the same as in the background worker.
-- Procedures that commit cannot have SET clauses, so every name and operator is qualified.

CREATE PROCEDURE matomo_sync_site(id integer)
LANGUAGE plpgsql
AS $$
BEGIN
    WHILE @extschema@.matomo_run_step(id, false) LOOP
        COMMIT;
    END LOOP;
END
$$;

COMMENT ON PROCEDURE matomo_sync_site(integer) IS 'Syncs a registered site, with a commit after each step';

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

COMMENT ON PROCEDURE matomo_sync_all() IS 'Syncs all enabled registered sites whose owner''s rights you have, one after the other, with a commit after each step; a failed site is a WARNING. Also applies retention to disabled sites';

COMMENT ON FUNCTION matomo_run_outside_transaction(text) IS 'Internal: raises an error where a procedure cannot commit';
COMMENT ON FUNCTION matomo_run_sites() IS 'Internal: IDs of the registered sites that matomo_sync_all has work for';
COMMENT ON FUNCTION matomo_run_step(integer, boolean) IS 'Internal: runs the next step for a registered site; returns whether more steps follow';
