-- A visitor's erasure: of all that is copied of him, wherever it is.

COMMENT ON FUNCTION matomo_forget(text, text, regclass) IS
    'Deletes all rows of a visitor, by visitorid or userid, from every table that syncs write to (or from one), and gives their number. Erase him in Matomo first: a sync copies what is there';
