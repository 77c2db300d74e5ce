//! The columns of our tables, a list a table. `CREATE TABLE`, comments, the order of COPY and
//! comparison follow from it, and tests compare the documentation with it.
//!
//! `build.rs` includes this folder, so it uses nothing but the standard library.

mod actions;
mod column;
mod conversions;
mod visits;

pub use actions::ACTIONS;
pub use column::{Column, Source};
pub use conversions::{CONVERSIONS, ITEMS};
pub use visits::VISITS;

/// What a row of a table is. A destination has rows of actions; the others are its companions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableKind {
    Actions,
    Visits,
    Conversions,
    Items,
}

impl TableKind {
    /// The companions.
    pub const COMPANIONS: [TableKind; 3] =
        [TableKind::Visits, TableKind::Conversions, TableKind::Items];

    /// As SQL and `matomo.companions` name it.
    pub const fn name(self) -> &'static str {
        match self {
            TableKind::Actions => "actions",
            TableKind::Visits => "visits",
            TableKind::Conversions => "conversions",
            TableKind::Items => "items",
        }
    }

    /// The companion of this name.
    pub fn companion(name: &str) -> Option<TableKind> {
        TableKind::COMPANIONS.into_iter().find(|kind| kind.name() == name)
    }

    /// The columns of our tables, in the order of their template.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            TableKind::Actions => ACTIONS,
            TableKind::Visits => VISITS,
            TableKind::Conversions => CONVERSIONS,
            TableKind::Items => ITEMS,
        }
    }

    /// The columns that tell rows apart, the first of all columns; besides them a unique index may have
    /// [`TableKind::time`], `idsite` and `idvisit`.
    pub const fn identity(self) -> &'static [&'static str] {
        match self {
            TableKind::Actions | TableKind::Conversions => &["action_id"],
            TableKind::Visits => &["idvisit"],
            TableKind::Items => &["action_id", "place"],
        }
    }

    /// The column by whose time rows are partitioned and removed.
    pub const fn time(self) -> &'static str {
        match self {
            TableKind::Actions => "action_timestamp",
            TableKind::Visits => "lastaction",
            TableKind::Conversions | TableKind::Items => "converted",
        }
    }

    /// The columns that a table of this kind may have: those of ours, and for actions those of a visit
    /// that a user may add.
    pub fn supported(self) -> impl Iterator<Item = &'static Column> + Clone {
        let of_visit: &[Column] = if self == TableKind::Actions { VISITS } else { &[] };
        let ours = self.columns();
        let is_ours = move |column: &&Column| ours.iter().any(|own| own.name == column.name);
        ours.iter().chain(of_visit.iter().filter(move |column| !is_ours(column)))
    }

    /// Whether every visit with actions has rows in a table of this kind.
    pub fn is_of_every_visit(self) -> bool {
        matches!(self, TableKind::Actions | TableKind::Visits)
    }

    /// Whether a table of this kind needs a column.
    pub fn needs(self, column: &str) -> bool {
        self.identity().contains(&column) || ["idsite", "idvisit", self.time()].contains(&column)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_name_stands_once_and_has_a_comment() {
        for kind in
            [TableKind::Actions, TableKind::Visits, TableKind::Conversions, TableKind::Items]
        {
            let columns = kind.columns();
            let all: BTreeSet<_> = columns.iter().map(|column| column.name).collect();
            assert_eq!(all.len(), columns.len());
            for column in columns {
                assert!(!column.comment.is_empty(), "{}", column.name);
            }
            let first: Vec<_> = columns.iter().map(|column| column.name).collect();
            assert!(first.starts_with(kind.identity()), "{kind:?}");
            assert!(first.contains(&kind.time()), "{kind:?}");
        }
    }

    /// The names in the first cells of the documentation's table of columns: `dimension1` …
    /// `dimension10` stands for all between.
    fn documented() -> Vec<String> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let pages = ["docs/tables.md", "README.md"].map(|page| root.join(page));
        let texts = pages.map(|page| std::fs::read_to_string(page).unwrap_or_default());
        let tables: Vec<_> =
            texts.iter().filter_map(|text| text.split_once("\n| `action_id` |")).collect();
        let [(_, rest)] = tables[..] else { panic!("{} tables of columns", tables.len()) };
        let table = format!("| `action_id` |{rest}");
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        let cells = rows.map(|line| line.split('|').nth(1).unwrap());
        let mut found = Vec::new();
        for cell in cells {
            let mut names: Vec<_> = cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            if cell.contains('…') {
                names = (1..=10).map(|n| format!("dimension{n}")).collect();
            }
            found.extend(names);
        }
        found
    }

    #[test]
    fn the_documentation_has_each_column_once() {
        let mut documented = documented();
        let mut all: Vec<_> = ACTIONS.iter().map(|column| column.name.to_owned()).collect();
        documented.sort();
        all.sort();
        assert_eq!(documented, all);
    }
}
