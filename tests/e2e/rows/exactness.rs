//! The tables equal the oracle, row for row and column for column.

use fake_matomo::ActionTime;

use crate::support::cluster::shared;
use crate::support::*;

/// Timezones, with days around their clock changes.
const ZONES: [(&str, &str, &str); 5] = [
    ("UTC", "2026-03-02", "2026-03-04"),
    ("Europe/Paris", "2026-10-24", "2026-10-26"),
    ("Europe/Paris", "2026-03-28", "2026-03-30"),
    ("America/Los_Angeles", "2025-11-01", "2025-11-03"),
    ("UTC-3.5", "2026-10-24", "2026-10-26"),
];

#[test]
fn tables_equal_the_oracle() {
    for (number, (zone, first, last)) in (1..).zip(ZONES) {
        let fake = serve(world(number, zone, 60, first, last));
        let oracle = oracle(&fake, first, last);
        assert!(oracle.len() > 300, "{zone}: a world of {} rows proves little", oracle.len());
        for table in ["matomo", "matomo_partitioned"] {
            let mut db = database();
            for page_size in [7, 1, 500] {
                let sums =
                    Sync::of(&fake, first, last).into(table).pages_of(page_size).run(&mut db);
                assert_eq!(sums.days, 3);
                assert_equal(&mut db, table, &oracle);
                assert_tables_equal(&mut db, table, &tables_between(&fake, 1, first, last));
                let all =
                    ["", "_visits", "_conversions", "_items"].map(|kind| format!("{table}{kind}"));
                run(&mut db, &format!("TRUNCATE {}", all.join(", ")));
            }
        }
    }
}

#[test]
fn a_second_run_touches_no_row() {
    let (first, last) = ("2026-10-24", "2026-10-26");
    let fake = serve(world(7, "Europe/Paris", 60, first, last));
    for table in ["matomo", "matomo_partitioned"] {
        let mut db = database();
        let sync = Sync::of(&fake, first, last).into(table);
        let before = sync.run(&mut db);
        let oracle = oracle(&fake, first, last);
        assert_eq!(before.inserted, i64::try_from(oracle.len()).unwrap());
        assert_eq!(before.actions, before.inserted);
        let rows = fingerprints(&mut db, table);
        let again = sync.run(&mut db);
        assert_eq!(again.written(), 0);
        assert_eq!(fingerprints(&mut db, table), rows);
        assert_eq!((again.visits, again.actions), (before.visits, before.actions));
    }
}

#[test]
fn rows_do_not_depend_on_the_sessions_time_zone() {
    let (first, last) = ("2026-10-24", "2026-10-26");
    let fake = serve(world(3, "Europe/Paris", 20, first, last));
    let oracle = oracle(&fake, first, last);
    for zone in [
        "UTC",
        "Europe/Paris",
        "America/Los_Angeles",
        "Asia/Kolkata",
        "Pacific/Kiritimati",
        "Pacific/Marquesas",
        "Etc/GMT+12",
        "<+0330>-3:30",
    ] {
        let mut db = database();
        db.batch_execute(&format!("SET TimeZone = '{zone}'; SET DateStyle = 'SQL, DMY'")).unwrap();
        for table in ["matomo", "matomo_partitioned"] {
            Sync::of(&fake, first, last).into(table).run(&mut db);
        }
        let shown: String = one(&mut db, "SHOW TimeZone");
        assert_eq!(shown, zone, "the session's own settings stay");
        for table in ["matomo", "matomo_partitioned"] {
            assert_equal(&mut db, table, &oracle);
            assert_tables_equal(&mut db, table, &tables_between(&fake, 1, first, last));
        }
        let bounds: Vec<String> = db
            .query("SELECT relname::text FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1", &[])
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let expected = ["", "_conversions", "_items", "_visits"]
            .map(|kind| [43, 44].map(|week| format!("matomo_partitioned{kind}_2026w{week}")));
        let mut expected = expected.concat();
        expected.sort();
        assert_eq!(bounds, expected);
    }
}

#[test]
fn action_time_as_sent_keeps_the_node_tools_values() {
    let (first, last) = ("2026-10-24", "2026-10-26");
    let fake = serve(world(4, "Europe/Paris", 30, first, last));
    let as_sent = fake.world().oracle(1, day(first), day(last), ActionTime::AsSent);
    let utc = oracle(&fake, first, last);
    let all = |time| fake.world().oracle_tables(1, day(first), day(last), time);
    for table in ["matomo", "matomo_partitioned"] {
        let mut db = database();
        db.batch_execute("SET matomo.action_time = 'as_sent'").unwrap();
        let sync = Sync::of(&fake, first, last).into(table);
        sync.run(&mut db);
        assert_equal(&mut db, table, &as_sent);
        assert_tables_equal(&mut db, table, &all(ActionTime::AsSent));
        // And back: every row moves.
        db.batch_execute("SET matomo.action_time = 'utc'").unwrap();
        sync.run(&mut db);
        assert_equal(&mut db, table, &utc);
        assert_tables_equal(&mut db, table, &all(ActionTime::Utc));
    }
}

#[test]
fn old_php_and_plain_answers_mean_the_same() {
    let (first, last) = ("2026-10-24", "2026-10-25");
    let mut made = world(5, "UTC", 40, first, last);
    made.numbers_as_strings = true;
    made.plain_custom_variables = true;
    let fake = serve(made);
    fake.knobs().unescaped = true;
    fake.knobs().gzip = true;
    let mut db = database();
    Sync::of(&fake, first, last).run(&mut db);
    assert_equal(&mut db, "matomo", &oracle(&fake, first, last));
    assert_tables_equal(&mut db, "matomo", &tables_between(&fake, 1, first, last));
}

#[test]
fn a_visit_that_grew_shrank_or_shifted_is_replaced_whole() {
    let (first, last) = ("2026-10-25", "2026-10-26");
    for table in ["matomo", "matomo_partitioned"] {
        let fake = serve(world(6, "Europe/Paris", 30, first, last));
        let mut db = database();
        let sync = Sync::of(&fake, first, last).into(table);
        sync.run(&mut db);
        let unchanged = |db: &mut postgres::Client| -> i64 {
            one(db, &format!("SELECT count(*) FROM {table}"))
        };
        let rows = unchanged(&mut db);
        let (grown, shifted, shrunk);
        {
            let mut world = fake.world();
            let site = world.site_mut(1);
            let mut many: Vec<i64> = site
                .visits
                .iter()
                .filter(|visit| (4..100).contains(&visit.actions.len()))
                .map(|visit| visit.id)
                .collect();
            grown = many.remove(0);
            shifted = many.remove(0);
            shrunk = many.remove(0);
            let visit = site.visit_mut(grown);
            let at = visit.last + 5;
            visit.push(fake_matomo::Action::page(at, "https://example.org/late", "Late"));
            let visit = site.visit_mut(shifted);
            let at = visit.actions[1].at;
            visit.actions.insert(
                1,
                fake_matomo::Action::goal(at, 9, "Late goal", "https://example.org/goal"),
            );
            site.visit_mut(shrunk).actions.remove(1);
        }
        let sums = sync.run(&mut db);
        assert_equal(&mut db, table, &oracle(&fake, first, last));
        assert_tables_equal(&mut db, table, &tables_between(&fake, 1, first, last));
        assert!(sums.inserted > 0 && sums.deleted > 0 && sums.written() < rows / 2, "{sums:?}");
    }
}

#[test]
fn the_last_days_of_what_is_there_are_read_again_without_a_start() {
    let today = chrono::Utc::now().date_naive();
    let first = (today - chrono::Days::new(9)).to_string();
    let fake = serve(world(8, "UTC", 20, &first, &today.to_string()));
    let mut db = database();
    let call = |arguments: &str| {
        format!("SELECT * FROM matomo_sync(1, '{}', '{}'{arguments})", fake.url(), fake.token())
    };
    // Without rows: initial_offset.
    db.batch_execute("SET matomo.initial_offset = 5").unwrap();
    assert_eq!(Sums::of(&db.query(&call(""), &[]).unwrap()).days, 6);
    // With rows: two days before the newest row.
    let end = (today - chrono::Days::new(4)).to_string();
    db.batch_execute("TRUNCATE matomo").unwrap();
    db.query(&call(&format!(", '{first}', '{end}'")), &[]).unwrap();
    // Like a table that the Node tool filled: the ledger does not know it.
    db.batch_execute("DELETE FROM matomo_ledger").unwrap();
    let rows = db.query(&call(""), &[]).unwrap();
    assert_eq!(Sums::of(&rows).days, 7);
    assert_equal(&mut db, "matomo", &oracle(&fake, &first, &today.to_string()));
}

#[test]
fn the_mapping_equals_the_node_tools_example() {
    let json = serde_json::json!({
        "idSite": "42", "idVisit": "124", "actions": "2", "country": "France",
        "firstActionTimestamp": 1629495318, "lastActionTimestamp": 1629495618, "visitDuration": "300",
        "daysSinceFirstVisit": 23, "visitorType": "returningCustomer",
        "actionDetails": [{
            "type": "event", "eventCategory": "Ecommerce", "eventAction": "Cart change", "eventValue": 1,
            "timeSpent": 48, "timestamp": 1629495318, "dimension1": "guest",
            "customVariables": {
                "1": {"customVariablePageName1": "page-author", "customVariablePageValue1": "Julien"},
                "2": {"customVariablePageName2": "post-age", "customVariablePageValue2": "-430 days"},
            },
        }, {"type": "action", "timestamp": 1629495618}],
    });
    let mut made = world(1, "UTC", 1, "2021-08-20", "2021-08-20");
    made.site_mut(1).replace_visits_json(vec![json]);
    // The visit belongs to site 42.
    made.site_mut(1).kind = "rollup".to_owned();
    let fake = serve(made);
    let of_node =
        [r#"{"page-author":"Julien","post-age":"-430 days"}"#, r#"{"dimension1":"guest"}"#];
    let typed =
        [r#"{"post-age": "-430 days", "page-author": "Julien"}"#, r#"{"dimension1": "guest"}"#];
    for (table, [variables, dimensions]) in
        [("node", of_node), ("matomo", typed), ("matomo_partitioned", typed)]
    {
        let mut db = database();
        run(&mut db, "SET TimeZone = 'UTC'; SELECT matomo_create_table('node', layout => 'node')");
        Sync::of(&fake, "2021-08-20", "2021-08-20").into(table).run(&mut db);
        let row: String = one(
            &mut db,
            &format!(
                "SELECT concat_ws('|', action_id, idsite, idvisit, actions, visitduration, dayssincefirstvisit, visitortype, \
                 serverdateprettyfirstaction, action_type, action_eventcategory, action_eventaction, action_eventname, \
                 action_eventvalue, action_timespent, action_timestamp, usercustomproperties, usercustomdimensions, dimension1, \
                 coalesce(dimension2, 'null')) FROM {table} WHERE action_id = '124_0'"
            ),
        );
        assert_eq!(
            row,
            format!(
                "124_0|42|124|2|300|23|returningCustomer|2021-08-20|event|Ecommerce|Cart change||1|48|\
                 2021-08-20 21:35:18+00|{variables}|{dimensions}|guest|null"
            )
        );
    }
}

#[test]
fn two_sessions_make_the_same_partitions() {
    let (first, last) = ("2026-10-05", "2026-10-20");
    let fake = serve(world(9, "UTC", 10, first, last));
    let name = shared().database();
    shared()
        .connect(&name)
        .batch_execute("SELECT matomo_create_table('matomo_partitioned', true)")
        .unwrap();
    let oracle = oracle(&fake, first, last);
    let made = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut db = shared().connect(&name);
                made.wait();
                db.batch_execute("SELECT matomo_create_partitions('matomo_partitioned', '2026-10-05', '2026-10-20')").unwrap();
            });
        }
    });
    let mut db = shared().connect(&name);
    Sync::of(&fake, first, last).into("matomo_partitioned").run(&mut db);
    assert_equal(&mut db, "matomo_partitioned", &oracle);
    let partitions: i64 = one(
        &mut db,
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'matomo_partitioned'::regclass",
    );
    assert_eq!(partitions, 3);
}
