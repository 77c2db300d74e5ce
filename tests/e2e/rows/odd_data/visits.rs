//! Visits without times, actions or IDs, duplicates, visits of other sites, and endless ones.

use fake_matomo::{Action, Visit};
use serde_json::Value;

use super::*;
use crate::support::report::{all_there, proven, said};

#[test]
fn actions_in_an_object_in_place_of_a_list() {
    let body = format!(
        r#"[{{"idVisit":"7","lastActionTimestamp":"{NOON}","actionDetails":
        {{"0":{{"title":"a","timestamp":"{NOON}"}},"2":{{"title":"b","timestamp":{}.0}}}}}}]"#,
        NOON + 9
    );
    let mut db = synced(&saying(body));
    let rows = ["7_0|a|2026-10-25 12:00:00+00", "7_1|b|2026-10-25 12:00:09+00"];
    let seen =
        assert_rows(&mut db, "concat_ws('|', action_id, action_title, action_timestamp)", &rows);
    proven(
        "Data",
        "an object in place of the list of actions",
        r#"`{"0":{…},"2":{…}}`, timestamps as text and as `1792929609.0`"#,
        "its members in their order; the times as they are",
        &seen.join(", "),
    );
    // An element that is not an action still counts as a place in the visit.
    let body = format!(
        r#"[{{"idVisit":7,"lastActionTimestamp":{NOON},"actionDetails":[1,null,"x",[],{{"title":"b"}}]}}]"#
    );
    let mut db = synced(&saying(body));
    let titles = assert_rows(&mut db, "coalesce(action_title, '')", &["", "", "", "", "b"]);
    proven(
        "Data",
        "what is no action among the actions",
        r#"`[1,null,"x",[],{"title":"b"}]` in `actionDetails`"#,
        "a row for each place, so that `action_id` stays the place in Matomo's list",
        &format!("{} rows, the last with title {}", titles.len(), titles[4]),
    );
}

#[test]
fn missing_timestamps_take_that_of_the_action_before() {
    let mut whole = Visit::new(1, NOON);
    let page = |at: i64| Action::page(NOON + at, "https://x.example.org/", "Page");
    whole.push(page(0)).push(page(5).without("timestamp")).push(page(9));
    let mut at_the_start = Visit::new(2, NOON + 100);
    at_the_start.push(page(100).with("timestamp", Value::Null)).push(page(107));
    at_the_start.actions[0].omit.push("timestamp".to_owned());
    let mut not_one = Visit::new(3, NOON + 200);
    not_one.push(page(200).without("timestamp")).push(page(220).without("timestamp"));
    let mut no_first = Visit::new(4, NOON + 300);
    no_first.push(page(300)).push(page(310));
    no_first.omit.push("firstActionTimestamp".to_owned());
    let mut no_last = Visit::new(5, NOON + 400);
    no_last.push(page(400)).push(page(410));
    no_last.omit.push("lastActionTimestamp".to_owned());
    assert_oracle(&matomo([whole, at_the_start, not_one, no_first, no_last]));
}

#[test]
fn without_any_timestamp_the_begin_of_the_day_stands_in() {
    let sets = [
        "",
        r#","firstActionTimestamp":null,"lastActionTimestamp":null,"serverTimestamp":null"#,
        r#","firstActionTimestamp":"","lastActionTimestamp":"soon","serverTimestamp":[]"#,
        r#","firstActionTimestamp":9e99,"lastActionTimestamp":-9223372036854775808"#,
        r#","firstActionTimestamp":999999999999,"lastActionTimestamp":9223372036854775807"#,
    ];
    let mut seen = Vec::new();
    for times in sets {
        let body = format!(
            r#"[{{"idVisit":7{times},"actionDetails":[{{"title":"a"}},{{"timestamp":"x"}},{{"timestamp":99999999999999}}]}}]"#
        );
        let fake = saying(body);
        let mut db = synced(&fake);
        seen.extend(assert_rows(&mut db, "action_timestamp", &["2026-10-25 00:00:00+00"; 3]));
        assert_rows(&mut db, "serverdateprettyfirstaction", &["null"; 3]);
        // Paging does not lose its place either: each of these pages is full.
        let sums = Sync::of(&fake, DAY, DAY).pages_of(1).run(&mut db);
        assert_eq!((sums.visits, sums.written()), (1, 0), "{times}");
        assert_eq!(repaired(&mut db, &fake), 0, "{times}");
    }
    let rows = seen.len();
    seen.dedup();
    proven(
        "Data",
        "timestamps that are none",
        "missing, null, empty, words, lists, `9e99`, 999999999999, the ends of `bigint`: all those of a visit",
        "the begin of the day stands in for them; paging goes on",
        &format!("{rows} rows, at {}", seen.join(", ")),
    );
}

#[test]
fn times_from_the_year_1_to_the_year_9999_have_their_partitions() {
    let times = [-62_135_596_800, -1, 0, NOON, 253_402_300_799, 253_402_300_800];
    let actions: Vec<_> = times.iter().map(|at| format!(r#"{{"timestamp":{at}}}"#)).collect();
    let body = format!(
        r#"[{{"idVisit":7,"firstActionTimestamp":0,"lastActionTimestamp":{NOON},"actionDetails":[{}]}}]"#,
        actions.join(",")
    );
    let mut db = synced(&saying(body));
    let rows = [
        "0001-01-01 00:00:00+00",
        "1969-12-31 23:59:59+00",
        "1970-01-01 00:00:00+00",
        "2026-10-25 12:00:00+00",
        "9999-12-31 23:59:59+00",
        // A year of five digits counts as no time: the previous action's time is used.
        "9999-12-31 23:59:59+00",
    ];
    let seen = assert_rows(&mut db, "action_timestamp", &rows);
    proven(
        "Data",
        "huge and negative timestamps",
        &times.map(|at| at.to_string()).join(", "),
        "the years 1 to 9999, each in its weekly partition; beyond, the time of the action before",
        &seen.join(", "),
    );
    let sql = "SELECT string_agg(inhrelid::regclass::text, ' ' ORDER BY inhrelid::regclass::text COLLATE \"C\") \
               FROM pg_inherits WHERE inhparent = 'matomo_partitioned'::regclass";
    assert_eq!(
        one::<String>(&mut db, sql),
        "matomo_partitioned_0001w01 matomo_partitioned_1970w01 matomo_partitioned_2026w43 \
         matomo_partitioned_9999w52"
    );
}

#[test]
fn visits_without_actions_have_no_rows() {
    let mut seen = Vec::new();
    for actions in [
        "",
        r#","actionDetails":[]"#,
        r#","actionDetails":null"#,
        r#","actionDetails":{}"#,
        r#","actionDetails":"""#,
    ] {
        let fake = saying(format!(r#"[{{"idVisit":7,"lastActionTimestamp":{NOON}{actions}}}]"#));
        let mut db = database();
        for table in TABLES {
            let sums = Sync::of(&fake, DAY, DAY).into(table).run(&mut db);
            assert_eq!((sums.visits, sums.actions, sums.written()), (1, 0, 0), "{actions}");
            assert_eq!(one::<i64>(&mut db, &format!("SELECT count(*) FROM {table}")), 0);
            seen.push(format!("{} visit read, {} rows", sums.visits, sums.written()));
        }
    }
    seen.dedup();
    proven(
        "Data",
        "a visit without actions",
        r#"`actionDetails` is missing, `[]`, `null`, `{}` or `""`"#,
        "no rows and no error",
        &seen.join("; "),
    );
}

#[test]
fn a_visit_that_loses_its_actions_loses_its_rows() {
    let visit = |id: i64| {
        Visit::new(id, NOON + id)
            .and(Action::page(NOON + id, "https://x.example.org/", "Page"))
            .and(Action::goal(NOON + id, 1, "Goal", "https://x.example.org/"))
    };
    let mut seen = Vec::new();
    for gone in ["actionDetails left out", "no actions"] {
        let fake = matomo([visit(1), visit(2), visit(3)]);
        let mut db = assert_oracle(&fake);
        match gone {
            "no actions" => fake.world().site_mut(1).visit_mut(2).actions.clear(),
            _ => fake.world().site_mut(1).visit_mut(2).omit.push("actionDetails".to_owned()),
        }
        for table in TABLES {
            let sums = Sync::of(&fake, DAY, DAY).into(table).run(&mut db);
            assert_eq!((sums.deleted, sums.written(), sums.visits), (2, 2, 3), "{gone}");
            let all = all_there(&mut db, table, &oracle(&fake, DAY, DAY));
            assert_tables_equal(&mut db, table, &tables_between(&fake, 1, DAY, DAY));
            seen.push(format!("{} rows deleted; {all}", sums.deleted));
        }
        assert_eq!(Sync::of(&fake, DAY, DAY).into(NODE).run(&mut db).deleted, 2);
        assert_rows(&mut db, "action_id", &["1_0", "1_1", "3_0", "3_1"]);
    }
    seen.dedup();
    proven(
        "Data",
        "a visit that loses its actions",
        "after a sync its `actionDetails` are empty, or left out",
        "its rows go, all others stay",
        &seen.join("; "),
    );
}

#[test]
fn ids_of_visits_at_the_edge() {
    for (id, stored) in [
        ("9223372036854775807", "9223372036854775807"),
        ("\"9223372036854775807\"", "9223372036854775807"),
        ("\" 12 \"", "12"),
        ("1e3", "1000"),
        ("0", "0"),
    ] {
        let body = visit_with(&format!(r#""idVisit":{id}"#), "");
        let mut db = synced(&saying(body));
        let rows = [0, 1].map(|index| format!("{stored} {stored}_{index}"));
        assert_rows(&mut db, "idvisit || ' ' || action_id", &[&rows[0], &rows[1]]);
    }
    let long = "9".repeat(5000);
    let mut seen = Vec::new();
    for id in [
        "9223372036854775808",
        &long,
        &format!("\"{long}\""),
        "1e400",
        "null",
        "\"\"",
        "\"a\"",
        "{}",
    ] {
        let fake = saying(visit_with(&format!(r#""idVisit":{id}"#), ""));
        let mut db = database();
        let error = Sync::of(&fake, DAY, DAY).error(&mut db);
        let message = "unexpected answer of Matomo: a visit without idVisit";
        assert_eq!((error.code().code(), error.message()), ("08P01", message), "{id}");
        let detail =
            format!("Method Live.getLastVisitsDetails, site 1 at {}, day {DAY}.", fake.url());
        assert_eq!(error.detail(), Some(detail.as_str()));
        assert_eq!(one::<Option<u32>>(&mut db, "SELECT to_regclass('matomo')::oid"), None);
        seen.push(said(&error));
    }
    seen.dedup();
    proven(
        "Data",
        "an `idVisit` that is none",
        "9223372036854775808, 5,000 digits, `1e400`, `null`, an empty text, a word, an object",
        "`08P01` and nothing written: such a visit cannot be stored, and is not left out in silence",
        &seen.join("; "),
    );
}

#[test]
fn a_visit_that_comes_twice_in_an_answer_is_stored_once() {
    let visit = |title: &str| {
        format!(
            r#"{{"idVisit":7,"lastActionTimestamp":{NOON},"actionDetails":[{{"timestamp":{NOON},"title":"{title}"}}]}}"#
        )
    };
    let fake = saying(format!("[{},{}]", visit("early"), visit("late")));
    let mut db = synced(&fake);
    let titles = assert_rows(&mut db, "action_title", &["late"]);
    proven(
        "Data",
        "a visit twice in an answer",
        "the second time with another title",
        "it is stored once, as it came last",
        &format!("{} row, titled {}", titles.len(), titles[0]),
    );
}

/// A roll-up site lists the visits of other sites under their own IDs.
#[test]
fn visits_of_other_sites_are_stored_as_theirs_where_the_site_is_a_rollup() {
    let fake = saying(visit_with(r#""idSite":2"#, ""));
    fake.world().site_mut(1).kind = "rollup".to_owned();
    let mut db = synced(&fake);
    assert_rows(&mut db, "idsite", &["2"; 2]);
    let check = format!(
        "SELECT concat_ws(' ', visits_there, visits_here, missing, extra, stale) \
         FROM matomo_check(1, '{DAY}', '{DAY}', '{}', '{}', deep => true)",
        fake.url(),
        fake.token()
    );
    assert_eq!(one::<String>(&mut db, &check), "1 1 0 0 0");
}

/// A poll of today does not request the site, so it is requested when needed.
#[test]
fn a_rollup_is_asked_for_when_the_ledger_knows_the_site() {
    let noon = Noon::new();
    let fake = serve(noon.world(1));
    let mut db = database();
    sync(&mut db, &fake, &format!(", '{}'", noon.text(0)));
    let at = noon.at(0, "11:00:00");
    let body = format!(
        r#"[{{"idSite":2,"idVisit":7,"firstActionTimestamp":{at},"lastActionTimestamp":{at},
        "actionDetails":[{{"type":"action","timestamp":{at}}}]}}]"#
    );
    fake.fail(Fault::Raw(body.into_bytes()), When::live());
    let sql = sync_sql(&fake, 1, "");
    assert_eq!(error(&mut db, &sql).message(), "unexpected answer of Matomo: visit 7 is of site 2");
    fake.world().site_mut(1).kind = "rollup".to_owned();
    fake.world().add_site(Site::new(2, "Second", "UTC"));
    asked(&fake);
    assert_eq!(sync(&mut db, &fake, "").inserted, 1);
    let lines = asked(&fake);
    // The roll-up, and the sites that it may have visits of.
    let of_all = "SitesManager.getSitesWithAtLeastViewAccess";
    assert_eq!(lines[1..], ["site", of_all], "{lines:?}");
}

#[test]
fn a_visit_of_another_site_than_the_one_asked_for_is_an_error() {
    let ours = matomo([Visit::new(7, NOON).and(Action::page(NOON, "/", "Ours"))]);
    ours.world().add_site(Site::new(2, "Second", "UTC"));
    let mut db = database();
    for table in TABLES {
        let sync = Sync::of(&ours, DAY, DAY).into(table);
        ours.heal();
        sync.run(&mut db);
        ours.fail(Fault::Raw(visit_with("", "").into_bytes()), When::live());
        let before = fingerprint(&mut db, table);
        let of_second = Sync { site: 2, ..Sync::of(&ours, DAY, DAY).into(table) };
        let check = format!(
            "SELECT * FROM matomo_check(2, '{DAY}', '{DAY}', '{}', '{}', '{table}', repair => true)",
            ours.url(),
            ours.token()
        );
        for sql in [of_second.sql(), check] {
            let refused = error(&mut db, &sql);
            let message = "unexpected answer of Matomo: visit 7 is of site 1";
            assert_says(&refused, "08P01", message, &["site 2 at"], "roll-up");
        }
        assert_eq!(fingerprint(&mut db, table), before);
    }
}

#[test]
fn a_matomo_that_ignores_the_size_of_pages_is_not_asked_without_end() {
    let visits = |count: i64| {
        let visit = |id| {
            format!(
                r#"{{"idVisit":{id},"lastActionTimestamp":{NOON},"actionDetails":[{{"timestamp":{NOON}}}]}}"#
            )
        };
        saying(format!("[{}]", (0..count).map(visit).collect::<Vec<_>>().join(",")))
    };
    let mut db = database();
    db.batch_execute("SET statement_timeout = '20 s'").unwrap();
    let sums = Sync::of(&visits(3), DAY, DAY).pages_of(1).run(&mut db);
    assert_eq!((sums.visits, sums.inserted), (3, 3));
    let whole = sums.inserted;
    forget_matomo(&mut db);
    let error = Sync::of(&visits(1100), DAY, DAY).pages_of(1000).error(&mut db);
    let message = "unexpected answer of Matomo: the same page again and again";
    assert_eq!((error.code().code(), error.message()), ("08P01", message));
    proven(
        "Data",
        "pages without end",
        "a server that ignores the size of pages and the place in them: 3 visits, and 1,100",
        "what fits one page is stored; else `08P01`, and no asking for ever",
        &format!("{whole} rows; {}", said(&error)),
    );
}
