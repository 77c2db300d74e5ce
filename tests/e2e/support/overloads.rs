//! A user's functions like ours in the extension's schema, and calls of all of ours.

use fake_matomo::Fake;
use postgres::Client;

use crate::support::sites::*;
use crate::support::*;

/// Creates functions like ours with other argument types, or with fewer arguments where ours have
/// defaults; each raises an error. Returns their number.
pub fn overload(db: &mut Client) -> i64 {
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

/// Calls every function. Arguments have exactly our types, since another function may match others
/// better.
pub fn use_everything(db: &mut Client, fake: &Fake) {
    server(db, fake);
    let call = |text: &str| {
        format!(
            "SELECT * FROM matomo_{text}, server => 'analytics'::text, start_date => '2026-10-24'::date, end_date => '2026-10-26'::date, destination => "
        )
    };
    for table in ["matomo", "matomo_partitioned"] {
        run(db, &format!("{}'{table}'::text)", call("sync(site => 1")));
        run(db, &format!("UPDATE {table} SET city = 'Atlantis'"));
        run(
            db,
            &format!("{}'{table}'::text, repair => true, deep => true)", call("check(site => 1")),
        );
        assert_equal(db, table, &all_of(fake, 1));
    }
    run(
        db,
        "SELECT matomo_create_table(name => 'old'::text, partitioned => false, schema_name => 'public'::name, layout => 'node'::text);
         SELECT matomo_create_companions(destination => 'old'::regclass)",
    );
    let id: i32 = one(
        db,
        "SELECT matomo_add_site(server => 'analytics'::text, site => 2, start_date => '2026-10-24'::date,
             destination => 'matomo_partitioned'::text, every => '1 day'::interval, retention => '1 day'::interval)",
    );
    run(
        db,
        &format!(
            "SELECT matomo_alter_site(id => {id}, owner => 'postgres'::text, retention => '2 days'::interval)"
        ),
    );
    run(db, "CALL matomo_sync_all()");
    let errors = "SELECT concat_ws(' ', failures, last_error, upkeep_error) FROM matomo_status";
    assert_eq!(texts(db, errors), ["0"]);
    run(db, &format!("CALL matomo_sync_site({id})"));
    run(
        db,
        "CALL matomo_drop_before(destination => 'matomo_partitioned'::regclass, before => '2026-10-25'::timestamptz,
             site => 1, lock_timeout => '1 second'::interval, patience => '1 minute'::interval)",
    );
    run(
        db,
        "SELECT matomo_forget(visitorid => 'nobody'::text, userid => NULL::text, only_in => NULL::regclass, visitip => NULL::text);
         SELECT matomo_create_partitions(destination => 'matomo_partitioned'::regclass, from_time => now(), to_time => now());
         SELECT matomo_change_url(destination => 'matomo'::regclass, old_url => 'https://a.org'::text, new_url => 'https://b.org'::text)",
    );
    run(
        db,
        "SELECT matomo_refresh_metadata(site => 1, url => NULL::text, key => NULL::text, destination => 'matomo'::text, server => 'analytics'::text);
         SELECT matomo_create_named_views(destination => 'matomo'::regclass);
         SELECT matomo_list_sites(server => 'analytics'::text);
         SELECT matomo_add_sites(server => 'analytics'::text, start_date => '2026-10-24'::date, destination => 'matomo'::text,
             every => '1 day'::interval, retention => NULL::interval, enabled => false, new_sites => true);
         SELECT matomo_ignore_new_sites(server => 'analytics'::text)",
    );
    for view in [
        "matomo_sites",
        "matomo_runs",
        "matomo_status",
        "matomo_days",
        "matomo_goals",
        "matomo_dimensions",
        "matomo_site_details",
        "matomo_named",
        "matomo_progress",
    ] {
        run(db, &format!("SELECT * FROM {view}"));
    }
    run(db, &format!("SELECT matomo_remove_site(id => {id})"));
}

/// What the extension's objects depend on that belongs neither to the extension nor to Postgres.
pub fn strangers(db: &mut Client) -> Vec<String> {
    texts(
        db,
        "WITH RECURSIVE ours AS (
             SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
             WHERE d.refclassid = 'pg_extension'::regclass::oid AND d.deptype = 'e' AND e.extname = 'matomo_postgres'
             UNION
             SELECT d.classid, d.objid FROM ours o
             JOIN pg_depend d ON d.refclassid = o.classid AND d.refobjid = o.objid AND d.deptype IN ('i', 'a'))
         SELECT DISTINCT concat_ws(' on ', pg_describe_object(d.classid, d.objid, 0),
             pg_describe_object(d.refclassid, d.refobjid, 0))
         FROM pg_depend d JOIN ours o ON d.classid = o.classid AND d.objid = o.objid
         WHERE d.refobjid >= 16384::oid
           AND d.refclassid NOT IN ('pg_namespace'::regclass::oid, 'pg_extension'::regclass::oid)
           AND NOT EXISTS (SELECT FROM ours x WHERE x.classid = d.refclassid AND x.objid = d.refobjid)",
    )
}
