//! An answer to `Live.getLastVisitsDetails`, read as a list of visits in bounded memory. Pure.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::matomo::element_limit;
use crate::matomo::json;
use crate::matomo::visit::{Action, Actions, Visit};

/// Reads an answer.
///
/// # Errors
/// A description of what is wrong with it.
pub fn visits(body: &str) -> Result<Vec<Visit<'_>>, String> {
    match within(body, || serde_json::from_str(body)) {
        Err(error) if error != element_limit::EXCEEDED => within(body, || visits_tolerantly(body))
            .map_err(|again| if again == element_limit::EXCEEDED { again } else { error }),
        done => done,
    }
}

/// Reads an answer within its limit of visits and actions.
fn within<T>(body: &str, read: impl FnOnce() -> serde_json::Result<T>) -> Result<T, String> {
    element_limit::begin(body);
    // serde's message would quote the visitor's data.
    let read = read().map_err(|error| match error.is_data() {
        true => format!("it is no list of visits from column {} on", error.column()),
        false => format!("it is no JSON: {error}"),
    });
    if element_limit::is_exceeded() { Err(element_limit::EXCEEDED.to_owned()) } else { read }
}

/// Reads an answer at which the parser stops: one with a number that no `f64` holds (1e999) in
/// place of an action or a list of them. That counts as an element without keys, like any other odd
/// value, and is kept. Half as fast.
fn visits_tolerantly(body: &str) -> serde_json::Result<Vec<Visit<'_>>> {
    let list: &RawValue = serde_json::from_str(body)?;
    if !list.get().starts_with('[') {
        return Err(Error::custom("no list"));
    }
    let mut visits = Vec::new();
    json::each_member(list, |_, raw| {
        if element_limit::count_one::<serde_json::Error>().is_ok() {
            let read = serde_json::from_str(raw.get());
            visits.push(read.map_or_else(|_| Visit::default(), |TolerantVisit(visit)| visit));
        }
    });
    Ok(visits)
}

/// A visit whose actions are parsed one by one.
struct TolerantVisit<'a>(Visit<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for TolerantVisit<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = TolerantVisit<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a visit")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let visit = Visit::read_with(map, |map| {
                    let raw: &RawValue = map.next_value()?;
                    if !json::has_members(raw) {
                        return Ok(Actions::odd(Some(Cow::Borrowed(raw))));
                    }
                    let mut list = Vec::new();
                    json::each_member(raw, |_, raw| match serde_json::from_str(raw.get()) {
                        Ok(action) => list.push(action),
                        Err(_) if !element_limit::is_exceeded() => {
                            list.push(Action::odd(Some(Cow::Borrowed(raw))));
                        }
                        Err(_) => {}
                    });
                    Ok(Actions { list, odd: None })
                })?;
                Ok(TolerantVisit(visit))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> String {
        visits(body).map(|visits| visits.len()).unwrap_err()
    }

    #[test]
    fn an_answer_has_no_more_visits_and_actions_than_its_length_allows() {
        for part in ["1,", "{},", "[],", "null,", r#"{"url":1},"#] {
            let many = part.repeat(20_000);
            assert_eq!(error(&format!("[{many}0]")), element_limit::EXCEEDED, "{part}");
            let visit = format!(r#"[{{"idVisit":7,"actionDetails":[{many}0]}}]"#);
            assert_eq!(error(&visit), element_limit::EXCEEDED, "{part}");
            // Nor by the slow way.
            let visit = format!(r#"[{{"idVisit":7,"actionDetails":[{many}1e999]}}]"#);
            assert_eq!(error(&visit), element_limit::EXCEEDED, "{part}");
            assert_eq!(error(&format!("[1e999,{many}0]")), element_limit::EXCEEDED, "{part}");
        }
        let few = "{},".repeat(8000);
        let long = format!(r#"{{"url":"{}"}},"#, "x".repeat(element_limit::BYTES_PER_ELEMENT))
            .repeat(20_000);
        // By both ways.
        for last in ["1", "1e999"] {
            for (all, count) in [(&few, 8001), (&long, 20_001)] {
                let visit = format!(r#"[{{"idVisit":7,"actionDetails":[{all}{last}]}}]"#);
                assert_eq!(visits(&visit).unwrap()[0].actions.len(), count, "{last}");
            }
        }
    }

    #[test]
    fn what_is_no_list_is_said() {
        assert!(error("[1").starts_with("it is no JSON: EOF"), "{}", error("[1"));
        for body in ["5", "{\"a\":{\"idVisit\":7}}"] {
            assert!(error(body).starts_with("it is no list of visits"), "{}", error(body));
        }
    }
}
