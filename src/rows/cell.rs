//! Single cells of rows. Pure.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use chrono::DateTime;
use serde_json::value::RawValue;

use crate::matomo::json;
use crate::matomo::visit::Members;
use crate::rows::column_type::{self, Value};
use crate::rows::columns::Column;
use crate::rows::layout::Slot;
use crate::rows::lines::Cells;
use crate::rows::values;

/// A value that its column cannot hold.
#[derive(Clone)]
pub struct Misfit<'a> {
    pub column: &'static Column,
    /// As Matomo sends it, or what was made of it.
    value: Cow<'a, RawValue>,
}

/// Notes what Matomo sends for a column that has something else instead.
pub fn note<'a>(column: &'static Column, sent: &'a RawValue, misfits: &mut Vec<Misfit<'a>>) {
    if !json::is_nothing(sent) {
        misfits.push(Misfit { column, value: Cow::Borrowed(sent) });
    }
}

/// What Matomo sends for a key, or null.
pub fn sent(raw: Option<&RawValue>) -> Value<'static, '_> {
    raw.map_or(Value::Null, Value::Sent)
}

/// An instant in Unix seconds; null for one outside the calendar.
pub fn instant(at: Option<i64>) -> Value<'static, 'static> {
    at.and_then(calendar).map_or(Value::Null, Value::Instant)
}

/// Unknown members, others and misfits as an object; `None` if there are none.
pub fn extra(
    unknown: &Members,
    others: Vec<(&str, &RawValue)>,
    misfits: &[Misfit],
) -> Option<String> {
    if unknown.is_empty() && others.is_empty() && misfits.is_empty() {
        return None;
    }
    let unknown = unknown.iter().map(|(key, raw)| (key.as_ref(), raw.as_ref()));
    let misfits = misfits.iter().map(|misfit| {
        let column = misfit.column;
        (column.source.key().unwrap_or(column.name), misfit.value.as_ref())
    });
    Some(values::members_as_jsonb(unknown.chain(others).chain(misfits)))
}

/// Writes a value; notes one that the column's type cannot hold.
pub fn put<'a>(
    cells: &mut Cells,
    slot: &Slot,
    value: Value<'_, 'a>,
    misfits: &mut Vec<Misfit<'a>>,
) {
    if !slot.kind.write(cells, value) {
        let value = match value {
            Value::Sent(raw) => Cow::Borrowed(raw),
            made => Cow::Owned(column_type::as_json(made)),
        };
        misfits.push(Misfit { column: slot.column, value });
    }
}

/// The years 1 to 9999.
const CALENDAR: RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Discards a time that Postgres or the calendar cannot represent.
pub fn representable(at: Option<i64>) -> Option<i64> {
    at.filter(|at| CALENDAR.contains(at))
}

/// An instant as a date and a time, if the calendar has it.
pub fn calendar(seconds: i64) -> Option<DateTime<chrono::Utc>> {
    representable(Some(seconds)).and_then(|seconds| DateTime::from_timestamp(seconds, 0))
}

#[cfg(test)]
mod tests {
    use chrono::Datelike;

    use super::*;

    #[test]
    fn the_calendar_has_the_years_1_to_9999() {
        let year = |seconds| DateTime::from_timestamp(seconds, 0).unwrap().year();
        let (first, last) = (*CALENDAR.start(), *CALENDAR.end());
        assert_eq!([first - 1, first, last, last + 1].map(year), [0, 1, 9999, 10_000]);
        assert_eq!(calendar(first).map(|at| at.year()), Some(1));
        assert_eq!(calendar(last + 1), None);
    }
}
