-- Stored credentials, as for dblink: a server has the URL of a Matomo, a user mapping the token. Without
-- a handler, no foreign table can be created.

COMMENT ON FUNCTION matomo_fdw_validator(text[], oid) IS 'Internal: checks the options of servers and user mappings';

CREATE FOREIGN DATA WRAPPER matomo VALIDATOR matomo_fdw_validator NO HANDLER;

COMMENT ON FOREIGN DATA WRAPPER matomo IS 'Credentials of Matomos: servers have options url, timeout, connect_timeout, language, page_size, fetch_workers and ca_file, user mappings the option token';
