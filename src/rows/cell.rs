//! Single cells of rows. Pure.

use chrono::DateTime;
use serde_json::value::RawValue;

use crate::matomo::visit::Members;
use crate::rows::column_type::Value;
use crate::rows::columns::Column;
use crate::rows::layout::Slot;
use crate::rows::lines::Cells;
use crate::rows::values;

/// A value that its column's type cannot hold.
#[derive(Clone, Copy)]
pub struct Misfit<'a> {
    pub column: &'static Column,
    /// As Matomo sends it, if it is a member.
    pub sent: Option<&'a RawValue>,
}

/// What Matomo sends for a key, or null.
pub fn sent(raw: Option<&RawValue>) -> Value<'static, '_> {
    raw.map_or(Value::Null, Value::Sent)
}

/// An instant in Unix seconds; null for one outside the calendar.
pub fn instant(at: Option<i64>) -> Value<'static, 'static> {
    at.and_then(calendar).map_or(Value::Null, Value::Instant)
}

/// Unknown members and misfits as an object; `None` if there are none.
pub fn extra(unknown: &Members, misfits: &[Misfit]) -> Option<String> {
    if unknown.is_empty() && misfits.is_empty() {
        return None;
    }
    let unknown = unknown.iter().map(|(key, raw)| (key.as_ref(), *raw));
    let misfits = misfits.iter().filter_map(|misfit| {
        let column = misfit.column;
        Some((column.source.key().unwrap_or(column.name), misfit.sent?))
    });
    Some(values::members_as_jsonb(unknown.chain(misfits)))
}

/// Writes a value; notes one that the column's type cannot hold.
pub fn put<'a>(
    cells: &mut Cells,
    slot: &Slot,
    value: Value<'_, 'a>,
    misfits: &mut Vec<Misfit<'a>>,
) {
    if !slot.kind.write(cells, value) {
        let sent = if let Value::Sent(raw) = value { Some(raw) } else { None };
        misfits.push(Misfit { column: slot.column, sent });
    }
}

/// Discards a time that Postgres or the calendar cannot represent.
pub fn representable(at: Option<i64>) -> Option<i64> {
    at.filter(|at| calendar(*at).is_some())
}

/// An instant as a date and a time, if the calendar has it.
pub fn calendar(seconds: i64) -> Option<DateTime<chrono::Utc>> {
    use chrono::Datelike;
    DateTime::from_timestamp(seconds, 0).filter(|at| (1..=9999).contains(&at.year()))
}
