-- Queries of the copied visits. Variables: zone, bold, plain.

\pset border 1
\pset linestyle unicode
\pset null ''
SET client_min_messages = warning;
ANALYZE;

\echo
\echo :bold'The tables':plain
SELECT c.oid::regclass AS "table",
       greatest(c.reltuples, 0)::bigint AS rows,
       pg_size_pretty(pg_table_size(c.oid)) AS data,
       pg_size_pretty(pg_indexes_size(c.oid)) AS indexes
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  -- without the extension's own tables
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY pg_total_relation_size(c.oid) DESC, 1;

\echo :bold'Visits per day,' :zone:plain
-- As in Matomo, a visit belongs to the day of its last action.
WITH visits AS (
    SELECT idvisit, (max(action_timestamp) AT TIME ZONE :'zone')::date AS day
    FROM matomo
    GROUP BY idvisit
), days AS (
    SELECT day, count(*) AS visits FROM visits GROUP BY day
)
SELECT day,
       to_char(day, 'Dy') AS " ",
       visits,
       repeat('█', (50.0 * visits / max(visits) OVER ())::int) AS "  "
FROM days
ORDER BY day;

\echo :bold'The ten most viewed pages':plain
WITH pages AS (
    SELECT left(action_title, 36) AS title,
           left(substring(action_url FROM '^[^:/]*://[^/?#]*([^?#]*)'), 32) AS path,
           count(*) AS views
    FROM matomo
    WHERE action_type = 'action'
    GROUP BY 1, 2
    ORDER BY views DESC, title
    LIMIT 10
)
SELECT title, path, views, repeat('█', (25.0 * views / max(views) OVER ())::int) AS " "
FROM pages
ORDER BY views DESC, title;

\echo :bold'Actions by type':plain
SELECT action_type AS type, count(*) AS actions, count(DISTINCT idvisit) AS visits
FROM matomo
GROUP BY action_type
ORDER BY actions DESC;
