//! Values formatted as Postgres shows them, so that a value read again equals the stored text.
//! Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::matomo::json as lenient;

/// A member of an object: its name, and its value as JSON.
pub type Member = (String, String);

/// A number as Postgres shows a `numeric`; `None` for what is none.
pub fn plain_number(text: &str) -> Option<Cow<'_, str>> {
    if is_plain(text) {
        return Some(Cow::Borrowed(text));
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: i32 = exponent.parse().ok().filter(|e: &i32| e.abs() <= 1000)?;
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 1000 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Where the point stands among the digits, with zeros around them where it stands outside.
    let point = i32::try_from(whole.len()).ok()? + exponent;
    let before = usize::try_from(-point).unwrap_or(0);
    let digits = "0".repeat(before) + &digits;
    let point = usize::try_from(point).unwrap_or(0);
    let (whole, fraction) = digits.split_at(point.min(digits.len()));
    let whole = whole.to_owned() + &"0".repeat(point - whole.len());
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let is_negative = text.starts_with('-') && digits.bytes().any(|digit| digit != b'0');
    let sign = if is_negative { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{sign}{whole}{point}{fraction}").into())
}

/// Whether this is a number as Postgres shows it, without a sign.
fn is_plain(text: &str) -> bool {
    is_plain_whole(text)
        || text.split_once('.').is_some_and(|(whole, fraction)| {
            is_plain_whole(whole) && (1..=900).contains(&fraction.len()) && is_digits(fraction)
        })
}

/// Whether this is a whole number below 10^18 as Postgres shows it, without a sign.
pub fn is_plain_whole(text: &str) -> bool {
    (1..=18).contains(&text.len()) && is_digits(text) && (text == "0" || !text.starts_with('0'))
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A whole number, however it is written.
pub fn whole_number(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| {
        let number = plain_number(text)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
        whole.parse().ok().filter(|_| fraction.bytes().all(|digit| digit == b'0'))
    })
}

/// Whether a `numeric` of so many digits, so many of them after the point, holds a number that
/// [`plain_number`] has written: rounded to the last of these digits.
pub fn fits_numeric(number: &str, digits: i32, scale: i32) -> bool {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.trim_start_matches('-').trim_start_matches('0');
    let significant = || whole.bytes().chain(fraction.bytes());
    // Where the first digit stands before the point that is no zero; 0 for the first one behind it.
    let Some(zeros) = significant().position(|digit| digit != b'0') else { return true };
    let length = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let first = length(whole.len()) - length(zeros);
    // Rounding carries into another place where all kept digits are nines.
    let kept = usize::try_from(first + scale).unwrap_or(0);
    let mut after = significant().skip(zeros);
    let is_nines = after.by_ref().take(kept).filter(|digit| *digit == b'9').count() == kept;
    let carries = is_nines && first + scale >= 0 && after.next().is_some_and(|digit| digit >= b'5');
    first + i32::from(carries) <= digits - scale
}

/// A list of texts of at most so many characters as an array of Postgres shows it; a single text is a
/// list of one. PHP sends a list with gaps as an object, with positions for keys.
pub fn text_array(raw: &RawValue, most: usize) -> Option<String> {
    let list = match lenient::tree(raw)? {
        Value::Array(list) => list,
        Value::String(text) if text.is_empty() => return None,
        one @ Value::String(_) => vec![one],
        Value::Object(by_position) => by_position
            .into_iter()
            .map(|(position, one)| Some((position.parse::<u32>().ok()?, one)))
            .collect::<Option<BTreeMap<_, _>>>()?
            .into_values()
            .collect(),
        _ => return None,
    };
    let fits = |text: &str| most == usize::MAX || text.chars().count() <= most;
    let text = |text: &str| fits(text).then(|| array_element(text));
    let element = |element: &Value| match element {
        Value::Null => Some("NULL".to_owned()),
        Value::String(string) => text(string),
        other => text(&other.to_string()),
    };
    let elements: Option<Vec<_>> = list.iter().map(element).collect();
    Some(format!("{{{}}}", elements?.join(",")))
}

fn array_element(text: &str) -> String {
    let is_plain = !text.is_empty()
        && !text.eq_ignore_ascii_case("null")
        && !text.contains(|c: char| "{},\\\"".contains(c) || " \t\n\r\u{b}\u{c}".contains(c));
    if is_plain {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

/// An object as `JSON.stringify` writes it.
pub fn object_as_json(members: &[Member]) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| format!("{}:{value}", Value::from(name.as_str())))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// An object as `jsonb` shows it.
pub fn object_as_jsonb(members: &[Member]) -> String {
    let mut members: Vec<_> = members.iter().collect();
    members.sort_by_key(|(name, _)| (name.len(), name));
    let mut shown = "{".to_owned();
    for (name, value) in members {
        // Writing to a String cannot fail.
        let between = if shown.len() > 1 { ", " } else { "" };
        let _ = write!(shown, "{between}{}: ", Value::from(name.as_str()));
        // `jsonb` shows a text as it is.
        let parsed = (!value.starts_with('"')).then(|| serde_json::from_str(value));
        match parsed {
            Some(Ok(parsed)) => write_jsonb(&parsed, &mut shown),
            _ => shown.push_str(value),
        }
    }
    shown.push('}');
    shown
}

/// Members as an object that `jsonb` shows; of duplicate keys the last counts. Numbers keep their digits.
pub fn members_as_jsonb<'a>(members: impl Iterator<Item = (&'a str, &'a RawValue)>) -> String {
    let members: BTreeMap<_, _> = members.map(|(key, raw)| ((key.len(), key), raw)).collect();
    let mut shown = "{".to_owned();
    for ((_, key), raw) in members {
        // Writing to a String cannot fail.
        let between = if shown.len() > 1 { ", " } else { "" };
        let _ = write!(shown, "{between}{}: ", Value::from(key));
        match plain_number(raw.get()) {
            Some(number) => shown.push_str(&number),
            None => write_jsonb(&storable(raw), &mut shown),
        }
    }
    shown.push('}');
    shown
}

/// JSON that Postgres accepts. Values that it might refuse (too deep, too large a number) and lists
/// or objects above 128 kB become strings.
pub fn json(raw: &RawValue) -> String {
    // Nearly all values are strings without escapes, which need no formatting.
    if raw.get().starts_with('"') && !raw.get().contains('\\') {
        return raw.get().to_owned();
    }
    bare_number(raw).map_or_else(|| storable(raw).to_string(), Cow::into_owned)
}

/// The same as `jsonb` shows it: keys by their length, then by their bytes; a space after each colon
/// and comma.
pub fn jsonb(raw: &RawValue) -> String {
    if let Some(number) = bare_number(raw) {
        return number.into_owned();
    }
    let mut text = String::new();
    write_jsonb(&storable(raw), &mut text);
    text
}

/// A number outside of lists and objects and without an exponent, with all of its digits.
fn bare_number(raw: &RawValue) -> Option<Cow<'_, str>> {
    let is_number = raw.get().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'.'));
    is_number.then(|| plain_number(raw.get())).flatten()
}

fn storable(raw: &RawValue) -> Value {
    lenient::tree(raw).unwrap_or_else(|| Value::from(raw.get()))
}

fn write_jsonb(value: &Value, text: &mut String) {
    match value {
        Value::Array(all) => {
            text.push('[');
            for (n, element) in all.iter().enumerate() {
                text.push_str(if n > 0 { ", " } else { "" });
                write_jsonb(element, text);
            }
            text.push(']');
        }
        Value::Object(all) => {
            let mut all: Vec<_> = all.iter().collect();
            all.sort_by_key(|(key, _)| (key.len(), *key));
            text.push('{');
            for (n, (key, value)) in all.into_iter().enumerate() {
                text.push_str(if n > 0 { ", " } else { "" });
                // Writing to a String cannot fail.
                let _ = write!(text, "{}: ", Value::from(key.as_str()));
                write_jsonb(value, text);
            }
            text.push('}');
        }
        plain => {
            let _ = write!(text, "{plain}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn numbers_keep_their_digits() {
        for (sent, kept) in [
            ("0", "0"),
            ("0.50", "0.50"),
            (r#""00""#, "0"),
            (r#""00.5""#, "0.5"),
            (r#""1.""#, "1"),
            (&"9".repeat(40), &"9".repeat(40)),
            ("-7", "-7"),
            ("1.5", "1.5"),
            ("1e+30", "1000000000000000000000000000000"),
            ("1.50e1", "15.0"),
            ("-1.5E-3", "-0.0015"),
            ("15e1", "150"),
            ("123456789012.12", "123456789012.12"),
            ("0.1234567890123456789", "0.1234567890123456789"),
            ("-0.00", "0.00"),
            (r#""12.50""#, "12.50"),
            (r#"" 007 ""#, "7"),
            (r#""+7""#, "7"),
            (r#""7.""#, "7"),
            (r#"".5""#, "0.5"),
            (r#""""#, "0"),
            (r#"".""#, "0"),
            (r#""12 apples""#, "0"),
            (r#""1.2.3""#, "0"),
            (r#""NaN""#, "0"),
            (r#""Infinity""#, "0"),
            (r#""-""#, "0"),
            (r#""1e""#, "0"),
            (r#""1e999999999""#, "0"),
            ("null", "0"),
            ("{}", "0"),
        ] {
            let text = lenient::text(&raw(sent)).unwrap_or_default();
            let number = plain_number(text.trim()).unwrap_or("0".into());
            assert_eq!(number, kept, "{sent}");
        }
    }

    #[test]
    fn objects_as_they_are_shown() {
        let member = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let members =
            [("bb", r#"{"d":1,"c":[1.50,"x"]}"#), ("a\"", r#""t\"""#), ("ab", "1e400"), ("b", "7")];
        let members = members.map(member);
        let json = r#"{"bb":{"d":1,"c":[1.50,"x"]},"a\"":"t\"","ab":1e400,"b":7}"#;
        assert_eq!(object_as_json(&members), json);
        let jsonb = r#"{"b": 7, "a\"": "t\"", "ab": 1e400, "bb": {"c": [1.5, "x"], "d": 1}}"#;
        assert_eq!(object_as_jsonb(&members), jsonb);
        assert_eq!((object_as_json(&[]), object_as_jsonb(&[])), ("{}".into(), "{}".into()));
    }

    #[test]
    fn jsonb_as_it_is_shown() {
        for (sent, shown) in [
            (r#"[{"idExperiment": 1}, []]"#, r#"[{"idExperiment": 1}, []]"#),
            (
                r#"{"name":"a","id":1.5,"ab":{},"aa":null}"#,
                r#"{"aa": null, "ab": {}, "id": 1.5, "name": "a"}"#,
            ),
            (r#""\u00e9\/\"""#, r#""é/\"""#),
            (
                r#"{"sum": [101.44999999999999, 30.189999999999998]}"#,
                r#"{"sum": [101.44999999999999, 30.189999999999998]}"#,
            ),
            ("12345678901234567890123", "12345678901234567890123"),
            ("-1.50", "-1.50"),
            ("1e999", r#""1e999""#),
        ] {
            assert_eq!(jsonb(&raw(sent)), shown);
        }
        let long = format!("[{}1]", "1,".repeat(1 << 20));
        assert_eq!(jsonb(&raw(&long)), format!("\"{long}\""));
        let text = format!(r#""\u00e9{}""#, "x".repeat(2 << 20));
        assert_eq!(jsonb(&raw(&text)), text.replace(r"\u00e9", "é"));
    }

    #[test]
    fn a_list_with_gaps_is_a_list() {
        for (sent, kept) in [
            (r#"{"0":"Shoes","2":"Red, blue"}"#, Some(r#"{Shoes,"Red, blue"}"#)),
            (r#"{"2":"c","10":"k","1":"b"}"#, Some("{b,c,k}")),
            (r#"{"name":"Shoes"}"#, None),
        ] {
            assert_eq!(text_array(&raw(sent), usize::MAX).as_deref(), kept, "{sent}");
        }
    }
}
