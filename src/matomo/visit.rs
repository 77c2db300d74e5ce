//! Parses a visit of `Live.getLastVisitsDetails`, leniently. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::matomo::element_limit;
use crate::matomo::json::{self, Key};
use crate::matomo::keys::{
    self, ACTION_KEYS, ACTION_PLACES, VISIT_KEYS, VISIT_PLACES, action_key, visit_key,
};

/// Custom dimensions by number, in order.
pub type Dimensions<'a> = BTreeMap<u32, &'a RawValue>;

/// Members with a value whose keys no list of [`keys`] has, in order.
pub type Members<'a> = Vec<(Cow<'a, str>, Cow<'a, RawValue>)>;

/// The values of a list of keys, in its order.
#[derive(Debug)]
pub struct Values<'a, const N: usize>([Option<&'a RawValue>; N]);

impl<const N: usize> Default for Values<'_, N> {
    fn default() -> Self {
        Values([None; N])
    }
}

impl<'a, const N: usize> Index<usize> for Values<'a, N> {
    type Output = Option<&'a RawValue>;

    fn index(&self, place: usize) -> &Self::Output {
        &self.0[place]
    }
}

/// One element of the answer.
#[derive(Debug, Default)]
pub struct Visit<'a> {
    /// `idVisit`, a whole number, the only required key.
    pub id: Option<i64>,
    /// `firstActionTimestamp`, a true instant in seconds.
    pub first: Option<i64>,
    /// `lastActionTimestamp`, a true instant in seconds, by which Matomo filters and sorts.
    pub last: Option<i64>,
    /// `truncatedActionsCount`: actions that Matomo did not send; 0 if the number cannot be read.
    pub truncated: i64,
    /// Whether there may be such actions.
    pub may_be_cut: bool,
    /// Whether a time or the number of cut actions cannot be read.
    pub has_odd_numbers: bool,
    /// The values of [`VISIT_KEYS`].
    pub values: Values<'a, { VISIT_KEYS.len() }>,
    /// `experiments` of the A/B testing plugin.
    pub experiments: Option<&'a RawValue>,
    /// `customVariables`, as a map or a list.
    pub custom_variables: Option<&'a RawValue>,
    /// The `dimensionN` that have a value.
    pub dimensions: Dimensions<'a>,
    pub unknown: Members<'a>,
    /// `actionDetails`.
    pub actions: Vec<Action<'a>>,
}

/// One element of `actionDetails`.
#[derive(Debug, Default)]
pub struct Action<'a> {
    /// `timestamp`: the site's wall clock, in seconds since 1970-01-01 00:00 on that clock.
    pub wall: Option<i64>,
    /// The values of [`ACTION_KEYS`].
    pub values: Values<'a, { ACTION_KEYS.len() }>,
    pub custom_variables: Option<&'a RawValue>,
    /// `pageTitle`, which Matomo sends as `title` too, unless a plugin has made another one.
    pub page_title: Option<&'a RawValue>,
    pub dimensions: Dimensions<'a>,
    pub unknown: Members<'a>,
}

/// Parses a map key by key. A list is a map with numbers as keys, as PHP writes both as lists. Anything
/// else counts as a map without keys, as one odd value must not cost the others.
macro_rules! read_leniently {
    ($kind:ident, $name:literal) => {
        impl<'de: 'a, 'a> Deserialize<'de> for $kind<'a> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                element_limit::count_one()?;
                struct Reader;
                impl<'de> Visitor<'de> for Reader {
                    type Value = $kind<'de>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($name)
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                        $kind::read(map)
                    }

                    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                        $kind::read_list(seq)
                    }

                    fn visit_unit<E>(self) -> Result<Self::Value, E> {
                        Ok($kind::default())
                    }

                    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                        Ok($kind::odd(sent(&value)))
                    }

                    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                        Ok($kind::odd(sent(&value)))
                    }

                    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                        Ok($kind::odd(sent(&value)))
                    }

                    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
                        Ok($kind::odd(sent(&value)))
                    }

                    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
                        Ok($kind::odd(sent(&value)))
                    }
                }
                deserializer.deserialize_any(Reader)
            }
        }
    };
}

read_leniently!(Visit, "a visit");
read_leniently!(Action, "an action");
read_leniently!(Actions, "a list of actions");

/// A value that stands where a map should.
fn sent<'a>(value: &impl Serialize) -> Option<Cow<'a, RawValue>> {
    serde_json::value::to_raw_value(value).ok().map(Cow::Owned)
}

/// `actionDetails`, which may be a list or a map of actions.
#[derive(Debug, Default)]
pub struct Actions<'a> {
    pub list: Vec<Action<'a>>,
    /// What is sent instead of a list or a map.
    pub odd: Option<Cow<'a, RawValue>>,
}

impl<'a> Actions<'a> {
    fn read<A: MapAccess<'a>>(mut map: A) -> Result<Self, A::Error> {
        let mut actions = Vec::new();
        while let Some((_, action)) = map.next_entry::<IgnoredAny, _>()? {
            actions.push(action);
        }
        Ok(Actions { list: actions, odd: None })
    }

    fn read_list<A: SeqAccess<'a>>(mut list: A) -> Result<Self, A::Error> {
        let mut actions = Vec::new();
        while let Some(action) = list.next_element()? {
            actions.push(action);
        }
        Ok(Actions { list: actions, odd: None })
    }

    /// What Matomo sends is neither a list nor a map.
    pub fn odd(sent: Option<Cow<'a, RawValue>>) -> Self {
        Actions { list: Vec::new(), odd: sent.filter(|raw| !json::is_nothing(raw)) }
    }
}

impl<'a> Visit<'a> {
    fn read<A: MapAccess<'a>>(map: A) -> Result<Self, A::Error> {
        Visit::read_with(map, MapAccess::next_value)
    }

    /// Parses a visit. Unknown keys are skipped; of duplicate keys the last counts.
    pub fn read_with<A: MapAccess<'a>>(
        mut map: A,
        actions: impl Fn(&mut A) -> Result<Actions<'a>, A::Error>,
    ) -> Result<Self, A::Error> {
        let mut visit = Visit::default();
        let mut server_timestamp = None;
        while let Some(Key(key)) = map.next_key()? {
            if let Some(place) = VISIT_PLACES.find(&key) {
                visit.values.0[place] = present(map.next_value()?);
                continue;
            }
            match key.as_ref() {
                "idVisit" => visit.id = json::integer(map.next_value()?),
                "serverTimestamp" => server_timestamp = json::integer(map.next_value()?),
                "experiments" => visit.experiments = present(map.next_value()?),
                "customVariables" => visit.custom_variables = present(map.next_value()?),
                "actionDetails" => {
                    let Actions { list, odd } = actions(&mut map)?;
                    visit.actions = list;
                    visit.unknown.extend(odd.map(|odd| (key, odd)));
                }
                _ => {
                    let left_out = keys::is_left_out_of_visits(&key);
                    read_other(&mut visit.dimensions, &mut visit.unknown, key, left_out, &mut map)?;
                }
            }
        }
        // Matomo hides them from an anonymous token so.
        for place in const { [visit_key("fingerprint"), visit_key("visitorId")] } {
            let value = &mut visit.values.0[place];
            *value = value.filter(|raw| raw.get() != "false");
        }
        visit.read_numbers();
        // `serverTimestamp` is the same instant.
        visit.last = visit.last.or(server_timestamp);
        Ok(visit)
    }

    fn read_numbers(&mut self) {
        let mut number = |key: usize| {
            let sent = self.values[key].filter(|raw| !json::is_nothing(raw));
            let number = sent.and_then(json::integer);
            self.has_odd_numbers |= sent.is_some() && number.is_none();
            (number, sent.is_some() && number != Some(0))
        };
        (self.first, _) = number(const { visit_key("firstActionTimestamp") });
        (self.last, _) = number(const { visit_key("lastActionTimestamp") });
        let (truncated, may_be_cut) = number(const { visit_key("truncatedActionsCount") });
        (self.truncated, self.may_be_cut) = (truncated.unwrap_or(0), may_be_cut);
    }

    fn read_list<A: SeqAccess<'a>>(mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Visit::default())
    }

    /// What Matomo sends is neither a map nor a list. Without an ID it is refused.
    fn odd(_: Option<Cow<'a, RawValue>>) -> Self {
        Visit::default()
    }
}

impl<'a> Action<'a> {
    fn read<A: MapAccess<'a>>(mut map: A) -> Result<Self, A::Error> {
        let mut action = Action::default();
        while let Some(Key(key)) = map.next_key()? {
            if let Some(place) = ACTION_PLACES.find(&key) {
                action.values.0[place] = present(map.next_value()?);
                continue;
            }
            match key.as_ref() {
                "customVariables" => action.custom_variables = present(map.next_value()?),
                "pageTitle" => action.page_title = present(map.next_value()?),
                _ => {
                    let left_out = keys::is_left_out_of_actions(&key);
                    read_other(
                        &mut action.dimensions,
                        &mut action.unknown,
                        key,
                        left_out,
                        &mut map,
                    )?;
                }
            }
        }
        action.wall = action.values[const { action_key("timestamp") }].and_then(json::integer);
        Ok(action)
    }

    fn read_list<A: SeqAccess<'a>>(mut list: A) -> Result<Self, A::Error> {
        let mut action = Action::default();
        let mut number = 0;
        while let Some(raw) = list.next_element()? {
            keep(&mut action.unknown, number.to_string().into(), raw)?;
            number += 1;
        }
        Ok(action)
    }

    /// What Matomo sends is neither a map nor a list.
    pub fn odd(sent: Option<Cow<'a, RawValue>>) -> Self {
        let sent = sent.filter(|raw| !json::is_nothing(raw));
        let unknown = sent.map(|raw| (Cow::Borrowed("actionDetails"), raw));
        Action { unknown: unknown.into_iter().collect(), ..Action::default() }
    }
}

fn present(raw: &RawValue) -> Option<&RawValue> {
    (raw.get() != "null").then_some(raw)
}

/// Unknown members of an element for which it counts once more against [`element_limit`].
const UNKNOWN_PER_COUNT: usize = 32;

fn read_other<'a, A: MapAccess<'a>>(
    dimensions: &mut Dimensions<'a>,
    unknown: &mut Members<'a>,
    key: Cow<'a, str>,
    is_left_out: bool,
    map: &mut A,
) -> Result<(), A::Error> {
    if let Some(number) = dimension_of(&key) {
        let value: &RawValue = map.next_value()?;
        if !json::is_nothing(value) {
            dimensions.insert(number, value);
        }
    } else if is_left_out {
        map.next_value::<IgnoredAny>()?;
    } else {
        keep(unknown, key, map.next_value()?)?;
    }
    Ok(())
}

/// 3 for `dimension3`, but not for `dimension03`, which may come beside it.
fn dimension_of(key: &str) -> Option<u32> {
    let digits = key.strip_prefix("dimension")?;
    let is_plain = digits == "0" || !digits.starts_with(['0', '+']);
    is_plain.then(|| digits.parse().ok()).flatten()
}

fn keep<'a, E: serde::de::Error>(
    unknown: &mut Members<'a>,
    key: Cow<'a, str>,
    value: &'a RawValue,
) -> Result<(), E> {
    if let Some(value) = present(value) {
        unknown.push((key, Cow::Borrowed(value)));
        if unknown.len().is_multiple_of(UNKNOWN_PER_COUNT) {
            element_limit::count_one()?;
        }
    }
    Ok(())
}
