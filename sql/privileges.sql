-- Whoever may call it makes the database server send requests to any host that it can reach, and
-- what comes back can fill disks: the administrator decides who.
REVOKE ALL ON FUNCTION matomo_sync(integer, text, text, date, date, text, boolean, integer, text) FROM PUBLIC;

COMMENT ON FUNCTION matomo_sync(integer, text, text, date, date, text, boolean, integer, text) IS
    'Copies the visits of a Matomo site from start_date to end_date (today) into a table; gives a row per day';

REVOKE ALL ON FUNCTION matomo_check(integer, date, date, text, text, text, boolean, boolean, integer, text) FROM PUBLIC;

COMMENT ON FUNCTION matomo_check(integer, date, date, text, text, text, boolean, boolean, integer, text) IS
    'Compares what Matomo lists of a site with what a table holds, day by day, and mends what differs if asked to';

-- It tells syncs of others which days they need not read.
REVOKE ALL ON FUNCTION matomo_change_url(regclass, text, text) FROM PUBLIC;

COMMENT ON FUNCTION matomo_change_url(regclass, text, text) IS
    'Tells that a Matomo has moved to another URL: what is known of the days that a table holds of it goes on counting; gives their number';

REVOKE ALL ON FUNCTION matomo_add_site(text, integer, date, text, interval, interval, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION matomo_alter_site(integer, text, integer, date, text, interval, interval, boolean, text) FROM PUBLIC;
REVOKE ALL ON PROCEDURE matomo_sync_site(integer) FROM PUBLIC;
REVOKE ALL ON PROCEDURE matomo_sync_all() FROM PUBLIC;

COMMENT ON FUNCTION matomo_add_site(text, integer, date, text, interval, interval, boolean) IS
    'Registers a site, so that the procedures and the background worker sync it into a table with your rights; gives its ID';
COMMENT ON FUNCTION matomo_alter_site(integer, text, integer, date, text, interval, interval, boolean, text) IS
    'Changes a registered site; what is NULL stays as it is. A site that failed is tried again';
COMMENT ON FUNCTION matomo_remove_site(integer) IS 'Removes a registered site; the copied visits stay';

COMMENT ON FUNCTION matomo_today(text) IS 'Today in a timezone as Matomo names it';
