-- Retention: what is older than some instant goes. Whole partitions are dropped; elsewhere rows are
-- deleted in batches. Each step is a transaction of its own, so that nothing is locked for long.

-- One  Gives whether there may be more to do; `blocked` when a lock was not to be had within
-- lock_timeout: whoever waits longer for the lock of a table has all its new readers wait behind him.
CREATE FUNCTION matomo_drop_step(
    destination regclass,
    before timestamptz,
    site integer,
    lock_timeout interval,
    OUT more boolean,
    OUT dropped text,
    OUT actions bigint,
    OUT blocked text,
    OUT holders text
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
    of_site CONSTANT text := CASE WHEN site IS NULL THEN '' ELSE ' AND d.idsite::text = $2' END;
    parts jsonb;
    part record;
    others boolean;
    waiting_for text;
    out_of_reach text;
BEGIN
    IF destination IS NULL OR before IS NULL OR lock_timeout IS NULL THEN
        RAISE null_value_not_allowed USING
            MESSAGE = format('argument "%s" must not be null', CASE WHEN destination IS NULL THEN 'destination'
                WHEN before IS NULL THEN 'before' ELSE 'lock_timeout' END);
    END IF;
    IF before > now() THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('%s is in the future', before),
            HINT = 'To empty the whole table use TRUNCATE.';
    END IF;
    more := false;
    actions := 0;
    PERFORM set_config('lock_timeout',
        ceil(extract(epoch FROM greatest(lock_timeout, '1 millisecond')) * 1000)::text, true);
    -- First, and committed with the first rows that go: no sync shall bring them back.
    PERFORM @extschema@.matomo_seal_dropped(destination, before, site);

    -- Every table of the tree, with the bounds of time that it has from its partitions' bounds.
    WITH RECURSIVE tree AS (
        SELECT c.oid, 0::oid AS parent, ARRAY[c.oid] AS path, c.relkind,
               '-infinity'::timestamptz AS lo, 'infinity'::timestamptz AS hi
        FROM pg_class c WHERE c.oid = destination
        UNION ALL
        SELECT c.oid, i.inhparent, t.path || c.oid, c.relkind,
               greatest(t.lo, CASE WHEN r.by_time THEN substring(r.bounds FROM 'FROM \(''([^'']*)''\)')::timestamptz END),
               least(t.hi, CASE WHEN r.by_time THEN substring(r.bounds FROM 'TO \(''([^'']*)''\)')::timestamptz END)
        FROM tree t
        JOIN pg_inherits i ON i.inhparent = t.oid AND NOT i.inhdetachpending
        JOIN pg_class c ON c.oid = i.inhrelid
        CROSS JOIN LATERAL (
            SELECT pg_get_expr(c.relpartbound, c.oid) AS bounds, EXISTS (
                SELECT FROM pg_partitioned_table p
                JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
                WHERE p.partrelid = t.oid AND p.partstrat = 'r' AND p.partnatts = 1
                  AND a.attname = 'action_timestamp') AS by_time) r
    )
    SELECT jsonb_agg(jsonb_build_object(
        'name', format('%I.%I', n.nspname, c.relname), 'parent', quote_ident(pn.nspname) || '.' || quote_ident(p.relname),
        'kind', t.relkind,
        -- To drop a foreign table would leave its rows where they are.
        'whole', t.hi <= before AND NOT EXISTS (
            SELECT FROM tree f WHERE f.relkind = 'f' AND t.oid = ANY (f.path)),
        -- 1 << CMD_DELETE
        'deletable', pg_relation_is_updatable(t.oid, false) & 16 <> 0)
        ORDER BY t.hi, cardinality(t.path), c.relname)
    INTO parts
    FROM tree t
    JOIN pg_class c ON c.oid = t.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN (pg_class p JOIN pg_namespace pn ON pn.oid = p.relnamespace) ON p.oid = t.parent
    WHERE t.lo < before;

    FOR part IN
        SELECT * FROM jsonb_to_recordset(parts) AS x(name text, parent text, whole boolean)
        WHERE x.whole
    LOOP
        IF site IS NOT NULL THEN
            -- Visits of other sites stay: nothing but rows of this one may go with the partition.
            waiting_for := part.name;
            EXECUTE format('LOCK TABLE %s IN SHARE MODE', part.name);
            EXECUTE format('SELECT EXISTS (SELECT FROM %s AS d WHERE d.idsite::text IS DISTINCT FROM $1)', part.name)
            INTO others USING site::text;
            CONTINUE WHEN others;
        END IF;
        waiting_for := part.parent;
        EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', part.parent, part.name);
        EXECUTE format('DROP TABLE %s', part.name);
        more := true;
        dropped := part.name;
        RETURN;
    END LOOP;

    FOR part IN
        SELECT * FROM jsonb_to_recordset(parts) AS x(name text, kind text, deletable boolean)
        WHERE x.kind IN ('r', 'f')
    LOOP
        waiting_for := part.name;
        IF part.kind = 'r' THEN
            EXECUTE format(
                'DELETE FROM ONLY %1$s AS d WHERE d.action_timestamp < $1%2$s AND d.ctid = ANY (ARRAY('
                'SELECT d.ctid FROM ONLY %1$s AS d WHERE d.action_timestamp < $1%2$s LIMIT $3))', part.name, of_site)
            USING before, site::text, batch;
        ELSIF part.deletable THEN
            -- Not every server has a ctid: by the day.
            EXECUTE format(
                'DELETE FROM ONLY %1$s AS d WHERE d.action_timestamp < $1%2$s AND d.action_timestamp <= ('
                'SELECT min(d.action_timestamp) + ''1 day'' FROM ONLY %1$s AS d WHERE d.action_timestamp < $1%2$s)',
                part.name, of_site)
            USING before, site::text;
        ELSE
            out_of_reach := concat_ws(', ', out_of_reach, part.name);
            CONTINUE;
        END IF;
        GET DIAGNOSTICS actions = ROW_COUNT;
        IF actions > 0 THEN
            more := true;
            RETURN;
        END IF;
    END LOOP;
    IF out_of_reach IS NOT NULL THEN
        RAISE WARNING USING
            MESSAGE = format('foreign tables from which nothing can be deleted: %s', out_of_reach),
            HINT = 'Delete their rows where they are, or detach them.';
    END IF;
EXCEPTION
    -- What was locked is free again at the end of this block.
    WHEN lock_not_available OR deadlock_detected THEN
        more := true;
        actions := 0;
        dropped := NULL;
        blocked := waiting_for;
        SELECT string_agg(h.pid::text, ', ' ORDER BY a.xact_start, h.pid) INTO holders
        FROM (SELECT DISTINCT l.pid FROM pg_locks l
              JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
              WHERE l.relation = to_regclass(waiting_for) AND l.granted AND l.pid <> pg_backend_pid()) AS h
        LEFT JOIN pg_stat_activity a ON a.pid = h.pid;
END
$$;

COMMENT ON FUNCTION matomo_drop_step(regclass, timestamptz, integer, interval) IS
    'One step of matomo_drop_before: drops a partition or deletes a batch of rows';

-- A procedure that commits can have no SET clauses: everything in it is qualified.
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
    partitions pg_catalog.int8 := 0;
    actions pg_catalog.int8 := 0;
    give_up pg_catalog.timestamptz;
BEGIN
    PERFORM @extschema@.matomo_run_outside_transaction('matomo_drop_before()');
    IF patience IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'argument "patience" must not be null';
    END IF;
    LOOP
        SELECT s.more, s.dropped, s.actions, s.blocked, s.holders INTO more, dropped, deleted, blocked, holders
        FROM @extschema@.matomo_drop_step(destination, before, site, lock_timeout) AS s;
        COMMIT;
        EXIT WHEN NOT more;
        actions := actions OPERATOR(pg_catalog.+) deleted;
        IF dropped IS NOT NULL THEN
            partitions := partitions OPERATOR(pg_catalog.+) 1;
            RAISE NOTICE 'dropped partition %', dropped;
        END IF;
        IF blocked IS NULL THEN
            give_up := NULL;
            CONTINUE;
        END IF;
        give_up := COALESCE(give_up, pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) patience);
        IF pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>=) give_up THEN
            RAISE lock_not_available USING
                MESSAGE = pg_catalog.format('could not obtain lock on %s', blocked),
                DETAIL = pg_catalog.format('%s partitions were dropped and %s actions deleted before. Held by process %s.',
                    partitions, actions, COALESCE(holders, '(ended)')),
                HINT = 'Call it again when the statements that use the table have ended; see pg_locks and pg_stat_activity.';
        END IF;
        -- Meanwhile everybody else gets through.
        PERFORM pg_catalog.pg_sleep(0.5);
    END LOOP;
    RAISE NOTICE '% partitions dropped, % actions deleted', partitions, actions;
END
$$;

COMMENT ON PROCEDURE matomo_drop_before(regclass, timestamptz, integer, interval, interval) IS
    'Removes all actions before an instant, of all sites or of one: drops whole partitions, deletes rows elsewhere, commits as it goes. Syncs do not bring them back';

COMMENT ON FUNCTION matomo_seal_dropped(oid, timestamptz, integer) IS
    'Internal: notes in the ledger that the days of a table before an instant hold nothing any more, so that no sync reads them';

-- A step of the upkeep of a registered site: retention, and the partitions of the coming weeks. What
-- fails in it does not fail the sync; it is noted, and tried again on the next day.
CREATE FUNCTION matomo_upkeep_step(site_id integer) RETURNS text
LANGUAGE plpgsql
AS $$
DECLARE
    state pg_catalog.text;
    message pg_catalog.text;
    detail pg_catalog.text;
    hint pg_catalog.text;
BEGIN
    RETURN @extschema@.matomo_upkeep(site_id);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    PERFORM @extschema@.matomo_upkeep_fail(site_id, message);
    RAISE WARNING USING
        ERRCODE = state, MESSAGE = pg_catalog.format('upkeep of registered site %s: %s', site_id, message),
        DETAIL = detail, HINT = hint;
    RETURN 'failed';
END
$$;

COMMENT ON FUNCTION matomo_upkeep(integer) IS 'Internal: does a step of the upkeep of a registered site';
COMMENT ON FUNCTION matomo_upkeep_fail(integer, text) IS 'Internal: notes what the upkeep of a registered site has failed with';
COMMENT ON FUNCTION matomo_upkeep_step(integer) IS 'Internal: a step of the upkeep of a registered site, to be committed; gives more, blocked, done or failed';

CREATE PROCEDURE matomo_upkeep_site(id integer)
LANGUAGE plpgsql
AS $$
DECLARE
    status pg_catalog.text;
    tries pg_catalog.int4 := 0;
BEGIN
    LOOP
        status := @extschema@.matomo_upkeep_step(id);
        COMMIT;
        IF status OPERATOR(pg_catalog.=) 'blocked' THEN
            -- The next run tries again.
            tries := tries OPERATOR(pg_catalog.+) 1;
            EXIT WHEN tries OPERATOR(pg_catalog.>) 20;
            PERFORM pg_catalog.pg_sleep(0.5);
        ELSE
            EXIT WHEN status OPERATOR(pg_catalog.<>) 'more';
        END IF;
    END LOOP;
END
$$;

COMMENT ON PROCEDURE matomo_upkeep_site(integer) IS
    'Internal: the upkeep of a registered site, once a day: drops what is older than its retention, makes the partitions of the coming weeks';
