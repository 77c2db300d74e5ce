//! The mapping, column by column. Visits are written as Matomo sends them.

use chrono_tz::Tz;

use super::*;
use crate::matomo::zone::Zone;
use crate::rows::lines;
use std::borrow::Cow;

const UTC: SiteContext =
    SiteContext { id: 42, zone: Zone::Fixed(0), action_time: ActionTime::Utc, is_rollup: None };
const DAY_BEGIN: i64 = 1_629_417_600;

#[derive(Debug, PartialEq)]
struct Row {
    values: Vec<Option<String>>,
    at: i64,
}

fn rows_in(layout: &Layout, site: SiteContext, json: &str) -> Vec<Row> {
    let list = format!("[{json}]");
    let visit = crate::matomo::answer::visits(&list).unwrap().remove(0);
    let mut lines = Lines::default();
    let id = visit.id.unwrap();
    let made = VisitRows::of(&visit, id, site, DAY_BEGIN);
    assert!(made.add(&mut lines, layout, usize::MAX).is_some());
    let row = |(line, at): (usize, &i64)| {
        let values = lines.cells(line).map(|cell| lines::value(cell).map(Cow::into_owned));
        Row { values: values.collect(), at: *at }
    };
    lines.instants().iter().enumerate().map(row).collect()
}

fn rows_at(site: SiteContext, json: &str) -> Vec<Row> {
    rows_in(&Layout::of_node(), site, json)
}

fn rows_of(json: &str) -> Vec<Row> {
    rows_at(UTC, json)
}

/// The first row of a visit with one action of these members.
fn action(members: &str) -> Row {
    rows_of(&format!(r#"{{"idVisit":1,"actionDetails":[{{{members}}}]}}"#)).remove(0)
}

fn get<'a>(row: &'a Row, column: &str) -> Option<&'a str> {
    let place = Layout::of_node().position(column).expect("a column of the Node tool");
    row.values[place].as_deref()
}

/// The example of the Node tool's own tests: a visit with numbers as strings, as PHP 8.0 sends.
#[test]
fn the_node_tools_example() {
    let rows = rows_of(
        r#"{"idSite":"42","idVisit":"124","actions":"2","country":"France","region":"","city":null,
        "operatingSystemName":"Windows","deviceModel":"Generic Desktop","deviceBrand":"Unknown",
        "visitDuration":"300","daysSinceFirstVisit":23,"visitorType":"returningCustomer",
        "visitorId":"b849176ff05737c5","referrerType":"direct","referrerName":"","siteName":"A site",
        "userId":null,"resolution":"1920x1080","firstActionTimestamp":1629495318,
        "lastActionTimestamp":1629495618,"dimension2":null,"actionDetails":[
        {"type":"event","eventCategory":"Ecommerce","eventAction":"Cart change","eventValue":1,
         "timeSpent":48,"timestamp":1629495318,"dimension1":"guest","customVariables":{
            "1":{"customVariableName1":"page-author","customVariableValue1":"Julien"},
            "2":{"customVariableName2":"post-age","customVariableValue2":"-430 days"}}},
        {"type":"action","title":"Home","url":"https:\/\/a.example.org\/","timestamp":1629495618}]}"#,
    );
    assert_eq!(rows.len(), 2);
    let expected = [
        ("action_id", Some("124_0")),
        ("idsite", Some("42")),
        ("idvisit", Some("124")),
        ("actions", Some("2")),
        ("country", Some("France")),
        ("region", Some("")),
        ("city", None),
        ("operatingsystemname", Some("Windows")),
        ("devicemodel", Some("Generic Desktop")),
        ("devicebrand", Some("Unknown")),
        ("visitduration", Some("300")),
        ("dayssincefirstvisit", Some("23")),
        ("visitortype", Some("returningCustomer")),
        ("sitename", Some("A site")),
        ("userid", None),
        ("serverdateprettyfirstaction", Some("2021-08-20")),
        ("action_type", Some("event")),
        ("action_eventcategory", Some("Ecommerce")),
        ("action_eventaction", Some("Cart change")),
        ("action_eventname", Some("")),
        ("action_eventvalue", Some("1")),
        ("action_timespent", Some("48")),
        ("action_timestamp", Some("2021-08-20 21:35:18+00")),
        ("usercustomproperties", Some(r#"{"page-author":"Julien","post-age":"-430 days"}"#)),
        ("usercustomdimensions", Some(r#"{"dimension1":"guest"}"#)),
        ("dimension1", Some("guest")),
        ("dimension2", None),
        ("dimension3", None),
        ("dimension4", None),
        ("dimension5", None),
        ("dimension6", None),
        ("dimension7", None),
        ("dimension8", None),
        ("dimension9", None),
        ("dimension10", None),
        ("action_url", None),
        ("sitesearchkeyword", None),
        ("action_title", None),
        ("visitorid", Some("b849176ff05737c5")),
        ("referrertype", Some("direct")),
        ("referrername", Some("")),
        ("resolution", Some("1920x1080")),
        ("experiments", None),
    ];
    let row: Vec<_> =
        Layout::of_node().names().map(|column| (column, get(&rows[0], column))).collect();
    assert_eq!(row, expected);
    assert_eq!(get(&rows[1], "action_id"), Some("124_1"));
    assert_eq!(get(&rows[1], "action_url"), Some("https://a.example.org/"));
    assert_eq!(get(&rows[1], "action_timespent"), Some("0"));
    assert_eq!(get(&rows[1], "usercustomproperties"), Some("{}"));
    assert_eq!(get(&rows[1], "usercustomdimensions"), Some("{}"));
    assert_eq!(rows[1].at, 1_629_495_618);
}

#[test]
fn values_of_any_type_become_text() {
    let row = &rows_of(
        r#"{"idVisit":1,"country":true,"city":{"a": [1]},"region":[],"deviceModel":1.5,
        "userId":"","actionDetails":[{"type":13,"timeSpent":"","title":false}]}"#,
    )[0];
    assert_eq!(get(row, "country"), Some("true"));
    assert_eq!(get(row, "city"), Some(r#"{"a":[1]}"#));
    assert_eq!(get(row, "region"), Some("[]"));
    assert_eq!(get(row, "devicemodel"), Some("1.5"));
    assert_eq!(get(row, "userid"), Some(""));
    assert_eq!(get(row, "action_type"), Some("13"));
    assert_eq!(get(row, "action_timespent"), Some(""));
    assert_eq!(get(row, "action_title"), Some("false"));
    assert_eq!(get(row, "idsite"), Some("42"));
}

#[test]
fn what_an_anonymous_token_may_not_see_is_null() {
    let row = &rows_of(
        r#"{"idVisit":1,"visitIp":null,"visitorId":false,"fingerprint":false,"actionDetails":[{}]}"#,
    )[0];
    assert_eq!(get(row, "visitorid"), None);
    let row = &rows_of(r#"{"idVisit":1,"visitorId":"false","actionDetails":[{}]}"#)[0];
    assert_eq!(get(row, "visitorid"), Some("false"));
}

#[test]
fn events_without_a_value_have_zero() {
    assert_eq!(get(&action(""), "action_eventvalue"), Some("0"));
    assert_eq!(get(&action(r#""eventValue":null"#), "action_eventvalue"), Some("0"));
    assert_eq!(get(&action(r#""eventValue":"12.50""#), "action_eventvalue"), Some("12.50"));
}

#[test]
fn custom_variables_in_every_shape() {
    let of = |variables: &str| {
        let row = action(&format!(r#""customVariables":{variables}"#));
        get(&row, "usercustomproperties").unwrap().to_owned()
    };
    assert_eq!(of("[]"), "{}");
    assert_eq!(of("null"), "{}");
    assert_eq!(of(r#""odd""#), "{}");
    assert_eq!(
        of(r#"{"1":{"customVariablePageName1":"a","customVariablePageValue1":"b"}}"#),
        r#"{"a":"b"}"#
    );
    assert_eq!(
        of(r#"{"12":{"customVariableName12":"é\"","customVariableValue12":5}}"#),
        r#"{"é\"":5}"#
    );
    assert_eq!(of(r#"[{"customVariableName0":"a","customVariableValue0":null}]"#), r#"{"a":null}"#);
    assert_eq!(of(r#"{"1":{"customVariableName1":"a"}}"#), "{}");
    assert_eq!(
        of(
            r#"{"1":{"customVariableName1":"a","customVariableValue1":1},"2":{"customVariableName2":"a","customVariableValue2":2}}"#
        ),
        r#"{"a":2}"#
    );
}

#[test]
fn the_actions_own_variables_and_dimensions_come_first() {
    let row = &rows_of(
        r#"{"idVisit":1,"customVariables":{"1":{"customVariableName1":"plan","customVariableValue1":"free"},
            "2":{"customVariableName2":"lang","customVariableValue2":"fr"}},
        "dimension1":"visit 1","dimension2":"visit 2","dimension12":"visit 12","dimensionX":"no",
        "actionDetails":[{"dimension2":"action 2","dimension1":"","dimension3":null,"dimension11":"eleven",
            "customVariables":{"1":{"customVariablePageName1":"plan","customVariablePageValue1":"paid"}}}]}"#,
    )[0];
    assert_eq!(get(row, "usercustomproperties"), Some(r#"{"plan":"paid","lang":"fr"}"#));
    assert_eq!(
        get(row, "usercustomdimensions"),
        Some(
            r#"{"dimension1":"visit 1","dimension2":"action 2","dimension11":"eleven","dimension12":"visit 12"}"#
        )
    );
    assert_eq!(get(row, "dimension1"), Some("visit 1"));
    assert_eq!(get(row, "dimension2"), Some("action 2"));
    assert_eq!(get(row, "dimension3"), None);
}

#[test]
fn a_time_for_every_action() {
    let times = |json: &str| -> Vec<i64> { rows_of(json).iter().map(|row| row.at).collect() };
    assert_eq!(
        times(
            r#"{"idVisit":1,"firstActionTimestamp":100,"actionDetails":[{},{"timestamp":"150"},{}]}"#
        ),
        [100, 150, 150]
    );
    assert_eq!(times(r#"{"idVisit":1,"serverTimestamp":200,"actionDetails":[{}]}"#), [200]);
    assert_eq!(times(r#"{"idVisit":1,"actionDetails":[{"timestamp":null}]}"#), [DAY_BEGIN]);
    // Neither chrono nor Postgres can hold these.
    let huge = r#"{"idVisit":1,"firstActionTimestamp":9e17,"actionDetails":[{"timestamp":-99999999999999}]}"#;
    assert_eq!(times(huge), [DAY_BEGIN]);
    assert_eq!(get(&rows_of(huge)[0], "serverdateprettyfirstaction"), None);
}

#[test]
fn true_time_or_as_sent() {
    let json = r#"{"idVisit":1,"firstActionTimestamp":1782900000,"actionDetails":[{"timestamp":1782907200},{}]}"#;
    let paris = SiteContext { zone: Zone::Iana(Tz::Europe__Paris), ..UTC };
    let of =
        |site: SiteContext| get(&rows_at(site, json)[0], "action_timestamp").unwrap().to_owned();
    assert_eq!(of(paris), "2026-07-01 10:00:00+00");
    assert_eq!(
        of(SiteContext { action_time: ActionTime::AsSent, ..paris }),
        "2026-07-01 12:00:00+00"
    );
    let none = r#"{"idVisit":1,"firstActionTimestamp":1782900000,"actionDetails":[{}]}"#;
    let as_sent = rows_at(SiteContext { action_time: ActionTime::AsSent, ..paris }, none);
    assert_eq!(as_sent[0].at, 1_782_907_200);
}

#[test]
fn visits_without_actions_have_no_rows() {
    for details in
        [r#","actionDetails":[]"#, r#","actionDetails":{}"#, r#","actionDetails":null"#, ""]
    {
        assert_eq!(rows_of(&format!(r#"{{"idVisit":1{details}}}"#)), []);
    }
}

#[test]
fn experiments_are_what_jsonb_takes() {
    let of = |json: &str| {
        let rows =
            rows_of(&format!(r#"{{"idVisit":1,"experiments":{json},"actionDetails":[{{}}]}}"#));
        get(&rows[0], "experiments").map(str::to_owned)
    };
    assert_eq!(of("null"), None);
    assert_eq!(of(r#"[{"idExperiment": 1}]"#).as_deref(), Some(r#"[{"idExperiment": 1}]"#));
    assert_eq!(of("1e999").as_deref(), Some(r#""1e999""#));
}
