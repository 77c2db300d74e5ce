//! `ALTER EXTENSION … UPDATE` from every released version gives the same result as a new
//! installation.

use std::path::{Path, PathBuf};

use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::pages::root;
use crate::support::report::proven;
use crate::support::*;

const NAME: &str = "matomo_postgres";
const CURRENT: &str = env!("CARGO_PKG_VERSION");

/// A server of its own, to which install scripts of other versions can be added.
pub struct Shelf {
    pub cluster: Cluster,
    pub db: Client,
    folder: PathBuf,
    databases: usize,
}

impl Shelf {
    pub fn new() -> Shelf {
        let cluster = Cluster::start();
        let mut db = cluster.connect("postgres");
        let share: String = one(&mut db, "SELECT setting FROM pg_config WHERE name = 'SHAREDIR'");
        assert!(Path::new(&share).starts_with(&cluster.dir), "{share} is the system's");
        Shelf { cluster, db, folder: Path::new(&share).join("extension"), databases: 0 }
    }

    /// Adds a script: `X` installs, `X--Y` updates.
    pub fn put(&self, versions: &str, sql: &str) {
        let file = self.folder.join(format!("{NAME}--{versions}.sql"));
        assert!(!file.exists(), "{file:?} is there already");
        std::fs::write(file, sql).unwrap();
    }

    /// The install script of the current build.
    fn current(&self) -> String {
        let file = self.folder.join(format!("{NAME}--{CURRENT}.sql"));
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"))
    }

    /// Pairs of versions with an update script.
    fn updates(&self) -> Vec<(String, String)> {
        let names =
            std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut found: Vec<_> = names
            .filter_map(|name| {
                let versions =
                    name.to_str()?.strip_prefix("matomo_postgres--")?.strip_suffix(".sql")?;
                versions.split_once("--").map(|(from, to)| (from.to_owned(), to.to_owned()))
            })
            .collect();
        found.sort();
        found
    }

    /// The contents of a database after these statements.
    pub fn after(&mut self, statements: &str) -> Vec<String> {
        self.databases += 1;
        let name = format!("shelf_{}", self.databases);
        run(&mut self.db, &format!("CREATE DATABASE {name}"));
        let mut db = self.cluster.connect(&name);
        run(&mut db, statements);
        let mut all = members(&mut db);
        all.extend(self.definitions(&name));
        all
    }

    /// The definitions of all members as `pg_upgrade` would create them, by statement.
    fn definitions(&self, database: &str) -> Vec<String> {
        let dump = self
            .cluster
            .program("pg_dump")
            .args(["-s", "--binary-upgrade", database])
            .output()
            .unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let text = String::from_utf8(dump.stdout).unwrap();
        let is_said =
            |line: &&str| !line.starts_with("--") && !line.starts_with('\\') && !line.is_empty();
        // A table keeps a trace of its dropped columns.
        let lines = text.lines().filter(is_said).filter(|line| !line.contains("pg.dropped."));
        let text: String = lines.flat_map(|line| [line.trim_end_matches(','), "\n"]).collect();
        // Object numbers, which differ between databases.
        let numbers = ["pg_catalog.binary_upgrade_", "UPDATE pg_catalog.pg_"];
        let statements =
            text.split(";\n").filter(|part| !numbers.iter().any(|words| part.contains(words)));
        statements.map(str::to_owned).collect()
    }

    fn fresh(&mut self, version: &str) -> Vec<String> {
        self.after(&format!("CREATE EXTENSION {NAME} VERSION '{version}'"))
    }

    fn updated(&mut self, from: &str, to: &str) -> Vec<String> {
        self.after(&format!(
            "CREATE EXTENSION {NAME} VERSION '{from}'; ALTER EXTENSION {NAME} UPDATE TO '{to}'"
        ))
    }
}

/// The members of the extension, and which of its tables are dumped with rows.
fn members(db: &mut Client) -> Vec<String> {
    texts(
        db,
        "SELECT format('member %s', pg_describe_object(d.classid, d.objid, d.objsubid))
         FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
         WHERE e.extname = 'matomo_postgres' AND d.deptype = 'e'
         UNION ALL
         SELECT format('dumped %s %s', c.config::oid::regclass, c.condition)
         FROM pg_extension e CROSS JOIN LATERAL unnest(e.extconfig, e.extcondition) AS c(config, condition)
         WHERE e.extname = 'matomo_postgres'
         ORDER BY 1",
    )
}

pub fn assert_same(what: &str, found: &[String], expected: &[String]) {
    let lacking: Vec<_> = expected.iter().filter(|line| !found.contains(line)).collect();
    let surplus: Vec<_> = found.iter().filter(|line| !expected.contains(line)).collect();
    assert_eq!(
        (lacking, surplus),
        (vec![], vec![]),
        "{what}: what is lacking, and what is too much"
    );
    assert_eq!(found.len(), expected.len(), "{what}");
}

/// The install scripts of released versions: (version, SQL).
pub fn released() -> Vec<(String, String)> {
    let folder = root().join("sql/released");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
    let mut found: Vec<_> = files
        .filter_map(|file| {
            let name = file.file_name().into_string().unwrap();
            let version = name.strip_prefix("matomo_postgres--")?.strip_suffix(".sql")?;
            Some((version.to_owned(), std::fs::read_to_string(file.path()).unwrap()))
        })
        .collect();
    found.sort();
    found
}

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
