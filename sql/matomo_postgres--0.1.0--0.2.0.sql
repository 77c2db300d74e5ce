-- From 0.1.0 to 0.2.0: sites, their state, runs and the ledger are kept; users' tables stay as they are.
-- The extension's schema is in the search_path, and may have operators of other roles. pg_catalog comes
-- first, but an operator of exactly the operands' types wins over one that needs a cast. So each operator
-- here has one of exactly its types in pg_catalog: regclass and its like are cast to oid.

-- A session that has loaded the library of 0.1.0 cannot have what is made here.
DO $do$
BEGIN
    CREATE FUNCTION matomo_run_sites() RETURNS integer[] VOLATILE PARALLEL UNSAFE LANGUAGE c
        AS 'MODULE_PATHNAME', 'matomo_run_sites_0_2_reconnect_wrapper';
    DROP FUNCTION matomo_run_sites();
EXCEPTION WHEN undefined_function THEN
    RAISE object_not_in_prerequisite_state USING
        MESSAGE = 'this session has loaded an older library of matomo_postgres than 0.2.0',
        HINT = 'Reconnect and try again; where the library is in shared_preload_libraries, restart the server before.';
END
$do$;

-- In the order in which a run uses them. Waits for the syncs that are at work, or for their next step.
LOCK TABLE matomo_site_config, matomo_site_state, matomo_run_log, matomo_ledger IN ACCESS EXCLUSIVE MODE;

-- What is there now.
SELECT pg_catalog.set_config('matomo_update.known', (
    SELECT pg_catalog.array_agg(d.objid)::text FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'matomo_postgres'
    WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass::oid AND d.deptype = 'e'
      AND d.classid IN ('pg_catalog.pg_proc'::regclass::oid, 'pg_catalog.pg_class'::regclass::oid)), true);

-- Owners of, and grants on, what is dropped below and made again.
WITH relation AS (
    SELECT c.oid, pg_catalog.format('TABLE %s', c.oid::regclass) AS object, c.relowner AS owner, c.relacl AS acl
    FROM pg_catalog.pg_class c
    WHERE c.oid IN ('matomo_action'::regclass::oid, 'matomo_sites'::regclass::oid, 'matomo_status'::regclass::oid,
        'matomo_runs'::regclass::oid)
), remade AS (
    SELECT v.object, NULL::text AS columns, v.owner, v.acl FROM relation v
    UNION ALL
    SELECT v.object, pg_catalog.format('(%I)', a.attname), v.owner, a.attacl
    FROM relation v JOIN pg_catalog.pg_attribute a ON a.attrelid = v.oid AND a.attacl IS NOT NULL
    UNION ALL
    SELECT 'FUNCTION ' || x.is_now, NULL, p.proowner, coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))
    FROM (VALUES
        ('matomo_check(integer, date, date, text, text, text, boolean, boolean, integer, text)',
         'matomo_check(integer, date, date, text, text, text, boolean, boolean, integer, text, boolean)'),
        ('matomo_create_table(text, boolean, name)', 'matomo_create_table(text, boolean, name, text)'),
        ('matomo_forget(text, text, regclass)', 'matomo_forget(text, text, regclass, text)')) AS x(was, is_now)
    JOIN pg_catalog.pg_proc p ON p.oid = x.was::regprocedure::oid
)
SELECT pg_catalog.set_config('matomo_update.owners', (
    SELECT pg_catalog.string_agg(pg_catalog.format('ALTER %s OWNER TO %I', r.object,
        pg_catalog.pg_get_userbyid(r.owner)), '; ')
    FROM remade r WHERE r.columns IS NULL), true),
pg_catalog.set_config('matomo_update.grants', (
    SELECT pg_catalog.string_agg(pg_catalog.format('GRANT %s %s ON %s TO %s%s', a.privilege_type, r.columns, r.object,
        CASE a.grantee WHEN 0::oid THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END), '; ')
    FROM remade r CROSS JOIN LATERAL pg_catalog.aclexplode(r.acl) a WHERE a.grantee <> r.owner), true);

-- The columns that syncs of 0.1.0 write.
SELECT pg_catalog.set_config('matomo_update.columns', (
    SELECT pg_catalog.array_agg(a.attname)::text FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = 'matomo_action'::regclass::oid AND a.attnum > 0), true);

DROP TABLE matomo_action;
DROP VIEW matomo_status;
DROP VIEW matomo_sites;
DROP VIEW matomo_runs;
DROP FUNCTION matomo_check(integer, date, date, text, text, text, boolean, boolean, integer, text);
DROP FUNCTION matomo_create_table(text, boolean, name), matomo_forget(text, text, regclass);
DROP FUNCTION matomo_destinations(), matomo_seal_dropped(oid, timestamptz, integer);
DROP FUNCTION matomo_drop_step(regclass, timestamptz, integer, interval, jsonb);
DROP FUNCTION matomo_run_step(bigint), matomo_run_begin(integer, text), matomo_run_copy(bigint),
    matomo_run_fail(bigint, text, text, text, text), matomo_run_report(bigint, boolean),
    matomo_run_warn(text, text, text, text), matomo_note_ownerless();
DROP FUNCTION matomo_upkeep(integer), matomo_upkeep_fail(integer, text), matomo_upkeep_step(integer);
DROP PROCEDURE matomo_upkeep_site(integer);

ALTER TABLE matomo_site_config
    DROP CONSTRAINT matomo_site_config_key,
    ADD COLUMN destination_name text[],
    ADD COLUMN owner_name name,
    ADD COLUMN known_sites integer[];
CREATE UNIQUE INDEX matomo_site_config_key ON matomo_site_config (server, idsite, destination)
    WHERE destination::oid <> 0::oid;
-- Of tables and roles that are gone nothing is left but their numbers.
UPDATE matomo_site_config s SET
    destination_name = coalesce((
        SELECT ARRAY[n.nspname::text, c.relname::text, pg_catalog.pg_get_userbyid(c.relowner)::text]
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = s.destination::oid), ARRAY['?', s.destination::oid::text, '?']),
    owner_name = coalesce((SELECT r.rolname FROM pg_catalog.pg_roles r WHERE r.oid = s.owner::oid), s.owner::oid::text::name);
ALTER TABLE matomo_site_config
    ALTER destination DROP NOT NULL, ALTER owner DROP NOT NULL,
    ALTER destination_name SET NOT NULL, ALTER destination_name SET DEFAULT '{?,?,?}',
    ALTER owner_name SET NOT NULL, ALTER owner_name SET DEFAULT '?';

ALTER TABLE matomo_site_state
    DROP CONSTRAINT matomo_site_state_site_id_fkey,
    ADD COLUMN changes integer NOT NULL DEFAULT 0,
    ADD COLUMN upkeep_begun integer NOT NULL DEFAULT 0,
    ADD COLUMN metadata_on date,
    ADD COLUMN metadata_error text,
    ADD COLUMN changed_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    ADD COLUMN is_unanswered boolean NOT NULL DEFAULT false;

ALTER TABLE matomo_run_log
    DROP CONSTRAINT matomo_run_log_status_check,
    ADD CHECK (status IN ('running', 'paused', 'succeeded', 'failed')),
    ADD COLUMN step_pages integer,
    ADD COLUMN changes integer NOT NULL DEFAULT 0,
    ADD COLUMN owner_name name,
    ADD COLUMN misfits jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN zone_changes integer NOT NULL DEFAULT 0,
    ADD COLUMN step_at timestamptz;
UPDATE matomo_run_log l SET
    owner_name = coalesce((SELECT r.rolname FROM pg_catalog.pg_roles r WHERE r.oid = l.owner::oid), l.owner::oid::text::name);
ALTER TABLE matomo_run_log ALTER owner DROP NOT NULL, ALTER owner_name SET NOT NULL, ALTER owner_name SET DEFAULT '';
DROP INDEX matomo_run_log_running;
CREATE INDEX matomo_run_log_ownerless ON matomo_run_log (owner_name) WHERE owner::oid = 0::oid;
CREATE INDEX matomo_run_log_running ON matomo_run_log (site_id) WHERE status IN ('running', 'paused');

-- Before the primary key is dropped: with a publication of all tables, UPDATE and DELETE need one.
-- A URL has its host in lower case and no default port now. Of a day that a table has under two URLs
-- that are one, the sealed entry is kept, or the newer one.
CREATE FUNCTION matomo_one_url(url text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(pg_catalog.concat(p[1], pg_catalog.lower(p[2]),
        CASE WHEN p[4] <> CASE p[1] WHEN 'https://' THEN '443' ELSE '80' END THEN ':' || p[4] END, p[5]), url)
    FROM pg_catalog.regexp_match(url, '^(https?://)([[][^]]*[]]|[^/:]+)(:0*([0-9]+))?(/.*)$') AS p
$$;
DELETE FROM matomo_ledger l USING matomo_ledger k
WHERE (k.destination::oid, k.idsite, k.day) = (l.destination::oid, l.idsite, l.day) AND k.matomo <> l.matomo
  AND matomo_one_url(k.matomo) = matomo_one_url(l.matomo)
  AND (k.sealed, k.read_at, k.matomo) > (l.sealed, l.read_at, l.matomo);
UPDATE matomo_ledger SET matomo = matomo_one_url(matomo) WHERE matomo <> matomo_one_url(matomo);
UPDATE matomo_site_state SET matomo = matomo_one_url(matomo) WHERE matomo <> matomo_one_url(matomo);
DROP FUNCTION matomo_one_url(text);

-- What was begun and is kept otherwise now begins anew.
UPDATE matomo_ledger SET pass_began = NULL, pass_since = NULL, pass_seen = NULL WHERE pass_seen = '';
UPDATE matomo_site_state SET upkeep_place = NULL WHERE upkeep_place IS NOT NULL;

ALTER TABLE matomo_ledger
    DROP CONSTRAINT matomo_ledger_pkey,
    ADD COLUMN rechecked_at timestamptz,
    ADD COLUMN action_time text,
    ADD COLUMN destination_name text[] NOT NULL DEFAULT '{}';
ALTER TABLE matomo_ledger ADD PRIMARY KEY (destination, idsite, matomo, day, destination_name);
CREATE INDEX matomo_ledger_missing ON matomo_ledger (destination_name) WHERE destination::oid = 0::oid;

-- Written by packaging/update-script from here …

CREATE OR REPLACE FUNCTION matomo_create_companions(destination regclass) RETURNS SETOF regclass
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'matomo_create_companions_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION matomo_forget(visitorid text DEFAULT NULL, userid text DEFAULT NULL, only_in regclass DEFAULT NULL, visitip text DEFAULT NULL)
RETURNS TABLE (destination regclass, visits bigint, actions bigint)
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'matomo_forget_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION matomo_drop_step(destination regclass, before timestamptz, site integer, lock_timeout interval, place jsonb DEFAULT NULL)
RETURNS TABLE (place jsonb, more boolean, dropped text, actions bigint, blocked text, holders text)
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'matomo_drop_step_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION matomo_change_url(destination regclass, old_url text, new_url text) RETURNS bigint
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'matomo_change_url_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_add_sites"(
	"server" TEXT, 
	"start_date" date DEFAULT NULL, 
	"destination" TEXT DEFAULT NULL, 
	"every" interval DEFAULT '10 minutes', 
	"retention" interval DEFAULT NULL, 
	"enabled" bool DEFAULT true, 
	"new_sites" bool DEFAULT false 
) RETURNS TABLE (
	"id" INT,  
	"idsite" INT,  
	"name" text  
)
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_add_sites_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_ignore_new_sites"(
	"server" TEXT 
) RETURNS INT 
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_ignore_new_sites_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_refresh_metadata"(
	"site" INT, 
	"url" TEXT DEFAULT NULL, 
	"key" TEXT DEFAULT NULL, 
	"destination" TEXT DEFAULT NULL, 
	"server" TEXT DEFAULT NULL 
) RETURNS TABLE (
	"name" text,  
	"goals" INT,  
	"dimensions" INT  
)
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_refresh_metadata_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_list_sites"(
	"server" TEXT 
) RETURNS TABLE (
	"idsite" INT,  
	"name" text,  
	"main_url" text,  
	"timezone" text,  
	"currency" text,  
	"ecommerce" bool,  
	"site_type" text,  
	"registered" bool  
)
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_list_sites_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION matomo_create_partitions(destination regclass, from_time timestamptz, to_time timestamptz) RETURNS integer
VOLATILE PARALLEL UNSAFE LANGUAGE c AS 'MODULE_PATHNAME', 'matomo_create_partitions_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_run_is_dead"(
	"runid" bigint 
) RETURNS bool 
STRICT VOLATILE PARALLEL RESTRICTED
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_run_is_dead_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_is_running"(
	"site_id" INT 
) RETURNS bool 
VOLATILE PARALLEL RESTRICTED
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_is_running_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_has_worker"() RETURNS bool 
STRICT STABLE PARALLEL SAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_has_worker_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_run_sites"() RETURNS INT[] 
STRICT VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_run_sites_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_run_step"(
	"site" INT, 
	"is_one_of_all" bool 
) RETURNS bool 
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_run_step_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_add_site"(
	"server" TEXT, 
	"site" INT, 
	"start_date" date DEFAULT NULL, 
	"destination" TEXT DEFAULT NULL, 
	"every" interval DEFAULT '10 minutes', 
	"retention" interval DEFAULT NULL, 
	"enabled" bool DEFAULT true 
) RETURNS INT 
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_add_site_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_alter_site"(
	"id" INT, 
	"server" TEXT DEFAULT NULL, 
	"site" INT DEFAULT NULL, 
	"start_date" date DEFAULT NULL, 
	"destination" TEXT DEFAULT NULL, 
	"every" interval DEFAULT NULL, 
	"retention" interval DEFAULT NULL, 
	"enabled" bool DEFAULT NULL, 
	"owner" TEXT DEFAULT NULL 
) RETURNS void
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_alter_site_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_remove_site"(
	"id" INT 
) RETURNS void
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_remove_site_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_sync"(
	"site" INT, 
	"url" TEXT DEFAULT NULL, 
	"key" TEXT DEFAULT NULL, 
	"start_date" date DEFAULT NULL, 
	"end_date" date DEFAULT NULL, 
	"destination" TEXT DEFAULT NULL, 
	"force" bool DEFAULT false, 
	"page_size" INT DEFAULT NULL, 
	"server" TEXT DEFAULT NULL 
) RETURNS TABLE (
	"day" date,  
	"pages" INT,  
	"visits" bigint,  
	"actions" bigint,  
	"inserted" bigint,  
	"updated" bigint,  
	"deleted" bigint,  
	"truncated_visits" bigint  
)
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_sync_0_2_reconnect_wrapper';

CREATE OR REPLACE FUNCTION "matomo_check"(
	"site" INT, 
	"start_date" date, 
	"end_date" date, 
	"url" TEXT DEFAULT NULL, 
	"key" TEXT DEFAULT NULL, 
	"destination" TEXT DEFAULT NULL, 
	"repair" bool DEFAULT false, 
	"deep" bool DEFAULT false, 
	"page_size" INT DEFAULT NULL, 
	"server" TEXT DEFAULT NULL, 
	"delete_purged" bool DEFAULT false 
) RETURNS TABLE (
	"day" date,  
	"visits_there" bigint,  
	"visits_here" bigint,  
	"missing" bigint,  
	"extra" bigint,  
	"stale" bigint,  
	"repaired" bigint,  
	"purged" bigint  
)
VOLATILE PARALLEL UNSAFE
LANGUAGE c 
AS 'MODULE_PATHNAME', 'matomo_check_0_2_reconnect_wrapper';

CREATE TABLE matomo_action_node (
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

COMMENT ON COLUMN matomo_action_node.action_id IS 'idVisit, an underscore, and the place of the action in its visit, from 0';
COMMENT ON COLUMN matomo_action_node.idsite IS 'ID of the site (idSite)';
COMMENT ON COLUMN matomo_action_node.idvisit IS 'ID of the visit (idVisit), unique within one Matomo';
COMMENT ON COLUMN matomo_action_node.actions IS 'Number of actions of the visit as Matomo counts them: page views, downloads, outlinks, searches and events';
COMMENT ON COLUMN matomo_action_node.country IS 'Country of the visitor, in the language of the token''s user or of matomo.language';
COMMENT ON COLUMN matomo_action_node.region IS 'Region of the visitor';
COMMENT ON COLUMN matomo_action_node.city IS 'City of the visitor';
COMMENT ON COLUMN matomo_action_node.operatingsystemname IS 'Operating system of the visitor';
COMMENT ON COLUMN matomo_action_node.devicemodel IS 'Model of the visitor''s device';
COMMENT ON COLUMN matomo_action_node.devicebrand IS 'Brand of the visitor''s device';
COMMENT ON COLUMN matomo_action_node.visitduration IS 'Duration of the visit, in seconds';
COMMENT ON COLUMN matomo_action_node.dayssincefirstvisit IS 'Days since the visitor''s first visit';
COMMENT ON COLUMN matomo_action_node.visitortype IS 'new, returning or returningCustomer';
COMMENT ON COLUMN matomo_action_node.sitename IS 'Name of the site';
COMMENT ON COLUMN matomo_action_node.userid IS 'User ID that the site gave the visitor';
COMMENT ON COLUMN matomo_action_node.serverdateprettyfirstaction IS 'UTC date of the first action of the visit';
COMMENT ON COLUMN matomo_action_node.action_type IS 'action (page view), event, download, outlink, search, goal, ecommerceOrder, ecommerceAbandonedCart, or 13 (content)';
COMMENT ON COLUMN matomo_action_node.action_eventcategory IS 'Category of the event, empty for other actions';
COMMENT ON COLUMN matomo_action_node.action_eventaction IS 'Action of the event, empty for other actions';
COMMENT ON COLUMN matomo_action_node.action_eventname IS 'Name of the event, empty where it has none';
COMMENT ON COLUMN matomo_action_node.action_eventvalue IS 'Value of the event, 0 where it has none';
COMMENT ON COLUMN matomo_action_node.action_timespent IS 'Time spent on the page, in seconds, 0 where Matomo does not tell';
COMMENT ON COLUMN matomo_action_node.action_timestamp IS 'When the action happened (see matomo.action_time)';
COMMENT ON COLUMN matomo_action_node.usercustomproperties IS 'Custom variables by name, the action''s before the visit''s';
COMMENT ON COLUMN matomo_action_node.usercustomdimensions IS 'Custom dimensions that have a value: {"dimension1": ...}, the action''s before the visit''s';
COMMENT ON COLUMN matomo_action_node.dimension1 IS 'Custom dimension 1, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action_node.dimension2 IS 'Custom dimension 2, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action_node.dimension3 IS 'Custom dimension 3, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action_node.dimension4 IS 'Custom dimension 4, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action_node.dimension5 IS 'Custom dimension 5, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action_node.dimension6 IS 'Custom dimension 6, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action_node.dimension7 IS 'Custom dimension 7, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action_node.dimension8 IS 'Custom dimension 8, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action_node.dimension9 IS 'Custom dimension 9, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action_node.dimension10 IS 'Custom dimension 10, as in usercustomdimensions';
COMMENT ON COLUMN matomo_action_node.action_url IS 'URL of the page, download or outlink';
COMMENT ON COLUMN matomo_action_node.sitesearchkeyword IS 'Keyword of a site search';
COMMENT ON COLUMN matomo_action_node.action_title IS 'Title of the page or of the action';
COMMENT ON COLUMN matomo_action_node.visitorid IS 'ID of the visitor, a hexadecimal number';
COMMENT ON COLUMN matomo_action_node.referrertype IS 'direct, search, website, social or campaign';
COMMENT ON COLUMN matomo_action_node.referrername IS 'Name of the referrer';
COMMENT ON COLUMN matomo_action_node.resolution IS 'Screen resolution of the visitor';
COMMENT ON COLUMN matomo_action_node.experiments IS 'A/B tests that the visit took part in';

CREATE TABLE matomo_action (
    action_id                   text NOT NULL,
    idsite                      integer,
    idvisit                     bigint NOT NULL,
    actions                     integer,
    country                     text,
    region                      text,
    city                        text,
    operatingsystemname         text,
    devicemodel                 text,
    devicebrand                 text,
    visitduration               integer,
    dayssincefirstvisit         integer,
    visitortype                 text,
    sitename                    text,
    userid                      text,
    serverdateprettyfirstaction date,
    action_type                 text,
    action_eventcategory        text,
    action_eventaction          text,
    action_eventname            text,
    action_eventvalue           numeric,
    action_timespent            integer,
    action_timestamp            timestamptz NOT NULL DEFAULT pg_catalog.now(),
    usercustomproperties        jsonb,
    usercustomdimensions        jsonb,
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
    experiments                 jsonb,
    day                         date,
    pageid                      bigint,
    pageidaction                bigint,
    idpageview                  text,
    pageviewposition            integer,
    pageloadtimemilliseconds    integer,
    goalid                      integer,
    goalname                    text,
    revenue                     numeric,
    orderid                     text,
    items                       integer,
    contentname                 text,
    contentpiece                text,
    contenttarget               text,
    contentinteraction          text,
    sitesearchcategory          text,
    sitesearchcount             integer,
    productviewsku              text,
    productviewname             text,
    productviewprice            numeric,
    productviewcategories       text[],
    extra                       jsonb
);
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
COMMENT ON COLUMN matomo_action.day IS 'The site''s day of the last action of the visit, in the site''s timezone: its day in Matomo''s reports';
COMMENT ON COLUMN matomo_action.pageid IS 'Matomo''s ID of the action (idlink_va): unlike action_id it stays when an earlier action arrives late';
COMMENT ON COLUMN matomo_action.pageidaction IS 'Matomo''s ID of the URL (idaction)';
COMMENT ON COLUMN matomo_action.idpageview IS 'ID of the page view that the action belongs to';
COMMENT ON COLUMN matomo_action.pageviewposition IS 'Number of the page view in its visit, from 1';
COMMENT ON COLUMN matomo_action.pageloadtimemilliseconds IS 'Time that the page took to load, in milliseconds';
COMMENT ON COLUMN matomo_action.goalid IS 'ID of the goal (idgoal) of a goal conversion';
COMMENT ON COLUMN matomo_action.goalname IS 'Name of the goal of a goal conversion';
COMMENT ON COLUMN matomo_action.revenue IS 'Revenue of a goal conversion, an order or an abandoned cart, in the currency of the site';
COMMENT ON COLUMN matomo_action.orderid IS 'ID that the shop gave the order';
COMMENT ON COLUMN matomo_action.items IS 'Number of items in an order or an abandoned cart';
COMMENT ON COLUMN matomo_action.contentname IS 'Name of a content block';
COMMENT ON COLUMN matomo_action.contentpiece IS 'What a content block shows, such as the path of an image';
COMMENT ON COLUMN matomo_action.contenttarget IS 'Where a content block leads to';
COMMENT ON COLUMN matomo_action.contentinteraction IS 'How the visitor interacted with a content block; NULL for an impression';
COMMENT ON COLUMN matomo_action.sitesearchcategory IS 'Category of a site search';
COMMENT ON COLUMN matomo_action.sitesearchcount IS 'Number of results of a site search';
COMMENT ON COLUMN matomo_action.productviewsku IS 'SKU of the product that the page shows';
COMMENT ON COLUMN matomo_action.productviewname IS 'Name of the product that the page shows';
COMMENT ON COLUMN matomo_action.productviewprice IS 'Price of the product that the page shows';
COMMENT ON COLUMN matomo_action.productviewcategories IS 'Categories of the product that the page shows';
COMMENT ON COLUMN matomo_action.extra IS 'Keys of the action that no column has, and values that a column''s type cannot hold, by their keys in Matomo; NULL where there are none';

CREATE TABLE matomo_visit (
    idvisit                     bigint NOT NULL,
    idsite                      integer,
    firstaction                 timestamptz NOT NULL,
    lastaction                  timestamptz NOT NULL,
    day                         date,
    visitlocaltime              time,
    visitorid                   text,
    userid                      text,
    visitip                     text,
    fingerprint                 text,
    visitduration               integer,
    visitortype                 text,
    visitcount                  integer,
    visitconverted              boolean,
    visitecommercestatus        text,
    goalconversions             integer,
    actions                     integer,
    interactions                integer,
    searches                    integer,
    events                      integer,
    pageviews                   integer,
    truncatedactionscount       integer,
    entryurl                    text,
    entrytitle                  text,
    exiturl                     text,
    exittitle                   text,
    dayssincefirstvisit         integer,
    secondssincefirstvisit      bigint,
    dayssincelastvisit          integer,
    secondssincelastvisit       bigint,
    secondssincelastecommerceorder bigint,
    referrertype                text,
    referrername                text,
    referrerkeyword             text,
    referrerkeywordposition     integer,
    referrerurl                 text,
    referrersearchengineurl     text,
    referrersocialnetworkurl    text,
    campaignid                  text,
    campaignname                text,
    campaignsource              text,
    campaignmedium              text,
    campaignkeyword             text,
    campaigncontent             text,
    campaigngroup               text,
    campaignplacement           text,
    languagecode                text,
    devicetype                  text,
    devicebrand                 text,
    devicemodel                 text,
    operatingsystemname         text,
    operatingsystemcode         text,
    operatingsystemversion      text,
    browsername                 text,
    browsercode                 text,
    browserversion              text,
    browserfamily               text,
    resolution                  text,
    plugins                     text,
    continentcode               text,
    countrycode                 text,
    country                     text,
    regioncode                  text,
    region                      text,
    city                        text,
    latitude                    double precision,
    longitude                   double precision,
    sitename                    text,
    sitecurrency                text,
    dimensions                  jsonb,
    customvariables             jsonb,
    experiments                 jsonb,
    extra                       jsonb
);
COMMENT ON COLUMN matomo_visit.idvisit IS 'ID of the visit (idVisit), unique within one Matomo';
COMMENT ON COLUMN matomo_visit.idsite IS 'ID of the site (idSite)';
COMMENT ON COLUMN matomo_visit.firstaction IS 'When the visit began';
COMMENT ON COLUMN matomo_visit.lastaction IS 'When the last action of the visit happened';
COMMENT ON COLUMN matomo_visit.day IS 'The site''s day of the last action, in the site''s timezone: the day of the visit in Matomo''s reports';
COMMENT ON COLUMN matomo_visit.visitlocaltime IS 'When the visit began on the visitor''s clock';
COMMENT ON COLUMN matomo_visit.visitorid IS 'ID of the visitor, a hexadecimal number; NULL for an anonymous token';
COMMENT ON COLUMN matomo_visit.userid IS 'User ID that the site gave the visitor';
COMMENT ON COLUMN matomo_visit.visitip IS 'IP address of the visitor, as far as Matomo keeps it';
COMMENT ON COLUMN matomo_visit.fingerprint IS 'Matomo''s fingerprint of the visitor''s configuration (config_id)';
COMMENT ON COLUMN matomo_visit.visitduration IS 'Duration of the visit, in seconds';
COMMENT ON COLUMN matomo_visit.visitortype IS 'new, returning or returningCustomer';
COMMENT ON COLUMN matomo_visit.visitcount IS 'Number of the visit among the visitor''s, from 1';
COMMENT ON COLUMN matomo_visit.visitconverted IS 'Whether the visit converted a goal or had an order';
COMMENT ON COLUMN matomo_visit.visitecommercestatus IS 'none, ordered, abandonedCart or orderedThenAbandonedCart';
COMMENT ON COLUMN matomo_visit.goalconversions IS 'Number of goal conversions in the visit';
COMMENT ON COLUMN matomo_visit.actions IS 'Number of actions of the visit as Matomo counts them: page views, downloads, outlinks, searches and events';
COMMENT ON COLUMN matomo_visit.interactions IS 'Number of interactions of the visit as Matomo counts them: page views and site searches';
COMMENT ON COLUMN matomo_visit.searches IS 'Number of site searches in the visit';
COMMENT ON COLUMN matomo_visit.events IS 'Number of events in the visit';
COMMENT ON COLUMN matomo_visit.pageviews IS 'Number of page views among the actions that Matomo lists';
COMMENT ON COLUMN matomo_visit.truncatedactionscount IS 'Number of actions that Matomo did not list, as the visit has more than it lists of one; else 0';
COMMENT ON COLUMN matomo_visit.entryurl IS 'URL of the first page view';
COMMENT ON COLUMN matomo_visit.entrytitle IS 'Title of the first page view';
COMMENT ON COLUMN matomo_visit.exiturl IS 'URL of the last page view; NULL where Matomo did not list all actions';
COMMENT ON COLUMN matomo_visit.exittitle IS 'Title of the last page view; NULL where Matomo did not list all actions';
COMMENT ON COLUMN matomo_visit.dayssincefirstvisit IS 'Days since the visitor''s first visit';
COMMENT ON COLUMN matomo_visit.secondssincefirstvisit IS 'Seconds since the visitor''s first visit';
COMMENT ON COLUMN matomo_visit.dayssincelastvisit IS 'Days since the visitor''s last visit';
COMMENT ON COLUMN matomo_visit.secondssincelastvisit IS 'Seconds since the visitor''s last visit';
COMMENT ON COLUMN matomo_visit.secondssincelastecommerceorder IS 'Seconds since the visitor''s last order; NULL where there is none';
COMMENT ON COLUMN matomo_visit.referrertype IS 'direct, search, website, social or campaign';
COMMENT ON COLUMN matomo_visit.referrername IS 'Name of the referrer: of the search engine, website, network or campaign';
COMMENT ON COLUMN matomo_visit.referrerkeyword IS 'Keyword of the search engine or campaign';
COMMENT ON COLUMN matomo_visit.referrerkeywordposition IS 'Position of the site among the results of the search engine';
COMMENT ON COLUMN matomo_visit.referrerurl IS 'URL of the referrer';
COMMENT ON COLUMN matomo_visit.referrersearchengineurl IS 'URL of the search engine';
COMMENT ON COLUMN matomo_visit.referrersocialnetworkurl IS 'URL of the social network';
COMMENT ON COLUMN matomo_visit.campaignid IS 'ID of the campaign (plugin MarketingCampaignsReporting)';
COMMENT ON COLUMN matomo_visit.campaignname IS 'Name of the campaign (plugin MarketingCampaignsReporting)';
COMMENT ON COLUMN matomo_visit.campaignsource IS 'Source of the campaign (plugin MarketingCampaignsReporting)';
COMMENT ON COLUMN matomo_visit.campaignmedium IS 'Medium of the campaign (plugin MarketingCampaignsReporting)';
COMMENT ON COLUMN matomo_visit.campaignkeyword IS 'Keyword of the campaign (plugin MarketingCampaignsReporting)';
COMMENT ON COLUMN matomo_visit.campaigncontent IS 'Content of the campaign (plugin MarketingCampaignsReporting)';
COMMENT ON COLUMN matomo_visit.campaigngroup IS 'Group of the campaign (plugin MarketingCampaignsReporting)';
COMMENT ON COLUMN matomo_visit.campaignplacement IS 'Placement of the campaign (plugin MarketingCampaignsReporting)';
COMMENT ON COLUMN matomo_visit.languagecode IS 'Language of the visitor''s browser, such as en-us';
COMMENT ON COLUMN matomo_visit.devicetype IS 'Type of the visitor''s device, in the language of the token''s user or of matomo.language';
COMMENT ON COLUMN matomo_visit.devicebrand IS 'Brand of the visitor''s device';
COMMENT ON COLUMN matomo_visit.devicemodel IS 'Model of the visitor''s device';
COMMENT ON COLUMN matomo_visit.operatingsystemname IS 'Operating system of the visitor';
COMMENT ON COLUMN matomo_visit.operatingsystemcode IS 'Matomo''s code of the operating system, such as WIN';
COMMENT ON COLUMN matomo_visit.operatingsystemversion IS 'Version of the operating system';
COMMENT ON COLUMN matomo_visit.browsername IS 'Browser of the visitor';
COMMENT ON COLUMN matomo_visit.browsercode IS 'Matomo''s code of the browser, such as CH';
COMMENT ON COLUMN matomo_visit.browserversion IS 'Version of the browser';
COMMENT ON COLUMN matomo_visit.browserfamily IS 'Engine of the browser, such as Blink';
COMMENT ON COLUMN matomo_visit.resolution IS 'Screen resolution of the visitor';
COMMENT ON COLUMN matomo_visit.plugins IS 'Plugins of the browser, with commas between';
COMMENT ON COLUMN matomo_visit.continentcode IS 'Code of the continent, such as eur';
COMMENT ON COLUMN matomo_visit.countrycode IS 'Code of the country, such as fr';
COMMENT ON COLUMN matomo_visit.country IS 'Country of the visitor, in the language of the token''s user or of matomo.language';
COMMENT ON COLUMN matomo_visit.regioncode IS 'Code of the region within its country';
COMMENT ON COLUMN matomo_visit.region IS 'Region of the visitor';
COMMENT ON COLUMN matomo_visit.city IS 'City of the visitor';
COMMENT ON COLUMN matomo_visit.latitude IS 'Latitude of the place, in degrees';
COMMENT ON COLUMN matomo_visit.longitude IS 'Longitude of the place, in degrees';
COMMENT ON COLUMN matomo_visit.sitename IS 'Name of the site';
COMMENT ON COLUMN matomo_visit.sitecurrency IS 'Currency of the site (ISO 4217), in which all revenues are';
COMMENT ON COLUMN matomo_visit.dimensions IS 'Custom dimensions of the visit that have a value: {"dimension1": ...}';
COMMENT ON COLUMN matomo_visit.customvariables IS 'Custom variables of the visit by name';
COMMENT ON COLUMN matomo_visit.experiments IS 'A/B tests that the visit took part in';
COMMENT ON COLUMN matomo_visit.extra IS 'Keys of the visit that no column has, and values that a column''s type cannot hold, by their keys in Matomo; NULL where there are none';

CREATE TABLE matomo_conversion (
    action_id                   text NOT NULL,
    idvisit                     bigint NOT NULL,
    idsite                      integer,
    visitorid                   text,
    type                        text,
    converted                   timestamptz NOT NULL,
    day                         date,
    goalid                      integer,
    goalname                    text,
    goalpageid                  bigint,
    orderid                     text,
    url                         text,
    revenue                     numeric,
    revenuesubtotal             numeric,
    revenuetax                  numeric,
    revenueshipping             numeric,
    revenuediscount             numeric,
    items                       integer,
    referrertype                text,
    referrername                text,
    referrerkeyword             text,
    idpageview                  text,
    dimensions                  jsonb,
    extra                       jsonb
);
COMMENT ON COLUMN matomo_conversion.action_id IS 'The action in the destination: idVisit, an underscore, and its place in the visit';
COMMENT ON COLUMN matomo_conversion.idvisit IS 'ID of the visit (idVisit), unique within one Matomo';
COMMENT ON COLUMN matomo_conversion.idsite IS 'ID of the site (idSite)';
COMMENT ON COLUMN matomo_conversion.visitorid IS 'ID of the visitor, a hexadecimal number; NULL for an anonymous token';
COMMENT ON COLUMN matomo_conversion.type IS 'goal, ecommerceOrder or ecommerceAbandonedCart';
COMMENT ON COLUMN matomo_conversion.converted IS 'When it happened (see matomo.action_time)';
COMMENT ON COLUMN matomo_conversion.day IS 'The site''s day of the last action of the visit, in the site''s timezone: the day of the visit in Matomo''s reports';
COMMENT ON COLUMN matomo_conversion.goalid IS 'ID of the goal (idgoal); NULL for orders and carts, and for goals deleted since';
COMMENT ON COLUMN matomo_conversion.goalname IS 'Name of the goal';
COMMENT ON COLUMN matomo_conversion.goalpageid IS 'pageid of the action that converted the goal; NULL where it was converted by hand';
COMMENT ON COLUMN matomo_conversion.orderid IS 'ID that the shop gave the order; NULL for a cart';
COMMENT ON COLUMN matomo_conversion.url IS 'URL of the page on which the goal was converted';
COMMENT ON COLUMN matomo_conversion.revenue IS 'Revenue, in the currency of the site';
COMMENT ON COLUMN matomo_conversion.revenuesubtotal IS 'Part of the revenue: the items';
COMMENT ON COLUMN matomo_conversion.revenuetax IS 'Part of the revenue: tax';
COMMENT ON COLUMN matomo_conversion.revenueshipping IS 'Part of the revenue: shipping';
COMMENT ON COLUMN matomo_conversion.revenuediscount IS 'Discount';
COMMENT ON COLUMN matomo_conversion.items IS 'Number of items in the order or cart';
COMMENT ON COLUMN matomo_conversion.referrertype IS 'To what Matomo attributes the conversion: direct, search, website, social or campaign';
COMMENT ON COLUMN matomo_conversion.referrername IS 'Name of that referrer';
COMMENT ON COLUMN matomo_conversion.referrerkeyword IS 'Keyword of that referrer';
COMMENT ON COLUMN matomo_conversion.idpageview IS 'ID of the page view on which it happened';
COMMENT ON COLUMN matomo_conversion.dimensions IS 'Custom dimensions of the conversion that have a value: {"dimension1": ...}';
COMMENT ON COLUMN matomo_conversion.extra IS 'Keys of the conversion that no column has, and values that a column''s type cannot hold, by their keys in Matomo; NULL where there are none';

CREATE TABLE matomo_item (
    action_id                   text NOT NULL,
    place                       integer NOT NULL,
    idvisit                     bigint NOT NULL,
    idsite                      integer,
    converted                   timestamptz NOT NULL,
    itemsku                     text,
    itemname                    text,
    itemcategory                text,
    categories                  text[],
    price                       numeric,
    quantity                    integer,
    extra                       jsonb
);
COMMENT ON COLUMN matomo_item.action_id IS 'The order or cart: action_id of its conversion';
COMMENT ON COLUMN matomo_item.place IS 'Place of the item in the order or cart, from 0';
COMMENT ON COLUMN matomo_item.idvisit IS 'ID of the visit (idVisit), unique within one Matomo';
COMMENT ON COLUMN matomo_item.idsite IS 'ID of the site (idSite)';
COMMENT ON COLUMN matomo_item.converted IS 'When the order or cart happened (see matomo.action_time)';
COMMENT ON COLUMN matomo_item.itemsku IS 'SKU of the product';
COMMENT ON COLUMN matomo_item.itemname IS 'Name of the product';
COMMENT ON COLUMN matomo_item.itemcategory IS 'First category of the product';
COMMENT ON COLUMN matomo_item.categories IS 'All categories of the product';
COMMENT ON COLUMN matomo_item.price IS 'Price of one, in the currency of the site';
COMMENT ON COLUMN matomo_item.quantity IS 'Number of them';
COMMENT ON COLUMN matomo_item.extra IS 'Keys of the item that no column has, and values that a column''s type cannot hold, by their keys in Matomo; NULL where there are none';
COMMENT ON TABLE matomo_action IS 'Template of tables of Matomo actions: one row per action of a visit. Always empty; see matomo_create_table';
COMMENT ON TABLE matomo_action_node IS 'Template of such tables with the columns and types of the Node tool. Always empty; see matomo_create_table';

CREATE OR REPLACE FUNCTION matomo_create_table(
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

CREATE OR REPLACE FUNCTION matomo_partition_ranges(destination regclass)
RETURNS TABLE (lower_bound timestamptz, upper_bound timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO'
AS $$
    SELECT coalesce(substring(b.expr FROM 'FROM [(]''([^'']*)''[)]')::timestamptz, '-infinity'),
           coalesce(substring(b.expr FROM 'TO [(]''([^'']*)''[)]')::timestamptz, 'infinity')
    FROM pg_partitioned_table p
    JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
    JOIN pg_inherits i ON i.inhparent = p.partrelid
    JOIN pg_class c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS b(expr)
    WHERE p.partrelid = destination AND p.partstrat = 'r' AND p.partnatts = 1
      AND a.attname IN ('action_timestamp', 'lastaction', 'converted') AND b.expr <> 'DEFAULT'
$$;

COMMENT ON FUNCTION matomo_partition_ranges(regclass) IS
    'Internal: bounds of each partition of a destination or companion that is partitioned by its time; the upper one is exclusive';

CREATE OR REPLACE FUNCTION matomo_grant_as(made regclass, model regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    has_grants boolean;
    change text;
BEGIN
    EXECUTE format('ALTER TABLE %s OWNER TO %I', made, (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = model));
    SELECT bool_or(c.relacl IS NOT NULL) INTO has_grants FROM pg_class c WHERE c.oid IN (model, made);
    FOR change IN
        SELECT format('REVOKE ALL ON %s FROM %s', made, g.grantee)
        FROM pg_class c
        CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
        CROSS JOIN LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) AS g(grantee)
        WHERE c.oid = made AND has_grants
        GROUP BY g.grantee
    LOOP
        EXECUTE change;
    END LOOP;
    FOR change IN
        SELECT format('GRANT %s ON %s TO %s', string_agg(a.privilege_type || a.columns, ', '), made, g.grantee)
               || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
        FROM (SELECT a.grantee, a.privilege_type, '' AS columns, a.is_grantable, a.place
              FROM pg_class c
              CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner)))
                  WITH ORDINALITY AS a(grantor, grantee, privilege_type, is_grantable, place)
              WHERE c.oid = model AND has_grants
              UNION ALL
              SELECT a.grantee, a.privilege_type, format(' (%I)', t.attname), a.is_grantable, NULL
              FROM pg_attribute t CROSS JOIN LATERAL aclexplode(t.attacl) a
              WHERE t.attrelid = model AND NOT t.attisdropped
                AND EXISTS (SELECT FROM pg_attribute own WHERE own.attrelid = made AND own.attname = t.attname)) AS a
        CROSS JOIN LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) AS g(grantee)
        GROUP BY g.grantee, a.is_grantable
        ORDER BY min(a.place)
    LOOP
        EXECUTE change;
    END LOOP;
    -- Policies of the table do not apply to direct reads of a partition; this allows none.
    IF (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = model) THEN
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', made);
    END IF;
END
$$;

COMMENT ON FUNCTION matomo_grant_as(regclass, regclass) IS
    'Internal: gives a table that we make the owner, the grants and the row-level security of another';

CREATE OR REPLACE FUNCTION matomo_create_week(destination regclass, lower_bound timestamptz, upper_bound timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO'
SET default_tablespace = ''
AS $$
DECLARE
    of_schema name;
    of_table name;
    storage text;
    stem text;
    partition text;
    made regclass;
    attempt integer := 1;
    change text;
BEGIN
    SELECT n.nspname, c.relname, concat(' USING ' || quote_ident(m.amname), ' TABLESPACE ' || quote_ident(s.spcname))
    INTO of_schema, of_table, storage
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_am m ON m.oid = c.relam
    LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
    WHERE c.oid = destination;
    stem := of_table || to_char(lower_bound + (upper_bound - lower_bound) / 2, '"_"IYYY"w"IW');
    LOOP
        partition := stem || CASE WHEN attempt > 1 THEN '_' || attempt ELSE '' END;
        -- The name of a Node tool's table may leave no room for the week: shorten it.
        WHILE octet_length(partition) > 63 LOOP
            of_table := left(of_table, -1);
            stem := of_table || right(stem, 8);
            partition := stem || CASE WHEN attempt > 1 THEN '_' || attempt ELSE '' END;
        END LOOP;
        EXIT WHEN to_regclass(format('%I.%I', of_schema, partition)) IS NULL;
        attempt := attempt + 1;
    END LOOP;

    -- Create and attach: CREATE TABLE ... PARTITION OF would block readers until the commit.
    EXECUTE format('CREATE TABLE %I.%I (LIKE %s INCLUDING ALL EXCLUDING IDENTITY EXCLUDING COMMENTS)%s',
        of_schema, partition, destination, storage);
    made := format('%I.%I', of_schema, partition)::regclass;
    PERFORM @extschema@.matomo_grant_as(made, destination);
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)',
        destination, made, lower_bound, upper_bound);
    -- If an index is the replica identity, use the partition's index attached to it.
    SELECT format('ALTER TABLE %s REPLICA IDENTITY ', made) || CASE c.relreplident
               WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' WHEN 'i' THEN format('USING INDEX %I', x.relname) END
    INTO change
    FROM pg_class c
    LEFT JOIN (pg_index t JOIN pg_inherits i ON i.inhparent = t.indexrelid
               JOIN pg_index p ON p.indexrelid = i.inhrelid AND p.indrelid = made
               JOIN pg_class x ON x.oid = p.indexrelid) ON t.indrelid = c.oid AND t.indisreplident
    WHERE c.oid = destination;
    IF change IS NOT NULL THEN
        EXECUTE change;
    END IF;
END
$$;

COMMENT ON FUNCTION matomo_create_week(regclass, timestamptz, timestamptz) IS
    'Internal: creates one partition of a table of the caller''s, named after the week in its middle';

CREATE OR REPLACE FUNCTION matomo_create_weeks(destination regclass, from_time timestamptz, to_time timestamptz)
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO'
AS $$
DECLARE
    day CONSTANT interval := '1 day';
    week CONSTANT interval := '7 days';
    locked boolean := false;
    created integer := 0;
    at timestamptz := from_time;
    below timestamptz;
    above timestamptz;
    lower_bound timestamptz;
    upper_bound timestamptz;
    in_partition boolean;
    of_schema name;
    of_table name;
    table_owner oid;
    missing text;
    advice text;
BEGIN
    -- A table that is partitioned another way, or has a default partition, needs no partitions from us.
    SELECT n.nspname, c.relname, c.relowner INTO of_schema, of_table, table_owner
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_partitioned_table p ON p.partrelid = c.oid
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
    WHERE c.oid = destination AND p.partstrat = 'r' AND p.partnatts = 1
      AND a.attname IN ('action_timestamp', 'lastaction', 'converted') AND p.partdefid = 0;
    IF NOT FOUND OR from_time IS NULL OR to_time IS NULL THEN
        RETURN 0;
    END IF;

    IF NOT (isfinite(from_time) AND isfinite(to_time)) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'both times must be finite';
    END IF;

    WHILE at <= to_time LOOP
        SELECT coalesce(bool_or(lo <= at AND at < hi), false),
               coalesce(max(hi) FILTER (WHERE hi <= at), '-infinity'),
               coalesce(min(lo) FILTER (WHERE lo > at), 'infinity'),
               min(hi) FILTER (WHERE lo <= at AND at < hi)
        INTO in_partition, below, above, upper_bound
        FROM @extschema@.matomo_partition_ranges(destination) AS r(lo, hi);

        IF in_partition THEN
            at := upper_bound;
            CONTINUE;
        END IF;
        IF NOT locked THEN
            -- One session at a time, without blocking reads and writes. Then check again.
            EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', destination);
            locked := true;
            CONTINUE;
        END IF;

        lower_bound := date_trunc('week', at);
        upper_bound := lower_bound + week;
        -- Next to partitions with other bounds, less than a day of a week may be missing. Such a part
        -- goes into the partition of the adjacent week.
        IF below > upper_bound - day THEN
            upper_bound := upper_bound + week;
        ELSIF above < lower_bound + day THEN
            lower_bound := lower_bound - week;
        END IF;
        IF below >= lower_bound - day THEN
            lower_bound := below;
        END IF;
        IF above <= upper_bound + day THEN
            upper_bound := above;
        END IF;

        -- A role that may write to the table may still not be able to create its partitions. The owner
        -- of the table needs CREATE on its schema: a superuser may have created the table for it.
        SELECT CASE WHEN NOT is_owner
                    THEN format('This requires the rights of its owner, %I.', pg_get_userbyid(table_owner))
                    WHEN needs_create IS NOT NULL
                    THEN format('This requires CREATE on schema %I.', of_schema) END,
               CASE WHEN NOT is_owner
                    THEN 'Ask the owner to run matomo_create_partitions, or to register a site, which creates partitions ahead.'
                    WHEN needs_create IS NOT NULL
                    THEN format('GRANT CREATE ON SCHEMA %I TO %I.', of_schema, needs_create) END
        INTO missing, advice
        FROM (SELECT table_owner = quote_ident(current_user)::regrole,
                     CASE WHEN NOT has_schema_privilege(of_schema::text, 'CREATE') THEN current_user END)
            AS x(is_owner, needs_create);
        IF missing IS NOT NULL THEN
            RAISE insufficient_privilege USING
                MESSAGE = format('permission denied to create the partition of table %I.%I for the week of %s',
                    of_schema, of_table, date_trunc('week', at)::date),
                DETAIL = missing,
                HINT = advice;
        END IF;

        PERFORM @extschema@.matomo_create_week(destination, lower_bound, upper_bound);
        created := created + 1;
        at := upper_bound;
    END LOOP;
    RETURN created;
END
$$;

COMMENT ON FUNCTION matomo_create_weeks(regclass, timestamptz, timestamptz) IS
    'Internal: creates the missing weekly partitions (UTC) of one table of the caller''s, and returns their number';
COMMENT ON FUNCTION matomo_create_partitions(regclass, timestamptz, timestamptz) IS
    'Creates the missing weekly partitions (UTC) of a destination and its companions between two instants, and returns the number of those of the destination';
COMMENT ON TABLE matomo_ledger IS 'Copied site-days: one row per Matomo, site, destination and day';
COMMENT ON COLUMN matomo_ledger.destination IS 'Destination: table of the actions; 0 if restored from a dump and not found yet';
COMMENT ON COLUMN matomo_ledger.sealed IS 'Whether the day was read whole after it had ended and settled; sealed days are not requested again';
COMMENT ON COLUMN matomo_ledger.visits IS 'Visits of the day; for an open day, those read so far';
COMMENT ON COLUMN matomo_ledger.actions IS 'Actions of these visits';
COMMENT ON COLUMN matomo_ledger.truncated_visits IS 'Visits with only their first actions listed by Matomo';
COMMENT ON COLUMN matomo_ledger.newest IS 'Last action of the newest copied visit, at most read_at; the next poll of an open day starts matomo.overlap before it';
COMMENT ON COLUMN matomo_ledger.read_at IS 'When the day was last read';
COMMENT ON COLUMN matomo_ledger.pass_began IS 'When the unfinished reading or recheck began; NULL if there is none';
COMMENT ON COLUMN matomo_ledger.pass_since IS 'Where it resumes';
COMMENT ON COLUMN matomo_ledger.pass_seen IS 'Visits that it has read; empty if it reads only new visits, NULL if it is a recheck';
COMMENT ON COLUMN matomo_ledger.rechecked_at IS 'When the last recheck or whole reading of an open day began; see matomo.recheck';
COMMENT ON COLUMN matomo_ledger.action_time IS 'Value of matomo.action_time for the day''s rows; NULL if unknown';
COMMENT ON COLUMN matomo_ledger.destination_name IS 'Schema, name and owner of the table in a dump, and after a restore until the table is found; otherwise empty';

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

CREATE OR REPLACE FUNCTION matomo_find_table(name text[]) RETURNS oid
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

CREATE OR REPLACE VIEW matomo_days WITH (security_barrier) AS
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
COMMENT ON TABLE matomo_visit IS 'Template of tables of Matomo visits: one row per visit. Always empty; see matomo_create_companions';
COMMENT ON TABLE matomo_conversion IS 'Template of tables of Matomo conversions: one row per goal conversion, order or abandoned cart. Always empty; see matomo_create_companions';
COMMENT ON TABLE matomo_item IS 'Template of tables of the items of orders and abandoned carts: one row per item. Always empty; see matomo_create_companions';

CREATE TABLE matomo_companion (
    destination      regclass NOT NULL,
    kind             text NOT NULL CHECK (kind IN ('visits', 'conversions', 'items')),
    companion        regclass NOT NULL,
    destination_name text[] NOT NULL DEFAULT '{}',
    companion_name   text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (destination, kind, destination_name)
);
COMMENT ON TABLE matomo_companion IS 'Tables of visits, conversions and items of each destination';
COMMENT ON COLUMN matomo_companion.destination IS 'Table of the actions; 0 if restored from a dump';
COMMENT ON COLUMN matomo_companion.kind IS 'What its rows are: visits, conversions or items';
COMMENT ON COLUMN matomo_companion.companion IS 'The table; 0 if restored from a dump';
COMMENT ON COLUMN matomo_companion.destination_name IS 'Schema, name and owner of the table of the actions in a dump, and after a restore; otherwise empty';
COMMENT ON COLUMN matomo_companion.companion_name IS 'The same of the table; then the word late, if days were copied while it was missing';

SELECT pg_catalog.pg_extension_config_dump('matomo_companion', $$
    AS l (destination_here, kind, companion_here, known_destination, known_companion)
    LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_catalog.pg_roles r ON r.oid = c.relowner) ON c.oid = l.destination_here
    LEFT JOIN (pg_catalog.pg_class k JOIN pg_catalog.pg_namespace m ON m.oid = k.relnamespace
               JOIN pg_catalog.pg_roles o ON o.oid = k.relowner) ON k.oid = l.companion_here
    CROSS JOIN LATERAL (SELECT 0::pg_catalog.oid::pg_catalog.regclass, 0::pg_catalog.oid::pg_catalog.regclass,
        CASE WHEN l.destination_here = 0::pg_catalog.oid THEN l.known_destination
             -- Dropped, as src/store/companions.rs notes it.
             WHEN c.oid IS NULL THEN ARRAY['?', l.companion_here::pg_catalog.oid::pg_catalog.text,
                 l.destination_here::pg_catalog.oid::pg_catalog.text]
             ELSE ARRAY[n.nspname::text, c.relname::text, r.rolname::text] END,
        CASE l.companion_here WHEN 0::pg_catalog.oid THEN l.known_companion
             ELSE ARRAY[m.nspname::text, k.relname::text, o.rolname::text] END)
        AS d (destination, companion, destination_name, companion_name)
    WHERE (c.oid IS NULL OR c.relpersistence <> 't')
      AND (l.companion_here = 0::pg_catalog.oid OR k.relpersistence <> 't')
    ORDER BY pg_catalog.row_number() OVER (PARTITION BY l.kind, d.destination_name
        ORDER BY l.destination_here = 0::pg_catalog.oid)
    FETCH FIRST ROW WITH TIES$$);

CREATE OR REPLACE FUNCTION matomo_find_companion(destination regclass, kind text, columns text[]) RETURNS regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.oid::regclass FROM pg_class d
    JOIN pg_class c ON c.relnamespace = d.relnamespace AND c.relname = (d.relname || '_' || kind)::name
        AND c.relname::text = d.relname || '_' || kind
    WHERE d.oid = destination AND c.relkind IN ('r', 'p') AND c.relowner = d.relowner
      AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = ANY (columns)) = cardinality(columns)
$$;

COMMENT ON FUNCTION matomo_find_companion(regclass, text, text[]) IS
    'Internal: finds a table that can be a companion of a destination, by its name, owner and columns';

CREATE OR REPLACE FUNCTION matomo_create_companion(destination regclass, kind text, key text[], time_column text) RETURNS regclass
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET default_tablespace = ''
AS $$
DECLARE
    template CONSTANT text := CASE kind WHEN 'visits' THEN '@extschema@.matomo_visit'
        WHEN 'conversions' THEN '@extschema@.matomo_conversion' WHEN 'items' THEN '@extschema@.matomo_item' END;
    of_schema name;
    of_table name;
    table_owner oid;
    is_temporary boolean;
    by_time boolean;
    companion_name text;
    qualified text;
    known regclass;
    is_its boolean;
BEGIN
    SELECT n.nspname, c.relname, c.relowner, c.relpersistence = 't', EXISTS (
               SELECT FROM pg_partitioned_table p
               JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
               WHERE p.partrelid = c.oid AND p.partstrat = 'r' AND p.partnatts = 1 AND a.attname = 'action_timestamp')
    INTO of_schema, of_table, table_owner, is_temporary, by_time
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = destination AND c.relkind IN ('r', 'p', 'f');
    IF NOT FOUND THEN
        RAISE wrong_object_type USING MESSAGE = format('"%s" is not a table', destination);
    END IF;
    IF NOT pg_has_role(table_owner, 'USAGE') THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('permission denied for table %s', destination),
            DETAIL = format('This requires the rights of its owner, %I.', pg_get_userbyid(table_owner));
    END IF;
    companion_name := of_table || '_' || kind;
    IF octet_length(companion_name) > (CASE WHEN by_time THEN 55 ELSE 63 END) THEN
        RAISE name_too_long USING
            MESSAGE = format('table name "%s" is too long', companion_name),
            HINT = 'Give the table of the actions a shorter name, or SET matomo.companions = ''''.';
    END IF;
    qualified := format('%I.%I', of_schema, companion_name);
    known := to_regclass(qualified);
    IF known IS NOT NULL THEN
        -- The lock keeps it from being replaced. If it has rows and the destination has none, they are of another.
        IF known = @extschema@.matomo_find_companion(destination, kind, key || time_column) THEN
            EXECUTE format('LOCK TABLE ONLY %s IN ACCESS SHARE MODE', qualified);
            IF to_regclass(qualified) = known THEN
                -- Two statements, as Citus plans them.
                EXECUTE format('SELECT true FROM %s LIMIT 1', destination) INTO is_its;
                IF is_its IS NULL THEN
                    EXECUTE format('SELECT false FROM %s LIMIT 1', qualified) INTO is_its;
                END IF;
                IF coalesce(is_its, true) THEN
                    RETURN known;
                END IF;
            END IF;
        END IF;
        RAISE duplicate_table USING
            MESSAGE = format('table %s, for the %s of %s, already exists', qualified, kind, destination),
            HINT = 'Drop it or rename it, or leave it out of matomo.companions.';
    END IF;
    EXECUTE format('CREATE %s TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING COMMENTS, PRIMARY KEY (%s))%s',
        CASE WHEN is_temporary THEN 'TEMPORARY' END, qualified, template,
        (SELECT string_agg(quote_ident(k.name), ', ' ORDER BY k.place)
         FROM unnest(CASE WHEN by_time THEN key || time_column ELSE key END) WITH ORDINALITY AS k(name, place)),
        CASE WHEN by_time THEN format(' PARTITION BY RANGE (%I)', time_column) END);
    IF NOT by_time THEN
        EXECUTE format('CREATE INDEX ON %s (%I)', qualified, time_column);
    END IF;
    EXECUTE format('COMMENT ON TABLE %s IS %L', qualified, format(CASE kind
        WHEN 'visits' THEN 'Matomo visits, one row per visit of %s'
        WHEN 'conversions' THEN 'Matomo conversions, one row per goal conversion, order or abandoned cart of %s'
        WHEN 'items' THEN 'Items of Matomo orders and abandoned carts of %s, one row per item' END, of_table));
    -- Who may read the actions may read these; policies of the table of the actions do not apply to them.
    PERFORM @extschema@.matomo_grant_as(qualified::regclass, destination);
    RETURN qualified::regclass;
END
$$;

COMMENT ON FUNCTION matomo_create_companion(regclass, text, text[], text) IS
    'Internal: makes or takes one table of matomo_create_companions';
COMMENT ON FUNCTION matomo_create_companions(regclass) IS
    'Makes the tables of visits, conversions and items of a destination, as far as matomo.companions names them, or takes those that are there; returns them';
COMMENT ON FUNCTION matomo_sync(integer, text, text, date, date, text, boolean, integer, text) IS
    'Copies the visits of a Matomo site from start_date to end_date (default today) into a table; returns a row per day';
COMMENT ON FUNCTION matomo_check(integer, date, date, text, text, text, boolean, boolean, integer, text, boolean) IS
    'Compares the visits of a site in Matomo and in a table, day by day, and optionally repairs differences';
COMMENT ON FUNCTION matomo_forget(text, text, regclass, text) IS
    'Deletes all rows of a visitor, by visitorid, userid or visitip, from all destinations or one, and returns their number. Erase the visitor in Matomo first, or a sync copies the visits again';

CREATE OR REPLACE FUNCTION matomo_old_tables(
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

CREATE OR REPLACE FUNCTION matomo_is_of_rows(state text, VARIADIC relations text[]) RETURNS boolean
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT state !~ '^(08|25|28|40|53[0-3]|55P03|55006|57|58|HV)'
       AND NOT EXISTS (SELECT FROM unnest(relations) AS r(name)
                       LEFT JOIN pg_class c ON c.oid = to_regclass(r.name)
                       WHERE c.oid IS NULL OR c.relkind = 'f' AND state IN ('42501', '42704'))
$$;

COMMENT ON FUNCTION matomo_is_of_rows(text, text[]) IS
    'Internal: whether an error is of the rows that are removed, and does not keep others from being removed';

CREATE OR REPLACE FUNCTION matomo_drop_partition(
    id oid,
    parent text,
    name text,
    lo text,
    hi text,
    drop_chunks text,
    OUT failed jsonb
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    IF drop_chunks IS NULL THEN
        EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', parent, name);
        -- Its name may have become another table's before the lock: the next step reads names again.
        IF to_regclass(name) IS DISTINCT FROM id THEN
            RAISE lock_not_available;
        END IF;
        EXECUTE format('DROP TABLE %s', name);
        RETURN;
    END IF;
    EXECUTE 'SELECT ' || format(drop_chunks, parent, hi, lo);
    -- One that is frozen stays, without an error.
    IF to_regclass(name) IS NOT NULL THEN
        RAISE object_not_in_prerequisite_state USING MESSAGE = format('old rows of %s are not deleted', parent);
    END IF;
EXCEPTION
    WHEN OTHERS OR assert_failure THEN
        IF drop_chunks IS NULL AND to_regclass(name) IS DISTINCT FROM id THEN
            RAISE lock_not_available;
        END IF;
        IF NOT @extschema@.matomo_is_of_rows(SQLSTATE, parent, name) THEN
            RAISE;
        END IF;
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        failed := jsonb_build_object('state', SQLSTATE, 'message', SQLERRM,
            'detail', coalesce(nullif(detail, ''), format('%s was not dropped.', name)),
            'hint', coalesce(nullif(hint, ''), 'Remove what prevents it, or drop it yourself.'));
END
$$;

COMMENT ON FUNCTION matomo_drop_partition(oid, text, text, text, text, text) IS
    'Internal: drops a partition or a chunk, for matomo_drop_rows';

CREATE OR REPLACE FUNCTION matomo_drop_day(
    among text,
    which text,
    before timestamptz,
    site text,
    first timestamptz,
    last timestamptz,
    path text,
    OUT actions bigint,
    OUT sites text[],
    OUT failed jsonb
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one text;
    of_one record;
    hint text;
    are_left boolean;
    name CONSTANT text := regexp_replace(among, '^ONLY ', '');
BEGIN
    BEGIN
        PERFORM set_config('search_path', path, true);
        EXECUTE pg_catalog.format('DELETE FROM %s AS d WHERE %s', among, which) USING before, site, first, last;
        GET DIAGNOSTICS actions = ROW_COUNT;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        sites := CASE WHEN site IS NOT NULL THEN ARRAY[site] END;
    EXCEPTION
        WHEN OTHERS OR assert_failure THEN
            IF NOT @extschema@.matomo_is_of_rows(SQLSTATE, name) THEN
                RAISE;
            END IF;
            GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
            actions := 0;
            failed := jsonb_build_object('state', SQLSTATE, 'message', SQLERRM, 'hint', hint);
    END;
    IF actions = 0 AND failed IS NULL THEN
        EXECUTE format('SELECT true FROM %s AS d WHERE %s LIMIT 1', among, which)
        INTO are_left USING before, site, first, last;
        IF are_left THEN
            failed := jsonb_build_object('state', '55000', 'message', format('old rows of %s are not deleted', name));
        END IF;
    END IF;
    IF failed IS NULL THEN
        RETURN;
    END IF;
    failed := failed || jsonb_build_object(
        'detail', format('Rows of %s between %s and %s were not deleted.', name, first, last),
        'hint', coalesce(nullif(failed ->> 'hint', ''),
            'Remove what prevents it, such as a trigger or a foreign key, or delete these rows yourself.'));
    IF site IS NULL AND failed ->> 'state' !~ '^(0A|XX)' THEN
        sites := '{}';
        FOR one IN EXECUTE format('SELECT DISTINCT d.idsite::text FROM %s AS d WHERE %s AND d.idsite IS NOT NULL', among, which)
            USING before, site, first, last
        LOOP
            SELECT d.* INTO of_one FROM @extschema@.matomo_drop_day(among,
                which || ' AND d.idsite::pg_catalog.text OPERATOR(pg_catalog.=) $2', before, one, first, last, path) AS d;
            actions := actions + of_one.actions;
            sites := CASE WHEN of_one.actions > 0 THEN sites || of_one.sites ELSE sites END;
        END LOOP;
    END IF;
END
$$;

COMMENT ON FUNCTION matomo_drop_day(text, text, timestamptz, text, timestamptz, timestamptz, text) IS
    'Internal: deletes the rows of a day, for matomo_drop_rows';

CREATE OR REPLACE FUNCTION matomo_drop_rows(
    destination regclass,
    before timestamptz,
    site integer,
    lock_timeout interval,
    path text,
    time_column text,
    has_ctids boolean,
    chunks jsonb,
    INOUT scan_position jsonb,
    OUT more boolean,
    OUT dropped text,
    OUT actions bigint,
    OUT blocked text,
    OUT first_gone timestamptz,
    OUT last_gone timestamptz,
    OUT sites_gone text[],
    OUT failed jsonb
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO'
SET intervalstyle = 'postgres'
SET enable_seqscan = off
SET jit = off
SET lock_timeout = '100ms'
AS $$
DECLARE
    batch CONSTANT integer := 10000;
    at CONSTANT text := 'd.' || quote_ident(time_column);
    part record;
    reached text;
    waiting_for text;
    has_only_site boolean;
    among text;
    which text;
    since timestamptz;
    before_this CONSTANT timestamptz := scan_position ->> 'last_gone';
    ids tid[];
    selected bigint;
    done boolean;
    not_deletable text;
    -- As regclass it could be without its schema.
    root CONSTANT text := (SELECT format('%I.%I', n.nspname, c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = destination);
BEGIN
    more := false;
    actions := 0;
    PERFORM set_config('lock_timeout',
        ceil(extract(epoch FROM greatest(lock_timeout, '1 millisecond')) * 1000)::text, true);

    FOR part IN
        WITH old AS (
            SELECT t.*, lag(t.id) OVER (ORDER BY t.number) AS previous
            FROM @extschema@.matomo_old_tables(destination, before, time_column, has_ctids, chunks) AS t
        ),
        -- If the table of scan_position is gone, scan from the start.
        start AS (
            SELECT o.number + CASE WHEN (scan_position ->> 'done')::boolean THEN 1 ELSE 0 END AS number
            FROM old AS o WHERE o.id::text = scan_position ->> 'id'
        )
        SELECT o.*, s.number AS start_number FROM old AS o LEFT JOIN start AS s ON true
        WHERE o.number >= coalesce(s.number, 1)
        ORDER BY o.number
    LOOP
        reached := part.id;
        waiting_for := part.name;
        -- Also for the search for rows of other sites.
        IF part.is_owned AND row_security_active(part.id)
            AND (CASE WHEN part.whole THEN site IS NOT NULL ELSE part.kind = 'r' END)
        THEN
            RAISE insufficient_privilege USING
                MESSAGE = format('row-level security may hide rows of table %s', part.name),
                DETAIL = 'Hidden rows would remain, or be dropped with the partition.',
                HINT = 'Use a role to which no policy applies, such as the table''s owner.';
        END IF;
        IF part.whole THEN
            -- Drop the partition only if it has no rows of other sites.
            has_only_site := true;
            IF site IS NOT NULL THEN
                which := format('SELECT false FROM %s AS d WHERE d.idsite::text IS DISTINCT FROM $1 LIMIT 1', part.name);
                EXECUTE which INTO has_only_site USING site::text;
                IF has_only_site IS NULL THEN
                    EXECUTE format('LOCK TABLE %s IN SHARE MODE', part.name);
                    EXECUTE which INTO has_only_site USING site::text;
                END IF;
            END IF;
            IF coalesce(has_only_site, true) THEN
                waiting_for := part.parent;
                SELECT d.failed INTO failed FROM @extschema@.matomo_drop_partition(part.id, part.parent, part.name, part.lo, part.hi,
                    CASE part.kind WHEN 'c' THEN chunks ->> 'drop' END) AS d;
                IF failed IS NOT NULL THEN
                    more := true;
                    scan_position := jsonb_build_object('id', part.id, 'done', true, 'last_gone', part.hi);
                    RETURN;
                END IF;
                more := true;
                dropped := part.name;
                first_gone := least(part.lo::timestamptz, before_this);
                last_gone := part.hi;
                sites_gone := CASE WHEN site IS NOT NULL THEN ARRAY[site::text] END;
                scan_position := CASE WHEN part.number > 1 THEN jsonb_build_object(
                    'id', part.previous, 'done', true, 'last_gone', last_gone) END;
                RETURN;
            END IF;
        END IF;

        CONTINUE WHEN part.kind NOT IN ('r', 'f') OR NOT part.deletable;
        -- A role that does not own the partition deletes through the table, with its rights there.
        among := CASE WHEN part.is_owned OR part.kind = 'f' AND has_table_privilege(part.id, 'SELECT') AND has_table_privilege(part.id, 'DELETE')
                      THEN CASE WHEN has_ctids THEN 'ONLY ' ELSE '' END || part.name ELSE root END;
        which := concat_ws(' AND ',
            CASE WHEN among = root THEN
                concat_ws(' AND ', format('%1$s OPERATOR(pg_catalog.>=) %2$L AND %1$s OPERATOR(pg_catalog.<) %3$L', at, part.lo, part.hi),
                    CASE WHEN NOT part.by_day THEN format('d.tableoid OPERATOR(pg_catalog.=) %L::pg_catalog.oid', part.id) END) END,
            -- Postgres does not enforce the bounds of a foreign partition.
            CASE WHEN NOT part.is_old OR part.kind = 'f' THEN at || ' OPERATOR(pg_catalog.<) $1' END,
            CASE WHEN site IS NOT NULL THEN 'd.idsite::pg_catalog.text OPERATOR(pg_catalog.=) $2' END,
            'true');
        IF among <> root THEN
            EXECUTE format('SELECT FROM %s LIMIT 0', part.name);
            IF to_regclass(part.name) IS DISTINCT FROM part.id THEN
                RAISE lock_not_available; -- as in matomo_drop_partition
            END IF;
        END IF;
        IF part.by_day THEN
            since := CASE WHEN part.number = part.start_number THEN (scan_position ->> 'since')::timestamptz END;
            EXECUTE format('SELECT min(%s) FROM %s AS d WHERE %s%s', at, among, which,
                CASE WHEN since IS NOT NULL THEN format(' AND %s > $3', at) ELSE '' END)
            INTO first_gone USING before, site::text, since;
            CONTINUE WHEN first_gone IS NULL;
            last_gone := date_trunc('day', first_gone) + '1 day'::interval - '1 microsecond'::interval;
            which := format('%1$s AND %2$s OPERATOR(pg_catalog.>=) $3 AND %2$s OPERATOR(pg_catalog.<=) $4', which, at);
            SELECT d.actions, d.sites, d.failed INTO actions, sites_gone, failed
            FROM @extschema@.matomo_drop_day(among, which, before, site::text, first_gone, last_gone, path) AS d;
            done := among <> root AND coalesce(failed ->> 'state' ~ '^(0A|XX)', false);
            since := CASE WHEN failed IS NULL THEN since ELSE last_gone END;
        ELSE
            since := CASE WHEN part.number = part.start_number AND NOT part.is_old THEN (scan_position ->> 'since')::timestamptz END;
            -- Ordered by time, if rows can be skipped this way; an index may supply the order.
            EXECUTE format('SELECT ARRAY(SELECT d.ctid FROM %s AS d WHERE %s%s LIMIT $3)', among, which,
                CASE WHEN NOT part.is_old THEN
                    CASE WHEN since IS NOT NULL THEN format(' AND %s >= $4', at) ELSE '' END
                    || ' ORDER BY ' || at END)
            INTO ids USING before, site::text, batch, since;
            selected := cardinality(ids);
            CONTINUE WHEN selected = 0;
            PERFORM set_config('search_path', path, true);
            EXECUTE pg_catalog.format(
                'WITH gone AS (DELETE FROM %s AS d WHERE %s AND d.ctid OPERATOR(pg_catalog.=) ANY ($3) RETURNING %s AS at, d.idsite)'
                ' SELECT pg_catalog.count(*), pg_catalog.min(g.at), pg_catalog.max(g.at),'
                ' pg_catalog.array_agg(DISTINCT g.idsite::pg_catalog.text) FROM gone AS g', among, which, at)
            INTO actions, first_gone, last_gone, sites_gone USING before, site::pg_catalog.text, ids;
            PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
            -- Rows that another session changed meanwhile were skipped, so find them again.
            done := actions = selected AND selected < batch;
            IF actions = 0 THEN
                EXECUTE format('SELECT true FROM %s AS d WHERE %s AND d.ctid OPERATOR(pg_catalog.=) ANY ($3) LIMIT 1', among, which)
                INTO done USING before, site::text, ids;
                IF done THEN
                    failed := jsonb_build_object('state', '55000', 'message', format('old rows of %s are not deleted', part.name),
                        'detail', format('A trigger keeps %s of them.', selected),
                        'hint', 'Remove what prevents it, such as a trigger, or delete these rows yourself.');
                END IF;
                done := coalesce(done, false);
            END IF;
            since := CASE WHEN actions = selected THEN last_gone ELSE since END;
        END IF;
        -- Another session may have removed all rows of a day meanwhile.
        IF actions > 0 OR failed IS NOT NULL OR part.by_day THEN
            more := true;
            last_gone := CASE WHEN actions > 0 THEN last_gone ELSE before_this END;
            -- A day that keeps rows is not passed by the next step.
            scan_position := jsonb_build_object('id', part.id, 'done', done,
                'last_gone', CASE WHEN failed IS NULL OR NOT part.by_day THEN last_gone ELSE since + '1 microsecond'::interval END,
                'since', CASE WHEN NOT done THEN since END);
            first_gone := CASE WHEN actions > 0 THEN least(first_gone, before_this) END;
            last_gone := CASE WHEN done AND failed IS NULL THEN least(part.hi::timestamptz, before) ELSE last_gone + '1 second'::interval END;
            RETURN;
        END IF;
    END LOOP;
    scan_position := NULL;
    first_gone := NULL;
    last_gone := NULL;
    sites_gone := NULL;
    waiting_for := root;
    SELECT string_agg(t.name, ', ' ORDER BY t.number) INTO not_deletable
    FROM @extschema@.matomo_old_tables(destination, before, time_column, has_ctids, chunks) AS t
    WHERE t.kind IN ('r', 'f') AND NOT t.deletable;
    IF not_deletable IS NOT NULL THEN
        RAISE WARNING USING
            MESSAGE = format('tables from which nothing can be deleted: %s', not_deletable),
            HINT = 'Detach them, or delete the rows where they are; a columnar table must be made heap for that.';
    END IF;
EXCEPTION
    -- The rollback of this block has released its locks.
    WHEN lock_not_available OR deadlock_detected THEN
        IF reached IS NULL THEN
            RAISE;
        END IF;
        more := true;
        actions := 0;
        dropped := NULL;
        failed := NULL;
        blocked := waiting_for;
        IF reached IS DISTINCT FROM scan_position ->> 'id' THEN
            scan_position := jsonb_build_object('id', reached::oid, 'done', false);
        END IF;
END
$$;

COMMENT ON FUNCTION matomo_drop_rows(regclass, timestamptz, integer, interval, text, text, boolean, jsonb, jsonb) IS
    'Internal: drops a partition or deletes a batch of rows, for matomo_drop_step';

CREATE OR REPLACE PROCEDURE matomo_drop_before(
    destination regclass,
    before timestamptz,
    site integer DEFAULT NULL,
    lock_timeout interval DEFAULT '100 milliseconds',
    patience interval DEFAULT '1 minute'
)
LANGUAGE plpgsql
AS $$
DECLARE
    more pg_catalog.bool;
    dropped pg_catalog.text;
    deleted pg_catalog.int8;
    blocked pg_catalog.text;
    holders pg_catalog.text;
    place pg_catalog.jsonb;
    partitions pg_catalog.int8 := 0;
    actions pg_catalog.int8 := 0;
    deadline pg_catalog.timestamptz;
BEGIN
    PERFORM @extschema@.matomo_run_outside_transaction('matomo_drop_before()'::pg_catalog.text);
    IF patience IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'argument "patience" must not be null';
    END IF;
    LOOP
        SELECT s.more, s.dropped, s.actions, s.blocked, s.holders, s.place
        INTO more, dropped, deleted, blocked, holders, place
        FROM @extschema@.matomo_drop_step(destination, before, site, lock_timeout, place) AS s;
        COMMIT;
        EXIT WHEN NOT more;
        actions := actions OPERATOR(pg_catalog.+) deleted;
        IF dropped IS NOT NULL THEN
            partitions := partitions OPERATOR(pg_catalog.+) 1;
            RAISE NOTICE 'dropped partition %', dropped;
        END IF;
        IF blocked IS NULL THEN
            deadline := NULL;
            CONTINUE;
        END IF;
        deadline := COALESCE(deadline, pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) patience);
        IF pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>=) deadline THEN
            RAISE lock_not_available USING
                MESSAGE = pg_catalog.format('could not obtain lock on %s', blocked),
                DETAIL = pg_catalog.format('%s partitions were dropped and %s actions deleted before. Held by %s.',
                    partitions, actions, COALESCE(holders, 'a transaction that has ended')),
                HINT = 'Call it again when the statements that use the table have ended; see pg_locks and pg_stat_activity.';
        END IF;
        -- Let the sessions that wait for the lock proceed.
        PERFORM pg_catalog.pg_sleep(0.5);
    END LOOP;
    RAISE NOTICE '% partitions dropped, % actions deleted', partitions, actions;
END
$$;

COMMENT ON PROCEDURE matomo_drop_before(regclass, timestamptz, integer, interval, interval) IS
    'Removes all actions before an instant, of all sites or one: drops whole partitions and deletes other rows, with a commit after each step. Syncs do not copy them again';
COMMENT ON FUNCTION matomo_drop_step(regclass, timestamptz, integer, interval, jsonb) IS
    'Internal: one step of matomo_drop_before: drops a partition or deletes a batch of rows, and seals the days that are then empty';

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

CREATE OR REPLACE VIEW matomo_site_details WITH (security_barrier) AS
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

CREATE OR REPLACE VIEW matomo_goals WITH (security_barrier) AS
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

CREATE OR REPLACE VIEW matomo_dimensions WITH (security_barrier) AS
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

CREATE OR REPLACE FUNCTION matomo_create_named_views(destination regclass) RETURNS SETOF regclass
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source record;
    dimension record;
    qualified text;
    known regclass;
    own name[];
    taken name[];
    value text;
    suffix text;
    attempt integer;
    column_name text;
    columns text;
    change text;
    sites bigint;
BEGIN
    IF destination IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'argument "destination" must not be null';
    END IF;
    IF NOT EXISTS (SELECT FROM @extschema@.matomo_dimensions d
                   WHERE d.destination = matomo_create_named_views.destination AND d.name <> '') THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('no names of custom dimensions of %s are known', destination),
            HINT = 'Read them with matomo_refresh_metadata, or with a sync of a registered site.';
    END IF;
    sites := (SELECT count(*) FROM (
        SELECT s.idsite FROM @extschema@.matomo_site_details s WHERE s.destination = matomo_create_named_views.destination
        UNION SELECT s.idsite FROM @extschema@.matomo_days s WHERE s.destination = matomo_create_named_views.destination) s);
    FOR source IN
        SELECT s.of_visits, c.oid, c.relname, c.relnamespace::regnamespace AS of_schema, c.relacl,
               format(CASE WHEN s.of_visits THEN 'Matomo visits of %s with named custom dimensions'
                      ELSE 'Matomo actions of %s with named custom dimensions' END, destination) AS comment
        FROM (SELECT false, destination UNION ALL
              -- After a restore both are known by name until the first sync, as in src/store/companions.rs.
              SELECT true, CASE m.companion::oid WHEN 0::oid THEN
                  (SELECT f.oid FROM @extschema@.matomo_find_table(m.companion_name) AS f(oid)
                   WHERE NOT EXISTS (SELECT FROM @extschema@.matomo_companion o WHERE o.companion::oid = f.oid))
                  ELSE m.companion::oid END
              FROM @extschema@.matomo_companion m
              WHERE m.kind = 'visits' AND CASE m.destination::oid WHEN 0::oid
                  THEN @extschema@.matomo_find_table(m.destination_name)
                  ELSE m.destination::oid END = matomo_create_named_views.destination) AS s(of_visits, oid)
        JOIN pg_class c ON c.oid = s.oid
    LOOP
        IF octet_length(source.relname || '_named') > 63 THEN
            RAISE name_too_long USING
                MESSAGE = format('view name "%s_named" is too long', source.relname),
                HINT = 'Give the table a shorter name.';
        END IF;
        qualified := format('%s.%I', source.of_schema, source.relname || '_named');
        known := to_regclass(qualified);
        -- The destination may have had another name.
        IF known IS NOT NULL
           AND (coalesce(obj_description(known, 'pg_class') NOT LIKE 'Matomo % of % with named custom dimensions', true)
                -- Its owner could give it any columns at any time.
                OR NOT EXISTS (SELECT FROM pg_class v WHERE v.oid = known AND v.relkind = 'v'
                    AND v.relowner IN ((SELECT d.relowner FROM pg_class d WHERE d.oid = source.oid), current_user::regrole))) THEN
            RAISE duplicate_table USING
                MESSAGE = format('relation %s already exists', qualified),
                HINT = 'Drop it or rename it.';
        END IF;
        own := ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = source.oid AND a.attnum > 0 AND NOT a.attisdropped
                       ORDER BY a.attnum);
        taken := own;
        columns := (SELECT string_agg(format('t.%I', c.name), ', ' ORDER BY c.place) FROM unnest(own) WITH ORDINALITY AS c(name, place));
        -- A column for each name. Sites may have one name for different numbers, and one site for several.
        FOR dimension IN
            WITH configured AS (
                SELECT d.idsite, d.iddimension AS number, d.name, row_number() OVER (PARTITION BY d.idsite, d.name ORDER BY d.iddimension) AS place
                FROM @extschema@.matomo_dimensions d
                WHERE d.destination = matomo_create_named_views.destination AND d.name <> ''
                  AND (d.scope = 'visit' OR NOT source.of_visits)
            )
            -- Where all sites of the table have it alike, its rows need no distinction.
            SELECT c.name, min(c.number) AS number, min(c.number) = max(c.number) AND count(*) = sites AS is_one,
                   array_agg(c.idsite ORDER BY c.idsite) AS of_sites, array_agg(c.number ORDER BY c.idsite) AS numbers
            FROM configured c GROUP BY c.name, c.place ORDER BY min(c.number), min(c.idsite), c.name
        LOOP
            SELECT string_agg(CASE WHEN v.value IS NOT NULL THEN
                       CASE WHEN dimension.is_one THEN v.value ELSE format('WHEN %L THEN %s::text', v.idsite, v.value) END END,
                       ' ' ORDER BY v.idsite)
            INTO value
            FROM (SELECT u.idsite, CASE
                      WHEN 'dimension' || u.number = ANY (own) THEN format('t.%I', 'dimension' || u.number)
                      WHEN 'usercustomdimensions' = ANY (own) THEN format('(t.usercustomdimensions::jsonb->>%L)', 'dimension' || u.number)
                      WHEN 'dimensions' = ANY (own) THEN format('(t.dimensions::jsonb->>%L)', 'dimension' || u.number) END
                  FROM unnest(dimension.of_sites, dimension.numbers) AS u(idsite, number)
                  LIMIT CASE WHEN dimension.is_one THEN 1 END) AS v(idsite, value);
            CONTINUE WHEN value IS NULL;
            IF NOT dimension.is_one THEN
                value := format('CASE t.idsite %s END', value);
            END IF;
            -- A name has at most 63 bytes, and a column of the table may have it.
            suffix := '';
            attempt := 0;
            LOOP
                column_name := dimension.name;
                WHILE octet_length(column_name || suffix) > 63 LOOP
                    column_name := left(column_name, -1);
                END LOOP;
                column_name := column_name || suffix;
                EXIT WHEN column_name <> ALL (taken);
                attempt := attempt + 1;
                suffix := '_dimension' || dimension.number || CASE WHEN attempt > 1 THEN '_' || attempt ELSE '' END;
            END LOOP;
            taken := taken || column_name::name;
            columns := columns || format(', %s AS %I', value, column_name);
        END LOOP;
        -- Rights on the table are those of whoever reads the view.
        change := format('VIEW %s WITH (security_invoker) AS SELECT %s FROM %s t', qualified, columns, source.oid::regclass);
        IF known IS NOT NULL THEN
            BEGIN
                EXECUTE 'CREATE OR REPLACE ' || change;
            EXCEPTION WHEN invalid_table_definition THEN
                -- Names or columns have changed.
                source.relacl := (SELECT c.relacl FROM pg_class c WHERE c.oid = known);
                EXECUTE format('DROP VIEW %s', known);
                known := NULL;
            END;
        END IF;
        IF known IS NULL THEN
            EXECUTE 'CREATE ' || change;
            known := qualified::regclass;
            FOR change IN
                SELECT format('GRANT SELECT ON %s TO %s', known, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
                FROM aclexplode(source.relacl) a WHERE a.privilege_type = 'SELECT'
            LOOP
                EXECUTE change;
            END LOOP;
        END IF;
        EXECUTE format('COMMENT ON VIEW %s IS %L', known, source.comment);
        RETURN NEXT known;
    END LOOP;
END
$$;

COMMENT ON FUNCTION matomo_create_named_views(regclass) IS
    'Makes or renews the views <destination>_named and <destination>_visits_named, which have the custom dimensions under their names; returns them';
COMMENT ON TABLE matomo_site_config IS 'Registered sites: one row per server, site and destination';
COMMENT ON COLUMN matomo_site_config.id IS 'ID for matomo_sync_site, matomo_alter_site and matomo_remove_site';
COMMENT ON COLUMN matomo_site_config.destination IS 'Destination: table of the actions; 0 if restored from a dump and not found yet, NULL if dropped before the dump';
COMMENT ON COLUMN matomo_site_config.owner IS 'Role whose rights and user mapping its syncs use; 0 if restored from a dump and not found yet, NULL if dropped before the dump';
COMMENT ON COLUMN matomo_site_config.start_date IS 'First day to copy, as for matomo_sync';
COMMENT ON COLUMN matomo_site_config.retention IS 'How long visits are kept; NULL means forever';
COMMENT ON COLUMN matomo_site_config.name IS 'Name of the site, as Matomo last reported it';
COMMENT ON COLUMN matomo_site_config.timezone IS 'Timezone of the site, as Matomo last reported it';
COMMENT ON COLUMN matomo_site_config.destination_name IS 'Last known schema, name and owner of the table, from when it was set or dumped';
COMMENT ON COLUMN matomo_site_config.owner_name IS 'Last known name of the owner, from when it was set or dumped';
COMMENT ON COLUMN matomo_site_config.known_sites IS 'Sites of the server that are not new: all others are registered like this one; NULL if none is';
COMMENT ON SEQUENCE matomo_site_config_id_seq IS 'IDs of registered sites';
COMMENT ON TABLE matomo_site_state IS 'State of each registered site';
COMMENT ON COLUMN matomo_site_state.site_id IS 'ID of the registered site';
COMMENT ON COLUMN matomo_site_state.next_at IS 'When the background worker next syncs the site; infinity after a refused token';
COMMENT ON COLUMN matomo_site_state.failures IS 'Failed runs since the last success';
COMMENT ON COLUMN matomo_site_state.last_success_at IS 'Start of the last successful run: the table has all visits that Matomo had then';
COMMENT ON COLUMN matomo_site_state.last_error_at IS 'End of the last failed run';
COMMENT ON COLUMN matomo_site_state.refused_credentials IS 'Version of the server and user mapping whose token Matomo refused; it is not sent again';
COMMENT ON COLUMN matomo_site_state.tended_on IS 'Last day, in the site''s timezone, on which retention was applied and partitions were created ahead';
COMMENT ON COLUMN matomo_site_state.upkeep_place IS 'Where unfinished retention resumes';
COMMENT ON COLUMN matomo_site_state.upkeep_error IS 'Message of the error that retention or partitions failed with';
COMMENT ON COLUMN matomo_site_state.changes IS 'Number of configuration changes that make earlier runs irrelevant';
COMMENT ON COLUMN matomo_site_state.upkeep_begun IS 'Processes of the worker that have begun the upkeep since one last ended it';
COMMENT ON COLUMN matomo_site_state.metadata_on IS 'Last day, in the site''s timezone, on which Matomo was asked for its goals and custom dimensions';
COMMENT ON COLUMN matomo_site_state.metadata_error IS 'Message of the error that this failed with';
COMMENT ON COLUMN matomo_site_state.changed_at IS 'When the site was last registered or altered';
COMMENT ON COLUMN matomo_site_state.is_unanswered IS 'Whether the last run failed because Matomo did not answer';

SELECT pg_catalog.pg_extension_config_dump('matomo_site_config', $$
    AS s (id, server, idsite, table_here, role_here, start_date, every, retention, enabled, name, timezone,
          created_at, table_name, role_name)
    LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               JOIN pg_catalog.pg_roles r ON r.oid = c.relowner) ON c.oid = s.table_here
    LEFT JOIN pg_catalog.pg_roles o ON o.oid = s.role_here
    CROSS JOIN LATERAL (SELECT
        CASE WHEN c.oid IS NOT NULL OR s.table_here = 0::pg_catalog.oid
             THEN 0::pg_catalog.oid::pg_catalog.regclass END,
        CASE WHEN o.oid IS NOT NULL OR s.role_here = 0::pg_catalog.oid
             THEN 0::pg_catalog.oid::pg_catalog.regrole END,
        CASE WHEN c.oid IS NULL THEN s.table_name
             ELSE ARRAY[n.nspname::text, c.relname::text, r.rolname::text] END,
        coalesce(o.rolname, s.role_name)) AS d (destination, owner, destination_name, owner_name)$$);

SELECT pg_catalog.pg_extension_config_dump('matomo_site_state', $$
    AS t (site_id, matomo, next_at, failures, last_success_at, last_error_at, last_sqlstate, last_error,
          last_detail, last_hint, refused_credentials, tended_on, place_here)
    CROSS JOIN (SELECT NULL::pg_catalog.jsonb) AS d (upkeep_place)$$);

COMMENT ON FUNCTION matomo_may_see(oid) IS 'Internal: whether the current user may see the sites and runs of a role';

CREATE OR REPLACE VIEW matomo_sites WITH (security_barrier) AS
    SELECT s.id, s.server, s.idsite, s.name, s.timezone,
           coalesce(c.oid::pg_catalog.regclass::text,
                    pg_catalog.format('%I.%I', s.destination_name[1], s.destination_name[2])) AS destination,
           coalesce(r.rolname, s.owner_name) AS owner, s.start_date, s.every, s.retention, s.enabled, s.created_at,
           s.known_sites IS NOT NULL AS new_sites
    FROM matomo_site_config s
    LEFT JOIN pg_catalog.pg_class c ON c.oid = CASE s.destination::pg_catalog.oid WHEN 0::pg_catalog.oid
        THEN matomo_find_table(s.destination_name) ELSE s.destination::pg_catalog.oid END
    LEFT JOIN pg_catalog.pg_roles r ON CASE s.owner::pg_catalog.oid WHEN 0::pg_catalog.oid
        THEN r.rolname = s.owner_name ELSE r.oid = s.owner::pg_catalog.oid END
    WHERE matomo_may_see(coalesce(r.oid, s.owner::pg_catalog.oid));

COMMENT ON VIEW matomo_sites IS 'Your registered sites: one row per server, site and destination';
COMMENT ON COLUMN matomo_sites.destination IS 'Destination: table of the actions';
COMMENT ON COLUMN matomo_sites.owner IS 'Role whose rights and user mapping its syncs use';
COMMENT ON COLUMN matomo_sites.new_sites IS 'Whether new sites of the server are registered like this one';
COMMENT ON FUNCTION matomo_add_site(text, integer, date, text, interval, interval, boolean) IS
    'Registers a site that the procedures and the background worker sync with your rights; returns its ID';
COMMENT ON FUNCTION matomo_add_sites(text, date, text, interval, interval, boolean, boolean) IS
    'Registers all sites that your token may see and that are not registered, like matomo_add_site; returns them. Optionally new ones too, once a day';
COMMENT ON FUNCTION matomo_ignore_new_sites(text) IS
    'Stops registering new sites of a server; returns the number of marks removed';
COMMENT ON FUNCTION matomo_list_sites(text) IS 'Lists the sites of a server that your token may see';
COMMENT ON FUNCTION matomo_alter_site(integer, text, integer, date, text, interval, interval, boolean, text) IS
    'Changes a registered site; NULL keeps a value. A failed site is retried';
COMMENT ON FUNCTION matomo_remove_site(integer) IS 'Removes a registered site, but not its copied visits';
COMMENT ON TABLE matomo_run_log IS 'Syncs of registered sites';
COMMENT ON COLUMN matomo_run_log.runid IS 'ID of the run';
COMMENT ON COLUMN matomo_run_log.job_pid IS 'Process ID';
COMMENT ON COLUMN matomo_run_log.database IS 'Database';
COMMENT ON COLUMN matomo_run_log.username IS 'Role that started it';
COMMENT ON COLUMN matomo_run_log.command IS 'What started it';
COMMENT ON COLUMN matomo_run_log.status IS 'running, paused (resumes by itself), succeeded or failed';
COMMENT ON COLUMN matomo_run_log.return_message IS 'Message of the error that it failed with';
COMMENT ON COLUMN matomo_run_log.start_time IS 'When it started';
COMMENT ON COLUMN matomo_run_log.site_id IS 'ID of the registered site';
COMMENT ON COLUMN matomo_run_log.owner IS 'Role whose rights it has; 0 if restored from a dump and not found yet, NULL if dropped before the dump';
COMMENT ON COLUMN matomo_run_log.destination IS 'Destination: table of the actions';
COMMENT ON COLUMN matomo_run_log.days_total IS 'Days done and still to do';
COMMENT ON COLUMN matomo_run_log.pages IS 'Pages of visits requested';
COMMENT ON COLUMN matomo_run_log.actions IS 'Actions of these visits';
COMMENT ON COLUMN matomo_run_log.truncated_visits IS 'Visits with only their first actions listed by Matomo';
COMMENT ON COLUMN matomo_run_log.bytes IS 'Size of the answers in bytes, after decompression';
COMMENT ON COLUMN matomo_run_log.sqlstate IS 'SQLSTATE of that error';
COMMENT ON COLUMN matomo_run_log.done IS 'Later days that are already done';
COMMENT ON COLUMN matomo_run_log.timezone IS 'Timezone of the site, as Matomo reported it to this run';
COMMENT ON COLUMN matomo_run_log.step_pages IS 'Pages of a day after which it commits; NULL means matomo.step_pages';
COMMENT ON COLUMN matomo_run_log.changes IS 'Value in matomo_site_state when it started';
COMMENT ON COLUMN matomo_run_log.owner_name IS 'Name of that role when the run started or was dumped';
COMMENT ON COLUMN matomo_run_log.misfits IS 'For each column, how many values its type cannot hold: they are NULL';
COMMENT ON COLUMN matomo_run_log.zone_changes IS 'How often the timezone has changed during the run';
COMMENT ON COLUMN matomo_run_log.step_at IS 'When its last step was recorded';
COMMENT ON SEQUENCE matomo_run_log_runid_seq IS 'IDs of runs';

SELECT pg_catalog.pg_extension_config_dump('matomo_run_log', $$
    AS l (runid, job_pid, database, username, command, status, return_message, start_time, end_time, site_id,
          role_here, server, idsite, destination, days, days_total, pages, visits, actions, inserted, updated,
          deleted, truncated_visits, bytes, sqlstate, detail, hint, next_day, done, timezone, step_pages, changes,
          role_name, misfits, zone_changes, step_at)
    LEFT JOIN pg_catalog.pg_roles o ON o.oid = l.role_here
    CROSS JOIN LATERAL (SELECT
        CASE WHEN o.oid IS NOT NULL OR l.role_here = 0::pg_catalog.oid
             THEN 0::pg_catalog.oid::pg_catalog.regrole END,
        coalesce(o.rolname, l.role_name)) AS d (owner, owner_name)$$);

COMMENT ON FUNCTION matomo_run_is_dead(bigint) IS 'Internal: whether a run has ended without recording it in its row';
COMMENT ON FUNCTION matomo_is_running(integer) IS 'Internal: whether any session is syncing a registered site';

CREATE OR REPLACE VIEW matomo_runs WITH (security_barrier) AS
    SELECT r.runid, r.job_pid, r.database, r.username, r.command,
           CASE WHEN r.status = 'running' AND matomo_run_is_dead(r.runid) THEN 'failed' ELSE r.status END AS status,
           CASE WHEN r.status = 'running' AND matomo_run_is_dead(r.runid)
                THEN 'the run was interrupted' ELSE r.return_message END AS return_message,
           r.start_time, r.end_time, r.site_id, coalesce((SELECT a.rolname FROM pg_catalog.pg_roles a WHERE a.oid = o.owner), r.owner_name) AS owner, r.server, r.idsite, r.destination,
           r.days, r.days_total, r.pages, r.visits, r.actions, r.inserted, r.updated, r.deleted,
           r.truncated_visits, r.bytes, r.sqlstate, r.detail, r.hint, r.misfits
    FROM matomo_run_log r
    CROSS JOIN LATERAL (SELECT CASE r.owner::pg_catalog.oid WHEN 0::pg_catalog.oid
        THEN (SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.rolname = r.owner_name) ELSE r.owner::pg_catalog.oid END) AS o(owner)
    WHERE matomo_may_see(coalesce(o.owner, 0::pg_catalog.oid));

COMMENT ON VIEW matomo_runs IS 'Current and past syncs of your registered sites';
COMMENT ON COLUMN matomo_runs.owner IS 'Role whose rights it has';

CREATE OR REPLACE VIEW matomo_overdue WITH (security_barrier) AS
    SELECT s.id AS site_id
    FROM matomo_site_config s
    LEFT JOIN matomo_site_state t ON t.site_id = s.id
    WHERE s.enabled AND coalesce(t.failures, 0) = 0
      AND pg_catalog.now() - greatest(coalesce(t.changed_at, s.created_at), t.last_success_at) - interval '1 hour' > s.every
      AND NOT EXISTS (SELECT FROM matomo_run_log r WHERE r.site_id = s.id AND r.status IN ('running', 'paused')
          AND coalesce(r.step_at, r.start_time) > pg_catalog.now() - interval '1 hour');

COMMENT ON VIEW matomo_overdue IS 'Internal: sites without failures that should have been synced over an hour ago, and of which no run has done a step since';
COMMENT ON COLUMN matomo_overdue.site_id IS 'ID of the registered site';

CREATE OR REPLACE VIEW matomo_status WITH (security_barrier) AS
    SELECT s.id AS site_id, s.server, s.idsite, s.name, s.timezone, v.destination, v.owner, s.enabled,
           matomo_is_running(s.id) AS running,
           t.last_success_at AS synced_to,
           pg_catalog.now() - t.last_success_at AS lag,
           d.sealed_to, d.newest_action, coalesce(d.visits_today, 0) AS visits_today,
           -- An interrupted run that is not yet recorded as failed counts too.
           coalesce(t.failures, 0) + (SELECT pg_catalog.count(*) FROM matomo_run_log r
               WHERE r.site_id = s.id AND r.status = 'running' AND r.changes = t.changes
                 AND matomo_run_is_dead(r.runid))::integer + o.is_overdue::integer AS failures,
           CASE WHEN o.is_overdue THEN pg_catalog.now() ELSE t.last_error_at END AS last_error_at,
           CASE WHEN o.is_overdue THEN '55000' ELSE t.last_sqlstate END AS last_sqlstate,
           CASE WHEN o.is_overdue THEN 'the background worker is late with the site by more than an hour'
                ELSE t.last_error END AS last_error,
           CASE WHEN o.is_overdue THEN NULL ELSE t.last_detail END AS last_detail,
           CASE WHEN o.is_overdue THEN 'Look for the launcher and the coordinator of this database in pg_stat_activity, and for their messages in the log of the server.'
                ELSE t.last_hint END AS last_hint,
           CASE WHEN s.enabled THEN coalesce(t.next_at, pg_catalog.now()) END AS next_run,
           t.upkeep_error, t.metadata_error
    FROM matomo_sites v
    JOIN matomo_site_config s ON s.id = v.id
    LEFT JOIN matomo_site_state t ON t.site_id = s.id
    CROSS JOIN LATERAL (
        SELECT pg_catalog.max(l.day) FILTER (WHERE l.sealed) AS sealed_to,
               pg_catalog.max(l.newest) AS newest_action,
               pg_catalog.max(l.visits) FILTER (WHERE l.day = matomo_today(s.timezone)) AS visits_today
        FROM matomo_ledger l
        WHERE l.destination::pg_catalog.oid IN (s.destination::pg_catalog.oid, 0::pg_catalog.oid) AND l.idsite = s.idsite AND l.matomo = t.matomo
          -- Restored entries have only the table's name until the site's first sync.
          AND (l.destination::pg_catalog.oid <> 0::pg_catalog.oid
               OR l.destination_name OPERATOR(pg_catalog.=) s.destination_name AND s.destination IS NOT NULL)
    ) d
    -- For when no process can record it. Not for sites that only pg_cron or the like syncs, however often
    -- that is.
    CROSS JOIN LATERAL (SELECT matomo_has_worker()
        AND EXISTS (SELECT FROM matomo_overdue x WHERE x.site_id = s.id)) AS o (is_overdue);

COMMENT ON FUNCTION matomo_today(text) IS 'Internal: today in a timezone, named as Matomo does';
COMMENT ON FUNCTION matomo_has_worker() IS 'Internal: whether matomo.database has the background worker sync the sites of this database';
COMMENT ON VIEW matomo_status IS 'Status of your registered sites: one row per site';
COMMENT ON COLUMN matomo_status.destination IS 'Destination: table of the actions';
COMMENT ON COLUMN matomo_status.owner IS 'Role whose rights and user mapping its syncs use';
COMMENT ON COLUMN matomo_status.running IS 'Whether any session is syncing the site';
COMMENT ON COLUMN matomo_status.synced_to IS 'Start of the last successful run: the table has all visits that Matomo had then, except late ones since the last recheck of open days';
COMMENT ON COLUMN matomo_status.lag IS 'Time since synced_to';
COMMENT ON COLUMN matomo_status.sealed_to IS 'Last sealed day: read whole after it had ended and settled';
COMMENT ON COLUMN matomo_status.newest_action IS 'Last action of the newest copied visit';
COMMENT ON COLUMN matomo_status.visits_today IS 'Copied visits of today, in the site''s timezone';
COMMENT ON COLUMN matomo_status.failures IS 'Failed runs since the last success; also 1 if the background worker is late with the site by more than an hour; 0 means healthy';
COMMENT ON COLUMN matomo_status.last_error_at IS 'When a run last failed, even if runs have succeeded since';
COMMENT ON COLUMN matomo_status.last_hint IS 'HINT of its error: what to do';
COMMENT ON COLUMN matomo_status.next_run IS 'When the background worker, if running, next syncs the site; infinity if the token must be fixed first; NULL if the site is disabled';
COMMENT ON COLUMN matomo_status.upkeep_error IS 'Today''s error of retention or of creating partitions ahead; it does not make a run fail';
COMMENT ON COLUMN matomo_status.metadata_error IS 'Today''s error of reading the names of goals and custom dimensions; it does not make a run fail';

CREATE OR REPLACE VIEW matomo_progress WITH (security_barrier) AS
    WITH live AS (
        SELECT a.pid, a.usename, a.query_start,
               pg_catalog.regexp_match(a.query, '^matomo: site ([0-9]{1,9})(?: [(]registered site ([0-9]{1,9})[)])?, ([^:]*)(?:: ([0-9]{1,9}) of ([0-9]{1,9}) days, ([0-9]{1,18}) visits, ([0-9]{1,18}) actions(?:, ([0-9]{1,18}) actions/s, ([0-9]{1,6} h [0-9]{1,2} min|[0-9]{1,2} min [0-9]{1,2} s|[0-9]{1,2} s) left)?)?$') AS part
        FROM pg_catalog.pg_stat_activity a
        WHERE a.datname = pg_catalog.current_database() AND a.state = 'active' AND a.query LIKE 'matomo: site %'
    ), run AS (
        SELECT r.* FROM matomo_run_log r
        WHERE r.status = 'running' AND matomo_may_see(r.owner::pg_catalog.oid) AND matomo_is_running(r.site_id)
    )
    SELECT coalesce(l.pid, r.job_pid) AS pid, coalesce(r.username, l.usename) AS username,
           r.runid, r.site_id, r.server, coalesce(r.idsite, l.part[1]::integer) AS idsite, r.destination,
           coalesce(l.part[3], 'waits') AS phase,
           coalesce(l.part[4]::integer, r.days) AS days,
           coalesce(l.part[5]::integer, r.days_total) AS days_total,
           coalesce(l.part[6]::bigint, r.visits) AS visits,
           coalesce(l.part[7]::bigint, r.actions) AS actions,
           l.part[8]::bigint AS actions_per_second,
           l.part[9]::interval AS time_left,
           coalesce(r.start_time, l.query_start) AS start_time
    FROM (SELECT * FROM live WHERE part IS NOT NULL) l
    FULL JOIN run r ON r.job_pid = l.pid AND r.site_id = l.part[2]::integer;

COMMENT ON VIEW matomo_progress IS 'Progress of syncs and checks of your registered sites, and of sessions that you may see in pg_stat_activity';
COMMENT ON COLUMN matomo_progress.pid IS 'Process ID';
COMMENT ON COLUMN matomo_progress.runid IS 'ID of the run in matomo_runs; NULL for a call of matomo_sync or matomo_check';
COMMENT ON COLUMN matomo_progress.phase IS 'The last stored day, or what it is waiting for';
COMMENT ON COLUMN matomo_progress.actions_per_second IS 'Actions per second since it started';
COMMENT ON COLUMN matomo_progress.time_left IS 'Time left if the remaining days are like those done';

CREATE OR REPLACE PROCEDURE matomo_sync_site(id integer)
LANGUAGE plpgsql
AS $$
BEGIN
    WHILE @extschema@.matomo_run_step(id, false) LOOP
        COMMIT;
    END LOOP;
END
$$;

COMMENT ON PROCEDURE matomo_sync_site(integer) IS 'Syncs a registered site, with a commit after each step';

CREATE OR REPLACE PROCEDURE matomo_sync_all()
LANGUAGE plpgsql
AS $$
DECLARE
    site pg_catalog.int4;
BEGIN
    FOREACH site IN ARRAY @extschema@.matomo_run_sites() LOOP
        COMMIT;
        WHILE @extschema@.matomo_run_step(site, true) LOOP
            COMMIT;
        END LOOP;
    END LOOP;
END
$$;

COMMENT ON PROCEDURE matomo_sync_all() IS 'Syncs all enabled registered sites whose owner''s rights you have, one after the other, with a commit after each step; a failed site is a WARNING. Also applies retention to disabled sites';
COMMENT ON FUNCTION matomo_run_sites() IS 'Internal: IDs of the registered sites that matomo_sync_all has work for';
COMMENT ON FUNCTION matomo_run_step(integer, boolean) IS 'Internal: runs the next step for a registered site; returns whether more steps follow';

DO $$ -- Comments of views.
DECLARE
    change pg_catalog.text;
BEGIN
    FOR change IN
        SELECT pg_catalog.format('COMMENT ON COLUMN %s.%I IS %L', x.view, a.attname, pg_catalog.col_description(t.attrelid, t.attnum))
        FROM (VALUES
            ('matomo_days'::pg_catalog.regclass, 'matomo_ledger'::pg_catalog.regclass, '{destination}'::pg_catalog.name[]),
            ('matomo_sites', 'matomo_site_config', '{destination,owner}'),
            ('matomo_site_details', 'matomo_site_metadata', '{destination,goals,goals_read_at,dimensions,dimensions_read_at}'),
            ('matomo_runs', 'matomo_run_log', '{owner}'),
            ('matomo_status', 'matomo_site_config', '{destination,owner}'),
            ('matomo_status', 'matomo_site_state', '{failures,last_error_at,last_hint,upkeep_error,metadata_error}'),
            ('matomo_progress', 'matomo_run_log', '{runid}')) AS x (view, base, own)
        JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) x.view::pg_catalog.oid
            AND a.attname OPERATOR(pg_catalog.<>) ALL (x.own)
        JOIN pg_catalog.pg_attribute t ON t.attrelid OPERATOR(pg_catalog.=) x.base::pg_catalog.oid
            AND t.attname OPERATOR(pg_catalog.=) a.attname AND t.attnum OPERATOR(pg_catalog.>) 0
    LOOP
        EXECUTE change;
    END LOOP;
END
$$;
-- … to here.

-- As sql/privileges.sql, but for what the administrator has granted or revoked.
DO $do$
DECLARE
    known CONSTANT oid[] := pg_catalog.current_setting('matomo_update.known');
    owners CONSTANT text := pg_catalog.current_setting('matomo_update.owners');
    grants CONSTANT text := pg_catalog.current_setting('matomo_update.grants');
    for_all CONSTANT name[] := ARRAY['matomo_may_see', 'matomo_find_table', 'matomo_is_running', 'matomo_has_worker', 'matomo_run_is_dead',
        'matomo_today', 'matomo_partition_ranges', 'matomo_create_partitions', 'matomo_create_weeks', 'matomo_create_week', 'matomo_old_tables',
        'matomo_drop_step', 'matomo_drop_rows', 'matomo_drop_day', 'matomo_drop_partition', 'matomo_is_of_rows', 'matomo_drop_before', 'matomo_remove_site',
        'matomo_run_outside_transaction', 'matomo_run_sites', 'matomo_run_step', 'matomo_action_node',
        'matomo_visit', 'matomo_conversion', 'matomo_item', 'matomo_companion', 'matomo_create_companions', 'matomo_create_companion', 'matomo_find_companion', 'matomo_grant_as',
        'matomo_site_details', 'matomo_goals', 'matomo_dimensions', 'matomo_create_named_views', 'matomo_ignore_new_sites'];
    change text;
BEGIN
    EXECUTE owners;
    FOR change IN
        WITH member AS (
            SELECT d.classid, d.objid FROM pg_catalog.pg_depend d
            JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'matomo_postgres'
            WHERE d.refclassid = 'pg_catalog.pg_extension'::regclass::oid AND d.deptype = 'e'
        ), untouched AS (
            SELECT pg_catalog.format('ROUTINE %s', p.oid::regprocedure) AS object, p.proowner AS owner,
                   coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) AS acl, p.proname = ANY (for_all) AS for_all
            FROM member m JOIN pg_catalog.pg_proc p ON p.oid = m.objid AND m.classid = 'pg_catalog.pg_proc'::regclass::oid
            WHERE p.oid <> ALL (known) OR p.proacl IS NULL
            UNION ALL
            SELECT c.oid::regclass::text, c.relowner, c.relacl, c.relname = ANY (for_all)
            FROM member m JOIN pg_catalog.pg_class c ON c.oid = m.objid AND m.classid = 'pg_catalog.pg_class'::regclass::oid
            WHERE c.oid <> ALL (known)
        )
        SELECT pg_catalog.format('REVOKE ALL ON %s FROM %s', u.object, CASE a.grantee
                   WHEN 0::oid THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END)
        FROM untouched u CROSS JOIN LATERAL pg_catalog.aclexplode(u.acl) a WHERE a.grantee <> u.owner
        UNION ALL
        SELECT pg_catalog.format('GRANT %s ON %s TO PUBLIC', CASE WHEN u.object LIKE 'ROUTINE %' THEN 'EXECUTE' ELSE 'SELECT' END,
            u.object) FROM untouched u WHERE u.for_all
        UNION ALL
        SELECT grants WHERE grants <> ''
    LOOP
        EXECUTE change;
    END LOOP;
END
$do$;

-- Columns of the user's own, if they have a name that syncs did not know.
DO $do$
DECLARE
    known CONSTANT name[] := pg_catalog.current_setting('matomo_update.columns');
    own record;
BEGIN
    FOR own IN
        SELECT pg_catalog.format('%I.%I', n.nspname, d.relname) AS destination,
               pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) ORDER BY a.attnum) AS columns
        FROM pg_catalog.pg_class d
        JOIN pg_catalog.pg_namespace n ON n.oid = d.relnamespace
        JOIN pg_catalog.pg_attribute a ON a.attrelid = d.oid AND a.attnum > 0 AND NOT a.attisdropped
            AND a.attgenerated = '' AND a.attidentity <> 'a'
        WHERE d.oid IN (SELECT l.destination::oid FROM matomo_ledger l UNION ALL SELECT s.destination::oid FROM matomo_site_config s)
          AND a.attname <> ALL (known) AND a.attname IN (
              SELECT t.attname FROM pg_catalog.pg_attribute t
              WHERE t.attrelid IN ('matomo_action'::regclass::oid, 'matomo_visit'::regclass::oid) AND t.attnum > 0)
        GROUP BY n.nspname, d.relname ORDER BY 1
    LOOP
        RAISE WARNING USING
            MESSAGE = pg_catalog.format('syncs write columns of table %s from now on: %s', own.destination,
                pg_catalog.array_to_string(own.columns, ', ')),
            HINT = pg_catalog.format('Rename those of your own before the next sync, which overwrites them: ALTER TABLE %1$s RENAME %2$s TO my_%2$s.',
                own.destination, own.columns[1]);
    END LOOP;
END
$do$;
