-- Weekly partitions, from Monday 00:00 UTC to Monday 00:00 UTC, in any session's TimeZone.

-- Partitions of the Node tool may have bounds in other timezones, so they are read from the catalog.
CREATE FUNCTION matomo_partition_ranges(destination regclass)
RETURNS TABLE (lower_bound timestamptz, upper_bound timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO'
AS $$
    SELECT coalesce(substring(b.expr FROM 'FROM [(]''([^'']*)''[)]')::timestamptz, '-infinity'),
           coalesce(substring(b.expr FROM 'TO [(]''([^'']*)''[)]')::timestamptz, 'infinity')
    FROM pg_partitioned_table p
    JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
    JOIN pg_inherits i ON i.inhparent = p.partrelid
    JOIN pg_class c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS b(expr)
    WHERE p.partrelid = destination AND p.partstrat = 'r' AND p.partnatts = 1
      AND a.attname IN ('action_timestamp', 'lastaction', 'converted') AND b.expr <> 'DEFAULT'
$$;

COMMENT ON FUNCTION matomo_partition_ranges(regclass) IS
    'Internal: bounds of each partition of a destination or companion that is partitioned by its time; the upper one is exclusive';

-- LIKE copies neither owner nor grants, and default privileges may differ from the table's.
CREATE FUNCTION matomo_grant_as(made regclass, model regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    has_grants boolean;
    change text;
BEGIN
    EXECUTE format('ALTER TABLE %s OWNER TO %I', made, (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = model));
    SELECT bool_or(c.relacl IS NOT NULL) INTO has_grants FROM pg_class c WHERE c.oid IN (model, made);
    FOR change IN
        SELECT format('REVOKE ALL ON %s FROM %s', made, g.grantee)
        FROM pg_class c
        CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
        CROSS JOIN LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) AS g(grantee)
        WHERE c.oid = made AND has_grants
        GROUP BY g.grantee
    LOOP
        EXECUTE change;
    END LOOP;
    FOR change IN
        SELECT format('GRANT %s ON %s TO %s', string_agg(a.privilege_type || a.columns, ', '), made, g.grantee)
               || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
        FROM (SELECT a.grantee, a.privilege_type, '' AS columns, a.is_grantable, a.place
              FROM pg_class c
              CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner)))
                  WITH ORDINALITY AS a(grantor, grantee, privilege_type, is_grantable, place)
              WHERE c.oid = model AND has_grants
              UNION ALL
              SELECT a.grantee, a.privilege_type, format(' (%I)', t.attname), a.is_grantable, NULL
              FROM pg_attribute t CROSS JOIN LATERAL aclexplode(t.attacl) a
              WHERE t.attrelid = model AND NOT t.attisdropped
                AND EXISTS (SELECT FROM pg_attribute own WHERE own.attrelid = made AND own.attname = t.attname)) AS a
        CROSS JOIN LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) AS g(grantee)
        GROUP BY g.grantee, a.is_grantable
        ORDER BY min(a.place)
    LOOP
        EXECUTE change;
    END LOOP;
    -- Policies of the table do not apply to direct reads of a partition; this allows none.
    IF (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = model) THEN
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', made);
    END IF;
END
$$;

COMMENT ON FUNCTION matomo_grant_as(regclass, regclass) IS
    'Internal: gives a table that we make the owner, the grants and the row-level security of another';

-- Called as the table's owner: creating a partition evaluates expressions of its indexes and constraints.
CREATE FUNCTION matomo_create_week(destination regclass, lower_bound timestamptz, upper_bound timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO'
SET default_tablespace = ''
AS $$
DECLARE
    of_schema name;
    of_table name;
    storage text;
    stem text;
    partition text;
    made regclass;
    attempt integer := 1;
    change text;
BEGIN
    SELECT n.nspname, c.relname, concat(' USING ' || quote_ident(m.amname), ' TABLESPACE ' || quote_ident(s.spcname))
    INTO of_schema, of_table, storage
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_am m ON m.oid = c.relam
    LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
    WHERE c.oid = destination;
    stem := of_table || to_char(lower_bound + (upper_bound - lower_bound) / 2, '"_"IYYY"w"IW');
    LOOP
        partition := stem || CASE WHEN attempt > 1 THEN '_' || attempt ELSE '' END;
        -- The name of a Node tool's table may leave no room for the week: shorten it.
        WHILE octet_length(partition) > 63 LOOP
            of_table := left(of_table, -1);
            stem := of_table || right(stem, 8);
            partition := stem || CASE WHEN attempt > 1 THEN '_' || attempt ELSE '' END;
        END LOOP;
        EXIT WHEN to_regclass(format('%I.%I', of_schema, partition)) IS NULL;
        attempt := attempt + 1;
    END LOOP;

    -- Create and attach: CREATE TABLE ... PARTITION OF would block readers until the commit.
    EXECUTE format('CREATE TABLE %I.%I (LIKE %s INCLUDING ALL EXCLUDING IDENTITY EXCLUDING COMMENTS)%s',
        of_schema, partition, destination, storage);
    made := format('%I.%I', of_schema, partition)::regclass;
    PERFORM @extschema@.matomo_grant_as(made, destination);
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
        destination, made, lower_bound, upper_bound);
    -- If an index is the replica identity, use the partition's index attached to it.
    SELECT format('ALTER TABLE %s REPLICA IDENTITY ', made) || CASE c.relreplident
               WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' WHEN 'i' THEN format('USING INDEX %I', x.relname) END
    INTO change
    FROM pg_class c
    LEFT JOIN (pg_index t JOIN pg_inherits i ON i.inhparent = t.indexrelid
               JOIN pg_index p ON p.indexrelid = i.inhrelid AND p.indrelid = made
               JOIN pg_class x ON x.oid = p.indexrelid) ON t.indrelid = c.oid AND t.indisreplident
    WHERE c.oid = destination;
    IF change IS NOT NULL THEN
        EXECUTE change;
    END IF;
END
$$;

COMMENT ON FUNCTION matomo_create_week(regclass, timestamptz, timestamptz) IS
    'Internal: creates one partition of a table of the caller''s, named after the week in its middle';

-- As the table's owner, too.
CREATE FUNCTION matomo_create_weeks(destination regclass, from_time timestamptz, to_time timestamptz)
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO'
AS $$
DECLARE
    day CONSTANT interval := '1 day';
    week CONSTANT interval := '7 days';
    locked boolean := false;
    created integer := 0;
    at timestamptz := from_time;
    below timestamptz;
    above timestamptz;
    lower_bound timestamptz;
    upper_bound timestamptz;
    in_partition boolean;
    of_schema name;
    of_table name;
    table_owner oid;
    missing text;
    advice text;
BEGIN
    -- A table that is partitioned another way, or has a default partition, needs no partitions from us.
    SELECT n.nspname, c.relname, c.relowner INTO of_schema, of_table, table_owner
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_partitioned_table p ON p.partrelid = c.oid
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
    WHERE c.oid = destination AND p.partstrat = 'r' AND p.partnatts = 1
      AND a.attname IN ('action_timestamp', 'lastaction', 'converted') AND p.partdefid = 0;
    IF NOT FOUND OR from_time IS NULL OR to_time IS NULL THEN
        RETURN 0;
    END IF;

    IF NOT (isfinite(from_time) AND isfinite(to_time)) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'both times must be finite';
    END IF;

    WHILE at <= to_time LOOP
        SELECT coalesce(bool_or(lo <= at AND at < hi), false),
               coalesce(max(hi) FILTER (WHERE hi <= at), '-infinity'),
               coalesce(min(lo) FILTER (WHERE lo > at), 'infinity'),
               min(hi) FILTER (WHERE lo <= at AND at < hi)
        INTO in_partition, below, above, upper_bound
        FROM @extschema@.matomo_partition_ranges(destination) AS r(lo, hi);

        IF in_partition THEN
            at := upper_bound;
            CONTINUE;
        END IF;
        IF NOT locked THEN
            -- One session at a time, without blocking reads and writes. Then check again.
            EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', destination);
            locked := true;
            CONTINUE;
        END IF;

        lower_bound := date_trunc('week', at);
        upper_bound := lower_bound + week;
        -- Next to partitions with other bounds, less than a day of a week may be missing. Such a part
        -- goes into the partition of the adjacent week.
        IF below > upper_bound - day THEN
            upper_bound := upper_bound + week;
        ELSIF above < lower_bound + day THEN
            lower_bound := lower_bound - week;
        END IF;
        IF below >= lower_bound - day THEN
            lower_bound := below;
        END IF;
        IF above <= upper_bound + day THEN
            upper_bound := above;
        END IF;

        -- A role that may write to the table may still not be able to create its partitions. The owner
        -- of the table needs CREATE on its schema: a superuser may have created the table for it.
        SELECT CASE WHEN NOT is_owner
                    THEN format('This requires the rights of its owner, %I.', pg_get_userbyid(table_owner))
                    WHEN needs_create IS NOT NULL
                    THEN format('This requires CREATE on schema %I.', of_schema) END,
               CASE WHEN NOT is_owner
                    THEN 'Ask the owner to run matomo_create_partitions, or to register a site, which creates partitions ahead.'
                    WHEN needs_create IS NOT NULL
                    THEN format('GRANT CREATE ON SCHEMA %I TO %I.', of_schema, needs_create) END
        INTO missing, advice
        FROM (SELECT table_owner = quote_ident(current_user)::regrole,
                     CASE WHEN NOT has_schema_privilege(of_schema::text, 'CREATE') THEN current_user END)
            AS x(is_owner, needs_create);
        IF missing IS NOT NULL THEN
            RAISE insufficient_privilege USING
                MESSAGE = format('permission denied to create the partition of table %I.%I for the week of %s',
                    of_schema, of_table, date_trunc('week', at)::date),
                DETAIL = missing,
                HINT = advice;
        END IF;

        PERFORM @extschema@.matomo_create_week(destination, lower_bound, upper_bound);
        created := created + 1;
        at := upper_bound;
    END LOOP;
    RETURN created;
END
$$;

COMMENT ON FUNCTION matomo_create_weeks(regclass, timestamptz, timestamptz) IS
    'Internal: creates the missing weekly partitions (UTC) of one table of the caller''s, and returns their number';

COMMENT ON FUNCTION matomo_create_partitions(regclass, timestamptz, timestamptz) IS
    'Creates the missing weekly partitions (UTC) of a destination and its companions between two instants, and returns the number of those of the destination';
