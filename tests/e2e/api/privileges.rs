//! The privileges on all objects of the extension, as a list: new objects must be added to it.

use std::collections::BTreeMap;

use fake_matomo::{Fault, When};

use crate::support::cluster::shared;
use crate::support::report::{all_there, proven};
use crate::support::sites::*;
use crate::support::*;

/// What roles without any grant may do, one object per line. Other objects are closed to them.
const EVERYBODY: [&str; 43] = [
    // Functions that use the caller's rights.
    "f matomo_create_companion(regclass,text,text[],text): EXECUTE",
    "f matomo_create_companions(regclass): EXECUTE",
    "f matomo_create_named_views(regclass): EXECUTE",
    "f matomo_create_partitions(regclass,timestamp with time zone,timestamp with time zone): EXECUTE",
    "f matomo_create_table(text,boolean,name,text): EXECUTE",
    "f matomo_create_week(regclass,timestamp with time zone,timestamp with time zone): EXECUTE",
    "f matomo_create_weeks(regclass,timestamp with time zone,timestamp with time zone): EXECUTE",
    "f matomo_drop_day(text,text,timestamp with time zone,text,timestamp with time zone,timestamp with time zone,text): EXECUTE",
    "f matomo_drop_partition(oid,text,text,text,text,text): EXECUTE",
    "f matomo_drop_rows(regclass,timestamp with time zone,integer,interval,text,text,boolean,jsonb,jsonb): EXECUTE",
    "f matomo_drop_step(regclass,timestamp with time zone,integer,interval,jsonb): EXECUTE",
    "f matomo_find_companion(regclass,text,text[]): EXECUTE",
    "f matomo_find_table(text[]): EXECUTE",
    "f matomo_forget(text,text,regclass,text): EXECUTE",
    "f matomo_grant_as(regclass,regclass): EXECUTE",
    "f matomo_has_worker(): EXECUTE",
    "f matomo_ignore_new_sites(text): EXECUTE",
    "f matomo_is_of_rows(text,text[]): EXECUTE",
    "f matomo_is_running(integer): EXECUTE",
    "f matomo_may_see(oid): EXECUTE",
    "f matomo_old_tables(regclass,timestamp with time zone,text,boolean,jsonb): EXECUTE",
    "f matomo_partition_ranges(regclass): EXECUTE",
    // Functions for registered sites check the owner: see below.
    "f matomo_remove_site(integer): EXECUTE",
    "f matomo_run_is_dead(bigint): EXECUTE",
    "f matomo_run_outside_transaction(text): EXECUTE",
    "f matomo_run_sites(): EXECUTE",
    "f matomo_run_step(integer,boolean): EXECUTE",
    "f matomo_today(text): EXECUTE",
    "p matomo_drop_before(regclass,timestamp with time zone,integer,interval,interval): EXECUTE",
    "r matomo_action: SELECT",
    "r matomo_action_node: SELECT",
    "r matomo_companion: SELECT",
    "r matomo_conversion: SELECT",
    "r matomo_days: SELECT",
    "r matomo_dimensions: SELECT",
    "r matomo_goals: SELECT",
    "r matomo_item: SELECT",
    "r matomo_progress: SELECT",
    "r matomo_runs: SELECT",
    "r matomo_site_details: SELECT",
    "r matomo_sites: SELECT",
    "r matomo_status: SELECT",
    "r matomo_visit: SELECT",
];

#[test]
fn what_everybody_may_do_is_on_the_list() {
    let mut db = database();
    let role = role(&mut db);
    let found = privileges(&mut db, &role);
    assert_eq!(found, EVERYBODY, "{found:#?}");
    let all = privileges(&mut db, "postgres");
    let writes = ["INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"];
    let is_written = |line: &&String| writes.iter().any(|what| line.contains(what));
    let written = found.iter().filter(is_written).count();
    assert_eq!(written, 0);
    proven(
        "Privileges",
        "what PUBLIC may touch",
        &format!(
            "a list of {} of the extension's {} objects, compared object by object",
            EVERYBODY.len(),
            all.len()
        ),
        "what is on the list, and nothing that is new before it is put there",
        &format!(
            "{} as on the list; {written} that may be written to or have triggers",
            found.len()
        ),
    );
}

/// Default privileges belong to the role that creates the extension and are meant for its own
/// objects.
#[test]
fn default_privileges_give_and_take_nothing() {
    let (name, mut db) = named_database();
    let (favoured, role) = (role(&mut db), role(&mut db));
    run(
        &mut db,
        &format!(
            "DROP EXTENSION matomo_postgres;
             ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
             ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC;
             ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO {favoured} WITH GRANT OPTION;
             ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO {favoured} WITH GRANT OPTION;
             ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO PUBLIC;
             CREATE EXTENSION matomo_postgres"
        ),
    );
    for role in [&favoured, &role] {
        let found = privileges(&mut db, role);
        assert_eq!(found, EVERYBODY, "{found:#?}");
    }
    // The grants in docs/install.md are sufficient.
    let fake = serve_two();
    server_for(&mut db, &fake, &role);
    let mut theirs = connect_as(&name, &role);
    add_site(
        &mut theirs,
        ", start_date => '2026-10-24', destination => 'matomo_partitioned', retention => '1 day'",
    );
    run(&mut theirs, "CALL matomo_sync_all()");
    run(
        &mut theirs,
        "SELECT matomo_sync(1, server => 'analytics', start_date => '2026-10-24');
         SELECT matomo_check(1, '2026-10-24', '2026-10-26', server => 'analytics', repair => true);
         SELECT matomo_create_table('weekly', true);
         SET matomo.companions = ''; SELECT matomo_create_table('bare'); RESET matomo.companions;
         SELECT matomo_create_companions('bare');
         SELECT matomo_create_table('old', layout => 'node');
         SELECT matomo_create_partitions('weekly', now(), now());
         SELECT matomo_forget('nobody')",
    );
    run(&mut theirs, "CALL matomo_drop_before('matomo', '2026-10-25')");
    for view in [
        "matomo_sites",
        "matomo_runs",
        "matomo_status",
        "matomo_days",
        "matomo_goals",
        "matomo_dimensions",
        "matomo_site_details",
        "matomo_progress",
    ] {
        run(&mut theirs, &format!("SELECT * FROM {view}"));
    }
    let errors = "SELECT concat_ws(' ', failures, last_error, upkeep_error) FROM matomo_status";
    assert_eq!(texts(&mut theirs, errors), ["0"]);
}

#[test]
fn functions_with_their_owners_rights_are_safe_under_any_search_path() {
    let mut db = database();
    let loose = texts(
        &mut db,
        "SELECT p.oid::regprocedure::text FROM pg_proc p
         JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
         JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'matomo_postgres'
         WHERE p.prosecdef AND NOT EXISTS (
             SELECT FROM unnest(p.proconfig) c WHERE c ~ '^search_path=pg_catalog, (.*, )?pg_temp$')",
    );
    assert_eq!(loose, [""; 0]);
    let ours = "pg_depend d JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'matomo_postgres' AND d.deptype = 'e'";
    let definers: i64 = one(
        &mut db,
        &format!(
            "SELECT count(*) FROM {ours} JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid WHERE p.prosecdef"
        ),
    );
    let views: i64 = one(
        &mut db,
        &format!(
            "SELECT count(*) FROM {ours} JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid WHERE c.relkind = 'v'"
        ),
    );
    assert!(views > 3, "{views}");
    // Views run with their owner's rights, so a reader's conditions must not see hidden rows.
    let open = texts(
        &mut db,
        "SELECT c.relname::text FROM pg_class c
         JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
         WHERE c.relkind = 'v' AND NOT coalesce(c.reloptions, '{}') @> '{security_barrier=true}'",
    );
    assert_eq!(open, [""; 0]);
    proven(
        "Privileges",
        "what runs with its owner's rights",
        &format!("the extension's SECURITY DEFINER functions, {definers}, and views, {views}"),
        "each function's search_path begins with pg_catalog and ends with pg_temp; each view is a security_barrier",
        &format!("{} functions and {} views that are not so", loose.len(), open.len()),
    );
}

/// A trigger on one of our tables would run with the rights of the role that syncs.
#[test]
fn nobody_hangs_anything_on_the_extensions_tables() {
    let (name, mut admin) = named_database();
    let role = role(&mut admin);
    run(&mut admin, &format!("GRANT CREATE ON SCHEMA public TO {role}"));
    let tables = texts(
        &mut admin,
        "SELECT c.oid::regclass::text FROM pg_class c
         JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
         WHERE c.relkind IN ('r', 'p') ORDER BY 1",
    );
    assert!(tables.iter().any(|table| table == "matomo_ledger"), "{tables:?}");
    let mut db = shared().connect_as(&name, &role);
    run(
        &mut db,
        "CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
    );
    let mut states = BTreeMap::<_, usize>::new();
    for table in &tables {
        for sql in [
            format!("CREATE TRIGGER evil BEFORE INSERT ON {table} EXECUTE FUNCTION evil()"),
            format!("CREATE RULE evil AS ON INSERT TO {table} DO INSTEAD NOTHING"),
            format!("CREATE POLICY evil ON {table}"),
            format!("CREATE INDEX ON {table} ((evil()::text))"),
            format!("ALTER TABLE {table} ADD COLUMN evil int"),
            format!("CREATE TABLE evil_child () INHERITS ({table})"),
            format!("INSERT INTO {table} DEFAULT VALUES"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("DO $$ BEGIN LOCK TABLE {table} IN ROW EXCLUSIVE MODE; END $$"),
            format!("COMMENT ON TABLE {table} IS 'evil'"),
        ] {
            let error = error(&mut db, &sql);
            assert_eq!(error.code().code(), "42501", "{sql}: {error:?}");
            *states.entry(error.code().code().to_owned()).or_default() += 1;
        }
    }
    let states: Vec<_> =
        states.iter().map(|(state, times)| format!("{times} times `{state}`")).collect();
    proven(
        "Privileges",
        "triggers, rules, policies and the like on internal tables",
        &format!(
            "by a role that may create in the schema: a trigger, rule, policy, index, column, child, row, DELETE, TRUNCATE, lock and comment on each of {} tables",
            tables.len()
        ),
        "`42501` for each: none would run with the rights of whoever syncs",
        &states.join(", "),
    );
}

/// Destination names are used in statements: each must only name a table.
#[test]
fn a_destinations_name_is_a_name() {
    let fake = serve(Noon::new().world(1));
    let mut db = database();
    run(&mut db, "CREATE TABLE victim AS SELECT 1 AS x");
    let mut rows = Vec::new();
    for (case, name) in [
        ("a destination with a statement behind", "victim; DROP TABLE victim"),
        ("a destination with a comment behind", "matomo; DROP TABLE victim; --"),
        ("a destination that closes a quote", "matomo\"; DROP TABLE victim; --"),
        ("a destination that closes a literal", "\"matomo'); DROP TABLE victim; --\""),
        (
            "a destination that completes an INSERT",
            "matomo(action_id) VALUES (1); DROP TABLE victim",
        ),
        ("a destination that is a query", "(SELECT 1)"),
        ("a destination with an alias", "matomo AS x"),
        ("a destination in dollar quotes", "$$matomo$$"),
        ("a destination with a backslash", "matomo\\"),
    ] {
        let sql = "SELECT * FROM matomo_sync(1, $1, $2, destination => $3)";
        let error = db.query(sql, &[&fake.url(), &fake.token(), &name]).unwrap_err();
        let state = error.code().unwrap().code();
        assert!(["42P01", "42601", "42602", "22023"].contains(&state), "{name}: {error:?}");
        let victims: i64 = one(&mut db, "SELECT count(*) FROM victim");
        assert_eq!(victims, 1, "{name}");
        // The error depends on the version of Postgres.
        rows.push((case, name, format!("an error; `victim` has {victims} row")));
    }
    for (case, name, seen) in rows {
        proven("Privileges", case, &format!("`{name}`"), "a name or an error, never SQL", &seen);
    }
    assert_eq!(fake.connections(), 0);
    // Tables with such names may exist.
    for (case, name) in [
        ("a table of such a name", "matomo'); DROP TABLE victim; --"),
        ("a table of another such name", "a \"b\" $1 %s \\ 漢"),
        ("a table with a keyword for its name", "select"),
    ] {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let sql = "SELECT matomo_create_table($1)";
        db.query(sql, &[&quoted]).unwrap();
        for _ in 0..2 {
            let sql = "SELECT * FROM matomo_sync(1, $1, $2, destination => $3, force => true)";
            db.query(sql, &[&fake.url(), &fake.token(), &quoted]).unwrap();
        }
        let all = all_there(&mut db, &quoted, &all_of(&fake, 1));
        let injected = format!("`{quoted}`, synced twice");
        proven("Privileges", case, &injected, "a table like any other", &all);
    }
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM victim"), 1);
}

/// What every role may call does nothing for a role without rights.
#[test]
fn sites_and_tables_of_others_are_private() {
    let (name, mut admin) = named_database();
    let stranger = role(&mut admin);
    let fake = serve(Noon::new().world(2));
    server(&mut admin, &fake);
    let site = add_site(&mut admin, ", retention => '10 years'");
    run(&mut admin, "CALL matomo_sync_all()");
    // A second run fails, with a message that only the owner may see.
    fake.fail(Fault::ErrorEnvelope("not for strangers".to_owned()), When::always());
    let failed = error(&mut admin, &format!("CALL matomo_sync_site({site})"));
    assert!(failed.message().contains("not for strangers"), "{failed:?}");
    let state = |admin: &mut postgres::Client| -> String {
        let tables = [
            "matomo",
            "matomo_visits",
            "matomo_conversions",
            "matomo_items",
            "matomo_companion",
            "matomo_ledger",
            "matomo_site_config",
            "matomo_site_metadata",
            "matomo_site_state",
            "matomo_run_log",
        ];
        let digests = tables.map(|table| {
            format!("(SELECT string_agg(t::text, ',' ORDER BY t::text) FROM {table} t)")
        });
        one(admin, &format!("SELECT md5(concat_ws('/', {}))", digests.join(", ")))
    };
    let before = state(&mut admin);
    let mut shown = Vec::new();
    let mut db = shared().connect_as(&name, &stranger);
    for view in ["matomo_sites", "matomo_runs", "matomo_status", "matomo_days", "matomo_progress"] {
        let rows: i64 = one(&mut db, &format!("SELECT count(*) FROM {view}"));
        assert_eq!(rows, 0, "{view} shows a stranger what is there");
        shown.push(format!("{view} {rows}"));
        let rows: i64 = one(&mut admin, &format!("SELECT count(*) FROM {view}"));
        assert!(rows > 0 || view == "matomo_progress", "{view} is empty");
    }
    proven(
        "Privileges",
        "others' sites, seen",
        "the views of sites, runs and days, with rows in them, read by a role without grants",
        "no row, no word of others' errors",
        &format!("rows: {}", shown.join(", ")),
    );
    let statements = [
        format!("SELECT matomo_remove_site({site})"),
        "SELECT matomo_run_sites()".to_owned(),
        format!("SELECT matomo_run_step({site}, false)"),
        format!("DO $$ BEGIN PERFORM matomo_run_step({site}, false); END $$"),
        format!("DO $$ BEGIN PERFORM matomo_run_step({site}, true); END $$"),
        format!("CALL matomo_sync_site({site})"),
        "CALL matomo_sync_all()".to_owned(),
        "SELECT matomo_drop_rows('matomo', now(), 1, '1 s', '', 'action_timestamp', true, NULL, NULL)"
            .to_owned(),
        "SELECT matomo_drop_step('matomo', now(), 1, '1 s')".to_owned(),
        "CALL matomo_drop_before('matomo', now())".to_owned(),
        "SELECT matomo_forget(visitorid => (SELECT 'x'))".to_owned(),
        "SELECT matomo_create_partitions('matomo_ledger', now(), now())".to_owned(),
        "SELECT matomo_create_table('matomo')".to_owned(),
        "SELECT matomo_create_companions('matomo')".to_owned(),
        "SELECT matomo_create_companion('matomo', 'visits', '{idvisit}', 'lastaction')".to_owned(),
        "ALTER SERVER analytics OPTIONS (SET url 'http://127.0.0.1:1')".to_owned(),
        "CREATE USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (token 'x')".to_owned(),
        "CREATE SERVER own FOREIGN DATA WRAPPER matomo OPTIONS (url 'http://127.0.0.1:1')"
            .to_owned(),
        "UPDATE matomo_sites SET enabled = false".to_owned(),
        "DELETE FROM matomo_runs".to_owned(),
    ];
    let mut ends = BTreeMap::<_, usize>::new();
    for sql in &statements {
        if let Err(error) = db.batch_execute(sql) {
            let error = error.as_db_error().unwrap();
            println!("{sql}: {} {}", error.code().code(), error.message());
            *ends.entry(format!("`{}`", error.code().code())).or_default() += 1;
            assert_ne!(error.code().code(), "XX000", "{sql}: {error:?}");
            assert!(!format!("{error:?}").contains("not for strangers"), "{sql}: {error:?}");
        } else {
            println!("{sql}: does nothing");
            *ends.entry(format!("no error with `{sql}`")).or_default() += 1;
        }
        assert_eq!(state(&mut admin), before, "{sql}");
    }
    let ends: Vec<_> = ends.iter().map(|(end, times)| format!("{times} × {end}")).collect();
    assert_eq!(
        ends,
        [
            "2 × `25001`".to_owned(),
            "14 × `42501`".to_owned(),
            "2 × `55000`".to_owned(),
            // These do nothing.
            format!(
                "1 × no error with `DO $$ BEGIN PERFORM matomo_run_step({site}, true); END $$`"
            ),
            "1 × no error with `SELECT matomo_create_partitions('matomo_ledger', now(), now())`"
                .to_owned(),
        ]
    );
    proven(
        "Privileges",
        "others' sites, touched",
        &format!(
            "{} statements by such a role, with all that everybody may call",
            statements.len()
        ),
        "refused, or without effect: visits, ledger, sites, runs and their state as before",
        &format!("{}; all as before each time", ends.join(", ")),
    );
}
