//! Odd values beside those of typed columns: each is in a column, or in `extra` and counted.

use std::collections::BTreeMap;

use super::*;
use crate::matomo::keys::ACTION_KEYS;
use crate::matomo::zone::Zone;
use crate::rows::column_type::ColumnType;
use crate::rows::{lines, values};

const SITE: SiteContext =
    SiteContext { id: 42, zone: Zone::Fixed(0), action_time: ActionTime::Utc, is_rollup: None };
const NOON: i64 = 1_792_929_600;

type Row = BTreeMap<&'static str, String>;

/// The rows of a visit with these members, without their columns that are NULL; and the columns that
/// could not hold a value.
fn made(layout: &Layout, members: &str) -> (Vec<Row>, Vec<&'static str>) {
    let list = format!(r#"[{{"idVisit":1,{members}}}]"#);
    let visits = crate::matomo::answer::visits(&list).unwrap();
    let mut lines = Lines::default();
    let misfits = VisitRows::of(&visits[0], 1, SITE, NOON).add(&mut lines, layout, 1 << 20);
    let row = |line| {
        let cells = lines.cells(line).map(lines::value);
        let pairs = layout.names().zip(cells);
        pairs.filter_map(|(column, value)| Some((column, value?.into_owned()))).collect()
    };
    ((0..lines.len()).map(row).collect(), misfits.unwrap())
}

/// The same of our tables.
fn of(kind: TableKind, members: &str) -> (Vec<Row>, Vec<&'static str>) {
    made(&Layout::typed(kind), members)
}

fn extra(row: &Row) -> &str {
    row.get("extra").map_or("", String::as_str)
}

#[test]
fn a_key_that_is_left_out_of_visits_is_kept_of_an_action_and_the_other_way_round() {
    let action = r#"{"type":"action","location":"a","language":"b","icon":"c"}"#;
    let members = format!(r#""location":"a","subtitle":"b","actionDetails":[{action}]"#);
    let (actions, _) = of(TableKind::Actions, &members);
    assert_eq!(extra(&actions[0]), r#"{"language": "b", "location": "a"}"#);
    let (visits, _) = of(TableKind::Visits, &members);
    assert_eq!(extra(&visits[0]), r#"{"subtitle": "b"}"#);
}

/// As a plugin makes it.
#[test]
fn a_page_title_is_kept_where_the_title_is_another_one() {
    for (members, kept) in [
        (r#""title":"Form","pageTitle":"Checkout""#, r#"{"pageTitle": "Checkout"}"#),
        (r#""pageTitle":"Checkout""#, r#"{"pageTitle": "Checkout"}"#),
        (r#""pageTitle":"Checkout","title":"Checkout""#, ""),
        (r#""title":"Caf\u00e9","pageTitle":"Café""#, ""),
        (r#""title":7,"pageTitle":"7""#, ""),
        (r#""title":"Form","pageTitle":null"#, ""),
        (r#""title":"Form","pageTitle":"""#, ""),
    ] {
        let action = format!(r#""actionDetails":[{{"type":"action",{members}}}]"#);
        let (actions, _) = of(TableKind::Actions, &action);
        assert_eq!(extra(&actions[0]), kept, "{members}");
    }
}

/// Matomo 4 sends both for page views that version 3 has tracked.
#[test]
fn a_generation_time_is_kept_in_milliseconds_only() {
    let action = r#"{"type":"action","generationTime":"0.12s","generationTimeMilliseconds":"120"}"#;
    let (actions, _) = of(TableKind::Actions, &format!(r#""actionDetails":[{action}]"#));
    assert_eq!(extra(&actions[0]), r#"{"generationTimeMilliseconds": "120"}"#);
}

#[test]
fn an_odd_number_of_cut_actions_is_null_kept_and_leaves_the_exit_page_open() {
    let visit = |count: &str| {
        let page = format!(r#"{{"type":"action","url":"a","timestamp":{NOON}}}"#);
        of(
            TableKind::Visits,
            &format!(
                r#""firstActionTimestamp":{NOON},"truncatedActionsCount":{count},"actionDetails":[{page}]"#
            ),
        )
    };
    for (sent, shown, has_exit) in [
        ("null", Some("0"), true),
        ("0", Some("0"), true),
        (r#""""#, None, true),
        ("7", Some("7"), false),
        (r#""7""#, Some("7"), false),
    ] {
        let (rows, misfits) = visit(sent);
        assert_eq!(rows[0].get("truncatedactionscount").map(String::as_str), shown, "{sent}");
        assert_eq!(rows[0].contains_key("exiturl"), has_exit, "{sent}");
        assert_eq!((extra(&rows[0]), misfits), ("", vec![]), "{sent}");
    }
    for sent in [r#""NaN""#, "3000000000", "1.5", "false"] {
        let (rows, misfits) = visit(sent);
        assert_eq!(rows[0].get("truncatedactionscount"), None, "{sent}");
        assert_eq!(rows[0].get("exiturl"), None, "{sent}");
        assert_eq!(extra(&rows[0]), format!(r#"{{"truncatedActionsCount": {sent}}}"#));
        assert_eq!(misfits, ["truncatedactionscount"], "{sent}");
    }
}

#[test]
fn times_that_are_none_are_kept_where_another_stands_for_them() {
    for odd in ["253402300800", r#""soon""#, "[]", "1e30", "true"] {
        let kept = |key: &str| match odd {
            "1e30" => format!(r#"{{"{key}": 1{}}}"#, "0".repeat(30)),
            odd => format!(r#"{{"{key}": {odd}}}"#),
        };
        let first = format!(
            r#""firstActionTimestamp":{odd},"lastActionTimestamp":{NOON},"actionDetails":[{{}},{{}}]"#
        );
        let (rows, misfits) = of(TableKind::Visits, &first);
        assert_eq!(rows[0]["firstaction"], "2026-10-25 12:00:00+00");
        assert_eq!(
            (extra(&rows[0]), misfits),
            (&*kept("firstActionTimestamp"), vec!["firstaction"])
        );
        let (rows, misfits) = of(TableKind::Actions, &first);
        assert_eq!(rows[0].get("serverdateprettyfirstaction"), None);
        assert_eq!(extra(&rows[1]), kept("firstActionTimestamp"));
        assert_eq!(misfits, ["serverdateprettyfirstaction"]);
        // Also where serverTimestamp has the same instant.
        let last = format!(r#""lastActionTimestamp":{odd},"serverTimestamp":{NOON}"#);
        let (rows, misfits) = of(TableKind::Visits, &last);
        assert_eq!(
            (extra(&rows[0]), misfits),
            (&*kept("lastActionTimestamp"), vec!["lastaction", "day"])
        );
        let action =
            format!(r#""firstActionTimestamp":{NOON},"actionDetails":[{{"timestamp":{odd}}}]"#);
        let (rows, misfits) = of(TableKind::Actions, &action);
        assert_eq!((extra(&rows[0]), misfits), (&*kept("timestamp"), vec!["action_timestamp"]));
    }
    let nothing = r#""firstActionTimestamp":"","lastActionTimestamp":null,"actionDetails":[{"timestamp":""}]"#;
    for kind in [TableKind::Visits, TableKind::Actions] {
        let (rows, misfits) = of(kind, nothing);
        assert_eq!((extra(&rows[0]), misfits), ("", vec![]), "{kind:?}");
    }
}

#[test]
fn a_site_id_that_is_none_is_kept() {
    let (rows, misfits) = of(TableKind::Visits, r#""idSite":"main""#);
    assert_eq!(rows[0]["idsite"], "42");
    assert_eq!((extra(&rows[0]), misfits), (r#"{"idSite": "main"}"#, vec!["idsite"]));
}

#[test]
fn custom_variables_of_another_form_are_kept() {
    let odd = [
        (r#""text""#, "{}"),
        ("7", "{}"),
        (r#"{"1": 5}"#, "{}"),
        (r#"{"1": {"customVariableName1": "a"}}"#, "{}"),
        (r#"{"1": {"customVariableValue1": "a"}}"#, "{}"),
        (r#"{"1": {"other": "a"}}"#, "{}"),
        (r#"{"customVariableName1": "a", "customVariableValue1": "b"}"#, "{}"),
        (
            r#"{"1": {"customVariableName1": "a", "customVariableValue1": 1}, "2": {"customVariableName2": "a", "customVariableValue2": 2}}"#,
            r#"{"a": 2}"#,
        ),
    ];
    for (sent, held) in odd {
        let (rows, misfits) = of(TableKind::Visits, &format!(r#""customVariables":{sent}"#));
        assert_eq!((rows[0]["customvariables"].as_str(), misfits), (held, vec!["customvariables"]));
        assert_eq!(
            extra(&rows[0]),
            format!(r#"{{"customVariables": {}}}"#, values::jsonb(&raw(sent)))
        );
        // In the rows of actions those of the visit count once.
        let of_visit = format!(r#""customVariables":{sent},"actionDetails":[{{}},{{}}]"#);
        let of_action = format!(r#""actionDetails":[{{"customVariables":{sent}}},{{}}]"#);
        for (members, has) in [(of_visit, [true, true]), (of_action, [true, false])] {
            let (rows, misfits) = of(TableKind::Actions, &members);
            assert_eq!(misfits, ["usercustomproperties"], "{members}");
            let kept = [0, 1].map(|n| extra(&rows[n]).contains("customVariables"));
            assert_eq!(kept, has, "{members}");
        }
    }
    let good = [
        "[]",
        "{}",
        r#""""#,
        r#"{"1":null,"2":[]}"#,
        r#"{"1":{"customVariableName1":"a","customVariableValue1":null}}"#,
        r#"{"1":{"customVariablePageName1":"a","customVariablePageValue1":"b","more":null}}"#,
        r#"{"1":{"customVariableName1":"a","customVariableValue1":1},"2":{"customVariableName2":"a","customVariableValue2":1}}"#,
    ];
    for sent in good {
        let members =
            format!(r#""customVariables":{sent},"actionDetails":[{{"customVariables":{sent}}}]"#);
        for kind in [TableKind::Visits, TableKind::Actions] {
            let (rows, misfits) = of(kind, &members);
            assert_eq!((extra(&rows[0]), misfits), ("", vec![]), "{sent}");
        }
    }
}

fn raw(json: &str) -> Box<serde_json::value::RawValue> {
    serde_json::value::RawValue::from_string(json.to_owned()).unwrap()
}

#[test]
fn what_the_type_of_a_made_column_cannot_hold_is_kept_as_it_would_be() {
    let small = TableKind::Actions.columns().iter().map(|column| {
        let kind = match column.name {
            "action_id" | "idvisit" | "action_timestamp" => ColumnType::Text,
            "extra" => ColumnType::Jsonb,
            _ => ColumnType::of("int2", -1),
        };
        (column, kind)
    });
    let members = format!(
        r#""idSite":70000,"firstActionTimestamp":{NOON},"lastActionTimestamp":{NOON},"dimension1":"d",
        "customVariables":{{"1":{{"customVariableName1":"n","customVariableValue1":"v"}}}},
        "actionDetails":[{{"type":"event","eventValue":1.50,"timestamp":{NOON}}}]"#
    );
    let (rows, misfits) = made(&Layout::new(TableKind::Actions, small), &members);
    let kept = r#"{"type": "event", "idSite": 70000, "dimension1": "d", "eventValue": 1.50, "customVariables": {"n": "v"}, "lastActionTimestamp": "2026-10-25", "firstActionTimestamp": "2026-10-25", "usercustomdimensions": {"dimension1": "d"}}"#;
    assert_eq!(extra(&rows[0]), kept);
    assert_eq!(misfits.len(), 8, "{misfits:?}");
}

#[test]
fn an_event_value_that_is_no_number_is_kept() {
    let of = |sent: &str| {
        let (mut rows, misfits) =
            of(TableKind::Actions, &format!(r#""actionDetails":[{{"eventValue":{sent}}}]"#));
        (rows.remove(0), misfits)
    };
    for (sent, shown) in [("null", "0"), (r#""""#, "0"), ("1.5", "1.5"), (r#""7""#, "7")] {
        let (row, misfits) = of(sent);
        assert_eq!((row["action_eventvalue"].as_str(), extra(&row), misfits), (shown, "", vec![]));
    }
    let (row, misfits) = of(r#""NaN""#);
    assert_eq!((row["action_eventvalue"].as_str(), misfits), ("0", vec!["action_eventvalue"]));
    assert_eq!(extra(&row), r#"{"eventValue": "NaN"}"#);
}

fn order(details: &str) -> String {
    format!(r#""actionDetails":[{{"type":"ecommerceOrder","itemDetails":{details}}}]"#)
}

#[test]
fn every_item_has_its_row_however_short() {
    let ten = [r#"{"itemSKU":"a"}"#; 10].join(",");
    let (rows, _) = of(TableKind::Items, &order(&format!("[{ten}]")));
    let places: Vec<_> = rows.iter().map(|row| row["place"].as_str()).collect();
    assert_eq!(places, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    // More than fit in an answer are an error, not cut.
    let many = vec!["{}"; 100_000].join(",");
    let list = format!(r#"[{{"idVisit":1,{}}}]"#, order(&format!("[{many}]")));
    let visits = crate::matomo::answer::visits(&list).unwrap();
    let made = VisitRows::of(&visits[0], 1, SITE, NOON);
    assert!(made.add(&mut Lines::default(), &Layout::typed(TableKind::Items), 1 << 20).is_none());
}

#[test]
fn items_that_are_none_are_kept_with_their_order() {
    for sent in [
        r#""two items""#,
        "7",
        r#"["sku", {"itemSKU": "a"}]"#,
        r#"[["sku"]]"#,
        r#"{"itemSKU": "a"}"#,
    ] {
        for kind in [TableKind::Actions, TableKind::Conversions] {
            let (rows, _) = of(kind, &order(sent));
            let kept = format!(r#"{{"itemDetails": {sent}}}"#);
            assert_eq!(extra(&rows[0]), kept, "{kind:?}");
        }
    }
    for sent in
        ["[]", "{}", "null", r#""""#, r#"[{"itemSKU":"a"},null,[]]"#, r#"{"5":{"itemSKU":"a"}}"#]
    {
        let (rows, _) = of(TableKind::Actions, &order(sent));
        assert_eq!(extra(&rows[0]), "", "{sent}");
    }
    // Of an action that has no rows of items.
    let (rows, _) = of(
        TableKind::Actions,
        r#""actionDetails":[{"type":"quote","itemDetails":[{"itemSKU":"a"}]}]"#,
    );
    assert_eq!(extra(&rows[0]), r#"{"itemDetails": [{"itemSKU": "a"}]}"#);
}

#[test]
fn what_only_conversions_have_is_kept_of_another_action() {
    let keys = ACTION_KEYS.iter().filter(|key| {
        **key != "itemDetails"
            && TableKind::Actions.columns().iter().all(|column| column.source.key() != Some(key))
    });
    for key in keys {
        let of = |kind: &str, sent: &str| {
            let (rows, _) = of(
                TableKind::Actions,
                &format!(r#""actionDetails":[{{"type":"{kind}","{key}":{sent}}}]"#),
            );
            extra(&rows[0]).to_owned()
        };
        assert_eq!(of("action", "7"), format!(r#"{{"{key}": 7}}"#));
        assert_eq!([of("action", r#""""#), of("goal", "7")], ["", ""], "{key}");
    }
}

#[test]
fn what_stands_for_actions_is_kept() {
    // 1e999 goes the slow way.
    for sent in [r#""many""#, "true", "-7", "18446744073709551615", "1.5", "1e999"] {
        let shown = match sent {
            "1e999" => format!("1{}", "0".repeat(999)),
            sent => sent.to_owned(),
        };
        let kept = format!(r#"{{"actionDetails": {shown}}}"#);
        let (rows, _) = of(TableKind::Visits, &format!(r#""actionDetails":{sent}"#));
        assert_eq!(extra(&rows[0]), kept);
        let (rows, _) = of(TableKind::Actions, &format!(r#""actionDetails":[{{}},{sent}]"#));
        assert_eq!([extra(&rows[0]), extra(&rows[1])], ["", &kept]);
    }
    for sent in ["null", "[]", "{}", r#""""#] {
        let (rows, _) = of(TableKind::Visits, &format!(r#""actionDetails":{sent}"#));
        assert_eq!(extra(&rows[0]), "", "{sent}");
        let (rows, _) = of(TableKind::Actions, &format!(r#""actionDetails":[{sent}]"#));
        assert_eq!(extra(&rows[0]), "", "{sent}");
    }
    // A list is a map with numbers as keys.
    let (rows, _) = of(TableKind::Actions, r#""actionDetails":[["a",null,{"b":1}]]"#);
    assert_eq!(extra(&rows[0]), r#"{"0": "a", "2": {"b": 1}}"#);
}

#[test]
fn dimensions_of_one_number_do_not_replace_each_other() {
    let members = r#""dimension1":"a","dimension01":"b","dimension+1":"c","dimension0":"d""#;
    let (rows, _) = of(TableKind::Visits, members);
    assert_eq!(rows[0]["dimensions"], r#"{"dimension0": "d", "dimension1": "a"}"#);
    assert_eq!(extra(&rows[0]), r#"{"dimension+1": "c", "dimension01": "b"}"#);
}
