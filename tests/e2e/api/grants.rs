//! What each grant lets a role make others do: the rows of the table in docs/security.md that no
//! other module tests.
//! module tests.

use fake_matomo::Fake;
use postgres::Client;

use crate::support::sites::*;
use crate::support::*;

const RANGE: &str = ", '2026-10-24', '2026-10-26'";

/// An owner with a registered site, synced into the owner's table `matomo`, and another role that
/// may use the owner's schema.
/// use the owner's schema.
struct Scene {
    fake: Fake,
    name: String,
    admin: Client,
    owner: String,
    owners: Client,
    other: String,
    others: Client,
}

fn scene() -> Scene {
    let fake = serve_two();
    let (name, mut admin, owner) = database_and_role();
    server_for(&mut admin, &fake, &owner);
    let mut owners = connect_as(&name, &owner);
    add_site(&mut owners, ", start_date => '2026-10-24'");
    run(&mut owners, "CALL matomo_sync_all()");
    let other = role(&mut admin);
    run(
        &mut admin,
        &format!(
            "GRANT USAGE ON SCHEMA {owner} TO {other}; CREATE SCHEMA {other} AUTHORIZATION {other}"
        ),
    );
    let others = connect_as(&name, &other);
    Scene { fake, name, admin, owner, owners, other, others }
}

fn last_run(db: &mut Client) -> String {
    one(
        db,
        "SELECT concat_ws(' ', status, sqlstate, return_message) FROM matomo_runs ORDER BY runid DESC LIMIT 1",
    )
}

/// As with any Postgres table: a role that may create triggers gets the rights of those who write
/// to it.
#[test]
fn a_trigger_lends_the_rights_of_the_tables_owner_and_of_nobody_else() {
    let Scene { fake: _fake, mut admin, owner, mut owners, other, mut others, .. } = scene();
    run(&mut owners, &format!("GRANT TRIGGER, SELECT ON matomo TO {other}"));
    run(
        &mut others,
        &format!(
            "CREATE TABLE notes (who text); GRANT INSERT ON notes TO PUBLIC; GRANT USAGE ON SCHEMA {other} TO PUBLIC;
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO {other}.notes VALUES (current_user);
                 BEGIN SET ROLE postgres; EXCEPTION WHEN OTHERS THEN END;
                 BEGIN ALTER ROLE {other} SUPERUSER; EXCEPTION WHEN insufficient_privilege THEN END;
                 RETURN NULL; END $$;
             CREATE TRIGGER note AFTER INSERT OR DELETE ON {owner}.matomo EXECUTE FUNCTION note()"
        ),
    );
    // A superuser erases, and syncs all.
    run(&mut admin, "SELECT matomo_forget(visitorid => 'nobody')");
    run(&mut owners, "TRUNCATE matomo");
    run(&mut admin, "CALL matomo_sync_all()");
    assert!(last_run(&mut owners).starts_with("succeeded"));
    let who = "SELECT string_agg(DISTINCT who, ', ') FROM notes";
    assert_eq!(texts(&mut others, who), [owner.as_str()]);
    let is_superuser = format!("SELECT rolsuper FROM pg_roles WHERE rolname = '{other}'");
    assert!(!one::<bool>(&mut admin, &is_superuser));
}

/// A foreign key keeps rows from being deleted; the error names the table, and nothing else is
/// affected.
#[test]
fn a_foreign_key_stops_erasure_with_the_tables_name_and_lends_no_more_than_a_trigger() {
    let Scene { fake: _fake, mut admin, owner, mut owners, other, mut others, .. } = scene();
    run(&mut owners, &format!("GRANT REFERENCES, SELECT ON matomo TO {other}"));
    run(
        &mut others,
        &format!(
            "CREATE TABLE held (visit bigint, id text, FOREIGN KEY (visit, id) REFERENCES {owner}.matomo);
             INSERT INTO held SELECT idvisit, action_id FROM {owner}.matomo"
        ),
    );
    let visitor: String = one(&mut owners, "SELECT visitorid FROM matomo LIMIT 1");
    let forget = format!("SELECT * FROM matomo_forget('{visitor}')");
    let refused = error(&mut admin, &forget);
    assert_eq!(refused.code().code(), "23503");
    let place = format!("Rows of table {owner}.matomo were to be deleted.");
    assert!(refused.detail().unwrap().contains(&place), "{refused:?}");
    // A sync without changes still succeeds.
    run(&mut admin, "CALL matomo_sync_all()");
    assert!(last_run(&mut owners).starts_with("succeeded"));
    // With a cascade, triggers of the referencing table run like those of the table itself.
    run(
        &mut others,
        &format!(
            "DROP TABLE held; CREATE TABLE notes (who text); GRANT INSERT ON notes TO PUBLIC;
             GRANT USAGE ON SCHEMA {other} TO PUBLIC;
             CREATE TABLE held (visit bigint, id text,
                 FOREIGN KEY (visit, id) REFERENCES {owner}.matomo ON DELETE CASCADE);
             INSERT INTO held SELECT idvisit, action_id FROM {owner}.matomo;
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO {other}.notes VALUES (current_user); RETURN NULL; END $$;
             CREATE TRIGGER note AFTER DELETE ON held EXECUTE FUNCTION note()"
        ),
    );
    run(&mut admin, &forget);
    // Since Postgres 18 they run as the role that queued them: the owner of the referencing table.
    let who = if since(&mut others, 18) { other } else { owner };
    assert_eq!(texts(&mut others, "SELECT DISTINCT who FROM notes"), [who]);
}

/// Tokens go where the server's owner directs them, as with any foreign server; visits of
/// different Matomos never mix.
#[test]
fn who_turns_a_server_gets_tokens_and_writes_nothing_into_tables_that_are_filled() {
    let Scene { fake: _fake, mut admin, mut owners, other, mut others, .. } = scene();
    run(
        &mut admin,
        &format!(
            "GRANT USAGE ON FOREIGN DATA WRAPPER matomo TO {other}; ALTER SERVER analytics OWNER TO {other}"
        ),
    );
    let thief = serve(world(7, "Europe/Paris", 9, "2026-10-24", "2026-10-26"));
    let before = fingerprint(&mut owners, "matomo");
    run(&mut others, &format!("ALTER SERVER analytics OPTIONS (SET url '{}')", thief.url()));
    run(&mut admin, "CALL matomo_sync_all()");
    assert!(last_run(&mut owners).starts_with("failed 55000"), "{}", last_run(&mut owners));
    assert!(!thief.requests().is_empty());
    assert_eq!(fingerprint(&mut owners, "matomo"), before);
    // The server's owner still cannot read tokens or make the database read a file.
    let tokens = "SELECT count(*) FROM pg_user_mappings WHERE umoptions IS NOT NULL";
    assert_eq!(one::<i64>(&mut others, tokens), 0);
    let file = error(&mut others, "ALTER SERVER analytics OPTIONS (ADD ca_file '/etc/passwd')");
    assert_eq!(file.code().code(), "42501");
}

/// The mapping for PUBLIC can be used by all who may use the server, but only the server's owner
/// can see its token.
#[test]
fn a_mapping_of_public_is_used_by_all_and_shown_to_the_servers_owner() {
    let Scene { fake, mut admin, other, mut others, .. } = scene();
    let mapping = format!(
        "CREATE USER MAPPING FOR PUBLIC SERVER analytics OPTIONS (token '{}')",
        fake.token()
    );
    run(&mut admin, &mapping);
    run(&mut admin, &format!("GRANT EXECUTE ON FUNCTION matomo_sync TO {other}"));
    let sync = format!(
        "SELECT matomo_sync(1, server => 'analytics', start_date => '2026-10-24', destination => '{other}.visits')"
    );
    run(&mut others, "SELECT matomo_create_table('visits')");
    assert_eq!(error(&mut others, &sync).code().code(), "42501");
    run(&mut admin, &format!("GRANT USAGE ON FOREIGN SERVER analytics TO {other}"));
    run(&mut others, &sync);
    let tokens = "SELECT count(*) FROM pg_user_mappings WHERE umoptions IS NOT NULL";
    assert_eq!(one::<i64>(&mut others, tokens), 0);
    run(&mut admin, &format!("ALTER SERVER analytics OWNER TO {other}"));
    assert_eq!(one::<i64>(&mut others, tokens), 1);
}

/// A registered site refers to its table, not to a name, so no other table is taken instead.
#[test]
fn a_table_in_front_in_the_search_path_diverts_no_registered_site() {
    let Scene { fake: _fake, name, mut admin, owner, mut owners, mut others, .. } = scene();
    let before: i64 = one(&mut owners, "SELECT count(*) FROM matomo");
    run(&mut others, "SELECT matomo_create_table('matomo'); GRANT ALL ON matomo TO PUBLIC");
    let schema: String = one(&mut others, "SELECT current_schema()::text");
    run(&mut others, &format!("GRANT USAGE ON SCHEMA {schema} TO PUBLIC"));
    run(&mut owners, "DELETE FROM matomo");
    run(&mut admin, &format!("ALTER ROLE {owner} SET search_path = {schema}, {owner}, public"));
    let mut owners = connect_as(&name, &owner);
    run(&mut owners, "CALL matomo_sync_all()");
    assert!(last_run(&mut owners).starts_with("succeeded"));
    let count = |db: &mut Client, schema: &str| {
        one::<i64>(db, &format!("SELECT count(*) FROM {schema}.matomo"))
    };
    assert_eq!((count(&mut owners, &owner), count(&mut owners, &schema)), (before, 0));
}

/// A policy's function would run with the rights of the role that reads the table.
#[test]
fn no_policy_is_asked_before_it_is_refused() {
    let Scene { fake: _fake, name, mut admin, owner, mut owners, other, .. } = scene();
    run(
        &mut owners,
        &format!(
            "CREATE TABLE notes (who text); GRANT INSERT ON notes TO PUBLIC;
             CREATE FUNCTION note() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO {owner}.notes VALUES (current_user); RETURN true; END $$;
             ALTER TABLE matomo ENABLE ROW LEVEL SECURITY; CREATE POLICY trap ON matomo USING ({owner}.note());
             GRANT SELECT, DELETE ON matomo TO {other}"
        ),
    );
    let mut others = connect_as(&name, &other);
    for call in [
        "SELECT * FROM matomo_forget('x')".to_owned(),
        format!("SELECT * FROM matomo_forget('x', only_in => '{owner}.matomo')"),
        format!("CALL matomo_drop_before('{owner}.matomo', '2026-10-25')"),
    ] {
        assert_eq!(error(&mut others, &call).code().code(), "42501", "{call}");
    }
    run(&mut others, "SELECT * FROM matomo_days");
    run(&mut admin, "SELECT * FROM matomo_forget('x'); SELECT * FROM matomo_days");
    assert_eq!(texts(&mut owners, "SELECT who FROM notes"), [""; 0]);
}

/// The lock that decides which session creates the table cannot be taken through SQL.
#[test]
fn no_advisory_lock_keeps_a_first_sync_from_making_its_table() {
    let Scene { fake, name, mut others, .. } = scene();
    run(
        &mut others,
        "SELECT pg_advisory_lock(hashtextextended('matomo_create_table public matomo', 0)),
             pg_advisory_lock(hashtext('matomo_create_table public matomo'))",
    );
    let mut admin = connect_as(&name, "postgres");
    run(&mut admin, "SET lock_timeout = '2 s'; BEGIN");
    assert!(sync(&mut admin, &fake, RANGE).inserted > 0);
    // The creation, the rows, and the Matomo of the table; SQL takes and releases only those of type advisory.
    let types = "SELECT locktype || ' ' || to_hex(objsubid::int) FROM pg_locks
        WHERE pid = pg_backend_pid() AND locktype IN ('advisory', 'userlock') GROUP BY 1 ORDER BY 1";
    assert_eq!(texts(&mut admin, types), ["userlock 6d64", "userlock 6d6d", "userlock 6d74"]);
    run(&mut admin, "SELECT pg_advisory_unlock_all()");
    assert_eq!(texts(&mut admin, types).len(), 3);
    run(&mut admin, "COMMIT");
}

/// Nor can a schema with the same hash of its name, in which another role creates a table.
#[test]
fn no_schema_of_another_keeps_a_first_sync_from_making_its_table() {
    let Scene { fake, name, mut admin, other, mut others, .. } = scene();
    let same = "SELECT hashtext('e_hqehwgt matomo') = hashtext('public matomo')";
    assert!(one::<bool>(&mut admin, same));
    run(
        &mut admin,
        &format!(
            "CREATE SCHEMA e_hqehwgt AUTHORIZATION {other}; GRANT EXECUTE ON FUNCTION matomo_sync TO {other}"
        ),
    );
    run(&mut others, "SET search_path = e_hqehwgt, public; BEGIN");
    let table = "SELECT count(*) FROM pg_tables WHERE schemaname = 'e_hqehwgt'";
    sync(&mut others, &fake, RANGE);
    assert_eq!(one::<i64>(&mut others, table), 4);
    let mut admin = connect_as(&name, "postgres");
    run(&mut admin, "SET lock_timeout = '2 s'");
    assert!(sync(&mut admin, &fake, RANGE).inserted > 0);
}

/// A check runs no more than a SELECT does: a cast to a domain would run the domain's constraints, one to
/// an enum the function that its owner made of it.
#[test]
fn a_check_runs_no_code_of_the_tables_owner() {
    let Scene { fake, mut admin, owner, mut owners, .. } = scene();
    run(
        &mut owners,
        &format!(
            "CREATE TABLE notes (who text);
         CREATE FUNCTION note(place text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO {owner}.notes VALUES (current_user); RETURN true; END $$;
         CREATE DOMAIN place AS varchar(60) CHECK (note(VALUE));
         CREATE DOMAIN seconds AS integer CHECK (note(VALUE::text));
         CREATE TYPE places AS (place place);
         CREATE TYPE town AS ENUM ('x');
         CREATE FUNCTION town(name text) RETURNS town LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO {owner}.notes VALUES (current_user); RETURN 'x'; END $$;
         CREATE CAST (text AS town) WITH FUNCTION town(text);
         ALTER TABLE matomo ALTER city TYPE place, ALTER visitduration TYPE seconds,
             ALTER region TYPE place[] USING NULL, ALTER country TYPE places USING NULL;
         ALTER TABLE matomo_visits ALTER city TYPE place, ALTER region TYPE town USING NULL;
         TRUNCATE notes"
        ),
    );
    for deep in [false, true] {
        let check = format!(
            "SELECT * FROM matomo_check(1{RANGE}, '{}', '{}', '{owner}.matomo', deep => {deep})",
            fake.url(),
            fake.token()
        );
        run(&mut admin, &format!("SET search_path = {owner}, public; {check}"));
    }
    assert_eq!(texts(&mut owners, "SELECT DISTINCT who FROM notes"), [""; 0]);
    // A sync finds the rows unchanged too.
    run(&mut owners, "ALTER TABLE matomo_visits DROP COLUMN region");
    let force = format!("{RANGE}, destination => 'matomo', force => true");
    assert_eq!(sync(&mut admin, &fake, &force).written(), 0);
}

/// The reader may keep a transaction open, or check against a Matomo that does not answer.
#[test]
fn who_may_only_read_a_table_keeps_no_sync_and_no_erasure_from_it() {
    let Scene { fake, mut admin, owner, mut owners, other, mut others, .. } = scene();
    run(&mut owners, &format!("GRANT SELECT ON {} TO {other}", all_four("matomo")));
    run(&mut admin, &format!("GRANT EXECUTE ON FUNCTION matomo_check TO {other}"));
    // As after a restore: the first session that sees the companions records their OIDs.
    run(
        &mut admin,
        &format!(
            "UPDATE matomo_companion SET destination = 0, companion = 0,
                 destination_name = '{{{owner},matomo,{owner}}}', companion_name = ARRAY['{owner}', 'matomo_' || kind, '{owner}']"
        ),
    );
    let check = format!(
        "SELECT * FROM matomo_check(1{RANGE}, '{}', '{}', '{owner}.matomo')",
        fake.url(),
        fake.token()
    );
    run(&mut others, &format!("BEGIN; {check}"));
    run(&mut owners, "CALL matomo_sync_all()");
    let last: i64 = one(&mut owners, "SELECT max(runid) FROM matomo_runs");
    assert_eq!((last, last_run(&mut owners).as_str()), (2, "succeeded"));
    run(&mut owners, "SET lock_timeout = '1s'; SELECT matomo_forget('nobody')");
    run(&mut owners, "CALL matomo_drop_before('matomo', '2026-10-24', patience => '1 second')");
}

#[test]
fn a_first_sync_waits_for_another_one_of_the_same_name_only() {
    let Scene { fake, name, mut admin, .. } = scene();
    run(&mut admin, "BEGIN");
    sync(&mut admin, &fake, RANGE);
    let mut second = connect_as(&name, "postgres");
    run(&mut second, "SET lock_timeout = '200 ms'");
    let refused = error(&mut second, &sync_sql(&fake, 1, RANGE));
    assert_eq!(refused.code().code(), "55P03");
    let other = format!("{RANGE}, destination => 'matomo_partitioned'");
    assert!(sync(&mut second, &fake, &other).inserted > 0);
    run(&mut admin, "ROLLBACK");
    assert!(sync(&mut second, &fake, RANGE).inserted > 0);
}

#[test]
fn the_tests_that_docs_security_names_are_there() {
    let root = crate::support::pages::root();
    let read = |path: String| {
        std::fs::read_to_string(root.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let page = read("docs/security.md".to_owned());
    let mut named: Vec<_> = page.split('`').filter_map(|text| text.rsplit_once("::")).collect();
    // Addresses also contain `::`.
    named.retain(|(_, test)| test.starts_with(char::is_alphabetic));
    assert!(named.len() > 20, "{named:?}");
    for (module, test) in named {
        let code = read(format!("tests/e2e/{}.rs", module.replace("::", "/")));
        assert!(code.contains(&format!("#[test]\nfn {test}()")), "{module}::{test}");
    }
}
