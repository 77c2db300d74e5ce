-- Copies, compares and erases visits.

COMMENT ON FUNCTION matomo_sync(integer, text, text, date, date, text, boolean, integer, text) IS
    'Copies the visits of a Matomo site from start_date to end_date (default today) into a table; returns a row per day';
COMMENT ON FUNCTION matomo_check(integer, date, date, text, text, text, boolean, boolean, integer, text, boolean) IS
    'Compares the visits of a site in Matomo and in a table, day by day, and optionally repairs differences';
COMMENT ON FUNCTION matomo_forget(text, text, regclass, text) IS
    'Deletes all rows of a visitor, by visitorid, userid or visitip, from all destinations or one, and returns their number. Erase the visitor in Matomo first, or a sync copies the visits again';
