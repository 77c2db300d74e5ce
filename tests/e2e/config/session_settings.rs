//! No session setting changes the result of a call.

use crate::support::sites::*;
use crate::support::*;

/// Settings that change how text is read, written or searched for.
const SETTINGS: [&str; 16] = [
    "standard_conforming_strings = off",
    "escape_string_warning = off",
    "quote_all_identifiers = on",
    "transform_null_equals = on",
    "array_nulls = off",
    "IntervalStyle = 'sql_standard'",
    "IntervalStyle = 'iso_8601'",
    "DateStyle = 'SQL, DMY'",
    "TimeZone = 'Pacific/Marquesas'",
    "extra_float_digits = -15",
    "bytea_output = 'escape'",
    "xmlbinary = 'hex'",
    "row_security = off",
    "check_function_bodies = off",
    "plpgsql.extra_errors = 'all'",
    "plan_cache_mode = 'force_generic_plan'",
];

/// Every call that users make, in a database with one setting after the other, then with all of
/// them and a hostile search_path.
#[test]
fn calls_do_the_same_under_any_setting_of_the_session() {
    let fake = serve_two();
    let all = format!("SET {}; {}", SETTINGS.join("; SET "), "SET search_path = evil, pg_catalog");
    let mut sessions: Vec<_> = SETTINGS.iter().map(|one| format!("SET {one}")).collect();
    sessions.push(all);
    for session in sessions {
        let (name, mut admin) = named_database();
        let mut db = connect_as(&name, "postgres");
        if session.contains("evil") {
            run(&mut db, HOSTILE);
        }
        server(&mut admin, &fake);
        run(&mut db, &session);
        let call = |db: &mut postgres::Client, sql: &str| {
            if let Err(error) = db.batch_execute(sql) {
                panic!("{session}: {sql}: {error:?}");
            }
        };
        for table in ["matomo", "matomo_partitioned"] {
            let arguments = format!(
                "server => 'analytics', start_date => '2026-10-24', end_date => '2026-10-26', destination => 'public.{table}'"
            );
            call(&mut db, &format!("SELECT * FROM public.matomo_sync(1, {arguments})"));
            assert_equal(&mut admin, &format!("public.{table}"), &all_of(&fake, 1));
            run(
                &mut admin,
                &format!(
                    "UPDATE {table} SET city = 'Atlantis' WHERE action_id LIKE '%1_0';
                     DELETE FROM {table} WHERE action_id LIKE '%2_0'"
                ),
            );
            call(
                &mut db,
                &format!(
                    "SELECT * FROM public.matomo_check(1, {arguments}, deep => true, repair => true)"
                ),
            );
            assert_equal(&mut admin, &format!("public.{table}"), &all_of(&fake, 1));
            assert!(fake.requests().len() > 1);
            fake.clear_requests();
            // Nothing is left to do, and sealed days are not requested.
            call(&mut db, &format!("SELECT * FROM public.matomo_sync(1, {arguments})"));
            assert_eq!(asked(&fake), ["site"], "{session}");
        }
        call(
            &mut db,
            "SELECT public.matomo_add_site('analytics', 2, start_date => '2026-10-24', destination => 'public.matomo_partitioned', every => '1 day', retention => '0')",
        );
        call(&mut db, "CALL public.matomo_sync_all()");
        let failed = "SELECT coalesce(string_agg(coalesce(last_error, upkeep_error), ''), '') FROM matomo_status";
        assert_eq!(texts(&mut admin, failed), [""], "{session}");
        call(
            &mut db,
            "CALL public.matomo_drop_before('public.matomo_partitioned', '2026-10-26T00:00:00Z', 2)",
        );
        call(
            &mut db,
            "CALL public.matomo_drop_before('public.matomo_partitioned', '2026-10-26T00:00:00Z')",
        );
        call(&mut db, "CALL public.matomo_drop_before('public.matomo', '2026-10-25T00:00:00Z')");
        for table in ["matomo", "matomo_partitioned"] {
            let first = format!("SELECT min(action_timestamp)::text FROM {table}");
            run(&mut admin, "SET TimeZone = 'UTC'");
            let first = texts(&mut admin, &first);
            assert!(first[0].starts_with("2026-10-2"), "{session}: {first:?}");
            let kept = if table == "matomo" { "2026-10-25" } else { "2026-10-26" };
            assert!(first[0].as_str() >= kept, "{session}: {first:?}");
        }
        let visitor = "SELECT visitorid FROM matomo LIMIT 1";
        let visitor = &texts(&mut admin, visitor)[0];
        call(&mut db, &format!("SELECT * FROM public.matomo_forget('{visitor}')"));
        let left = format!("SELECT count(*) FROM matomo WHERE visitorid = '{visitor}'");
        assert_eq!(one::<i64>(&mut admin, &left), 0);
        for view in ["days", "sites", "runs", "status", "progress"] {
            call(&mut db, &format!("SELECT * FROM public.matomo_{view}"));
        }
        call(
            &mut db,
            "SELECT public.matomo_alter_site(1, every => '2 hours'), public.matomo_remove_site(1)",
        );
    }
}

#[test]
fn no_text_of_ours_holds_a_backslash() {
    let mut db = database();
    let found = texts(
        &mut db,
        "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.proname LIKE 'matomo%' AND strpos(p.prosrc, chr(92)) > 0
         UNION ALL SELECT c.relname FROM pg_class c WHERE c.relkind = 'v' AND c.relname LIKE 'matomo%'
             AND strpos(pg_get_viewdef(c.oid), chr(92)) > 0",
    );
    assert_eq!(found, [""; 0]);
}

/// The session that creates the extension may have such settings too.
#[test]
fn the_extension_is_created_under_any_setting() {
    let mut clean = database();
    let (_, mut db) = named_database();
    run(&mut db, "DROP EXTENSION matomo_postgres");
    run(&mut db, &format!("SET {}", SETTINGS.join("; SET ")));
    run(&mut db, "CREATE EXTENSION matomo_postgres; RESET ALL");
    // The schema is quoted or not, depending on the settings.
    let shape = "SELECT replace(d, '\"', '') FROM (SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.proname LIKE 'matomo%' AND p.prokind IN ('f', 'p')
         UNION ALL SELECT c.relname || pg_get_viewdef(c.oid) FROM pg_class c WHERE c.relkind = 'v' AND c.relname LIKE 'matomo%'
         ) AS x(d) ORDER BY 1";
    let (theirs, ours) = (texts(&mut db, shape), texts(&mut clean, shape));
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!(theirs, ours);
    }
    assert_eq!(theirs.len(), ours.len());
}
