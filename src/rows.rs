//! From a visit to rows, column for column those of the Node tool. Pure.

use std::sync::Arc;

use chrono::DateTime;
use serde_json::value::RawValue;

use crate::json::{self, Members};
use crate::times::{self, Clock};
use crate::visit::{Action, Visit};
use crate::zone::Zone;

/// The columns of a destination, in the order of the template `matomo_action`.
#[rustfmt::skip]
pub const COLUMNS: [&str; 43] = [
    "action_id", "idsite", "idvisit", "actions", "country", "region", "city",
    "operatingsystemname", "devicemodel", "devicebrand", "visitduration", "dayssincefirstvisit",
    "visitortype", "sitename", "userid", "serverdateprettyfirstaction", "action_type",
    "action_eventcategory", "action_eventaction", "action_eventname", "action_eventvalue",
    "action_timespent", "action_timestamp", "usercustomproperties", "usercustomdimensions",
    "dimension1", "dimension2", "dimension3", "dimension4", "dimension5", "dimension6",
    "dimension7", "dimension8", "dimension9", "dimension10", "action_url", "sitesearchkeyword",
    "action_title", "visitorid", "referrertype", "referrername", "resolution", "experiments",
];

/// The place of `visitorid` in [`COLUMNS`].
pub const VISITORID: usize = 38;

/// A value in the text form that Postgres reads, shared between the rows of a visit.
pub type Value = Option<Arc<str>>;

/// One action: its values in the order of [`COLUMNS`], and its instant again as a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub values: Vec<Value>,
    /// `action_timestamp`, in seconds.
    pub at: i64,
}

/// What `action_timestamp` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionTime {
    /// The true instant.
    Utc,
    /// The site's wall clock as if it were UTC, as Matomo sends it and the Node tool stores it.
    AsSent,
}

/// What is the same for all visits of a sync.
#[derive(Debug, Clone, Copy)]
pub struct Site {
    /// idSite.
    pub id: i32,
    /// The site's timezone.
    pub zone: Zone,
    /// The setting `matomo.action_time`.
    pub action_time: ActionTime,
}

/// The columns whose values are the visit's, the same in all its rows.
#[rustfmt::skip]
pub const VISIT_COLUMNS: [&str; 20] = [
    "idsite", "idvisit", "actions", "country", "region", "city", "operatingsystemname",
    "devicemodel", "devicebrand", "visitduration", "dayssincefirstvisit", "visitortype",
    "sitename", "userid", "serverdateprettyfirstaction",
    "visitorid", "referrertype", "referrername", "resolution", "experiments",
];

/// Of those, the ones that stand before the action's own columns.
const BEFORE_ACTION: usize = 15;

/// The values of [`VISIT_COLUMNS`].
pub fn visit_values(visit: &Visit, id: i64, site: Site) -> Vec<Value> {
    let mut values: Vec<Value> =
        visit.values.iter().map(|raw| raw.and_then(json::text).map(Arc::from)).collect();
    values[0] = shared(id_site(visit, site));
    values.insert(1, shared(id.to_string()));
    values.insert(BEFORE_ACTION - 1, visit.first.and_then(date).and_then(shared));
    values.push(visit.experiments.and_then(|raw| shared(jsonb(raw))));
    values
}

/// The rows of a visit, one an action. `day_begin` is the instant of last resort for actions of a
/// visit without any time.
pub fn rows(visit: &Visit, id: i64, site: Site, day_begin: i64) -> Vec<Row> {
    let of_visit = visit_values(visit, id, site);
    let (head, tail) = of_visit.split_at(BEFORE_ACTION);
    let visit_variables = variables(visit.custom_variables);

    let instants = instants(visit, site, day_begin);
    let numbered = visit.actions.iter().zip(instants).enumerate();
    numbered
        .map(|(index, (action, at))| {
            let mut values = Vec::with_capacity(COLUMNS.len());
            values.push(shared(format!("{id}_{index}")));
            values.extend_from_slice(head);
            action_values(&mut values, action, at, visit, &visit_variables);
            values.extend_from_slice(tail);
            Row { values, at }
        })
        .collect()
}

/// `idsite`: as Matomo sends it, which for a roll-up of sites is not the one asked for.
pub fn id_site(visit: &Visit, site: Site) -> String {
    visit.values[0].and_then(json::text).unwrap_or_else(|| site.id.to_string())
}

/// The columns from `action_type` to `action_title`.
fn action_values(
    values: &mut Vec<Value>,
    action: &Action,
    at: i64,
    visit: &Visit,
    visit_variables: &[(String, String)],
) {
    let or = |raw: Option<&RawValue>, default: &str| {
        shared(raw.and_then(json::text).unwrap_or_else(|| default.to_owned()))
    };
    let plain = |raw: Option<&RawValue>| raw.and_then(json::text).map(Arc::from);
    values.extend([
        or(action.kind, ""),
        or(action.event_category, ""),
        or(action.event_action, ""),
        or(action.event_name, ""),
        shared(action.event_value.map_or_else(|| "0".to_owned(), number)),
        or(action.time_spent, "0"),
        timestamp(at).and_then(shared),
        shared(properties(variables(action.custom_variables), visit_variables)),
    ]);
    let mut dimensions = visit.dimensions.clone();
    dimensions.extend(&action.dimensions);
    let object: Vec<_> =
        dimensions.iter().map(|(number, raw)| (format!("dimension{number}"), jsonb(raw))).collect();
    values.push(shared(json_object(&object)));
    values.extend((1..=10).map(|number| plain(dimensions.get(&number).copied())));
    values.extend([plain(action.url), plain(action.site_search_keyword), plain(action.title)]);
}

fn shared(text: String) -> Value {
    Some(Arc::from(text))
}

/// The instants of the actions as `action_timestamp` is to hold them, none missing.
fn instants(visit: &Visit, site: Site, day_begin: i64) -> Vec<i64> {
    let (first, last) = (sane(visit.first), sane(visit.last));
    let clocks = visit.actions.iter().map(|action| Clock {
        wall: sane(action.wall),
        time_spent: action.time_spent.and_then(json::integer),
    });
    let (times, fallback): (Vec<_>, _) = match site.action_time {
        ActionTime::Utc => {
            let clocks: Vec<_> = clocks.collect();
            let times = times::true_times(site.zone, first, last, visit.truncated == 0, &clocks);
            (times, first.or(last).unwrap_or(day_begin))
        }
        ActionTime::AsSent => {
            let fallback = first.or(last).unwrap_or(day_begin);
            let wall = sane(Some(fallback + site.zone.offset_at(fallback))).unwrap_or(fallback);
            (clocks.map(|clock| clock.wall).collect(), wall)
        }
    };
    let mut before = fallback;
    times
        .into_iter()
        .map(|at| {
            // A zone may shift the first or the last hours of the calendar out of it.
            before = sane(at).unwrap_or(before);
            before
        })
        .collect()
}

/// A time that Postgres or a calendar cannot hold is as good as none.
pub fn sane(at: Option<i64>) -> Option<i64> {
    at.filter(|at| calendar(*at).is_some())
}

fn calendar(seconds: i64) -> Option<DateTime<chrono::Utc>> {
    use chrono::Datelike;
    DateTime::from_timestamp(seconds, 0).filter(|at| (1..=9999).contains(&at.year()))
}

fn date(seconds: i64) -> Option<String> {
    calendar(seconds).map(|at| at.format("%Y-%m-%d").to_string())
}

fn timestamp(seconds: i64) -> Option<String> {
    calendar(seconds).map(|at| at.format("%Y-%m-%d %H:%M:%S+00").to_string())
}

/// A number's digits as sent; `0` for what is no number, or one that `numeric` cannot hold.
fn number(raw: &RawValue) -> String {
    let text = json::text(raw).unwrap_or_default();
    let text = text.trim();
    if is_number(text) { text.to_owned() } else { "0".to_owned() }
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && mantissa.len() <= 1000
        && exponent.parse::<i32>().is_ok_and(|exponent| exponent.abs() <= 1000)
}

/// Custom variables as (name, JSON of the value), in order; of a name that comes twice the last
/// value counts. Actions have `customVariablePageName1`, visits `customVariableName1`.
fn variables(raw: Option<&RawValue>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (_, entry) in raw.map(Members::of).unwrap_or_default().0 {
        let members = Members::of(entry).0;
        for (key, name) in &members {
            let Some((scope, number)) = split_name(key) else { continue };
            let Some(name) = json::text(name) else { continue };
            let value_key = format!("customVariable{scope}Value{number}");
            let Some((_, value)) = members.iter().rfind(|(key, _)| *key == value_key) else {
                continue;
            };
            let value = jsonb(value);
            match found.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => found.push((name, value)),
            }
        }
    }
    found
}

/// `customVariablePageName3` → (`Page`, `3`).
fn split_name(key: &str) -> Option<(&str, &str)> {
    let key = key.strip_prefix("customVariable")?;
    let (scope, number) = key.split_once("Name")?;
    matches!(scope, "" | "Page").then_some((scope, number))
}

fn properties(mut own: Vec<(String, String)>, of_visit: &[(String, String)]) -> String {
    for (name, value) in of_visit {
        if own.iter().all(|(known, _)| known != name) {
            own.push((name.clone(), value.clone()));
        }
    }
    json_object(&own)
}

fn json_object(members: &[(String, String)]) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| format!("{}:{value}", serde_json::Value::from(name.as_str())))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// JSON that `json` and `jsonb` are sure to take; what they might refuse (too deep, numbers too
/// large) is kept as a string.
fn jsonb(raw: &RawValue) -> String {
    serde_json::from_str::<serde_json::Value>(raw.get())
        .unwrap_or_else(|_| serde_json::Value::from(raw.get()))
        .to_string()
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
