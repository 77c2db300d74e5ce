//! No key that a Matomo sends is lost: each is in a column, in `extra`, or on the list of what is left
//! out.

use std::collections::{BTreeMap, BTreeSet};

use fake_matomo::{Clock, Fake, Options, Plan, SitePlan, World};
use serde_json::Value;

use super::fuzz::recorded;
use super::*;
use crate::matomo::keys;
use crate::matomo::zone::Zone;
use crate::rows::lines;

const SITE: SiteContext =
    SiteContext { id: 1, zone: Zone::Fixed(0), action_time: ActionTime::Utc, is_rollup: None };

/// Members of a visit and of an action that columns take by other means than their key.
const TAKEN: [&str; 7] = [
    "idVisit",
    "firstActionTimestamp",
    "lastActionTimestamp",
    "truncatedActionsCount",
    "actionDetails",
    "customVariables",
    "timestamp",
];

/// The rows of a visit in our table of a kind: the cells by column.
fn rows(visit: &Value, kind: Kind) -> Vec<BTreeMap<&'static str, Option<String>>> {
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

/// Keys with a value that neither a column of these tables takes, nor `extra` has, nor are left out.
fn lost(
    members: &Value,
    kinds: &[Kind],
    rows: &[&BTreeMap<&'static str, Option<String>>],
) -> BTreeSet<String> {
    let columns = || kinds.iter().flat_map(|kind| kind.columns());
    let extras: Vec<Value> =
        rows.iter().filter_map(|row| serde_json::from_str(row["extra"].as_deref()?).ok()).collect();
    let is_lost = |(key, value): &(&String, &Value)| {
        let is_taken = TAKEN.contains(&key.as_str())
            || key.strip_prefix("dimension").is_some_and(|n| n.parse::<u32>().is_ok())
            || columns().any(|column| column.source.key() == Some(key));
        !(value.is_null()
            || is_taken
            || keys::is_left_out(key)
            || extras.iter().any(|extra| extra.get(key.as_str()).is_some()))
    };
    members.as_object().unwrap().iter().filter(is_lost).map(|(key, _)| key.clone()).collect()
}

fn lost_of(visit: &Value) -> BTreeSet<String> {
    let of_visit = rows(visit, Kind::Visits);
    let mut lost_keys = lost(visit, &[Kind::Visits], &[&of_visit[0]]);
    let (actions, conversions, items) =
        (rows(visit, Kind::Actions), rows(visit, Kind::Conversions), rows(visit, Kind::Items));
    let of = |rows: &[BTreeMap<&'static str, Option<String>>], id: &str| -> Vec<usize> {
        let is_its = |n: &usize| rows[*n]["action_id"].as_deref() == Some(id);
        (0..rows.len()).filter(is_its).collect()
    };
    for (action, row) in visit["actionDetails"].as_array().unwrap().iter().zip(&actions) {
        let id = row["action_id"].as_deref().unwrap();
        let converted = of(&conversions, id);
        let mut of_action = vec![row];
        of_action.extend(converted.iter().map(|n| &conversions[*n]));
        let kinds = match converted.is_empty() {
            true => &[Kind::Actions][..],
            false => &[Kind::Actions, Kind::Conversions],
        };
        let mut action = action.clone();
        let details = action.as_object_mut().unwrap().remove("itemDetails");
        lost_keys.extend(lost(&action, kinds, &of_action));
        let details = details.and_then(|list| list.as_array().cloned()).unwrap_or_default();
        let places = of(&items, id);
        assert_eq!(places.len(), details.len(), "items of {id}");
        for (item, place) in details.iter().zip(places) {
            lost_keys.extend(lost(item, &[Kind::Items], &[&items[place]]));
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
    assert_eq!(extra(Kind::Visits).as_deref(), Some(r#"{"newKey": "a"}"#));
    assert_eq!(extra(Kind::Actions).as_deref(), Some(r#"{"newKey": 7}"#));
}

#[test]
fn no_key_of_the_fake_is_lost() {
    let world = World::generate(&Plan {
        seed: 14,
        sites: vec![SitePlan { ecommerce: true, ..SitePlan::new(1, "UTC", 100) }],
        first_day: "2026-10-24".parse().unwrap(),
        last_day: "2026-10-26".parse().unwrap(),
        now: Clock::Real,
    });
    let fake = Fake::start(Options::new(world));
    let url = format!(
        "{}/index.php?module=API&format=JSON&method=Live.getLastVisitsDetails&idSite=1&period=range\
         &date=2026-10-01,2026-11-01&filter_limit=-1",
        fake.url().trim_end_matches('/')
    );
    let mut answer = ureq::post(url).send_form([("token_auth", fake.token())]).unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    let visits: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(visits.len() > 200);
    let lost: BTreeSet<_> = visits.iter().flat_map(lost_of).collect();
    assert_eq!(lost, BTreeSet::new());
}
