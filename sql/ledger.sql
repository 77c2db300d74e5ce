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
    PRIMARY KEY (destination, idsite, matomo, day)
);

COMMENT ON TABLE matomo_ledger IS 'One row per Matomo, site, destination and site-day: what syncs have copied';
COMMENT ON COLUMN matomo_ledger.matomo IS 'URL of the Matomo''s API';
COMMENT ON COLUMN matomo_ledger.idsite IS 'ID of the site (idSite)';
COMMENT ON COLUMN matomo_ledger.destination IS 'Table that the visits are in';
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

-- Dumped with the database, as the tables are whose rows it knows; but for tables that are gone, or
-- will be with their session.
SELECT pg_catalog.pg_extension_config_dump('matomo_ledger',
    'WHERE destination IN (SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relpersistence <> ''t'')');

-- The table is not for everybody, as visits a day may be nobody's business; nor has it row-level
-- security, with which pg_dump would need a superuser. A view shows what concerns tables that one
-- may read. Only syncs write, as the extension's owner.
CREATE VIEW matomo_days WITH (security_barrier) AS
    SELECT l.matomo, l.idsite, l.destination, l.day, l.sealed, l.visits, l.actions,
           l.truncated_visits, l.newest, l.timezone, l.read_at, l.rechecked_at, l.action_time
    FROM matomo_ledger l
    WHERE pg_catalog.has_table_privilege(l.destination, 'SELECT')
      -- Of a table that a policy shows in part, nobody can say which days are shown.
      AND NOT pg_catalog.row_security_active(l.destination::pg_catalog.oid);

COMMENT ON VIEW matomo_days IS 'What syncs have copied: one row per Matomo, site, destination and site-day, of tables that you may read';
COMMENT ON COLUMN matomo_days.matomo IS 'URL of the Matomo''s API';
COMMENT ON COLUMN matomo_days.idsite IS 'ID of the site (idSite)';
COMMENT ON COLUMN matomo_days.destination IS 'Table that the visits are in';
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
