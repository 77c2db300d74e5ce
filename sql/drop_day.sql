-- Removes the rows of a partition or a day, for matomo_drop_rows. If a row cannot be removed, returns the error,
-- so that older and newer rows are removed all the same. Raises errors that have nothing to do with the rows:
-- connections, transactions, resources, locks, shutdown.

-- Whether an error concerns these rows only. 53400 does: TimescaleDB refuses to decompress too many of them.
-- An error does not if somebody has renamed or dropped a relation meanwhile, or if another server does not let
-- us delete there.
CREATE FUNCTION matomo_is_of_rows(state text, VARIADIC relations text[]) RETURNS boolean
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT state !~ '^(08|25|28|40|53[0-3]|55P03|55006|57|58|HV)'
       AND NOT EXISTS (SELECT FROM unnest(relations) AS r(name)
                       LEFT JOIN pg_class c ON c.oid = to_regclass(r.name)
                       WHERE c.oid IS NULL OR c.relkind = 'f' AND state IN ('42501', '42704'))
$$;

COMMENT ON FUNCTION matomo_is_of_rows(text, text[]) IS
    'Internal: whether an error is of the rows that are removed, and does not keep others from being removed';

-- Drops a partition, or a chunk of a hypertable with the call `drop_chunks`, for format.
CREATE FUNCTION matomo_drop_partition(
    id oid,
    parent text,
    name text,
    lo text,
    hi text,
    drop_chunks text,
    OUT failed jsonb
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    IF drop_chunks IS NULL THEN
        EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', parent, name);
        -- Its name may have become another table's before the lock: the next step reads names again.
        IF to_regclass(name) IS DISTINCT FROM id THEN
            RAISE lock_not_available;
        END IF;
        EXECUTE format('DROP TABLE %s', name);
        RETURN;
    END IF;
    EXECUTE 'SELECT ' || format(drop_chunks, parent, hi, lo);
    -- One that is frozen stays, without an error.
    IF to_regclass(name) IS NOT NULL THEN
        RAISE object_not_in_prerequisite_state USING MESSAGE = format('old rows of %s are not deleted', parent);
    END IF;
EXCEPTION
    WHEN OTHERS OR assert_failure THEN
        IF drop_chunks IS NULL AND to_regclass(name) IS DISTINCT FROM id THEN
            RAISE lock_not_available;
        END IF;
        IF NOT @extschema@.matomo_is_of_rows(SQLSTATE, parent, name) THEN
            RAISE;
        END IF;
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        failed := jsonb_build_object('state', SQLSTATE, 'message', SQLERRM,
            'detail', coalesce(nullif(detail, ''), format('%s was not dropped.', name)),
            'hint', coalesce(nullif(hint, ''), 'Remove what prevents it, or drop it yourself.'));
END
$$;

COMMENT ON FUNCTION matomo_drop_partition(oid, text, text, text, text, text) IS
    'Internal: drops a partition or a chunk, for matomo_drop_rows';

-- Deletes the rows of a day, for matomo_drop_rows. Rows that cannot be deleted, as a key or a trigger
-- prevents it, keep their day; if `site` is NULL, of their site only.
CREATE FUNCTION matomo_drop_day(
    among text,
    which text,
    before timestamptz,
    site text,
    first timestamptz,
    last timestamptz,
    path text,
    OUT actions bigint,
    OUT sites text[],
    OUT failed jsonb
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one text;
    of_one record;
    hint text;
    are_left boolean;
    name CONSTANT text := regexp_replace(among, '^ONLY ', '');
BEGIN
    BEGIN
        PERFORM set_config('search_path', path, true);
        EXECUTE pg_catalog.format('DELETE FROM %s AS d WHERE %s', among, which) USING before, site, first, last;
        GET DIAGNOSTICS actions = ROW_COUNT;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        sites := CASE WHEN site IS NOT NULL THEN ARRAY[site] END;
    EXCEPTION
        WHEN OTHERS OR assert_failure THEN
            IF NOT @extschema@.matomo_is_of_rows(SQLSTATE, name) THEN
                RAISE;
            END IF;
            GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
            actions := 0;
            failed := jsonb_build_object('state', SQLSTATE, 'message', SQLERRM, 'hint', hint);
    END;
    IF actions = 0 AND failed IS NULL THEN
        EXECUTE format('SELECT true FROM %s AS d WHERE %s LIMIT 1', among, which)
        INTO are_left USING before, site, first, last;
        IF are_left THEN
            failed := jsonb_build_object('state', '55000', 'message', format('old rows of %s are not deleted', name));
        END IF;
    END IF;
    IF failed IS NULL THEN
        RETURN;
    END IF;
    failed := failed || jsonb_build_object(
        'detail', format('Rows of %s between %s and %s were not deleted.', name, first, last),
        'hint', coalesce(nullif(failed ->> 'hint', ''),
            'Remove what prevents it, such as a trigger or a foreign key, or delete these rows yourself.'));
    IF site IS NULL AND failed ->> 'state' !~ '^(0A|XX)' THEN
        sites := '{}';
        FOR one IN EXECUTE format('SELECT DISTINCT d.idsite::text FROM %s AS d WHERE %s AND d.idsite IS NOT NULL', among, which)
            USING before, site, first, last
        LOOP
            SELECT d.* INTO of_one FROM @extschema@.matomo_drop_day(among,
                which || ' AND d.idsite::pg_catalog.text OPERATOR(pg_catalog.=) $2', before, one, first, last, path) AS d;
            actions := actions + of_one.actions;
            sites := CASE WHEN of_one.actions > 0 THEN sites || of_one.sites ELSE sites END;
        END LOOP;
    END IF;
END
$$;

COMMENT ON FUNCTION matomo_drop_day(text, text, timestamptz, text, timestamptz, timestamptz, text) IS
    'Internal: deletes the rows of a day, for matomo_drop_rows';
