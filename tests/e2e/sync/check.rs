//! `matomo_check` finds every difference between Matomo and a table, and repairs exactly those.

use fake_matomo::{Action, ActionTime, Visit};
use postgres::Client;

use crate::support::case::*;
use crate::support::*;

#[test]
fn nothing_is_found_where_nothing_differs() {
    for table in TABLES {
        let mut case = Case::new(table);
        let rows = fingerprint(&mut case.db, table);
        asked(&case.fake);
        for arguments in ["", ", deep => true", ", repair => true", ", true, true"] {
            assert_eq!(case.check(arguments), [""; 0]);
        }
        // A check that is not deep takes one request a day.
        assert_eq!(asked(&case.fake)[..6], {
            let mut lines = vec!["site".to_owned()];
            lines.extend([4, 3, 2, 1].map(|ago| format!("day {}", case.noon.text(ago))));
            lines.push("site".to_owned());
            lines
        });
        assert_eq!(fingerprint(&mut case.db, table), rows);
    }
}

#[test]
fn a_visit_that_is_missing_is_found_and_fetched() {
    for table in TABLES {
        let mut case = Case::new(table);
        run(&mut case.db, &format!("DELETE FROM {table} WHERE idvisit = '1032'"));
        case.assert_found("", "3: 3 2 1 0 0 0", "'1032'");
        let day = "'1021', '1022', '1023'";
        run(&mut case.db, &format!("DELETE FROM {table} WHERE idvisit IN ({day})"));
        case.assert_found("", "2: 3 0 3 0 0 0", day);
        run(&mut case.db, &format!("DELETE FROM {table} WHERE action_id = '1043_1'"));
        assert_eq!(case.check(""), [""; 0]);
        case.assert_found(", deep => true", "4: 3 3 0 0 1 0", "'1043'");
    }
}

#[test]
fn a_visit_that_matomo_has_no_more_is_found_and_removed() {
    for table in TABLES {
        let mut case = Case::new(table);
        case.fake.world().site_mut(1).delete(1032);
        case.assert_found("", "3: 2 3 0 1 0 0", "'1032'");
        let mut case = Case::new(table);
        let at = case.noon.at(2, "20:00:00");
        run(
            &mut case.db,
            &format!(
                "INSERT INTO {table} (action_id, idsite, idvisit, action_timestamp) VALUES ('7_0', '1', '7', to_timestamp({at}))"
            ),
        );
        case.assert_found("", "2: 3 4 0 1 0 0", "'7'");
        // The range includes its first and last second, and no rows of other sites.
        let (first, last) = (case.noon.at(4, "00:00:00"), case.noon.at(1, "23:59:59"));
        if table == "matomo_partitioned" {
            // The second before may be in a week without a partition.
            run(
                &mut case.db,
                &format!(
                    "SELECT matomo_create_partitions('{table}', to_timestamp({first} - 1), to_timestamp({last} + 2))"
                ),
            );
        }
        let insert = |site: &str, id: &str, at: i64| {
            format!(
                "INSERT INTO {table} (action_id, idsite, idvisit, action_timestamp) VALUES ('{id}_0', '{site}', '{id}', to_timestamp({at}))"
            )
        };
        let kept =
            [insert("1", "8", first - 1), insert("1", "9", last + 1), insert("2", "10", first)];
        run(&mut case.db, &format!("{}; {}", kept.join("; "), insert("1", "11", first)));
        assert_eq!(case.check(""), ["4: 3 4 0 1 0 0"]);
        run(&mut case.db, &insert("1", "12", last));
        assert_eq!(case.check(", repair => true"), ["4: 3 4 0 1 0 1", "1: 3 4 0 1 0 1"]);
        let left = format!(
            "SELECT idvisit::text FROM {table} WHERE idvisit < 100 ORDER BY {table}.idvisit"
        );
        assert_eq!(texts(&mut case.db, &left), ["8", "9", "10"]);
    }
}

#[test]
fn a_stale_visit_is_found_and_mended() {
    for table in TABLES {
        let mut case = Case::new(table);
        // Changed in Matomo, with the same last action.
        {
            let mut world = case.fake.world();
            let visit = world.site_mut(1).visit_mut(1013);
            visit.heartbeat(20);
            visit.city = Some("Ōsaka".to_owned());
        }
        case.assert_found("", "1: 3 3 0 0 1 0", "'1013'");
        // One of its rows was changed here.
        run(&mut case.db, &format!("UPDATE {table} SET country = NULL WHERE action_id = '1022_2'"));
        case.assert_found("", "2: 3 3 0 0 1 0", "'1022'");
        run(
            &mut case.db,
            &format!("UPDATE {table} SET experiments = '[1]' WHERE action_id = '1022_0'"),
        );
        case.assert_found("", "2: 3 3 0 0 1 0", "'1022'");
        // Values of an action, changed in Matomo and here, and an extra row.
        let at = case.noon.at(4, "09:00:20");
        let late = Action::goal(at, 5, "Late", "https://noon.test/");
        case.fake.world().site_mut(1).visit_mut(1042).push(late);
        run(
            &mut case.db,
            &format!("UPDATE {table} SET action_title = 'x' WHERE action_id = '1041_1'"),
        );
        run(
            &mut case.db,
            &format!(
                "INSERT INTO {table} SELECT (jsonb_populate_record(t, '{{\"action_id\": \"1043_3\"}}')).* FROM {table} t WHERE action_id = '1043_2'"
            ),
        );
        // Without a deep check only the additional goal shows.
        assert_eq!(case.check(""), ["4: 3 3 0 0 1 0"]);
        case.assert_found(", deep => true", "4: 3 3 0 0 3 0", "'1041', '1042', '1043'");
    }
}

#[test]
fn a_time_changed_by_hand_is_found_however_far_it_went() {
    for table in TABLES {
        let mut case = Case::new(table);
        for (id, by) in [("1042", "2 h"), ("1022", "9 d"), ("1013", "-400 d")] {
            if table == "matomo_partitioned" {
                let to = format!(
                    "SELECT matomo_create_partitions('{table}', at, at) FROM (
                         SELECT min(action_timestamp) + interval '{by}' AS at
                         FROM {table} WHERE idvisit = '{id}') t"
                );
                run(&mut case.db, &to);
            }
            run(
                &mut case.db,
                &format!(
                    "UPDATE {table} SET action_timestamp = action_timestamp + interval '{by}'
                     WHERE idvisit = '{id}'"
                ),
            );
        }
        assert_eq!(case.check(", true, true").len(), 3);
        let oracle = case.oracle();
        assert_equal(&mut case.db, table, &oracle);
        assert_eq!(case.check(", deep => true"), [""; 0]);
    }
}

#[test]
fn a_day_of_many_visits_is_mended_whole() {
    for table in TABLES {
        let mut case = Case::new(table);
        let begin = case.noon.at(2, "11:00:00");
        for n in 0..1200 {
            let at = begin + n / 3;
            let visit = Visit::new(20_000 + n, at).and(Action::page(at, format!("/{n}"), "Page"));
            case.fake.world().site_mut(1).add(visit);
        }
        assert_eq!(case.check(", true, page_size => 100"), ["2: 1203 3 1200 0 0 1200"]);
        let oracle = case.oracle();
        assert_equal(&mut case.db, table, &oracle);
        run(
            &mut case.db,
            &format!("UPDATE {table} SET action_title = 'x' WHERE idvisit::int >= 20000"),
        );
        case.fake.world().site_mut(1).visits.retain(|visit| visit.id < 20_600);
        assert_eq!(case.check(", true, true"), ["2: 603 1203 0 600 600 1200"]);
        let oracle = case.oracle();
        assert_equal(&mut case.db, table, &oracle);
    }
}

#[test]
fn differences_of_all_kinds_at_once_are_told_apart_by_day() {
    for table in TABLES {
        let mut case = Case::new(table);
        {
            let mut world = case.fake.world();
            let site = world.site_mut(1);
            site.delete(1041);
            site.visit_mut(1043).heartbeat(9);
            site.add({
                let mut visit = case.noon.visit(2, 3);
                visit.id = 4000;
                visit
            });
        }
        run(
            &mut case.db,
            &format!(
                "DELETE FROM {table} WHERE idvisit IN ('1042', '1012');
                 UPDATE {table} SET visitduration = '1' WHERE action_id = '1023_0';
                 UPDATE {table} SET action_url = 'x' WHERE action_id = '1033_0'"
            ),
        );
        let others = case.untouched("'1041', '1042', '1043', '4000', '1012', '1023', '1033'");
        let found = ["4: 2 2 1 1 1 0", "2: 4 3 1 0 1 0", "1: 3 2 1 0 0 0"];
        assert_eq!(case.check(""), found);
        let deep = ["4: 2 2 1 1 1 3", "3: 3 3 0 0 1 1", "2: 4 3 1 0 1 2", "1: 3 2 1 0 0 1"];
        assert_eq!(case.check(", true, true"), deep);
        assert_eq!(
            case.untouched("'1041', '1042', '1043', '4000', '1012', '1023', '1033'"),
            others
        );
        let oracle = case.oracle();
        assert_equal(&mut case.db, table, &oracle);
        case.assert_all_equal();
        assert_eq!(case.check(", deep => true"), ["4: 2 2 0 0 0 0", "2: 4 4 0 0 0 0"]);
    }
}

#[test]
fn visits_without_actions_are_not_missing_and_those_of_goals_and_contents_are_there() {
    for table in TABLES {
        let mut case = Case::new(table);
        let at = case.noon.at(3, "11:00:00");
        {
            let mut world = case.fake.world();
            let site = world.site_mut(1);
            site.add(Visit::new(6000, at));
            site.add(Visit::new(6001, at).and(Action::goal(at, 1, "Only", "/").manual()));
            site.add(Visit::new(6002, at).and(Action::content(at, "/", "Banner", "img.png")));
        }
        // It is missing from the table of visits too.
        assert_eq!(case.check(", deep => true"), ["3: 6 3 3 0 0 0"]);
        assert_eq!(case.check(", repair => true"), ["3: 6 3 3 0 0 3"]);
        assert_eq!(case.check(", true, true"), ["3: 6 6 0 0 0 0"]);
        let oracle = case.oracle();
        assert_equal(&mut case.db, table, &oracle);
    }
}

#[test]
fn a_visit_that_moved_to_another_day_is_stale_there_and_not_extra_here() {
    for table in TABLES {
        let mut case = Case::new(table);
        let at = case.noon.at(2, "00:10:00");
        case.fake.world().site_mut(1).visit_mut(1033).push(Action::page(at, "/moved", "Moved"));
        let one_day = |ago: u64, arguments: &str| {
            format!(
                "SELECT concat_ws(' ', visits_there, visits_here, missing, extra, stale, repaired)
                 FROM matomo_check(1, '{0}', '{0}', '{1}', '{2}', '{table}'{arguments})",
                case.noon.text(ago),
                case.fake.url(),
                case.fake.token()
            )
        };
        let (three, two) = (one_day(3, ""), one_day(2, ", repair => true"));
        assert_eq!(texts(&mut case.db, &three), ["2 2 0 0 0 0"]);
        assert_eq!(texts(&mut case.db, &two), ["4 4 0 0 1 1"]);
        assert_eq!(case.check(", true, true"), ["3: 2 2 0 0 0 0", "2: 4 4 0 0 0 0"]);
        let oracle = case.oracle();
        assert_equal(&mut case.db, table, &oracle);
    }
}

#[test]
fn tables_with_times_as_sent_are_checked_as_such() {
    for table in TABLES {
        let (first, last) = ("2026-10-24", "2026-10-26");
        let fake = serve(world(95, "Europe/Paris", 25, first, last));
        let mut db = database();
        run(&mut db, "LOAD 'matomo_postgres'; SET matomo.action_time = 'as_sent'");
        Sync::of(&fake, first, last).into(table).run(&mut db);
        let sum = |db: &mut Client, arguments: &str| -> String {
            let sql = format!(
                "SELECT concat_ws(' ', sum(missing), sum(extra), sum(stale), sum(repaired))
                 FROM matomo_check(1, '{first}', '{last}', '{}', '{}', '{table}'{arguments})",
                fake.url(),
                fake.token()
            );
            one(db, &sql)
        };
        assert_eq!(sum(&mut db, ", deep => true"), "0 0 0 0");
        let gone = fake.world().site(1).visits.iter().find(|v| v.actions.len() > 3).unwrap().id;
        fake.world().site_mut(1).delete(gone);
        assert_eq!(sum(&mut db, ", true, true"), "0 1 0 1");
        let oracle = fake.world().oracle(1, day(first), day(last), ActionTime::AsSent);
        assert_equal(&mut db, table, &oracle);
        // With the other kind of time all rows differ.
        run(&mut db, "SET matomo.action_time = 'utc'");
        sum(&mut db, ", true, true");
        assert_equal(&mut db, table, &all_of(&fake, 1));
    }
}

#[test]
fn a_deep_check_that_mends_asks_for_each_visit_once() {
    let mut case = Case::new("matomo");
    run(&mut case.db, "UPDATE matomo SET action_title = 'stale' WHERE idvisit = '1032'");
    asked(&case.fake);
    case.check(", deep => true");
    let requests = asked(&case.fake).len();
    case.check(", deep => true, repair => true");
    assert_eq!(asked(&case.fake).len(), requests);
    let oracle = case.oracle();
    assert_equal(&mut case.db, "matomo", &oracle);
}
