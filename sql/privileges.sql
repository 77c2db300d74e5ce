-- Whoever may call it makes the database server send requests to any host that it can reach, and
-- what comes back can fill disks: the administrator decides who.
REVOKE ALL ON FUNCTION matomo_sync(integer, text, text, date, date, text, boolean, integer, text) FROM PUBLIC;

COMMENT ON FUNCTION matomo_sync(integer, text, text, date, date, text, boolean, integer, text) IS
    'Copies the visits of a Matomo site from start_date to end_date (today) into a table; gives a row per day';

REVOKE ALL ON FUNCTION matomo_check(integer, date, date, text, text, text, boolean, boolean, integer, text) FROM PUBLIC;

COMMENT ON FUNCTION matomo_check(integer, date, date, text, text, text, boolean, boolean, integer, text) IS
    'Compares what Matomo lists of a site with what a table holds, day by day, and mends what differs if asked to';

COMMENT ON FUNCTION matomo_seal_dropped(oid, timestamptz, integer) IS
    'Notes in the ledger that the days of a table before an instant hold nothing any more, so that no sync reads them; used by matomo_drop_step';
