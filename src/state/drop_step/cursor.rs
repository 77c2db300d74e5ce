//! Where a step stopped, so that the next one does not scan the same rows.

use pgrx::JsonB;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::pg::failed::Failed;
use crate::rows::columns::TableKind;

/// Where a step stopped. In SQL it is the `place` of `matomo_drop_step`, and `upkeep_place`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The instant before which rows are removed, as text.
    before: String,
    /// The table to go on with: that of actions, then the companions in the order of [`TableKind`].
    #[serde(with = "TableName")]
    pub table: TableKind,
    /// Where `matomo_drop_rows` stopped in this table, in its own form; `None` at the table's beginning.
    pub scan_position: Option<Value>,
    /// Whether rows of actions were left that cannot be removed.
    pub has_rows_left: bool,
    /// Why the first rows that could not be deleted were not.
    pub failed: Option<Failed>,
    /// Whether all other rows are gone: the next step raises `failed`.
    pub is_over: bool,
}

/// The names of [`TableKind`] in JSON.
#[derive(Serialize, Deserialize)]
#[serde(remote = "TableKind", rename_all = "lowercase")]
enum TableName {
    Actions,
    Visits,
    Conversions,
    Items,
}

impl Cursor {
    fn begin(before: String) -> Cursor {
        Cursor {
            before,
            table: TableKind::Actions,
            scan_position: None,
            has_rows_left: false,
            failed: None,
            is_over: false,
        }
    }

    /// Reads where the last step stopped. Begins anew if that was for another instant, as upkeep may have
    /// stopped yesterday, or if another version has stored it.
    pub fn resume(place: Option<JsonB>, before: String) -> Cursor {
        place
            .and_then(|JsonB(place)| serde_json::from_value(place).ok())
            .filter(|cursor: &Cursor| cursor.before == before)
            .unwrap_or_else(|| Cursor::begin(before))
    }

    /// For SQL; `None` at the beginning, as the coordinator takes another `upkeep_place` for progress.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn place(&self) -> Result<Option<JsonB>> {
        if *self == Cursor::begin(self.before.clone()) {
            return Ok(None);
        }
        let place =
            serde_json::to_value(self).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(Some(JsonB(place)))
    }

    /// Moves on to a table, unless it is there already.
    pub fn move_to(&mut self, table: TableKind) {
        if self.table != table {
            self.table = table;
            self.scan_position = None;
        }
    }

    /// Goes back to the beginning, to scan all rows once more.
    pub fn restart(&mut self) {
        *self = Cursor::begin(std::mem::take(&mut self.before));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BEFORE: &str = "2026-10-25 00:00:00+00";

    fn resumed(place: Value) -> Cursor {
        Cursor::resume(Some(JsonB(place)), BEFORE.to_owned())
    }

    fn new() -> Cursor {
        Cursor::begin(BEFORE.to_owned())
    }

    fn place(cursor: &Cursor) -> Option<Value> {
        cursor.place().unwrap().map(|JsonB(place)| place)
    }

    /// As a step stores it.
    fn stored() -> Value {
        json!({
            "before": BEFORE,
            "table": "conversions",
            "scan_position": {"id": "16384", "done": false, "since": null},
            "has_rows_left": true,
            "failed": {"state": "P0001", "message": "kept", "detail": "Rows", "hint": "Remove it."},
            "is_over": false,
        })
    }

    #[test]
    fn a_step_resumes_where_the_last_one_stopped() {
        let cursor = resumed(stored());
        assert_eq!(cursor.table, TableKind::Conversions);
        assert_eq!(cursor.scan_position, Some(stored()["scan_position"].clone()));
        assert!(cursor.has_rows_left && !cursor.is_over);
        assert_eq!(cursor.failed.as_ref().map(|failed| failed.message.as_str()), Some("kept"));
        assert_eq!(place(&cursor), Some(stored()));
        for table in [TableKind::COMPANIONS.as_slice(), &[TableKind::Actions]].concat() {
            let mut cursor = Cursor { failed: None, is_over: true, ..cursor.clone() };
            cursor.move_to(table);
            let place = place(&cursor).unwrap();
            assert_eq!(place["table"], table.name());
            assert_eq!(resumed(place), cursor);
        }
    }

    #[test]
    fn a_position_is_kept_within_its_table_only() {
        let mut cursor = resumed(stored());
        cursor.move_to(TableKind::Conversions);
        assert_eq!(cursor, resumed(stored()));
        cursor.move_to(TableKind::Items);
        assert_eq!((cursor.table, &cursor.scan_position), (TableKind::Items, &None));
        assert!(cursor.has_rows_left && cursor.failed.is_some());
    }

    #[test]
    fn the_beginning_has_no_place() {
        assert_eq!(place(&new()), None);
        assert_eq!(Cursor::resume(None, BEFORE.to_owned()), new());
        let mut cursor = resumed(stored());
        cursor.restart();
        assert_eq!(cursor, new());
    }

    #[test]
    fn a_place_of_another_instant_begins_anew() {
        let mut earlier = stored();
        earlier["before"] = json!("2026-10-24 00:00:00+00");
        assert_eq!(resumed(earlier), new());
    }

    #[test]
    fn a_place_in_another_form_begins_anew() {
        let failed = &stored()["failed"];
        let mut others = vec![
            // Of 0.1.0.
            json!({"before": "2026-10-25T00:00:00+00:00", "id": "16384", "done": true,
                "last_gone": BEFORE, "since": null}),
            // Of 0.2.0 before its release.
            json!({"before": BEFORE, "id": "16384", "done": true, "last_gone": BEFORE, "since": null}),
            json!({"before": BEFORE, "companion": "items", "place": null, "left": true, "failed": failed}),
            json!({"before": BEFORE, "failed": failed, "over": true}),
            // Of no version.
            json!(null),
            json!([]),
            json!("text"),
            json!({}),
        ];
        for (key, value) in [
            ("table", json!("rollups")),
            ("failed", json!("message")),
            ("is_over", json!(null)),
            ("new", json!(1)),
        ] {
            let mut other = stored();
            other[key] = value;
            others.push(other);
        }
        for other in others {
            assert_eq!(resumed(other.clone()), new(), "{other}");
        }
    }
}
