//! A visit as `Live.getLastVisitsDetails` sends it, read leniently. Pure.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::json::{self, Members};

/// Custom dimensions by number, in order.
pub type Dimensions<'a> = BTreeMap<u32, &'a RawValue>;

/// One element of the answer, with what the columns need.
#[derive(Debug, Default)]
pub struct Visit<'a> {
    /// `idVisit`, a whole number: the only key without which a visit cannot be stored.
    pub id: Option<i64>,
    /// `firstActionTimestamp`, a true instant in seconds.
    pub first: Option<i64>,
    /// `lastActionTimestamp`, a true instant in seconds, by which Matomo filters and sorts.
    pub last: Option<i64>,
    /// `truncatedActionsCount`: actions that Matomo did not send.
    pub truncated: i64,
    /// The values of the visit-level columns, in the order of [`VISIT_KEYS`].
    pub values: [Option<&'a RawValue>; VISIT_KEYS.len()],
    /// `experiments` of the A/B testing plugin.
    pub experiments: Option<&'a RawValue>,
    /// `customVariables`, whichever shape they have.
    pub custom_variables: Option<&'a RawValue>,
    /// Those `dimensionN` that have a value.
    pub dimensions: Dimensions<'a>,
    /// `actionDetails`.
    pub actions: Vec<Action<'a>>,
}

/// The keys that become columns as they are, in the order of the columns.
pub const VISIT_KEYS: [&str; 17] = [
    "idSite",
    "actions",
    "country",
    "region",
    "city",
    "operatingSystemName",
    "deviceModel",
    "deviceBrand",
    "visitDuration",
    "daysSinceFirstVisit",
    "visitorType",
    "siteName",
    "userId",
    "visitorId",
    "referrerType",
    "referrerName",
    "resolution",
];

/// One element of `actionDetails`.
#[derive(Debug, Default)]
pub struct Action<'a> {
    pub kind: Option<&'a RawValue>,
    pub event_category: Option<&'a RawValue>,
    pub event_action: Option<&'a RawValue>,
    pub event_name: Option<&'a RawValue>,
    pub event_value: Option<&'a RawValue>,
    pub time_spent: Option<&'a RawValue>,
    /// `timestamp`: the site's wall clock, in seconds since 1970-01-01 00:00 on that clock.
    pub wall: Option<i64>,
    pub url: Option<&'a RawValue>,
    pub title: Option<&'a RawValue>,
    pub site_search_keyword: Option<&'a RawValue>,
    pub custom_variables: Option<&'a RawValue>,
    pub dimensions: Dimensions<'a>,
}

impl<'a> Visit<'a> {
    /// Takes a visit apart. Unknown keys are passed over; of a key that comes twice the last counts.
    pub fn read(raw: &'a RawValue) -> Visit<'a> {
        let mut visit = Visit::default();
        let mut server_timestamp = None;
        for (key, value) in Members::of(raw).0 {
            match key.as_ref() {
                "idVisit" => visit.id = json::integer(value),
                "firstActionTimestamp" => visit.first = json::integer(value),
                "lastActionTimestamp" => visit.last = json::integer(value),
                "serverTimestamp" => server_timestamp = json::integer(value),
                "truncatedActionsCount" => visit.truncated = json::integer(value).unwrap_or(0),
                "experiments" => visit.experiments = present(value),
                "customVariables" => visit.custom_variables = present(value),
                "actionDetails" => {
                    let actions = Members::of(value).0;
                    visit.actions = actions.into_iter().map(|(_, raw)| Action::read(raw)).collect();
                }
                key => {
                    if let Some(place) = VISIT_KEYS.iter().position(|known| *known == key) {
                        visit.values[place] = present(value);
                    } else {
                        note_dimension(&mut visit.dimensions, key, value);
                    }
                }
            }
        }
        // The same instant under another name.
        visit.last = visit.last.or(server_timestamp);
        visit
    }
}

impl<'a> Action<'a> {
    fn read(raw: &'a RawValue) -> Action<'a> {
        let mut action = Action::default();
        for (key, value) in Members::of(raw).0 {
            match key.as_ref() {
                "type" => action.kind = present(value),
                "eventCategory" => action.event_category = present(value),
                "eventAction" => action.event_action = present(value),
                "eventName" => action.event_name = present(value),
                "eventValue" => action.event_value = present(value),
                "timeSpent" => action.time_spent = present(value),
                "timestamp" => action.wall = json::integer(value),
                "url" => action.url = present(value),
                "title" => action.title = present(value),
                "siteSearchKeyword" => action.site_search_keyword = present(value),
                "customVariables" => action.custom_variables = present(value),
                key => note_dimension(&mut action.dimensions, key, value),
            }
        }
        action
    }
}

fn present(raw: &RawValue) -> Option<&RawValue> {
    (raw.get() != "null").then_some(raw)
}

fn note_dimension<'a>(dimensions: &mut Dimensions<'a>, key: &str, value: &'a RawValue) {
    let number = key.strip_prefix("dimension").and_then(|number| number.parse().ok());
    if let Some(number) = number
        && !matches!(value.get(), "null" | r#""""#)
    {
        dimensions.insert(number, value);
    }
}
