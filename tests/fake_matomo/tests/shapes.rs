//! The fake sends every key that a real Matomo sends, with the types that were seen, and no
//! others.

mod common;

use common::{at, day, serve};
use fake_matomo::tables::columns::{CONVERSIONS, Column, ITEMS, MORE_OF_ACTIONS, Origin, VISITS};
use fake_matomo::{
    ActionTime, COLUMNS, Clock, LEFT_OUT_OF_ACTIONS, LEFT_OUT_OF_VISITS, Plan, SitePlan, World,
};
use flate2::read::GzDecoder;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// What is known of a key.
struct Shape {
    types: Vec<&'static str>,
    always: bool,
}

/// By object (`visit`, `item`, or the type of an action) and key.
type Shapes = BTreeMap<(&'static str, &'static str), Shape>;

fn shapes() -> Shapes {
    let lines = include_str!("shapes.txt").lines();
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parse = |line: &'static str| {
        let words: Vec<_> = line.split(' ').collect();
        let [of, key, types, presence] = words[..] else { panic!("{line}") };
        let types = types.split('|').collect();
        ((of, key), Shape { types, always: presence == "always" })
    };
    lines.map(parse).collect()
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "obj",
    }
}

fn is_dimension(key: &str) -> bool {
    key.strip_prefix("dimension").is_some_and(|n| n.parse::<u32>().is_ok())
}

/// Every object in the visits, with its name.
fn objects(visits: &[Value]) -> Vec<(String, &Map<String, Value>)> {
    let mut all = Vec::new();
    for visit in visits {
        all.push(("visit".to_owned(), visit.as_object().unwrap()));
        for action in visit["actionDetails"].as_array().unwrap() {
            let kind = action["type"].as_str().map_or(action["type"].to_string(), str::to_owned);
            all.push((kind, action.as_object().unwrap()));
            for item in action["itemDetails"].as_array().into_iter().flatten() {
                all.push(("item".to_owned(), item.as_object().unwrap()));
            }
        }
    }
    all
}

/// The faults of the objects: unknown keys, types never seen, missing keys.
fn faults(visits: &[Value]) -> BTreeSet<String> {
    let shapes = shapes();
    let mut faults = BTreeSet::new();
    for (of, object) in objects(visits) {
        for (key, value) in object {
            if is_dimension(key) {
                if !matches!(value, Value::Null | Value::String(_)) {
                    faults.insert(format!("{of}.{key} is {}", type_of(value)));
                }
                continue;
            }
            match shapes.get(&(of.as_str(), key.as_str())) {
                None => drop(faults.insert(format!("{of}.{key} is unknown"))),
                Some(shape) if !shape.types.contains(&type_of(value)) => {
                    faults.insert(format!("{of}.{key} is {}", type_of(value)));
                }
                Some(_) => {}
            }
        }
        let missing = shapes
            .iter()
            .filter(|((o, key), s)| *o == of.as_str() && s.always && !object.contains_key(*key));
        faults.extend(missing.map(|((of, key), _)| format!("{of}.{key} is missing")));
    }
    faults
}

fn generated() -> World {
    let shop = SitePlan { ecommerce: true, ..SitePlan::new(1, "Europe/Paris", 60) };
    let (first_day, last_day) = (day("2026-10-22"), day("2026-10-26"));
    let now = Clock::Fixed(at("2026-10-27 15:00:00"));
    World::generate(&Plan { seed: 5, sites: vec![shop], first_day, last_day, now })
}

#[test]
fn a_made_world_has_every_key_with_the_types_that_were_seen() {
    let fake = serve(generated());
    let visits = common::live(&fake, "filter_limit=-1");
    assert!(visits.len() > 300, "{}", visits.len());
    assert_eq!(faults(&visits), BTreeSet::new());
    let mut sent: BTreeSet<(String, String, &str)> = BTreeSet::new();
    for (of, object) in objects(&visits) {
        sent.extend(object.iter().map(|(key, v)| (of.clone(), key.clone(), type_of(v))));
    }
    let is_sent = |of: &str, key: &str, ty: Option<&str>| {
        sent.iter().any(|(o, k, t)| o == of && k == key && ty.is_none_or(|ty| ty == *t))
    };
    let shapes = shapes();
    let never: Vec<_> = shapes.keys().filter(|(of, key)| !is_sent(of, key, None)).collect();
    assert_eq!(never, Vec::<&(&str, &str)>::new());
    // Values that are sometimes null.
    for (of, key) in [
        ("goal", "goalId"),
        ("goal", "goalPageId"),
        ("visit", "secondsSinceLastEcommerceOrder"),
        ("item", "itemCategory"),
        ("13", "contentInteraction"),
    ] {
        assert!(is_sent(of, key, Some("null")), "{of}.{key} is never null");
    }
    let items = objects(&visits).into_iter().filter(|(of, _)| of == "item");
    let lengths: BTreeSet<_> =
        items.map(|(_, item)| item["categories"].as_array().unwrap().len()).collect();
    assert!(lengths.contains(&0) && lengths.contains(&2), "{lengths:?}");
}

#[test]
fn the_list_of_shapes_is_that_of_the_recordings() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../recordings");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "gz") {
            continue;
        }
        let mut text = String::new();
        GzDecoder::new(std::fs::File::open(&path).unwrap()).read_to_string(&mut text).unwrap();
        let visits: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(faults(&visits), BTreeSet::new(), "{path:?}");
        read += visits.len();
    }
    assert!(read > 100, "{read}");
}

fn keys_of(columns: &[Column]) -> Vec<&'static str> {
    let key = |column: &Column| match column.from {
        Origin::Visit(key) | Origin::Action(key) | Origin::Item(key) => Some(key),
        Origin::Made => None,
    };
    columns.iter().filter_map(key).collect()
}

/// Each key has a column or is left out on purpose, never both.
#[test]
fn no_key_is_lost() {
    let of_visits: Vec<_> = keys_of(&VISITS)
        .into_iter()
        .chain(["firstActionTimestamp", "lastActionTimestamp", "truncatedActionsCount"])
        .chain(["actionDetails", "customVariables", "experiments"])
        .collect();
    // The 43 columns have other names.
    let of_node_tool = [
        ("type", "action_type"),
        ("title", "action_title"),
        ("url", "action_url"),
        ("timestamp", "action_timestamp"),
        ("timeSpent", "action_timespent"),
        ("eventCategory", "action_eventcategory"),
        ("eventAction", "action_eventaction"),
        ("eventName", "action_eventname"),
        ("eventValue", "action_eventvalue"),
        ("siteSearchKeyword", "sitesearchkeyword"),
        ("customVariables", "usercustomproperties"),
    ];
    assert!(of_node_tool.iter().all(|(_, column)| COLUMNS.contains(column)));
    let of_actions: Vec<_> = keys_of(&MORE_OF_ACTIONS)
        .into_iter()
        .chain(keys_of(&CONVERSIONS))
        .chain(of_node_tool.map(|(key, _)| key))
        .chain(["itemDetails"])
        .collect();
    for (of, key) in shapes().into_keys() {
        let (columns, left_out): (_, &[&str]) = match of {
            "visit" => (of_visits.clone(), &LEFT_OUT_OF_VISITS),
            "item" => (keys_of(&ITEMS), &[]),
            _ => (of_actions.clone(), &LEFT_OUT_OF_ACTIONS),
        };
        assert!(columns.contains(&key) != left_out.contains(&key), "{of}.{key}");
    }
    // Then nothing is left for `extra`.
    let tables =
        generated().oracle_tables(1, day("2026-10-01"), day("2026-11-01"), ActionTime::Utc);
    for table in [&tables.actions, &tables.visits, &tables.conversions, &tables.items] {
        assert!((0..table.rows.len()).all(|row| table.get(row, "extra").is_none()));
    }
}
