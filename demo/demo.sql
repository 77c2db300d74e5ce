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
SELECT day,
       to_char(day, 'Dy') AS " ",
       count(*) AS visits,
       repeat('█', (50.0 * count(*) / max(count(*)) OVER ())::int) AS "  "
FROM matomo_visits
GROUP BY day
ORDER BY day;

\echo :bold'Visits by device':plain
SELECT devicetype AS device,
       count(*) AS visits,
       round(avg(actions), 1) AS "actions a visit",
       make_interval(secs => round(avg(visitduration))) AS duration,
       round(100.0 * count(*) FILTER (WHERE actions <= 1) / count(*)) AS "bounced, %"
FROM matomo_visits
GROUP BY devicetype
ORDER BY visits DESC;

\echo :bold'Where visits come from, and what they bring':plain
SELECT v.referrertype AS "from",
       coalesce(nullif(v.campaignname, ''), nullif(v.referrername, '')) AS name,
       count(*) AS visits,
       count(*) FILTER (WHERE v.visitconverted) AS converted,
       sum(c.revenue) AS revenue
FROM matomo_visits AS v
LEFT JOIN LATERAL (
    SELECT sum(revenue) AS revenue FROM matomo_conversions AS c
    WHERE c.idvisit = v.idvisit AND c.type <> 'ecommerceAbandonedCart'
) AS c ON true
GROUP BY 1, 2
ORDER BY visits DESC
LIMIT 10;

\echo :bold'Goals and orders':plain
SELECT coalesce(goalname, type) AS goal,
       count(*) AS conversions,
       sum(revenue) AS revenue,
       round(100.0 * count(DISTINCT idvisit) / (SELECT count(*) FROM matomo_visits), 1) AS "of visits, %"
FROM matomo_conversions
WHERE type <> 'ecommerceAbandonedCart'
GROUP BY 1
ORDER BY conversions DESC
LIMIT 10;

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
