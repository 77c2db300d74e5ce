-- A visitor's erasure: of all that is copied of him, wherever it is.

-- Every table that syncs write to, also those that the caller may not read: an erasure that passes
-- over a table would be none.
CREATE FUNCTION matomo_destinations() RETURNS SETOF regclass
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.oid::regclass FROM pg_class c
    WHERE c.oid IN (SELECT l.destination FROM @extschema@.matomo_ledger l)
      -- Nobody reaches the temporary tables of another session, and they end with it.
      AND (c.relpersistence <> 't' OR c.relnamespace = pg_my_temp_schema())
    ORDER BY 1
$$;

COMMENT ON FUNCTION matomo_destinations() IS 'The tables that syncs have written to';

CREATE FUNCTION matomo_forget(
    visitorid text DEFAULT NULL,
    userid text DEFAULT NULL,
    only_in regclass DEFAULT NULL
) RETURNS TABLE (destination regclass, visits bigint, actions bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    visitor CONSTANT text := nullif(matomo_forget.visitorid, '');
    account CONSTANT text := nullif(matomo_forget.userid, '');
BEGIN
    IF visitor IS NULL AND account IS NULL THEN
        RAISE null_value_not_allowed USING
            MESSAGE = 'neither visitorid nor userid is given',
            HINT = 'Name the visitor by one of them, or by both.';
    END IF;
    -- A table that he may not delete from ends it with an error: an erasure is whole or none.
    FOR matomo_forget.destination IN
        SELECT c.oid::regclass FROM pg_class c WHERE c.oid = only_in
        UNION ALL
        SELECT d FROM @extschema@.matomo_destinations() d WHERE only_in IS NULL
    LOOP
        EXECUTE format(
            'WITH gone AS (DELETE FROM %s WHERE visitorid = $1 OR userid = $2 RETURNING idsite, idvisit)'
            ' SELECT count(DISTINCT (idsite, idvisit)), count(*) FROM gone', matomo_forget.destination)
        INTO matomo_forget.visits, matomo_forget.actions
        USING visitor, account;
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION matomo_forget(text, text, regclass) IS
    'Deletes all rows of a visitor, by visitorid or userid, from every table that syncs write to (or from one), and gives their number. Erase him in Matomo first: a sync copies what is there';
