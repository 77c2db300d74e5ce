-- The schema of a destination, in one place: an empty template whose columns, defaults and comments
-- every table that we make copies. The tables themselves are ordinary tables of whoever makes them:
-- members of an extension would be dropped with it, and could not be restored with their partitions.

CREATE TABLE matomo_action (
    action_id                   text NOT NULL,
    idsite                      text,
    idvisit                     text,
    actions                     text,
    country                     text,
    region                      text,
    city                        text,
    operatingsystemname         text,
    devicemodel                 text,
    devicebrand                 text,
    visitduration               text,
    dayssincefirstvisit         text,
    visitortype                 text,
    sitename                    text,
    userid                      text,
    serverdateprettyfirstaction date,
    action_type                 text,
    action_eventcategory        text,
    action_eventaction          text,
    action_eventname            text,
    action_eventvalue           numeric,
    action_timespent            text,
    action_timestamp            timestamptz NOT NULL DEFAULT pg_catalog.now(),
    usercustomproperties        json,
    usercustomdimensions        json,
    dimension1                  text,
    dimension2                  text,
    dimension3                  text,
    dimension4                  text,
    dimension5                  text,
    dimension6                  text,
    dimension7                  text,
    dimension8                  text,
    dimension9                  text,
    dimension10                 text,
    action_url                  text,
    sitesearchkeyword           text,
    action_title                text,
    visitorid                   text,
    referrertype                text,
    referrername                text,
    resolution                  text,
    experiments                 jsonb
);

COMMENT ON TABLE matomo_action IS 'Template of the tables that hold Matomo actions: one row per action of a visit. Stays empty; see matomo_create_table';
COMMENT ON COLUMN matomo_action.action_id IS 'idVisit, an underscore, and the place of the action in its visit, from 0';
COMMENT ON COLUMN matomo_action.idsite IS 'ID of the site (idSite)';
COMMENT ON COLUMN matomo_action.idvisit IS 'ID of the visit (idVisit), unique within one Matomo';
COMMENT ON COLUMN matomo_action.actions IS 'Number of actions of the visit as Matomo counts them: page views, downloads, outlinks, searches and events';
COMMENT ON COLUMN matomo_action.country IS 'Country of the visitor, in the language of the token''s user or of matomo.language';
COMMENT ON COLUMN matomo_action.region IS 'Region of the visitor';
COMMENT ON COLUMN matomo_action.city IS 'City of the visitor';
COMMENT ON COLUMN matomo_action.operatingsystemname IS 'Operating system of the visitor';
COMMENT ON COLUMN matomo_action.devicemodel IS 'Model of the visitor''s device';
COMMENT ON COLUMN matomo_action.devicebrand IS 'Brand of the visitor''s device';
COMMENT ON COLUMN matomo_action.visitduration IS 'Duration of the visit, in seconds';
COMMENT ON COLUMN matomo_action.dayssincefirstvisit IS 'Days since the visitor''s first visit';
COMMENT ON COLUMN matomo_action.visitortype IS 'new, returning or returningCustomer';
COMMENT ON COLUMN matomo_action.sitename IS 'Name of the site';
COMMENT ON COLUMN matomo_action.userid IS 'User ID that the site gave the visitor';
COMMENT ON COLUMN matomo_action.serverdateprettyfirstaction IS 'UTC date of the first action of the visit';
COMMENT ON COLUMN matomo_action.action_type IS 'action (page view), event, download, outlink, search, goal, ecommerceOrder, ecommerceAbandonedCart, or 13 (content)';
COMMENT ON COLUMN matomo_action.action_eventcategory IS 'Category of the event, empty for other actions';
COMMENT ON COLUMN matomo_action.action_eventaction IS 'Action of the event, empty for other actions';
COMMENT ON COLUMN matomo_action.action_eventname IS 'Name of the event, empty where it has none';
COMMENT ON COLUMN matomo_action.action_eventvalue IS 'Value of the event, 0 where it has none';
COMMENT ON COLUMN matomo_action.action_timespent IS 'Time spent on the page, in seconds, 0 where Matomo does not tell';
COMMENT ON COLUMN matomo_action.action_timestamp IS 'When the action happened (see matomo.action_time)';
COMMENT ON COLUMN matomo_action.usercustomproperties IS 'Custom variables by name, the action''s before the visit''s';
COMMENT ON COLUMN matomo_action.usercustomdimensions IS 'Custom dimensions that have a value: {"dimension1": ...}, the action''s before the visit''s';
COMMENT ON COLUMN matomo_action.dimension1 IS 'Custom dimension 1, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action.dimension2 IS 'Custom dimension 2, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action.dimension3 IS 'Custom dimension 3, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action.dimension4 IS 'Custom dimension 4, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action.dimension5 IS 'Custom dimension 5, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action.dimension6 IS 'Custom dimension 6, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action.dimension7 IS 'Custom dimension 7, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action.dimension8 IS 'Custom dimension 8, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action.dimension9 IS 'Custom dimension 9, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action.dimension10 IS 'Custom dimension 10, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action.action_url IS 'URL of the page, download or outlink';
COMMENT ON COLUMN matomo_action.sitesearchkeyword IS 'Keyword of a site search';
COMMENT ON COLUMN matomo_action.action_title IS 'Title of the page or of the action';
COMMENT ON COLUMN matomo_action.visitorid IS 'ID of the visitor, a hexadecimal number';
COMMENT ON COLUMN matomo_action.referrertype IS 'direct, search, website, social or campaign';
COMMENT ON COLUMN matomo_action.referrername IS 'Name of the referrer';
COMMENT ON COLUMN matomo_action.resolution IS 'Screen resolution of the visitor';
COMMENT ON COLUMN matomo_action.experiments IS 'A/B tests that the visit took part in';

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
