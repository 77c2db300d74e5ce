//! The columns that a table has, of those that we know. Pure.

use std::ops::Range;

#[cfg(test)]
use crate::matomo::keys::{ACTION_KEYS, ITEM_KEYS, VISIT_KEYS};
use crate::matomo::keys::{ACTION_PLACES, ITEM_PLACES, VISIT_PLACES};
use crate::rows::column_type::ColumnType;
#[cfg(test)]
use crate::rows::columns::ACTIONS;
use crate::rows::columns::{Column, Source, TableKind};

/// A column of a table.
#[derive(Debug, Clone)]
pub struct Slot {
    pub column: &'static Column,
    pub kind: ColumnType,
    /// Where its key stands among the keys of a visit, an action or an item, if it takes one.
    pub key: Option<usize>,
}

/// The known columns of a table, in the order in which rows have their cells.
#[derive(Debug, Clone)]
pub struct Layout {
    pub kind: TableKind,
    slots: Vec<Slot>,
    runs: Vec<Range<usize>>,
}

impl Layout {
    /// A table of this kind with these columns.
    pub fn new(
        of: TableKind,
        columns: impl IntoIterator<Item = (&'static Column, ColumnType)>,
    ) -> Layout {
        let slot = |(column, kind): (&'static Column, ColumnType)| {
            let key = match column.source {
                Source::Visit(key) => VISIT_PLACES.find(key),
                Source::Action(key) | Source::ActionOr(key, _) => ACTION_PLACES.find(key),
                Source::Item(key) => ITEM_PLACES.find(key),
                _ => None,
            };
            // Without its value a row could not be found: Postgres refuses what does not fit.
            let is_key = of.identity().contains(&column.name) || column.source == Source::VisitId;
            let kind = if is_key { ColumnType::Other } else { kind };
            Slot { column, kind, key }
        };
        let slots: Vec<_> = columns.into_iter().map(slot).collect();
        let is_of_visit = |slot: &Slot| slot.column.source.is_of_visit();
        let mut begin = 0;
        let runs = slots.chunk_by(|a, b| is_of_visit(a) && is_of_visit(b)).map(|run| {
            begin += run.len();
            begin - run.len()..begin
        });
        let runs = runs.collect();
        Layout { kind: of, slots, runs }
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.slots.len()
    }

    /// The columns.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.slots.iter().map(|slot| slot.column.name)
    }

    /// The place of a column, if the table has it.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.names().position(|known| known == name)
    }

    /// The columns whose values a list of visits without their actions tells.
    pub fn listed(&self) -> impl Iterator<Item = &Slot> + Clone {
        self.slots.iter().filter(|slot| slot.column.source.is_listed())
    }

    /// Runs of adjacent columns of the visit, and single columns of the action, in order.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> + Clone {
        self.runs.iter().cloned()
    }
}

#[cfg(test)]
impl Layout {
    /// The layout of a table with these definitions of its columns.
    pub fn defined(
        kind: TableKind,
        columns: impl Iterator<Item = (&'static Column, &'static str)>,
    ) -> Layout {
        Layout::new(
            kind,
            columns.map(|(column, definition)| {
                let name = match definition.split(' ').next() {
                    Some("integer") => "int4",
                    Some("bigint") => "int8",
                    Some("double") => "float8",
                    Some("boolean") => "bool",
                    Some("text[]") => "_text",
                    name => name.unwrap_or_default(),
                };
                let kind = ColumnType::of(name, -1);
                assert_ne!(kind, ColumnType::Other, "{definition}");
                (column, kind)
            }),
        )
    }

    /// The layout of our tables of a kind.
    pub fn typed(kind: TableKind) -> Layout {
        Layout::defined(kind, kind.columns().iter().map(|column| (column, column.definition)))
    }

    /// The layout of the Node tool's tables.
    pub fn of_node() -> Layout {
        Layout::defined(
            TableKind::Actions,
            ACTIONS.iter().filter_map(|column| Some((column, column.in_node?))),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = &'static Column> {
        [TableKind::Actions, TableKind::Visits, TableKind::Conversions, TableKind::Items]
            .into_iter()
            .flat_map(TableKind::columns)
    }

    #[test]
    fn every_key_that_a_column_takes_is_read() {
        let all = Layout::new(TableKind::Actions, all().map(|column| (column, ColumnType::Text)));
        for slot in all.slots() {
            let takes = matches!(
                slot.column.source,
                Source::Visit(_) | Source::Action(_) | Source::ActionOr(..) | Source::Item(_)
            );
            assert_eq!(slot.key.is_some(), takes, "{}", slot.column.name);
        }
    }

    #[test]
    fn every_key_that_is_read_has_a_column() {
        let sources: Vec<_> = all().map(|column| column.source.key()).collect();
        for key in VISIT_KEYS.iter().chain(&ACTION_KEYS).chain(&ITEM_KEYS) {
            // The items have a table of their own.
            assert!(*key == "itemDetails" || sources.contains(&Some(*key)), "{key}");
        }
    }
}
