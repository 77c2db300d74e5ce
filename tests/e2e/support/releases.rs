//! Servers with install scripts of released versions, and a database as 0.1.0 left it.

use std::path::{Path, PathBuf};

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::pages::root;
use crate::support::*;

const NAME: &str = "matomo_postgres";
pub const CURRENT: &str = env!("CARGO_PKG_VERSION");
pub const UPDATE: &str = "ALTER EXTENSION matomo_postgres UPDATE";

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
    pub fn current(&self) -> String {
        let file = self.folder.join(format!("{NAME}--{CURRENT}.sql"));
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"))
    }

    /// Pairs of versions with an update script.
    pub fn updates(&self) -> Vec<(String, String)> {
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

    pub fn fresh(&mut self, version: &str) -> Vec<String> {
        self.after(&format!("CREATE EXTENSION {NAME} VERSION '{version}'"))
    }

    pub fn updated(&mut self, from: &str, to: &str) -> Vec<String> {
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

/// A database with the objects of 0.1.0.
pub fn database_of_0_1_0(shelf: &mut Shelf, name: &str) -> Client {
    run(&mut shelf.db, &format!("CREATE DATABASE {name}"));
    let mut db = shelf.cluster.connect(name);
    run(&mut db, "CREATE EXTENSION matomo_postgres VERSION '0.1.0'");
    db
}

/// A server that also offers 0.1.0.
pub fn shelf_with_0_1_0() -> Shelf {
    let shelf = Shelf::new();
    let sql = released().into_iter().find(|(version, _)| version == "0.1.0").unwrap().1;
    shelf.put("0.1.0", &sql);
    shelf
}

/// What 0.1.0 has in its tables after a sync of site 1 of the server `analytics` into a
/// partitioned table: sealed days, a last day that is half read, an old run that was killed. 0.1.0
/// kept URLs as typed.
pub fn fill(db: &mut Client, fake: &Fake, zone: &str, url: &str) {
    let rows = oracle(fake, "2026-10-19", "2026-10-30");
    run(
        db,
        &format!(
            "CREATE PUBLICATION everything FOR ALL TABLES; CREATE ROLE etl; CREATE ROLE \"on call\";
             GRANT EXECUTE ON FUNCTION matomo_sync, matomo_check TO etl;
             GRANT EXECUTE ON FUNCTION matomo_check TO \"on call\" WITH GRANT OPTION;
             REVOKE EXECUTE ON FUNCTION matomo_forget FROM PUBLIC;
             REVOKE SELECT ON matomo_runs FROM PUBLIC; GRANT SELECT ON matomo_runs TO \"on call\";
             CREATE SERVER analytics FOREIGN DATA WRAPPER matomo OPTIONS (url '{url}');
             CREATE USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (token '{}');
             SELECT matomo_create_table('visits', true);
             SELECT matomo_create_partitions('visits', '2026-10-18', '2026-11-01')",
            fake.token()
        ),
    );
    copy_rows(db, "visits", &rows);
    let counts = "SELECT (action_timestamp AT TIME ZONE 'ZONE')::date AS day, count(DISTINCT idvisit) AS visits,
        count(*) AS actions, max(action_timestamp) AS newest FROM visits GROUP BY 1";
    let counts = counts.replace("'ZONE'", &format!("'{zone}'"));
    run(
        db,
        &format!(
            "INSERT INTO matomo_site_config (server, idsite, destination, owner, start_date, every, retention,
                 enabled, name, timezone)
             VALUES ('analytics', 1, 'visits', 'postgres', '2026-10-19', '10 minutes', '100 years', true,
                 'Site 1', '{zone}'),
                 ('gone', 2, 99999, 99998, NULL, '1 hour', NULL, false, 'Site 2', '{zone}');
             INSERT INTO matomo_site_state (site_id, matomo, last_success_at, upkeep_place, failures)
             VALUES (1, '{url}/index.php', '2026-10-31', '{{\"number\": 3}}', 2);
             INSERT INTO matomo_run_log (job_pid, database, username, command, status, start_time, site_id, owner,
                 server, idsite, destination)
             VALUES (1, 'kept', 'postgres', 'CALL matomo_sync_all()', 'succeeded', '2026-10-31', 1, 'postgres',
                     'analytics', 1, 'visits'),
                 (2, 'kept', 'postgres', 'CALL matomo_sync_all()', 'running', '2026-10-31', 1, 99998,
                     'analytics', 1, 'visits');
             INSERT INTO matomo_ledger SELECT '{url}/index.php', 1, 'visits', day, true, visits, actions, 0, newest,
                 '{zone}', '2026-11-05' FROM ({counts}) c;
             INSERT INTO matomo_ledger SELECT upper('{url}') || '/index.php', 1, 'visits', day, false, 0, 0, 0, NULL,
                 '{zone}', '2026-11-06' FROM ({counts}) c WHERE day <= '2026-10-20';
             UPDATE matomo_ledger SET sealed = false, pass_began = '2026-10-30', pass_since = '2026-10-30', pass_seen = ''
             WHERE day = '2026-10-30'"
        )
        // 0.1.0 wrote the scheme in lower case, unlike `upper`.
        .replace("upper('", "replace(upper('")
        .replace("') || '/index.php', 1", "'), 'HTTP', 'http') || '/index.php', 1"),
    );
}
