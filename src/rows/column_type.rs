//! What the types of columns can hold, and how they show it. Pure.

use std::borrow::Cow;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike, Utc};
use serde_json::value::RawValue;

use crate::matomo::json;
use crate::rows::lines::Cells;
use crate::rows::values::{self, Member};

/// A type of a column, as far as values depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    Text,
    /// At most so many characters.
    Varchar(usize),
    /// Whole numbers between these.
    Integer(i64, i64),
    Numeric,
    /// So many digits, and so many of them after the point.
    NumericOf(i32, i32),
    /// `real`.
    Real,
    /// `double precision`.
    Float,
    Boolean,
    Timestamptz,
    Timestamp,
    Date,
    Time,
    Json,
    Jsonb,
    /// Of texts of at most so many characters each.
    TextArray(usize),
    /// At most so many bytes.
    Bytes(usize),
    /// Of somebody else: takes what its input function takes.
    Other,
}

/// A value on its way into a column.
#[derive(Debug, Clone, Copy)]
pub enum Value<'t, 'json> {
    Null,
    /// As Matomo sends it.
    Sent(&'json RawValue),
    Text(&'t str),
    Integer(i64),
    Instant(DateTime<Utc>),
    Day(NaiveDate),
    /// A JSON object.
    Object(&'t [Member]),
    /// A JSON object as `jsonb` shows it.
    Jsonb(&'t str),
}

/// Length of a type modifier's header.
const MODIFIER_HEADER: i32 = 4;
/// Bytes of a `name`.
const LONGEST_NAME: usize = 63;

impl ColumnType {
    /// The type of this name in pg_catalog with this modifier, -1 for none (`pg_attribute.atttypmod`).
    pub fn of(name: &str, modifier: i32) -> ColumnType {
        let length = || usize::try_from(modifier - MODIFIER_HEADER).unwrap_or(usize::MAX);
        match name {
            "text" => ColumnType::Text,
            "varchar" | "bpchar" if modifier < MODIFIER_HEADER => ColumnType::Text,
            "varchar" | "bpchar" => ColumnType::Varchar(length()),
            "int2" => ColumnType::Integer(i16::MIN.into(), i16::MAX.into()),
            "int4" => ColumnType::Integer(i32::MIN.into(), i32::MAX.into()),
            "int8" => ColumnType::Integer(i64::MIN, i64::MAX),
            "numeric" if modifier < MODIFIER_HEADER => ColumnType::Numeric,
            "numeric" => {
                // Of the scale, eleven bits with a sign.
                let packed = modifier - MODIFIER_HEADER;
                ColumnType::NumericOf(packed >> 16 & 0xffff, (packed & 0x7ff ^ 1024) - 1024)
            }
            "float4" => ColumnType::Real,
            "float8" => ColumnType::Float,
            "bool" => ColumnType::Boolean,
            "timestamptz" => ColumnType::Timestamptz,
            "timestamp" => ColumnType::Timestamp,
            "date" => ColumnType::Date,
            "time" => ColumnType::Time,
            "json" => ColumnType::Json,
            "jsonb" => ColumnType::Jsonb,
            "_text" => ColumnType::TextArray(usize::MAX),
            "_varchar" | "_bpchar" => ColumnType::TextArray(length()),
            // These would cut a text.
            "name" => ColumnType::Bytes(LONGEST_NAME),
            "char" => ColumnType::Bytes(1),
            _ => ColumnType::Other,
        }
    }

    /// The same in a database whose encoding knows only bytes.
    pub fn in_bytes(self) -> ColumnType {
        match self {
            ColumnType::Varchar(most) => ColumnType::Bytes(most),
            other => other,
        }
    }

    /// Writes a value as the type shows it; NULL if it cannot hold the value; then returns false.
    /// An empty text is a value to types of characters only.
    #[must_use]
    pub fn write(self, cells: &mut Cells, value: Value) -> bool {
        match (self, value) {
            (_, Value::Null) => cells.null(),
            // A type that is not ours may refuse it.
            (ColumnType::Other | ColumnType::Json | ColumnType::Jsonb, value)
                if is_empty(value) =>
            {
                cells.null();
            }
            (ColumnType::Text | ColumnType::Other, value) => write_text(cells, value),
            (ColumnType::Integer(least, most), Value::Integer(number))
                if (least..=most).contains(&number) =>
            {
                cells.display(number);
            }
            (ColumnType::Timestamptz, Value::Instant(at)) => write_instant(cells, at),
            (ColumnType::Date, Value::Day(day)) if in_calendar(day) => write_day(cells, day),
            (ColumnType::Json, Value::Sent(raw)) => cells.text(&values::json(raw)),
            (ColumnType::Json, Value::Object(all)) => cells.text(&values::object_as_json(all)),
            (ColumnType::Json | ColumnType::Jsonb, Value::Jsonb(text)) => cells.text(text),
            (ColumnType::Jsonb, Value::Sent(raw)) => cells.text(&values::jsonb(raw)),
            (ColumnType::Jsonb, Value::Object([])) => cells.plain("{}"),
            (ColumnType::Jsonb, Value::Object(all)) => cells.text(&values::object_as_jsonb(all)),
            (ColumnType::TextArray(most), Value::Sent(raw)) => {
                match values::text_array(raw, most) {
                    Some(text) => cells.text(&text),
                    None => return write_misfit(cells, value),
                }
            }
            _ => return self.write_parsed(cells, value),
        }
        true
    }

    /// Writes a value by way of its text.
    fn write_parsed(self, cells: &mut Cells, value: Value) -> bool {
        let mut fits = None;
        with_text(value, |text| {
            let form = self.form(text);
            match &form {
                Some(form) => cells.text(form),
                None => cells.null(),
            }
            fits = Some(form.is_some() || text.is_empty());
        });
        if fits.is_none() {
            cells.null();
        }
        fits.unwrap_or(true)
    }

    /// A text as the type shows it, if it holds it.
    fn form(self, text: &str) -> Option<Cow<'_, str>> {
        let trimmed = text.trim();
        match self {
            ColumnType::Text | ColumnType::Other => Some(Cow::Borrowed(text)),
            ColumnType::Varchar(most) => {
                (text.chars().count() <= most).then_some(Cow::Borrowed(text))
            }
            ColumnType::Bytes(most) => (text.len() <= most).then_some(Cow::Borrowed(text)),
            ColumnType::Integer(least, most) => {
                let number = values::whole_number(trimmed)?;
                let shown = || match values::is_plain_whole(trimmed) {
                    true => trimmed.into(),
                    false => number.to_string().into(),
                };
                (least..=most).contains(&number).then(shown)
            }
            ColumnType::Numeric => values::plain_number(trimmed),
            ColumnType::NumericOf(digits, scale) => values::plain_number(trimmed)
                .filter(|number| values::fits_numeric(number, digits, scale)),
            ColumnType::Float => {
                let number: f64 = trimmed.parse().ok()?;
                (number.is_finite() && (number != 0.0 || is_zero(trimmed)))
                    .then(|| number.to_string().into())
            }
            ColumnType::Real => {
                let number: f32 = trimmed.parse().ok()?;
                (number.is_finite() && (number != 0.0 || is_zero(trimmed)))
                    .then(|| number.to_string().into())
            }
            ColumnType::Boolean => {
                let is_in =
                    |words: [&str; 6]| words.iter().any(|word| trimmed.eq_ignore_ascii_case(word));
                if is_in(["1", "true", "t", "yes", "y", "on"]) {
                    Some("t".into())
                } else {
                    is_in(["0", "false", "f", "no", "n", "off"]).then_some("f".into())
                }
            }
            ColumnType::Timestamptz | ColumnType::Timestamp => {
                let at = day_and_time(trimmed)?;
                let zone = if self == ColumnType::Timestamp { "" } else { "+00" };
                Some(format!("{at}{zone}").into())
            }
            ColumnType::Date => Some(day_and_time(trimmed)?.date().to_string().into()),
            ColumnType::Time if is_time(trimmed) => Some(trimmed.into()),
            ColumnType::Time => {
                let time = NaiveTime::parse_from_str(trimmed, "%H:%M:%S")
                    .or_else(|_| NaiveTime::parse_from_str(trimmed, "%H:%M"));
                let time = time.ok()?;
                Some(time.format("%H:%M:%S").to_string().into())
            }
            ColumnType::Json | ColumnType::Jsonb => {
                Some(serde_json::Value::from(text).to_string().into())
            }
            ColumnType::TextArray(_) => None,
        }
    }
}

fn is_empty(value: Value) -> bool {
    match value {
        Value::Sent(raw) => raw.get() == r#""""#,
        Value::Text(text) => text.is_empty(),
        _ => false,
    }
}

/// A day, or a day and a time in UTC or without a zone, in the calendar.
fn day_and_time(text: &str) -> Option<NaiveDateTime> {
    let utc = ["+00", "+00:00", "Z", " UTC"];
    let plain = utc.iter().find_map(|zone| text.strip_suffix(zone)).unwrap_or(text);
    let plain = plain.replacen('T', " ", 1);
    let at = NaiveDateTime::parse_from_str(&plain, "%Y-%m-%d %H:%M:%S%.f")
        .or_else(|_| plain.parse::<NaiveDate>().map(|day| day.and_time(NaiveTime::MIN)));
    at.ok().filter(|at| in_calendar(at.date()))
}

/// Whether a number is zero, and not only too small for a type.
fn is_zero(number: &str) -> bool {
    values::plain_number(number).is_some_and(|text| !text.contains(|c| ('1'..='9').contains(&c)))
}

/// Years that both Postgres and a reader can do with.
fn in_calendar(day: NaiveDate) -> bool {
    (1..=9999).contains(&day.year())
}

/// NULL for a value that the type cannot hold.
fn write_misfit(cells: &mut Cells, value: Value) -> bool {
    cells.null();
    let mut is_empty = true;
    with_text(value, |text| is_empty = text.is_empty());
    is_empty
}

/// A value as it is, or null.
fn write_text(cells: &mut Cells, value: Value) {
    let mut is_null = true;
    with_text(value, |text| {
        cells.text(text);
        is_null = false;
    });
    if is_null {
        cells.null();
    }
}

/// A value as JSON.
pub fn as_json(value: Value) -> Box<RawValue> {
    let json = match value {
        Value::Sent(raw) => return raw.to_owned(),
        Value::Null => "null".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Object(all) => values::object_as_json(all),
        Value::Jsonb(text) => text.to_owned(),
        Value::Text(_) | Value::Instant(_) | Value::Day(_) => {
            let mut json = String::new();
            with_text(value, |text| json = serde_json::Value::from(text).to_string());
            json
        }
    };
    RawValue::from_string(json).unwrap_or_default()
}

/// Passes the text of a value that is not null.
fn with_text(value: Value, work: impl FnOnce(&str)) {
    match value {
        Value::Null => {}
        Value::Sent(raw) => json::with_text(raw, work),
        Value::Text(text) | Value::Jsonb(text) => work(text),
        Value::Object(all) => work(&values::object_as_json(all)),
        Value::Integer(number) => work(&number.to_string()),
        Value::Instant(at) => work(&format!("{} {}+00", at.date_naive(), at.time())),
        Value::Day(day) => work(&day.to_string()),
    }
}

/// Whether this is a time as Postgres shows it, without a leap second.
fn is_time(text: &str) -> bool {
    let below = |tens: u8, ones: u8, limit: u8| {
        tens.is_ascii_digit() && ones.is_ascii_digit() && (tens - b'0') * 10 + (ones - b'0') < limit
    };
    match text.as_bytes() {
        [h, hh, b':', m, mm, b':', s, ss] => {
            below(*h, *hh, 24) && below(*m, *mm, 60) && below(*s, *ss, 60)
        }
        _ => false,
    }
}

fn write_instant(cells: &mut Cells, at: DateTime<Utc>) {
    cells.plain(std::str::from_utf8(&shown(at)).unwrap_or_default());
}

fn write_day(cells: &mut Cells, day: NaiveDate) {
    let text = shown(day.and_time(NaiveTime::MIN).and_utc());
    cells.plain(std::str::from_utf8(&text[..10]).unwrap_or_default());
}

/// An instant of the calendar as Postgres shows it in UTC. Many times as fast as chrono's formatting.
fn shown(at: DateTime<Utc>) -> [u8; 22] {
    let year = u32::try_from(at.year()).unwrap_or_default();
    let mut text = *b"0000-00-00 00:00:00+00";
    for (place, number) in [
        (0, year / 100),
        (2, year),
        (5, at.month()),
        (8, at.day()),
        (11, at.hour()),
        (14, at.minute()),
        (17, at.second()),
    ] {
        text[place] += (number / 10 % 10) as u8;
        text[place + 1] += (number % 10) as u8;
    }
    text
}

#[cfg(test)]
#[path = "column_type_tests.rs"]
mod tests;
