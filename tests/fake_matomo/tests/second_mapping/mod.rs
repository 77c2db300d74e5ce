//! The four tables as made from the JSON alone, without odd values.

use chrono::{DateTime, NaiveDate};
use serde_json::{Map, Value};

type Row<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;

pub struct Mapped<'a> {
    pub visits: Vec<Row<'a>>,
    pub actions: Vec<Row<'a>>,
    pub conversions: Vec<Row<'a>>,
    pub items: Vec<Row<'a>>,
}

pub fn tables(visits: &[Value]) -> Mapped<'_> {
    let mut all = Mapped { visits: vec![], actions: vec![], conversions: vec![], items: vec![] };
    for visit in visits {
        all.visits.push(Box::new(|column| of_visit(visit, column)));
        for (index, action) in visit["actionDetails"].as_array().unwrap().iter().enumerate() {
            all.actions.push(Box::new(|column| of_action(visit, action, column)));
            let kind = action["type"].as_str().unwrap_or_default();
            if !matches!(kind, "goal" | "ecommerceOrder" | "ecommerceAbandonedCart") {
                continue;
            }
            let of_conversion = move |column: &str| of_conversion(visit, index, action, column);
            all.conversions.push(Box::new(of_conversion));
            let items = action["itemDetails"].as_array().into_iter().flatten();
            for (place, item) in items.enumerate() {
                all.items.push(Box::new(move |column| match column {
                    "place" => Some(place.to_string()),
                    "categories" => Some(array(&item[column])),
                    "action_id" | "idsite" | "idvisit" | "converted" => of_conversion(column),
                    _ => by_name(item, column),
                }));
            }
        }
    }
    all
}

/// The value of the key that equals the column's name, ignoring case.
fn by_name(object: &Value, column: &str) -> Option<String> {
    let value = object.as_object()?.iter().find(|(key, _)| key.to_lowercase() == column)?.1;
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn instant(value: &Value) -> Option<String> {
    let at = DateTime::from_timestamp(value.as_i64()?, 0)?;
    Some(at.format("%Y-%m-%d %H:%M:%S+00").to_string())
}

/// The site's wall clock, which `ActionTime::AsSent` reads as UTC.
fn wall(visit: &Value, of: &str) -> Option<String> {
    let date = visit[format!("serverDatePretty{of}")].as_str()?;
    let date = NaiveDate::parse_from_str(date, "%A, %B %d, %Y").ok()?;
    Some(format!("{date} {}+00", visit[format!("serverTimePretty{of}")].as_str()?))
}

fn day(visit: &Value) -> Option<String> {
    let pretty = visit["serverDatePretty"].as_str()?;
    Some(NaiveDate::parse_from_str(pretty, "%A, %B %d, %Y").ok()?.to_string())
}

/// `jsonb` sorts keys by length first and writes a space after `,` and `:`.
fn jsonb(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| (key.len(), key.as_bytes()));
            let members: Vec<_> = members
                .into_iter()
                .map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), jsonb(value)))
                .collect();
            format!("{{{}}}", members.join(", "))
        }
        Value::Array(all) => {
            let all: Vec<_> = all.iter().map(jsonb).collect();
            format!("[{}]", all.join(", "))
        }
        other => other.to_string(),
    }
}

fn dimensions(of: &Value) -> String {
    let mut all = Map::new();
    for (key, value) in of.as_object().unwrap() {
        let is_dimension = key.starts_with("dimension");
        if is_dimension && value.as_str().is_some_and(|text| !text.is_empty()) {
            all.insert(key.clone(), value.clone());
        }
    }
    jsonb(&Value::Object(all))
}

fn variables(visit: &Value) -> String {
    let mut all = Map::new();
    for (n, pair) in visit["customVariables"].as_object().into_iter().flatten() {
        let name = pair[format!("customVariableName{n}")].as_str().unwrap();
        all.insert(name.to_owned(), pair[format!("customVariableValue{n}")].clone());
    }
    jsonb(&Value::Object(all))
}

/// Only for texts without backslashes.
fn array(list: &Value) -> String {
    let quoted = |text: &str| {
        let is_plain = text.chars().all(|c| c.is_alphanumeric() || "-_'.".contains(c));
        let is_null = text.to_lowercase() == "null";
        if is_plain && !text.is_empty() && !is_null {
            return text.to_owned();
        }
        format!("\"{}\"", text.replace('"', "\\\""))
    };
    let all: Vec<_> =
        list.as_array().unwrap().iter().map(|t| quoted(t.as_str().unwrap())).collect();
    format!("{{{}}}", all.join(","))
}

fn of_visit(visit: &Value, column: &str) -> Option<String> {
    let actions = visit["actionDetails"].as_array().unwrap();
    let mut pages = actions.iter().filter(|action| action["type"] == "action");
    let is_cut = visit.get("truncatedActionsCount").is_some();
    match column {
        "firstaction" => wall(visit, "FirstAction"),
        "lastaction" => wall(visit, ""),
        "day" => day(visit),
        "visitconverted" => Some((visit["visitConverted"] == 1).to_string()),
        "latitude" | "longitude" => {
            by_name(visit, column).map(|text| text.parse::<f64>().unwrap().to_string())
        }
        "truncatedactionscount" => by_name(visit, column).or(Some("0".to_owned())),
        "entryurl" => by_name(pages.next()?, "url"),
        "entrytitle" => by_name(pages.next()?, "title"),
        "exiturl" | "exittitle" if is_cut => None,
        "exiturl" => by_name(pages.next_back()?, "url"),
        "exittitle" => by_name(pages.next_back()?, "title"),
        "pageviews" => Some(pages.count().to_string()),
        "dimensions" => Some(dimensions(visit)),
        "customvariables" => Some(variables(visit)),
        "experiments" => visit.get("experiments").map(jsonb),
        "extra" => None,
        _ => by_name(visit, column),
    }
}

fn of_action(visit: &Value, action: &Value, column: &str) -> Option<String> {
    match column {
        "day" => day(visit),
        "extra" => None,
        "productviewcategories" => action.get("productViewCategories").map(array),
        _ => by_name(action, column),
    }
}

fn of_conversion(visit: &Value, index: usize, action: &Value, column: &str) -> Option<String> {
    match column {
        "action_id" => Some(format!("{}_{index}", visit["idVisit"])),
        "idsite" | "idvisit" | "visitorid" => by_name(visit, column),
        "converted" => instant(&action["timestamp"]),
        "day" => day(visit),
        "extra" => None,
        "dimensions" => Some(dimensions(action)),
        _ => by_name(action, column),
    }
}
