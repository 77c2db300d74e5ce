//! Erasure of a visitor.

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::{Cluster, shared};
use crate::support::*;

const TABLES: [&str; 3] = ["matomo", "matomo_partitioned", r#"archive."Visits ""26""""#];
const VISITOR: &str = "00000000deadbeef";

/// Three destinations with the same three days of visits: two visits of one visitor, two of one
/// user, one of both.
fn filled() -> (Fake, Client) {
    let noon = Noon::new();
    let mut world = noon.world(3);
    let site = world.site_mut(1);
    for (id, visitor, user) in [
        (1001, Some(VISITOR), None),
        (1011, Some(VISITOR), Some("ann@x.org")),
        (1021, None, Some("ann@x.org")),
        (1002, None, Some("")),
        (1012, None, Some("bob@x.org")),
    ] {
        let visit = site.visit_mut(id);
        visit.user_id = user.map(str::to_owned);
        if let Some(visitor) = visitor {
            visitor.clone_into(&mut visit.visitor_id);
        }
    }
    let fake = serve(world);
    let mut db = database();
    run(&mut db, r#"CREATE SCHEMA archive; SELECT matomo_create_table('archive."Visits ""26"""')"#);
    for table in TABLES {
        let arguments = format!(", '{}', destination => '{table}'", noon.text(2));
        assert_eq!(sync(&mut db, &fake, &arguments).inserted, 27);
    }
    (fake, db)
}

/// The result, one line per table: `table visits actions`.
fn forget(db: &mut Client, arguments: &str) -> Vec<String> {
    let sql = format!(
        "SELECT concat_ws(' ', destination, visits, actions) FROM matomo_forget({arguments}) ORDER BY destination::text"
    );
    let mut lines = texts(db, &sql);
    lines.sort();
    lines
}

fn all(counts: &str) -> Vec<String> {
    let mut lines: Vec<_> = TABLES.map(|table| format!("{table} {counts}")).into();
    lines.sort();
    lines
}

/// Asserts how many visits each table and each table of visits still holds.
fn assert_left(db: &mut Client, visits: i64) {
    let of_visits = TABLES.map(|table| match table.strip_suffix('"') {
        Some(name) => format!("{name}_visits\""),
        None => format!("{table}_visits"),
    });
    for table in TABLES.into_iter().chain(of_visits.iter().map(String::as_str)) {
        let sql = format!("SELECT count(DISTINCT idvisit) FROM {table}");
        assert_eq!(one::<i64>(db, &sql), visits, "{table}");
    }
}

#[test]
fn a_visitor_is_forgotten_in_every_destination() {
    let (_fake, mut db) = filled();
    assert_eq!(forget(&mut db, &format!("visitorid => '{VISITOR}'")), all("2 6"));
    assert_left(&mut db, 7);
    assert_eq!(forget(&mut db, "userid => 'ann@x.org'"), all("1 3"));
    assert_left(&mut db, 6);
    assert_eq!(forget(&mut db, "userid => 'ann@x.org'"), all("0 0"));
    let (_fake, mut db) = filled();
    assert_eq!(forget(&mut db, &format!("'{VISITOR}', 'ann@x.org'")), all("3 9"));
    assert_left(&mut db, 6);
    let rows =
        "SELECT count(*) FROM matomo WHERE visitorid = '00000000deadbeef' OR userid = 'ann@x.org'";
    assert_eq!(one::<i64>(&mut db, rows), 0);
}

/// As the Node tool leaves those of before a login.
#[test]
fn all_rows_of_a_visit_go_also_those_that_say_another_visitor() {
    let (_fake, mut db) = filled();
    run(
        &mut db,
        "UPDATE matomo SET userid = NULL, visitorid = 'ffffffffffffffff' WHERE action_id = '1021_1'",
    );
    assert_eq!(forget(&mut db, "userid => 'ann@x.org'"), all("2 6"));
    assert_left(&mut db, 7);
}

#[test]
fn only_in_spares_the_other_tables() {
    let (_fake, mut db) = filled();
    let line = format!("{} 2 6", TABLES[2]);
    let arguments = format!("visitorid => '{VISITOR}', only_in => '{}'", TABLES[2]);
    assert_eq!(forget(&mut db, &arguments), [line]);
    for (table, left) in TABLES.iter().zip([9, 9, 7]) {
        let sql = format!("SELECT count(DISTINCT idvisit) FROM {table}");
        assert_eq!(one::<i64>(&mut db, &sql), left);
    }
    // A table that no sync has written to can also be named.
    run(&mut db, "CREATE TABLE copied AS SELECT * FROM matomo");
    let arguments = format!("visitorid => '{VISITOR}', only_in => 'copied'");
    assert_eq!(forget(&mut db, &arguments), ["copied 2 6"]);
}

#[test]
fn nobody_is_forgotten_by_an_empty_name() {
    let (_fake, mut db) = filled();
    for arguments in ["", "NULL, NULL", "'', ''", "''", "userid => ''", "NULL, ''"] {
        let refused = error(&mut db, &format!("SELECT matomo_forget({arguments})"));
        let message = "none of visitorid, userid and visitip is given";
        assert_says(&refused, "22004", message, &[], "Name the visitor");
    }
    assert_left(&mut db, 9);
    // Beside another argument an empty one is ignored; it does not mean visits without a user.
    assert_eq!(forget(&mut db, &format!("'{VISITOR}', ''")), all("2 6"));
    assert_eq!(forget(&mut db, "'', 'bob@x.org'"), all("1 3"));
    assert_left(&mut db, 6);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo WHERE userid = ''"), 3);
}

#[test]
fn a_role_that_may_not_delete_everywhere_deletes_nothing() {
    let (_fake, mut db) = filled();
    let name: String = one(&mut db, "SELECT current_database()::text");
    let role = role(&mut db);
    run(
        &mut db,
        &format!(
            "GRANT USAGE ON SCHEMA archive TO {role};
             GRANT SELECT, DELETE ON ALL TABLES IN SCHEMA archive TO {role};
             GRANT SELECT, DELETE ON {}, {} TO {role}",
            all_four("matomo"),
            all_four("matomo_partitioned")
        ),
    );
    let forget_ann = "SELECT matomo_forget(userid => 'ann@x.org')";
    // For a destination, and for one of its companions.
    for table in [TABLES[2], r#"archive."Visits ""26""_items""#] {
        for grant in ["", "SELECT", "DELETE"] {
            run(&mut db, &format!("REVOKE ALL ON {table} FROM {role}"));
            if !grant.is_empty() {
                run(&mut db, &format!("GRANT {grant} ON {table} TO {role}"));
            }
            let refused = error(&mut shared().connect_as(&name, &role), forget_ann);
            let found = (refused.code().code(), refused.message());
            let message = format!("permission denied for table {table}");
            assert_eq!(found, ("42501", message.as_str()), "{grant}");
            assert_left(&mut db, 9);
        }
        run(&mut db, &format!("GRANT SELECT, DELETE ON {table} TO {role}"));
    }
    assert_eq!(forget(&mut shared().connect_as(&name, &role), "userid => 'ann@x.org'"), all("2 6"));
}

#[test]
fn tables_that_are_gone_are_skipped() {
    let (_fake, mut db) = filled();
    run(&mut db, &format!("DROP TABLE {}", all_four("matomo")));
    let lines = forget(&mut db, "userid => 'ann@x.org'");
    assert_eq!(lines.len(), 2, "{lines:?}");
    let arguments = "userid => 'ann@x.org', only_in => 999999999";
    assert_eq!(forget(&mut db, arguments), [""; 0]);
}

#[test]
fn a_temporary_table_of_another_session_hinders_no_erasure() {
    let (fake, mut db) = filled();
    let name: String = one(&mut db, "SELECT current_database()::text");
    let mut other = shared().connect(&name);
    let noon = Noon::new();
    let copy = |db: &mut Client| {
        run(
            db,
            "CREATE TEMP TABLE passing (LIKE matomo_action); CREATE UNIQUE INDEX ON passing (action_id)",
        );
        sync(db, &fake, &format!(", '{}', destination => 'pg_temp.passing'", noon.text(2)));
    };
    copy(&mut other);
    assert_eq!(forget(&mut db, "userid => 'ann@x.org'"), all("2 6"));
    // The session's own temporary table is included.
    copy(&mut db);
    assert_eq!(forget(&mut db, "userid => 'ann@x.org'").len(), 4);
    assert_eq!(one::<i64>(&mut db, "SELECT count(DISTINCT idvisit) FROM passing"), 7);
}

#[test]
fn names_in_the_search_path_cannot_stand_in() {
    let (_fake, mut db) = filled();
    run(
        &mut db,
        "CREATE SCHEMA evil; CREATE TABLE evil.matomo AS SELECT * FROM matomo;
         CREATE FUNCTION evil.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
         CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never);
         SET search_path = evil, public, pg_catalog",
    );
    let lines = texts(
        &mut db,
        "SELECT concat_ws(' ', visits, actions) FROM public.matomo_forget(userid => 'ann@x.org')",
    );
    assert_eq!(lines, ["2 6"; 3]);
    run(&mut db, "RESET search_path");
    assert_left(&mut db, 7);
    assert_eq!(one::<i64>(&mut db, "SELECT count(DISTINCT idvisit) FROM evil.matomo"), 9);
}

#[test]
fn an_erasure_that_gives_up_a_prepared_transaction_names_it() {
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    let cluster = Cluster::start_with("max_prepared_transactions = 2");
    let name = cluster.database();
    let mut db = cluster.connect(&name);
    run(&mut db, "SELECT matomo_create_table('matomo'); SET lock_timeout = '300 ms'");
    let sync = sync_sql(&fake, 1, &format!(", '{}'", noon.text(1)));
    let drop = "SELECT * FROM matomo_drop_step('matomo', '2020-01-01', 1, '100 ms')";
    for (statement, what) in [
        (sync.as_str(), "has synced site 1 into public.matomo"),
        (drop, "has removed old rows from public.matomo, or changed its URL or companions"),
    ] {
        run(&mut db, &format!("BEGIN; {statement}; PREPARE TRANSACTION 'it''s'"));
        let refused = error(&mut db, &format!("SELECT * FROM matomo_forget('{VISITOR}')"));
        let message = format!("could not erase: prepared transaction \"it's\" {what}");
        let hint = "COMMIT PREPARED 'it''s' or ROLLBACK PREPARED 'it''s', then";
        assert_says(&refused, "55P03", &message, &[], hint);
        run(&mut db, "COMMIT PREPARED 'it''s'");
    }
    run(&mut db, &format!("SELECT * FROM matomo_forget('{VISITOR}')"));
}

#[test]
fn an_erasure_waits_for_a_sync_that_is_prepared_meanwhile() {
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    let cluster = Cluster::start_with("max_prepared_transactions = 2");
    let name = cluster.database();
    let (mut db, mut other) = (cluster.connect(&name), cluster.connect(&name));
    run(&mut db, "SELECT matomo_create_table('matomo'); BEGIN");
    run(&mut db, &sync_sql(&fake, 1, &format!(", '{}'", noon.text(1))));
    let visitor: String = one(&mut db, "SELECT max(visitorid) FROM matomo");
    let pid = pid(&mut other);
    let mut third = cluster.connect(&name);
    std::thread::scope(|scope| {
        let forget = format!("SELECT sum(visits)::bigint FROM matomo_forget('{visitor}')");
        let erasure = scope.spawn(move || one::<i64>(&mut other, &forget));
        let waits = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'Extension'"
        );
        wait_until("it waits for the sync", || one::<i64>(&mut third, &waits) == 1);
        run(&mut db, "PREPARE TRANSACTION 'p'");
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!erasure.is_finished(), "it waits for the prepared transaction");
        run(&mut db, "COMMIT PREPARED 'p'");
        assert!(erasure.join().unwrap() > 0);
    });
}

/// As Citus does to distribute a table, and users who change much.
#[test]
fn a_table_that_takes_the_companions_of_a_dropped_one_takes_its_days() {
    let (fake, mut db) = filled();
    let of_visitor =
        |table: &str| format!("SELECT count(*) FROM {table} WHERE visitorid = '{VISITOR}'");
    run(
        &mut db,
        "CREATE TABLE other (LIKE matomo INCLUDING ALL); INSERT INTO other SELECT * FROM matomo;
         DROP TABLE matomo; ALTER TABLE other RENAME TO matomo; SELECT matomo_create_companions('matomo')",
    );
    let days =
        "SELECT count(*) FROM matomo_days WHERE destination = 'matomo'::regclass AND NOT sealed";
    assert_eq!(one::<i64>(&mut db, days), 3);
    assert!(one::<i64>(&mut db, &of_visitor("matomo")) > 0);
    forget(&mut db, &format!("'{VISITOR}'"));
    for table in ["matomo", "matomo_visits"] {
        assert_eq!(one::<i64>(&mut db, &of_visitor(table)), 0, "{table}");
    }
    // The next sync reads all of its days again, not only the last ones.
    run(&mut db, "DELETE FROM matomo WHERE day = (SELECT min(day) FROM matomo)");
    sync(&mut db, &fake, "");
    assert_tables_equal(&mut db, "matomo", &all_tables_of(&fake, 1));
}
