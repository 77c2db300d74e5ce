//! The rows that a correct sync must produce, computed from the model and not from the JSON.

use std::collections::HashSet;

use crate::action::{Action, CustomVariable, Kind};
use crate::visit::Visit;
use crate::world::{Site, World};
use crate::writer::literal_of;
use crate::zone::{Zone, utc};
use chrono::NaiveDate;
use serde_json::{Map, Value};

/// The columns of the Node tool's tables, in their order.
#[rustfmt::skip]
pub const COLUMNS: [&str; 43] = [
    "action_id", "idsite", "idvisit", "actions", "country", "region", "city", "operatingsystemname",
    "devicemodel", "devicebrand", "visitduration", "dayssincefirstvisit", "visitortype", "sitename", "userid",
    "serverdateprettyfirstaction", "action_type", "action_eventcategory", "action_eventaction",
    "action_eventname", "action_eventvalue", "action_timespent", "action_timestamp", "usercustomproperties",
    "usercustomdimensions", "dimension1", "dimension2", "dimension3", "dimension4", "dimension5", "dimension6",
    "dimension7", "dimension8", "dimension9", "dimension10", "action_url", "sitesearchkeyword", "action_title",
    "visitorid", "referrertype", "referrername", "resolution", "experiments",
];

/// The meaning of `action_timestamp`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ActionTime {
    /// The true instant.
    Utc,
    /// The site's wall clock read as if it were UTC, as Matomo sends it and the Node tool stores
    /// it.
    AsSent,
}

/// One row, in the order of `COLUMNS`; each value is text valid for its column's type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OracleRow(pub [Option<String>; 43]);

impl OracleRow {
    /// The value of a column.
    ///
    /// # Panics
    /// When there is no such column.
    pub fn get(&self, column: &str) -> Option<&str> {
        let place = COLUMNS.iter().position(|c| *c == column).expect("no such column");
        self.0[place].as_deref()
    }
}

impl World {
    /// The rows of these site-days, sorted by the visits' last action, id and index. A visit
    /// belongs to the day of its last action; one that has not arrived yet has no rows. Recorded
    /// visits are ignored.
    pub fn oracle(
        &self,
        site: i64,
        first: NaiveDate,
        last: NaiveDate,
        time: ActionTime,
    ) -> Vec<OracleRow> {
        let site = self.site(site);
        let visits = site.within(first, last, self.now.seconds());
        visits.into_iter().flat_map(|v| rows(self, site, site.zone(), v, time)).collect()
    }
}

/// The rows of a visit's actions.
pub(crate) fn rows(
    world: &World,
    site: &Site,
    zone: Zone,
    visit: &Visit,
    time: ActionTime,
) -> Vec<OracleRow> {
    if visit.extra.contains_key("actionDetails") || visit.omit.iter().any(|k| k == "actionDetails")
    {
        return Vec::new();
    }
    let mut rows = Vec::new();
    let mut before = visit.first;
    for (index, action) in visit.actions.iter().take(world.max_actions).enumerate() {
        let sent = action.at + if time == ActionTime::AsSent { zone.offset(action.at) } else { 0 };
        // Without a timestamp, the previous action's time is used.
        let missing = action.omit.iter().any(|k| k == "timestamp");
        before = if missing { before } else { sent };
        rows.push(row(site, visit, index, action, before));
    }
    rows
}

fn row(site: &Site, visit: &Visit, index: usize, action: &Action, time: i64) -> OracleRow {
    let of_visit = |key: &str, own: Option<String>| sent(&visit.extra, &visit.omit, key, own);
    let of_action = |key: &str, own: Option<String>| sent(&action.extra, &action.omit, key, own);
    let some = |text: &str| Some(text.to_owned());
    let id = of_visit("idVisit", Some(visit.id.to_string())).unwrap_or_default();
    let day = (!visit.omit.iter().any(|k| k == "firstActionTimestamp"))
        .then(|| utc(visit.first).date().to_string());
    let (category, done, name, value) = match &action.kind {
        Kind::Event { category, action: done, value, .. } => {
            (some(category), some(done), action.kind.event_name().map(str::to_owned), value.clone())
        }
        _ => (None, None, None, None),
    };
    let is_number = |text: &String| text.parse::<f64>().is_ok_and(f64::is_finite);
    let keyword = match &action.kind {
        Kind::Search { keyword, .. } => some(keyword),
        _ => None,
    };
    // A search has no URL, even when made on a page; a shop conversion has no such key.
    let url = match action.kind {
        Kind::Search { .. } | Kind::Order { .. } | Kind::Cart { .. } => None,
        _ => action.url.clone(),
    };
    let dimensions = dimensions(visit, action);
    let dimension = |n: u32| dimensions.iter().find(|d| d.0 == n).map(|d| d.1.clone());
    let spent = visit.time_spent(index).map(|s| s.to_string());
    let spent = match action.kind {
        // Conversions never have this key, whatever the model has.
        Kind::Goal { .. } | Kind::Order { .. } | Kind::Cart { .. } => None,
        _ => spent,
    };
    let device = &visit.device;
    OracleRow([
        Some(format!("{id}_{index}")),
        of_visit("idSite", Some(site.id.to_string())).or(some("")),
        Some(id),
        of_visit("actions", Some(visit.action_count().to_string())),
        of_visit("country", visit.country.clone()),
        of_visit("region", visit.region.clone()),
        of_visit("city", visit.city.clone()),
        of_visit("operatingSystemName", some(device.os)),
        of_visit("deviceModel", some(device.model)),
        of_visit("deviceBrand", some(device.brand)),
        of_visit("visitDuration", Some(visit.duration().to_string())),
        of_visit("daysSinceFirstVisit", Some(visit.days_since_first.to_string())),
        of_visit("visitorType", some(&visit.visitor_type)),
        of_visit("siteName", some(&site.name)),
        of_visit("userId", visit.user_id.clone()),
        day,
        of_action("type", some(action.kind.type_name())).or(some("")),
        of_action("eventCategory", category).or(some("")),
        of_action("eventAction", done).or(some("")),
        of_action("eventName", name).or(some("")),
        of_action("eventValue", value).filter(is_number).or(some("0")),
        of_action("timeSpent", spent).or(some("0")),
        Some(format!("{}+00", utc(time))),
        Some(properties(visit, action)),
        Some(object(
            &dimensions
                .iter()
                .map(|d| (format!("dimension{}", d.0), d.1.clone()))
                .collect::<Vec<_>>(),
        )),
        dimension(1),
        dimension(2),
        dimension(3),
        dimension(4),
        dimension(5),
        dimension(6),
        dimension(7),
        dimension(8),
        dimension(9),
        dimension(10),
        of_action("url", url.map(|u| storable(&u))),
        of_action("siteSearchKeyword", keyword),
        of_action("title", action.kind.title(action)),
        of_visit("visitorId", some(&visit.visitor_id)),
        of_visit("referrerType", some(&visit.referrer.kind)),
        of_visit("referrerName", some(&visit.referrer.name)),
        of_visit("resolution", some(&visit.resolution)),
        visit.experiments.as_ref().filter(|e| !e.is_null()).map(|e| storable(&e.to_string())),
    ])
}

/// The text for the column: the test's own value, nothing, or the model's.
fn sent(
    extra: &Map<String, Value>,
    omit: &[String],
    key: &str,
    own: Option<String>,
) -> Option<String> {
    let text = match extra.get(key) {
        Some(Value::Null) => None,
        Some(Value::String(text)) => match literal_of(text) {
            Some("null") => None,
            literal => Some(literal.unwrap_or(text).to_owned()),
        },
        Some(other) => Some(other.to_string()),
        None if omit.iter().any(|k| k == key) => None,
        None => own,
    };
    text.map(|t| storable(&t))
}

/// Postgres cannot store U+0000.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The dimensions that have a value, by number: the action's, else the visit's.
fn dimensions(visit: &Visit, action: &Action) -> Vec<(u32, String)> {
    let mut all: Vec<(u32, String)> = Vec::new();
    for (number, value) in action.dimensions.iter().chain(&visit.dimensions) {
        let value = value.as_deref().filter(|v| !v.is_empty());
        if let Some(value) = value.filter(|_| !all.iter().any(|d| d.0 == *number)) {
            all.push((*number, storable(value)));
        }
    }
    all.sort();
    all
}

/// The action's custom variables, then the visit's variables with other names.
fn properties(visit: &Visit, action: &Action) -> String {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut names = HashSet::new();
    for CustomVariable { name, value, .. } in
        action.custom_variables.iter().chain(&visit.custom_variables)
    {
        let name = storable(name);
        if names.insert(name.clone()) {
            all.push((name, storable(value)));
        }
    }
    object(&all)
}

/// A JSON object of strings as JSON.stringify writes it.
fn object(pairs: &[(String, String)]) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let pairs: Vec<_> = pairs.iter().map(|(k, v)| format!("{}:{}", quoted(k), quoted(v))).collect();
    format!("{{{}}}", pairs.join(","))
}
