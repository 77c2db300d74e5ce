//! A sync of a registered site has its owner's rights and no others, whichever role starts it.

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::report::{all_there, proven};
use crate::support::sites::*;
use crate::support::*;

const START: &str = ", start_date => '2026-10-24'";

fn serve_site(seed: u64) -> Fake {
    serve(world(seed, "Europe/Paris", 20, "2026-10-24", "2026-10-26"))
}

/// An owner with a registered site, and a table to which the owner's trigger can write.
fn owned(fake: &Fake) -> (String, Client, Client, String) {
    let (name, mut admin, owner) = database_and_role();
    server_for(&mut admin, fake, &owner);
    let mut db = connect_as(&name, &owner);
    add_site(&mut db, START);
    run(&mut db, "CREATE TABLE notes (who text, what text)");
    (name, admin, db, owner)
}

#[test]
fn triggers_of_an_owner_run_as_the_owner() {
    let fake = serve_site(131);
    let (_, mut admin, mut db, owner) = owned(&fake);
    run(
        &mut db,
        &format!(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO {owner}.notes SELECT current_user, TG_ARGV[0]
                     WHERE NOT EXISTS (SELECT FROM {owner}.notes WHERE what = TG_ARGV[0]);
                 RETURN NULL;
             END $$;
             CREATE TRIGGER statement AFTER INSERT ON matomo EXECUTE FUNCTION note('statement');
             CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON matomo DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION note('deferred')"
        ),
    );
    run(&mut admin, "CALL matomo_sync_all()");
    let all = all_there(&mut admin, &format!("{owner}.matomo"), &all_of(&fake, 1));
    let notes = texts(&mut db, "SELECT concat_ws(' ', what, who) FROM notes ORDER BY 1");
    assert_eq!(notes, [format!("deferred {owner}"), format!("statement {owner}")]);
    let who = notes.join(", ").replace(&owner, "owner");
    proven(
        "Privileges",
        "an owner's triggers, when a superuser syncs",
        "a statement's trigger and a deferred one, which note current_user",
        "they run with the owner's rights",
        &format!("{who}; {all}"),
    );
}

#[test]
fn a_superuser_syncs_into_an_owners_weekly_partitions() {
    let fake = serve_site(137);
    let (_, mut admin, mut db, owner) = owned(&fake);
    add_site(&mut db, ", start_date => '2026-10-24', destination => 'matomo_partitioned'");
    run(&mut admin, "CALL matomo_sync_all()");
    assert_equal(&mut admin, &format!("{owner}.matomo_partitioned"), &all_of(&fake, 1));
    let strangers = format!(
        "SELECT count(*) FROM pg_class WHERE relnamespace = '{owner}'::regnamespace AND relowner <> '{owner}'::regrole"
    );
    assert_eq!(one::<i64>(&mut admin, &strangers), 0);
}

#[test]
fn an_owner_cannot_use_a_superusers_call_for_more() {
    let mut rows = Vec::new();
    for (case, attempt, message) in [
        (
            "an owner's trigger that does SET ROLE",
            "SET ROLE postgres",
            "cannot set parameter \"role\" within security-definer function",
        ),
        (
            "an owner's trigger that does SET SESSION AUTHORIZATION",
            "SET SESSION AUTHORIZATION postgres",
            "cannot set parameter \"session_authorization\" within security-definer function",
        ),
        (
            "an owner's trigger that makes a temporary table",
            "CREATE TEMP TABLE trap (n int)",
            "cannot create temporary table within security-restricted operation",
        ),
        (
            "an owner's trigger that makes him a superuser",
            "ALTER ROLE CURRENT_USER SUPERUSER",
            "must be superuser to alter superuser roles or change superuser attribute",
        ),
    ] {
        let fake = serve_site(132);
        let (_, mut admin, mut db, owner) = owned(&fake);
        run(
            &mut db,
            &format!(
                "CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {attempt}; RETURN NULL; END $$;
                 CREATE TRIGGER evil AFTER INSERT ON matomo EXECUTE FUNCTION evil()"
            ),
        );
        run(&mut admin, "CALL matomo_sync_all()");
        let failed = "SELECT concat_ws(': ', status, return_message) FROM matomo_runs";
        // Postgres 16 and later have a shorter message.
        let found = one::<String>(&mut db, failed).replace(
            "permission denied to alter role",
            "must be superuser to alter superuser roles or change superuser attribute",
        );
        assert_eq!(found, format!("failed: {message}"));
        assert!(!one::<bool>(
            &mut admin,
            &format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{owner}'")
        ));
        rows.push((case, attempt, found));
    }
    for (case, attempt, seen) in rows {
        let injected = format!("`{attempt}` in a trigger; a superuser calls `matomo_sync_all()`");
        let promised = "the owner's run fails, the superuser's session is untouched";
        proven("Privileges", case, &injected, promised, &seen);
    }
}

#[test]
fn what_an_owner_sets_does_not_last_in_the_callers_session() {
    let fake = serve_site(133);
    let (_, mut admin, mut db, owner) = owned(&fake);
    run(
        &mut db,
        &format!(
            "CREATE FUNCTION {owner}.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'trap' $$;
             CREATE FUNCTION set() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM set_config('search_path', '{owner}, pg_catalog', false);
                 PERFORM set_config('matomo.page_size', '3', false);
                 SET work_mem = '64kB';
                 RETURN NULL;
             END $$;
             CREATE TRIGGER set AFTER INSERT ON matomo EXECUTE FUNCTION set()"
        ),
    );
    let settings = "SELECT concat_ws(' ', lower('X'), current_setting('search_path'), current_setting('matomo.page_size'), current_setting('work_mem'))";
    let before: String = one(&mut admin, settings);
    run(&mut admin, "CALL matomo_sync_all()");
    assert_equal(&mut admin, &format!("{owner}.matomo"), &all_of(&fake, 1));
    run(&mut admin, "RESET client_min_messages");
    let after = one::<String>(&mut admin, settings);
    assert_eq!(after, before);
    proven(
        "Privileges",
        "an owner's trigger that sets search_path",
        "and `matomo.page_size` and `work_mem`, for the session; with a function `lower` of its own in front",
        "none of it lasts in the superuser's session",
        &format!("lower('X'), search_path, page_size, work_mem after it: {after}"),
    );
    assert_eq!(
        one::<String>(&mut admin, "SELECT concat(current_user, ' ', session_user)"),
        "postgres postgres"
    );
}

#[test]
fn the_owners_rights_and_mapping_are_what_counts() {
    let fake = serve_site(134);
    let (_, mut admin, mut db, owner) = owned(&fake);
    // The superuser has no mapping and may write everywhere; the owner may no longer write.
    run(
        &mut admin,
        &format!(
            "ALTER TABLE {owner}.matomo OWNER TO postgres; GRANT SELECT ON {owner}.matomo TO {owner}"
        ),
    );
    let failed = "SELECT concat_ws(': ', status, sqlstate, return_message) FROM matomo_runs ORDER BY runid DESC LIMIT 1";
    run(&mut admin, "CALL matomo_sync_all()");
    let denied = one::<String>(&mut db, failed);
    assert_eq!(denied, format!("failed: 42501: permission denied for table {owner}.matomo"));
    run(&mut admin, &format!("ALTER TABLE {owner}.matomo OWNER TO {owner}"));
    run(&mut admin, "CALL matomo_sync_all()");
    assert_equal(&mut admin, &format!("{owner}.matomo"), &all_of(&fake, 1));
    run(&mut admin, &format!("DROP USER MAPPING FOR {owner} SERVER analytics"));
    run(&mut admin, "CALL matomo_sync_all()");
    let lacking = one::<String>(&mut db, failed);
    assert_eq!(lacking, format!("failed: 28000: user mapping not found for \"{owner}\""));
    proven(
        "Privileges",
        "an owner who may no longer write",
        "a superuser calls; the owner has lost the table, then its mapping",
        "the owner's rights count, not the caller's: the run fails",
        &format!("{denied}; {lacking}").replace(&owner, "owner"),
    );
}

#[test]
fn names_in_the_search_path_cannot_stand_in_for_those_of_postgres() {
    let fake = serve_site(135);
    let (name, mut clean) = named_database();
    server(&mut clean, &fake);
    let mut db = shared().connect(&name);
    run(&mut db, HOSTILE);
    // The objects that procedures and views use.
    run(
        &mut db,
        "DO $do$
         DECLARE name text; arguments text; result text;
         BEGIN
             FOR name, arguments, result IN VALUES
                 ('format', 'text, integer', 'text'), ('array_agg', 'integer', 'integer[]'),
                 ('pg_has_role', 'oid, text', 'boolean'), ('pg_has_role', 'name, text', 'boolean'),
                 ('has_server_privilege', 'oid, text', 'boolean'), ('has_function_privilege', 'text, text', 'boolean'),
                 ('clock_timestamp', '', 'timestamptz'), ('pg_backend_pid', '', 'integer'), ('current_database', '', 'name'),
                 ('array_to_string', 'date[], text', 'text'), ('power', 'integer, integer', 'double precision'),
                 ('regexp_match', 'text, text', 'text[]'), ('matomo_may_see', 'oid', 'boolean'),
                 ('matomo_is_running', 'integer', 'boolean'), ('matomo_has_worker', '', 'boolean'), ('matomo_run_sites', '', 'integer[]'),
                 ('matomo_run_step', 'integer, boolean', 'boolean'), ('matomo_run_outside_transaction', 'text', 'boolean')
             LOOP
                 EXECUTE pg_catalog.format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', name, arguments, result,
                     pg_catalog.format('BEGIN PERFORM evil.boom(%L); RETURN NULL; END', name));
             END LOOP;
             FOREACH name IN ARRAY '{pg_roles,pg_locks,pg_database,pg_foreign_server,pg_user_mapping,matomo_site_config,matomo_site_state,matomo_run_log,matomo_sites,matomo_runs,matomo_ledger}'::pg_catalog.text[] LOOP
                 EXECUTE pg_catalog.format('CREATE TABLE evil.%I (nothing pg_catalog.int4)', name);
                 EXECUTE pg_catalog.format('CREATE TEMP TABLE %I (nothing pg_catalog.int4)', name);
             END LOOP;
             FOREACH name IN ARRAY '{interval,regrole}'::pg_catalog.text[] LOOP
                 EXECUTE pg_catalog.format('CREATE DOMAIN evil.%I AS pg_catalog.%1$I CHECK (evil.boom(%1$L))', name);
             END LOOP;
         END $do$",
    );
    run(&mut db, "SET search_path = evil, pg_catalog, public");
    let site: i32 = one(
        &mut db,
        "SELECT public.matomo_add_site('analytics', 1, start_date => '2026-10-24', destination => 'public.matomo')",
    );
    run(&mut db, "CALL public.matomo_sync_all()");
    run(&mut db, &format!("CALL public.matomo_sync_site({site})"));
    run(
        &mut db,
        &format!(
            "SELECT public.matomo_alter_site({site}, destination => 'public.matomo', owner => 'postgres')"
        ),
    );
    assert_equal(&mut clean, "matomo", &all_of(&fake, 1));
    // A failing run takes other code paths.
    fake.fail(fake_matomo::Fault::Html, fake_matomo::When::always());
    run(&mut db, "CALL public.matomo_sync_all()");
    let refused = error(&mut db, &format!("CALL public.matomo_sync_site({site})"));
    assert_eq!(refused.code().code(), "08P01");
    fake.heal();
    for view in ["matomo_sites", "matomo_runs", "matomo_status", "matomo_progress", "matomo_days"] {
        run(&mut db, &format!("SELECT * FROM public.{view}"));
    }
    let statuses = "SELECT string_agg(status, ' ' ORDER BY runid) FROM matomo_runs";
    let statuses = one::<String>(&mut clean, statuses);
    assert_eq!(statuses, "succeeded succeeded failed failed");
    proven(
        "Privileges",
        "a hostile search_path around procedures and views",
        "functions, operators, types and tables named like Postgres' and ours stand in front, and raise; two runs, then two of a Matomo that fails",
        "none is used",
        &format!("runs {statuses}; all views read"),
    );
    run(&mut db, &format!("SELECT public.matomo_remove_site({site})"));
}

#[test]
fn sites_work_with_the_extension_in_any_schema() {
    let fake = serve_site(136);
    let (_, mut db) = named_database();
    run(
        &mut db,
        "DROP EXTENSION matomo_postgres; CREATE SCHEMA \"Our tools\"; CREATE EXTENSION matomo_postgres SCHEMA \"Our tools\"",
    );
    server(&mut db, &fake);
    let site: i32 = one(
        &mut db,
        "SELECT \"Our tools\".matomo_add_site('analytics', 1, start_date => '2026-10-24')",
    );
    run(&mut db, "CALL \"Our tools\".matomo_sync_all()");
    run(&mut db, &format!("CALL \"Our tools\".matomo_sync_site({site})"));
    run(&mut db, "SET search_path = public, \"Our tools\"");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert_eq!(
        one::<i64>(&mut db, "SELECT count(*) FROM matomo_runs WHERE status = 'succeeded'"),
        2
    );
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_status WHERE failures = 0"), 1);
}

#[test]
fn who_does_not_own_a_partitioned_table_is_told_whom_to_ask_for_a_week() {
    let fake = serve_two();
    let (name, mut admin, writer) = database_and_role();
    let owner = role(&mut admin);
    server_for(&mut admin, &fake, &writer);
    run(
        &mut admin,
        &format!(
            "CREATE SCHEMA shop AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA shop TO {writer};
             SET ROLE {owner}; SELECT matomo_create_table('shop.visits', true);
             GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {writer}; RESET ROLE",
            all_four("shop.visits")
        ),
    );
    let mut db = connect_as(&name, &writer);
    let sync = "SELECT matomo_sync(1, server => 'analytics', start_date => '2026-10-24', destination => 'shop.visits')";
    let message =
        "permission denied to create the partition of table shop.visits for the week of 2026-10-19";
    assert_says(
        &error(&mut db, sync),
        "42501",
        message,
        &[&format!("This requires the rights of its owner, {owner}.")],
        "Ask the owner to run matomo_create_partitions, or to register a site, which creates partitions ahead.",
    );
    let ahead = "SELECT matomo_create_partitions('shop.visits', '2026-10-20', now())";
    assert_eq!(error(&mut db, ahead).message(), message);
    // The owner needs rights on the schema.
    let mut theirs = connect_as(&name, &owner);
    run(
        &mut admin,
        &format!("ALTER SCHEMA shop OWNER TO postgres; GRANT USAGE ON SCHEMA shop TO {owner}"),
    );
    assert_says(
        &error(&mut theirs, ahead),
        "42501",
        message,
        &["This requires CREATE on schema shop."],
        &format!("GRANT CREATE ON SCHEMA shop TO {owner}."),
    );
    run(&mut admin, &format!("GRANT CREATE ON SCHEMA shop TO {owner}"));
    run(&mut theirs, ahead);
    run(&mut db, sync);
    assert_tables_equal(&mut admin, "shop.visits", &all_tables_of(&fake, 1));
}
