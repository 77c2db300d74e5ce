//! The library and the extension's objects have different versions, before `ALTER EXTENSION …
//! UPDATE` or in an older session: the error tells the caller what to do.

use std::fs;
use std::path::PathBuf;

use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::pg_upgrade::pg_upgrade;
use crate::support::releases::{Shelf, UPDATE, released};
use crate::support::report::{proven, said};
use crate::support::*;

fn shelf() -> Shelf {
    let shelf = Shelf::new();
    for (version, sql) in released() {
        shelf.put(&version, &sql);
    }
    shelf
}

fn database(shelf: &mut Shelf, name: &str) -> Client {
    run(&mut shelf.db, &format!("CREATE DATABASE {name}"));
    let mut db = shelf.cluster.connect(name);
    run(&mut db, "CREATE EXTENSION matomo_postgres VERSION '0.1.0'");
    db
}

/// Functions that use none of our tables always work: pg_upgrade and pg_dump need the validator.
const INDEPENDENT: [&str; 3] = ["fdw_validator", "run_outside_transaction", "today"];

/// A call of every other C function of ours.
fn calls(db: &mut Client) -> Vec<(String, String)> {
    let sql = format!(
        "SELECT p.proname::text, format('SELECT %s(%s)', p.oid::regproc, (
            SELECT string_agg(format('%L::%s', CASE t::regtype::text WHEN 'boolean' THEN 'true' WHEN 'date' THEN '2026-11-27'
                WHEN 'timestamp with time zone' THEN '2026-11-27' WHEN 'interval' THEN '1 day' ELSE '1' END, t::regtype), ', ')
            FROM unnest(p.proargtypes) t))
        FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'c'
        WHERE p.proname LIKE 'matomo%' AND replace(p.proname, 'matomo_', '') <> ALL ('{{{}}}') ORDER BY 1",
        INDEPENDENT.join(", ")
    );
    db.query(&sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn before_the_update_every_call_says_that_it_is_due() {
    let mut shelf = shelf();
    let mut db = database(&mut shelf, "before");
    let message = format!(
        "extension matomo_postgres is version 0.1.0 in this database, its library {}",
        env!("CARGO_PKG_VERSION")
    );
    let hint = "Run ALTER EXTENSION matomo_postgres UPDATE.";
    let calls = calls(&mut db);
    for (_, call) in &calls {
        assert_says(&error(&mut db, call), "55000", &message, &[], hint);
    }
    let told = calls.len();
    assert!(told > 10);
    run(
        &mut db,
        "CREATE SERVER analytics FOREIGN DATA WRAPPER matomo OPTIONS (url 'https://a.example.org')",
    );
    for call in ["CALL matomo_sync_all()", "CALL matomo_sync_site(1)"] {
        assert_says(&error(&mut db, call), "55000", &message, &[], hint);
    }
    run(
        &mut db,
        "SELECT * FROM matomo_status, matomo_runs, matomo_sites, matomo_progress, matomo_days",
    );
    run(&mut db, UPDATE);
    run(&mut db, "CALL matomo_sync_all()");
    proven(
        "Lifecycle",
        "a new library, and ALTER EXTENSION UPDATE not yet run",
        "each function in C of 0.1.0 called, and the procedures",
        "each says what to do; views, and what needs no table of the extension, work on",
        &format!("{told} functions: `55000` {message}. {hint}"),
    );
}

/// An older library that a session may have loaded: one without our functions.
struct OldLibrary {
    file: PathBuf,
    new: PathBuf,
}

impl OldLibrary {
    fn put(shelf: &mut Shelf) -> OldLibrary {
        let folder: String =
            one(&mut shelf.db, "SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'");
        let file = PathBuf::from(&folder).join("matomo_postgres.so");
        let new = PathBuf::from(&folder).join("new.so");
        fs::rename(&file, &new).unwrap();
        fs::copy(PathBuf::from(&folder).join("pgoutput.so"), &file).unwrap();
        OldLibrary { file, new }
    }

    /// Like package managers: a new file replaces the old one.
    fn replace(self) {
        fs::rename(self.new, self.file).unwrap();
    }
}

#[test]
fn a_session_with_an_older_library_is_told_to_reconnect() {
    let mut shelf = shelf();
    let mut db = database(&mut shelf, "older");
    let library = OldLibrary::put(&mut shelf);
    let mut old = shelf.cluster.connect("older");
    run(&mut old, "LOAD 'matomo_postgres'");
    library.replace();

    let refused = error(&mut old, UPDATE);
    let message = "this session has loaded an older library of matomo_postgres than 0.2.0";
    let hint = "Reconnect and try again; where the library is in shared_preload_libraries, restart the server before.";
    assert_says(&refused, "55000", message, &[], hint);
    run(&mut db, UPDATE);

    let mut told = Vec::new();
    for (name, call) in calls(&mut old) {
        let failed = error(&mut old, &call);
        let message = failed.message();
        assert_eq!(failed.code().code(), "42883", "{message}");
        assert!(message.starts_with("could not find function \""), "{message}");
        if message.contains("_0_2_reconnect_wrapper") {
            told.push(name);
        }
    }
    let all = r"SELECT count(*) FROM pg_proc WHERE prosrc LIKE '%\_0\_2\_reconnect\_wrapper'";
    assert_eq!(told.len() as i64, one::<i64>(&mut db, all), "{told:?}");
    for sql in ["CALL matomo_sync_all()", "CALL matomo_sync_site(1)", "SELECT * FROM matomo_status"]
    {
        let message = error(&mut old, sql).message().to_owned();
        assert!(message.contains("_0_2_reconnect_wrapper\" in file"), "{sql}: {message}");
    }
    run(&mut db, "CALL matomo_sync_all()");
    let failed = error(&mut old, "CALL matomo_sync_all()");
    let file = failed.message().rsplit_once('/').unwrap().0.rsplit_once('"').unwrap().1.to_owned();
    proven(
        "Lifecycle",
        "ALTER EXTENSION UPDATE beside a session with an older library",
        "each function in C, the procedures and a view used there; ALTER EXTENSION UPDATE itself",
        "no function runs, and the error says reconnect; the update is refused there",
        &format!("{}; {}", said(&refused), said(&failed).replace(&file, "…")),
    );
}

/// Libraries of other versions may meet a call, so a symbol that exists must have the arguments
/// that the caller expects.
#[test]
fn a_symbol_keeps_its_arguments_for_ever() {
    let mut shelf = shelf();
    let mut db = database(&mut shelf, "symbols");
    let functions = "SELECT concat_ws(' ', p.prosrc, p.proargtypes::regtype[], p.prorettype::regtype, p.proretset,
            p.proallargtypes::regtype[]) FROM pg_proc p
        JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'c' WHERE p.proname LIKE 'matomo%' ORDER BY 1";
    let old = texts(&mut db, functions);
    run(&mut db, UPDATE);
    let mut in_both = Vec::new();
    for line in texts(&mut db, functions) {
        let (symbol, arguments) = line.split_once(' ').unwrap();
        let before = old.iter().find_map(|line| line.strip_prefix(&format!("{symbol} ")));
        if let Some(before) = before {
            assert_eq!(before, arguments, "{symbol}");
            in_both.push(symbol.to_owned());
        }
    }
    assert_eq!(in_both, INDEPENDENT.map(|name| format!("matomo_{name}_wrapper")));
}

/// The new library has every function that the old objects name; otherwise `pg_upgrade` could not
/// create them.
#[test]
fn pg_upgrade_takes_a_database_that_is_not_updated_yet() {
    let mut old = shelf();
    let mut db = database(&mut old, "behind");
    run(
        &mut db,
        "CREATE SERVER analytics FOREIGN DATA WRAPPER matomo OPTIONS (url 'https://a.example.org');
         CREATE USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (token 'secret');
         SELECT matomo_create_table('matomo')",
    );
    drop(db);
    let new = Cluster::create("", &[]);
    old.cluster.stop("fast");
    pg_upgrade(&old.cluster, &new);
    new.start_again();
    let mut db = new.connect("behind");
    let version = "SELECT extversion FROM pg_extension WHERE extname = 'matomo_postgres'";
    assert_eq!(one::<String>(&mut db, version), "0.1.0");
    run(&mut db, UPDATE);
    assert_eq!(one::<String>(&mut db, version), env!("CARGO_PKG_VERSION"));
    assert_eq!(texts(&mut db, "SELECT srvname::text FROM pg_user_mappings"), ["analytics"]);
    run(&mut db, "CALL matomo_sync_all()");
}
