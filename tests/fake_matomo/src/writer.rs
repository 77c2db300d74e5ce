//! JSON as PHP's `json_encode` writes it: `\/`, and `\uXXXX` for everything beyond ASCII.

use serde_json::Value;
use std::fmt::Write;

/// Marks a string as JSON to be sent unchanged: a private-use character.
const LITERAL: char = '\u{f8ff}';

/// A value sent as this JSON, for numbers that `Value` cannot hold, such as 1e400 or 1.50.
pub fn literal(json: &str) -> Value {
    Value::from(format!("{LITERAL}{json}"))
}

/// The JSON in a string made by `literal`.
pub(crate) fn literal_of(text: &str) -> Option<&str> {
    text.strip_prefix(LITERAL)
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Numbers from the database as strings.
    pub numbers_as_strings: bool,
    /// `language=fr`.
    pub french: bool,
    /// No `\/`, and no `\u` beyond what JSON requires.
    pub unescaped: bool,
}

/// Filters the keys of one object.
struct Filter {
    depth: usize,
    skip: Vec<String>,
    keep: Vec<String>,
}

/// Writes JSON key by key, without an intermediate tree, so that benchmarks do not measure the
/// fake.
pub struct Writer {
    pub out: String,
    style: Style,
    depth: usize,
    filters: Vec<Filter>,
}

impl Writer {
    /// An empty text.
    pub fn new(style: Style) -> Writer {
        Writer { out: String::new(), style, depth: 0, filters: Vec::new() }
    }

    pub fn style(&self) -> Style {
        self.style
    }

    /// Starts an element of an object or array, with its comma.
    pub fn element(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with(['{', '[', ':']) {
            self.out.push(',');
        }
    }

    /// In the object just opened, omits the keys in `skip`, and all keys not in `keep` unless
    /// `keep` is empty.
    pub fn filter(&mut self, skip: Vec<String>, keep: Vec<String>) {
        self.filters.push(Filter { depth: self.depth, skip, keep });
    }

    /// Writes the key unless it is filtered out.
    fn key(&mut self, key: &str) -> bool {
        for filter in self.filters.iter().filter(|f| f.depth == self.depth) {
            let unwanted = !filter.keep.is_empty() && !filter.keep.iter().any(|k| k == key);
            if unwanted || filter.skip.iter().any(|k| k == key) {
                return false;
            }
        }
        self.element();
        self.text(key);
        self.out.push(':');
        true
    }

    pub fn str(&mut self, key: &str, value: &str) {
        if self.key(key) {
            self.text(value);
        }
    }

    pub fn opt(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(text) => self.str(key, text),
            None => self.raw(key, "null"),
        }
    }

    /// A number that every server sends as one.
    pub fn int(&mut self, key: &str, value: i64) {
        if self.key(key) {
            let _ = write!(self.out, "{value}");
        }
    }

    /// A number from the database, which old servers send as a string.
    pub fn db(&mut self, key: &str, value: i64) {
        if self.key(key) {
            let quote = if self.style.numbers_as_strings { "\"" } else { "" };
            let _ = write!(self.out, "{quote}{value}{quote}");
        }
    }

    /// A number from the database, or null.
    pub fn opt_db(&mut self, key: &str, value: Option<i64>) {
        match value {
            Some(number) => self.db(key, number),
            None => self.raw(key, "null"),
        }
    }

    /// The literal of a number from the database.
    pub fn db_literal(&mut self, key: &str, literal: &str) {
        if self.style.numbers_as_strings {
            self.str(key, literal);
        } else {
            self.raw(key, literal);
        }
    }

    /// JSON, unchanged.
    pub fn raw(&mut self, key: &str, json: &str) {
        if self.key(key) {
            self.out.push_str(json);
        }
    }

    pub fn value(&mut self, key: &str, value: &Value) {
        if self.key(key) {
            self.any(value);
        }
    }

    /// An object as the value of a key.
    pub fn object(&mut self, key: &str, content: impl FnOnce(&mut Writer)) {
        if self.key(key) {
            self.braces(content);
        }
    }

    /// An object as an element of an array, or alone.
    pub fn braces(&mut self, content: impl FnOnce(&mut Writer)) {
        self.enclosed('{', content, '}');
    }

    /// An array as the value of a key; `content` calls `element` before each element.
    pub fn array(&mut self, key: &str, content: impl FnOnce(&mut Writer)) {
        if self.key(key) {
            self.brackets(content);
        }
    }

    /// An array of strings as the value of a key.
    pub fn texts(&mut self, key: &str, texts: &[String]) {
        self.array(key, |w| {
            for text in texts {
                w.element();
                w.text(text);
            }
        });
    }

    /// An array without a key.
    pub fn brackets(&mut self, content: impl FnOnce(&mut Writer)) {
        self.enclosed('[', content, ']');
    }

    fn enclosed(&mut self, open: char, content: impl FnOnce(&mut Writer), close: char) {
        self.out.push(open);
        self.depth += 1;
        content(self);
        let depth = self.depth;
        self.filters.retain(|f| f.depth < depth);
        self.depth -= 1;
        self.out.push(close);
    }

    /// A string literal.
    pub fn text(&mut self, text: &str) {
        self.out.push('"');
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            let harmless = match c {
                '"' | '\\' => false,
                '/' => self.style.unescaped,
                ' '..='~' | '\u{7f}' => true,
                _ => c > '\u{7f}' && self.style.unescaped,
            };
            if harmless {
                continue;
            }
            self.out.push_str(&text[plain..at]);
            plain = at + c.len_utf8();
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '/' => self.out.push_str("\\/"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                _ => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
            }
        }
        self.out.push_str(&text[plain..]);
        self.out.push('"');
    }

    /// A JSON value.
    pub fn any(&mut self, value: &Value) {
        match value {
            Value::String(text) => match literal_of(text) {
                Some(json) => self.out.push_str(json),
                None => self.text(text),
            },
            Value::Array(all) => self.brackets(|w| {
                for one in all {
                    w.element();
                    w.any(one);
                }
            }),
            Value::Object(map) => self.braces(|w| {
                for (key, one) in map {
                    w.value(key, one);
                }
            }),
            other => {
                let _ = write!(self.out, "{other}");
            }
        }
    }
}
