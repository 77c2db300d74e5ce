//! Custom variables and custom dimensions as members of objects. Pure.

use std::collections::{HashMap, HashSet};

use serde_json::value::RawValue;

use crate::matomo::json;
use crate::matomo::visit::Dimensions;
use crate::rows::values::{self, Member};

/// Custom variables.
#[derive(Debug, Default)]
pub struct Variables<'a> {
    /// By name, in order.
    pub members: Vec<Member>,
    /// All that Matomo sends, if these do not hold it.
    pub odd: Option<&'a RawValue>,
}

/// The custom variables; of duplicate names the last value counts. Keys are `customVariablePageName1` in
/// actions, `customVariableName1` in visits.
pub fn variables(raw: Option<&RawValue>) -> Variables<'_> {
    let mut found: Vec<Member> = Vec::new();
    // Keeps ten thousand variables from taking quadratic time.
    let mut places: HashMap<String, usize> = HashMap::new();
    let Some(raw) = raw else { return Variables::default() };
    let mut is_odd = !json::has_members(raw) && !json::is_nothing(raw);
    json::each_member(raw, |_, entry| {
        is_odd |= !json::has_members(entry) && !json::is_nothing(entry);
        let mut members = Vec::new();
        json::each_member(entry, |key, value| {
            if key.starts_with(VARIABLE) {
                members.push((key, value));
            } else {
                is_odd |= !json::is_nothing(value);
            }
        });
        let values: HashMap<&str, &RawValue> =
            members.iter().map(|(key, raw)| (key.as_ref(), *raw)).collect();
        let is_something = |raw: &RawValue| usize::from(!json::is_nothing(raw));
        // How many values are not taken yet.
        let mut left: usize = values.values().map(|value| is_something(value)).sum();
        for (key, sent) in &members {
            let Some((scope, number)) = split_name(key) else { continue };
            let Some(name) = json::text(sent) else { continue };
            let value_key = format!("{VARIABLE}{scope}Value{number}");
            let Some(value) = values.get(value_key.as_str()) else { continue };
            left = left.saturating_sub(is_something(sent) + is_something(value));
            let value = values::json(value);
            match places.get(&name) {
                Some(place) => {
                    is_odd |= found[*place].1 != value;
                    found[*place].1 = value;
                }
                None => {
                    places.insert(name.clone(), found.len());
                    found.push((name, value));
                }
            }
        }
        is_odd |= left > 0;
    });
    Variables { members: found, odd: is_odd.then_some(raw) }
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
pub fn variables_of_both<'a>(action: Option<&'a RawValue>, of_visit: &[Member]) -> Variables<'a> {
    let mut all = variables(action);
    if of_visit.is_empty() {
        return all;
    }
    let known: HashSet<_> = all.members.iter().map(|(name, _)| name.clone()).collect();
    all.members.extend(of_visit.iter().filter(|(name, _)| !known.contains(name)).cloned());
    all
}

/// Custom dimensions by their keys.
pub fn dimensions(dimensions: &Dimensions) -> Vec<Member> {
    let member =
        |(number, raw): (&u32, &&RawValue)| (format!("dimension{number}"), values::json(raw));
    dimensions.iter().map(member).collect()
}
