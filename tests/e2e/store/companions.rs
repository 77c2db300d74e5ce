//! Other activity on a destination during syncs: sessions that change rows, publications,
//! policies.

use std::thread;

use fake_matomo::{Action, Fake};
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::noon::{add_site, from, noon};
use crate::support::report::{all_there, every_row, proven};
use crate::support::*;

const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];

/// Noon's world, with two days in a table that has a column of the user's.
fn flagged(table: &str) -> (Noon, Fake, String, Client) {
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    let (name, mut db) = named_database();
    run(
        &mut db,
        &format!(
            "LOAD 'matomo_postgres'; SET matomo.settle_time = 0; SET matomo.destination = {table}"
        ),
    );
    sync(&mut db, &fake, &from(&noon, 1));
    run(&mut db, &format!("ALTER TABLE {table} ADD flag boolean"));
    (noon, fake, name, db)
}

#[test]
fn rows_that_another_session_changes_meanwhile_are_made_right_all_the_same() {
    let mut seen = Vec::new();
    for table in TABLES {
        let (noon, fake, name, mut db) = flagged(table);
        {
            let mut world = fake.world();
            let site = world.site_mut(1);
            // One visit has a changed row, one has fewer rows, one has more.
            site.visit_mut(1011).actions[0].page_title = Some("Another".to_owned());
            site.visit_mut(1012).actions.pop();
            let at = noon.at(1, "10:02:00");
            site.visit_mut(1013).push(Action::page(at, "https://noon.test/", "More"));
        }
        let (mut other, mut watch) = (shared().connect(&name), shared().connect(&name));
        let flag = |text: &str| {
            format!("UPDATE {table} SET flag = {text} WHERE idvisit IN ('1011', '1012', '1013')")
        };
        run(&mut other, &format!("BEGIN; {}", flag("true")));
        let process = pid(&mut db);
        let force = format!("{}, force => true", from(&noon, 1));
        let sums = thread::scope(|scope| {
            let call = scope.spawn(|| sync(&mut db, &fake, &force));
            wait_until("it waits for the other", || waits(&mut watch, process));
            run(&mut other, "COMMIT");
            call.join().unwrap()
        });
        seen.push(all_there(&mut db, table, &all_of(&fake, 1)));
        assert_eq!((sums.inserted, sums.deleted), (1, 1), "{table}");
        assert!(sums.updated > 0, "{table}");
        let flags = format!("SELECT count(*) FROM {table} WHERE flag");
        assert_eq!(
            one::<i64>(&mut db, &flags),
            8,
            "{table}: the column of the user keeps its values"
        );
    }
    proven(
        "Crash",
        "another session changes the same rows",
        "an UPDATE of a column of the user's own, not yet committed when the sync has compared the rows; \
         plain table, weekly partitions",
        "the sync waits for it, and compares again: no stale row, and the column of the user keeps its values",
        &seen.join("; "),
    );
}

#[test]
fn rows_that_a_trigger_keeps_as_they_are_stop_nothing() {
    for table in TABLES {
        let (noon, fake, _, mut db) = flagged(table);
        run(
            &mut db,
            &format!(
                "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
                 CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION keep()"
            ),
        );
        let rows =
            format!("SELECT md5(string_agg(t::text, ',' ORDER BY action_id)) FROM {table} t");
        let before: String = one(&mut db, &rows);
        fake.world().site_mut(1).visit_mut(1011).actions[0].page_title = Some("Another".to_owned());
        fake.world().site_mut(1).visit_mut(1012).actions.pop();
        let sums = sync(&mut db, &fake, &format!("{}, force => true", from(&noon, 1)));
        assert_eq!(sums.written(), 0, "{table}");
        assert_eq!(one::<String>(&mut db, &rows), before);
    }
}

#[test]
fn a_publication_of_all_tables_stops_no_sync() {
    let mut seen = Vec::new();
    for table in TABLES {
        let (noon, fake, _, mut db) = flagged(table);
        run(
            &mut db,
            "SET client_min_messages = error; CREATE PUBLICATION everything FOR ALL TABLES",
        );
        let at = noon.at(0, "10:05:00");
        fake.world().site_mut(1).visit_mut(1003).push(Action::page(
            at,
            "https://noon.test/",
            "More",
        ));
        fake.world().site_mut(1).visit_mut(1011).actions[0].page_title = Some("Another".to_owned());
        fake.world().site_mut(1).visit_mut(1012).actions.pop();
        crate::support::sites::server(&mut db, &fake);
        crate::support::sites::add_site(
            &mut db,
            &format!(", start_date => '{}', destination => '{table}'", noon.text(1)),
        );
        let sums = sync(&mut db, &fake, &format!("{}, force => true", from(&noon, 1)));
        assert!(sums.updated > 0 && sums.deleted > 0 && sums.inserted > 0, "{sums:?}");
        run(&mut db, "CALL matomo_sync_all()");
        let failed = "SELECT count(*) FROM matomo_runs WHERE status <> 'succeeded'";
        assert_eq!(one::<i64>(&mut db, failed), 0);
        seen.push(all_there(&mut db, table, &all_of(&fake, 1)));
    }
    proven(
        "Crash",
        "a publication of all tables",
        "`CREATE PUBLICATION … FOR ALL TABLES`, then visits that grow, change and shrink; plain table, weekly partitions",
        "syncs and runs of a registered site go on: all tables have a replica identity",
        &seen.join("; "),
    );
}

/// A policy shows each role the rows of its own site.
#[test]
fn a_role_that_sees_no_rows_does_not_take_the_table_for_empty() {
    let (noon, fake, mut admin) = noon(4);
    add_site(&fake, &noon, 2, 9000, 0);
    let name: String = one(&mut admin, "SELECT current_database()::text");
    run(
        &mut admin,
        "SELECT matomo_create_table('matomo'); ALTER TABLE matomo ENABLE ROW LEVEL SECURITY",
    );
    let mut roles = Vec::new();
    for site in 1..=2 {
        let role = role(&mut admin);
        run(
            &mut admin,
            &format!(
                "GRANT EXECUTE ON FUNCTION matomo_sync TO {role};
                 GRANT SELECT, INSERT, UPDATE, DELETE ON matomo, matomo_visits, matomo_conversions, matomo_items TO {role};
                 CREATE POLICY site_{site} ON matomo TO {role} USING (idsite = '{site}')"
            ),
        );
        let mut db = shared().connect_as(&name, &role);
        run(&mut db, "SET matomo.settle_time = 0");
        roles.push(db);
    }
    sync_site(&mut roles[0], &fake, 1, &from(&noon, 3));
    sync_site(&mut roles[1], &fake, 2, &from(&noon, 3));
    asked(&fake);
    sync_site(&mut roles[1], &fake, 2, "");
    asked(&fake);
    assert_eq!(sync_site(&mut roles[0], &fake, 1, "").days, 1);
    assert_eq!(asked(&fake).len(), 1, "its days are known still");
    let all = every_row(&mut admin, "matomo", &all_of(&fake, 1));
    proven(
        "Crash",
        "a policy that hides all rows",
        "row-level security by site; a role whose site has no visits yet syncs",
        "the table is not taken for emptied: the days of the other site stay sealed",
        &format!("one request by the other site's next sync; {all}"),
    );
}
