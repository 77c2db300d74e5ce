//! Code of one owner, which the worker runs, and another owner's run that goes on meanwhile.

use crate::support::sites::many::{START, sites};
use crate::support::worker::{cluster_with_worker, process_of, register, runs, store, wait_long};
use crate::support::*;

/// A trigger that calls every function of the extension that it may execute about another's site, run
/// and table, and tries to write every table and view of it.
const FORGERY: &str = r#"
    CREATE TABLE tried (what text, came text);
    CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS $t$
    DECLARE
        what text;
    BEGIN
        IF EXISTS (SELECT FROM tried) THEN
            RETURN NULL;
        END IF;
        FOR what IN
            WITH member AS (
                SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                WHERE d.deptype = 'e' AND e.extname = 'matomo_postgres'
            )
            SELECT format(CASE p.prokind WHEN 'p' THEN 'CALL %s(%s)' ELSE 'SELECT %s(%s)' END, p.oid::regproc,
                (SELECT string_agg(format('%L::%s', CASE t.type::regtype::text
                        WHEN 'integer' THEN '$site' WHEN 'bigint' THEN '$run' WHEN 'regclass' THEN '$owner.visits'
                        WHEN 'oid' THEN '$owner'::regrole::oid::text WHEN 'boolean' THEN 'true' WHEN 'jsonb' THEN '{}'
                        WHEN 'text[]' THEN '{$owner,visits,$owner}' WHEN 'interval' THEN '1 second'
                        WHEN 'date' THEN '2026-10-19' WHEN 'timestamp with time zone' THEN '2026-10-25'
                        ELSE 'analytics' END, t.type::regtype), ', ' ORDER BY t.n)
                 FROM unnest(p.proargtypes) WITH ORDINALITY AS t(type, n)))
            FROM member m JOIN pg_proc p ON p.oid = m.objid AND m.classid = 'pg_proc'::regclass
            WHERE has_function_privilege(p.oid, 'EXECUTE')
            UNION ALL
            SELECT format(way, c.oid::regclass, quote_ident(a.attname))
            FROM member m JOIN pg_class c ON c.oid = m.objid AND m.classid = 'pg_class'::regclass AND c.relkind IN ('r', 'v')
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 1
            CROSS JOIN unnest(ARRAY['UPDATE %1$s SET %2$s = %2$s', 'DELETE FROM %1$s', 'TRUNCATE %1$s',
                'INSERT INTO %1$s DEFAULT VALUES', 'LOCK TABLE %1$s']) AS way
            UNION ALL
            SELECT unnest(ARRAY['SELECT pg_terminate_backend($pid)', 'SELECT pg_cancel_backend($pid)',
                'SET ROLE $owner', 'SELECT pg_advisory_unlock_all()',
                'SET application_name = ''matomo worker: site $site'''])
        LOOP
            BEGIN
                EXECUTE what;
                INSERT INTO tried VALUES (what, 'done');
            EXCEPTION WHEN OTHERS THEN
                INSERT INTO tried VALUES (what, SQLSTATE);
            END;
        END LOOP;
        RETURN NULL;
    END $t$;
    CREATE TRIGGER forge AFTER INSERT ON visits FOR EACH STATEMENT EXECUTE FUNCTION forge()"#;

#[test]
fn a_trigger_of_one_owner_neither_ends_nor_forges_the_run_of_another() {
    let (cluster, mut db) = cluster_with_worker();
    // Of one Matomo, the worker would start one run only.
    let (fake, other) = (serve(sites(434, 2)), serve(sites(435, 1)));
    let [forger, owner] = [role(&mut db), role(&mut db)];
    let [mut theirs, mut own] = [&forger, &owner].map(|role| {
        server_for(&mut db, &fake, role);
        let mut client = cluster.connect_as("postgres", role);
        run(
            &mut client,
            &format!("SET search_path = {role}, public; SELECT matomo_create_table('visits')"),
        );
        client
    });
    store(&mut db, "forgers", &other);
    run(
        &mut db,
        &format!(
            "GRANT USAGE ON SCHEMA {owner} TO {forger}; GRANT USAGE ON FOREIGN SERVER forgers TO {forger};
             CREATE USER MAPPING FOR {forger} SERVER forgers OPTIONS (token '{}')",
            other.token()
        ),
    );
    // The owner's run stands still.
    run(
        &mut own,
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             WHILE NOT pg_try_advisory_xact_lock_shared(4711) LOOP PERFORM pg_sleep(0.02); END LOOP;
             RETURN NULL;
         END $$;
         CREATE TRIGGER hold AFTER INSERT ON visits FOR EACH STATEMENT EXECUTE FUNCTION hold()",
    );
    run(&mut db, "SELECT pg_advisory_lock(4711)");
    let site = register(&mut own, &format!("'analytics', 2, destination => 'visits'{START}"));
    let stands = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')";
    wait_until("it stands still", || one(&mut db, stands));
    let process = process_of(&mut db, site).unwrap();
    let of_run = "SELECT runid FROM matomo_run_log WHERE status = 'running'";
    let its: i64 = one(&mut db, of_run);
    let of_owner = format!(
        "SELECT concat_ws(' ', (SELECT string_agg(r::text, ' ') FROM matomo_run_log r WHERE site_id = {site}),
             (SELECT t::text FROM matomo_site_state t WHERE site_id = {site}),
             (SELECT s::text FROM matomo_site_config s WHERE id = {site}), matomo_run_is_dead({its}))"
    );
    let before: String = one(&mut db, &of_owner);
    let forgery =
        [("$site", site.to_string()), ("$run", its.to_string()), ("$pid", process.to_string())]
            .iter()
            .fold(FORGERY.replace("$owner", &owner), |sql, (name, value)| sql.replace(name, value));
    run(&mut theirs, &forgery);
    let forgers = register(&mut theirs, &format!("'forgers', 1, destination => 'visits'{START}"));
    wait_long(60, "the forger's run has ended", || runs(&mut db, forgers, "succeeded") > 0);
    let tried = texts(&mut theirs, "SELECT concat_ws(' ', came, what) FROM tried");
    for what in [
        "matomo_remove_site",
        "matomo_run_is_dead",
        "UPDATE matomo_run_log",
        "DELETE FROM matomo_site_state",
    ] {
        assert!(tried.iter().any(|line| line.contains(what)), "{what} was not tried: {tried:#?}");
    }
    assert_eq!(one::<String>(&mut db, &of_owner), before, "{tried:#?}");
    assert_eq!(process_of(&mut db, site), Some(process));
    run(&mut db, "SELECT pg_advisory_unlock(4711)");
    wait_long(60, "the owner's run has ended", || runs(&mut db, site, "succeeded") > 0);
    let ended = "SELECT concat_ws('|', runid, owner, sqlstate, return_message) FROM matomo_runs WHERE site_id =";
    assert_eq!(texts(&mut own, &format!("{ended} {site}")), [format!("{its}|{owner}")]);
    let state = format!(
        "SELECT concat_ws('|', failures, last_sqlstate, last_error) FROM matomo_status WHERE site_id = {site}"
    );
    assert_eq!(texts(&mut own, &state), ["0"]);
    assert_equal(&mut own, "visits", &all_of(&fake, 2));
}
