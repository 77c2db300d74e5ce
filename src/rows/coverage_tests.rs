//! No key that a Matomo sends is lost: each is in a column, in `extra`, or on the list of what is left
//! out.

use std::collections::{BTreeMap, BTreeSet};

use fake_matomo::tables::columns::{LEFT_OUT_OF_ACTIONS, LEFT_OUT_OF_VISITS};
use fake_matomo::{Clock, Fake, Options, Plan, SitePlan, World, hostile, mutate};
use serde_json::Value;
use serde_json::value::RawValue;

use super::fuzz::recorded;
use super::*;
use crate::matomo::json::mend;
use crate::matomo::zone::Zone;
use crate::rows::lines;

const SITE: SiteContext =
    SiteContext { id: 1, zone: Zone::Fixed(0), action_time: ActionTime::Utc, is_rollup: None };

type Row = BTreeMap<&'static str, Option<String>>;

/// The rows of a visit in our table of a kind: the cells by column.
fn rows(visit: &Value, kind: TableKind) -> Vec<Row> {
    let text = format!("[{visit}]");
    let visits = crate::matomo::answer::visits(&text).unwrap();
    let visit = &visits[0];
    let layout = Layout::typed(kind);
    let mut lines = Lines::default();
    let made = VisitRows::of(visit, visit.id.unwrap(), SITE, 0);
    assert!(made.add(&mut lines, &layout, usize::MAX).is_some());
    let cells = |line| lines.cells(line).map(|cell| lines::value(cell).map(Into::into));
    (0..lines.len()).map(|line| layout.names().zip(cells(line)).collect()).collect()
}

/// The members of a column with an object.
fn object(row: &Row, column: &str) -> Value {
    row.get(column).and_then(|cell| serde_json::from_str(cell.as_deref()?).ok()).unwrap_or_default()
}

fn is_nothing(value: &Value) -> bool {
    value.is_null() || value == ""
}

/// Keys with a value that neither a column of these rows holds, nor `extra` has, nor are left out.
fn lost(members: &Value, rows: &[(TableKind, &Row)], left_out: &[&str]) -> BTreeSet<String> {
    let held = |key: &str, (kind, row): &(TableKind, &Row)| {
        let mut columns = kind.columns().iter();
        columns.any(|column| column.source.key() == Some(key) && row[column.name].is_some())
            || object(row, "extra").get(key).is_some()
            || ["dimensions", "usercustomdimensions"]
                .iter()
                .any(|column| object(row, column).get(key).is_some())
    };
    let is_lost = |(key, value): &(&String, &Value)| {
        let is_for_people = key.ends_with("Icon") || key.contains("Pretty");
        !(is_nothing(value)
            || is_for_people
            || left_out.contains(&key.as_str())
            || rows.iter().any(|row| held(key, row)))
    };
    members.as_object().unwrap().iter().filter(is_lost).map(|(key, _)| key.clone()).collect()
}

/// The elements of a list or a map; none of another value.
fn elements(value: &Value) -> Option<Vec<&Value>> {
    match value {
        Value::Array(list) => Some(list.iter().collect()),
        Value::Object(map) => Some(map.values().collect()),
        _ => None,
    }
}

fn lost_of(visit: &Value) -> BTreeSet<String> {
    let of_visit = rows(visit, TableKind::Visits);
    let mut visit = visit.clone();
    let members = visit.as_object_mut().unwrap();
    members.remove("idVisit");
    let details = members.get("actionDetails").cloned().unwrap_or_default();
    if elements(&details).is_some() {
        members.remove("actionDetails");
    }
    let mut lost_keys = lost(&visit, &[(TableKind::Visits, &of_visit[0])], &LEFT_OUT_OF_VISITS);
    visit["idVisit"] = of_visit[0]["idvisit"].as_deref().unwrap().into();
    visit["actionDetails"] = details.clone();
    let (actions, conversions, items) = (
        rows(&visit, TableKind::Actions),
        rows(&visit, TableKind::Conversions),
        rows(&visit, TableKind::Items),
    );
    let by_action = |rows: &[Row]| {
        let mut all: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (place, row) in rows.iter().enumerate() {
            all.entry(row["action_id"].clone().unwrap()).or_default().push(place);
        }
        all
    };
    let (conversions_of, items_of) = (by_action(&conversions), by_action(&items));
    let all = elements(&details).unwrap_or_default();
    assert_eq!(all.len(), actions.len(), "{visit}");
    for (action, row) in all.into_iter().zip(&actions) {
        let id = row["action_id"].as_deref().unwrap();
        let converted = conversions_of.get(id);
        let converted = converted.map(|places| (TableKind::Conversions, &conversions[places[0]]));
        let of_action: Vec<_> = [(TableKind::Actions, row)].into_iter().chain(converted).collect();
        let mut action = match action {
            Value::Object(_) => action.clone(),
            Value::Array(list) => {
                list.iter().enumerate().map(|(n, value)| (n.to_string(), value.clone())).collect()
            }
            other => serde_json::json!({ "actionDetails": other }),
        };
        let places = items_of.get(id).map_or(&[][..], |places| &places[..]);
        let details = action.get("itemDetails").and_then(elements).unwrap_or_default();
        let details: Vec<Value> = details.into_iter().cloned().collect();
        let (maps, others): (Vec<_>, Vec<_>) = details.iter().partition(|item| item.is_object());
        let says_something = |other: &&Value| !is_nothing(other) && **other != Value::Array(vec![]);
        if action.get("itemDetails").and_then(elements).is_some()
            && maps.len() == places.len()
            && !others.iter().any(says_something)
        {
            action.as_object_mut().unwrap().remove("itemDetails");
        }
        lost_keys.extend(lost(&action, &of_action, &LEFT_OUT_OF_ACTIONS));
        assert!(places.is_empty() || maps.len() == places.len(), "items of {id}");
        for (item, place) in maps.iter().zip(places) {
            lost_keys.extend(lost(item, &[(TableKind::Items, &items[*place])], &[]));
        }
    }
    lost_keys
}

#[test]
fn no_key_of_a_real_matomo_is_lost() {
    let visits = recorded();
    let lost: BTreeSet<_> = visits.iter().flat_map(lost_of).collect();
    assert_eq!(lost, BTreeSet::new());
    // Nor is a key that nobody knows, in a visit, an action or an item.
    let mut visit = visits
        .iter()
        .find(|visit| visit["actionDetails"][0]["type"] == "ecommerceOrder")
        .or_else(|| visits.iter().find(|visit| visit["actionDetails"].get(0).is_some()))
        .unwrap()
        .clone();
    visit["newKey"] = "a".into();
    visit["actionDetails"][0]["newKey"] = 7.into();
    assert_eq!(lost_of(&visit), BTreeSet::new());
    let extra = |kind| rows(&visit, kind)[0]["extra"].clone();
    assert_eq!(extra(TableKind::Visits).as_deref(), Some(r#"{"newKey": "a"}"#));
    assert_eq!(extra(TableKind::Actions).as_deref(), Some(r#"{"newKey": 7}"#));
}

/// All visits that a fake Matomo of this world lists.
fn listed(world: World, unescaped: bool) -> Vec<Value> {
    let fake = Fake::start(Options::new(world));
    fake.knobs().unescaped = unescaped;
    let url = format!(
        "{}/index.php?module=API&format=JSON&method=Live.getLastVisitsDetails&idSite=1&period=range\
         &date=2026-10-01,2026-11-01&filter_limit=-1",
        fake.url().trim_end_matches('/')
    );
    let mut answer = ureq::post(url).send_form([("token_auth", fake.token())]).unwrap();
    let body = answer.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
    visits_in(body)
}

/// The visits of an answer, as far as this test's JSON parser takes their numbers and depth.
fn visits_in(body: Vec<u8>) -> Vec<Value> {
    let text = mend(body);
    let list: Vec<&RawValue> = serde_json::from_str(&text).unwrap();
    list.iter().filter_map(|raw| serde_json::from_str(raw.get()).ok()).collect()
}

fn world(site: SitePlan, days: u32, change: impl Fn(&mut World)) -> World {
    let mut world = World::generate(&Plan {
        seed: 14,
        sites: vec![site],
        first_day: "2026-10-08".parse().unwrap(),
        last_day: chrono::NaiveDate::from_ymd_opt(2026, 10, 7 + days).unwrap(),
        now: Clock::Real,
    });
    change(&mut world);
    world
}

#[test]
fn no_key_of_the_fake_is_lost() {
    let shop =
        |zone: &str, per_day| SitePlan { ecommerce: true, ..SitePlan::new(1, zone, per_day) };
    let worlds = [
        (world(shop("UTC", 60), 3, |_| {}), 200),
        // As many days as a type has odd values, one of them with a clock change.
        (world(SitePlan { odd_values: true, ..shop("Europe/Paris", 1) }, 20, |_| {}), 800),
        (
            world(SitePlan::new(1, "Asia/Kathmandu", 10), 8, |world| {
                world.numbers_as_strings = true;
                world.plain_custom_variables = true;
                world.max_actions = 3;
            }),
            80,
        ),
    ];
    for ((world, least), unescaped) in worlds.into_iter().zip([false, true, false]) {
        let visits = listed(world, unescaped);
        assert!(visits.len() > least, "{}", visits.len());
        for visit in &visits {
            assert_eq!(lost_of(visit), BTreeSet::new(), "{visit}");
        }
    }
}

#[test]
fn no_key_of_a_hostile_matomo_is_lost() {
    let recorded = recorded();
    let mut count = 0;
    for seed in 0..24 {
        for page in [hostile::page(seed), mutate::page(seed, &recorded)] {
            for visit in visits_in(page.body) {
                assert_eq!(lost_of(&visit), BTreeSet::new(), "seed {seed}: {visit}");
                count += 1;
            }
        }
    }
    assert!(count > 60, "{count}");
}
