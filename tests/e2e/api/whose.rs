//! No role's code runs with another role's rights, and rows hidden by row-level security are not
//! treated as missing.

use fake_matomo::Fake;
use postgres::Client;

use crate::support::sites::*;
use crate::support::*;

/// The role's own table, filled by a sync, so that later erasures include it.
fn table_of(admin: &mut Client, database: &str, fake: &Fake) -> (String, Client) {
    let role = role(admin);
    may_have_sites(admin, &role);
    let mut db = connect_as(database, &role);
    run(&mut db, "SELECT matomo_create_table('visits')");
    sync(&mut db, fake, ", '2026-10-24', '2026-10-26', destination => 'visits'");
    (role, db)
}

/// Triggers on all four tables that try to make their owner a superuser and note the role that
/// runs them.
fn set_trap(owner: &str, db: &mut Client) {
    run(
        db,
        &format!(
            "CREATE TABLE notes (who text, place text); GRANT INSERT ON notes TO PUBLIC;
             CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO {owner}.notes VALUES (current_user, TG_TABLE_NAME || ' ' || TG_LEVEL);
                 BEGIN ALTER ROLE {owner} SUPERUSER; EXCEPTION WHEN insufficient_privilege THEN END;
                 RETURN NULL;
             END $$"
        ),
    );
    for table in all_four("visits").split(", ") {
        run(
            db,
            &format!(
                "CREATE TRIGGER trap AFTER DELETE ON {table} EXECUTE FUNCTION trap();
                 CREATE CONSTRAINT TRIGGER later AFTER DELETE ON {table} DEFERRABLE INITIALLY DEFERRED
                     FOR EACH ROW EXECUTE FUNCTION trap()"
            ),
        );
    }
}

#[test]
fn an_erasure_runs_nobodys_triggers_with_the_callers_rights() {
    let fake = serve_two();
    let (name, mut admin) = named_database();
    let (owner, mut theirs) = table_of(&mut admin, &name, &fake);
    set_trap(&owner, &mut theirs);
    let visitor: String = one(&mut theirs, "SELECT visitorid FROM visits LIMIT 1");
    let forget = format!("SELECT * FROM matomo_forget('{visitor}')");
    // First a superuser; then a role that may delete there but has none of the owner's rights.
    run(&mut admin, &forget);
    let left = format!("SELECT count(*) FROM visits WHERE visitorid = '{visitor}'");
    assert_eq!(one::<i64>(&mut theirs, &left), 0);
    let officer = role(&mut admin);
    run(
        &mut theirs,
        &format!(
            "GRANT USAGE ON SCHEMA {owner} TO {officer}; GRANT SELECT, DELETE ON {} TO {officer}",
            all_four("visits")
        ),
    );
    let visitor: String = one(&mut theirs, "SELECT visitorid FROM visits LIMIT 1");
    run(&mut connect_as(&name, &officer), &format!("SELECT * FROM matomo_forget('{visitor}')"));
    let who = "SELECT string_agg(DISTINCT who, ', ') FROM notes";
    assert_eq!(texts(&mut theirs, who), [owner.as_str()]);
    let places =
        "SELECT string_agg(DISTINCT place, ', ') FROM notes WHERE place ~ 'STATEMENT|visits ROW'";
    assert_eq!(
        texts(&mut theirs, places),
        ["visits ROW, visits STATEMENT, visits_conversions STATEMENT, visits_items STATEMENT, \
          visits_visits ROW, visits_visits STATEMENT"]
    );
    let is_superuser = format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{owner}'");
    assert!(!one::<bool>(&mut admin, &is_superuser));
}

/// They would run at the commit, as the caller.
#[test]
fn a_trigger_that_defers_constraints_again_stops_an_erasure_and_a_run_and_lends_no_rights() {
    let fake = serve_two();
    let (name, mut admin) = named_database();
    let (owner, mut theirs) = table_of(&mut admin, &name, &fake);
    set_trap(&owner, &mut theirs);
    run(
        &mut theirs,
        "CREATE FUNCTION defer() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             SET CONSTRAINTS ALL DEFERRED; RETURN NULL; END $$;
         CREATE TRIGGER a BEFORE DELETE OR INSERT ON visits FOR EACH STATEMENT EXECUTE FUNCTION defer();
         CREATE CONSTRAINT TRIGGER stored AFTER INSERT ON visits DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION trap()",
    );
    let visitor: String = one(&mut theirs, "SELECT visitorid FROM visits LIMIT 1");
    let message = "cannot fire deferred trigger within security-restricted operation";
    let refused = error(&mut admin, &format!("SELECT * FROM matomo_forget('{visitor}')"));
    assert_says(&refused, "42501", message, &[&format!("{owner}.visits")], "only_in");
    server_for(&mut admin, &fake, &owner);
    let site = add_site(&mut theirs, ", start_date => '2026-10-24', destination => 'visits'");
    run(&mut theirs, "DELETE FROM visits; TRUNCATE notes");
    run(&mut admin, "CALL matomo_sync_all()");
    let failed = format!("SELECT last_error FROM matomo_status WHERE site_id = {site}");
    assert_eq!(texts(&mut admin, &failed), [message]);
    let who = "SELECT DISTINCT who FROM notes WHERE who <> $1";
    assert_eq!(theirs.query(who, &[&owner]).unwrap().len(), 0);
    let is_superuser = format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{owner}'");
    assert!(!one::<bool>(&mut admin, &is_superuser));
}

#[test]
fn an_erasure_that_has_waited_for_a_renamed_column_is_refused() {
    let fake = serve_two();
    let (name, mut admin) = named_database();
    let (owner, mut theirs) = table_of(&mut admin, &name, &fake);
    let mut db = connect_as(&name, &owner);
    let waiting = pid(&mut db);
    run(
        &mut theirs,
        "BEGIN; DO $$ DECLARE t regclass; BEGIN
             FOR t IN SELECT attrelid::regclass FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
                 WHERE attname = 'visitorid' AND relkind = 'r' AND relnamespace = current_schema()::regnamespace
             LOOP EXECUTE format('ALTER TABLE %s RENAME visitorid TO known', t); END LOOP; END $$",
    );
    let erasing = std::thread::spawn(move || {
        error(&mut db, "SELECT * FROM matomo_forget('x', only_in => 'visits')")
    });
    wait_until("the erasure waits", || waits(&mut admin, waiting));
    run(&mut theirs, "COMMIT");
    assert_eq!(erasing.join().unwrap().code().code(), "42703");
}

/// The owner's trigger may look up names in the search_path, which is the caller's.
#[test]
fn an_erasure_lends_the_owners_rights_to_no_function_of_the_callers() {
    let fake = serve_two();
    let (name, mut admin) = named_database();
    let (owner, mut theirs) = table_of(&mut admin, &name, &fake);
    run(
        &mut theirs,
        &format!(
            "CREATE FUNCTION helper() RETURNS text LANGUAGE sql AS $$ SELECT 'own' $$;
             CREATE TABLE notes (who text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO {owner}.notes VALUES (helper()); RETURN NULL; END $$;
             CREATE TRIGGER note AFTER DELETE ON visits EXECUTE FUNCTION note()"
        ),
    );
    let officer = role(&mut admin);
    run(&mut admin, &format!("CREATE SCHEMA evil AUTHORIZATION {officer}"));
    run(
        &mut theirs,
        &format!(
            "GRANT USAGE ON SCHEMA {owner} TO {officer}; GRANT SELECT, DELETE ON {} TO {officer}",
            all_four("visits")
        ),
    );
    let mut db = connect_as(&name, &officer);
    run(
        &mut db,
        "CREATE FUNCTION evil.helper() RETURNS text LANGUAGE sql AS $$ SELECT current_user::text $$;
         GRANT USAGE ON SCHEMA evil TO PUBLIC; SET search_path = evil, public",
    );
    let refused = error(&mut db, "SELECT * FROM matomo_forget('x')");
    assert!(refused.message().contains("helper() does not exist"), "{refused:?}");
    // Temporary tables come before all that is not named with its schema.
    run(
        &mut theirs,
        "CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         INSERT INTO notes VALUES ('own'); RETURN NULL; END $$",
    );
    for trap in [
        "CREATE TEMP TABLE notes (who text); GRANT INSERT ON notes TO PUBLIC;
         CREATE FUNCTION evil.trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION USING ERRCODE = 'ZZ001'; END $$;
         CREATE TRIGGER trap BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION evil.trap()",
        "DISCARD TEMP; CREATE DOMAIN pg_temp.text AS pg_catalog.text",
        "DISCARD TEMP; CREATE TEMP TABLE pg_class AS TABLE pg_catalog.pg_class WITH NO DATA;
         CREATE TEMP TABLE pg_type AS TABLE pg_catalog.pg_type WITH NO DATA",
    ] {
        run(&mut db, trap);
        let refused = error(&mut db, "SELECT * FROM matomo_forget('x')");
        assert_says(&refused, "55000", refused.message(), &[], "DISCARD TEMP");
    }
    // At once, not after a wait for the tables.
    run(&mut theirs, "BEGIN; LOCK TABLE visits IN SHARE ROW EXCLUSIVE MODE");
    run(&mut db, "SET lock_timeout = '200ms'");
    assert_eq!(error(&mut db, "SELECT * FROM matomo_forget('x')").code().code(), "55000");
    run(&mut theirs, "COMMIT");
    run(&mut db, "DISCARD TEMP");
    let refused = error(&mut db, "SELECT * FROM matomo_forget('x')");
    assert!(refused.message().contains("notes"), "{refused:?}");
    // For a caller with the owner's rights, triggers find the same objects as during an INSERT.
    run(
        &mut admin,
        &format!(
            "CREATE TEMP TABLE others (); SET search_path = {owner}, public; SELECT * FROM matomo_forget('x')"
        ),
    );
    assert_eq!(texts(&mut theirs, "SELECT who FROM notes"), ["own"]);
}

#[test]
fn an_erasure_that_a_trigger_refuses_says_which_table_it_was() {
    let fake = serve_two();
    let (name, mut admin) = named_database();
    let (owner, mut theirs) = table_of(&mut admin, &name, &fake);
    run(
        &mut theirs,
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
         CREATE TRIGGER no BEFORE DELETE ON visits FOR EACH STATEMENT EXECUTE FUNCTION no()",
    );
    sync(&mut admin, &fake, ", '2026-10-24', '2026-10-26'");
    let visitor: String = one(&mut admin, "SELECT visitorid FROM matomo LIMIT 1");
    let refused = error(&mut admin, &format!("SELECT * FROM matomo_forget('{visitor}')"));
    assert_eq!(refused.message(), "no");
    let detail = format!("Rows of table {owner}.visits were to be deleted.");
    assert_eq!(refused.detail(), Some(detail.as_str()));
    assert!(refused.hint().unwrap_or_default().contains("only_in"), "{refused:?}");
    // In other tables the erasure still works.
    run(&mut admin, &format!("SELECT * FROM matomo_forget('{visitor}', only_in => 'matomo')"));
    let left = format!("SELECT count(*) FROM matomo WHERE visitorid = '{visitor}'");
    assert_eq!(one::<i64>(&mut admin, &left), 0);
}

#[test]
fn an_erasure_of_which_a_trigger_keeps_rows_is_refused_whole() {
    let fake = serve_two();
    let (name, mut admin) = named_database();
    let (owner, mut theirs) = table_of(&mut admin, &name, &fake);
    sync(&mut admin, &fake, ", '2026-10-24', '2026-10-26'");
    run(
        &mut theirs,
        "CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER keeps BEFORE DELETE ON visits FOR EACH ROW EXECUTE FUNCTION keeps()",
    );
    let visitor: String = one(&mut theirs, "SELECT visitorid FROM visits LIMIT 1");
    let count = format!("SELECT count(*) FROM matomo WHERE visitorid = '{visitor}'");
    let before = one::<i64>(&mut admin, &count);
    let refused = error(&mut admin, &format!("SELECT * FROM matomo_forget('{visitor}')"));
    assert_says(
        &refused,
        "55000",
        &format!("rows of {owner}.visits are not deleted"),
        &[],
        "Remove what prevents it",
    );
    assert_eq!(one::<i64>(&mut admin, &count), before);
}

/// A table with sites 1 and 2; a policy lets a role see only site 1.
fn half_hidden() -> (Fake, String, Client, String) {
    let fake = serve_two();
    let (name, mut admin, reader) = database_and_role();
    for site in [1, 2] {
        sync_site(&mut admin, &fake, site, ", '2026-10-24', '2026-10-26'");
    }
    run(
        &mut admin,
        &format!(
            "ALTER TABLE matomo ENABLE ROW LEVEL SECURITY;
             CREATE POLICY one ON matomo TO {reader} USING (idsite = '1');
             GRANT SELECT, DELETE ON matomo TO {reader}"
        ),
    );
    (fake, name, admin, reader)
}

#[test]
fn the_ledger_speaks_only_of_tables_of_which_all_is_shown() {
    let (_fake, name, mut admin, reader) = half_hidden();
    let days = "SELECT count(*) FROM matomo_days";
    let mut db = connect_as(&name, &reader);
    assert_eq!(one::<i64>(&mut db, days), 0);
    assert!(one::<i64>(&mut admin, days) > 3);
    run(&mut admin, "ALTER TABLE matomo DISABLE ROW LEVEL SECURITY");
    assert!(one::<i64>(&mut db, days) > 3);
}

#[test]
fn erasure_and_retention_are_whole_or_refused_where_policies_hide_rows() {
    let (_fake, name, mut admin, reader) = half_hidden();
    let mut db = connect_as(&name, &reader);
    let state = |admin: &mut Client| (fingerprint(admin, "matomo"), ledger(admin, "matomo"));
    let before = state(&mut admin);
    let visitor: String =
        one(&mut admin, "SELECT visitorid FROM matomo WHERE idsite = '2' LIMIT 1");
    for call in [
        format!("SELECT * FROM matomo_forget('{visitor}')"),
        format!("SELECT * FROM matomo_forget('{visitor}', only_in => 'matomo')"),
        "CALL matomo_drop_before('matomo', '2026-10-26')".to_owned(),
        "CALL matomo_drop_before('matomo', '2026-10-26', site => 2)".to_owned(),
    ] {
        for security in ["on", "off"] {
            run(&mut db, &format!("SET row_security = {security}"));
            assert_says(
                &error(&mut db, &call),
                "42501",
                "row-level security may hide rows of table public.matomo",
                &["Rows that a policy hides would be skipped."],
                "Use a role to which no policy applies",
            );
            assert_eq!(state(&mut admin), before, "{call}");
        }
    }
    // The owner does not see everything either when policies are forced.
    let owner = role(&mut admin);
    run(
        &mut admin,
        &format!(
            "ALTER TABLE matomo OWNER TO {owner}; ALTER TABLE matomo FORCE ROW LEVEL SECURITY"
        ),
    );
    // No role's triggers run with another role's rights.
    assert_says(
        &error(&mut admin, "SELECT * FROM matomo_forget('x')"),
        "42501",
        "table public.matomo_conversions has another owner than the destination that it belongs to",
        &["Its triggers would run with the rights of the destination's owner."],
        &format!("ALTER TABLE public.matomo_conversions OWNER TO {owner}."),
    );
    for companion in ["visits", "conversions", "items"] {
        run(&mut admin, &format!("ALTER TABLE matomo_{companion} OWNER TO {owner}"));
    }
    let mut theirs = connect_as(&name, &owner);
    for call in
        ["SELECT * FROM matomo_forget('x')", "CALL matomo_drop_before('matomo', '2026-10-26')"]
    {
        assert_eq!(error(&mut theirs, call).code().code(), "42501");
    }
    run(&mut admin, "ALTER TABLE matomo NO FORCE ROW LEVEL SECURITY");
    run(&mut admin, &format!("SELECT * FROM matomo_forget('{visitor}')"));
    let left = format!("SELECT count(*) FROM matomo WHERE visitorid = '{visitor}'");
    assert_eq!(one::<i64>(&mut admin, &left), 0);
}

/// A role that may delete can seal days only by deleting rows.
#[test]
fn days_are_sealed_as_empty_only_where_rows_are_dropped() {
    let noon = Noon::new();
    let fake = serve(noon.world(3));
    let (name, mut admin, role) = database_and_role();
    sync(&mut admin, &fake, &format!(", '{}'", noon.text(2)));
    let before = ledger(&mut admin, "matomo");
    let mut db = connect_as(&name, &role);
    let calls = [
        "SELECT matomo_drop_step('matomo', 'infinity', NULL, '1s')",
        "SELECT matomo_drop_step('matomo', now() + interval '1 day', 1, '1s')",
        "CALL matomo_drop_before('matomo', now() + interval '1 day')",
        "SELECT matomo_drop_step('matomo', now() - interval '1 s', NULL, '1s')",
        "CALL matomo_drop_before('matomo', now() - interval '1 s')",
    ];
    for grant in ["DELETE", "SELECT"] {
        run(
            &mut admin,
            &format!(
                "REVOKE ALL ON {0} FROM {role}; GRANT {grant} ON {0} TO {role}",
                all_four("matomo")
            ),
        );
        for call in calls {
            let state = error(&mut db, call).code().code().to_owned();
            assert!(["42501", "22023"].contains(&state.as_str()), "{call}: {state}");
            assert_eq!(ledger(&mut admin, "matomo"), before, "{grant}: {call}");
        }
    }
    // All four tables lose rows, or none does.
    run(&mut admin, &format!("GRANT SELECT, DELETE ON matomo TO {role}"));
    for call in &calls[3..] {
        let refused = error(&mut db, call);
        assert_eq!(refused.message(), "permission denied for table public.matomo_visits", "{call}");
        assert_eq!(ledger(&mut admin, "matomo"), before, "{call}");
    }
    run(&mut admin, &format!("GRANT SELECT, DELETE ON {} TO {role}", all_four("matomo")));
    for call in &calls[..3] {
        assert_eq!(error(&mut db, call).code().code(), "22023", "{call}");
        assert_eq!(ledger(&mut admin, "matomo"), before, "{call}");
    }
    // A forged place skips rows, but does not seal days that have rows.
    let made_up = "SELECT matomo_drop_step('matomo', $1::text::timestamptz, NULL, '1s',
        jsonb_build_object('before', $1::text, 'table', 'actions', 'has_rows_left', false, 'is_over', false,
            'scan_position', jsonb_build_object('id', 'matomo'::regclass::oid, 'done', true, 'last_gone', $1::text)))";
    // After the end of the first day, in whichever timezone it is noon.
    let bound = format!("{} 12:00:00+00", noon.text(1));
    db.query(made_up, &[&bound]).unwrap();
    assert_eq!(ledger(&mut admin, "matomo"), before);
    assert_eq!(one::<i64>(&mut admin, "SELECT count(*) FROM matomo"), 27);
    // No other function lets a caller seal days in the ledger.
    let functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'matomo%seal%'";
    assert_eq!(one::<i64>(&mut admin, functions), 0);
}

#[test]
fn triggers_on_delete_see_the_search_path_that_they_see_on_insert() {
    let fake = serve_two();
    let mut db = database();
    run(
        &mut db,
        "CREATE SCHEMA app; CREATE TABLE app.seen (what text, path text);
         SELECT matomo_create_table('app.visits'), matomo_create_table('app.weekly', true);
         CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO seen VALUES (TG_OP, current_setting('search_path')); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT OR DELETE ON app.visits EXECUTE FUNCTION app.note();
         CREATE TRIGGER note AFTER INSERT OR DELETE ON app.weekly FOR EACH ROW EXECUTE FUNCTION app.note();
         SET search_path = app, public",
    );
    for table in ["visits", "weekly"] {
        sync(&mut db, &fake, &format!(", '2026-10-24', '2026-10-26', destination => '{table}'"));
        run(&mut db, &format!("CALL matomo_drop_before('{table}', '2026-10-25T12:00:00Z')"));
        run(&mut db, "SELECT matomo_forget((SELECT visitorid FROM visits LIMIT 1))");
        let seen = "SELECT string_agg(DISTINCT what || ' ' || path, '; ' ORDER BY what || ' ' || path) FROM seen";
        assert_eq!(texts(&mut db, seen), ["DELETE app, public; INSERT app, public"]);
        run(&mut db, "TRUNCATE seen");
    }
}

#[test]
fn a_ledger_row_that_another_session_has_locked_ends_in_an_error_and_no_busy_loop() {
    let noon = Noon::new();
    let fake = serve(noon.world(4));
    let (name, mut db) = named_database();
    sync(&mut db, &fake, &format!(", '{}'", noon.text(3)));
    let mut other = connect_as(&name, "postgres");
    run(&mut other, "BEGIN; SELECT FROM matomo_ledger FOR UPDATE");
    let holder = pid(&mut other);
    let call =
        format!("CALL matomo_drop_before('matomo', '{}', patience => '1 second')", noon.text(1));
    let commits =
        "SELECT sum(calls)::bigint FROM pg_stat_user_functions WHERE funcname = 'matomo_drop_step'";
    run(&mut db, "SET track_functions = 'all'");
    let refused = error(&mut db, &call);
    assert_says(
        &refused,
        "55P03",
        "could not obtain lock on public.matomo_ledger",
        &[&format!("Held by process {holder}.")],
        "Call it again",
    );
    // It tries twice a second.
    let steps = one::<Option<i64>>(&mut db, commits).unwrap_or(0);
    assert!(steps < 10, "{steps} steps in a second");
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 36);
    run(&mut other, "ROLLBACK");
    run(&mut db, &call);
    assert!(one::<i64>(&mut db, "SELECT count(*) FROM matomo") < 36);
}

#[test]
fn ledger_rows_of_dropped_tables_go() {
    let fake = serve_two();
    let mut db = database();
    for table in ["one", "two", "three"] {
        run(&mut db, &format!("SELECT matomo_create_table('{table}')"));
        sync(&mut db, &fake, &format!(", '2026-10-24', '2026-10-26', destination => '{table}'"));
    }
    let of_dropped = "SELECT count(*) FROM matomo_ledger l WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = l.destination)";
    // By an erasure, by a first sync into a table, and by the daily upkeep of a site.
    for (drop, by) in [
        ("one", "SELECT matomo_forget('x')".to_owned()),
        ("two", sync_sql(&fake, 1, ", '2026-10-24', '2026-10-26'")),
        ("three", "SELECT matomo_add_site('analytics', 1, start_date => '2026-10-24'); CALL matomo_sync_all()".to_owned()),
    ] {
        if drop == "three" {
            server(&mut db, &fake);
        }
        run(&mut db, &format!("DROP TABLE {drop}"));
        assert!(one::<i64>(&mut db, of_dropped) > 0);
        for statement in by.split("; ") {
            run(&mut db, statement);
        }
        assert_eq!(one::<i64>(&mut db, of_dropped), 0, "{by}");
    }
}

#[test]
fn no_one_holds_up_an_erasure_with_a_table_that_no_sync_has_filled() {
    let fake = serve_two();
    let (name, mut admin) = named_database();
    let (_, mut theirs) = table_of(&mut admin, &name, &fake);
    let stranger = role(&mut admin);
    run(&mut admin, &format!("CREATE SCHEMA own AUTHORIZATION {stranger}"));
    let mut other = connect_as(&name, &stranger);
    run(
        &mut other,
        "SELECT matomo_create_table('own.mine'); SELECT matomo_create_table('own.gone');
         DROP TABLE own.gone;
         CREATE FUNCTION own.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
         CREATE TRIGGER no BEFORE DELETE ON own.mine EXECUTE FUNCTION own.no();
         CREATE TRIGGER no BEFORE DELETE ON own.gone_visits EXECUTE FUNCTION own.no()",
    );
    run(
        &mut other,
        "BEGIN; SELECT matomo_drop_step('own.mine', '2000-01-01', NULL, '1 s', NULL);
         LOCK own.mine, own.mine_visits, own.gone_visits",
    );
    let visitor: String = one(&mut theirs, "SELECT visitorid FROM visits LIMIT 1");
    run(&mut admin, &format!("SET lock_timeout = '1 s'; SELECT * FROM matomo_forget('{visitor}')"));
    let left = format!("SELECT count(*) FROM visits WHERE visitorid = '{visitor}'");
    assert_eq!(one::<i64>(&mut theirs, &left), 0);
    run(&mut other, "ROLLBACK");
    run(&mut admin, "SELECT * FROM matomo_forget('nobody')");
}
