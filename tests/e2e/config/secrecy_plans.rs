//! The secrecy of the token in plans that auto_explain logs, in each of its formats, and in
//! parameters.

use postgres::types::Type;

use crate::support::secrecy::*;
use crate::support::*;

const FORMATS: [&str; 4] = ["text", "json", "yaml", "xml"];
/// All that auto_explain accepts.
const LEVELS: [&str; 9] =
    ["debug5", "debug4", "debug3", "debug2", "debug1", "info", "notice", "warning", "log"];

/// Each format at every other level, so that each level has two formats.
fn formats_at_levels() -> impl Iterator<Item = (&'static str, &'static str)> {
    FORMATS.iter().enumerate().flat_map(|(n, format)| {
        LEVELS.iter().skip(n % 2).step_by(2).map(move |level| (*format, *level))
    })
}

/// A session that logs every statement's plan in full.
fn explained(name: &str, format: &str, level: &str) -> Session {
    let mut session = Session::with_function(name);
    // Parameters are logged from Postgres 16 on.
    let parameters = "DO $$ BEGIN
        IF current_setting('server_version_num')::int >= 160000 THEN
            PERFORM set_config('auto_explain.log_parameter_max_length', '-1', false);
        END IF; END $$";
    session
        .db
        .batch_execute(&format!(
            "LOAD 'auto_explain'; {parameters}; SET log_parameter_max_length = -1;
             SET auto_explain.log_format = '{format}'; SET auto_explain.log_level = '{level}';
             SET auto_explain.log_verbose = on; SET auto_explain.log_nested_statements = on;
             SET auto_explain.log_analyze = on; SET auto_explain.log_triggers = on;
             SET log_min_duration_statement = 0; SET auto_explain.log_min_duration = 0"
        ))
        .unwrap();
    session
}

/// Functions that run a sync in their own statement.
fn database_with_callers(sync: &str, token: &str) -> String {
    let name = database_with_table();
    let dynamic = sync.replace(&format!("'{token}'"), "%L");
    let given = sync.replace(&format!("'{token}'"), "key");
    let sql = format!(
        "CREATE FUNCTION sync_built(key text) RETURNS bigint LANGUAGE plpgsql AS
         $f$ DECLARE n bigint; BEGIN
             EXECUTE format($$SELECT sum(visits) FROM ({dynamic}) s$$, key) INTO n; RETURN n;
         END $f$;
         CREATE FUNCTION sync_given(key text) RETURNS bigint LANGUAGE plpgsql AS
         $f$ DECLARE n bigint; BEGIN SELECT sum(visits) FROM ({given}) s INTO n; RETURN n; END $f$"
    );
    talkative().connect(&name).batch_execute(&sql).unwrap();
    name
}

#[test]
fn plans_in_any_format_at_any_level_do_not_tell_the_token() {
    let token = "b71d0e5cplansofeveryformat93a6f4e2";
    let fake = serve_with(token);
    let sync = Sync::of(&fake, FIRST, LAST).sql();
    let name = database_with_callers(&sync, token);
    // A key that is whole in the plan but in no statement.
    let (half, other) = token.split_at(token.len() / 2);
    let halves = sync.replace(token, &format!("{half}' || '{other}"));
    for (format, level) in formats_at_levels() {
        let mut session = explained(&name, format, level);
        for call in [
            sync.clone(),
            format!("SELECT \"day\", 'a ''quoted'' & <tagged>\ntext' FROM ({sync}) AS \"s\""),
            halves.clone(),
            format!("SELECT sync_built('{token}')"),
            format!("SELECT sync_given('{token}')"),
            format!("DO $do$ BEGIN PERFORM * FROM ({sync}) s; END $do$"),
            format!("DO $do$ BEGIN PERFORM * FROM ({halves}) s; END $do$"),
        ] {
            let what = format!("{format} at {level}: {call}");
            let log_begin = talkative().log().len();
            session.db.batch_execute(&call).unwrap();
            let log = &talkative().log()[log_begin..];
            assert!(log.contains(" ms  plan:"), "{what}: no plan in {log}");
            session.assert_kept(&what, token);
        }
    }
}

#[test]
fn parameters_of_logged_statements_do_not_tell_the_token() {
    let token = "4fa2c86eparametersarelogged0d7b15e9";
    let fake = serve_with(token);
    let sync = Sync::of(&fake, FIRST, LAST).sql();
    let name = database_with_callers(&sync, token);
    let (half, other) = token.split_at(token.len() / 2);
    let with_parameter = sync.replace(&format!("'{token}'"), "$1");
    let halves = sync.replace(&format!("'{token}'"), "$1 || $2");
    for (format, level) in formats_at_levels() {
        let mut session = explained(&name, format, level);
        let prepare = format!("PREPARE by_key (text) AS {with_parameter}");
        session.db.batch_execute(&prepare).unwrap();
        session.db.batch_execute(&format!("EXECUTE by_key('{token}')")).unwrap();
        session.assert_kept(&format!("EXECUTE, {format} at {level}"), token);
        // In the extended protocol within a transaction, a plan is logged only when the next
        // statement starts.
        let db = &mut session.db;
        db.query_typed(&with_parameter, &[(&token, Type::TEXT)]).unwrap();
        let mut block = db.transaction().unwrap();
        block.query_typed(&with_parameter, &[(&token, Type::TEXT)]).unwrap();
        block.query_typed("SELECT 1", &[]).unwrap();
        block.query_typed(&halves, &[(&half, Type::TEXT), (&other, Type::TEXT)]).unwrap();
        block.query_typed("SELECT 2", &[]).unwrap();
        block.commit().unwrap();
        assert!(session.log().contains(" ms  plan:"));
        session.assert_kept(&format!("parameters, {format} at {level}"), token);
        let shouted = with_parameter.replace("matomo_sync", "MATOMO_SYNC");
        let mut session = explained(&name, format, level);
        session.db.query(&shouted, &[&token]).unwrap();
        session.assert_kept(&format!("upper case, {format} at {level}"), token);
    }
}
