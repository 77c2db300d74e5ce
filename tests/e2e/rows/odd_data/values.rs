//! Values that are not text or numbers, or are too long, too deep, too many, or of an unusual type.

use fake_matomo::{Action, Visit};

use super::*;
use crate::support::report::{all_there, proven};

/// Adds compared rows to the report.
fn proves(case: &str, injected: &str, promised: &str, seen: &str) {
    proven("Data", case, injected, promised, seen);
}

#[test]
fn what_postgres_cannot_hold_becomes_the_replacement_character() {
    let mut body = visit_with(
        r#""siteName":"a\u0000b","userId":"\ud83d","dimension1":"\udc00 \u0000",
           "customVariables":{"1":{"customVariableName1":"of\u0000visit","customVariableValue1":"\ud800v"}},
           "experiments":[{"name\u0000":"\ude00\ud83d","n":["\u0000",{"\ud83d":1}]}]"#,
        r#""url":"https://x.example.org/\u0000\ud800","title":"\ud83dA\udc00 \ud83d\ude00 \\u0000",
           "dimension2":"\ud83d\u0000","eventCategory":"RAW",
           "customVariables":{"1":{"customVariablePageName1":"of\udfffaction","customVariablePageValue1":"\u0000"}}"#,
    )
    .into_bytes();
    // Bytes that are not valid text.
    let at = body.windows(3).position(|bytes| bytes == b"RAW").unwrap();
    body.splice(at..at + 3, *b"\0\xff\xc3\x28");
    let mut db = synced(&saying(body));
    let name = assert_rows(&mut db, "sitename", &["a\u{fffd}b"; 2]);
    let promised = "U+FFFD for it, in text and JSON columns alike";
    proves("U+0000", r"`a\u0000b` in `siteName`", promised, &format!("`{}`", name[0]));
    assert_rows(&mut db, "userid", &["\u{fffd}"; 2]);
    assert_rows(&mut db, "dimension1", &["\u{fffd} \u{fffd}"; 2]);
    assert_rows(&mut db, "dimension2", &["\u{fffd}\u{fffd}", "null"]);
    assert_rows(&mut db, "action_url", &["https://x.example.org/\u{fffd}\u{fffd}", "null"]);
    let title = assert_rows(&mut db, "action_title", &["\u{fffd}A\u{fffd} 😀 \\u0000", "second"]);
    let injected = r"`\ud83dA\udc00 \ud83d\ude00 \\u0000` in `title`";
    let promised = "U+FFFD for each that is alone; pairs, and what only looks like one, stay";
    proves("lone surrogates", injected, promised, &format!("`{}`", title[0]));
    let category = assert_rows(&mut db, "action_eventcategory", &["\u{fffd}\u{fffd}\u{fffd}(", ""]);
    let promised = "U+FFFD for each that is none";
    let seen = format!("`{}`", category[0]);
    proves("bytes that are no UTF-8", "00 FF C3 28 in `eventCategory`", promised, &seen);
    assert_rows(
        &mut db,
        "usercustomproperties::jsonb",
        &[
            "{\"of\u{fffd}visit\": \"\u{fffd}v\", \"of\u{fffd}action\": \"\u{fffd}\"}",
            "{\"of\u{fffd}visit\": \"\u{fffd}v\"}",
        ],
    );
    assert_rows(
        &mut db,
        "usercustomdimensions::jsonb",
        &[
            "{\"dimension1\": \"\u{fffd} \u{fffd}\", \"dimension2\": \"\u{fffd}\u{fffd}\"}",
            "{\"dimension1\": \"\u{fffd} \u{fffd}\"}",
        ],
    );
    let experiments =
        "[{\"n\": [\"\u{fffd}\", {\"\u{fffd}\": 1}], \"name\u{fffd}\": \"\u{fffd}\u{fffd}\"}]";
    assert_rows(&mut db, "experiments", &[experiments; 2]);
}

#[test]
fn texts_with_u0000_equal_the_oracle() {
    let zero = "a\0b";
    let mut visit = Visit::new(5, NOON)
        .and(
            Action::page(NOON, format!("https://x.example.org/{zero}"), zero)
                .variable(1, zero, zero),
        )
        .and(Action::event(NOON + 1, zero, zero).name(zero))
        .and(Action::search(NOON + 2, zero).dimension(3, zero));
    visit.user_id = Some(zero.to_owned());
    visit.set_variable(2, zero, "of the visit");
    assert_oracle(&matomo([visit]));
}

#[test]
fn numbers_lists_and_objects_in_each_others_place() {
    for (of_visit, of_action, expression, expected) in [
        (
            r#""customVariables":[]"#,
            r#""customVariables":[]"#,
            "usercustomproperties",
            ["{}", "{}"],
        ),
        (
            r#""customVariables":{}"#,
            r#""customVariables":null"#,
            "usercustomproperties",
            ["{}", "{}"],
        ),
        (r#""customVariables":"""#, r#""customVariables":5"#, "usercustomproperties", ["{}", "{}"]),
        // PHP sends a map without gaps as a list.
        (
            r#""customVariables":[{"customVariableName1":"a","customVariableValue1":1},5,null,[]]"#,
            "",
            "usercustomproperties::jsonb",
            [r#"{"a": 1}"#; 2],
        ),
        (r#""experiments":[]"#, "", "experiments", ["[]"; 2]),
        (r#""experiments":{}"#, "", "experiments", ["{}"; 2]),
        (r#""experiments":null"#, "", "experiments", ["null"; 2]),
        (r#""experiments":1e9999"#, "", "experiments", ["\"1e9999\""; 2]),
        (
            r#""country":{"code" : ["fr"]},"city":true"#,
            "",
            "concat_ws('|', country, city)",
            [r#"{"code":["fr"]}|true"#; 2],
        ),
        ("", r#""timeSpent":"48""#, "action_timespent", ["48", "0"]),
        ("", r#""type":13"#, "action_type", ["13", "action"]),
        ("", r#""type":null"#, "action_type", ["", "action"]),
        (
            "",
            r#""title":null,"url":false"#,
            "concat_ws('|', action_title, action_url)",
            ["false", "second"],
        ),
        (
            r#""dimension1":7,"dimension2":"","dimension3":null"#,
            "",
            "usercustomdimensions::jsonb",
            [r#"{"dimension1": 7}"#; 2],
        ),
        (r#""idSite":null"#, "", "idsite", ["1"; 2]),
        (r#""idSite":"1""#, "", "idsite", ["1"; 2]),
    ] {
        let mut db = synced(&saying(visit_with(of_visit, of_action)));
        assert_rows(&mut db, expression, &expected);
    }
    let body = visit_with(r#""actions":"2","visitDuration":60.0"#, r#""timeSpent":[]"#);
    let mut db = synced(&saying(body));
    let durations = "concat_ws('|', actions, visitduration)";
    assert_each(&mut db, durations, &["2|60"; 2], &["2|60.0"; 2]);
    assert_each(&mut db, "action_timespent", &["null", "0"], &["[]", "0"]);
}

#[test]
fn unknown_keys_are_passed_over_and_of_a_key_twice_the_last_counts() {
    let mut db = synced(&saying(visit_with(
        r#""":1,"__proto__":{},"ACTIONS":9,"actions":1,"actions":2,"dimension1":"a","dimension1":"b",
           "newInMatomo9":{"a":[{"b":[1,2,{"c":null}]}]},"customVariables":[],
           "customVariables":{"1":{"customVariableName1":"n","customVariableValue1":"x","customVariableValue1":"y"},
           "2":{"customVariableName2":"n","customVariableValue2":"z"},"3":{"customVariableName3":"nameless"}}"#,
        r#""title":"one","title":"two","actionDetails":[{}],"idVisit":99"#,
    )));
    assert_rows(&mut db, "action_id", &["7_0", "7_1"]);
    assert_rows(&mut db, "actions", &["2"; 2]);
    assert_rows(&mut db, "dimension1", &["b"; 2]);
    let title = assert_rows(&mut db, "action_title", &["two", "second"]);
    let variables =
        assert_each(&mut db, "usercustomproperties", &[r#"{"n": "z"}"#; 2], &[r#"{"n":"z"}"#; 2]);
    proves(
        "a key twice",
        r#"`"title":"one","title":"two"`, and a custom variable's name three times"#,
        "the last counts",
        &format!("`{}`; `{}`", title[0], variables[0]),
    );
}

#[test]
fn event_values_that_are_no_number_become_zero() {
    let long = "9".repeat(1200);
    let nines = "9".repeat(900);
    let values = [
        ("12.50", "12.50"),
        ("-7", "-7"),
        ("1e+30", "1000000000000000000000000000000"),
        ("123456789012345678901234567890.123", "123456789012345678901234567890.123"),
        ("0.1e-3", "0.0001"),
        ("1e1001", "0"),
        ("1e-99999999999", "0"),
        ("1E2147483648", "0"),
        ("\"12.50\"", "12.50"),
        ("\" 7 \"", "7"),
        ("\".5\"", "0.5"),
        ("\"5.\"", "5"),
        ("\"+5\"", "5"),
        ("\"1e3\"", "1000"),
        ("\"abc\"", "0"),
        ("\"\"", "0"),
        ("\".\"", "0"),
        ("\"1e\"", "0"),
        ("\"1,5\"", "0"),
        ("\"1_000\"", "0"),
        ("\"0x1F\"", "0"),
        ("\"NaN\"", "0"),
        ("\"Infinity\"", "0"),
        ("\"--1\"", "0"),
        ("\"\\u0667\"", "0"),
        ("\"\\u0000\"", "0"),
        ("null", "0"),
        ("true", "0"),
        ("[]", "0"),
        ("{\"a\":1}", "0"),
        (nines.as_str(), nines.as_str()),
        (long.as_str(), "0"),
    ];
    let actions: Vec<_> = values
        .iter()
        .map(|(value, _)| format!(r#"{{"type":"event","timestamp":{NOON},"eventValue":{value}}}"#))
        .collect();
    let body = format!(
        r#"[{{"idVisit":7,"lastActionTimestamp":{NOON},"actionDetails":[{}]}}]"#,
        actions.join(",")
    );
    let mut db = synced(&saying(body));
    let mut seen = Vec::new();
    for table in TABLES {
        for (index, (value, expected)) in values.iter().enumerate() {
            let sql = format!(
                "SELECT action_eventvalue::text FROM {table} WHERE action_id = '7_{index}'"
            );
            let found = one::<String>(&mut db, &sql);
            assert_eq!(found, *expected, "{value}");
            if table == TABLES[0] && [2, 3, 5, 7, 8, 14, 20].contains(&index) {
                seen.push(format!("`{value}` is {found}"));
            }
        }
    }
    proves(
        "numbers in `eventValue`",
        &format!("{} of them, some beyond any type, some as strings, some none", values.len()),
        "all digits of what `numeric` can hold; 0 for all else",
        &seen.join(", "),
    );
}

/// A megabyte of text that does not compress, so that no index entry can hold it.
fn megabyte(seed: u64) -> String {
    let mut state = seed;
    let letter = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
                [(state >> 58) as usize],
        )
    };
    (0..1 << 20).map(letter).collect()
}

#[test]
fn texts_of_a_megabyte_arrive_whole() {
    let (url, title, other) = (megabyte(1), megabyte(2), megabyte(3));
    let url = format!("https://x.example.org/{url}");
    let page = Action::page(NOON, &url, &title).variable(1, "n", &other);
    let visit = Visit::new(7, NOON).and(page).and(Action::search(NOON + 2, &other));
    let fake = matomo([visit]);
    let mut db = assert_oracle(&fake);
    let lengths =
        "concat_ws('|', length(action_url), length(action_title), length(sitesearchkeyword))";
    // Matomo makes the title of a search itself.
    let found = assert_rows(&mut db, lengths, &["1048598|1048576", "11|1048576"]);
    assert_rows(&mut db, "length(usercustomproperties ->> 'n')", &["1048576", "null"]);
    let all = all_there(&mut db, TABLES[0], &oracle(&fake, DAY, DAY));
    proves(
        "a URL of 1 MB",
        "and a title, a search keyword and a custom variable; none can be compressed",
        "they arrive whole: no index refuses a row for its length",
        &format!("{all}; length of the URL {}", found[0].split('|').next().unwrap()),
    );
}

/// Nested brackets, deeper than any stack.
fn deep() -> String {
    format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))
}

#[test]
fn json_of_any_depth_does_no_harm() {
    let deep = deep();
    let mut db =
        synced(&saying(visit_with(&format!(r#""unknown":{deep}"#), &format!(r#""other":{deep}"#))));
    assert_rows(&mut db, "action_id", &["7_0", "7_1"]);
    // In a text column it is stored unchanged, in a JSON column it becomes a string.
    let mut db = synced(&saying(visit_with(
        &format!(r#""experiments":{deep},"city":{deep}"#),
        &format!(r#""title":{deep},"eventValue":{deep}"#),
    )));
    assert_rows(&mut db, "length(city)", &["200000"; 2]);
    assert_rows(&mut db, "length(action_title)", &["200000", "6"]);
    assert_rows(&mut db, "action_eventvalue", &["0"; 2]);
    assert_rows(&mut db, "length(experiments #>> '{}')", &["200000"; 2]);
    let variables = |scope: &str| {
        format!(
            r#""customVariables":{{"1":{{"customVariable{scope}Name1":"n{scope}","customVariable{scope}Value1":{deep}}}}}"#
        )
    };
    let mut db = synced(&saying(visit_with(
        &format!(r#"{},"dimension1":{deep}"#, variables("")),
        &variables("Page"),
    )));
    assert_rows(&mut db, "length(usercustomproperties ->> 'n')", &["200000"; 2]);
    assert_rows(&mut db, "length(usercustomproperties ->> 'nPage')", &["200000", "null"]);
    assert_rows(&mut db, "length(usercustomdimensions ->> 'dimension1')", &["200000"; 2]);
    let length = assert_rows(&mut db, "length(dimension1)", &["200000"; 2]);
    proves(
        "JSON of any depth, in place of values",
        "100,000 lists within lists, in unknown keys, columns of text and of JSON, custom variables and dimensions",
        "whole, in columns of JSON as a string; nothing overflows",
        &format!("`length(dimension1)` is {}", length[0]),
    );
}

#[test]
fn ten_thousand_custom_variables_and_dimensions_beyond_ten() {
    let mut visit = Visit::new(7, NOON);
    let mut page = Action::page(NOON, "https://x.example.org/", "Page");
    for number in 1..=10_000 {
        visit.set_variable(number, &format!("name {number}"), &format!("of the visit {number}"));
        if number % 3 == 0 {
            page =
                page.variable(number, format!("name {number}"), format!("of the action {number}"));
        }
    }
    for number in [0, 1, 10, 11, 17, 4_294_967_295] {
        visit.set_dimension(number, Some(&format!("of the visit {number}")));
    }
    visit.push(page.dimension(17, "of the action 17"));
    visit.push(Action::page(NOON + 1, "https://x.example.org/", "Page").null_dimension(17));
    let fake = matomo([visit]);
    let mut db = assert_oracle(&fake);
    let count = "(SELECT count(*) FROM json_object_keys(usercustomproperties::json))";
    let counts = assert_rows(&mut db, count, &["10000", "10000"]);
    let all = all_there(&mut db, TABLES[0], &oracle(&fake, DAY, DAY));
    proves(
        "10,000 custom variables",
        "of a visit; 3,333 of them of its action as well",
        "all in `usercustomproperties`, the action's before the visit's",
        &format!("{all}; members: {}", counts[0]),
    );
    let of_17 = "usercustomdimensions ->> 'dimension17'";
    assert_rows(&mut db, of_17, &["of the action 17", "of the visit 17"]);
    // A key that only resembles a dimension's is an unknown key.
    let mut db = synced(&saying(visit_with(
        r#""dimension":"a","dimensionx":"b","dimension-1":"c","dimension99999999999":"d""#,
        "",
    )));
    assert_rows(&mut db, "usercustomdimensions", &["{}"; 2]);
}
