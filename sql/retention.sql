-- Retention removes actions before an instant. It drops whole partitions and deletes other rows in
-- batches. Each step is a transaction of its own, so that no lock is held for long.

-- Removes the rows of one step, see matomo_drop_step. Returns whether more steps may follow (`more`),
-- and where the next one resumes (`scan_position`), so that no rows are scanned twice. Sets `blocked` if
-- a lock is not available within lock_timeout: a longer wait would block all new readers of a table. Also
-- returns the sites of the removed rows (NULL means any) and their span, from the end of the previous
-- step to the end of this one. Deletes with the search_path in `path`, so that triggers find the
-- same names as at an INSERT. Where rows cannot be found by ctid (foreign tables, other access methods,
-- all unless `has_ctids`), deletes by the day. Drops `chunks` of a hypertable whole, like partitions. The
-- reason why a day or partition cannot be removed is returned as `failed`.
CREATE FUNCTION matomo_drop_rows(
    destination regclass,
    before timestamptz,
    site integer,
    lock_timeout interval,
    path text,
    time_column text,
    has_ctids boolean,
    chunks jsonb,
    INOUT scan_position jsonb,
    OUT more boolean,
    OUT dropped text,
    OUT actions bigint,
    OUT blocked text,
    OUT first_gone timestamptz,
    OUT last_gone timestamptz,
    OUT sites_gone text[],
    OUT failed jsonb
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO'
SET intervalstyle = 'postgres'
SET enable_seqscan = off
SET jit = off
SET lock_timeout = '100ms'
AS $$
DECLARE
    batch CONSTANT integer := 10000;
    at CONSTANT text := 'd.' || quote_ident(time_column);
    part record;
    reached text;
    waiting_for text;
    has_only_site boolean;
    among text;
    which text;
    since timestamptz;
    before_this CONSTANT timestamptz := scan_position ->> 'last_gone';
    ids tid[];
    selected bigint;
    done boolean;
    not_deletable text;
    -- As regclass it could be without its schema.
    root CONSTANT text := (SELECT format('%I.%I', n.nspname, c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = destination);
BEGIN
    more := false;
    actions := 0;
    PERFORM set_config('lock_timeout',
        ceil(extract(epoch FROM greatest(lock_timeout, '1 millisecond')) * 1000)::text, true);

    FOR part IN
        WITH old AS (
            SELECT t.*, lag(t.id) OVER (ORDER BY t.number) AS previous
            FROM @extschema@.matomo_old_tables(destination, before, time_column, has_ctids, chunks) AS t
        ),
        -- If the table of scan_position is gone, scan from the start.
        start AS (
            SELECT o.number + CASE WHEN (scan_position ->> 'done')::boolean THEN 1 ELSE 0 END AS number
            FROM old AS o WHERE o.id::text = scan_position ->> 'id'
        )
        SELECT o.*, s.number AS start_number FROM old AS o LEFT JOIN start AS s ON true
        WHERE o.number >= coalesce(s.number, 1)
        ORDER BY o.number
    LOOP
        reached := part.id;
        waiting_for := part.name;
        -- Also for the search for rows of other sites.
        IF part.is_owned AND row_security_active(part.id)
            AND (CASE WHEN part.whole THEN site IS NOT NULL ELSE part.kind = 'r' END)
        THEN
            RAISE insufficient_privilege USING
                MESSAGE = format('row-level security may hide rows of table %s', part.name),
                DETAIL = 'Hidden rows would remain, or be dropped with the partition.',
                HINT = 'Use a role to which no policy applies, such as the table''s owner.';
        END IF;
        IF part.whole THEN
            -- Drop the partition only if it has no rows of other sites.
            has_only_site := true;
            IF site IS NOT NULL THEN
                which := format('SELECT false FROM %s AS d WHERE d.idsite::text IS DISTINCT FROM $1 LIMIT 1', part.name);
                EXECUTE which INTO has_only_site USING site::text;
                IF has_only_site IS NULL THEN
                    EXECUTE format('LOCK TABLE %s IN SHARE MODE', part.name);
                    EXECUTE which INTO has_only_site USING site::text;
                END IF;
            END IF;
            IF coalesce(has_only_site, true) THEN
                waiting_for := part.parent;
                SELECT d.failed INTO failed FROM @extschema@.matomo_drop_partition(part.id, part.parent, part.name, part.lo, part.hi,
                    CASE part.kind WHEN 'c' THEN chunks ->> 'drop' END) AS d;
                IF failed IS NOT NULL THEN
                    more := true;
                    scan_position := jsonb_build_object('id', part.id, 'done', true, 'last_gone', part.hi);
                    RETURN;
                END IF;
                more := true;
                dropped := part.name;
                first_gone := least(part.lo::timestamptz, before_this);
                last_gone := part.hi;
                sites_gone := CASE WHEN site IS NOT NULL THEN ARRAY[site::text] END;
                scan_position := CASE WHEN part.number > 1 THEN jsonb_build_object(
                    'id', part.previous, 'done', true, 'last_gone', last_gone) END;
                RETURN;
            END IF;
        END IF;

        CONTINUE WHEN part.kind NOT IN ('r', 'f') OR NOT part.deletable;
        -- A role that does not own the partition deletes through the table, with its rights there.
        among := CASE WHEN part.is_owned OR part.kind = 'f' AND has_table_privilege(part.id, 'SELECT') AND has_table_privilege(part.id, 'DELETE')
                      THEN CASE WHEN has_ctids THEN 'ONLY ' ELSE '' END || part.name ELSE root END;
        which := concat_ws(' AND ',
            CASE WHEN among = root THEN
                concat_ws(' AND ', format('%1$s OPERATOR(pg_catalog.>=) %2$L AND %1$s OPERATOR(pg_catalog.<) %3$L', at, part.lo, part.hi),
                    CASE WHEN NOT part.by_day THEN format('d.tableoid OPERATOR(pg_catalog.=) %L::pg_catalog.oid', part.id) END) END,
            -- Postgres does not enforce the bounds of a foreign partition.
            CASE WHEN NOT part.is_old OR part.kind = 'f' THEN at || ' OPERATOR(pg_catalog.<) $1' END,
            CASE WHEN site IS NOT NULL THEN 'd.idsite::pg_catalog.text OPERATOR(pg_catalog.=) $2' END,
            'true');
        IF among <> root THEN
            EXECUTE format('SELECT FROM %s LIMIT 0', part.name);
            IF to_regclass(part.name) IS DISTINCT FROM part.id THEN
                RAISE lock_not_available; -- as in matomo_drop_partition
            END IF;
        END IF;
        IF part.by_day THEN
            since := CASE WHEN part.number = part.start_number THEN (scan_position ->> 'since')::timestamptz END;
            EXECUTE format('SELECT min(%s) FROM %s AS d WHERE %s%s', at, among, which,
                CASE WHEN since IS NOT NULL THEN format(' AND %s > $3', at) ELSE '' END)
            INTO first_gone USING before, site::text, since;
            CONTINUE WHEN first_gone IS NULL;
            last_gone := date_trunc('day', first_gone) + '1 day'::interval - '1 microsecond'::interval;
            which := format('%1$s AND %2$s OPERATOR(pg_catalog.>=) $3 AND %2$s OPERATOR(pg_catalog.<=) $4', which, at);
            SELECT d.actions, d.sites, d.failed INTO actions, sites_gone, failed
            FROM @extschema@.matomo_drop_day(among, which, before, site::text, first_gone, last_gone, path) AS d;
            done := among <> root AND coalesce(failed ->> 'state' ~ '^(0A|XX)', false);
            since := CASE WHEN failed IS NULL THEN since ELSE last_gone END;
        ELSE
            since := CASE WHEN part.number = part.start_number AND NOT part.is_old THEN (scan_position ->> 'since')::timestamptz END;
            -- Ordered by time, if rows can be skipped this way; an index may supply the order.
            EXECUTE format('SELECT ARRAY(SELECT d.ctid FROM %s AS d WHERE %s%s LIMIT $3)', among, which,
                CASE WHEN NOT part.is_old THEN
                    CASE WHEN since IS NOT NULL THEN format(' AND %s >= $4', at) ELSE '' END
                    || ' ORDER BY ' || at END)
            INTO ids USING before, site::text, batch, since;
            selected := cardinality(ids);
            CONTINUE WHEN selected = 0;
            PERFORM set_config('search_path', path, true);
            EXECUTE pg_catalog.format(
                'WITH gone AS (DELETE FROM %s AS d WHERE %s AND d.ctid OPERATOR(pg_catalog.=) ANY ($3) RETURNING %s AS at, d.idsite)'
                ' SELECT pg_catalog.count(*), pg_catalog.min(g.at), pg_catalog.max(g.at),'
                ' pg_catalog.array_agg(DISTINCT g.idsite::pg_catalog.text) FROM gone AS g', among, which, at)
            INTO actions, first_gone, last_gone, sites_gone USING before, site::pg_catalog.text, ids;
            PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
            -- Rows that another session changed meanwhile were skipped, so find them again.
            done := actions = selected AND selected < batch;
            IF actions = 0 THEN
                EXECUTE format('SELECT true FROM %s AS d WHERE %s AND d.ctid OPERATOR(pg_catalog.=) ANY ($3) LIMIT 1', among, which)
                INTO done USING before, site::text, ids;
                IF done THEN
                    failed := jsonb_build_object('state', '55000', 'message', format('old rows of %s are not deleted', part.name),
                        'detail', format('A trigger keeps %s of them.', selected),
                        'hint', 'Remove what prevents it, such as a trigger, or delete these rows yourself.');
                END IF;
                done := coalesce(done, false);
            END IF;
            since := CASE WHEN actions = selected THEN last_gone ELSE since END;
        END IF;
        -- Another session may have removed all rows of a day meanwhile.
        IF actions > 0 OR failed IS NOT NULL OR part.by_day THEN
            more := true;
            last_gone := CASE WHEN actions > 0 THEN last_gone ELSE before_this END;
            -- A day that keeps rows is not passed by the next step.
            scan_position := jsonb_build_object('id', part.id, 'done', done,
                'last_gone', CASE WHEN failed IS NULL OR NOT part.by_day THEN last_gone ELSE since + '1 microsecond'::interval END,
                'since', CASE WHEN NOT done THEN since END);
            first_gone := CASE WHEN actions > 0 THEN least(first_gone, before_this) END;
            last_gone := CASE WHEN done AND failed IS NULL THEN least(part.hi::timestamptz, before) ELSE last_gone + '1 second'::interval END;
            RETURN;
        END IF;
    END LOOP;
    scan_position := NULL;
    first_gone := NULL;
    last_gone := NULL;
    sites_gone := NULL;
    waiting_for := root;
    SELECT string_agg(t.name, ', ' ORDER BY t.number) INTO not_deletable
    FROM @extschema@.matomo_old_tables(destination, before, time_column, has_ctids, chunks) AS t
    WHERE t.kind IN ('r', 'f') AND NOT t.deletable;
    IF not_deletable IS NOT NULL THEN
        RAISE WARNING USING
            MESSAGE = format('tables from which nothing can be deleted: %s', not_deletable),
            HINT = 'Detach them, or delete the rows where they are; a columnar table must be made heap for that.';
    END IF;
EXCEPTION
    -- The rollback of this block has released its locks.
    WHEN lock_not_available OR deadlock_detected THEN
        IF reached IS NULL THEN
            RAISE;
        END IF;
        more := true;
        actions := 0;
        dropped := NULL;
        failed := NULL;
        blocked := waiting_for;
        IF reached IS DISTINCT FROM scan_position ->> 'id' THEN
            scan_position := jsonb_build_object('id', reached::oid, 'done', false);
        END IF;
END
$$;

COMMENT ON FUNCTION matomo_drop_rows(regclass, timestamptz, integer, interval, text, text, boolean, jsonb, jsonb) IS
    'Internal: drops a partition or deletes a batch of rows, for matomo_drop_step';

-- A procedure that commits cannot have SET clauses, so every name and operator is qualified.
CREATE PROCEDURE matomo_drop_before(
    destination regclass,
    before timestamptz,
    site integer DEFAULT NULL,
    lock_timeout interval DEFAULT '100 milliseconds',
    patience interval DEFAULT '1 minute'
)
LANGUAGE plpgsql
AS $$
DECLARE
    more pg_catalog.bool;
    dropped pg_catalog.text;
    deleted pg_catalog.int8;
    blocked pg_catalog.text;
    holders pg_catalog.text;
    place pg_catalog.jsonb;
    partitions pg_catalog.int8 := 0;
    actions pg_catalog.int8 := 0;
    deadline pg_catalog.timestamptz;
BEGIN
    PERFORM @extschema@.matomo_run_outside_transaction('matomo_drop_before()'::pg_catalog.text);
    IF patience IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'argument "patience" must not be null';
    END IF;
    LOOP
        SELECT s.more, s.dropped, s.actions, s.blocked, s.holders, s.place
        INTO more, dropped, deleted, blocked, holders, place
        FROM @extschema@.matomo_drop_step(destination, before, site, lock_timeout, place) AS s;
        COMMIT;
        EXIT WHEN NOT more;
        actions := actions OPERATOR(pg_catalog.+) deleted;
        IF dropped IS NOT NULL THEN
            partitions := partitions OPERATOR(pg_catalog.+) 1;
            RAISE NOTICE 'dropped partition %', dropped;
        END IF;
        IF blocked IS NULL THEN
            deadline := NULL;
            CONTINUE;
        END IF;
        deadline := COALESCE(deadline, pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) patience);
        IF pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>=) deadline THEN
            RAISE lock_not_available USING
                MESSAGE = pg_catalog.format('could not obtain lock on %s', blocked),
                DETAIL = pg_catalog.format('%s partitions were dropped and %s actions deleted before. Held by %s.',
                    partitions, actions, COALESCE(holders, 'a transaction that has ended')),
                HINT = 'Call it again when the statements that use the table have ended; see pg_locks and pg_stat_activity.';
        END IF;
        -- Let the sessions that wait for the lock proceed.
        PERFORM pg_catalog.pg_sleep(0.5);
    END LOOP;
    RAISE NOTICE '% partitions dropped, % actions deleted', partitions, actions;
END
$$;

COMMENT ON PROCEDURE matomo_drop_before(regclass, timestamptz, integer, interval, interval) IS
    'Removes all actions before an instant, of all sites or one: drops whole partitions and deletes other rows, with a commit after each step. Syncs do not copy them again';

COMMENT ON FUNCTION matomo_drop_step(regclass, timestamptz, integer, interval, jsonb) IS
    'Internal: one step of matomo_drop_before: drops a partition or deletes a batch of rows, and seals the days that are then empty';
