-- Every table that we make copies the columns, defaults and comments of an empty template, which
-- build.rs makes of src/rows/columns.rs. The tables themselves are ordinary tables of whoever makes
-- them: members of an extension would be dropped with it, and could not be restored with their
-- partitions.

COMMENT ON TABLE matomo_action IS 'Template of the tables that hold Matomo actions: one row per action of a visit. Stays empty; see matomo_create_table';

-- The third argument has its default evaluated where the call stands, so the name is looked for in
-- the caller's search_path although the body has one of its own.
CREATE FUNCTION matomo_create_table(
    name text,
    partitioned boolean DEFAULT false,
    schema_name name DEFAULT pg_catalog.current_schema()
) RETURNS regclass
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := parse_ident(name);
    table_name text := parts[cardinality(parts)];
    qualified text;
    template CONSTANT text := '@extschema@.matomo_action';
BEGIN
    IF name IS NULL OR partitioned IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'arguments of matomo_create_table must not be null';
    END IF;
    IF cardinality(parts) > 2 THEN
        RAISE invalid_name USING
            MESSAGE = format('improper relation name (too many dotted names): %s', name),
            HINT = 'Give the name of a table, or of a schema and a table.';
    END IF;
    IF cardinality(parts) = 2 THEN
        schema_name := parts[1];
    END IF;
    IF schema_name IS NULL THEN
        RAISE invalid_schema_name USING
            MESSAGE = 'no schema has been selected to create in',
            HINT = 'Name the schema, or set search_path.';
    END IF;
    -- 63 bytes is all that a name may have, and partitions add a week such as _2026w47.
    IF octet_length(table_name) > (CASE WHEN partitioned THEN 55 ELSE 63 END) THEN
        RAISE name_too_long USING
            MESSAGE = format('table name "%s" is too long', table_name),
            HINT = 'A name has at most 63 bytes, that of a partitioned table at most 55.';
    END IF;
    qualified := format('%I.%I', schema_name, table_name);

    -- Two indexes besides the unique one would be one too many: each costs as much as the table.
    --   action_id: what makes writing idempotent; the primary key, so that a publication of all tables
    --     does not stop every UPDATE for want of a replica identity.
    --   idvisit: finds the stored rows of a visit, for analysts and for every sync.
    --   action_timestamp: the range of days that nearly every report asks for; a partitioned table
    --     has its partitions for that.
    -- All are of bounded length, so that none can refuse a row; URLs, titles, names and dimensions
    -- are not.
    IF partitioned THEN
        EXECUTE format(
            'CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING COMMENTS,'
            ' PRIMARY KEY (action_id, action_timestamp)) PARTITION BY RANGE (action_timestamp)', qualified, template);
    ELSE
        EXECUTE format(
            'CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING COMMENTS, PRIMARY KEY (action_id))', qualified, template);
        EXECUTE format('CREATE INDEX ON %s (action_timestamp)', qualified);
    END IF;
    EXECUTE format('CREATE INDEX ON %s (idvisit)', qualified);
    EXECUTE format('COMMENT ON TABLE %s IS %L', qualified, 'Matomo actions, one row per action of a visit');
    RETURN qualified::regclass;
END
$$;

COMMENT ON FUNCTION matomo_create_table(text, boolean, name) IS
    'Creates a destination of syncs, owned by the caller, partitioned by week if asked. An unqualified name goes to the current schema';
