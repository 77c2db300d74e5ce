-- Every table that we create copies the columns, defaults and comments of an empty template, which
-- build.rs generates from src/rows/columns. The tables themselves are ordinary tables of the role that
-- creates them: members of an extension would be dropped with it, and could not be restored with their
-- partitions.

COMMENT ON TABLE matomo_action IS 'Template of tables of Matomo actions: one row per action of a visit. Always empty; see matomo_create_table';
COMMENT ON TABLE matomo_action_node IS 'Template of such tables with the columns and types of the Node tool. Always empty; see matomo_create_table';

-- The default of the third argument is evaluated in the calling query, so that it uses the caller's
-- search_path, although the function sets its own.
CREATE FUNCTION matomo_create_table(
    name text,
    partitioned boolean DEFAULT false,
    schema_name name DEFAULT pg_catalog.current_schema(),
    layout text DEFAULT 'typed'
) RETURNS regclass
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := parse_ident(name);
    table_name text := parts[cardinality(parts)];
    qualified text;
    template CONSTANT text := CASE layout
        WHEN 'typed' THEN '@extschema@.matomo_action' WHEN 'node' THEN '@extschema@.matomo_action_node' END;
BEGIN
    IF name IS NULL OR partitioned IS NULL OR layout IS NULL THEN
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
    -- A name has at most 63 bytes, and partitions append a week such as _2026w47.
    IF octet_length(table_name) > (CASE WHEN partitioned THEN 55 ELSE 63 END) THEN
        RAISE name_too_long USING
            MESSAGE = format('table name "%s" is too long', table_name),
            HINT = 'Give a name of at most 63 bytes, or 55 if the table is partitioned.';
    END IF;
    IF template IS NULL THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('no layout "%s"', layout),
            HINT = 'Give typed, or node for the columns and types of the Node tool.';
    END IF;
    qualified := format('%I.%I', schema_name, table_name);

    -- As few indexes as possible: each costs as much as the table.
    --   idvisit, action_id: makes writes idempotent, and finds the stored rows of a visit, for analysts and
    --     for every sync. A primary key, so that UPDATE has a replica identity in a publication of all
    --     tables. With idvisit first, the table can be distributed by it.
    --   action_timestamp: for the range of days in nearly every report; a partitioned table uses its
    --     partitions for that.
    -- All have keys of bounded length, so that no row is refused. URLs, titles, names and dimensions
    -- have no such bound.
    IF partitioned THEN
        EXECUTE format(
            'CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING COMMENTS,'
            ' PRIMARY KEY (idvisit, action_id, action_timestamp)) PARTITION BY RANGE (action_timestamp)', qualified, template);
    ELSE
        EXECUTE format(
            'CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING COMMENTS, PRIMARY KEY (idvisit, action_id))', qualified, template);
        EXECUTE format('CREATE INDEX ON %s (action_timestamp)', qualified);
    END IF;
    EXECUTE format('COMMENT ON TABLE %s IS %L', qualified, 'Matomo actions, one row per action of a visit');
    IF layout = 'typed' THEN
        PERFORM @extschema@.matomo_create_companions(qualified::regclass);
    END IF;
    RETURN qualified::regclass;
END
$$;

COMMENT ON FUNCTION matomo_create_table(text, boolean, name, text) IS
    'Creates a destination owned by the caller, optionally partitioned by week, with typed columns or those of the Node tool. An unqualified name is created in the current schema';
