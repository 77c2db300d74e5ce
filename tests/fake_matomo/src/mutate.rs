//! Answers of a real Matomo with values swapped, added, doubled and removed: still JSON, and it is
//! known which visits they contain. The same seed gives the same answers.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use crate::hostile::HostilePage;
use crate::odd;
use crate::writer::{Style, Writer, literal};

/// Some of these visits, mutated.
pub fn page(seed: u64, visits: &[Value]) -> HostilePage {
    let mut maker = Maker(ChaCha8Rng::seed_from_u64(seed));
    let mut chosen = Vec::new();
    let mut expected: Vec<(i64, usize)> = Vec::new();
    for _ in 0..maker.up_to(6) {
        let mut visit = visits[maker.up_to(visits.len())].clone();
        let Some(id) = visit["idVisit"].as_i64() else { continue };
        for _ in 0..maker.up_to(12) {
            let depth = 1 + maker.up_to(4);
            maker.mutate(&mut visit, depth, visits);
        }
        for _ in 0..maker.up_to(4) {
            maker.set_typed(&mut visit);
        }
        let Some(members) = visit.as_object_mut() else { continue };
        members.insert("idVisit".to_owned(), json!(id));
        let actions = match members.get("actionDetails") {
            Some(Value::Array(list)) => list.len(),
            Some(Value::Object(map)) => map.len(),
            _ => 0,
        };
        // When a visit comes twice, the last one counts.
        expected.retain(|(other, _)| *other != id);
        expected.push((id, actions));
        chosen.push(visit);
    }
    let mut writer = Writer::new(Style { unescaped: true, ..Style::default() });
    writer.any(&Value::Array(chosen));
    HostilePage { body: writer.out.into_bytes(), visits: expected }
}

struct Maker(ChaCha8Rng);

impl Maker {
    /// A number from 0 to `most - 1`.
    fn up_to(&mut self, most: usize) -> usize {
        self.0.random_range(0..most.max(1))
    }

    /// Changes something at this depth in a value, or at its deepest level.
    fn mutate(&mut self, value: &mut Value, depth: usize, visits: &[Value]) {
        let odd = self.odd(visits);
        match value {
            Value::Array(list) if !list.is_empty() => {
                let at = self.up_to(list.len());
                match self.up_to(if depth > 1 { 12 } else { 4 }) {
                    0 => list[at] = odd,
                    1 => list.insert(at, odd),
                    2 => drop(list.remove(at)),
                    3 => list.push(list[at].clone()),
                    _ => self.mutate(&mut list[at], depth - 1, visits),
                }
            }
            Value::Object(map) if !map.is_empty() => {
                let at = self.up_to(map.len());
                let Some(key) = map.keys().nth(at).cloned() else { return };
                match self.up_to(if depth > 1 { 12 } else { 4 }) {
                    0 => drop(map.insert(key, odd)),
                    1 => drop(map.remove(&key)),
                    2 => drop(map.insert(key.to_uppercase(), odd)),
                    3 => self.exchange(map, &key),
                    _ => {
                        if let Some(inner) = map.get_mut(&key) {
                            self.mutate(inner, depth - 1, visits);
                        }
                    }
                }
            }
            _ => *value = odd,
        }
    }

    /// Gives a key with a typed column an odd value: in the visit, an action or an item.
    fn set_typed(&mut self, visit: &mut Value) {
        let odd = literal(odd::JSON[self.up_to(odd::JSON.len())]);
        let (mut inner, mut keys) = (visit, &*odd::KEYS_OF_VISITS);
        for (list, keys_of_list) in
            [("actionDetails", &*odd::KEYS_OF_ACTIONS), ("itemDetails", &*odd::KEYS_OF_ITEMS)]
        {
            let place = self.up_to(1000);
            if self.up_to(3) == 0 {
                break;
            }
            let Some(all) = inner.get(list).and_then(Value::as_array).map(Vec::len) else { break };
            if all == 0 || !inner[list][place % all].is_object() {
                break;
            }
            (inner, keys) = (&mut inner[list][place % all], keys_of_list);
        }
        if let Some(members) = inner.as_object_mut() {
            members.insert(keys[self.up_to(keys.len())].0.to_owned(), odd);
        }
    }

    /// Gives this key the value of another one.
    fn exchange(&mut self, map: &mut Map<String, Value>, key: &str) {
        let other = map.values().nth(self.up_to(map.len())).cloned();
        if let Some(other) = other {
            map.insert(key.to_owned(), other);
        }
    }

    fn odd(&mut self, visits: &[Value]) -> Value {
        match self.up_to(16) {
            0 => Value::Null,
            1 => json!(true),
            2 => json!({}),
            3 => json!([]),
            4 => json!(i64::MIN),
            5 => json!(u64::MAX),
            6 => json!(1e300),
            7 => json!(-0.0),
            8 => json!("\u{0}\t\\N\r\n\\.\u{fffd}"),
            9 => json!("\\".repeat(self.up_to(2000))),
            10 => json!("é\u{10ffff}\u{202e}".repeat(self.up_to(500))),
            11 => json!(self.0.random::<i64>()),
            12 => json!(self.0.random::<i64>().to_string()),
            13 => json!([[[[{"a": [null, {"": ""}]}]]]]),
            14 => json!({"1": {"customVariableName1": "\u{0}", "customVariableValue1": [1]}}),
            // A visit in the wrong place.
            _ => visits[self.up_to(visits.len())].clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_repeat_and_differ() {
        let visits =
            [json!({"idVisit": 5, "country": "France", "actionDetails": [{"type": "action"}]})];
        let bodies: std::collections::BTreeSet<_> =
            (0..50).map(|seed| page(seed, &visits).body).collect();
        assert!(bodies.len() > 20, "{}", bodies.len());
        assert_eq!(page(7, &visits).body, page(7, &visits).body);
    }
}
