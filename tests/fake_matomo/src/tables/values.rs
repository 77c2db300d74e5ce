//! Values as typed Postgres columns show them.

use crate::tables::columns::Type;
use crate::writer::literal_of;
use serde_json::{Map, Value};

/// A value in Matomo's JSON.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Null,
    Text(String),
    /// A number, a boolean, a list or an object, as JSON.
    Json(String),
}

impl From<&Value> for Said {
    fn from(value: &Value) -> Said {
        match value {
            Value::Null => Said::Null,
            Value::String(text) => match literal_of(text) {
                Some("null") => Said::Null,
                Some(json) => Said::Json(json.to_owned()),
                None => Said::Text(text.clone()),
            },
            other => Said::Json(other.to_string()),
        }
    }
}

impl Said {
    /// A string, or null.
    pub fn text(text: Option<&str>) -> Said {
        text.map_or(Said::Null, |text| Said::Text(text.to_owned()))
    }

    /// A number, or null.
    pub fn number(number: Option<i64>) -> Said {
        number.map_or(Said::Null, |number| Said::Json(number.to_string()))
    }

    /// A list of strings.
    pub fn texts(texts: &[String]) -> Said {
        Said::Json(Value::from(texts).to_string())
    }

    /// The value in a text column.
    pub fn as_text(&self) -> Option<String> {
        match self {
            Said::Null => None,
            Said::Text(text) | Said::Json(text) => Some(storable(text)),
        }
    }

    /// As `jsonb` shows it; a number keeps all its digits.
    pub fn as_jsonb(&self) -> String {
        match self {
            Said::Null => "null".to_owned(),
            Said::Text(text) => jsonb(&Value::from(text.as_str())),
            Said::Json(json) => digits(json).unwrap_or_else(|| within(json)),
        }
    }
}

/// JSON nested in other JSON, as `jsonb` shows it. A number beyond double precision is kept as
/// text.
fn within(json: &str) -> String {
    match serde_json::from_str(json) {
        Ok(value @ (Value::Array(_) | Value::Object(_))) => jsonb(&value),
        Err(_) => Value::from(json).to_string(),
        Ok(_) => numeric(json).unwrap_or_else(|| json.to_owned()),
    }
}

/// A value that the column cannot hold.
#[derive(Debug, PartialEq)]
pub struct Misfit;

/// What the column shows.
pub fn typed(said: &Said, ty: Type) -> Result<Option<String>, Misfit> {
    let Some(text) = said.as_text() else { return Ok(None) };
    if ty == Type::Text {
        return Ok(Some(text));
    }
    // Matomo sends "" for unknown values.
    if text.is_empty() {
        return Ok(None);
    }
    let shown = match ty {
        Type::SmallInt => whole(&text, i64::from(i16::MAX)),
        Type::Int => whole(&text, i64::from(i32::MAX)),
        Type::BigInt => whole(&text, i64::MAX),
        Type::Bool => match text.as_str() {
            "0" | "false" => Some("false".to_owned()),
            "1" | "true" => Some("true".to_owned()),
            _ => None,
        },
        Type::Numeric => numeric(&text),
        Type::Double => double(&text),
        Type::Time => {
            let parsed = chrono::NaiveTime::parse_from_str(&text, "%H:%M:%S");
            parsed.ok().filter(|_| text.len() == 8).map(|_| text)
        }
        Type::TextArray => match said {
            Said::Json(json) => text_array(json),
            // A list of one.
            _ => Some(format!("{{{}}}", element(text))),
        },
        Type::Text | Type::Made => Some(text),
    };
    shown.map(Some).ok_or(Misfit)
}

/// Postgres cannot store U+0000.
pub fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn whole(text: &str, most: i64) -> Option<String> {
    // 12.0 and 1e3 are whole numbers too.
    let shown = numeric(text)?;
    let (digits, fraction) = shown.split_once('.').unwrap_or((&shown, ""));
    let number: i64 = digits.parse().ok().filter(|_| fraction.trim_matches('0').is_empty())?;
    (-most - 1..=most).contains(&number).then(|| number.to_string())
}

/// A number's sign, digits before and after the point, and exponent.
fn parts(text: &str) -> Option<(bool, &str, &str, i32)> {
    let (is_negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = !whole.is_empty() && is_digits(whole) && is_digits(fraction);
    let exponent = exponent.parse().ok().filter(|n: &i32| n.abs() <= 1000)?;
    is_number.then_some((is_negative, whole, fraction, exponent))
}

fn is_finite(text: &str) -> bool {
    text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// A number as `numeric` shows it: all digits sent, no exponent. Only if it is also finite in
/// double precision.
pub fn numeric(text: &str) -> Option<String> {
    digits(text).filter(|_| is_finite(text))
}

/// The same for any number.
fn digits(text: &str) -> Option<String> {
    let (is_negative, whole, fraction, exponent) = parts(text)?;
    let mut digits = format!("{whole}{fraction}");
    let mut point = whole.len() as i32 + exponent;
    if point < 1 {
        digits.insert_str(0, &"0".repeat((1 - point) as usize));
        point = 1;
    }
    let point = point as usize;
    while digits.len() < point {
        digits.push('0');
    }
    let (whole, fraction) = digits.split_at(point);
    let whole = Some(whole.trim_start_matches('0')).filter(|w| !w.is_empty()).unwrap_or("0");
    let is_zero = digits.bytes().all(|digit| digit == b'0');
    let sign = if is_negative && !is_zero { "-" } else { "" };
    let dot = if fraction.is_empty() { "" } else { "." };
    Some(format!("{sign}{whole}{dot}{fraction}"))
}

/// A number as `double precision` shows it: the shortest text for the same value.
fn double(text: &str) -> Option<String> {
    parts(text).filter(|_| is_finite(text))?;
    let number: f64 = text.parse().ok()?;
    if number == 0.0 || (1e-4..1e15).contains(&number.abs()) {
        return Some(number.to_string());
    }
    let shown = format!("{number:e}");
    let (mantissa, exponent) = shown.split_once('e')?;
    let exponent: i32 = exponent.parse().ok()?;
    Some(format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()))
}

/// A list as a text array shows it.
fn text_array(json: &str) -> Option<String> {
    let Ok(Value::Array(all)) = serde_json::from_str(json) else { return None };
    let elements: Vec<_> =
        all.iter().map(|e| Said::from(e).as_text().map_or("NULL".to_owned(), element)).collect();
    Some(format!("{{{}}}", elements.join(",")))
}

fn element(text: String) -> String {
    let is_special = |c: char| matches!(c, '"' | '\\' | '{' | '}' | ',' | ' ' | '\t'..='\r');
    if !text.is_empty() && !text.eq_ignore_ascii_case("null") && !text.contains(is_special) {
        return text;
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A value as `jsonb` shows it: keys by length, then by bytes; ", " and ": " as separators;
/// numbers as in `numeric`.
pub fn jsonb(value: &Value) -> String {
    match value {
        Value::Array(all) => {
            let all: Vec<_> = all.iter().map(jsonb).collect();
            format!("[{}]", all.join(", "))
        }
        Value::Object(all) => object(all.iter().map(|(key, value)| (key.clone(), jsonb(value)))),
        Value::String(text) => match literal_of(text) {
            Some(json) => within(json),
            None => Value::from(storable(text)).to_string(),
        },
        Value::Number(number) => {
            let text = number.to_string();
            numeric(&text).unwrap_or(text)
        }
        other => other.to_string(),
    }
}

/// An object as `jsonb` shows it, from keys and values already in that form.
pub fn object(members: impl IntoIterator<Item = (String, String)>) -> String {
    let mut members: Vec<_> = members.into_iter().map(|(key, v)| (storable(&key), v)).collect();
    members.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
    let members: Vec<_> =
        members.into_iter().map(|(key, v)| format!("{}: {v}", Value::from(key))).collect();
    format!("{{{}}}", members.join(", "))
}

/// The JSON of an object as `jsonb` shows it.
pub fn jsonb_of(json: &str) -> String {
    let value: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
    jsonb(&Value::Object(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::literal;
    use serde_json::json;

    #[test]
    fn values_as_typed_columns_show_them() {
        let good = [
            (json!(""), Type::Text, Some("")),
            (json!(""), Type::Int, None),
            (json!(null), Type::Text, None),
            (json!(["a", 1]), Type::Text, Some(r#"["a",1]"#)),
            (json!("a\0"), Type::Text, Some("a\u{fffd}")),
            (json!("-12"), Type::Int, Some("-12")),
            (json!(12.0), Type::Int, Some("12")),
            (literal("1e3"), Type::Int, Some("1000")),
            (json!("Cat"), Type::TextArray, Some("{Cat}")),
            (json!(2_147_483_647), Type::Int, Some("2147483647")),
            (json!(i64::MIN), Type::BigInt, Some("-9223372036854775808")),
            (json!(1), Type::Bool, Some("true")),
            (json!("0"), Type::Bool, Some("false")),
            (json!("1.50"), Type::Numeric, Some("1.50")),
            (literal("1.50e1"), Type::Numeric, Some("15.0")),
            (literal("-1.5E-3"), Type::Numeric, Some("-0.0015")),
            (literal("1e+3"), Type::Numeric, Some("1000")),
            (literal("-0.00"), Type::Numeric, Some("0.00")),
            (json!("48.856600"), Type::Double, Some("48.8566")),
            (json!(-5), Type::Double, Some("-5")),
            (json!(1e30), Type::Double, Some("1e+30")),
            (json!("0.00001234"), Type::Double, Some("1.234e-05")),
            (json!("23:59:59"), Type::Time, Some("23:59:59")),
            (json!([]), Type::TextArray, Some("{}")),
            (
                json!(["a", "b c", "", "NULL", "q\"\\", "é,x", null, 5]),
                Type::TextArray,
                Some(r#"{a,"b c","","NULL","q\"\\","é,x",NULL,5}"#),
            ),
        ];
        for (sent, ty, shown) in good {
            let shown = Ok(shown.map(str::to_owned));
            assert_eq!(typed(&Said::from(&sent), ty), shown, "{sent} {ty:?}");
        }
        let bad = [
            (json!("many"), Type::Int),
            (json!(2_147_483_648_i64), Type::Int),
            (json!(1.5), Type::Int),
            (json!(true), Type::Int),
            (json!([]), Type::Int),
            (json!(u64::MAX), Type::BigInt),
            (json!(2), Type::Bool),
            (json!("NaN"), Type::Numeric),
            (literal("1e400"), Type::Numeric),
            (json!("Infinity"), Type::Double),
            (json!({}), Type::Double),
            (json!("25:00:00"), Type::Time),
            (json!("noon"), Type::Time),
            (json!(5), Type::TextArray),
        ];
        for (sent, ty) in bad {
            assert_eq!(typed(&Said::from(&sent), ty), Err(Misfit), "{sent} {ty:?}");
        }
    }

    #[test]
    fn jsonb_as_it_is_shown() {
        let shown = jsonb(&json!({"name": "a\u{1}/é\"", "id": 1.5, "ab": {}, "aa": [null, true]}));
        assert_eq!(shown, r#"{"aa": [null, true], "ab": {}, "id": 1.5, "name": "a\u0001/é\""}"#);
        let number = Said::from(&json!({"n": 1e30})).as_jsonb();
        assert_eq!(number, r#"{"n": 1000000000000000000000000000000}"#);
        assert_eq!(Said::from(&literal("1.50")).as_jsonb(), "1.50");
        let digits = format!("1{}", "0".repeat(400));
        assert_eq!(Said::from(&literal("1e400")).as_jsonb(), digits);
        assert_eq!(jsonb(&json!([literal("1e400")])), r#"["1e400"]"#);
    }
}
