//! Custom variables and custom dimensions as members of objects. Pure.

use std::collections::{HashMap, HashSet};

use serde_json::value::RawValue;

use crate::matomo::json;
use crate::matomo::visit::Dimensions;
use crate::rows::values::{self, Member};

/// The custom variables in order; of duplicate names the last value counts. Keys are
/// `customVariablePageName1` in actions, `customVariableName1` in visits.
pub fn variables(raw: Option<&RawValue>) -> Vec<Member> {
    let mut found: Vec<Member> = Vec::new();
    // Keeps ten thousand variables from taking quadratic time.
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

/// Prefix of the keys of a custom variable.
const VARIABLE: &str = "customVariable";

/// `customVariablePageName3` → (`Page`, `3`).
fn split_name(key: &str) -> Option<(&str, &str)> {
    let key = key.strip_prefix(VARIABLE)?;
    let (scope, number) = key.split_once("Name")?;
    matches!(scope, "" | "Page").then_some((scope, number))
}

/// The custom variables of an action, then those of its visit that have other names.
pub fn variables_of_both(action: Option<&RawValue>, of_visit: &[Member]) -> Vec<Member> {
    let mut all = variables(action);
    if of_visit.is_empty() {
        return all;
    }
    let known: HashSet<_> = all.iter().map(|(name, _)| name.clone()).collect();
    all.extend(of_visit.iter().filter(|(name, _)| !known.contains(name)).cloned());
    all
}

/// Custom dimensions by their keys.
pub fn dimensions(dimensions: &Dimensions) -> Vec<Member> {
    let member =
        |(number, raw): (&u32, &&RawValue)| (format!("dimension{number}"), values::json(raw));
    dimensions.iter().map(member).collect()
}
