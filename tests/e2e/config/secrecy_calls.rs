//! The secrecy of the token in calls from plpgsql, in other kinds of calls, and in what Postgres
//! itself logs before a sync starts, as listed in docs/security.md.

use fake_matomo::{Fault, Saying, When};

use crate::support::secrecy::*;
use crate::support::*;

#[test]
fn calls_from_plpgsql_do_not_tell_the_token() {
    let token = "f3b09d5aplpgsqlcalls61e7c2d8a4b0";
    let fake = serve_with(token);
    let name = database_with_table();
    let sync = Sync::of(&fake, FIRST, LAST).sql();
    let dynamic = sync.replace(&format!("'{token}'"), "%L");
    talkative()
        .connect(&name)
        .batch_execute(&format!(
            "CREATE FUNCTION sync_with(key text) RETURNS bigint LANGUAGE plpgsql AS
             $f$ DECLARE n bigint; BEGIN
                EXECUTE format($$SELECT sum(visits) FROM ({dynamic}) s$$, key) INTO n; RETURN n;
             END $f$",
        ))
        .unwrap();
    for call in [
        format!("DO $do$ BEGIN PERFORM * FROM ({sync}) s; END $do$"),
        format!("SELECT sync_with('{token}')"),
        format!("WITH s AS ({sync}) SELECT count(*) FROM s"),
    ] {
        let mut session = Session::with_function(&name);
        session.db.batch_execute("SET matomo.max_retries = 0").unwrap();
        // Notices have a CONTEXT too.
        session.db.batch_execute(&call).unwrap();
        assert!(!session.said.lock().unwrap().is_empty());
        session.assert_kept(&call, token);
        fake.fail(Fault::Says(Saying::WrongToken), When::always());
        let error = session.fails(&call);
        assert_eq!(error.code().code(), "28000", "{error:?}");
        assert_absent(&call, token, &format!("{error:?}"));
        assert!(session.log().contains("ERROR:  28000: Matomo refused the token"));
        session.assert_kept(&call, token);
        fake.heal();
        // A later error in the same statement does not show it either.
        let error = session
            .fails(&format!("DO $do$ BEGIN PERFORM * FROM ({sync}) s; RAISE 'later'; END $do$"));
        assert_eq!(error.message(), "later");
        assert_absent("later", token, &format!("{error:?}"));
        session.assert_kept("an error after the sync", token);
    }
    // The caller's context is back once the sync is over.
    let mut session = Session::new(&name);
    let error =
        session.fails(&format!("DO $do$ BEGIN PERFORM * FROM ({sync}) s; RAISE 'x'; END $do$"));
    assert_eq!(error.where_(), Some("PL/pgSQL function inline_code_block line 1 at RAISE"));
}

#[test]
fn a_caught_error_does_not_tell_the_token() {
    let token = "0b7e4c92caughtcontext5d3f1a86e9c7";
    let fake = serve_with(token);
    fake.fail(Fault::Says(Saying::WrongToken), When::always());
    let mut session = Session::with_function(&database_with_table());
    session
        .db
        .batch_execute(&format!(
            "DO $do$ DECLARE c text; d text; BEGIN
                PERFORM * FROM ({}) s;
             EXCEPTION WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS c = PG_EXCEPTION_CONTEXT, d = PG_EXCEPTION_DETAIL;
                RAISE NOTICE 'caught: %, %, %', SQLERRM, d, c;
             END $do$",
            Sync::of(&fake, FIRST, LAST).sql()
        ))
        .unwrap();
    let said = session.said.lock().unwrap()[0].clone();
    assert!(said.message().starts_with("caught: Matomo refused the token, Method "), "{said:?}");
    // The block has its context back after catching the error.
    assert_eq!(said.where_(), Some("PL/pgSQL function inline_code_block line 5 at RAISE"));
    session.assert_kept("a caught error", token);
}

#[test]
fn a_key_as_a_parameter_shows_in_no_text() {
    let token = "c94a1f73parameterofstatement0e8d5b";
    let fake = serve_with(token);
    let mut session = Session::with_function(&database_with_table());
    session.db.batch_execute("SET matomo.max_retries = 0").unwrap();
    let sql = "SELECT * FROM matomo_sync(1, $1, $2, '2026-03-02', '2026-03-03')";
    session.db.query(sql, &[&fake.url(), &token]).unwrap();
    session.assert_kept("a parameter", token);
    fake.fail(Fault::Says(Saying::WrongToken), When::always());
    // log_parameter_max_length_on_error puts parameters into the context, which the client sees
    // too.
    let error = session.db.query(sql, &[&fake.url(), &token]).unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "28000");
    assert_absent("a parameter", token, &format!("{error:?}"));
    session.assert_kept("a parameter", token);
}

#[test]
fn a_key_read_from_a_table_shows_in_no_text_whatever_is_logged() {
    let token = "68d2b5e0readfromatableofkeys9a7f3c";
    let fake = serve_with(token);
    let name = database_with_table();
    let mut quiet = talkative().connect(&name);
    quiet.batch_execute("CREATE TABLE keys (site int, url text, key text)").unwrap();
    quiet.execute("INSERT INTO keys VALUES (1, $1, $2)", &[&fake.url(), &token]).unwrap();
    let mut session = Session::new(&name);
    session
        .db
        .batch_execute("SET log_statement = 'all'; SET log_min_duration_statement = 0; SET matomo.max_retries = 0")
        .unwrap();
    let sql = "SELECT s.* FROM keys, matomo_sync(keys.site, keys.url, keys.key, '2026-03-02', '2026-03-03') AS s";
    session.db.batch_execute(sql).unwrap();
    fake.fail(Fault::Says(Saying::WrongToken), When::always());
    let error = session.fails(sql);
    assert_eq!(error.code().code(), "28000");
    assert_absent("a table", token, &format!("{error:?}"));
    assert!(session.log().contains("LOG:  00000: statement: SELECT s.* FROM keys"));
    session.assert_kept("a table", token);
}

#[test]
fn logged_durations_and_plans_do_not_tell_the_token() {
    let token = "2e6f90c3durationsarelogged7b1d4a58";
    let fake = serve_with(token);
    let mut session = Session::new(&database_with_table());
    session.db.batch_execute("SET log_min_duration_statement = 0").unwrap();
    session.db.batch_execute(&Sync::of(&fake, FIRST, LAST).sql()).unwrap();
    let log = session.log();
    let at = log.find("2 of 2 days").unwrap();
    assert!(log[at..].contains("LOG:  00000: duration: "), "{}", &log[at..]);
    session.assert_kept("a duration", token);
    session.db.batch_execute("LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0").unwrap();
    session.db.batch_execute("SET auto_explain.log_verbose = on").unwrap();
    session.db.batch_execute(&Sync::of(&fake, FIRST, LAST).sql()).unwrap();
    assert!(session.log().contains(" ms  plan:"));
    session.assert_kept("a plan", token);
}

#[test]
fn a_later_statement_of_the_session_is_logged_as_usual() {
    let token = "47c1e8d6laterstatementsshow3f0b9a";
    let fake = serve_with(token);
    let mut session = Session::new(&database_with_table());
    session.db.batch_execute("SET matomo.max_retries = 0").unwrap();
    session.db.batch_execute(&Sync::of(&fake, FIRST, LAST).sql()).unwrap();
    session.fails("SELECT 1 / 0 AS after_a_good_sync");
    fake.fail(Fault::Says(Saying::WrongToken), When::always());
    session.fails(&Sync::of(&fake, FIRST, LAST).sql());
    session.fails("DO $$ BEGIN RAISE 'after a failed sync'; END $$");
    session.db.batch_execute("SET log_min_duration_statement = 0; SELECT 'a later one'").unwrap();
    let log = session.log();
    for line in [
        "STATEMENT:  SELECT 1 / 0 AS after_a_good_sync",
        "CONTEXT:  PL/pgSQL function inline_code_block line 1 at RAISE",
        "STATEMENT:  DO $$ BEGIN RAISE 'after a failed sync'; END $$",
        "statement: SET log_min_duration_statement = 0; SELECT 'a later one'",
    ] {
        assert!(log.contains(line), "no {line} in {log}");
    }
    session.assert_kept("later statements", token);
}

#[test]
fn pg_stat_statements_does_not_hold_the_token() {
    let token = "9d80b4f2statementsarecounted6c1e5a";
    let fake = serve_with(token);
    let name = database_with_table();
    let mut session = Session::new(&name);
    session.db.batch_execute("CREATE EXTENSION pg_stat_statements").unwrap();
    session.db.batch_execute("SET matomo.max_retries = 0").unwrap();
    session.db.batch_execute(&Sync::of(&fake, FIRST, LAST).sql()).unwrap();
    fake.fail(Fault::Says(Saying::WrongToken), When::always());
    session.fails(&Sync::of(&fake, FIRST, LAST).sql());
    let sql = "SELECT string_agg(query, E'\\n') FROM pg_stat_statements";
    let all: String = one(&mut session.db, sql);
    assert!(all.contains("FROM matomo_sync($1, $2, $3"), "{all}");
    assert_absent("pg_stat_statements", token, &all);
}

/// The exceptions that docs/security.md names: if one of them goes, the page can promise more.
#[test]
fn what_postgres_logs_before_a_sync_begins_holds_the_statement() {
    let name = database_with_table();
    talkative().connect(&name).batch_execute("CREATE ROLE nobody LOGIN").unwrap();
    let cases: [(&str, &str, &str, &str, &str); 7] = [
        // An argument that is not valid for its type.
        ("1badliteral", "postgres", "", "'x', '{}', '2026-13-01'", "STATEMENT:  SELECT"),
        ("2noexecute", "nobody", "", "'x', '{}'", "STATEMENT:  SELECT"),
        ("3wrongarguments", "postgres", "", "'x', '{}', 1, 2, 3, 4, 5, 6", "STATEMENT:  SELECT"),
        (
            "4logstatement",
            "postgres",
            "SET log_statement = 'all'",
            "'x', '{}'",
            "statement: SELECT",
        ),
        (
            "5anylinesstatement",
            "postgres",
            "SET log_min_error_statement = 'debug5'",
            "'x', '{}'",
            "STATEMENT:  SELECT",
        ),
        (
            "6otherfailure",
            "postgres",
            "",
            "'x', '{}') s, LATERAL (SELECT 1 / 0) t WHERE (true",
            "STATEMENT:  SELECT",
        ),
        ("7syntax", "postgres", "", "'x', '{}') WHERE (", "STATEMENT:  SELECT"),
    ];
    for (case, user, set, arguments, line) in cases {
        let token = format!("{case}beforethesyncbegins{case}");
        let mut session = Session::of(user, &name);
        session.db.batch_execute(set).unwrap();
        let sql = format!("SELECT * FROM matomo_sync(1, {})", arguments.replace("{}", &token));
        session.fails(&sql);
        let log = session.log();
        let found = log.lines().any(|l| l.contains(line) && l.contains(&token));
        assert!(found, "{case}: no longer logged? {log}");
    }
}

/// Another exception: from Postgres 18 on, each lookup of a library is logged at debug3 with its
/// context. Our library is not loaded yet.
#[test]
fn postgres_18_tells_where_it_looks_for_the_function() {
    let token = "5c02e7b9lookupofthelibrary84d6a1f3";
    let fake = serve_with(token);
    let mut session = Session::new(&database_with_table());
    let since_18 = since(&mut session.db, 18);
    let sync = Sync::of(&fake, FIRST, LAST).sql();
    let call = format!("DO $do$ BEGIN PERFORM * FROM ({sync}) s; END $do$");
    session.db.batch_execute(&call).unwrap();
    let log = session.log();
    let found = log.lines().any(|l| l.contains("CONTEXT:  SQL statement") && l.contains(token));
    assert_eq!(found, since_18, "{log}");
    // Only once per session.
    let begin = talkative().log().len();
    session.db.batch_execute(&call).unwrap();
    assert_absent("the second call", token, &talkative().log()[begin..]);
}

/// More exceptions that docs/security.md names, for sessions that do not send one plain statement.
#[test]
fn other_ways_to_call_hold_the_statement() {
    let token = "d58f3a96otherwaystocallhold20c7b1e4";
    let fake = serve_with(token);
    let name = database_with_table();
    let mut db = talkative().connect(&name);
    let sql = Sync::of(&fake, FIRST, LAST).sql();

    // A literal in the extended protocol: parsing is a separate step and is logged as such.
    let log_begin = talkative().log().len();
    let statement = db.prepare(&sql).unwrap();
    assert!(talkative().log()[log_begin..].contains("DEBUG:  00000: parse s"));
    assert!(talkative().log()[log_begin..].contains(token));
    assert!(activity().contains(token));
    // Rows fetched in portions: each portion after the first shows the statement again.
    let mut transaction = db.transaction().unwrap();
    let portal = transaction.bind(&statement, &[]).unwrap();
    transaction.query_portal(&portal, 1).unwrap();
    assert!(!activity().contains(token));
    transaction.query_portal(&portal, 1).unwrap();
    assert!(activity().contains(token));
    transaction.rollback().unwrap();

    // pg_stat_statements replaces constants in queries, but not in DO and similar commands.
    db.batch_execute("CREATE EXTENSION pg_stat_statements").unwrap();
    db.batch_execute(&format!("DO $do$ BEGIN PERFORM * FROM ({sql}) s; END $do$")).unwrap();
    let held: bool = one(
        &mut db,
        &format!("SELECT EXISTS (SELECT FROM pg_stat_statements WHERE query LIKE 'DO %{token}%')"),
    );
    assert!(held);
}

#[test]
fn only_roles_that_were_allowed_may_sync() {
    let name = database_with_table();
    let mut owner = talkative().connect(&name);
    owner.batch_execute("CREATE ROLE stranger LOGIN; CREATE ROLE reader LOGIN").unwrap();
    let public: bool = one(
        &mut owner,
        "SELECT EXISTS (SELECT FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
         WHERE p.proname = 'matomo_sync' AND a.grantee = 0)",
    );
    assert!(!public, "PUBLIC may execute matomo_sync");
    let token = "e1a5f7b3roleswithoutexecute8c0d2946";
    let fake = serve_with(token);
    let sql = Sync::of(&fake, FIRST, LAST).sql();
    let error = Session::of("stranger", &name).fails(&sql);
    assert_eq!(error.code().code(), "42501");
    assert_eq!(error.message(), "permission denied for function matomo_sync");
    assert_absent("no EXECUTE", token, &format!("{error:?}"));
    // EXECUTE alone does not give access to the table.
    owner
        .batch_execute(
            "GRANT EXECUTE ON FUNCTION matomo_sync TO reader; GRANT SELECT ON matomo, matomo_visits, matomo_conversions, matomo_items TO reader",
        )
        .unwrap();
    let mut session = Session::of("reader", &name);
    let error = session.fails(&sql);
    assert_eq!(error.code().code(), "42501");
    assert_eq!(error.message(), "permission denied for table public.matomo");
    assert_eq!(error.detail(), Some("Privileges missing: INSERT, UPDATE, DELETE."));
    assert_eq!(error.hint(), Some("Ask the owner of public.matomo to GRANT them."));
    assert!(fake.requests().is_empty(), "nothing was asked");
    owner.batch_execute("GRANT INSERT, UPDATE, DELETE ON matomo, matomo_visits, matomo_conversions, matomo_items TO reader").unwrap();
    session.db.batch_execute(&sql).unwrap();
    assert_equal(&mut owner, "matomo", &oracle(&fake, FIRST, LAST));
}

/// A key is masked in later log lines of the session. A trigger of another role must not choose
/// which words are masked.
#[test]
fn a_key_of_a_trigger_masks_nothing_in_the_log_of_others() {
    let name = talkative().database();
    let mut session = Session::new(&name);
    let role = role(&mut session.db);
    run(
        &mut session.db,
        &format!(
            "GRANT EXECUTE ON FUNCTION matomo_sync TO {role};
             CREATE SCHEMA {role} AUTHORIZATION {role}; SET ROLE {role};
             SELECT matomo_create_table('{role}.mine');
             CREATE FUNCTION {role}.hide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM * FROM public.matomo_sync(1, 'http://127.0.0.1:1', 'everydayword', '{FIRST}', destination => '{role}.mine');
                 RETURN NULL;
             EXCEPTION WHEN OTHERS THEN
                 RAISE WARNING 'called: %', SQLSTATE; RETURN NULL;
             END $$;
             CREATE TRIGGER hide BEFORE DELETE ON {role}.mine EXECUTE FUNCTION {role}.hide();
             RESET ROLE; SET matomo.max_retries = 0;
             INSERT INTO matomo_ledger (matomo, idsite, destination, day, sealed, visits, actions, truncated_visits, timezone, read_at)
             VALUES ('https://a.org/index.php', 1, '{role}.mine', '{FIRST}', true, 0, 0, 0, 'UTC', now())"
        ),
    );
    run(&mut session.db, "SELECT * FROM matomo_forget('nobody')");
    let called = session.said.lock().unwrap().iter().any(|said| said.message() == "called: 08001");
    assert!(called, "{:?}", session.said.lock().unwrap());
    run(&mut session.db, "DO $$ BEGIN RAISE LOG 'an everydayword'; END $$");
    assert!(session.log().contains("LOG:  00000: an everydayword"));
}
