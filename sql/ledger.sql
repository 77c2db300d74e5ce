-- What is known of each site-day that was copied: written in the transaction of the rows that it
-- speaks of, so that it never knows more than the table holds.

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
CREATE INDEX matomo_ledger_missing ON matomo_ledger (destination_name) WHERE destination = 0::oid;

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

-- An OID means nothing where a dump is restored, and a name that is not there would fail the COPY of
-- the whole table. So a dump has names as text, as they are at that moment. pg_dump appends the condition
-- to SELECT column, ... FROM table: columns that are named anew here give way to others of their old
-- names. It does not name the table, whose schema may be renamed. Tables that are gone, or will be with
-- their session, are left out.
SELECT pg_catalog.pg_extension_config_dump('matomo_ledger', $$
    AS l (matomo, idsite, table_here, day, sealed, visits, actions, truncated_visits, newest, timezone, read_at,
          pass_began, pass_since, pass_seen, rechecked_at, action_time, known_name)
    LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_catalog.pg_roles r ON r.oid = c.relowner) ON c.oid = l.table_here
    CROSS JOIN LATERAL (SELECT 0::pg_catalog.oid::pg_catalog.regclass,
        CASE l.table_here WHEN 0::pg_catalog.oid THEN l.known_name
             ELSE ARRAY[n.nspname::text, c.relname::text, r.rolname::text] END) AS d (destination, destination_name)
    WHERE l.table_here = 0::pg_catalog.oid OR c.relpersistence <> 't'$$);

-- The table of a name from a dump; NULL: there is none. Whoever may create in the schema must not get
-- another's visits by a table of the same name: it belongs to the same role as in the dump, or to one
-- that may have restored it.
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

COMMENT ON FUNCTION matomo_find_table(text[]) IS 'Internal: the table of a schema, name and owner, as dumps have them';

-- The table is not for everybody, as visits a day may be nobody's business; nor has it row-level
-- security, with which pg_dump would need a superuser. A view shows what concerns tables that one
-- may read. Only syncs write, as the extension's owner.
CREATE VIEW matomo_days WITH (security_barrier) AS
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
    CROSS JOIN LATERAL (SELECT matomo_find_table(l.destination_name) OFFSET 0) AS t(oid)
    -- One that has become another Matomo's is not it.
    CROSS JOIN LATERAL (SELECT CASE coalesce((SELECT k.matomo FROM matomo_ledger k
        WHERE k.destination = t.oid LIMIT 1), l.matomo) WHEN l.matomo THEN t.oid END OFFSET 0) AS f(found)
    WHERE l.destination = 0::pg_catalog.oid
      AND CASE WHEN f.found IS NULL THEN pg_catalog.pg_has_role('pg_read_all_data', 'USAGE')
               ELSE pg_catalog.has_table_privilege(f.found, 'SELECT')
                    AND NOT pg_catalog.row_security_active(f.found) END;

COMMENT ON VIEW matomo_days IS 'What syncs have copied: one row per Matomo, site, destination and site-day, of tables that you may read';
COMMENT ON COLUMN matomo_days.matomo IS 'URL of the Matomo''s API';
COMMENT ON COLUMN matomo_days.idsite IS 'ID of the site (idSite)';
COMMENT ON COLUMN matomo_days.destination IS 'Table that the visits are in; NULL: it is missing';
COMMENT ON COLUMN matomo_days.day IS 'Day in the site''s timezone';
COMMENT ON COLUMN matomo_days.sealed IS 'Whether the day was read whole after it had ended and settled; such a day is not asked for again';
COMMENT ON COLUMN matomo_days.visits IS 'Visits of the day; of an open day those met so far';
COMMENT ON COLUMN matomo_days.actions IS 'Their actions';
COMMENT ON COLUMN matomo_days.truncated_visits IS 'Visits of which Matomo listed only the first actions';
COMMENT ON COLUMN matomo_days.newest IS 'Last action of the newest visit copied, up to the time of the reading: the next poll of an open day begins matomo.overlap before it';
COMMENT ON COLUMN matomo_days.timezone IS 'The site''s timezone when the day was read';
COMMENT ON COLUMN matomo_days.read_at IS 'When the day was read last';
COMMENT ON COLUMN matomo_days.rechecked_at IS 'When the last recheck or whole reading of an open day began; see matomo.recheck';
COMMENT ON COLUMN matomo_days.action_time IS 'What action_timestamp holds in the day''s rows, as matomo.action_time names it; NULL: unknown';
COMMENT ON COLUMN matomo_days.missing IS 'Name of the table, where a dump was restored without it; only members of pg_read_all_data see such days';
