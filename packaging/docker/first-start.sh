#!/usr/bin/env bash
# Runs once in a new data directory: the extension, and the site of MATOMO_URL, MATOMO_SITE and MATOMO_KEY
# (or the file MATOMO_KEY_FILE), which the background worker syncs from then on. A Matomo that does not
# answer now does not matter: this script does not run again, but the worker retries.
set -euo pipefail

[[ -z ${MATOMO_KEY_FILE:-} ]] || MATOMO_KEY=$(<"$MATOMO_KEY_FILE")
export MATOMO_URL=${MATOMO_URL:-} MATOMO_SITE=${MATOMO_SITE:-1} MATOMO_KEY=${MATOMO_KEY:-} MATOMO_START=${MATOMO_START:-}

# psql reads the variables from the environment, so that the token is in no command line.
psql -X -v ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'END'
\set url `echo "$MATOMO_URL"`
\set key `echo "$MATOMO_KEY"`
\set site `echo "$MATOMO_SITE"`
\set start `echo "$MATOMO_START"`
CREATE EXTENSION matomo_postgres;
SELECT :'url' <> '' AS has_site \gset
\if :has_site
CREATE SERVER analytics FOREIGN DATA WRAPPER matomo OPTIONS (url :'url');
CREATE USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (token :'key');
SELECT :'site'::integer AS site, coalesce(nullif(:'start', '')::date, current_date - 20) AS start \gset
\set ON_ERROR_STOP 0
SELECT matomo_add_site('analytics', :site, start_date => :'start');
\if :ERROR
\set ON_ERROR_STOP 1
-- As matomo_add_site does, which needs Matomo's answer; the first run asks for name and timezone.
SELECT matomo_create_table('matomo');
INSERT INTO matomo_site_config (server, idsite, destination, owner, start_date, every, enabled, name, timezone,
    destination_name, owner_name)
SELECT 'analytics', :site, c.oid, r.oid, :'start', '10 minutes', true, '', 'UTC',
    ARRAY[c.relnamespace::regnamespace::text, c.relname, r.rolname], r.rolname
FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = 'matomo'::regclass;
\warn 'matomo_postgres: no right answer from Matomo yet, see the error above. The site is registered all the same:'
\warn 'the background worker tries again, at first each minute. SELECT * FROM matomo_status shows how it is doing.'
\endif
\endif
END
