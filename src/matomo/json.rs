//! Tolerant parsing of JSON as PHP writes it: numbers as strings, `{}` as `[]`, keys missing,
//! unknown or duplicate. Pure.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Replaces what text in Postgres cannot hold by U+FFFD: U+0000, lone surrogates and invalid UTF-8.
/// Control characters that JSON forbids in strings become spaces.
///
/// Works on the unparsed document, as no parser returns a string with a lone surrogate.
pub fn mend(mut body: Vec<u8>) -> String {
    // PHP sends a byte order mark for each source file that was saved with one.
    let marks = body.chunks(3).take_while(|bytes| *bytes == BYTE_ORDER_MARK).count();
    body.drain(..marks * 3);
    let mut text = match String::from_utf8(body) {
        Ok(text) => text.into_bytes(),
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned().into_bytes(),
    };
    if has_controls(&text) {
        text = mend_controls(&text);
    }
    // In JSON a backslash occurs in strings only, and each begins an escape.
    let mut at = 0;
    while let Some(next) = memchr(b'\\', &text[at..]) {
        at += next;
        at += mend_escape(&mut text[at..]);
    }
    // Only ASCII bytes and escapes were replaced, so it is still UTF-8.
    String::from_utf8(text).unwrap_or_default()
}

/// Whether there are control characters; in blocks that the compiler vectorises.
fn has_controls(text: &[u8]) -> bool {
    text.chunks(256).any(|block| block.iter().fold(false, |found, byte| found | (*byte < 0x20)))
}

fn mend_controls(text: &[u8]) -> Vec<u8> {
    let mut mended = Vec::with_capacity(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for &byte in text {
        match byte {
            b'"' if !escaped => in_string = !in_string,
            0 if in_string => {
                mended.extend_from_slice("\u{fffd}".as_bytes());
                continue;
            }
            1..0x20 if in_string => {
                mended.push(b' ');
                continue;
            }
            _ => {}
        }
        escaped = in_string && byte == b'\\' && !escaped;
        mended.push(byte);
    }
    mended
}

/// Mends the escape at the start of `text` and returns its length.
fn mend_escape(text: &mut [u8]) -> usize {
    let Some(unit) = code_unit(text) else {
        return 2.min(text.len());
    };
    match unit {
        0xD800..0xDC00 if matches!(text.get(6..).and_then(code_unit), Some(0xDC00..0xE000)) => {
            return 12;
        }
        0 | 0xD800..0xE000 => text[2..6].copy_from_slice(b"fffd"),
        _ => {}
    }
    6
}

/// The value of a `\uXXXX` at the start of `text`.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.get(..6)?.strip_prefix(b"\\u")?;
    let digits = std::str::from_utf8(digits).ok()?;
    u16::from_str_radix(digits, 16).ok()
}

/// Passes each member of an object to `work`, in order. Elements of a list have an empty key, as
/// PHP writes an empty or gapless map as a list. Other values have no members.
pub fn each_member<'a>(raw: &'a RawValue, work: impl FnMut(Cow<'a, str>, &'a RawValue)) {
    struct Reader<F>(F);
    impl<'de, F: FnMut(Cow<'de, str>, &'de RawValue)> Visitor<'de> for Reader<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object or a list")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some((Key(key), value)) = map.next_entry()? {
                (self.0)(key, value);
            }
            Ok(())
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
            while let Some(value) = list.next_element()? {
                (self.0)(Cow::Borrowed(""), value);
            }
            Ok(())
        }
    }
    // It was parsed before, so this cannot fail.
    let _ = serde_json::Deserializer::from_str(raw.get()).deserialize_any(Reader(work));
}

/// Whether a value says nothing: null or an empty text.
pub fn is_nothing(raw: &RawValue) -> bool {
    matches!(raw.get(), "null" | r#""""#)
}

/// Whether a value is an object or a list, which [`each_member`] takes.
pub fn has_members(raw: &RawValue) -> bool {
    raw.get().starts_with(['{', '['])
}

/// A key, borrowed from the document unless it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Key<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// A value as text: a number's digits as sent, `true`, a string's contents, or the compact JSON of
/// a list or an object. `None` for null.
pub fn text(raw: &RawValue) -> Option<String> {
    let mut found = None;
    with_text(raw, |text| found = Some(text.to_owned()));
    found
}

/// Passes the same text to `work`, without a copy if possible.
pub fn with_text(raw: &RawValue, work: impl FnOnce(&str)) {
    let json = raw.get();
    match json.as_bytes() {
        [b'n', ..] => {}
        [b'"', inner @ .., b'"'] if memchr(b'\\', inner).is_none() => {
            work(&json[1..json.len() - 1])
        }
        // A string with a lone surrogate counts as null.
        [b'"', _inner @ .., b'"'] => {
            if let Some(text) = unescaped(&json[1..json.len() - 1]) {
                work(&text);
            }
        }
        [b'{' | b'[', ..] => work(&compact(raw)),
        _ => work(json),
    }
}

/// The contents of a string of valid JSON; `None` if it has a lone surrogate.
fn unescaped(inner: &str) -> Option<String> {
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((plain, escape)) = memchr(b'\\', rest.as_bytes()).map(|at| rest.split_at(at)) {
        text.push_str(plain);
        let mut length = 2;
        text.push(match escape.as_bytes().get(1)? {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let units =
                    [code_unit(escape.as_bytes()), escape.as_bytes().get(6..).and_then(code_unit)];
                let char =
                    char::decode_utf16(units.into_iter().map_while(|unit| unit)).next()?.ok()?;
                length = 6 * char.len_utf16();
                char
            }
            other => char::from(*other),
        });
        rest = escape.get(length..)?;
    }
    text.push_str(rest);
    Some(text)
}

/// A value's JSON as `JSON.stringify` writes it: no spaces, minimal escapes.
pub fn compact(raw: &RawValue) -> String {
    tree(raw).map_or_else(|| raw.get().to_owned(), |value| value.to_string())
}

/// Lists and objects longer than this are not parsed into a tree, which takes many times the
/// memory.
pub const LONGEST_TREE: usize = 1 << 17;

/// A parsed value; `None` if it is nested too deeply, has too large a number, or is too long. Such
/// values stay as sent.
pub fn tree(raw: &RawValue) -> Option<serde_json::Value> {
    let is_string = raw.get().starts_with('"');
    (is_string || raw.get().len() <= LONGEST_TREE)
        .then(|| serde_json::from_str(raw.get()).ok())
        .flatten()
}

/// A whole number, sent as a number or a string.
pub fn integer(raw: &RawValue) -> Option<i64> {
    if let Ok(plain) = raw.get().trim_matches('"').parse() {
        return Some(plain);
    }
    let text = text(raw)?;
    let text = text.trim();
    text.parse().ok().or_else(|| {
        let float: f64 = text.parse().ok()?;
        (float.abs() < 9e15).then_some(float.floor() as i64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mended(json: &str) -> String {
        mend(json.as_bytes().to_vec())
    }

    #[test]
    fn what_postgres_cannot_hold_is_replaced() {
        assert_eq!(mended(r#"{"a":"x\u0000y"}"#), r#"{"a":"x\ufffdy"}"#);
        assert_eq!(mended(r#"["\ud83d"]"#), r#"["\ufffd"]"#);
        assert_eq!(mended(r#"["\ud83dA\udc00"]"#), r#"["\ufffdA\ufffd"]"#);
        assert_eq!(mended(r#"["\uDE00\uD83D"]"#), r#"["\ufffd\ufffd"]"#);
        assert_eq!(mended(r#"["\ud83d\ud83d\ude00"]"#), r#"["\ufffd\ud83d\ude00"]"#);
        assert_eq!(mended("[\"a\0b\u{1}c\"]"), "[\"a\u{fffd}b c\"]");
        assert_eq!(mend(b"[\"\xff\"]".to_vec()), "[\"\u{fffd}\"]");
        assert_eq!(mended("\u{feff}\u{feff}[\"\u{feff}\"]"), "[\"\u{feff}\"]");
    }

    #[test]
    fn what_is_well_stays() {
        for json in [
            r#"{"emoji":"\ud83d\ude00 \u00e9 \/ \\u0000 \\"}"#,
            "{\n\t\"a\" : [1, 2]\r\n}",
            r#"["ends in a backslash\\"]"#,
            "[\"\u{2028} é 🎉\"]",
            "\\",
            "\"\\u12",
        ] {
            assert_eq!(mended(json), json);
        }
    }

    #[test]
    fn values_as_text() {
        let of = |json: &str| text(&RawValue::from_string(json.to_owned()).unwrap());
        assert_eq!(of("null"), None);
        assert_eq!(of("1e+30").as_deref(), Some("1e+30"));
        assert_eq!(of("true").as_deref(), Some("true"));
        assert_eq!(of(r#""\u00e9\/""#).as_deref(), Some("é/"));
        assert_eq!(of(r#""\"\\\b\f\n\r\t\u002f""#).as_deref(), Some("\"\\\u{8}\u{c}\n\r\t/"));
        assert_eq!(of(r#""x\ud83d\ude00\u00E9y\\u""#).as_deref(), Some("x😀éy\\u"));
        assert_eq!(of(r#""\ud83d""#), None);
        assert_eq!(of(r#""\ud83d\u0041""#), None);
        assert_eq!(of(r#""\ude00\ud83d""#), None);
        assert_eq!(of(r#"{"a" : [1, "\u00e9"]}"#).as_deref(), Some(r#"{"a":[1,"é"]}"#));
    }

    #[test]
    fn integers() {
        let of = |json: &str| integer(&RawValue::from_string(json.to_owned()).unwrap());
        assert_eq!(of("12"), Some(12));
        assert_eq!(of(r#""12""#), Some(12));
        assert_eq!(of(r#"" 12.0 ""#), Some(12));
        assert_eq!(of("1e3"), Some(1000));
        assert_eq!(of("1e300"), None);
        assert_eq!(of(r#""x""#), None);
        assert_eq!(of("null"), None);
    }

    #[test]
    fn objects_and_lists_have_members() {
        let of = |json: &str| {
            let raw = RawValue::from_string(json.to_owned()).unwrap();
            let mut members = Vec::new();
            each_member(&raw, |key, value| members.push(format!("{key}={}", value.get())));
            members.join(" ")
        };
        assert_eq!(of(r#"{"b":{"a":1},"\u0061":[],"b":1e999}"#), r#"b={"a":1} a=[] b=1e999"#);
        assert_eq!(of(r#"[{"a":1}, 2]"#), r#"={"a":1} =2"#);
        for none in ["{}", "[]", "1", "1e999", "null", r#""{}""#] {
            assert_eq!(of(none), "", "{none}");
        }
    }
}
