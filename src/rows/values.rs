//! Values formatted as Postgres shows them, so that a value read again equals the stored text.
//! Pure.

use std::fmt::Write;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::matomo::json as lenient;

/// A number as Postgres shows a `numeric`, with all digits that were sent; `0` for anything that is
/// no number or does not fit a `numeric`.
pub fn number(raw: &RawValue) -> String {
    let text = lenient::text(raw).unwrap_or_default();
    plain_number(text.trim()).unwrap_or_else(|| "0".to_owned())
}

fn plain_number(text: &str) -> Option<String> {
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
    Some(format!("{sign}{whole}{point}{fraction}"))
}

/// JSON that Postgres accepts. Values that it might refuse (too deep, too large a number) and lists
/// or objects above 128 kB become strings.
pub fn json(raw: &RawValue) -> String {
    // Nearly all values are strings without escapes, which need no formatting.
    if raw.get().starts_with('"') && !raw.get().contains('\\') {
        return raw.get().to_owned();
    }
    storable(raw).to_string()
}

/// The same as `jsonb` shows it: keys by their length, then by their bytes; a space after each colon
/// and comma.
pub fn jsonb(raw: &RawValue) -> String {
    let mut text = String::new();
    write_jsonb(&storable(raw), &mut text);
    text
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
            assert_eq!(number(&raw(sent)), kept, "{sent}");
        }
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
            ("1e999", r#""1e999""#),
        ] {
            assert_eq!(jsonb(&raw(sent)), shown);
        }
        let long = format!("[{}1]", "1,".repeat(1 << 20));
        assert_eq!(jsonb(&raw(&long)), format!("\"{long}\""));
        let text = format!(r#""\u00e9{}""#, "x".repeat(2 << 20));
        assert_eq!(jsonb(&raw(&text)), text.replace(r"\u00e9", "é"));
    }
}
