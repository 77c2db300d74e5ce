//! Parses a visit of `Live.getLastVisitsDetails`, leniently. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::matomo::element_limit;
use crate::matomo::json::{self, Key};
use crate::matomo::keys::{self, ACTION_KEYS, ACTION_PLACES, VISIT_KEYS, VISIT_PLACES};

/// Custom dimensions by number, in order.
pub type Dimensions<'a> = BTreeMap<u32, &'a RawValue>;

/// Members with a value whose keys no list of [`keys`] has, in order.
pub type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

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
    /// `truncatedActionsCount`: actions that Matomo did not send.
    pub truncated: i64,
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
    pub dimensions: Dimensions<'a>,
    pub unknown: Members<'a>,
}

/// Parses a map key by key. Anything else counts as a map without keys, as one odd value must not
/// cost the others; so does a list, as PHP writes an empty map as a list.
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

                    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                        Ok($kind::default())
                    }

                    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                        Ok($kind::default())
                    }

                    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                        Ok($kind::default())
                    }

                    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                        Ok($kind::default())
                    }

                    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                        Ok($kind::default())
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

/// `actionDetails`, which may be a list or a map of actions.
#[derive(Debug, Default)]
pub struct Actions<'a>(pub Vec<Action<'a>>);

impl<'a> Actions<'a> {
    fn read<A: MapAccess<'a>>(mut map: A) -> Result<Self, A::Error> {
        let mut actions = Vec::new();
        while let Some((_, action)) = map.next_entry::<IgnoredAny, _>()? {
            actions.push(action);
        }
        Ok(Actions(actions))
    }

    fn read_list<A: SeqAccess<'a>>(mut list: A) -> Result<Self, A::Error> {
        let mut actions = Vec::new();
        while let Some(action) = list.next_element()? {
            actions.push(action);
        }
        Ok(Actions(actions))
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
                "firstActionTimestamp" => visit.first = json::integer(map.next_value()?),
                "lastActionTimestamp" => visit.last = json::integer(map.next_value()?),
                "serverTimestamp" => server_timestamp = json::integer(map.next_value()?),
                "truncatedActionsCount" => {
                    visit.truncated = json::integer(map.next_value()?).unwrap_or(0);
                }
                "experiments" => visit.experiments = present(map.next_value()?),
                "customVariables" => visit.custom_variables = present(map.next_value()?),
                "actionDetails" => visit.actions = actions(&mut map)?.0,
                _ => read_other(&mut visit.dimensions, &mut visit.unknown, key, &mut map)?,
            }
        }
        // `serverTimestamp` is the same instant.
        visit.last = visit.last.or(server_timestamp);
        Ok(visit)
    }

    fn read_list<A: SeqAccess<'a>>(mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Visit::default())
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
                "timestamp" => action.wall = json::integer(map.next_value()?),
                "customVariables" => action.custom_variables = present(map.next_value()?),
                _ => read_other(&mut action.dimensions, &mut action.unknown, key, &mut map)?,
            }
        }
        Ok(action)
    }

    fn read_list<A: SeqAccess<'a>>(mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Action::default())
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
    map: &mut A,
) -> Result<(), A::Error> {
    if let Some(number) = key.strip_prefix("dimension").and_then(|number| number.parse().ok()) {
        let value: &RawValue = map.next_value()?;
        if !matches!(value.get(), "null" | r#""""#) {
            dimensions.insert(number, value);
        }
    } else if keys::is_left_out(&key) {
        map.next_value::<IgnoredAny>()?;
    } else if let Some(value) = present(map.next_value()?) {
        unknown.push((key, value));
        if unknown.len().is_multiple_of(UNKNOWN_PER_COUNT) {
            element_limit::count_one()?;
        }
    }
    Ok(())
}
