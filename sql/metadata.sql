-- Names for the numbers in visits: sites, goals and custom dimensions, as configured in Matomo.

-- By destination, like the ledger: who may read its visits may read what their numbers mean.
CREATE TABLE matomo_site_metadata (
    destination        regclass NOT NULL,
    destination_name   text[] NOT NULL DEFAULT '{}',
    idsite             integer NOT NULL,
    name               text NOT NULL,
    main_url           text,
    site_group         text,
    site_type          text,
    timezone           text NOT NULL,
    currency           text,
    ecommerce          boolean,
    created_at         timestamptz,
    read_at            timestamptz NOT NULL,
    goals              jsonb NOT NULL DEFAULT '[]',
    goals_read_at      timestamptz,
    dimensions         jsonb NOT NULL DEFAULT '[]',
    dimensions_read_at timestamptz,
    PRIMARY KEY (destination, idsite, destination_name)
);

COMMENT ON TABLE matomo_site_metadata IS 'Sites with their goals and custom dimensions as configured in Matomo: one row per destination and site';
COMMENT ON COLUMN matomo_site_metadata.destination IS 'Destination: table of the actions; 0 if restored from a dump and not found yet';
COMMENT ON COLUMN matomo_site_metadata.destination_name IS 'Schema, name and owner of the table in a dump, and after a restore until the table is found; otherwise empty';
COMMENT ON COLUMN matomo_site_metadata.idsite IS 'ID of the site (idSite)';
COMMENT ON COLUMN matomo_site_metadata.name IS 'Name of the site';
COMMENT ON COLUMN matomo_site_metadata.main_url IS 'Main URL of the site';
COMMENT ON COLUMN matomo_site_metadata.site_group IS 'Group of the site in Matomo; NULL if it has none';
COMMENT ON COLUMN matomo_site_metadata.site_type IS 'Type of the site, such as website or mobileapp';
COMMENT ON COLUMN matomo_site_metadata.timezone IS 'Timezone of the site';
COMMENT ON COLUMN matomo_site_metadata.currency IS 'Currency of the site (ISO 4217)';
COMMENT ON COLUMN matomo_site_metadata.ecommerce IS 'Whether the site has orders and carts';
COMMENT ON COLUMN matomo_site_metadata.created_at IS 'When the site was created in Matomo';
COMMENT ON COLUMN matomo_site_metadata.read_at IS 'When Matomo last described the site';
COMMENT ON COLUMN matomo_site_metadata.goals IS 'List of objects with the columns of matomo_goals; those that Matomo no longer lists have deleted_at';
COMMENT ON COLUMN matomo_site_metadata.goals_read_at IS 'When Matomo last listed the goals';
COMMENT ON COLUMN matomo_site_metadata.dimensions IS 'The same with the columns of matomo_dimensions';
COMMENT ON COLUMN matomo_site_metadata.dimensions_read_at IS 'When Matomo last listed the custom dimensions';

-- Dumped with names, like matomo_ledger.
SELECT pg_catalog.pg_extension_config_dump('matomo_site_metadata', $$
    AS l (destination_here, known_name)
    LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_catalog.pg_roles r ON r.oid = c.relowner) ON c.oid = l.destination_here
    CROSS JOIN LATERAL (SELECT 0::pg_catalog.oid::pg_catalog.regclass,
        CASE l.destination_here WHEN 0::pg_catalog.oid THEN l.known_name
             ELSE ARRAY[n.nspname::text, c.relname::text, r.rolname::text] END) AS d (destination, destination_name)
    WHERE l.destination_here = 0::pg_catalog.oid OR c.relpersistence <> 't'
    ORDER BY pg_catalog.row_number() OVER (PARTITION BY l.idsite, d.destination_name
        ORDER BY l.destination_here = 0::pg_catalog.oid)
    FETCH FIRST ROW WITH TIES$$);

-- Where a policy may hide visits, their sites are not shown, as in matomo_days.
CREATE VIEW matomo_site_details WITH (security_barrier) AS
    -- The newer of two restored descriptions, or the table's own.
    SELECT DISTINCT ON (t.found::regclass, m.idsite) t.found::regclass AS destination, m.idsite, m.name, m.main_url, m.site_group, m.site_type, m.timezone,
           m.currency, m.ecommerce, m.created_at, m.read_at, m.goals, m.goals_read_at, m.dimensions, m.dimensions_read_at
    FROM matomo_site_metadata m
    CROSS JOIN LATERAL (SELECT CASE m.destination::pg_catalog.oid WHEN 0::pg_catalog.oid
        THEN matomo_find_table(m.destination_name) ELSE m.destination::pg_catalog.oid END OFFSET 0) AS t(found)
    WHERE pg_catalog.has_table_privilege(t.found, 'SELECT') AND NOT pg_catalog.row_security_active(t.found)
    ORDER BY t.found::regclass, m.idsite, m.destination::pg_catalog.oid DESC, m.read_at DESC;

COMMENT ON VIEW matomo_site_details IS 'Sites of tables that you may read, as configured in Matomo: one row per destination and site';
COMMENT ON COLUMN matomo_site_details.destination IS 'Destination: table of the actions';
COMMENT ON COLUMN matomo_site_details.goals IS 'Its goals; the view matomo_goals shows them as rows';
COMMENT ON COLUMN matomo_site_details.goals_read_at IS 'When Matomo last listed the goals; NULL if it never did';
COMMENT ON COLUMN matomo_site_details.dimensions IS 'Its custom dimensions; the view matomo_dimensions shows them as rows';
COMMENT ON COLUMN matomo_site_details.dimensions_read_at IS 'When Matomo last listed the custom dimensions; NULL if it never did';

CREATE VIEW matomo_goals WITH (security_barrier) AS
    SELECT d.destination, d.idsite, g.*, d.goals_read_at AS read_at
    FROM matomo_site_details d
    CROSS JOIN LATERAL pg_catalog.jsonb_to_recordset(d.goals) AS g (goalid integer, name text, description text,
        match_attribute text, pattern text, pattern_type text, case_sensitive boolean, allow_multiple boolean,
        revenue numeric, event_value_as_revenue boolean, deleted_at timestamptz);

COMMENT ON VIEW matomo_goals IS 'Goals as configured in Matomo: one row per destination, site and goal';
COMMENT ON COLUMN matomo_goals.destination IS 'Destination: table of the actions';
COMMENT ON COLUMN matomo_goals.idsite IS 'ID of the site (idSite)';
COMMENT ON COLUMN matomo_goals.goalid IS 'ID of the goal within its site (idgoal), as in conversions';
COMMENT ON COLUMN matomo_goals.name IS 'Name of the goal';
COMMENT ON COLUMN matomo_goals.description IS 'Description of the goal';
COMMENT ON COLUMN matomo_goals.match_attribute IS 'What reaches the goal: url, title, file, external_website, event_action, manually, ...';
COMMENT ON COLUMN matomo_goals.pattern IS 'Pattern that the attribute must match';
COMMENT ON COLUMN matomo_goals.pattern_type IS 'How it must match: contains, exact or regex';
COMMENT ON COLUMN matomo_goals.case_sensitive IS 'Whether upper and lower case must match too';
COMMENT ON COLUMN matomo_goals.allow_multiple IS 'Whether a visit may convert the goal several times';
COMMENT ON COLUMN matomo_goals.revenue IS 'Revenue of a conversion that has none of its own';
COMMENT ON COLUMN matomo_goals.event_value_as_revenue IS 'Whether the value of the event is the revenue';
COMMENT ON COLUMN matomo_goals.deleted_at IS 'When Matomo first did not list the goal any more; NULL if it does';
COMMENT ON COLUMN matomo_goals.read_at IS 'When Matomo last listed the goals of the site';

CREATE VIEW matomo_dimensions WITH (security_barrier) AS
    SELECT d.destination, d.idsite, pg_catalog.concat('dimension', x.iddimension) AS dimension, x.*,
           d.dimensions_read_at AS read_at
    FROM matomo_site_details d
    CROSS JOIN LATERAL pg_catalog.jsonb_to_recordset(d.dimensions) AS x (iddimension integer, name text, scope text,
        slot integer, active boolean, case_sensitive boolean, extractions jsonb, deleted_at timestamptz);

COMMENT ON VIEW matomo_dimensions IS 'Custom dimensions as configured in Matomo: one row per destination, site and dimension';
COMMENT ON COLUMN matomo_dimensions.destination IS 'Destination: table of the actions';
COMMENT ON COLUMN matomo_dimensions.idsite IS 'ID of the site (idSite)';
COMMENT ON COLUMN matomo_dimensions.dimension IS 'Its column of actions, and its key in usercustomdimensions and dimensions: dimension3';
COMMENT ON COLUMN matomo_dimensions.iddimension IS 'ID of the dimension within its site: 3 for dimension3';
COMMENT ON COLUMN matomo_dimensions.name IS 'Name of the dimension';
COMMENT ON COLUMN matomo_dimensions.scope IS 'visit or action';
COMMENT ON COLUMN matomo_dimensions.slot IS 'Slot within the scope (index), from 1';
COMMENT ON COLUMN matomo_dimensions.active IS 'Whether Matomo still fills it';
COMMENT ON COLUMN matomo_dimensions.case_sensitive IS 'Whether upper and lower case differ in its extractions';
COMMENT ON COLUMN matomo_dimensions.extractions IS 'Where Matomo takes its values from, if not from the site''s code';
COMMENT ON COLUMN matomo_dimensions.deleted_at IS 'When Matomo first did not list the dimension any more; NULL if it does';
COMMENT ON COLUMN matomo_dimensions.read_at IS 'When Matomo last listed the custom dimensions of the site';

COMMENT ON FUNCTION matomo_refresh_metadata(integer, text, text, text, text) IS
    'Reads the names of a site, its goals and its custom dimensions from Matomo; returns their numbers';
