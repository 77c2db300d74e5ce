//! The tables of visits, conversions and items beside a destination.

use fake_matomo::{Action, Fake, Kind};
use postgres::Client;

use crate::support::noon::settled;
use crate::support::*;

const FIRST: &str = "2026-10-19";
const LAST: &str = "2026-10-26";
const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];

/// A shop, and a database without tables.
fn shop() -> (Fake, Client) {
    (serve(world(14, "Europe/Paris", 12, FIRST, LAST)), database())
}

#[track_caller]
fn assert_whole(db: &mut Client, fake: &Fake, table: &str) {
    let oracle = tables_between(fake, 1, FIRST, LAST);
    assert!(!oracle.conversions.rows.is_empty() && !oracle.items.rows.is_empty());
    assert_tables_equal(db, table, &oracle);
}

/// A sync that resumes where the last one ended.
fn next_sync<'a>(fake: &Fake, table: &'a str) -> Sync<'a> {
    Sync { force: false, ..Sync::of(fake, FIRST, LAST).into(table) }
}

#[test]
fn a_first_sync_makes_and_fills_all_four_tables() {
    let (fake, mut db) = shop();
    for table in TABLES {
        Sync::of(&fake, FIRST, LAST).into(table).run(&mut db);
        assert_whole(&mut db, &fake, table);
    }
}

#[test]
fn companions_made_later_are_filled_by_the_next_sync() {
    let (fake, mut db) = shop();
    for table in TABLES {
        run(&mut db, "SET matomo.companions = ''");
        next_sync(&fake, table).run(&mut db);
        let made = "SELECT count(*) FROM matomo_companion WHERE destination = $1::text::regclass";
        let made: i64 = db.query_one(made, &[&table]).unwrap().get(0);
        assert_eq!(made, 0, "none is wanted");
        run(&mut db, "SET matomo.companions = 'visits'");
        let create = format!("SELECT matomo_create_companions('{table}')::text");
        assert_eq!(texts(&mut db, &create), [format!("{table}_visits")]);
        next_sync(&fake, table).run(&mut db);
        run(&mut db, "RESET matomo.companions");
        let others = ["conversions", "items"].map(|kind| format!("{table}_{kind}"));
        assert_eq!(texts(&mut db, &create), others);
        assert_eq!(texts(&mut db, &create), [""; 0], "all are there");
        assert_eq!(
            next_sync(&fake, table).run(&mut db).written(),
            0,
            "{table}: the actions are stored already, only companions are filled"
        );
        assert_whole(&mut db, &fake, table);
        // Its days are sealed again and not read once more.
        asked(&fake);
        next_sync(&fake, table).run(&mut db);
        assert_eq!(asked(&fake), ["site"]);
    }
}

#[test]
fn only_the_companions_that_the_setting_names_are_made() {
    let (fake, mut db) = shop();
    run(&mut db, "SET matomo.companions = 'visits'");
    for table in TABLES {
        Sync::of(&fake, FIRST, LAST).into(table).run(&mut db);
        let made = format!(
            "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
             AND relname ~ '^{table}_(visits|conversions|items)$'"
        );
        assert_eq!(texts(&mut db, &made), [format!("{table}_visits")]);
        // With the other companions empty, the visits still equal the oracle's.
        for kind in ["conversions", "items"] {
            run(
                &mut db,
                &format!(
                    "CREATE TEMP TABLE {table}_{kind} (LIKE matomo_{})",
                    &kind[..kind.len() - 1]
                ),
            );
        }
        let oracle = tables_between(&fake, 1, FIRST, LAST);
        let found = table_differences(&mut db, table, &oracle);
        assert!(!found.contains("_visits:") && !found.contains(&format!("{table}:")), "{found}");
    }
    run(&mut db, "SET matomo.companions = 'visits, hits'");
    let unknown = error(&mut db, "SELECT matomo_create_companions('matomo')");
    let hint = "Give a list of visits, conversions and items";
    assert_says(&unknown, "22023", "matomo.companions has \"hits\"", &[], hint);
}

#[test]
fn renamed_tables_are_followed() {
    let (fake, mut db) = shop();
    run(&mut db, "CREATE SCHEMA web");
    for table in TABLES {
        next_sync(&fake, table).run(&mut db);
        for (table, renamed) in four(table).iter().zip(four("renamed")) {
            run(
                &mut db,
                &format!(
                    "ALTER TABLE {table} RENAME TO {renamed}; ALTER TABLE {renamed} SET SCHEMA web"
                ),
            );
        }
        for visit in &mut fake.world().site_mut(1).visits {
            visit.visitor_type = "returning".to_owned();
        }
        Sync::of(&fake, FIRST, LAST).into("web.renamed").run(&mut db);
        assert_whole(&mut db, &fake, "web.renamed");
        run(&mut db, &format!("DROP TABLE {}", all_four("web.renamed")));
    }
}

#[test]
fn a_companion_that_was_dropped_is_done_without() {
    let (fake, mut db) = shop();
    for table in TABLES {
        next_sync(&fake, table).run(&mut db);
        run(&mut db, &format!("DROP TABLE {table}_items"));
        let visit = fake.world().site(1).visits[3].id;
        fake.world().site_mut(1).visit_mut(visit).visitor_type = format!("of {table}");
        assert!(Sync::of(&fake, FIRST, LAST).into(table).run(&mut db).updated > 0);
        run(&mut db, &format!("SELECT matomo_create_companions('{table}')"));
        assert_eq!(next_sync(&fake, table).run(&mut db).written(), 0);
        assert_whole(&mut db, &fake, table);
    }
}

#[test]
fn a_visit_that_changes_is_replaced_in_all_tables() {
    let (fake, mut db) = shop();
    for table in TABLES {
        Sync::of(&fake, FIRST, LAST).into(table).run(&mut db);
        {
            let mut world = fake.world();
            let site = world.site_mut(1);
            let is_sale = |a: &Action| matches!(a.kind, Kind::Order { .. } | Kind::Cart { .. });
            let sold = site.visits.iter().filter(|visit| visit.actions.iter().any(is_sale));
            let sold: Vec<_> = sold.map(|visit| (visit.id, visit.last)).collect();
            let [(gone, _), (late, last), (moved, _), ..] = sold[..] else { panic!("{sold:?}") };
            // One visit loses its order, one gets an action before its order, one is deleted.
            site.visit_mut(gone).actions.retain(|action| !is_sale(action));
            let page = Action::page(last - 1, "https://shop.test/late", "Late");
            site.visit_mut(late).actions.insert(0, page);
            site.delete(moved);
        }
        Sync::of(&fake, FIRST, LAST).into(table).run(&mut db);
        let check = format!(
            "SELECT sum(repaired)::bigint FROM matomo_check(1, '{FIRST}', '{LAST}', '{}', '{}', '{table}', repair => true)",
            fake.url(),
            fake.token()
        );
        assert_eq!(one::<i64>(&mut db, &check), 1, "the one that was deleted");
        assert_whole(&mut db, &fake, table);
    }
}

#[test]
fn what_only_a_companion_has_is_checked_and_mended() {
    let (fake, mut db) = shop();
    for table in TABLES {
        next_sync(&fake, table).run(&mut db);
        let check = |repair: bool| {
            format!(
                "SELECT concat_ws(' ', sum(missing), sum(extra), sum(stale), sum(repaired))
                 FROM matomo_check(1, '{FIRST}', '{LAST}', '{}', '{}', '{table}', repair => {repair})",
                fake.url(),
                fake.token()
            )
        };
        assert_eq!(one::<String>(&mut db, &check(false)), "0 0 0 0");
        // Changes in Matomo, changes here, and visits that only companions have.
        let id = fake.world().site(1).visits[5].id;
        fake.world()
            .site_mut(1)
            .visit_mut(id)
            .extra
            .insert("browserVersion".to_owned(), "999".into());
        run(
            &mut db,
            &format!(
                "UPDATE {table}_visits SET languagecode = 'xx' WHERE idvisit = (SELECT max(idvisit) FROM {table}_visits);
                 DELETE FROM {table}_visits WHERE idvisit = (SELECT min(idvisit) FROM {table}_visits);
                 INSERT INTO {table}_visits (idvisit, idsite, firstaction, lastaction)
                     VALUES (7, 1, '2026-10-24 10:00Z', '2026-10-24 10:00Z');
                 INSERT INTO {table}_conversions (action_id, idvisit, idsite, converted)
                     VALUES ('8_0', 8, 1, '2026-10-24 10:00Z');
                 INSERT INTO {table}_items (action_id, place, idvisit, idsite, converted)
                     VALUES ('8_0', 0, 8, 1, '2026-10-24 10:00Z'), ('9_0', 0, 9, 1, '2026-10-24 10:00Z')"
            ),
        );
        assert_eq!(one::<String>(&mut db, &check(false)), "0 3 3 0");
        assert_eq!(one::<String>(&mut db, &check(true)), "0 3 3 6");
        assert_eq!(one::<String>(&mut db, &check(false)), "0 0 0 0");
        assert_whole(&mut db, &fake, table);
        fake.world().site_mut(1).visit_mut(id).extra.clear();
    }
}

#[test]
fn what_is_dropped_for_its_age_goes_from_all_tables() {
    let (fake, mut db) = shop();
    for table in TABLES {
        next_sync(&fake, table).run(&mut db);
        // Midnight in Paris, in the middle of a week.
        run(&mut db, &format!("CALL matomo_drop_before('{table}', '2026-10-22 00:00+02')"));
        let left = tables_between(&fake, 1, "2026-10-22", LAST);
        let stored = |table: &str| format!("SELECT count(*) FROM {table}");
        for (table, rows) in
            four(table).iter().zip([&left.actions, &left.visits, &left.conversions, &left.items])
        {
            let stored = one::<i64>(&mut db, &stored(table));
            // A visit that started before the bound loses some of its actions.
            let most = i64::try_from(rows.rows.len()).unwrap();
            assert!(stored <= most && stored >= most - 20, "{table}: {stored} of {most}");
        }
        // This bound is the end of a week: its partitions are dropped.
        run(&mut db, &format!("CALL matomo_drop_before('{table}', '2026-10-26 00:00+00')"));
        for table in four(table) {
            let before = format!(
                "SELECT count(*) FROM pg_inherits WHERE inhrelid::regclass::text = '{table}_2026w43'"
            );
            assert_eq!(one::<i64>(&mut db, &before), 0, "{table}");
        }
        let early =
            format!("SELECT count(*) FROM {table}_visits WHERE lastaction < '2026-10-26 00:00Z'");
        assert_eq!(one::<i64>(&mut db, &early), 0);
        let early =
            format!("SELECT count(*) FROM {table}_items WHERE converted < '2026-10-26 00:00Z'");
        assert_eq!(one::<i64>(&mut db, &early), 0);
        // The remaining days are complete.
        assert_eq!(next_sync(&fake, table).run(&mut db).written(), 0);
    }
}

/// Gives visits user IDs and IP addresses.
fn of_whom(fake: &Fake) {
    let mut world = fake.world();
    let visits = &mut world.site_mut(1).visits;
    for (n, key, value) in [
        (2, "visitIp", "192.0.2.1"),
        (9, "visitIp", "192.0.2.1"),
        (9, "userId", "ann@x.org"),
        (11, "userId", "ann@x.org"),
    ] {
        visits[n].extra.insert(key.to_owned(), value.into());
    }
    // Only the table of visits tells whose visit this is.
    visits[2].actions.clear();
}

#[test]
fn a_person_is_forgotten_in_all_tables() {
    for (who, gone) in [
        ("visitip => '192.0.2.1'", &[2, 9][..]),
        ("userid => 'ann@x.org'", &[9, 11]),
        ("userid => 'ann@x.org', visitip => '192.0.2.1'", &[2, 9, 11]),
        ("visitorid => 'of the third'", &[3]),
    ] {
        let (fake, mut db) = shop();
        of_whom(&fake);
        fake.world().site_mut(1).visits[3].visitor_id = "of the third".to_owned();
        for table in TABLES {
            next_sync(&fake, table).run(&mut db);
            assert_whole(&mut db, &fake, table);
        }
        let told = format!(
            "SELECT concat_ws(' ', destination, visits) FROM matomo_forget({who}) ORDER BY 1"
        );
        assert_eq!(
            texts(&mut db, &told),
            TABLES.map(|table| format!("{table} {}", gone.len())),
            "{who}"
        );
        let ids: Vec<_> = gone.iter().map(|n| fake.world().site(1).visits[*n].id).collect();
        fake.world().site_mut(1).visits.retain(|visit| !ids.contains(&visit.id));
        for table in TABLES {
            assert_whole(&mut db, &fake, table);
        }
    }
}

#[test]
fn a_person_is_forgotten_by_what_other_types_show_otherwise() {
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    for (column, kind, given) in [
        ("visitip", "inet", None),
        ("userid", "uuid", Some("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11")),
        ("userid", "bigint", Some("007")),
        ("userid", "text", Some("007")),
    ] {
        fake.world().site_mut(1).visit_mut(1001).user_id = given.map(str::to_owned);
        let mut db = settled();
        run(
            &mut db,
            &format!(
                "SELECT matomo_create_table('matomo'); ALTER TABLE matomo_visits ALTER {column} TYPE {kind} USING NULL;
                 ALTER TABLE matomo DROP COLUMN IF EXISTS {column}, ADD COLUMN {column} {kind}"
            ),
        );
        sync(&mut db, &fake, &format!(", '{}'", noon.text(1)));
        let host = "SELECT max(host(visitip)) FROM matomo_visits";
        let given = given.map_or_else(|| one(&mut db, host), str::to_owned);
        let of_it = match kind {
            "inet" => format!("host(visitip) = '{given}'"),
            _ => format!("userid = '{given}'"),
        };
        let count = |db: &mut Client, table: &str| -> i64 {
            one(db, &format!("SELECT count(*) FROM {table} WHERE {of_it}"))
        };
        for table in ["matomo", "matomo_visits"] {
            assert!(count(&mut db, table) > 0, "{table} {kind}");
        }
        let forget = format!("SELECT visits FROM matomo_forget({column} => '{given}')");
        assert!(one::<i64>(&mut db, &forget) > 0, "{kind}");
        // Of no such type, so of nobody.
        assert_eq!(
            one::<i64>(&mut db, &format!("SELECT visits FROM matomo_forget({column} => 'none')")),
            0
        );
        for table in ["matomo", "matomo_visits"] {
            assert_eq!(count(&mut db, table), 0, "{table} {kind}");
        }
    }
}

#[test]
fn an_address_is_not_looked_for_where_no_table_has_it() {
    let (fake, mut db) = shop();
    run(&mut db, "SET matomo.companions = ''");
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    let refused = error(&mut db, "SELECT matomo_forget(visitip => '192.0.2.1')");
    assert_eq!(refused.code().code(), "42703", "{refused:?}");
    let text = format!("{refused:?}");
    assert!(text.contains("visitip") && text.contains("matomo"), "{text}");
    // With a column `visitip` the destination itself tells.
    run(&mut db, "ALTER TABLE matomo ADD COLUMN visitip text");
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    let ip: String = one(&mut db, "SELECT max(visitip) FROM matomo");
    let forget = format!("SELECT visits FROM matomo_forget(visitip => '{ip}')");
    assert!(one::<i64>(&mut db, &forget) > 0);
    assert_eq!(
        one::<i64>(&mut db, &format!("SELECT count(*) FROM matomo WHERE visitip = '{ip}'")),
        0
    );
}

#[test]
fn unchanged_rows_of_all_tables_are_left_alone() {
    let noon = Noon::new();
    let fake = serve(noon.world(3));
    for table in TABLES {
        let mut db = settled();
        sync(&mut db, &fake, &format!(", '{}', destination => '{table}'", noon.text(2)));
        let oracle = all_tables_of(&fake, 1);
        assert_tables_equal(&mut db, table, &oracle);
        let rows = fingerprints(&mut db, table);
        asked(&fake);
        let poll = format!(", destination => '{table}'");
        run(&mut db, "BEGIN");
        sync(&mut db, &fake, &poll);
        assert_eq!(asked(&fake).len(), 1, "a poll is one request");
        // No transaction ID means no WAL.
        let id = "SELECT pg_current_xact_id_if_assigned()::text";
        assert_eq!(one::<Option<String>>(&mut db, id), None);
        run(&mut db, "COMMIT");
        sync(&mut db, &fake, &format!("{poll}, start_date => '{}', force => true", noon.text(2)));
        assert_eq!(fingerprints(&mut db, table), rows);
        assert_tables_equal(&mut db, table, &oracle);
    }
}
