//! Values of every wrong type in every field, and in place of whole actions, visits and answers.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::*;
use crate::support::report::{proven, said};

/// The keys of a visit, and the columns that depend on each.
const OF_VISIT: [(&str, &[&str]); 25] = [
    ("idSite", &["idsite"]),
    ("actions", &["actions"]),
    ("country", &["country"]),
    ("region", &["region"]),
    ("city", &["city"]),
    ("operatingSystemName", &["operatingsystemname"]),
    ("deviceModel", &["devicemodel"]),
    ("deviceBrand", &["devicebrand"]),
    ("visitDuration", &["visitduration"]),
    ("daysSinceFirstVisit", &["dayssincefirstvisit"]),
    ("visitorType", &["visitortype"]),
    ("siteName", &["sitename"]),
    ("userId", &["userid"]),
    ("visitorId", &["visitorid"]),
    ("referrerType", &["referrertype"]),
    ("referrerName", &["referrername"]),
    ("resolution", &["resolution"]),
    ("experiments", &["experiments"]),
    ("customVariables", &["usercustomproperties"]),
    ("dimension3", &["usercustomdimensions", "dimension3"]),
    ("dimension11", &["usercustomdimensions"]),
    ("firstActionTimestamp", &["serverdateprettyfirstaction", "action_timestamp"]),
    ("lastActionTimestamp", &["action_timestamp", "day"]),
    ("serverTimestamp", &["action_timestamp"]),
    ("truncatedActionsCount", &["action_timestamp"]),
];

/// The keys of an action. Each visit here has two actions.
const OF_ACTION: [(&str, &[&str]); 12] = [
    ("type", &["action_type"]),
    ("eventCategory", &["action_eventcategory"]),
    ("eventAction", &["action_eventaction"]),
    ("eventName", &["action_eventname"]),
    ("eventValue", &["action_eventvalue"]),
    ("timeSpent", &["action_timespent"]),
    ("timestamp", &["action_timestamp"]),
    ("url", &["action_url"]),
    ("title", &["action_title"]),
    ("siteSearchKeyword", &["sitesearchkeyword"]),
    ("customVariables", &["usercustomproperties"]),
    ("dimension3", &["usercustomdimensions", "dimension3"]),
];

const VALUES: [&str; 12] = [
    "null",
    "true",
    "-1",
    "0.5",
    "1e999",
    "18446744073709551616",
    r#""""#,
    r#""text""#,
    "[]",
    "{}",
    "[1,[2]]",
    r#"{"a":{"b":null}}"#,
];

/// The same visit under another ID.
fn visit(id: usize, of_visit: &str, of_action: &str) -> String {
    let list = visit_with(of_visit, of_action);
    let visit = list.strip_prefix('[').and_then(|list| list.strip_suffix(']')).unwrap();
    visit.replace(r#""idVisit":7,"#, &format!(r#""idVisit":{id},"#))
}

/// The rows of a table, by their action_id.
fn rows(db: &mut Client, table: &str) -> BTreeMap<String, Map<String, Value>> {
    // One of the numbers is too large for this test's JSON parser.
    let row = "to_jsonb(t) || jsonb_build_object('action_eventvalue', t.action_eventvalue::text, \
               'extra', (to_jsonb(t) -> 'extra')::text)";
    let all = texts(db, &format!("SELECT ({row})::text FROM {table} t"));
    let all = all.iter().map(|text| serde_json::from_str::<Map<_, _>>(text).unwrap());
    all.map(|row| (row["action_id"].as_str().unwrap().to_owned(), row)).collect()
}

/// Columns of whole numbers in typed tables.
const NUMBERS: [&str; 5] =
    ["idsite", "actions", "visitduration", "dayssincefirstvisit", "action_timespent"];

/// The value stored in a text column.
fn as_text(value: &str, column: &str) -> Value {
    if column == "idsite" {
        // A value that is not a number means the requested site.
        return Value::from(match value {
            "-1" => "-1",
            "0.5" => "0",
            _ => "1",
        });
    }
    let empty = match column {
        "action_type" | "action_eventcategory" | "action_eventaction" | "action_eventname" => {
            Value::from("")
        }
        "action_timespent" => Value::from("0"),
        _ => Value::Null,
    };
    match value {
        "null" => empty,
        value => Value::from(value.trim_matches('"')),
    }
}

/// The value stored in a typed table.
fn as_typed(value: &str, column: &str) -> Value {
    match as_text(value, column) {
        Value::String(text) if NUMBERS.contains(&column) => {
            text.parse::<i64>().map_or(Value::Null, Value::from)
        }
        other => other,
    }
}

/// Whether a typed table keeps the value of a key in `extra`.
fn is_misfit(key: &str, value: &str, column: &str) -> bool {
    match key {
        // Of a time whose fraction of a second is cut.
        "idSite" | "firstActionTimestamp" | "lastActionTimestamp" | "timestamp" => {
            return !matches!(value, "null" | r#""""# | "-1" | "0.5");
        }
        // One is left out, and a table of visits has the other.
        "serverTimestamp" | "truncatedActionsCount" => return false,
        "customVariables" => {
            let says_nothing = ["null", r#""""#, "[]", "{}", r#"{"a":{"b":null}}"#];
            return !says_nothing.contains(&value);
        }
        _ => {}
    }
    let text = as_text(value, column);
    let text = text.as_str().unwrap_or_default();
    match column {
        _ if text.is_empty() => false,
        // 0 stands for a value that is not a number.
        "action_eventvalue" => text.parse::<f64>().is_err(),
        _ => as_typed(value, column) == Value::Null,
    }
}

#[test]
fn no_kind_of_value_in_any_field_costs_another_value() {
    let of_visit = OF_VISIT.map(|field| (field, false));
    let of_action = OF_ACTION.map(|field| (field, true));
    let fields: Vec<_> = of_visit.into_iter().chain(of_action).collect();
    // Deeper than the parser's recursion limit.
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let values: Vec<_> = VALUES.into_iter().chain([&*deep]).collect();
    let cases: Vec<_> =
        fields.iter().flat_map(|field| values.iter().map(|value| (*field, *value))).collect();
    let visits = (8..).zip(&cases).map(|(id, (((key, _), is_action), value))| {
        let member = format!(r#""{key}":{value}"#);
        if *is_action { visit(id, "", &member) } else { visit(id, &member, "") }
    });
    let visits: Vec<_> = [visit(7, "", "")].into_iter().chain(visits).collect();
    let fake = saying(format!("[{}]", visits.join(",")));
    fake.world().site_mut(1).kind = "rollup".to_owned();
    let mut db = synced(&fake);
    let mut plain = 0;
    for table in TABLES.into_iter().chain([NODE]) {
        let rows = rows(&mut db, table);
        assert_eq!(rows.len(), visits.len() * 2, "{table}");
        plain = rows.len() - 2;
        for (id, (((key, columns), is_action), value)) in (8..).zip(&cases) {
            for index in [0, 1] {
                let mut row = rows[&format!("{id}_{index}")].clone();
                let mut expected = rows[&format!("7_{index}")].clone();
                for column in columns.iter().chain(&["action_id", "idvisit"]) {
                    // The Node tool's tables have no column `day`.
                    assert!(row.remove(*column).is_some() || (table, *column) == (NODE, "day"));
                    expected.remove(*column);
                }
                let extra = row.remove("extra").unwrap();
                let extra = extra.as_str().filter(|extra| *extra != "null");
                expected.remove("extra");
                let is_its = table != NODE && (index == 0 || !is_action);
                let kept = (is_its && is_misfit(key, value, columns[0])).then(|| match *value {
                    "1e999" => format!("{{\"{key}\": 1{}}}", "0".repeat(999)),
                    number if number.parse::<f64>().is_ok() => format!("{{\"{key}\": {number}}}"),
                    value => {
                        let value = serde_json::from_str(value).unwrap_or(Value::from(value));
                        one(
                            &mut db,
                            &format!("SELECT '{}'::jsonb::text", serde_json::json!({*key: value})),
                        )
                    }
                });
                assert_eq!(extra, kept.as_deref(), "{table}: {key} is {value}");
                assert_eq!(row, expected, "{table}: {key} is {value}");
            }
            // The odd value itself, in a text column.
            let column = columns[0];
            let has_own = ["eventvalue", "timestamp", "usercustom", "experiments", "serverdate"];
            if has_own.iter().all(|part| !column.contains(part)) {
                for index in if *is_action { 0..1 } else { 0..2 } {
                    let found = &rows[&format!("{id}_{index}")][column];
                    let expected = match table {
                        NODE => as_text(value, column),
                        _ => as_typed(value, column),
                    };
                    assert_eq!(*found, expected, "{table}: {key} is {value}");
                }
            }
        }
    }
    proven(
        "Data",
        "any kind of value in any field",
        &format!(
            "{} fields of visits and actions, each in turn {}, or 200 lists within lists: {} visits in one answer",
            fields.len(),
            VALUES.map(|value| format!("`{value}`")).join(", "),
            cases.len()
        ),
        "all rows; the odd value as its JSON's text, null or zero; every other column as in a visit without it",
        &format!("{plain} rows; every other column as in a visit without it"),
    );
}

#[test]
fn numbers_beyond_all_bounds_stand_in_for_anything() {
    for number in ["1e999", "-1e999", "123456789012345678901234567890"] {
        let action = |title: &str| format!(r#"{{"timestamp":{NOON},"title":"{title}"}}"#);
        let of = |id: usize, actions: &str| {
            format!(r#"{{"idVisit":{id},"lastActionTimestamp":{NOON},"actionDetails":{actions}}}"#)
        };
        let (a, b, c) = (action("a"), action("b"), action("c"));
        let visits = [
            of(1, &format!("[{a},{number},{b}]")),
            of(2, number),
            of(3, &format!(r#"{{"0":{number},"2":{c}}}"#)),
            of(4, &format!(r#"[{{"title":{number},"timestamp":{number},"eventValue":{number}}}]"#)),
        ];
        let mut db = synced(&saying(format!("[{}]", visits.join(","))));
        let expected = ["1_0 a", "1_1", "1_2 b", "3_0", "3_1 c", &format!("4_0 {number}")];
        let found = assert_rows(&mut db, "concat_ws(' ', action_id, action_title)", &expected);
        if number == "1e999" {
            proven(
                "Data",
                "a number beyond `double precision`",
                "`1e999` in place of an action, of `actionDetails`, and of values",
                "a row for each place among the actions, the others as they are",
                &format!("`action_id` and title: {}", found.join(", ")),
            );
        }
        // A visit without an ID cannot be stored, and is reported.
        let fake = saying(format!("[{},{number}]", visits[0]));
        forget_matomo(&mut db);
        let error = Sync::of(&fake, DAY, DAY).error(&mut db);
        let message = "unexpected answer of Matomo: a visit without idVisit";
        assert_eq!((error.code().code(), error.message()), ("08P01", message));
    }
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    for marks in [1, 2] {
        let body = format!("{}{}", "\u{feff}".repeat(marks), visit_with("", r#""title":"first""#));
        let mut db = synced(&saying(body));
        let found = assert_rows(&mut db, "action_title", &["first", "second"]);
        if marks == 1 {
            proven(
                "Data",
                "a byte order mark",
                "EF BB BF before the answer, as from a PHP file that was saved with it",
                "passed over",
                &format!("`action_title`: {}", found.join(", ")),
            );
        }
    }
    // Anywhere else it is an ordinary character.
    let mut db = synced(&saying(visit_with("", "\"title\":\"\u{feff}x\"")));
    assert_rows(&mut db, "action_title", &["\u{feff}x", "second"]);
}

#[test]
fn an_answer_of_brackets_alone_is_an_error() {
    let mut db = database();
    run(&mut db, "SET matomo.max_retries = 0");
    let depth = 100_000;
    let mut seen = Vec::new();
    for (open, close, message) in [
        ("[", "]", "unexpected answer of Matomo: a visit without idVisit"),
        (r#"{"a":"#, "}", "unexpected answer of Matomo: an object where a list of visits belongs"),
    ] {
        let body = format!("{}0{}", open.repeat(depth), close.repeat(depth));
        let error = Sync::of(&saying(body), DAY, DAY).error(&mut db);
        assert_eq!((error.code().code(), error.message()), ("08P01", message), "{error:?}");
        seen.push(said(&error));
    }
    assert_eq!(one::<Option<u32>>(&mut db, "SELECT to_regclass('matomo')::oid"), None);
    proven(
        "Data",
        "JSON of any depth, in place of the answer",
        "100,000 lists within lists; 100,000 objects within objects",
        "`08P01`, nothing written, the session goes on",
        &seen.join("; "),
    );
}
