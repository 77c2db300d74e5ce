-- Erases all copied rows of a visitor.

COMMENT ON FUNCTION matomo_forget(text, text, regclass, text) IS
    'Deletes all rows of a visitor, by visitorid, userid or visitip, from all destinations or one, and returns their number. Erase the visitor in Matomo first, or a sync copies the visits again';
