//! A user's functions in the extension's schema are never called instead of ours.

use crate::support::sites::*;
use crate::support::*;

/// Makes functions like ours with other types of arguments, or with fewer where ours have defaults;
/// each raises. Gives their number.
fn overload(db: &mut postgres::Client) -> i64 {
    run(
        db,
        "CREATE TABLE overloads (name text);
         CREATE FUNCTION overload() RETURNS void LANGUAGE plpgsql AS $do$
         DECLARE
             ours record; type text; others text[]; kinds text[]; count integer; result text; declared text;
         BEGIN
             FOR ours IN SELECT p.oid, p.proname, p.pronargs, p.pronargdefaults, p.prokind, p.proretset, p.prorettype,
                             ARRAY(SELECT t::regtype::text FROM unnest(p.proargtypes) t) AS types
                         FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
                         JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'matomo_postgres'
                         WHERE p.pronargs > 0
             LOOP
                 -- With fewer arguments, and with one of another type each time.
                 FOR count IN ours.pronargs - ours.pronargdefaults .. ours.pronargs LOOP
                     CONTINUE WHEN count = 0;
                     FOR place IN 0 .. count LOOP
                         others := CASE WHEN place = 0 THEN ARRAY[''] ELSE CASE ours.types[place]
                             WHEN 'regclass' THEN '{oid,text,bigint}' WHEN 'oid' THEN '{regclass,regrole,bigint}'
                             WHEN 'integer' THEN '{bigint,smallint,numeric}' WHEN 'bigint' THEN '{integer,numeric}'
                             WHEN 'interval' THEN '{text}' WHEN 'text' THEN '{varchar,name}' WHEN 'name' THEN '{text}'
                             WHEN 'jsonb' THEN '{text,json}' WHEN 'timestamp with time zone' THEN '{timestamp,text,date}'
                             WHEN 'boolean' THEN '{text,integer}' ELSE '{text}' END::text[] END;
                         FOREACH type IN ARRAY others LOOP
                             kinds := ours.types[1:count];
                             IF place > 0 THEN kinds[place] := type; ELSE CONTINUE WHEN count = ours.pronargs; END IF;
                             CONTINUE WHEN to_regprocedure(format('%I(%s)', ours.proname, array_to_string(kinds, ','))) IS NOT NULL;
                             EXECUTE format('CREATE %s %I(%s) %s LANGUAGE plpgsql AS %L',
                                 CASE ours.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
                                 ours.proname, array_to_string(kinds, ', '),
                                 CASE WHEN ours.prokind = 'f' THEN 'RETURNS ' || CASE WHEN ours.proretset THEN 'SETOF ' ELSE '' END
                                     || CASE WHEN ours.prorettype = 'record'::regtype THEN 'record' ELSE format_type(ours.prorettype, NULL) END
                                 ELSE '' END,
                                 format('BEGIN RAISE EXCEPTION %L; END', 'fell for ' || ours.proname || '(' || array_to_string(kinds, ', ') || ')'));
                             INSERT INTO overloads VALUES (ours.proname);
                         END LOOP;
                     END LOOP;
                 END LOOP;
             END LOOP;
         END $do$;
         SELECT overload()",
    );
    one(db, "SELECT count(*) FROM overloads")
}

#[test]
fn no_call_of_ours_is_one_of_anothers() {
    let fake = serve_two();
    let mut db = database();
    server(&mut db, &fake);
    let call = |text: &str| {
        format!(
            "SELECT * FROM matomo_{text}, server => 'analytics'::text, start_date => '2026-10-24'::date, end_date => '2026-10-26'::date, destination => "
        )
    };
    assert!(overload(&mut db) > 100);
    for table in ["matomo", "matomo_partitioned"] {
        // Named arguments of ours alone.
        run(&mut db, &format!("{}'{table}'::text)", call("sync(site => 1")));
        run(&mut db, &format!("UPDATE {table} SET city = 'Atlantis'"));
        run(
            &mut db,
            &format!("{}'{table}'::text, repair => true, deep => true)", call("check(site => 1")),
        );
        assert_equal(&mut db, table, &all_of(&fake, 1));
    }
    let id: i32 = one(
        &mut db,
        "SELECT matomo_add_site(server => 'analytics'::text, site => 2, start_date => '2026-10-24'::date,
             destination => 'matomo_partitioned'::text, every => '1 day'::interval, retention => '1 day'::interval)",
    );
    run(&mut db, "CALL matomo_sync_all()");
    let errors = "SELECT concat_ws(' ', failures, last_error, upkeep_error) FROM matomo_status";
    assert_eq!(texts(&mut db, errors), ["0"]);
    run(&mut db, &format!("CALL matomo_sync_site({id})"));
    run(
        &mut db,
        "CALL matomo_drop_before(destination => 'matomo_partitioned'::regclass, before => '2026-10-25'::timestamptz,
             site => 1, lock_timeout => '1 second'::interval, patience => '1 minute'::interval)",
    );
    run(
        &mut db,
        "SELECT matomo_forget(visitorid => 'nobody'::text, userid => NULL::text, only_in => NULL::regclass);
         SELECT matomo_create_partitions(destination => 'matomo_partitioned'::regclass, from_time => now(), to_time => now())",
    );
    for view in ["matomo_sites", "matomo_runs", "matomo_status", "matomo_days", "matomo_progress"] {
        run(&mut db, &format!("SELECT * FROM {view}"));
    }
}

/// Whoever may create in the schema may have been there before the extension.
#[test]
fn functions_that_were_there_before_the_extension_are_not_in_its_views() {
    let mut db = database();
    overload(&mut db);
    run(&mut db, "DROP EXTENSION matomo_postgres; CREATE EXTENSION matomo_postgres");
    let strangers = texts(
        &mut db,
        "SELECT DISTINCT pg_describe_object(d.refclassid, d.refobjid, 0) FROM pg_depend d
         JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
         JOIN pg_class c ON c.oid = r.ev_class AND c.relname LIKE 'matomo%'
         WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid NOT IN (
             SELECT objid FROM pg_depend WHERE classid = 'pg_proc'::regclass AND deptype = 'e')
           AND d.refobjid >= 16384",
    );
    assert_eq!(strangers, [""; 0]);
}
