-- From 0.1.0 to 0.2.0: sites, their state, runs and the ledger are kept; users' tables stay as they are.

-- A session that has loaded the library of 0.1.0 cannot have what is made here.
DO $do$
BEGIN
    CREATE FUNCTION matomo_run_sites() RETURNS integer[] VOLATILE PARALLEL UNSAFE LANGUAGE c
        AS 'MODULE_PATHNAME', 'matomo_run_sites_0_2_reconnect_wrapper';
    DROP FUNCTION matomo_run_sites();
EXCEPTION WHEN undefined_function THEN
    RAISE object_not_in_prerequisite_state USING
        MESSAGE = 'this session has loaded an older library of matomo_postgres than 0.2.0',
        HINT = 'Reconnect and try again; where the library is in shared_preload_libraries, restart the server before.';
END
$do$;

-- In the order in which a run uses them. Waits for the syncs that are at work, or for their next step.
LOCK TABLE matomo_site_config, matomo_site_state, matomo_run_log, matomo_ledger IN ACCESS EXCLUSIVE MODE;

-- What is there now; and the grants on what is dropped below and made again.
SELECT pg_catalog.set_config('matomo_update.known', (
    SELECT pg_catalog.array_agg(d.objid)::text FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'matomo_postgres'
    WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
      AND d.classid IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_class'::regclass)), true);
SELECT pg_catalog.set_config('matomo_update.grants', (
    SELECT pg_catalog.string_agg(pg_catalog.format('GRANT %s ON %s TO %s%s', a.privilege_type, o.name,
        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END), '; ')
    FROM (SELECT c.oid::regclass::text, c.relowner, c.relacl FROM pg_catalog.pg_class c
          WHERE c.oid IN ('matomo_sites'::regclass, 'matomo_status'::regclass, 'matomo_runs'::regclass)
          UNION ALL
          SELECT 'FUNCTION matomo_check', p.proowner, p.proacl FROM pg_catalog.pg_proc p
          WHERE p.oid = 'matomo_check'::regproc) AS o(name, owner, acl)
    CROSS JOIN LATERAL pg_catalog.aclexplode(o.acl) a WHERE a.grantee <> o.owner), true);

DROP VIEW matomo_status;
DROP VIEW matomo_sites;
DROP VIEW matomo_runs;
DROP FUNCTION matomo_check(integer, date, date, text, text, text, boolean, boolean, integer, text);
DROP FUNCTION matomo_destinations(), matomo_seal_dropped(oid, timestamptz, integer);
DROP FUNCTION matomo_drop_step(regclass, timestamptz, integer, interval, jsonb);
DROP FUNCTION matomo_run_step(bigint), matomo_run_begin(integer, text), matomo_run_copy(bigint),
    matomo_run_fail(bigint, text, text, text, text), matomo_run_report(bigint, boolean),
    matomo_run_warn(text, text, text, text), matomo_note_ownerless();
DROP FUNCTION matomo_upkeep(integer), matomo_upkeep_fail(integer, text), matomo_upkeep_step(integer);
DROP PROCEDURE matomo_upkeep_site(integer);

ALTER TABLE matomo_site_config
    DROP CONSTRAINT matomo_site_config_key,
    ADD COLUMN destination_name text[],
    ADD COLUMN owner_name name;
CREATE UNIQUE INDEX matomo_site_config_key ON matomo_site_config (server, idsite, destination)
    WHERE destination <> 0::oid;
-- Of tables and roles that are gone nothing is left but their numbers.
UPDATE matomo_site_config s SET
    destination_name = coalesce((
        SELECT ARRAY[n.nspname::text, c.relname::text, pg_catalog.pg_get_userbyid(c.relowner)::text]
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = s.destination), ARRAY['?', s.destination::oid::text, '?']),
    owner_name = coalesce((SELECT r.rolname FROM pg_catalog.pg_roles r WHERE r.oid = s.owner), s.owner::oid::text::name);
ALTER TABLE matomo_site_config ALTER destination_name SET NOT NULL, ALTER owner_name SET NOT NULL;

ALTER TABLE matomo_site_state
    DROP CONSTRAINT matomo_site_state_site_id_fkey,
    ADD COLUMN changes integer NOT NULL DEFAULT 0;

ALTER TABLE matomo_run_log
    DROP CONSTRAINT matomo_run_log_status_check,
    ADD CHECK (status IN ('running', 'paused', 'succeeded', 'failed')),
    ADD COLUMN step_pages integer,
    ADD COLUMN changes integer NOT NULL DEFAULT 0,
    ADD COLUMN owner_name name;
UPDATE matomo_run_log l SET
    owner_name = coalesce((SELECT r.rolname FROM pg_catalog.pg_roles r WHERE r.oid = l.owner), l.owner::oid::text::name);
ALTER TABLE matomo_run_log ALTER owner_name SET NOT NULL;
DROP INDEX matomo_run_log_running;
CREATE INDEX matomo_run_log_running ON matomo_run_log (site_id) WHERE status IN ('running', 'paused');

ALTER TABLE matomo_ledger
    DROP CONSTRAINT matomo_ledger_pkey,
    ADD COLUMN rechecked_at timestamptz,
    ADD COLUMN action_time text,
    ADD COLUMN destination_name text[] NOT NULL DEFAULT '{}';

-- A URL has its host in lower case and no default port now. Of a day that a table has under two URLs
-- that are one, the sealed entry is kept, or the newer one.
CREATE FUNCTION matomo_one_url(url text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(pg_catalog.concat(p[1], pg_catalog.lower(p[2]),
        CASE WHEN p[4] <> CASE p[1] WHEN 'https://' THEN '443' ELSE '80' END THEN ':' || p[4] END, p[5]), url)
    FROM pg_catalog.regexp_match(url, '^(https?://)([[][^]]*[]]|[^/:]+)(:0*([0-9]+))?(/.*)$') AS p
$$;
DELETE FROM matomo_ledger l USING matomo_ledger k
WHERE (k.destination, k.idsite, k.day) = (l.destination, l.idsite, l.day) AND k.matomo <> l.matomo
  AND matomo_one_url(k.matomo) = matomo_one_url(l.matomo)
  AND (k.sealed, k.read_at, k.matomo) > (l.sealed, l.read_at, l.matomo);
UPDATE matomo_ledger SET matomo = matomo_one_url(matomo) WHERE matomo <> matomo_one_url(matomo);
UPDATE matomo_site_state SET matomo = matomo_one_url(matomo) WHERE matomo <> matomo_one_url(matomo);
DROP FUNCTION matomo_one_url(text);

-- What was begun and is kept otherwise now begins anew.
UPDATE matomo_ledger SET pass_began = NULL, pass_since = NULL, pass_seen = NULL WHERE pass_seen = '';
UPDATE matomo_site_state SET upkeep_place = NULL WHERE upkeep_place IS NOT NULL;

ALTER TABLE matomo_ledger ADD PRIMARY KEY (destination, idsite, matomo, day, destination_name);
CREATE INDEX matomo_ledger_missing ON matomo_ledger (destination_name) WHERE destination = 0::oid;

-- Written by packaging/update-script from here …

CREATE OR REPLACE FUNCTION matomo_partition_ranges(destination regclass)
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
      AND a.attname = 'action_timestamp' AND b.expr <> 'DEFAULT'
$$;

COMMENT ON FUNCTION matomo_partition_ranges(regclass) IS
    'Internal: from when to when (not included) each partition of a destination partitioned by action_timestamp goes';

CREATE OR REPLACE FUNCTION matomo_create_partitions(destination regclass, from_time timestamptz, to_time timestamptz)
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO'
SET intervalstyle = 'postgres'
SET default_tablespace = ''
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
    storage text;
    stem text;
    partition text;
    made regclass;
    has_grants boolean;
    attempt integer;
    change text;
    lacks text;
    to_do text;
BEGIN
    -- Partitioned some other way, or with a default partition that takes every row: whoever made
    -- it so makes its partitions too.
    SELECT n.nspname, c.relname, c.relowner,
           concat(' USING ' || quote_ident(m.amname), ' TABLESPACE ' || quote_ident(s.spcname))
    INTO of_schema, of_table, table_owner, storage
    FROM pg_class c
    LEFT JOIN pg_am m ON m.oid = c.relam
    LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_partitioned_table p ON p.partrelid = c.oid
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
    WHERE c.oid = destination AND p.partstrat = 'r' AND p.partnatts = 1
      AND a.attname = 'action_timestamp' AND p.partdefid = 0;
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
            -- One session at a time; reading and writing go on. Then look again.
            EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', destination);
            locked := true;
            CONTINUE;
        END IF;

        lower_bound := date_trunc('week', at);
        upper_bound := lower_bound + week;
        -- Next to partitions with other bounds a sliver of the week may be all that is missing: it
        -- goes to the neighbouring week. Nor is a sliver left over for a partition of its own.
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

        -- What may be written to may still lack a week that only its owner can make. A superuser can
        -- give the owner a table in any schema.
        SELECT CASE WHEN NOT pg_has_role(table_owner, 'USAGE')
                    THEN format('It takes the rights of its owner, %I.', pg_get_userbyid(table_owner))
                    WHEN needs_create IS NOT NULL
                    THEN format('It takes the privilege CREATE on schema %I.', of_schema) END,
               CASE WHEN NOT pg_has_role(table_owner, 'USAGE')
                    THEN 'Ask the owner to run matomo_create_partitions, or to register a site, which makes partitions ahead.'
                    WHEN needs_create IS NOT NULL
                    THEN format('GRANT CREATE ON SCHEMA %I TO %I.', of_schema, needs_create) END
        INTO lacks, to_do
        FROM (SELECT min(r.rolname::text) FROM pg_roles r, pg_roles me
              WHERE me.rolname = current_user AND NOT me.rolsuper AND r.oid IN (me.oid, table_owner)
                AND NOT has_schema_privilege(r.oid, of_schema::text, 'CREATE')) AS x(needs_create);
        IF lacks IS NOT NULL THEN
            RAISE insufficient_privilege USING
                MESSAGE = format('permission denied to create the partition of table %I.%I for the week of %s',
                    of_schema, of_table, date_trunc('week', at)::date),
                DETAIL = lacks,
                HINT = to_do;
        END IF;

        stem := of_table || to_char(lower_bound + (upper_bound - lower_bound) / 2, '"_"IYYY"w"IW');
        attempt := 1;
        LOOP
            partition := stem || CASE WHEN attempt > 1 THEN '_' || attempt ELSE '' END;
            -- Names of the Node tool's tables may be too long for the week: shorten the table's.
            WHILE octet_length(partition) > 63 LOOP
                of_table := left(of_table, -1);
                stem := of_table || right(stem, 8);
                partition := stem || CASE WHEN attempt > 1 THEN '_' || attempt ELSE '' END;
            END LOOP;
            EXIT WHEN to_regclass(format('%I.%I', of_schema, partition)) IS NULL;
            attempt := attempt + 1;
        END LOOP;

        -- Attached rather than created in place, which would lock out readers until the commit.
        EXECUTE format('CREATE TABLE %I.%I (LIKE %s INCLUDING ALL EXCLUDING IDENTITY EXCLUDING COMMENTS)%s',
            of_schema, partition, destination, storage);
        made := format('%I.%I', of_schema, partition)::regclass;
        -- LIKE copies neither owner nor grants, and the session's default privileges are not the table's.
        EXECUTE format('ALTER TABLE %s OWNER TO %I', made, pg_get_userbyid(table_owner));
        SELECT bool_or(c.relacl IS NOT NULL) INTO has_grants FROM pg_class c WHERE c.oid IN (destination, made);
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
                  WHERE c.oid = destination AND has_grants
                  UNION ALL
                  SELECT a.grantee, a.privilege_type, format(' (%I)', t.attname), a.is_grantable, NULL
                  FROM pg_attribute t CROSS JOIN LATERAL aclexplode(t.attacl) a
                  WHERE t.attrelid = destination AND NOT t.attisdropped) AS a
            CROSS JOIN LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) AS g(grantee)
            GROUP BY g.grantee, a.is_grantable
            ORDER BY min(a.place)
        LOOP
            EXECUTE change;
        END LOOP;
        -- The table's policies hold for what is read through the table; past it there is nothing to see.
        IF (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = destination) THEN
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', made);
        END IF;
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
            destination, made, lower_bound, upper_bound);
        -- By an index: by the one that has become a part of the table's.
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
        created := created + 1;
        at := upper_bound;
    END LOOP;
    RETURN created;
END
$$;

COMMENT ON TABLE matomo_ledger IS 'One row per Matomo, site, destination and site-day: what syncs have copied';
COMMENT ON COLUMN matomo_ledger.matomo IS 'URL of the Matomo''s API';
COMMENT ON COLUMN matomo_ledger.idsite IS 'ID of the site (idSite)';
COMMENT ON COLUMN matomo_ledger.destination IS 'Table that the visits are in; 0: restored from a dump, and not found yet';
COMMENT ON COLUMN matomo_ledger.day IS 'Day in the site''s timezone';
COMMENT ON COLUMN matomo_ledger.sealed IS 'Whether the day was read whole after it had ended and settled; such a day is not asked for again';
COMMENT ON COLUMN matomo_ledger.visits IS 'Visits of the day; of an open day those met so far';
COMMENT ON COLUMN matomo_ledger.actions IS 'Their actions';
COMMENT ON COLUMN matomo_ledger.truncated_visits IS 'Visits of which Matomo listed only the first actions';
COMMENT ON COLUMN matomo_ledger.newest IS 'Last action of the newest visit copied, up to the time of the reading: the next poll of an open day begins matomo.overlap before it';
COMMENT ON COLUMN matomo_ledger.timezone IS 'The site''s timezone when the day was read';
COMMENT ON COLUMN matomo_ledger.read_at IS 'When the day was read last';
COMMENT ON COLUMN matomo_ledger.pass_began IS 'When a reading or a recheck began that is not finished; NULL: there is none';
COMMENT ON COLUMN matomo_ledger.pass_since IS 'Where that reading goes on';
COMMENT ON COLUMN matomo_ledger.pass_seen IS 'Which visits that reading has met; empty: it reads only what is new; NULL: it is a recheck';
COMMENT ON COLUMN matomo_ledger.rechecked_at IS 'When the last recheck or whole reading of an open day began; see matomo.recheck';
COMMENT ON COLUMN matomo_ledger.action_time IS 'What action_timestamp holds in the day''s rows, as matomo.action_time names it; NULL: unknown';
COMMENT ON COLUMN matomo_ledger.destination_name IS 'Schema, name and owner of the table, in dumps and until it is found after a restore; empty: destination is known';

SELECT pg_catalog.pg_extension_config_dump('matomo_ledger', $$WHERE false UNION ALL
    SELECT l.matomo, l.idsite, 0::pg_catalog.oid::pg_catalog.regclass, l.day, l.sealed, l.visits, l.actions,
           l.truncated_visits, l.newest, l.timezone, l.read_at, l.pass_began, l.pass_since, l.pass_seen,
           l.rechecked_at, l.action_time,
           CASE l.destination WHEN 0::pg_catalog.oid THEN l.destination_name
                ELSE ARRAY[n.nspname::text, c.relname::text, r.rolname::text] END
    FROM @extschema@.matomo_ledger l
    LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_catalog.pg_roles r ON r.oid = c.relowner) ON c.oid = l.destination
    WHERE l.destination = 0::pg_catalog.oid OR c.relpersistence <> 't'$$);

CREATE OR REPLACE FUNCTION matomo_find_table(name text[]) RETURNS oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.oid FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_roles r ON r.oid = c.relowner
    WHERE n.nspname = name[1] AND c.relname = name[2] AND c.relpersistence <> 't'
      AND (r.rolname = name[3] OR r.rolsuper
           OR r.oid = (SELECT e.extowner FROM pg_extension e WHERE e.extname = 'matomo_postgres'))
$$;

COMMENT ON FUNCTION matomo_find_table(text[]) IS 'Internal: the table of a schema, name and owner, as dumps have them';

CREATE OR REPLACE VIEW matomo_days WITH (security_barrier) AS
    SELECT l.matomo, l.idsite, l.destination, l.day, l.sealed, l.visits, l.actions,
           l.truncated_visits, l.newest, l.timezone, l.read_at, l.rechecked_at, l.action_time,
           NULL::text AS missing
    FROM matomo_ledger l
    WHERE pg_catalog.has_table_privilege(l.destination, 'SELECT')
      -- Of a table that a policy shows in part, nobody can say which days are shown.
      AND NOT pg_catalog.row_security_active(l.destination::pg_catalog.oid)
    UNION ALL
    SELECT l.matomo, l.idsite, f.found::regclass, l.day, l.sealed, l.visits, l.actions,
           l.truncated_visits, l.newest, l.timezone, l.read_at, l.rechecked_at, l.action_time,
           CASE WHEN f.found IS NULL
                THEN pg_catalog.format('%I.%I', l.destination_name[1], l.destination_name[2]) END
    FROM matomo_ledger l
    CROSS JOIN LATERAL (SELECT matomo_find_table(l.destination_name)) AS f(found)
    WHERE l.destination = 0::pg_catalog.oid
      AND CASE WHEN f.found IS NULL THEN pg_catalog.pg_has_role('pg_read_all_data', 'USAGE')
               ELSE pg_catalog.has_table_privilege(f.found, 'SELECT')
                    AND NOT pg_catalog.row_security_active(f.found) END;

COMMENT ON COLUMN matomo_days.destination IS 'Table that the visits are in; NULL: it is missing';
COMMENT ON COLUMN matomo_days.newest IS 'Last action of the newest visit copied, up to the time of the reading: the next poll of an open day begins matomo.overlap before it';
COMMENT ON COLUMN matomo_days.rechecked_at IS 'When the last recheck or whole reading of an open day began; see matomo.recheck';
COMMENT ON COLUMN matomo_days.action_time IS 'What action_timestamp holds in the day''s rows, as matomo.action_time names it; NULL: unknown';
COMMENT ON COLUMN matomo_days.missing IS 'Name of the table, where a dump was restored without it; only members of pg_read_all_data see such days';
COMMENT ON COLUMN matomo_site_config.destination IS 'Table that the visits go to; 0: restored from a dump, and not found yet';
COMMENT ON COLUMN matomo_site_config.owner IS 'Role with whose rights and user mapping the site is synced; 0: restored from a dump, and not found yet';
COMMENT ON COLUMN matomo_site_config.destination_name IS 'Last known schema, name and owner of the table: when it was set or, after a restore, dumped';
COMMENT ON COLUMN matomo_site_config.owner_name IS 'Last known name of the owner, likewise';
COMMENT ON COLUMN matomo_site_state.changes IS 'Times that what a sync fills was changed: a run that began before says nothing of the site as it is now';

SELECT pg_catalog.pg_extension_config_dump('matomo_site_config', $$WHERE false UNION ALL
    SELECT s.id, s.server, s.idsite, 0::pg_catalog.oid::pg_catalog.regclass, 0::pg_catalog.oid::pg_catalog.regrole,
           s.start_date, s.every, s.retention, s.enabled, s.name, s.timezone, s.created_at,
           CASE WHEN c.oid IS NULL THEN s.destination_name
                ELSE ARRAY[n.nspname::text, c.relname::text, r.rolname::text] END,
           coalesce(o.rolname, s.owner_name)
    FROM @extschema@.matomo_site_config s
    LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_catalog.pg_roles r ON r.oid = c.relowner) ON c.oid = s.destination
    LEFT JOIN pg_catalog.pg_roles o ON o.oid = s.owner$$);

SELECT pg_catalog.pg_extension_config_dump('matomo_site_state', $$WHERE false UNION ALL
    SELECT t.site_id, t.matomo, t.next_at, t.failures, t.last_success_at, t.last_error_at, t.last_sqlstate,
           t.last_error, t.last_detail, t.last_hint, t.refused_credentials, t.tended_on, NULL::pg_catalog.jsonb,
           t.upkeep_error, t.changes
    FROM @extschema@.matomo_site_state t$$);

COMMENT ON FUNCTION matomo_may_see(oid) IS 'Internal: whether the current user sees the sites and runs of a role';

CREATE OR REPLACE VIEW matomo_sites WITH (security_barrier) AS
    SELECT s.id, s.server, s.idsite, s.name, s.timezone,
           coalesce(c.oid::pg_catalog.regclass::text,
                    pg_catalog.format('%I.%I', s.destination_name[1], s.destination_name[2])) AS destination,
           coalesce(r.rolname, s.owner_name) AS owner, s.start_date, s.every, s.retention, s.enabled, s.created_at
    FROM matomo_site_config s
    LEFT JOIN pg_catalog.pg_class c ON c.oid = CASE s.destination WHEN 0::pg_catalog.oid
        THEN matomo_find_table(s.destination_name) ELSE s.destination::pg_catalog.oid END
    LEFT JOIN pg_catalog.pg_roles r ON CASE s.owner WHEN 0::pg_catalog.oid
        THEN r.rolname = s.owner_name ELSE r.oid = s.owner END
    WHERE matomo_may_see(coalesce(r.oid, s.owner::pg_catalog.oid));

COMMENT ON VIEW matomo_sites IS 'The registered sites that are yours: one row per server, site and destination';
COMMENT ON COLUMN matomo_sites.id IS 'What matomo_sync_site, matomo_alter_site and matomo_remove_site know the site by';
COMMENT ON COLUMN matomo_sites.server IS 'Foreign server of the Matomo';
COMMENT ON COLUMN matomo_sites.idsite IS 'ID of the site in Matomo (idSite)';
COMMENT ON COLUMN matomo_sites.name IS 'Name of the site, as Matomo told it last';
COMMENT ON COLUMN matomo_sites.timezone IS 'Timezone of the site, as Matomo told it last';
COMMENT ON COLUMN matomo_sites.destination IS 'Table that the visits go to';
COMMENT ON COLUMN matomo_sites.owner IS 'Role with whose rights and user mapping the site is synced';
COMMENT ON COLUMN matomo_sites.start_date IS 'First day to copy; as for matomo_sync';
COMMENT ON COLUMN matomo_sites.every IS 'How often the background worker syncs the site';
COMMENT ON COLUMN matomo_sites.retention IS 'How long visits are kept; NULL: for ever';
COMMENT ON COLUMN matomo_sites.enabled IS 'Whether matomo_sync_all and the background worker sync the site';
COMMENT ON COLUMN matomo_sites.created_at IS 'When the site was registered';

CREATE OR REPLACE FUNCTION "matomo_add_site"(
	"server" TEXT, 
	"site" INT, 
	"start_date" date DEFAULT NULL, 
	"destination" TEXT DEFAULT NULL, 
	"every" interval DEFAULT '10 minutes', 
	"retention" interval DEFAULT NULL, 
	"enabled" bool DEFAULT true 
) RETURNS INT 
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_add_site_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_alter_site"(
	"id" INT, 
	"server" TEXT DEFAULT NULL, 
	"site" INT DEFAULT NULL, 
	"start_date" date DEFAULT NULL, 
	"destination" TEXT DEFAULT NULL, 
	"every" interval DEFAULT NULL, 
	"retention" interval DEFAULT NULL, 
	"enabled" bool DEFAULT NULL, 
	"owner" TEXT DEFAULT NULL 
) RETURNS void
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_alter_site_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION matomo_change_url(destination regclass, old_url text, new_url text) RETURNS bigint
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'matomo_change_url_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_check"(
	"site" INT, 
	"start_date" date, 
	"end_date" date, 
	"url" TEXT DEFAULT NULL, 
	"key" TEXT DEFAULT NULL, 
	"destination" TEXT DEFAULT NULL, 
	"repair" bool DEFAULT false, 
	"deep" bool DEFAULT false, 
	"page_size" INT DEFAULT NULL, 
	"server" TEXT DEFAULT NULL, 
	"delete_purged" bool DEFAULT false 
) RETURNS TABLE (
	"day" date,  
	"visits_there" bigint,  
	"visits_here" bigint,  
	"missing" bigint,  
	"extra" bigint,  
	"stale" bigint,  
	"repaired" bigint,  
	"purged" bigint  
)
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_check_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION matomo_forget(visitorid text DEFAULT NULL, userid text DEFAULT NULL, only_in regclass DEFAULT NULL)
RETURNS TABLE (destination regclass, visits bigint, actions bigint)
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'matomo_forget_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_is_running"(
	"site_id" INT 
) RETURNS bool 
VOLATILE PARALLEL RESTRICTED
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_is_running_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_remove_site"(
	"id" INT 
) RETURNS void
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_remove_site_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_run_is_dead"(
	"runid" bigint 
) RETURNS bool 
STRICT VOLATILE PARALLEL RESTRICTED
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_run_is_dead_0_2_reconnect_wrapper';

COMMENT ON COLUMN matomo_run_log.status IS 'running, paused (it goes on by itself), succeeded or failed';
COMMENT ON COLUMN matomo_run_log.owner IS 'Role with whose rights it runs; 0: restored from a dump';
COMMENT ON COLUMN matomo_run_log.step_pages IS 'Pages of a day after which it commits; NULL: as matomo.step_pages';
COMMENT ON COLUMN matomo_run_log.changes IS 'Of matomo_site_state, when it began';
COMMENT ON COLUMN matomo_run_log.owner_name IS 'Name of that role when it began or was dumped';

SELECT pg_catalog.pg_extension_config_dump('matomo_run_log', $$WHERE false UNION ALL
    SELECT l.runid, l.job_pid, l.database, l.username, l.command, l.status, l.return_message, l.start_time,
           l.end_time, l.site_id, 0::pg_catalog.oid::pg_catalog.regrole, l.server, l.idsite, l.destination, l.days,
           l.days_total, l.pages, l.visits, l.actions, l.inserted, l.updated, l.deleted, l.truncated_visits,
           l.bytes, l.sqlstate, l.detail, l.hint, l.next_day, l.done, l.timezone, l.step_pages, l.changes,
           coalesce(o.rolname, l.owner_name)
    FROM @extschema@.matomo_run_log l LEFT JOIN pg_catalog.pg_roles o ON o.oid = l.owner$$);

COMMENT ON FUNCTION matomo_run_is_dead(bigint) IS 'Internal: whether a run is over though its row does not say so';
COMMENT ON FUNCTION matomo_is_running(integer) IS 'Internal: whether some session syncs a registered site at present';

CREATE OR REPLACE VIEW matomo_runs WITH (security_barrier) AS
    SELECT r.runid, r.job_pid, r.database, r.username, r.command,
           CASE WHEN r.status = 'running' AND matomo_run_is_dead(r.runid) THEN 'failed' ELSE r.status END AS status,
           CASE WHEN r.status = 'running' AND matomo_run_is_dead(r.runid)
                THEN 'the run was interrupted' ELSE r.return_message END AS return_message,
           r.start_time, r.end_time, r.site_id, coalesce((SELECT a.rolname FROM pg_catalog.pg_roles a WHERE a.oid = o.owner), r.owner_name) AS owner, r.server, r.idsite, r.destination,
           r.days, r.days_total, r.pages, r.visits, r.actions, r.inserted, r.updated, r.deleted,
           r.truncated_visits, r.bytes, r.sqlstate, r.detail, r.hint
    FROM matomo_run_log r
    CROSS JOIN LATERAL (SELECT CASE r.owner WHEN 0::pg_catalog.oid
        THEN (SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.rolname = r.owner_name) ELSE r.owner::pg_catalog.oid END) AS o(owner)
    WHERE matomo_may_see(coalesce(o.owner, 0::pg_catalog.oid));

COMMENT ON VIEW matomo_runs IS 'The syncs of your registered sites, running and past';
COMMENT ON COLUMN matomo_runs.runid IS 'Number of the run';
COMMENT ON COLUMN matomo_runs.job_pid IS 'Process that does or did it';
COMMENT ON COLUMN matomo_runs.database IS 'Database in which it runs';
COMMENT ON COLUMN matomo_runs.username IS 'Role that called for it';
COMMENT ON COLUMN matomo_runs.command IS 'What called for it';
COMMENT ON COLUMN matomo_runs.status IS 'running, paused (it goes on by itself), succeeded or failed';
COMMENT ON COLUMN matomo_runs.return_message IS 'Message of the error it failed with';
COMMENT ON COLUMN matomo_runs.start_time IS 'When it began';
COMMENT ON COLUMN matomo_runs.end_time IS 'When it ended';
COMMENT ON COLUMN matomo_runs.site_id IS 'The registered site';
COMMENT ON COLUMN matomo_runs.owner IS 'Role with whose rights it runs';
COMMENT ON COLUMN matomo_runs.server IS 'Foreign server of the Matomo';
COMMENT ON COLUMN matomo_runs.idsite IS 'ID of the site in Matomo (idSite)';
COMMENT ON COLUMN matomo_runs.destination IS 'Table that the visits go to';
COMMENT ON COLUMN matomo_runs.days IS 'Days done';
COMMENT ON COLUMN matomo_runs.days_total IS 'Days done and days still to do';
COMMENT ON COLUMN matomo_runs.pages IS 'Pages of visits asked for';
COMMENT ON COLUMN matomo_runs.visits IS 'Visits that Matomo sent';
COMMENT ON COLUMN matomo_runs.actions IS 'Their actions';
COMMENT ON COLUMN matomo_runs.inserted IS 'Rows inserted';
COMMENT ON COLUMN matomo_runs.updated IS 'Rows updated';
COMMENT ON COLUMN matomo_runs.deleted IS 'Rows deleted';
COMMENT ON COLUMN matomo_runs.truncated_visits IS 'Visits of which Matomo listed only the first actions';
COMMENT ON COLUMN matomo_runs.bytes IS 'Bytes of the answers, unpacked';
COMMENT ON COLUMN matomo_runs.sqlstate IS 'SQLSTATE of the error it failed with';
COMMENT ON COLUMN matomo_runs.detail IS 'DETAIL of that error';
COMMENT ON COLUMN matomo_runs.hint IS 'HINT of that error';

CREATE OR REPLACE FUNCTION matomo_drop_rows(
    destination regclass,
    before timestamptz,
    site integer,
    lock_timeout interval,
    path text,
    INOUT place jsonb,
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
    parts jsonb;
    part record;
    begun_at bigint;
    reached text;
    waiting_for text;
    is_only_his boolean;
    among text;
    which text;
    since timestamptz;
    latest timestamptz;
    ids tid[];
    found_actions bigint;
    done boolean;
    out_of_reach text;
    -- As regclass it could be without its schema.
    root CONSTANT text := (SELECT format('%I.%I', n.nspname, c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = destination);
BEGIN
    more := false;
    actions := 0;
    PERFORM set_config('lock_timeout',
        ceil(extract(epoch FROM greatest(lock_timeout, '1 millisecond')) * 1000)::text, true);

    -- Every table of the tree, with the bounds of time that it has from its partitions' bounds.
    WITH RECURSIVE tree AS (
        SELECT c.oid, 0::oid AS parent, ARRAY[c.oid] AS path, c.relkind,
               '-infinity'::timestamptz AS lo, 'infinity'::timestamptz AS hi
        FROM pg_class c WHERE c.oid = destination
        UNION ALL
        SELECT c.oid, i.inhparent, t.path || c.oid, c.relkind,
               greatest(t.lo, CASE WHEN r.by_time THEN substring(r.bounds FROM 'FROM [(]''([^'']*)''[)]')::timestamptz END),
               least(t.hi, CASE WHEN r.by_time THEN substring(r.bounds FROM 'TO [(]''([^'']*)''[)]')::timestamptz END)
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
        'id', t.oid,
        'name', format('%I.%I', n.nspname, c.relname), 'parent', quote_ident(pn.nspname) || '.' || quote_ident(p.relname),
        'kind', t.relkind, 'lo', t.lo::text, 'hi', t.hi::text,
        'is_old', t.hi <= before,
        'is_his', pg_has_role(c.relowner, 'USAGE'),
        -- To drop a foreign table would leave its rows where they are; and who does not own both the
        -- table and the partition may only delete.
        'whole', t.hi <= before AND pg_has_role(c.relowner, 'USAGE') AND pg_has_role(p.relowner, 'USAGE')
            AND NOT EXISTS (SELECT FROM tree f WHERE f.relkind = 'f' AND t.oid = ANY (f.path)),
        -- 1 << CMD_DELETE
        'deletable', pg_relation_is_updatable(t.oid, false) & 16 <> 0)
        ORDER BY t.hi, cardinality(t.path), c.relname)
    INTO parts
    FROM tree t
    JOIN pg_class c ON c.oid = t.oid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN (pg_class p JOIN pg_namespace pn ON pn.oid = p.relnamespace) ON p.oid = t.parent
    WHERE t.lo < before;

    -- The place is good for the same bound only. Where it is gone, all is looked through again.
    SELECT e.number + CASE WHEN (place ->> 'done')::boolean THEN 1 ELSE 0 END INTO begun_at
    FROM jsonb_array_elements(parts) WITH ORDINALITY AS e(part, number)
    WHERE e.part -> 'id' = place -> 'id' AND (place ->> 'before')::timestamptz = before;

    FOR part IN
        SELECT x.*, e.number, parts -> (e.number - 2)::integer -> 'id' AS previous
        FROM jsonb_array_elements(parts) WITH ORDINALITY AS e(part, number)
        CROSS JOIN LATERAL jsonb_to_record(e.part) AS x(id oid, name text, parent text, kind text, lo text, hi text,
            is_old boolean, is_his boolean, whole boolean, deletable boolean)
        WHERE e.number >= coalesce(begun_at, 1)
        ORDER BY e.number
    LOOP
        reached := part.id;
        waiting_for := part.name;
        IF part.whole THEN
            -- Visits of other sites stay: nothing but rows of this one may go with the partition.
            is_only_his := true;
            IF site IS NOT NULL THEN
                EXECUTE format('SELECT NOT EXISTS (SELECT FROM %s AS d WHERE d.idsite::text IS DISTINCT FROM $1)', part.name)
                INTO is_only_his USING site::text;
                IF is_only_his THEN
                    EXECUTE format('LOCK TABLE %s IN SHARE MODE', part.name);
                    EXECUTE format('SELECT NOT EXISTS (SELECT FROM %s AS d WHERE d.idsite::text IS DISTINCT FROM $1)', part.name)
                    INTO is_only_his USING site::text;
                END IF;
            END IF;
            IF is_only_his THEN
                waiting_for := part.parent;
                EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', part.parent, part.name);
                EXECUTE format('DROP TABLE %s', part.name);
                more := true;
                dropped := part.name;
                place := CASE WHEN part.number > 1 THEN
                    jsonb_build_object('before', before, 'id', part.previous, 'done', true) END;
                RETURN;
            END IF;
        END IF;

        IF part.kind = 'r' THEN
            IF part.is_his AND row_security_active(part.id) THEN
                RAISE insufficient_privilege USING
                    MESSAGE = format('row-level security may hide rows of table %s', part.name),
                    DETAIL = 'What a policy hides would be left.',
                    HINT = 'Have it done by a role that no policy concerns, such as the table''s owner.';
            END IF;
            -- Who does not own the partition may delete through the table, by the rights that it gives.
            among := CASE WHEN part.is_his THEN 'ONLY ' || part.name ELSE root END;
            which := concat_ws(' AND ',
                CASE WHEN NOT part.is_his THEN
                    format('d.tableoid OPERATOR(pg_catalog.=) %L::pg_catalog.oid'
                        ' AND d.action_timestamp OPERATOR(pg_catalog.>=) %L AND d.action_timestamp OPERATOR(pg_catalog.<) %L',
                        part.id, part.lo, part.hi) END,
                CASE WHEN NOT part.is_old THEN 'd.action_timestamp OPERATOR(pg_catalog.<) $1' END,
                CASE WHEN site IS NOT NULL THEN 'd.idsite::pg_catalog.text OPERATOR(pg_catalog.=) $2' END,
                'true');
            since := CASE WHEN part.number = begun_at AND NOT part.is_old THEN (place ->> 'since')::timestamptz END;
            -- In the order of time where that leads past what went before: an index may give it.
            EXECUTE format('SELECT ARRAY(SELECT d.ctid FROM %s AS d WHERE %s%s LIMIT $3)', among, which,
                CASE WHEN NOT part.is_old THEN
                    CASE WHEN since IS NOT NULL THEN ' AND d.action_timestamp >= $4' ELSE '' END
                    || ' ORDER BY d.action_timestamp' END)
            INTO ids USING before, site::text, batch, since;
            found_actions := cardinality(ids);
            CONTINUE WHEN found_actions = 0;
            PERFORM set_config('search_path', path, true);
            EXECUTE pg_catalog.format(
                'WITH gone AS (DELETE FROM %s AS d WHERE %s AND d.ctid OPERATOR(pg_catalog.=) ANY ($3) RETURNING d.action_timestamp)'
                ' SELECT pg_catalog.count(*), pg_catalog.max(g.action_timestamp) FROM gone AS g', among, which)
            INTO actions, latest USING before, site::pg_catalog.text, ids;
            PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        ELSIF part.kind = 'f' AND part.deletable THEN
            -- Not every server has a ctid: by the day.
            which := concat('d.action_timestamp OPERATOR(pg_catalog.<) $1',
                CASE WHEN site IS NOT NULL THEN ' AND d.idsite::pg_catalog.text OPERATOR(pg_catalog.=) $2' END);
            PERFORM set_config('search_path', path, true);
            EXECUTE pg_catalog.format(
                'DELETE FROM ONLY %1$s AS d WHERE %2$s AND d.action_timestamp OPERATOR(pg_catalog.<=) ('
                'SELECT pg_catalog.min(d.action_timestamp) OPERATOR(pg_catalog.+) ''1 day''::pg_catalog.interval'
                ' FROM ONLY %1$s AS d WHERE %2$s)', part.name, which)
            USING before, site::pg_catalog.text;
            GET DIAGNOSTICS actions = ROW_COUNT;
            PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
            found_actions := batch;
            latest := NULL;
        ELSE
            CONTINUE;
        END IF;
        IF actions > 0 THEN
            more := true;
            -- Those that were changed meanwhile were passed over, and are to be found again.
            done := actions = found_actions AND found_actions < batch;
            place := jsonb_build_object('before', before, 'id', part.id, 'done', done,
                'since', CASE WHEN done THEN NULL WHEN actions = found_actions THEN latest ELSE since END);
            RETURN;
        END IF;
    END LOOP;
    place := NULL;
    SELECT string_agg(x.name, ', ' ORDER BY e.number) INTO out_of_reach
    FROM jsonb_array_elements(parts) WITH ORDINALITY AS e(part, number)
    CROSS JOIN LATERAL jsonb_to_record(e.part) AS x(name text, kind text, deletable boolean)
    WHERE x.kind = 'f' AND NOT x.deletable;
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
        IF reached IS DISTINCT FROM place ->> 'id' THEN
            place := jsonb_build_object('before', before, 'id', reached::oid, 'done', false);
        END IF;
        SELECT string_agg(h.pid::text, ', ' ORDER BY a.xact_start, h.pid) INTO holders
        FROM (SELECT DISTINCT l.pid FROM pg_locks l
              JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
              WHERE l.relation = to_regclass(waiting_for) AND l.granted AND l.pid <> pg_backend_pid()) AS h
        LEFT JOIN pg_stat_activity a ON a.pid = h.pid;
END
$$;

COMMENT ON FUNCTION matomo_drop_rows(regclass, timestamptz, integer, interval, text, jsonb) IS
    'Internal: drops a partition or deletes a batch of rows, for matomo_drop_step';

CREATE OR REPLACE FUNCTION matomo_drop_step(destination regclass, before timestamptz, site integer, lock_timeout interval, place jsonb DEFAULT NULL)
RETURNS TABLE (place jsonb, more boolean, dropped text, actions bigint, blocked text, holders text)
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'matomo_drop_step_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_run_sites"() RETURNS INT[] 
STRICT VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_run_sites_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_run_step"(
	"site" INT, 
	"is_one_of_all" bool 
) RETURNS bool 
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_run_step_0_2_reconnect_wrapper';

CREATE OR REPLACE PROCEDURE matomo_sync_site(id integer)
LANGUAGE plpgsql
AS $$
BEGIN
    WHILE @extschema@.matomo_run_step(id, false) LOOP
        COMMIT;
    END LOOP;
END
$$;

CREATE OR REPLACE PROCEDURE matomo_sync_all()
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

COMMENT ON FUNCTION matomo_run_sites() IS 'Internal: the registered sites that matomo_sync_all has something to do for';
COMMENT ON FUNCTION matomo_run_step(integer, boolean) IS 'Internal: does what comes next for a registered site, to be committed; gives whether there is more';

CREATE OR REPLACE FUNCTION "matomo_sync"(
	"site" INT, 
	"url" TEXT DEFAULT NULL, 
	"key" TEXT DEFAULT NULL, 
	"start_date" date DEFAULT NULL, 
	"end_date" date DEFAULT NULL, 
	"destination" TEXT DEFAULT NULL, 
	"force" bool DEFAULT false, 
	"page_size" INT DEFAULT NULL, 
	"server" TEXT DEFAULT NULL 
) RETURNS TABLE (
	"day" date,  
	"pages" INT,  
	"visits" bigint,  
	"actions" bigint,  
	"inserted" bigint,  
	"updated" bigint,  
	"deleted" bigint,  
	"truncated_visits" bigint  
)
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_sync_0_2_reconnect_wrapper';

CREATE OR REPLACE VIEW matomo_status WITH (security_barrier) AS
    SELECT s.id AS site_id, s.server, s.idsite, s.name, s.timezone, v.destination, v.owner, s.enabled,
           matomo_is_running(s.id) AS running,
           t.last_success_at AS synced_to,
           pg_catalog.now() - t.last_success_at AS lag,
           d.sealed_to, d.newest_action, coalesce(d.visits_today, 0) AS visits_today,
           -- One that is over though nobody has said so yet counts.
           coalesce(t.failures, 0) + (SELECT pg_catalog.count(*) FROM matomo_run_log r
               WHERE r.site_id = s.id AND r.status = 'running' AND r.changes = t.changes
                 AND matomo_run_is_dead(r.runid))::integer AS failures,
           t.last_error_at, t.last_sqlstate, t.last_error, t.last_detail, t.last_hint,
           CASE WHEN s.enabled THEN coalesce(t.next_at, pg_catalog.now()) END AS next_run,
           t.upkeep_error
    FROM matomo_sites v
    JOIN matomo_site_config s ON s.id = v.id
    LEFT JOIN matomo_site_state t ON t.site_id = s.id
    CROSS JOIN LATERAL (
        SELECT pg_catalog.max(l.day) FILTER (WHERE l.sealed) AS sealed_to,
               pg_catalog.max(l.newest) AS newest_action,
               pg_catalog.max(l.visits) FILTER (WHERE l.day = matomo_today(s.timezone)) AS visits_today
        FROM matomo_ledger l
        WHERE l.destination = s.destination AND l.idsite = s.idsite AND l.matomo = t.matomo
          AND (s.destination <> 0::pg_catalog.oid OR l.destination_name = s.destination_name)
    ) d;

COMMENT ON VIEW matomo_status IS 'How your registered sites are: one row per site';
COMMENT ON COLUMN matomo_status.site_id IS 'The registered site';
COMMENT ON COLUMN matomo_status.server IS 'Foreign server of the Matomo';
COMMENT ON COLUMN matomo_status.idsite IS 'ID of the site in Matomo (idSite)';
COMMENT ON COLUMN matomo_status.name IS 'Name of the site, as Matomo told it last';
COMMENT ON COLUMN matomo_status.timezone IS 'Timezone of the site, as Matomo told it last';
COMMENT ON COLUMN matomo_status.destination IS 'Table that the visits go to';
COMMENT ON COLUMN matomo_status.owner IS 'Role with whose rights and user mapping the site is synced';
COMMENT ON COLUMN matomo_status.enabled IS 'Whether matomo_sync_all and the background worker sync the site';
COMMENT ON COLUMN matomo_status.running IS 'Whether some session syncs the site at present';
COMMENT ON COLUMN matomo_status.synced_to IS 'Start of the last run that succeeded: the table holds all that Matomo had then, but for what came late into open days after their last recheck';
COMMENT ON COLUMN matomo_status.lag IS 'How long ago that was';
COMMENT ON COLUMN matomo_status.sealed_to IS 'Last day that was read whole after it had ended and settled';
COMMENT ON COLUMN matomo_status.newest_action IS 'Last action of the newest visit copied';
COMMENT ON COLUMN matomo_status.visits_today IS 'Visits copied of today, in the site''s timezone';
COMMENT ON COLUMN matomo_status.failures IS 'Failed runs since the last one that succeeded; 0: all is well';
COMMENT ON COLUMN matomo_status.last_error_at IS 'When a run failed last, perhaps long before the last success';
COMMENT ON COLUMN matomo_status.last_sqlstate IS 'SQLSTATE of its error';
COMMENT ON COLUMN matomo_status.last_error IS 'Message of its error';
COMMENT ON COLUMN matomo_status.last_detail IS 'DETAIL of its error';
COMMENT ON COLUMN matomo_status.last_hint IS 'HINT of its error: what to do';
COMMENT ON COLUMN matomo_status.next_run IS 'When the background worker, if there is one, syncs the site next; infinity: not before the token is mended; NULL: the site is not enabled';
COMMENT ON COLUMN matomo_status.upkeep_error IS 'What went wrong today with retention or with premade partitions, which fails no run';

CREATE OR REPLACE VIEW matomo_progress WITH (security_barrier) AS
    WITH live AS (
        SELECT a.pid, a.usename, a.query_start,
               pg_catalog.regexp_match(a.query, '^matomo: site ([0-9]{1,9})(?: [(]registered site ([0-9]{1,9})[)])?, ([^:]*)(?:: ([0-9]{1,9}) of ([0-9]{1,9}) days, ([0-9]{1,18}) visits, ([0-9]{1,18}) actions(?:, ([0-9]{1,18}) actions/s, ([0-9]{1,6} h [0-9]{1,2} min|[0-9]{1,2} min [0-9]{1,2} s|[0-9]{1,2} s) left)?)?$') AS part
        FROM pg_catalog.pg_stat_activity a
        WHERE a.datname = pg_catalog.current_database() AND a.state = 'active' AND a.query LIKE 'matomo: site %'
    ), run AS (
        SELECT r.* FROM matomo_run_log r
        WHERE r.status = 'running' AND matomo_may_see(r.owner::pg_catalog.oid) AND matomo_is_running(r.site_id)
    )
    SELECT coalesce(l.pid, r.job_pid) AS pid, coalesce(r.username, l.usename) AS username,
           r.runid, r.site_id, r.server, coalesce(r.idsite, l.part[1]::integer) AS idsite, r.destination,
           coalesce(l.part[3], 'waits') AS phase,
           coalesce(l.part[4]::integer, r.days) AS days,
           coalesce(l.part[5]::integer, r.days_total) AS days_total,
           coalesce(l.part[6]::bigint, r.visits) AS visits,
           coalesce(l.part[7]::bigint, r.actions) AS actions,
           l.part[8]::bigint AS actions_per_second,
           l.part[9]::interval AS time_left,
           coalesce(r.start_time, l.query_start) AS start_time
    FROM (SELECT * FROM live WHERE part IS NOT NULL) l
    FULL JOIN run r ON r.job_pid = l.pid AND r.site_id = l.part[2]::integer;

COMMENT ON FUNCTION matomo_check(integer, date, date, text, text, text, boolean, boolean, integer, text, boolean) IS
    'Compares what Matomo lists of a site with what a table holds, day by day, and mends what differs if asked to';
COMMENT ON FUNCTION matomo_drop_step(regclass, timestamptz, integer, interval, jsonb) IS
    'Internal: one step of matomo_drop_before: at first tells the ledger what goes, then drops a partition or deletes a batch of rows';
COMMENT ON FUNCTION matomo_today(text) IS 'Internal: today in a timezone as Matomo names it';
-- … to here.

-- As sql/privileges.sql, but for what the administrator has granted or revoked.
DO $do$
DECLARE
    known CONSTANT oid[] := pg_catalog.current_setting('matomo_update.known');
    grants CONSTANT text := pg_catalog.current_setting('matomo_update.grants');
    for_all CONSTANT name[] := ARRAY['matomo_may_see', 'matomo_find_table', 'matomo_is_running', 'matomo_run_is_dead',
        'matomo_today', 'matomo_create_table', 'matomo_partition_ranges', 'matomo_create_partitions', 'matomo_forget',
        'matomo_drop_step', 'matomo_drop_rows', 'matomo_drop_before', 'matomo_remove_site',
        'matomo_run_outside_transaction', 'matomo_run_sites', 'matomo_run_step'];
    change text;
BEGIN
    FOR change IN
        WITH member AS (
            SELECT d.classid, d.objid FROM pg_catalog.pg_depend d
            JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'matomo_postgres'
            WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e'
        ), untouched AS (
            SELECT pg_catalog.format('ROUTINE %s', p.oid::regprocedure) AS object, p.proowner AS owner,
                   coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) AS acl, p.proname = ANY (for_all) AS for_all
            FROM member m JOIN pg_catalog.pg_proc p ON p.oid = m.objid AND m.classid = 'pg_catalog.pg_proc'::regclass
            WHERE p.oid <> ALL (known) OR p.proacl IS NULL
            UNION ALL
            SELECT c.oid::regclass::text, c.relowner, c.relacl, false
            FROM member m JOIN pg_catalog.pg_class c ON c.oid = m.objid AND m.classid = 'pg_catalog.pg_class'::regclass
            WHERE c.oid <> ALL (known)
        )
        SELECT pg_catalog.format('REVOKE ALL ON %s FROM %s', u.object, CASE a.grantee
                   WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END)
        FROM untouched u CROSS JOIN LATERAL pg_catalog.aclexplode(u.acl) a WHERE a.grantee <> u.owner
        UNION ALL
        SELECT pg_catalog.format('GRANT EXECUTE ON %s TO PUBLIC', u.object) FROM untouched u WHERE u.for_all
        UNION ALL
        SELECT grants WHERE grants <> ''
    LOOP
        EXECUTE change;
    END LOOP;
END
$do$;
