//! Synced registered sites, and databases into which their dump is restored.

use std::path::{Path, PathBuf};

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::{Cluster, shared};
use crate::support::dump::{empty_database, output};
use crate::support::sites::*;
use crate::support::*;

pub const FIRST: &str = "2026-10-24";

/// Site 1 in the table `matomo` and site 2 in `matomo_partitioned`, both synced once by an owner.
pub struct Scene {
    pub fake: Fake,
    pub name: String,
    pub db: Client,
    pub owner: String,
}

pub fn scene() -> Scene {
    scene_of(serve_two())
}

/// The same for another Matomo.
pub fn scene_of(fake: Fake) -> Scene {
    let (name, mut admin, owner) = database_and_role();
    server_for(&mut admin, &fake, &owner);
    run(&mut admin, &format!("GRANT CREATE ON SCHEMA public TO {owner}"));
    let mut db = connect_as(&name, &owner);
    for (site, table) in [(1, "public.matomo"), (2, "public.matomo_partitioned")] {
        let add = format!("SELECT matomo_add_site('analytics', {site}, '{FIRST}', '{table}')");
        run(&mut db, &add);
    }
    run(&mut db, "CALL matomo_sync_all()");
    Scene { fake, name, db: admin, owner }
}

/// The contents of the extension's own tables, with names instead of OIDs.
pub fn kept(db: &mut Client) -> Vec<String> {
    texts(
        db,
        "SELECT concat('site ', s) FROM matomo_sites s
         UNION ALL SELECT concat('state ', t) FROM matomo_site_state t
         UNION ALL SELECT concat('run ', r) FROM matomo_runs r
         UNION ALL SELECT concat('rest of run ', r.runid, r.next_day, r.done, r.timezone, r.step_pages, r.changes)
             FROM matomo_run_log r
         UNION ALL SELECT concat('day ', d) FROM matomo_days d
         UNION ALL SELECT concat('rest of day ', l.idsite, l.day, l.pass_began, l.pass_since, l.pass_seen)
             FROM matomo_ledger l
         UNION ALL SELECT concat('companion ', c.kind, ' ', of_companion.names, ' of ', of_destination.names)
             FROM matomo_companion c,
             LATERAL (SELECT CASE c.destination WHEN 0 THEN c.destination_name
                          ELSE (SELECT ARRAY[n.nspname::text, r.relname::text, r.relowner::regrole::text] FROM pg_class r
                              JOIN pg_namespace n ON n.oid = r.relnamespace WHERE r.oid = c.destination) END) AS of_destination (names),
             LATERAL (SELECT CASE c.companion WHEN 0 THEN c.companion_name
                          ELSE (SELECT ARRAY[n.nspname::text, r.relname::text, r.relowner::regrole::text] FROM pg_class r
                              JOIN pg_namespace n ON n.oid = r.relnamespace WHERE r.oid = c.companion) END) AS of_companion (names)
         UNION ALL SELECT concat('status ', site_id, destination, owner, synced_to, sealed_to, newest_action, failures)
             FROM matomo_status
         ORDER BY 1",
    )
}

pub fn file_of(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("matomo_e2e.{}.{name}.dump", std::process::id()))
}

/// A dump with more arguments.
pub fn dumped(name: &str, arguments: &[&str]) -> PathBuf {
    let file = file_of(name);
    output(shared().program("pg_dump").args(arguments).arg("-f").arg(&file).arg(name));
    file
}

/// Restores a dump in the custom format into a new database.
pub fn restored(cluster: &Cluster, file: &Path, copy: &str, arguments: &[&str]) -> Client {
    let db = empty_database(cluster, copy);
    output(cluster.program("pg_restore").args(arguments).args(["-e", "-d", copy]).arg(file));
    db
}

/// A dump of a database with more arguments, restored into a new one with this suffix.
pub fn copied(name: &str, suffix: &str, arguments: &[&str]) -> Client {
    let copy = format!("{name}_{suffix}");
    let file = dumped(name, &[&["-Fc"], arguments].concat());
    let new = restored(shared(), &file, &copy, &[]);
    std::fs::remove_file(file).unwrap();
    new
}

/// Asserts that the sites resume where they were: sealed days are not read again.
pub fn assert_resumes(db: &mut Client, fake: &Fake) {
    fake.clear_requests();
    run(db, "CALL matomo_sync_all()");
    let failed = texts(db, "SELECT s::text FROM matomo_status s WHERE failures <> 0");
    assert_eq!(failed, [""; 0]);
    let asked = asked(fake);
    assert!(!asked.iter().any(|line| line.contains(FIRST)), "{asked:?}");
}
