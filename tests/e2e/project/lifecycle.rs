//! Updating and dropping the extension.

use crate::support::cluster::shared;
use crate::support::report::{all_there, proven, said};
use crate::support::sites::*;
use crate::support::traps::*;
use crate::support::*;

const CARGO: &str = env!("CARGO_PKG_VERSION");
const CHANGELOG: &str = include_str!("../../../CHANGELOG.md");
const META: &str = include_str!("../../../packaging/META.json");
const CONTROL: &str = include_str!("../../../matomo_postgres.control");

#[test]
fn the_version_stands_in_one_place() {
    assert!(CHANGELOG.contains("\n## Unreleased\n"), "where a patch adds its line");
    let place = changelog().iter().position(|version| *version == CARGO);
    assert!(matches!(place, None | Some(0)), "a release of CHANGELOG.md is newer than {CARGO}");
    // cargo-pgrx inserts the version of Cargo.toml there, and so does packaging/pgxn.
    assert!(CONTROL.contains("default_version = '@CARGO_VERSION@'"), "{CONTROL}");
    let meta: serde_json::Value = serde_json::from_str(META).unwrap();
    assert_eq!(meta["version"], "@CARGO_VERSION@");
    assert_eq!(meta["provides"]["matomo_postgres"]["version"], "@CARGO_VERSION@");
    let mut db = database();
    let offered =
        "SELECT default_version FROM pg_available_extensions WHERE name = 'matomo_postgres'";
    assert_eq!(one::<String>(&mut db, offered), CARGO);
    let installed = "SELECT extversion FROM pg_extension WHERE extname = 'matomo_postgres'";
    assert_eq!(one::<String>(&mut db, installed), CARGO);
    let installable =
        "SELECT version FROM pg_available_extension_versions WHERE name = 'matomo_postgres'";
    assert_eq!(texts(&mut db, installable), [CARGO], "packages hold one install script");
    // From Postgres 18 on the library has a version of its own.
    if since(&mut db, 18) {
        run(&mut db, "LOAD 'matomo_postgres'");
        let loaded = "SELECT concat_ws(' ', module_name, version) FROM pg_get_loaded_modules()
                      WHERE file_name = 'matomo_postgres.so'";
        assert_eq!(texts(&mut db, loaded), [format!("matomo_postgres {CARGO}")]);
    }
}

/// The released versions, newest first.
fn changelog() -> Vec<&'static str> {
    let headings = CHANGELOG.lines().filter_map(|line| line.strip_prefix("## "));
    let versions = headings.map(|heading| heading.split_whitespace().next().unwrap());
    versions.filter(|version| *version != "Unreleased").collect()
}

#[test]
fn an_update_to_the_same_version_has_nothing_to_do() {
    let (mut db, notices) = database_with_notices();
    run(&mut db, "ALTER EXTENSION matomo_postgres UPDATE");
    let nothing =
        format!("version \"{CARGO}\" of extension \"matomo_postgres\" is already installed");
    assert_eq!(notices.take(), [("NOTICE".to_owned(), nothing)]);
    let error = error(&mut db, "ALTER EXTENSION matomo_postgres UPDATE TO '99.0'");
    let message = format!(
        "extension \"matomo_postgres\" has no update path from version \"{CARGO}\" to version \"99.0\""
    );
    assert_says(&error, "22023", &message, &[], "");
}

#[test]
fn the_extension_stays_in_the_schema_that_it_was_created_in() {
    let mut db = database();
    run(&mut db, "CREATE SCHEMA elsewhere");
    let error = error(&mut db, "ALTER EXTENSION matomo_postgres SET SCHEMA elsewhere");
    let message = "extension \"matomo_postgres\" does not support SET SCHEMA";
    assert_says(&error, "0A000", message, &[], "");
    proven(
        "Lifecycle",
        "ALTER EXTENSION … SET SCHEMA",
        "to another schema than it was created in",
        "refused: its functions know their schema",
        &said(&error),
    );
}

#[test]
fn a_schema_that_is_renamed_has_to_be_renamed_back() {
    let fake = serve(world(232, "Europe/Paris", 2, "2026-10-24", "2026-10-25"));
    let mut db = database();
    run(
        &mut db,
        "DROP EXTENSION matomo_postgres; CREATE SCHEMA tools; CREATE EXTENSION matomo_postgres SCHEMA tools;
         SET search_path = public, tools, renamed; ALTER SCHEMA tools RENAME TO renamed",
    );
    let make = "SELECT matomo_create_table('matomo')";
    for sql in [make, "CALL matomo_sync_all()"] {
        let failed = error(&mut db, sql);
        assert_says(&failed, "3F000", "schema \"tools\" does not exist", &[], "");
    }
    run(&mut db, "ALTER SCHEMA renamed RENAME TO tools");
    assert_eq!(Sync::of(&fake, "2026-10-24", "2026-10-25").run(&mut db).days, 2);
    run(&mut db, "CALL matomo_sync_all()");
}

/// Uses everything that docs/functions.md names by qualified names, with an empty search_path.
#[test]
fn everything_works_with_the_extension_in_a_schema_that_nobody_searches() {
    let fake = serve(world(231, "Europe/Paris", 6, "2026-10-24", "2026-10-26"));
    let mut db = database();
    run(
        &mut db,
        "DROP EXTENSION matomo_postgres; CREATE SCHEMA \"Our tools\"; SET search_path = '';
         CREATE EXTENSION matomo_postgres SCHEMA \"Our tools\"; CREATE SCHEMA data",
    );
    let here = |sql: &str| sql.replace("our.", "\"Our tools\".");
    server(&mut db, &fake);
    run(&mut db, &here("SELECT our.matomo_create_table('data.visits', true)"));
    let add = "SELECT our.matomo_add_site('analytics', 1, start_date => '2026-10-24', destination => 'data.visits',
        retention => '100 years')";
    let site: i32 = one(&mut db, &here(add));
    run(&mut db, &here("CALL our.matomo_sync_all()"));
    run(&mut db, &here(&format!("CALL our.matomo_sync_site({site})")));
    let states = one::<String>(
        &mut db,
        &here("SELECT pg_catalog.string_agg(status, ' ') FROM our.matomo_runs"),
    );
    assert_eq!(states, "succeeded succeeded");
    let healthy = "SELECT failures FROM our.matomo_status WHERE upkeep_error IS NULL AND synced_to IS NOT NULL";
    assert_eq!(one::<i32>(&mut db, &here(healthy)), 0);
    let differing =
        "SELECT pg_catalog.sum(missing + extra + stale)::int FROM our.matomo_check(1, '2026-10-24',
        '2026-10-26', server => 'analytics', destination => 'data.visits', deep => true)";
    let differing_rows = one::<i32>(&mut db, &here(differing));
    assert_eq!(differing_rows, 0);
    run(&mut db, "SET search_path = public, \"Our tools\"");
    let all = all_there(&mut db, "data.visits", &all_of(&fake, 1));
    run(&mut db, "SET search_path = ''");
    assert_eq!(
        one::<i64>(&mut db, &here("SELECT pg_catalog.count(*) FROM our.matomo_progress")),
        0
    );
    run(&mut db, &here("CALL our.matomo_drop_before('data.visits', '2026-10-26')"));
    let forget = "SELECT pg_catalog.count(*) FROM our.matomo_forget(visitorid => 'nobody')";
    assert_eq!(one::<i64>(&mut db, &here(forget)), 1);
    run(
        &mut db,
        &here(&format!(
            "SELECT our.matomo_alter_site({site}, every => '1 hour'), our.matomo_remove_site({site})"
        )),
    );
    let weeks = "SELECT our.matomo_create_partitions('data.visits', '2030-01-01', '2030-01-01')";
    assert_eq!(one::<i32>(&mut db, &here(weeks)), 1);
    proven(
        "Lifecycle",
        "a schema that nobody searches",
        "`CREATE EXTENSION … SCHEMA \"Our tools\"`; all functions, procedures and views by qualified name, with an empty search_path",
        "they all work",
        &format!("runs {states}; `matomo_check` finds {differing_rows} that differ; {all}"),
    );
}

const CASCADE: &str = "DROP EXTENSION matomo_postgres CASCADE";

#[test]
fn without_cascade_servers_keep_the_extension() {
    let fake = serve(world(232, "UTC", 5, FIRST, LAST));
    let mut db = database();
    server(&mut db, &fake);
    add_site(&mut db, &format!(", start_date => '{FIRST}'"));
    run(&mut db, "CALL matomo_sync_all()");
    let tables = ["matomo", "matomo_visits", "matomo_conversions", "matomo_items"];
    let rows = tables.map(|table| fingerprint(&mut db, table));
    let refused = error(&mut db, "DROP EXTENSION matomo_postgres");
    let message = "cannot drop extension matomo_postgres because other objects depend on it";
    let hint = "Use DROP ... CASCADE to drop the dependent objects too.";
    assert_says(&refused, "2BP01", message, &["server analytics depends on"], hint);
    let sites: i64 = one(&mut db, "SELECT count(*) FROM matomo_sites");
    assert_eq!(sites, 1);
    proven(
        "Lifecycle",
        "DROP EXTENSION with servers",
        "without CASCADE, with a server, a mapping and a registered site",
        "refused, as for any extension that others depend on",
        &format!("{}; sites: {sites}", said(&refused)),
    );

    run(&mut db, CASCADE);
    let left =
        "SELECT (SELECT count(*) FROM pg_foreign_server) + (SELECT count(*) FROM pg_user_mapping)
        + (SELECT count(*) FROM pg_class WHERE relname LIKE 'matomo%' AND relkind IN ('v', 'S'))";
    let left: i64 = one(&mut db, left);
    assert_eq!(left, 0);
    let after = tables.map(|table| fingerprint(&mut db, table));
    assert_eq!(after, rows, "the visits stay as they were");

    // Created again, the extension knows nothing; it accepts the table and finds it in order.
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_sites"), 0);
    server(&mut db, &fake);
    // It does not know the former companions until told.
    let taken = "SELECT string_agg(c::text, ' ') FROM matomo_create_companions('matomo') c";
    assert_eq!(texts(&mut db, taken), ["matomo_visits matomo_conversions matomo_items"]);
    assert_eq!(add_site(&mut db, &format!(", start_date => '{FIRST}'")), 1);
    run(&mut db, "CALL matomo_sync_all()");
    let written = "SELECT sum(inserted + updated + deleted)::bigint FROM matomo_runs";
    let written = one::<i64>(&mut db, written);
    assert_eq!(written, 0);
    assert_eq!(tables.map(|table| fingerprint(&mut db, table)), rows);
    assert_tables_equal(&mut db, "matomo", &all_tables_of(&fake, 1));
    let all = all_there(&mut db, "matomo", &all_of(&fake, 1));
    proven(
        "Lifecycle",
        "DROP EXTENSION CASCADE",
        "the same, with CASCADE; then all of it made again, and a sync",
        "servers, mappings, sites and runs go; the tables stay row for row, and are taken as they stand",
        &format!(
            "{left} servers, mappings, views and sequences left; then {written} rows written, {all}"
        ),
    );
}

#[test]
fn a_drop_waits_for_a_sync_and_then_takes_effect() {
    let trap = Trap::at(Place::Body);
    let (name, mut db) = named_database();
    let syncing = call(db, trap.sync().sql());
    trap.wait();
    db = shared().connect(&name);
    let mut dropper = shared().connect(&name);
    let dropper_pid = pid(&mut dropper);
    let dropping = call(dropper, CASCADE.to_owned());
    wait_until("the drop waits", || waits(&mut db, dropper_pid));
    // Cancelling the sync lets the drop continue.
    let syncer: i32 = one(
        &mut db,
        &format!(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' \
             AND pid NOT IN (pg_backend_pid(), {dropper_pid})"
        ),
    );
    cancel(&mut db, syncer);
    let (mut syncer, result, _) = syncing.join().unwrap();
    let result_error = result.unwrap_err();
    assert_eq!(result_error.code().unwrap().code(), "57014", "{result_error:?}");
    dropping.join().unwrap().1.unwrap();
    let cancelled = said(result_error.as_db_error().unwrap());
    let gone = error(&mut syncer, &trap.sync().sql());
    assert_eq!(gone.code().code(), "42883");
    // The session that used the old extension can use the new one.
    trap.fake.heal();
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    trap.sync().run(&mut syncer);
    let all = all_there(&mut syncer, "matomo", &oracle(&trap.fake, FIRST, LAST));
    proven(
        "Lifecycle",
        "DROP EXTENSION while `matomo_sync` runs",
        "CASCADE from another session, while Matomo does not answer; then the sync is cancelled",
        "the drop waits for it; the session's next call finds nothing, and the extension when it is created again",
        &format!(
            "the sync {cancelled}; the drop succeeded; the next call `{}`; created again {all}",
            gone.code().code()
        ),
    );
}

#[test]
fn a_drop_ends_a_procedure_after_the_step_that_it_is_at() {
    let fake = serve(world(233, "UTC", 5, FIRST, LAST));
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    add_site(&mut db, &format!(", start_date => '{FIRST}'"));
    let mut dropper = shared().connect(&name);
    let dropper_pid = pid(&mut dropper);
    let (sender, asked) = std::sync::mpsc::channel();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    fake.before_each(Box::new(move |_, request| {
        if request.param("date").starts_with("2026-03-03") && sender.send(()).is_ok() {
            let _ = wait.lock().unwrap().recv();
        }
    }));
    let syncing = call(db, "CALL matomo_sync_all()".to_owned());
    asked.recv().unwrap();
    drop(asked);
    let dropping = call(dropper, CASCADE.to_owned());
    db = shared().connect(&name);
    wait_until("the drop waits", || waits(&mut db, dropper_pid));
    drop(release);
    dropping.join().unwrap().1.unwrap();
    let (_, result, _) = syncing.join().unwrap();
    let (state, message) = end_of(result);
    assert_eq!(state.code(), "42883");
    // What was committed is there, in whole days.
    let days = one::<i64>(&mut db, "SELECT count(DISTINCT action_timestamp::date) FROM matomo");
    assert!((1..=2).contains(&days), "{days}");
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    let all = all_there(&mut db, "matomo", &oracle(&fake, FIRST, LAST));
    // Any of the run functions may be the first one missing.
    let (function, _) = message.split_once('(').unwrap();
    assert!(function.starts_with("function public.matomo_run_"), "{message}");
    let missed = function.rsplit_once('_').unwrap().0;
    proven(
        "Lifecycle",
        "DROP EXTENSION while `matomo_sync_all` runs",
        "CASCADE from another session, in the midst of its days",
        "it ends with an error after the step that it is at; whole days are there",
        &format!("`{}` {missed}_… does not exist; created again {all}", state.code()),
    );
}
