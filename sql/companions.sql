-- The companions of destinations: tables of visits, conversions and items, which a sync writes together
-- with the actions. They are ordinary tables of the destination's owner, like the destination.

COMMENT ON TABLE matomo_visit IS 'Template of tables of Matomo visits: one row per visit. Always empty; see matomo_create_companions';
COMMENT ON TABLE matomo_conversion IS 'Template of tables of Matomo conversions: one row per goal conversion, order or abandoned cart. Always empty; see matomo_create_companions';
COMMENT ON TABLE matomo_item IS 'Template of tables of the items of orders and abandoned carts: one row per item. Always empty; see matomo_create_companions';

-- By OID, so that renames are followed.
CREATE TABLE matomo_companion (
    destination      regclass NOT NULL,
    kind             text NOT NULL CHECK (kind IN ('visits', 'conversions', 'items')),
    companion        regclass NOT NULL,
    destination_name text[] NOT NULL DEFAULT '{}',
    companion_name   text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (destination, kind, destination_name)
);

COMMENT ON TABLE matomo_companion IS 'Tables of visits, conversions and items of each destination';
COMMENT ON COLUMN matomo_companion.destination IS 'Table of the actions; 0 if restored from a dump';
COMMENT ON COLUMN matomo_companion.kind IS 'What its rows are: visits, conversions or items';
COMMENT ON COLUMN matomo_companion.companion IS 'The table; 0 if restored from a dump';
COMMENT ON COLUMN matomo_companion.destination_name IS 'Schema, name and owner of the table of the actions in a dump, and after a restore; otherwise empty';
COMMENT ON COLUMN matomo_companion.companion_name IS 'The same of the table; then the word late, if days were copied while it was missing';

-- Dumped with names, like matomo_ledger.
SELECT pg_catalog.pg_extension_config_dump('matomo_companion', $$
    AS l (destination_here, kind, companion_here, known_destination, known_companion)
    LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_catalog.pg_roles r ON r.oid = c.relowner) ON c.oid = l.destination_here
    LEFT JOIN (pg_catalog.pg_class k JOIN pg_catalog.pg_namespace m ON m.oid = k.relnamespace
               JOIN pg_catalog.pg_roles o ON o.oid = k.relowner) ON k.oid = l.companion_here
    CROSS JOIN LATERAL (SELECT 0::pg_catalog.oid::pg_catalog.regclass, 0::pg_catalog.oid::pg_catalog.regclass,
        CASE WHEN l.destination_here = 0::pg_catalog.oid THEN l.known_destination
             -- Dropped, as src/store/companions.rs notes it.
             WHEN c.oid IS NULL THEN ARRAY['?', l.companion_here::pg_catalog.oid::pg_catalog.text,
                 l.destination_here::pg_catalog.oid::pg_catalog.text]
             ELSE ARRAY[n.nspname::text, c.relname::text, r.rolname::text] END,
        CASE l.companion_here WHEN 0::pg_catalog.oid THEN l.known_companion
             ELSE ARRAY[m.nspname::text, k.relname::text, o.rolname::text] END)
        AS d (destination, companion, destination_name, companion_name)
    WHERE (c.oid IS NULL OR c.relpersistence <> 't')
      AND (l.companion_here = 0::pg_catalog.oid OR k.relpersistence <> 't')
    ORDER BY pg_catalog.row_number() OVER (PARTITION BY l.kind, d.destination_name
        ORDER BY l.destination_here = 0::pg_catalog.oid)
    FETCH FIRST ROW WITH TIES$$);

-- An existing table of the destination's owner with these columns, such as one from before DROP EXTENSION.
CREATE FUNCTION matomo_find_companion(destination regclass, kind text, columns text[]) RETURNS regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.oid::regclass FROM pg_class d
    JOIN pg_class c ON c.relnamespace = d.relnamespace AND c.relname = (d.relname || '_' || kind)::name
        AND c.relname::text = d.relname || '_' || kind
    WHERE d.oid = destination AND c.relkind IN ('r', 'p') AND c.relowner = d.relowner
      AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = ANY (columns)) = cardinality(columns)
$$;

COMMENT ON FUNCTION matomo_find_companion(regclass, text, text[]) IS
    'Internal: finds a table that can be a companion of a destination, by its name, owner and columns';

CREATE FUNCTION matomo_create_companion(destination regclass, kind text, key text[], time_column text) RETURNS regclass
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET default_tablespace = ''
AS $$
DECLARE
    template CONSTANT text := CASE kind WHEN 'visits' THEN '@extschema@.matomo_visit'
        WHEN 'conversions' THEN '@extschema@.matomo_conversion' WHEN 'items' THEN '@extschema@.matomo_item' END;
    of_schema name;
    of_table name;
    table_owner oid;
    is_temporary boolean;
    by_time boolean;
    companion_name text;
    qualified text;
    known regclass;
    is_its boolean;
BEGIN
    SELECT n.nspname, c.relname, c.relowner, c.relpersistence = 't', EXISTS (
               SELECT FROM pg_partitioned_table p
               JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
               WHERE p.partrelid = c.oid AND p.partstrat = 'r' AND p.partnatts = 1 AND a.attname = 'action_timestamp')
    INTO of_schema, of_table, table_owner, is_temporary, by_time
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = destination AND c.relkind IN ('r', 'p', 'f');
    IF NOT FOUND THEN
        RAISE wrong_object_type USING MESSAGE = format('"%s" is not a table', destination);
    END IF;
    IF NOT pg_has_role(table_owner, 'USAGE') THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('permission denied for table %s', destination),
            DETAIL = format('This requires the rights of its owner, %I.', pg_get_userbyid(table_owner));
    END IF;
    companion_name := of_table || '_' || kind;
    IF octet_length(companion_name) > (CASE WHEN by_time THEN 55 ELSE 63 END) THEN
        RAISE name_too_long USING
            MESSAGE = format('table name "%s" is too long', companion_name),
            HINT = 'Give the table of the actions a shorter name, or SET matomo.companions = ''''.';
    END IF;
    qualified := format('%I.%I', of_schema, companion_name);
    known := to_regclass(qualified);
    IF known IS NOT NULL THEN
        -- The lock keeps it from being replaced. If it has rows and the destination has none, they are of another.
        IF known = @extschema@.matomo_find_companion(destination, kind, key || time_column) THEN
            EXECUTE format('LOCK TABLE ONLY %s IN ACCESS SHARE MODE', qualified);
            IF to_regclass(qualified) = known THEN
                -- Two statements, as Citus plans them.
                EXECUTE format('SELECT true FROM %s LIMIT 1', destination) INTO is_its;
                IF is_its IS NULL THEN
                    EXECUTE format('SELECT false FROM %s LIMIT 1', qualified) INTO is_its;
                END IF;
                IF coalesce(is_its, true) THEN
                    RETURN known;
                END IF;
            END IF;
        END IF;
        RAISE duplicate_table USING
            MESSAGE = format('table %s, for the %s of %s, already exists', qualified, kind, destination),
            HINT = 'Drop it or rename it, or leave it out of matomo.companions.';
    END IF;
    EXECUTE format('CREATE %s TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING COMMENTS, PRIMARY KEY (%s))%s',
        CASE WHEN is_temporary THEN 'TEMPORARY' END, qualified, template,
        (SELECT string_agg(quote_ident(k.name), ', ' ORDER BY k.place)
         FROM unnest(CASE WHEN by_time THEN key || time_column ELSE key END) WITH ORDINALITY AS k(name, place)),
        CASE WHEN by_time THEN format(' PARTITION BY RANGE (%I)', time_column) END);
    IF NOT by_time THEN
        EXECUTE format('CREATE INDEX ON %s (%I)', qualified, time_column);
    END IF;
    EXECUTE format('COMMENT ON TABLE %s IS %L', qualified, format(CASE kind
        WHEN 'visits' THEN 'Matomo visits, one row per visit of %s'
        WHEN 'conversions' THEN 'Matomo conversions, one row per goal conversion, order or abandoned cart of %s'
        WHEN 'items' THEN 'Items of Matomo orders and abandoned carts of %s, one row per item' END, of_table));
    -- Who may read the actions may read these; policies of the table of the actions do not apply to them.
    PERFORM @extschema@.matomo_grant_as(qualified::regclass, destination);
    RETURN qualified::regclass;
END
$$;

COMMENT ON FUNCTION matomo_create_companion(regclass, text, text[], text) IS
    'Internal: makes or takes one table of matomo_create_companions';

COMMENT ON FUNCTION matomo_create_companions(regclass) IS
    'Makes the tables of visits, conversions and items of a destination, as far as matomo.companions names them, or takes those that are there; returns them';
