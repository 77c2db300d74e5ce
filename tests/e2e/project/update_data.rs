//! `ALTER EXTENSION … UPDATE` from 0.1.0 with data: state and grants are kept, and the next sync
//! resumes from there.

use postgres::Client;

use crate::support::dump::{empty_database, output};
use crate::support::log::connect_with_notices;
use crate::support::releases::{
    CURRENT, UPDATE, assert_same, database_of_0_1_0, fill, shelf_with_0_1_0,
};
use crate::support::report::proven;
use crate::support::*;

/// The tables of 0.1.0 with the columns of 0.1.0.
fn kept(db: &mut Client) -> Vec<String> {
    let mut all = Vec::new();
    for (table, but) in [
        ("matomo_site_config", "destination_name known_sites owner_name"),
        (
            "matomo_site_state",
            "changed_at changes is_unanswered matomo metadata_error metadata_on upkeep_begun upkeep_place",
        ),
        ("matomo_run_log", "step_pages changes owner_name misfits zone_changes step_at"),
        (
            "matomo_ledger",
            "rechecked_at action_time destination_name matomo pass_began pass_since pass_seen",
        ),
    ] {
        let but = but.replace(' ', ", ");
        let sealed =
            if table == "matomo_ledger" { "WHERE sealed OR day > '2026-10-20'" } else { "" };
        all.extend(texts(
            db,
            &format!("SELECT '{table} ' || (to_jsonb(t) - '{{{but}}}'::text[])::text FROM {table} t {sealed} ORDER BY 1"),
        ));
    }
    for sql in [
        "SELECT concat_ws(' ', srvname, srvoptions, srvacl) FROM pg_foreign_server",
        "SELECT concat_ws(' ', srvname, usename, umoptions) FROM pg_user_mappings",
        "SELECT format('%s %s', sequencename, last_value) FROM pg_sequences ORDER BY 1",
        "SELECT concat_ws(' ', c.relname, c.relfilenode, c.relacl, a.attname, a.atttypid) FROM pg_class c
         JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relname LIKE 'visits%' ORDER BY 1",
        "SELECT format('%s may %s %s', r.rolname, has_function_privilege(r.rolname, 'matomo_sync', 'EXECUTE'),
             has_function_privilege(r.rolname, 'matomo_forget', 'EXECUTE'))
         FROM pg_roles r WHERE r.rolname IN ('etl', 'on call') ORDER BY 1",
        "SELECT format('%s may %s', r.rolname, has_table_privilege(r.rolname, 'matomo_runs', 'SELECT'))
         FROM pg_roles r WHERE r.rolname IN ('etl', 'on call') ORDER BY 1",
        "SELECT format('%s checks %s %s', r.rolname, has_function_privilege(r.rolname, 'matomo_check', 'EXECUTE'),
             has_function_privilege(r.rolname, 'matomo_check', 'EXECUTE WITH GRANT OPTION'))
         FROM pg_roles r WHERE r.rolname IN ('etl', 'on call', 'pg_monitor') ORDER BY 1",
    ] {
        // Each version has one function of each name.
        let check = "'matomo_check', 'EXECUTE";
        let oid = "(SELECT p.oid FROM pg_proc p WHERE p.proname = 'matomo_check'), 'EXECUTE";
        let sync = "(SELECT p.oid FROM pg_proc p WHERE p.proname = 'matomo_sync'), 'EXECUTE";
        let sql = sql.replace(check, oid).replace("'matomo_sync', 'EXECUTE", sync);
        let forget = "(SELECT p.oid FROM pg_proc p WHERE p.proname = 'matomo_forget'), 'EXECUTE";
        all.extend(texts(db, &sql.replace("'matomo_forget', 'EXECUTE", forget)));
    }
    all
}

#[test]
fn an_update_keeps_what_0_1_0_has_written_and_the_next_sync_reads_on() {
    let fake = serve(world(310, "Europe/Paris", 10, "2026-10-19", "2026-10-30"));
    let mut shelf = shelf_with_0_1_0();
    let mut db = database_of_0_1_0(&mut shelf, "kept");
    let url = format!("http://LocalHost:{}", fake.port());
    fill(&mut db, &fake, "Europe/Paris", &url);
    let before = kept(&mut db);
    assert!(before.len() > 80, "{before:#?}");
    run(&mut db, UPDATE);
    assert_eq!(kept(&mut db), before);

    let one_url = format!("http://localhost:{}/index.php", fake.port());
    let urls =
        "SELECT DISTINCT matomo FROM matomo_ledger UNION ALL SELECT matomo FROM matomo_site_state";
    assert_eq!(texts(&mut db, urls), [one_url.as_str(); 2]);
    let names =
        "SELECT concat_ws(' ', destination_name, owner_name) FROM matomo_site_config ORDER BY id";
    assert_eq!(texts(&mut db, names), ["{public,visits,postgres} postgres", "{?,99999,?} 99998"]);
    let sites = "SELECT concat_ws(' ', id, destination, owner) FROM matomo_sites ORDER BY id";
    assert_eq!(texts(&mut db, sites), ["1 visits postgres", "2 \"?\".\"99999\" 99998"]);
    let ran = "SELECT concat_ws(' ', runid, status, owner) FROM matomo_runs ORDER BY runid";
    assert_eq!(texts(&mut db, ran), ["1 succeeded postgres", "2 failed 99998"]);

    // The last day has ended: it is read whole once and sealed; no other day is requested.
    fake.clear_requests();
    run(&mut db, "CALL matomo_sync_all()");
    let known = |line: &String| (..="day 2026-10-30").contains(&line.as_str());
    let again: Vec<_> = asked(&fake).into_iter().filter(known).collect();
    assert_eq!(again, ["day 2026-10-30"]);
    assert_equal(&mut db, "visits", &oracle(&fake, "2026-10-19", "2026-10-30"));
    assert_eq!(
        one::<i64>(
            &mut db,
            "SELECT count(*) FROM matomo_ledger WHERE NOT sealed AND day <= '2026-10-30'"
        ),
        0
    );
    let healthy = "SELECT failures FROM matomo_status WHERE site_id = 1 AND upkeep_error IS NULL";
    assert_eq!(one::<i32>(&mut db, healthy), 0);
    run(&mut db, "CALL matomo_sync_all()");
    assert!(!asked(&fake).iter().any(known));
    let differing =
        "SELECT sum(missing + extra + stale)::int FROM matomo_check(1, '2026-10-19', '2026-10-30',
        server => 'analytics', destination => 'visits', deep => true)";
    assert_eq!(one::<i32>(&mut db, differing), 0);

    // A table of 0.1.0 has no companions until they are created; then its days are read again.
    let registered = "SELECT count(*) FROM matomo_companion";
    assert_eq!(one::<i64>(&mut db, registered), 0);
    let made = "SELECT count(*) FROM matomo_create_companions('visits')";
    assert_eq!(one::<i64>(&mut db, made), 3);
    run(&mut db, "CALL matomo_sync_all()");
    let tables = tables_between(&fake, 1, "2026-10-19", "2026-10-30");
    assert_companions_equal(&mut db, "visits", &tables);
    assert_equal(&mut db, "visits", &oracle(&fake, "2026-10-19", "2026-10-30"));
    proven(
        "Lifecycle",
        "ALTER EXTENSION UPDATE from 0.1.0 with data",
        "a table of weeks, sealed days and one half read, URLs as they were typed, sites and runs of which tables and roles are gone, grants",
        "all is kept, URLs are one; the next sync asks for the open day only; companions are made on request, and filled",
        "the tables of 0.1.0 as before; of these asked for: day 2026-10-30; then none; deep check: 0 rows differ; then four tables as they should be",
    );
}

#[test]
fn an_update_names_columns_of_the_users_own_that_syncs_write_from_now_on() {
    let mut shelf = shelf_with_0_1_0();
    drop(database_of_0_1_0(&mut shelf, "own"));
    let (mut db, said) = connect_with_notices(&shelf.cluster, "own", "postgres");
    run(
        &mut db,
        "SELECT matomo_create_table(t) FROM unnest('{copied,registered,plain,other}'::text[]) t;
         ALTER TABLE copied ADD revenue numeric, ADD reviewed_by text, ADD extra jsonb NOT NULL DEFAULT '{}',
             ADD items integer GENERATED ALWAYS AS (1) STORED;
         CREATE SCHEMA \"My own\"; ALTER TABLE registered SET SCHEMA \"My own\";
         ALTER TABLE \"My own\".registered ADD devicetype text;
         ALTER TABLE other ADD revenue numeric;
         INSERT INTO matomo_ledger SELECT 'http://localhost/index.php', 1, t, '2026-10-30', true, 0, 0, 0, NULL, 'UTC',
             '2026-11-05' FROM unnest('{copied,plain}'::regclass[]) t;
         INSERT INTO matomo_site_config (server, idsite, destination, owner, every, enabled, name, timezone)
         VALUES ('analytics', 1, '\"My own\".registered', 'postgres', '1 hour', true, 'Site 1', 'UTC')",
    );
    run(&mut db, UPDATE);
    let warnings = said.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (warning, table, columns, first) in [
        (&warnings[0], "\"My own\".registered", "devicetype", "devicetype"),
        (&warnings[1], "public.copied", "revenue, extra", "revenue"),
    ] {
        let message = format!("syncs write columns of table {table} from now on: {columns}");
        let hint = format!(
            "Rename those of your own before the next sync, which overwrites them: ALTER TABLE {table} RENAME {first} TO my_{first}."
        );
        assert_says(warning, "01000", &message, &[], &hint);
    }
}

#[test]
fn an_update_gives_nobody_more_by_default_privileges() {
    let mut shelf = shelf_with_0_1_0();
    run(&mut shelf.db, "CREATE ROLE everyman");
    let defaults = "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO everyman;
        ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO everyman";
    let create = "CREATE EXTENSION matomo_postgres";
    let updated = shelf.after(&format!("{create} VERSION '0.1.0'; {defaults}; {UPDATE}"));
    let fresh = shelf.after(&format!("{create}; {defaults}"));
    assert_same(defaults, &updated, &fresh);
}

/// A user's view on one of ours is named in the error, and nothing is lost.
#[test]
fn a_view_of_the_users_that_would_go_stops_the_update() {
    let mut shelf = shelf_with_0_1_0();
    let mut db = database_of_0_1_0(&mut shelf, "views");
    run(&mut db, "CREATE VIEW mine AS SELECT site_id, failures FROM matomo_status");
    let failed = error(&mut db, UPDATE);
    let message = "cannot drop view matomo_status because other objects depend on it";
    assert_says(&failed, "2BP01", message, &["view mine depends on view matomo_status"], "");
    run(&mut db, "DROP VIEW mine");
    run(&mut db, UPDATE);
    let version: String =
        one(&mut db, "SELECT extversion FROM pg_extension WHERE extname = 'matomo_postgres'");
    assert_eq!(version, CURRENT);
}

/// A dump from before the update has URLs as typed. The error tells what to do.
#[test]
fn a_dump_of_0_1_0_is_synced_again_once_its_url_is_changed() {
    let fake = serve(world(312, "Europe/Paris", 5, "2026-10-19", "2026-10-30"));
    let mut shelf = shelf_with_0_1_0();
    let mut old = database_of_0_1_0(&mut shelf, "old");
    let typed = format!("http://LocalHost:{}", fake.port());
    fill(&mut old, &fake, "Europe/Paris", &typed);
    // In 0.2.0 these functions have more arguments.
    run(
        &mut old,
        "REVOKE ALL ON FUNCTION matomo_check FROM etl, \"on call\"; GRANT EXECUTE ON FUNCTION matomo_forget TO PUBLIC",
    );
    let dump = output(shelf.cluster.program("pg_dump").args(["-Fc", "old"]));
    let file = shelf.cluster.dir.join("old.dump");
    std::fs::write(&file, dump).unwrap();
    let mut new = empty_database(&shelf.cluster, "new");
    output(shelf.cluster.program("pg_restore").args(["-e", "-d", "new"]).arg(&file));
    let version = "SELECT extversion FROM pg_extension WHERE extname = 'matomo_postgres'";
    assert_eq!(one::<String>(&mut new, version), CURRENT);

    run(&mut new, "CALL matomo_sync_all()");
    let failed =
        "SELECT concat_ws(' ', last_sqlstate, last_hint) FROM matomo_status WHERE site_id = 1";
    let failed: String = one(&mut new, failed);
    assert!(failed.starts_with("55000 "), "{failed}");
    let (_, change) = failed.split_once("If this one has moved: ").unwrap();
    let change = change.trim_end_matches('.');
    let one_url = format!("http://localhost:{}/index.php", fake.port());
    assert!(change.contains(&format!("'{one_url}'")), "{change}");
    let days: i64 = one(&mut new, "SELECT count(DISTINCT day) FROM matomo_days");
    assert_eq!(one::<i64>(&mut new, change), days);
    let urls =
        "SELECT DISTINCT matomo FROM matomo_ledger UNION ALL SELECT matomo FROM matomo_site_state";
    assert_eq!(texts(&mut new, urls), [one_url.as_str(); 2]);
    let again = error(&mut new, change);
    let message = format!("old_url and new_url are the same Matomo, {one_url}");
    assert_says(&again, "22023", &message, &[], "");

    fake.clear_requests();
    run(&mut new, "CALL matomo_sync_all()");
    let status =
        "SELECT concat_ws(' ', failures, upkeep_error) FROM matomo_status WHERE site_id = 1";
    assert_eq!(texts(&mut new, status), ["0"]);
    assert_equal(&mut new, "visits", &oracle(&fake, "2026-10-19", "2026-10-30"));
}
