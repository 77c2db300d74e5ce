//! The oracle: by example, and against a second mapping that reads the JSON.

mod common;

use common::{at, day, live, serve};
use fake_matomo::{
    Action, ActionTime, COLUMNS, Clock, OracleRow, Plan, Site, SitePlan, TimeSpent, Visit, World,
};
use serde_json::{Map, Value, json};

#[test]
fn the_example_of_the_node_tool() {
    let mut world = World::new(Clock::Fixed(at("2021-09-01 00:00:00")));
    let first = 1_629_495_318;
    let event = Action::event(first, "Ecommerce", "Cart change")
        .value("1")
        .spent(TimeSpent::Seconds(48))
        .variable(1, "page-author", "Julien")
        .variable(2, "post-age", "-430 days");
    let mut visit = Visit::new(124, first).and(event).and(Action::page(first + 300, "/", "Home"));
    visit.visitor_type = "returningCustomer".to_owned();
    visit.days_since_first = 23;
    visit.set_dimension(1, Some("guest"));
    world.add_site(Site::new(42, "Shop", "Europe/Paris")).add(visit);
    let rows = world.oracle(42, day("2021-08-20"), day("2021-08-20"), ActionTime::Utc);
    let row = &rows[0];
    for (column, value) in [
        ("action_id", "124_0"),
        ("idsite", "42"),
        ("actions", "2"),
        ("visitduration", "300"),
        ("dayssincefirstvisit", "23"),
        ("visitortype", "returningCustomer"),
        ("serverdateprettyfirstaction", "2021-08-20"),
        ("action_type", "event"),
        ("action_eventcategory", "Ecommerce"),
        ("action_eventaction", "Cart change"),
        ("action_eventvalue", "1"),
        ("action_timespent", "48"),
        ("action_timestamp", "2021-08-20 21:35:18+00"),
        ("usercustomproperties", r#"{"page-author":"Julien","post-age":"-430 days"}"#),
        ("usercustomdimensions", r#"{"dimension1":"guest"}"#),
        ("dimension1", "guest"),
    ] {
        assert_eq!(row.get(column), Some(value), "{column}");
    }
    let sent = world.oracle(42, day("2021-08-20"), day("2021-08-20"), ActionTime::AsSent);
    assert_eq!(sent[0].get("action_timestamp"), Some("2021-08-20 23:35:18+00"));
}

fn plan(seed: u64) -> Plan {
    let shop = SitePlan { ecommerce: true, ..SitePlan::new(1, "Europe/Paris", 40) };
    let sites = vec![shop, SitePlan::new(2, "UTC-3.5", 10)];
    let (first_day, last_day) = (day("2026-10-22"), day("2026-10-27"));
    Plan { seed, sites, first_day, last_day, now: Clock::Fixed(at("2026-10-27 15:00:00")) }
}

#[test]
fn the_same_seed_makes_the_same_world() {
    let worlds = [1, 1, 2].map(|seed| format!("{:?}", World::generate(&plan(seed))));
    assert!(worlds[0] == worlds[1] && worlds[0] != worlds[2]);
}

#[test]
fn generated_worlds_hold_what_they_should() {
    let world = World::generate(&plan(1));
    let visits = &world.site(1).visits;
    assert!(
        world
            .sites
            .iter()
            .flat_map(|s| &s.visits)
            .all(|v| v.last <= world.now.seconds() && v.first <= v.last)
    );
    let mut ids: Vec<_> = world.sites.iter().flat_map(|s| &s.visits).map(|v| v.id).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|w| w[0] < w[1]));
    assert!(
        visits.iter().any(|v| v.actions.is_empty()) && visits.iter().any(|v| v.actions.len() > 500)
    );
    let midnights = [at("2026-10-22 22:00:00"), at("2026-10-25 23:00:00")];
    assert!(midnights.iter().all(|m| visits.iter().any(|v| v.last == *m)));
    // Both passes of the hour that Paris has twice, just before and just after 01:00 UTC.
    let change = at("2026-10-25 01:00:00");
    let both = |v: &&Visit| {
        let within = |from, to| v.actions.iter().any(|a| (from..to).contains(&a.at));
        within(change - 3600, change) && within(change, change + 3600)
    };
    let around: Vec<_> = visits.iter().filter(both).collect();
    assert!(around.len() >= 3);
    assert!(
        visits
            .iter()
            .flat_map(|v| v.actions.windows(2))
            .all(|w| (0..=1800).contains(&(w[1].at - w[0].at)))
    );
    let kinds: std::collections::BTreeSet<_> =
        visits.iter().flat_map(|v| &v.actions).map(|a| a.kind.type_name()).collect();
    assert_eq!(kinds.len(), 9);
}

/// Columns of the visit: name and key.
const OF_VISIT: [(&str, &str); 18] = [
    ("idsite", "idSite"),
    ("idvisit", "idVisit"),
    ("actions", "actions"),
    ("country", "country"),
    ("region", "region"),
    ("city", "city"),
    ("operatingsystemname", "operatingSystemName"),
    ("devicemodel", "deviceModel"),
    ("devicebrand", "deviceBrand"),
    ("visitduration", "visitDuration"),
    ("dayssincefirstvisit", "daysSinceFirstVisit"),
    ("visitortype", "visitorType"),
    ("sitename", "siteName"),
    ("userid", "userId"),
    ("visitorid", "visitorId"),
    ("referrertype", "referrerType"),
    ("referrername", "referrerName"),
    ("resolution", "resolution"),
];

/// Columns of the action: name, key, and the default for a missing value.
const OF_ACTION: [(&str, &str, Option<&str>); 9] = [
    ("action_type", "type", Some("")),
    ("action_eventcategory", "eventCategory", Some("")),
    ("action_eventaction", "eventAction", Some("")),
    ("action_eventname", "eventName", Some("")),
    ("action_eventvalue", "eventValue", Some("0")),
    ("action_timespent", "timeSpent", Some("0")),
    ("action_url", "url", None),
    ("action_title", "title", None),
    ("sitesearchkeyword", "siteSearchKeyword", None),
];

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// A row as made from the JSON alone.
fn mapped(visit: &Value, index: usize, action: &Value) -> OracleRow {
    let mut row = OracleRow([const { None }; 43]);
    let mut set = |column: &str, value: Option<String>| {
        row.0[COLUMNS.iter().position(|c| *c == column).unwrap()] = value;
    };
    set("action_id", Some(format!("{}_{index}", visit["idVisit"])));
    for (column, key) in OF_VISIT {
        set(column, text(&visit[key]));
    }
    for (column, key, default) in OF_ACTION {
        set(column, text(&action[key]).or(default.map(str::to_owned)));
    }
    let time = |value: &Value| {
        chrono::DateTime::from_timestamp(value.as_i64().unwrap(), 0).unwrap().naive_utc()
    };
    set(
        "serverdateprettyfirstaction",
        Some(time(&visit["firstActionTimestamp"]).date().to_string()),
    );
    set("action_timestamp", Some(format!("{}+00", time(&action["timestamp"]))));
    set("experiments", visit.get("experiments").map(Value::to_string));
    let mut properties = Map::new();
    for (of, scope) in [(action, "Page"), (visit, "")] {
        for (n, pair) in of["customVariables"].as_object().into_iter().flatten() {
            let name = pair[format!("customVariable{scope}Name{n}")].as_str().unwrap();
            let value = pair[format!("customVariable{scope}Value{n}")].clone();
            properties.entry(name).or_insert(value);
        }
    }
    set("usercustomproperties", Some(Value::Object(properties).to_string()));
    let mut dimensions = Map::new();
    for n in 1..20 {
        let key = format!("dimension{n}");
        let value =
            [action, visit].into_iter().filter_map(|of| of[&key].as_str()).find(|v| !v.is_empty());
        if n <= 10 {
            set(&key, value.map(str::to_owned));
        }
        if let Some(value) = value {
            dimensions.insert(key, json!(value));
        }
    }
    set("usercustomdimensions", Some(Value::Object(dimensions).to_string()));
    row
}

#[test]
fn oracle_and_json_agree() {
    let fake = serve(World::generate(&plan(7)));
    let (first, last) = (day("2026-10-22"), day("2026-10-27"));
    let oracle = fake.world().oracle(1, first, last, ActionTime::AsSent);
    let visits = live(&fake, "filter_limit=-1&filter_sort_order=asc");
    let mut rows = Vec::new();
    for visit in &visits {
        let actions = visit["actionDetails"].as_array().unwrap();
        rows.extend(actions.iter().enumerate().map(|(index, action)| mapped(visit, index, action)));
    }
    assert_eq!(rows.len(), oracle.len());
    // Exponent notation is the same number written differently.
    let number = |row: &OracleRow| row.get("action_eventvalue").unwrap().parse::<f64>().unwrap();
    let value = COLUMNS.iter().position(|c| *c == "action_eventvalue").unwrap();
    for (mut mapped, oracle) in rows.into_iter().zip(oracle) {
        assert_eq!(number(&mapped), number(&oracle));
        mapped.0[value].clone_from(&oracle.0[value]);
        assert_eq!(mapped, oracle);
    }
}

#[test]
fn replaced_and_missing_keys_reach_the_oracle() {
    let mut world = common::paris(&[(1, "2026-11-20 10:00:00")]);
    let visit = world.site_mut(1).visit_mut(1);
    visit.extra.insert("country".to_owned(), json!(["a", 1]));
    visit.omit.push("userId".to_owned());
    let odd = Action::event(visit.first + 9, "c", "a\0")
        .with("eventValue", json!("none"))
        .without("timestamp");
    visit.push(odd);
    let rows = world.oracle(1, day("2026-11-20"), day("2026-11-20"), ActionTime::Utc);
    assert_eq!((rows[1].get("country"), rows[1].get("userid")), (Some(r#"["a",1]"#), None));
    assert_eq!(
        (rows[1].get("action_eventaction"), rows[1].get("action_eventvalue")),
        (Some("a\u{fffd}"), Some("0"))
    );
    assert_eq!(rows[1].get("action_timestamp"), Some("2026-11-20 10:00:00+00"));
    let fake = serve(world);
    let visit = &live(&fake, "")[0];
    assert_eq!((&visit["country"], visit.get("userId")), (&json!(["a", 1]), None));
    assert!(visit["actionDetails"][1].get("timestamp").is_none());
}

/// Zones that change their clocks at midnight, by half an hour, in the other season, or never.
#[test]
fn days_of_odd_zones() {
    let changes = [
        ("America/Santiago", "2026-09-05", "2026-09-07"),
        ("America/Santiago", "2026-04-03", "2026-04-06"),
        ("Africa/Cairo", "2026-04-23", "2026-04-25"),
        ("America/Havana", "2026-10-31", "2026-11-02"),
        ("Australia/Lord_Howe", "2026-04-04", "2026-04-06"),
        ("Europe/Paris", "2026-03-28", "2026-03-30"),
        ("Asia/Kolkata", "2026-03-28", "2026-03-29"),
        ("UTC+2", "2026-03-28", "2026-03-29"),
    ];
    for (zone, first, last) in changes {
        let (first_day, last_day) = (day(first), day(last));
        let now = Clock::Fixed(at("2026-12-01 00:00:00"));
        let world = World::generate(&Plan {
            seed: 3,
            sites: vec![SitePlan::new(1, zone, 4)],
            first_day,
            last_day,
            now,
        });
        let hours = world.site(1).zone();
        let fake = serve(world.clone());
        for day in first_day.iter_days().take_while(|d| *d <= last_day) {
            let midnight = hours.midnight(day.succ_opt().unwrap());
            let wanted: Vec<_> = world.site(1).visits_of(day).iter().map(|v| v.id).collect();
            let params = format!(
                "period=range&date={day},{day}&filter_limit=-1&filter_sort_order=asc&doNotFetchActions=1"
            );
            let served = live(&fake, &params);
            let inside =
                served.iter().filter(|v| v["lastActionTimestamp"].as_i64().unwrap() < midnight);
            let served: Vec<_> = inside.map(|v| v["idVisit"].as_i64().unwrap()).collect();
            assert_eq!(served, wanted, "{zone} {day}");
        }
        let rows = world.oracle(1, first_day, last_day + chrono::Days::new(1), ActionTime::Utc);
        let actions = world.site(1).visits.iter().map(|v| v.actions.len().min(500)).sum::<usize>();
        assert_eq!(rows.len(), actions, "{zone}");
    }
}
