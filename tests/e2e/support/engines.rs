//! Tables whose rows are kept by something else than Postgres' heap.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres::Client;

use crate::support::cluster::shared;
use crate::support::*;

/// Makes the heap known under another name. A table of that access method is as any other, but not known
/// to be: a sync writes it with plain SQL by key.
pub fn create_heap2(db: &mut Client) {
    run(db, "CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler");
}

/// A database in which the session makes ordinary tables, however the suite runs.
pub fn heap() -> Client {
    let mut db = database();
    run(&mut db, "SET default_table_access_method = heap");
    db
}

/// A database in which the session makes tables with that method.
pub fn heap2() -> Client {
    let mut db = database();
    // The whole suite may run so.
    if texts(&mut db, "SELECT amname::text FROM pg_am WHERE amname = 'heap2'").is_empty() {
        create_heap2(&mut db);
    }
    run(&mut db, "SET default_table_access_method = heap2");
    db
}

/// Compiles a module for the server; returns its library.
pub fn module(name: &str, source: &str) -> PathBuf {
    // Tests may compile the same one at the same time.
    static COMPILED: AtomicU32 = AtomicU32::new(0);
    let number = COMPILED.fetch_add(1, Ordering::Relaxed);
    let path = format!("/tmp/matomo_e2e_{name}_{}_{number}", std::process::id());
    let [file, library] = ["c", "so"].map(|kind| PathBuf::from(format!("{path}.{kind}")));
    std::fs::write(&file, source).unwrap();
    let config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".to_owned());
    let headers = Command::new(config).arg("--includedir-server").output().unwrap();
    let headers = String::from_utf8(headers.stdout).unwrap();
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-I", headers.trim(), "-o"])
        .args([&library, &file])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::remove_file(file).unwrap();
    library
}

/// A partitioned destination, of which all before an instant lies in another database, as a foreign
/// partition. Returns a connection to that.
pub fn foreign_partition(db: &mut Client, destination: &str, until: &str) -> Client {
    let (name, mut there) = named_database();
    run(&mut there, "CREATE TABLE old (LIKE matomo_action)");
    create_server(db, shared().port(), &name);
    create_parted(db, destination, until);
    there
}

/// The same with a foreign server and its table that exist.
pub fn create_parted(db: &mut Client, destination: &str, until: &str) {
    run(
        db,
        &format!(
            "CREATE TABLE {destination} (LIKE matomo_action) PARTITION BY RANGE (action_timestamp);
             CREATE FOREIGN TABLE {destination}_old PARTITION OF {destination}
                 FOR VALUES FROM (MINVALUE) TO ('{until}') SERVER there OPTIONS (table_name 'old');
             CREATE INDEX ON {destination} (idvisit);
             SELECT matomo_create_companions('{destination}')"
        ),
    );
}

/// The foreign server `there`: a database of a server on this port.
pub fn create_server(db: &mut Client, port: u16, database: &str) {
    run(
        db,
        &format!(
            "CREATE EXTENSION IF NOT EXISTS postgres_fdw; CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw
                 OPTIONS (host '127.0.0.1', port '{port}', dbname '{database}');
             CREATE USER MAPPING FOR CURRENT_USER SERVER there OPTIONS (user 'postgres')"
        ),
    );
}
