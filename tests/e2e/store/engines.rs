//! Tables that are not Postgres' own heap are written by plain SQL by key, with the same result.

use fake_matomo::Action;
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::engines::{course, create_citus, create_heap2, heap, heap2};
use crate::support::noon::{add_site, from};
use crate::support::*;

const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];

#[test]
fn a_table_of_an_unknown_access_method_gets_the_rows_and_counts_of_any_other() {
    for table in TABLES {
        let of_heap = course(&mut heap(), table);
        assert!(of_heap.inserted > 0 && of_heap.updated > 0 && of_heap.deleted > 0);
        assert_eq!(course(&mut heap2(), table), of_heap, "{table}");
    }
}

#[test]
fn its_rows_come_by_insert_and_those_of_a_heap_by_copy() {
    let noon = Noon::new();
    let fake = serve(noon.world(4));
    for (mut db, way) in [(heap(), "COPY matomo, line"), (heap2(), "INSERT INTO public.matomo")] {
        run(
            &mut db,
            "SELECT matomo_create_table('matomo'); CREATE TABLE way (context text);
             CREATE FUNCTION notes() RETURNS trigger LANGUAGE plpgsql AS
                 $$ DECLARE context text; BEGIN GET DIAGNOSTICS context = PG_CONTEXT; INSERT INTO way VALUES (context); RETURN NEW; END $$;
             CREATE TRIGGER notes BEFORE INSERT ON matomo FOR EACH ROW EXECUTE FUNCTION notes()",
        );
        sync(&mut db, &fake, &from(&noon, 3));
        let of_way = format!("SELECT bool_and(position('{way}' in context) > 0) FROM way");
        assert!(
            one::<bool>(&mut db, &of_way),
            "{}",
            one::<String>(&mut db, "SELECT min(context) FROM way")
        );
    }
}

/// The weeks of companions are made with those of the destination.
#[test]
fn rows_of_companions_come_by_insert_into_weeks_of_another_access_method() {
    let noon = Noon::new();
    let fake = serve(noon.world(4));
    let mut db = heap();
    run(
        &mut db,
        "SELECT matomo_create_table('matomo_partitioned', true); CREATE TABLE way (context text);
         CREATE FUNCTION notes() RETURNS trigger LANGUAGE plpgsql AS
             $$ DECLARE context text; BEGIN GET DIAGNOSTICS context = PG_CONTEXT; INSERT INTO way VALUES (context); RETURN NEW; END $$;
         CREATE TRIGGER notes BEFORE INSERT ON matomo_partitioned_visits FOR EACH ROW EXECUTE FUNCTION notes()",
    );
    if texts(&mut db, "SELECT amname::text FROM pg_am WHERE amname = 'heap2'").is_empty() {
        create_heap2(&mut db);
    }
    run(&mut db, "SET default_table_access_method = heap2");
    sync(&mut db, &fake, &format!("{}, destination => 'matomo_partitioned'", from(&noon, 3)));
    let ways = texts(&mut db, "SELECT DISTINCT left(context, 20) FROM way");
    assert!(!ways.is_empty() && ways.iter().all(|way| !way.starts_with("COPY")), "{ways:?}");
    assert_tables_equal(&mut db, "matomo_partitioned", &all_tables_of(&fake, 1));
}

#[test]
fn only_rows_that_differ_are_written() {
    let noon = Noon::new();
    for table in TABLES {
        let fake = serve(noon.world(4));
        let mut db = heap2();
        let into = format!("{}, destination => '{table}', force => true", from(&noon, 3));
        sync(&mut db, &fake, &into);
        let rows = "action_id NOT IN ('1012_2', '1022_1')";
        let others = fingerprint(&mut db, &format!("{table} WHERE {rows}"));
        fake.world().site_mut(1).visit_mut(1012).actions.truncate(2);
        run(&mut db, &format!("UPDATE {table} SET country = 'x' WHERE action_id = '1022_1'"));
        let sums = sync(&mut db, &fake, &into);
        assert_eq!((sums.inserted, sums.updated, sums.deleted), (0, 1, 1));
        assert_eq!(fingerprint(&mut db, &format!("{table} WHERE {rows}")), others);
        assert_tables_equal(&mut db, table, &all_tables_of(&fake, 1));
    }
}

/// Of several arrays, unnest is syntax; of one, it is a function.
#[test]
fn rows_with_a_key_of_one_column_are_deleted_without_the_unnest_of_the_callers_path() {
    let noon = Noon::new();
    let fake = serve(noon.world(4));
    let mut db = heap2();
    run(
        &mut db,
        "SELECT matomo_create_table('matomo');
         ALTER TABLE matomo DROP CONSTRAINT matomo_pkey, ADD PRIMARY KEY (action_id);
         CREATE SCHEMA theirs; CREATE FUNCTION theirs.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql
             AS 'BEGIN RAISE ''theirs is called''; END';
         SET search_path = theirs, public",
    );
    let into = format!("{}, force => true", from(&noon, 3));
    sync(&mut db, &fake, &into);
    fake.world().site_mut(1).visit_mut(1012).actions.truncate(2);
    let sums = sync(&mut db, &fake, &into);
    assert_eq!((sums.inserted, sums.updated, sums.deleted), (0, 0, 1));
    assert_tables_equal(&mut db, "matomo", &all_tables_of(&fake, 1));
}

#[test]
fn partitions_of_another_kind_than_the_others_are_written_too() {
    let noon = Noon::new();
    let fake = serve(noon.world(20));
    let mut db = heap2();
    run(
        &mut db,
        "SELECT matomo_create_table('visits', true); SET default_table_access_method = heap",
    );
    let into = |ago| format!("{}, destination => 'visits', force => true", from(&noon, ago));
    // The first weeks are heap, the later ones are made halfway through the next sync.
    sync(
        &mut db,
        &fake,
        &format!(", '{}', '{}', destination => 'visits'", noon.text(19), noon.text(12)),
    );
    run(&mut db, "SET default_table_access_method = heap2");
    sync(&mut db, &fake, &into(19));
    let kinds = "SELECT DISTINCT a.amname::text FROM pg_partition_tree('visits') t JOIN pg_class c ON c.oid = t.relid \
                 JOIN pg_am a ON a.oid = c.relam WHERE t.isleaf ORDER BY 1";
    assert_eq!(texts(&mut db, kinds), ["heap", "heap2"]);
    for ago in [3, 13] {
        fake.world().site_mut(1).visit_mut(1001 + 10 * ago).actions.truncate(2);
    }
    sync(&mut db, &fake, &into(19));
    assert_tables_equal(&mut db, "visits", &all_tables_of(&fake, 1));
}

#[test]
fn rows_that_a_trigger_refuses_to_delete_stay_and_the_sync_continues() {
    let noon = Noon::new();
    for table in TABLES {
        let fake = serve(noon.world(2));
        let mut db = heap2();
        let into = format!("{}, destination => '{table}', force => true", from(&noon, 1));
        sync(&mut db, &fake, &into);
        run(
            &mut db,
            &format!(
                "CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                 CREATE TRIGGER keeps BEFORE DELETE ON {table} FOR EACH ROW
                     WHEN (OLD.action_id LIKE '%\\_2') EXECUTE FUNCTION keeps()"
            ),
        );
        fake.world().site_mut(1).visit_mut(1012).actions.truncate(2);
        let more = Action::page(noon.at(1, "09:00:50"), "https://noon.test/more", "More");
        fake.world().site_mut(1).visit_mut(1011).actions.push(more);
        sync(&mut db, &fake, &into);
        let kept = format!("SELECT action_id FROM {table} WHERE idvisit = 1012 ORDER BY 1");
        assert_eq!(texts(&mut db, &kept), ["1012_0", "1012_1", "1012_2"]);
        let of_1011 = format!("SELECT count(*) FROM {table} WHERE idvisit = 1011");
        assert_eq!(one::<i64>(&mut db, &of_1011), 4);
    }
}

#[test]
fn stored_rows_with_a_null_in_their_key_are_replaced_as_in_a_heap() {
    for mut db in [heap(), heap2()] {
        let noon = Noon::new();
        let fake = serve(noon.world(2));
        run(
            &mut db,
            "CREATE TABLE visits (LIKE matomo_action); CREATE UNIQUE INDEX ON visits (idvisit, action_id);
             SELECT matomo_create_companions('visits')",
        );
        run(&mut db, "ALTER TABLE visits ALTER action_id DROP NOT NULL");
        let into = format!("{}, destination => 'visits', force => true", from(&noon, 1));
        sync(&mut db, &fake, &into);
        run(
            &mut db,
            "UPDATE visits SET action_id = NULL WHERE action_id IN ('1011_1', '1011_2', '1012_0')",
        );
        let sums = sync(&mut db, &fake, &into);
        assert_eq!((sums.inserted, sums.updated, sums.deleted), (3, 0, 3));
        assert_tables_equal(&mut db, "visits", &all_tables_of(&fake, 1));
        assert_eq!(sync(&mut db, &fake, &into).written(), 0);
    }
}

#[test]
fn two_sites_write_one_table_at_once_without_waiting_for_each_other() {
    for table in TABLES {
        let noon = Noon::new();
        let fake = serve(noon.world(4));
        add_site(&fake, &noon, 2, 5000, 4);
        let mut db = heap2();
        run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
        let into = format!("{}, destination => '{table}', force => true", from(&noon, 3));
        for site in [1, 2] {
            sync_site(&mut db, &fake, site, &into);
        }
        let name: String = one(&mut db, "SELECT current_database()::text");
        let mut other = shared().connect(&name);
        for db in [&mut db, &mut other] {
            run(db, "SET lock_timeout = '5s'; BEGIN");
        }
        // Each has row locks of before when the other writes.
        for actions in [2, 1] {
            for (db, site, visits) in
                [(&mut db, 1, [1011, 1021, 1022]), (&mut other, 2, [5000, 5001, 5002])]
            {
                for visit in visits {
                    fake.world().site_mut(site).visit_mut(visit).actions.truncate(actions);
                }
                let sums = sync_site(db, &fake, site, &into);
                assert!(sums.deleted > 0, "{sums:?}");
            }
        }
        for db in [&mut db, &mut other] {
            run(db, "COMMIT");
        }
        for site in [1, 2] {
            let rows = format!("SELECT count(*) FROM {table} WHERE idsite = {site}");
            let of_site = all_of(&fake, site).len();
            assert_eq!(one::<i64>(&mut db, &rows), i64::try_from(of_site).unwrap());
        }
    }
}

#[test]
fn a_session_that_forces_generic_plans_or_has_another_search_path_changes_nothing() {
    let mut db = heap2();
    run(
        &mut db,
        "SET plan_cache_mode = force_generic_plan;
         CREATE SCHEMA odd; CREATE FUNCTION odd.never(anyelement, anyelement) RETURNS boolean LANGUAGE sql AS 'SELECT false';
         CREATE OPERATOR odd.= (FUNCTION = odd.never, LEFTARG = anyelement, RIGHTARG = anyelement);
         SET search_path = odd, public, pg_catalog",
    );
    course_in_odd_session(&mut db);
}

fn course_in_odd_session(db: &mut Client) {
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    run(db, "SELECT public.matomo_create_table('public.visits', true)");
    let into = format!("{}, destination => 'public.visits', force => true", from(&noon, 1));
    let sums = sync(db, &fake, &into);
    assert_eq!(sums.inserted, 18);
    fake.world().site_mut(1).visit_mut(1012).actions.truncate(2);
    let sums = sync(db, &fake, &into);
    assert_eq!((sums.inserted, sums.updated, sums.deleted), (0, 0, 1));
    assert_eq!(sync(db, &fake, &into).written(), 0);
    run(db, "RESET search_path; RESET plan_cache_mode");
    assert_tables_equal(db, "visits", &all_tables_of(&fake, 1));
}

/// What Citus says of roles, raised by triggers of a table that it is made to know.
#[test]
fn errors_of_citus_say_what_to_check_or_to_repeat() {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let mut db = heap();
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    run(&mut db, "SELECT matomo_create_table('matomo', true)");
    create_citus(&mut db);
    sync(&mut db, &fake, &from(&noon, 7));
    let visitor: String = one(&mut db, "SELECT min(visitorid) FROM matomo");
    fake.world().site_mut(1).visit_mut(1012).actions.truncate(2);
    let again = sync_sql(&fake, 1, &format!("{}, force => true", from(&noon, 7)));
    let login = "may log in and write where Citus keeps rows of public.matomo; see docs/scale.md";
    for (state, hint) in
        [("28000", login), ("25001", "Repeat the call in a transaction of its own.")]
    {
        run(
            &mut db,
            &format!(
                "CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS
                     $$ BEGIN RAISE 'no such role there' USING ERRCODE = '{state}'; END $$;
                 CREATE FUNCTION refuses_tables() RETURNS event_trigger LANGUAGE plpgsql AS
                     $$ BEGIN RAISE 'no such role there' USING ERRCODE = '{state}'; END $$;
                 CREATE TRIGGER refuses BEFORE DELETE ON matomo FOR EACH ROW EXECUTE FUNCTION refuses();
                 CREATE EVENT TRIGGER refuses_tables ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
                     EXECUTE FUNCTION refuses_tables()"
            ),
        );
        for call in [
            &again,
            &format!("SELECT matomo_forget('{visitor}')"),
            // Between two visits of a day, so that a row goes whichever week begins that day.
            &format!("CALL matomo_drop_before('matomo', to_timestamp({}))", noon.at(6, "08:30:00")),
            "SELECT matomo_create_partitions('matomo', '2020-01-01', '2020-01-02')",
        ] {
            let refused = error(&mut db, call);
            assert_says(&refused, state, "no such role there", &[], hint);
        }
        run(
            &mut db,
            "DROP EVENT TRIGGER refuses_tables; DROP TRIGGER refuses ON matomo;
             DROP FUNCTION refuses, refuses_tables",
        );
    }
}
