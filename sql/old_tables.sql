-- The tables that may have rows before an instant, by their upper bounds of time: those of the partition tree
-- and, first, the `chunks` of a hypertable. `kind` is relkind, or 'c' of a chunk. A `whole` table can be
-- dropped; if it `is_old`, all its rows are; `by_day`, they are not found by ctid, so they are deleted by day.
CREATE FUNCTION matomo_old_tables(
    destination regclass,
    before timestamptz,
    time_column text,
    has_ctids boolean,
    chunks jsonb,
    OUT number bigint,
    OUT id oid,
    OUT name text,
    OUT parent text,
    OUT kind text,
    OUT lo text,
    OUT hi text,
    OUT is_old boolean,
    OUT is_owned boolean,
    OUT whole boolean,
    OUT deletable boolean,
    OUT by_day boolean
)
RETURNS SETOF record
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO'
AS $$
    WITH RECURSIVE tree AS (
        SELECT c.oid, 0::oid AS parent, ARRAY[c.oid] AS path, c.relkind::text AS kind,
               '-infinity'::timestamptz AS lo, 'infinity'::timestamptz AS hi
        FROM pg_class c WHERE c.oid = destination
        UNION ALL
        SELECT c.oid, i.inhparent, t.path || c.oid, c.relkind::text,
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
                  AND a.attname = time_column) AS by_time) r
    ),
    -- As regclass it could be without its schema.
    root AS (
        SELECT format('%I.%I', n.nspname, c.relname) AS name, pg_has_role(c.relowner, 'USAGE') AS is_owned
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = destination
    )
    SELECT row_number() OVER (ORDER BY x.is_chunk DESC, x.hi, x.depth, x.relname), x.id, x.name, x.parent, x.kind,
           x.lo::text, x.hi::text, x.hi <= before, x.is_owned, x.whole, x.deletable, x.by_day
    FROM (
        SELECT true AS is_chunk, c.id, c.name, r.name AS parent, 'c' AS kind, c.lo, c.hi, 0 AS depth, '' AS relname,
               NULL::boolean AS is_owned, true AS whole, NULL::boolean AS deletable, NULL::boolean AS by_day
        FROM root r
        CROSS JOIN LATERAL jsonb_to_recordset(chunks -> 'chunks') AS c(id oid, name text, lo timestamptz, hi timestamptz)
        WHERE c.hi <= before AND r.is_owned
        UNION ALL
        SELECT false, t.oid, format('%I.%I', n.nspname, c.relname), quote_ident(pn.nspname) || '.' || quote_ident(p.relname), t.kind,
               t.lo, t.hi, cardinality(t.path), c.relname::text,
               pg_has_role(c.relowner, 'USAGE'),
               -- Dropping a foreign table would not remove its rows. Dropping a partition requires ownership of
               -- both the table and the partition.
               t.hi <= before AND pg_has_role(c.relowner, 'USAGE') AND pg_has_role(p.relowner, 'USAGE')
                   AND NOT EXISTS (SELECT FROM tree f WHERE f.kind = 'f' AND t.oid = ANY (f.path)),
               -- 1 << CMD_DELETE; it locks the table.
               CASE WHEN t.kind = 'f' THEN pg_relation_is_updatable(t.oid, false) & 16 <> 0
                    ELSE m.amname IS DISTINCT FROM 'columnar' END,
               NOT has_ctids OR m.amname IS DISTINCT FROM 'heap'
        FROM tree t
        JOIN pg_class c ON c.oid = t.oid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_am m ON m.oid = c.relam
        LEFT JOIN (pg_class p JOIN pg_namespace pn ON pn.oid = p.relnamespace) ON p.oid = t.parent
        -- An engine's own children are reached through the table.
        WHERE t.lo < before AND (has_ctids OR t.oid = destination OR c.relispartition)
    ) AS x
$$;

COMMENT ON FUNCTION matomo_old_tables(regclass, timestamptz, text, boolean, jsonb) IS
    'Internal: the tables that may have rows before an instant, for matomo_drop_rows';
