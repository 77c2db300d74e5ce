-- The ledger: the state of each copied site-day. It is written in the same transaction as the rows,
-- so that it never claims rows that the table does not have.

CREATE TABLE matomo_ledger (
    matomo           text NOT NULL,
    idsite           integer NOT NULL,
    destination      regclass NOT NULL,
    day              date NOT NULL,
    sealed           boolean NOT NULL,
    visits           bigint NOT NULL,
    actions          bigint NOT NULL,
    truncated_visits bigint NOT NULL,
    newest           timestamptz,
    timezone         text NOT NULL,
    read_at          timestamptz NOT NULL,
    pass_began       timestamptz,
    pass_since       timestamptz,
    pass_seen        bytea,
    rechecked_at     timestamptz,
    action_time      text,
    destination_name text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (destination, idsite, matomo, day, destination_name)
);
CREATE INDEX matomo_ledger_missing ON matomo_ledger (destination_name) WHERE destination::oid = 0::oid;

COMMENT ON TABLE matomo_ledger IS 'Copied site-days: one row per Matomo, site, destination and day';
COMMENT ON COLUMN matomo_ledger.matomo IS 'URL of the Matomo''s API';
COMMENT ON COLUMN matomo_ledger.idsite IS 'ID of the site (idSite)';
COMMENT ON COLUMN matomo_ledger.destination IS 'Destination: table of the actions; 0 if restored from a dump and not found yet';
COMMENT ON COLUMN matomo_ledger.day IS 'Day in the site''s timezone';
COMMENT ON COLUMN matomo_ledger.sealed IS 'Whether the day was read whole after it had ended and settled; sealed days are not requested again';
COMMENT ON COLUMN matomo_ledger.visits IS 'Visits of the day; for an open day, those read so far';
COMMENT ON COLUMN matomo_ledger.actions IS 'Actions of these visits';
COMMENT ON COLUMN matomo_ledger.truncated_visits IS 'Visits with only their first actions listed by Matomo';
COMMENT ON COLUMN matomo_ledger.newest IS 'Last action of the newest copied visit, at most read_at; the next poll of an open day starts matomo.overlap before it';
COMMENT ON COLUMN matomo_ledger.timezone IS 'The site''s timezone when the day was read';
COMMENT ON COLUMN matomo_ledger.read_at IS 'When the day was last read';
COMMENT ON COLUMN matomo_ledger.pass_began IS 'When the unfinished reading or recheck began; NULL if there is none';
COMMENT ON COLUMN matomo_ledger.pass_since IS 'Where it resumes';
COMMENT ON COLUMN matomo_ledger.pass_seen IS 'Visits that it has read; empty if it reads only new visits, NULL if it is a recheck';
COMMENT ON COLUMN matomo_ledger.rechecked_at IS 'When the last recheck or whole reading of an open day began; see matomo.recheck';
COMMENT ON COLUMN matomo_ledger.action_time IS 'Value of matomo.action_time for the day''s rows; NULL if unknown';
COMMENT ON COLUMN matomo_ledger.destination_name IS 'Schema, name and owner of the table in a dump, and after a restore until the table is found; otherwise empty';

-- OIDs are meaningless after a restore, and a regclass name that does not exist would fail the COPY of
-- the whole table. So a dump has the current names as text. pg_dump appends this condition to
-- SELECT column, ... FROM table: columns renamed here are replaced by others with their names. It does
-- not name the table, whose schema may be renamed. Dropped and temporary tables are left out.
-- A table that has got back its owner in an older dump may have a restored row and its own of the same
-- day, which get the same name here. WITH TIES returns only rows numbered 1, so the table's own.
SELECT pg_catalog.pg_extension_config_dump('matomo_ledger', $$
    AS l (matomo, idsite, table_here, day, sealed, visits, actions, truncated_visits, newest, timezone, read_at,
          pass_began, pass_since, pass_seen, rechecked_at, action_time, known_name)
    LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_catalog.pg_roles r ON r.oid = c.relowner) ON c.oid = l.table_here
    CROSS JOIN LATERAL (SELECT 0::pg_catalog.oid::pg_catalog.regclass,
        CASE l.table_here WHEN 0::pg_catalog.oid THEN l.known_name
             ELSE ARRAY[n.nspname::text, c.relname::text, r.rolname::text] END) AS d (destination, destination_name)
    WHERE l.table_here = 0::pg_catalog.oid OR c.relpersistence <> 't'
    ORDER BY pg_catalog.row_number() OVER (PARTITION BY l.idsite, l.day, l.matomo, d.destination_name
        ORDER BY l.table_here = 0::pg_catalog.oid)
    FETCH FIRST ROW WITH TIES$$);

-- Finds a table by name from a dump; NULL if there is none. A role with CREATE on the schema must not
-- receive another role's visits in a table of the same name. So the table's owner must be the one in
-- the dump, a superuser, or the extension's owner.
CREATE FUNCTION matomo_find_table(name text[]) RETURNS oid
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

COMMENT ON FUNCTION matomo_find_table(text[]) IS 'Internal: finds a table by schema, name and owner from a dump';

-- The table is private, as the number of visits may be confidential. Row-level security is no option:
-- pg_dump would then need a superuser. So a view shows the days of tables that the user may read. Only
-- syncs write the table, as the extension's owner.
CREATE VIEW matomo_days WITH (security_barrier) AS
    SELECT l.matomo, l.idsite, l.destination, l.day, l.sealed, l.visits, l.actions,
           l.truncated_visits, l.newest, l.timezone, l.read_at, l.rechecked_at, l.action_time,
           NULL::text AS missing
    FROM matomo_ledger l
    WHERE pg_catalog.has_table_privilege(l.destination, 'SELECT')
      -- A policy may hide any of the table's days, so none is shown.
      AND NOT pg_catalog.row_security_active(l.destination::pg_catalog.oid)
    UNION ALL
    -- If several names are the table's now: the entry that is reset (read_at is 1970), else the last one read.
    (SELECT DISTINCT ON (l.matomo, l.idsite, l.day, f.found, CASE WHEN f.found IS NULL THEN l.destination_name END)
           l.matomo, l.idsite, f.found::regclass, l.day, l.sealed, l.visits, l.actions,
           l.truncated_visits, l.newest, l.timezone, l.read_at, l.rechecked_at, l.action_time,
           CASE WHEN f.found IS NULL
                THEN pg_catalog.format('%I.%I', l.destination_name[1], l.destination_name[2]) END
    FROM matomo_ledger l
    CROSS JOIN LATERAL (SELECT matomo_find_table(l.destination_name) OFFSET 0) AS t(oid)
    -- A table that belongs to another Matomo by now is a different one.
    CROSS JOIN LATERAL (SELECT CASE coalesce((SELECT k.matomo FROM matomo_ledger k
        WHERE k.destination::pg_catalog.oid = t.oid LIMIT 1), l.matomo) WHEN l.matomo THEN t.oid END OFFSET 0) AS f(found)
    WHERE l.destination::pg_catalog.oid = 0::pg_catalog.oid
      AND CASE WHEN f.found IS NULL THEN pg_catalog.pg_has_role('pg_read_all_data', 'USAGE')
               ELSE pg_catalog.has_table_privilege(f.found, 'SELECT')
                    AND NOT pg_catalog.row_security_active(f.found) END
      -- The table's own entries count.
      AND NOT EXISTS (SELECT FROM matomo_ledger k WHERE k.destination::pg_catalog.oid = f.found
          AND k.idsite = l.idsite AND k.matomo = l.matomo AND k.day = l.day)
    ORDER BY l.matomo, l.idsite, l.day, f.found, CASE WHEN f.found IS NULL THEN l.destination_name END,
             coalesce(nullif(l.read_at, 'epoch'), 'infinity') DESC);

COMMENT ON VIEW matomo_days IS 'Copied site-days of tables that you may read: one row per Matomo, site, destination and day';
COMMENT ON COLUMN matomo_days.destination IS 'Destination: table of the actions; NULL if it is missing';
COMMENT ON COLUMN matomo_days.missing IS 'Name of the table if a dump was restored without it; only members of pg_read_all_data see such days';

COMMENT ON FUNCTION matomo_change_url(regclass, text, text) IS
    'Moves a destination''s ledger entries to a Matomo''s new URL, and returns their number';
