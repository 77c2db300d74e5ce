//! `ALTER EXTENSION … UPDATE` from every released version gives the same result as a new
//! installation.

use crate::support::releases::{CURRENT, Shelf, assert_same, released};
use crate::support::report::proven;

#[test]
fn every_update_makes_what_a_new_installation_makes() {
    let mut shelf = Shelf::new();
    let released = released();
    for (version, sql) in &released {
        if version == CURRENT {
            // A released script must not change without a new version.
            shelf.put("released", sql);
            let (then, now) = (shelf.fresh("released"), shelf.fresh(CURRENT));
            assert_same(&format!("released {CURRENT}"), &now, &then);
        } else {
            shelf.put(version, sql);
            let path = "SELECT path FROM pg_extension_update_paths('matomo_postgres') WHERE source = $1 AND target = $2";
            let path = shelf.db.query_opt(path, &[version, &CURRENT]).unwrap();
            let path = path.and_then(|row| row.get::<_, Option<String>>(0));
            assert!(path.is_some(), "no script leads from {version} to {CURRENT}");
        }
    }
    let mut seen = Vec::new();
    // If each script alone is right, so is every chain of them.
    let known =
        |version: &String| version == CURRENT || released.iter().any(|(known, _)| known == version);
    for (from, to) in shelf.updates() {
        assert!(known(&from) && known(&to), "sql/released lacks {from} or {to}");
        let (updated, fresh) = (shelf.updated(&from, &to), shelf.fresh(&to));
        assert_same(&format!("update from {from} to {to}"), &updated, &fresh);
        seen.push(format!("{from} to {to}: all definitions the same"));
    }
    assert!(!seen.is_empty(), "there is no update script");
    proven(
        "Lifecycle",
        "ALTER EXTENSION UPDATE from released versions",
        "each version in `sql/released` installed, then updated; members, `pg_dump -s --binary-upgrade` and dumped tables compared",
        "the same as a new installation",
        &seen.join(", "),
    );
}

#[test]
fn every_version_of_the_changelog_but_the_current_is_kept() {
    let changelog = include_str!("../../../CHANGELOG.md");
    let headings = changelog.lines().filter_map(|line| line.strip_prefix("## "));
    let versions = headings.map(|line| line.split_whitespace().next().unwrap());
    let earlier: Vec<_> =
        versions.filter(|version| !["Unreleased", CURRENT].contains(version)).collect();
    let released = released();
    for version in &earlier {
        assert!(released.iter().any(|(kept, _)| kept == version), "sql/released lacks {version}");
    }
    for (version, _) in &released {
        assert!(
            version == CURRENT || earlier.contains(&version.as_str()),
            "CHANGELOG.md lacks {version}"
        );
    }
}

/// Possible differences of an older version, and what an update must do about each.
const CHANGES: [(&str, &str); 10] = [
    ("CREATE VIEW relic AS SELECT 1 AS one;", "DROP VIEW relic;"),
    (
        "ALTER TABLE matomo_run_log ADD COLUMN note text;",
        "ALTER TABLE matomo_run_log DROP COLUMN note;",
    ),
    (
        "COMMENT ON TABLE matomo_ledger IS 'Old';",
        "COMMENT ON TABLE matomo_ledger IS 'Copied site-days: one row per Matomo, site, destination and day';",
    ),
    (
        "ALTER TABLE matomo_site_config ALTER enabled DROP NOT NULL;",
        "ALTER TABLE matomo_site_config ALTER enabled SET NOT NULL;",
    ),
    (
        "ALTER TABLE matomo_site_state ALTER failures SET DEFAULT 7;",
        "ALTER TABLE matomo_site_state ALTER failures SET DEFAULT 0;",
    ),
    (
        "DROP INDEX matomo_run_log_running;",
        "CREATE INDEX matomo_run_log_running ON matomo_run_log (site_id) WHERE status IN ('running', 'paused');",
    ),
    ("ALTER FUNCTION matomo_may_see(oid) VOLATILE;", "ALTER FUNCTION matomo_may_see(oid) STABLE;"),
    (
        "ALTER FUNCTION matomo_may_see(oid) RESET search_path;",
        "ALTER FUNCTION matomo_may_see(oid) SET search_path = pg_catalog, pg_temp;",
    ),
    (
        "GRANT EXECUTE ON PROCEDURE matomo_sync_all() TO PUBLIC;",
        "REVOKE EXECUTE ON PROCEDURE matomo_sync_all() FROM PUBLIC;",
    ),
    (
        "SELECT pg_catalog.pg_extension_config_dump('matomo_run_log_runid_seq', 'WHERE false');",
        "SELECT pg_catalog.pg_extension_config_dump('matomo_run_log_runid_seq', '');",
    ),
];

/// Proves that the comparison can fail.
#[test]
fn an_update_that_forgets_something_is_found() {
    let mut shelf = Shelf::new();
    let fresh = shelf.fresh(CURRENT);
    assert!(fresh.iter().any(|line| line == "member function matomo_may_see(oid)"), "{fresh:#?}");
    assert!(fresh.iter().any(|line| line.starts_with("dumped matomo_ledger ")), "{fresh:#?}");
    assert!(
        fresh.iter().any(|line| line.starts_with("REVOKE ALL ON FUNCTION public.matomo_sync(")),
        "{fresh:#?}"
    );
    let current = shelf.current();
    let mut found = 0;
    for (number, (otherwise, update)) in CHANGES.into_iter().enumerate() {
        let old = format!("0.0.{number}");
        shelf.put(&old, &format!("{current}\n{otherwise}\n"));
        shelf.put(&format!("{old}--{CURRENT}"), update);
        shelf.put(&format!("{old}--0.0.{number}.forgetful"), "");
        assert_same(otherwise, &shelf.updated(&old, CURRENT), &fresh);
        assert_ne!(
            shelf.updated(&old, &format!("{old}.forgetful")),
            fresh,
            "not found: {otherwise}"
        );
        found += 1;
    }
    proven(
        "Lifecycle",
        "an update script that forgets something",
        &format!(
            "made-up old versions with another view, column, comment, default, index, grant, search_path or dump condition: {}",
            CHANGES.len()
        ),
        "that comparison finds each that is forgotten, and none that is not",
        &format!(
            "{found} of {} found; {} updated as a new installation",
            CHANGES.len(),
            CHANGES.len()
        ),
    );
}
