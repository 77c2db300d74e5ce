//! From a visit to rows, column for column those of the Node tool. Pure.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use chrono::DateTime;
use serde_json::value::RawValue;

use crate::matomo::json;
use crate::matomo::memory::Text;
use crate::matomo::visit::{Action, Visit};
use crate::matomo::zone::Zone;
use crate::rows::lines::{self, Cells, Lines};
use crate::rows::times::{self, Clock};
use crate::rows::values;

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

/// Places in [`COLUMNS`].
pub const ACTION_ID: usize = 0;
pub const IDVISIT: usize = 2;
pub const ACTION_TIMESTAMP: usize = 22;
pub const VISITORID: usize = 38;

/// What `action_timestamp` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionTime {
    /// The true instant.
    Utc,
    /// The site's wall clock as if it were UTC, as Matomo sends it and the Node tool stores it.
    AsSent,
}

impl ActionTime {
    /// As `matomo.action_time` and the ledger name it.
    pub fn name(self) -> &'static str {
        match self {
            ActionTime::Utc => "utc",
            ActionTime::AsSent => "as_sent",
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<ActionTime> {
        [ActionTime::Utc, ActionTime::AsSent].into_iter().find(|known| known.name() == name)
    }
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
    /// Whether visits of other sites are shown under it; `None` until somebody has asked.
    pub is_rollup: Option<bool>,
}

/// The columns whose values are the visit's, the same in all its rows.
#[rustfmt::skip]
pub const VISIT_COLUMNS: [&str; 20] = [
    "idsite", "idvisit", "actions", "country", "region", "city", "operatingsystemname",
    "devicemodel", "devicebrand", "visitduration", "dayssincefirstvisit", "visitortype",
    "sitename", "userid", "serverdateprettyfirstaction",
    "visitorid", "referrertype", "referrername", "resolution", "experiments",
];

/// The cells of a visit's own columns, the same in all its rows.
#[derive(Default)]
struct OfVisit {
    /// Those before the action's own columns, but for `action_id`.
    head: Text,
    /// Those behind.
    tail: Text,
}

impl OfVisit {
    fn new(visit: &Visit, id: i64, site: Site) -> OfVisit {
        let (mut head, mut tail) = (Text::default(), Text::default());
        let mut cells = Cells(&mut head);
        cells.show(id_site(visit, site));
        cells.show(id);
        // `visitorId` and what comes after it stand behind the action's columns.
        let (before, after) = visit.values[1..].split_at(VISIT_KEYS_BEFORE_ACTION - 1);
        before.iter().for_each(|raw| show(&mut cells, *raw));
        match visit.first.and_then(calendar) {
            Some(first) => cells.show(first.date_naive()),
            None => cells.null(),
        }
        let mut cells = Cells(&mut tail);
        after.iter().for_each(|raw| show(&mut cells, *raw));
        match visit.experiments {
            Some(raw) => cells.text(&values::jsonb(raw)),
            None => cells.null(),
        }
        OfVisit { head, tail }
    }
}

/// Of [`crate::matomo::visit::VISIT_KEYS`], those whose columns stand before the action's own.
const VISIT_KEYS_BEFORE_ACTION: usize = 13;

/// The values of [`VISIT_COLUMNS`]; `None` when there is no memory for them.
pub fn visit_values(visit: &Visit, id: i64, site: Site) -> Option<Vec<Option<String>>> {
    let OfVisit { mut head, tail } = OfVisit::new(visit, id, site);
    head.push_all(&tail);
    let cells = lines::cells(head.strip_suffix('\t').unwrap_or_default());
    let values = cells.map(|cell| lines::value(cell).map(Cow::into_owned));
    (!head.is_cut()).then(|| values.collect())
}

/// Adds the rows of a visit, one an action. `day_begin` is the instant of last resort for actions of
/// a visit without any time. Gives false when there is no memory for them, or when they are of more than `most` bytes: what the visit has
/// stands in each of its rows, so that a short answer could become rows beyond all measure.
#[must_use]
pub fn add(
    rows: &mut Lines,
    visit: &Visit,
    id: i64,
    site: Site,
    day_begin: i64,
    most: usize,
) -> bool {
    let begin = rows.size();
    let of_visit = OfVisit::new(visit, id, site);
    let visit_variables = variables(visit.custom_variables);
    let instants = instants(visit, site, day_begin);
    for (index, (action, at)) in visit.actions.iter().zip(instants).enumerate() {
        let mut cells = rows.begin(at);
        cells.show(format_args!("{id}_{index}"));
        cells.written(&of_visit.head);
        add_action(&mut cells, action, at, visit, &visit_variables);
        cells.written(&of_visit.tail);
        cells.end_line();
        if rows.size() - begin > most || rows.is_cut() {
            return false;
        }
    }
    true
}

/// `idSite`, which for a roll-up is not the one asked for.
pub fn id_site(visit: &Visit, site: Site) -> i64 {
    visit.values[0].and_then(json::integer).unwrap_or_else(|| site.id.into())
}

/// The columns from `action_type` to `action_title`.
fn add_action(
    cells: &mut Cells,
    action: &Action,
    at: i64,
    visit: &Visit,
    visit_variables: &[(String, String)],
) {
    show_or(cells, action.kind, "");
    show_or(cells, action.event_category, "");
    show_or(cells, action.event_action, "");
    show_or(cells, action.event_name, "");
    match action.event_value {
        Some(raw) => cells.plain(&values::number(raw)),
        None => cells.plain("0"),
    }
    show_or(cells, action.time_spent, "0");
    match calendar(at) {
        Some(at) => timestamp(cells, at),
        None => cells.null(),
    }
    match (action.custom_variables, visit_variables) {
        (None, []) => cells.plain("{}"),
        (own, of_visit) => cells.text(&properties(variables(own), of_visit)),
    }
    let both;
    let dimensions = match (&visit.dimensions, &action.dimensions) {
        (of_visit, own) if own.is_empty() => of_visit,
        (of_visit, own) if of_visit.is_empty() => own,
        (of_visit, own) => {
            both = of_visit.iter().chain(own).map(|(number, raw)| (*number, *raw)).collect();
            &both
        }
    };
    if dimensions.is_empty() {
        cells.plain("{}");
        (1..=10).for_each(|_| cells.null());
    } else {
        let object: Vec<_> = dimensions
            .iter()
            .map(|(number, raw)| (format!("dimension{number}"), values::json(raw)))
            .collect();
        cells.text(&json_object(&object));
        (1..=10).for_each(|number| show(cells, dimensions.get(&number).copied()));
    }
    show(cells, action.url);
    show(cells, action.site_search_keyword);
    show(cells, action.title);
}

/// A value as it is, or null.
fn show(cells: &mut Cells, raw: Option<&RawValue>) {
    let mut is_null = true;
    if let Some(raw) = raw {
        json::with_text(raw, |text| {
            cells.text(text);
            is_null = false;
        });
    }
    if is_null {
        cells.null();
    }
}

/// A value as it is, or a default.
fn show_or(cells: &mut Cells, raw: Option<&RawValue>, default: &str) {
    match raw {
        Some(raw) => show(cells, Some(raw)),
        None => cells.plain(default),
    }
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

/// As Postgres shows it in UTC.
fn timestamp(cells: &mut Cells, at: DateTime<chrono::Utc>) {
    let (day, time) = (at.date_naive(), at.time());
    // A template per part is several times as fast as `format`.
    cells.show(format_args!("{day} {time}+00"));
}

/// Custom variables as (name, JSON of the value), in order; of a name that comes twice the last
/// value counts. Actions have `customVariablePageName1`, visits `customVariableName1`.
fn variables(raw: Option<&RawValue>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    // Of ten thousand none must be looked for one by one.
    let mut places: HashMap<String, usize> = HashMap::new();
    let Some(raw) = raw else { return found };
    json::each_member(raw, |_, entry| {
        let mut members = Vec::new();
        json::each_member(entry, |key, value| {
            if key.starts_with(VARIABLE) {
                members.push((key, value));
            }
        });
        let values: HashMap<&str, &RawValue> =
            members.iter().map(|(key, raw)| (key.as_ref(), *raw)).collect();
        for (key, name) in &members {
            let Some((scope, number)) = split_name(key) else { continue };
            let Some(name) = json::text(name) else { continue };
            let value_key = format!("{VARIABLE}{scope}Value{number}");
            let Some(value) = values.get(value_key.as_str()) else { continue };
            let value = values::json(value);
            match places.get(&name) {
                Some(place) => found[*place].1 = value,
                None => {
                    places.insert(name.clone(), found.len());
                    found.push((name, value));
                }
            }
        }
    });
    found
}

/// What the keys of a custom variable begin with.
const VARIABLE: &str = "customVariable";

/// `customVariablePageName3` → (`Page`, `3`).
fn split_name(key: &str) -> Option<(&str, &str)> {
    let key = key.strip_prefix(VARIABLE)?;
    let (scope, number) = key.split_once("Name")?;
    matches!(scope, "" | "Page").then_some((scope, number))
}

fn properties(mut own: Vec<(String, String)>, of_visit: &[(String, String)]) -> String {
    let known: HashSet<_> = own.iter().map(|(name, _)| name.clone()).collect();
    own.extend(of_visit.iter().filter(|(name, _)| !known.contains(name)).cloned());
    json_object(&own)
}

fn json_object(members: &[(String, String)]) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| format!("{}:{value}", serde_json::Value::from(name.as_str())))
        .collect();
    format!("{{{}}}", members.join(","))
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "fuzz_tests.rs"]
mod fuzz;
