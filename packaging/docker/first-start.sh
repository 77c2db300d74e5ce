#!/usr/bin/env bash
# Runs once in a new data directory: the extension, and the site of MATOMO_URL, MATOMO_SITE and MATOMO_KEY
# (or the file MATOMO_KEY_FILE), which the background worker syncs from then on.
set -euo pipefail

[[ -z ${MATOMO_KEY_FILE:-} ]] || MATOMO_KEY=$(<"$MATOMO_KEY_FILE")
export MATOMO_URL=${MATOMO_URL:-} MATOMO_SITE=${MATOMO_SITE:-1} MATOMO_KEY=${MATOMO_KEY:-} MATOMO_START=${MATOMO_START:-}

# psql reads the variables from the environment: the token is in no command line.
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
SELECT matomo_add_site('analytics', :'site', start_date => coalesce(nullif(:'start', '')::date, current_date - 20));
\endif
END
