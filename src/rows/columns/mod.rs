//! The columns of our tables, a list a table. `CREATE TABLE`, comments, the order of COPY and
//! comparison follow from it, and tests compare the documentation with it.
//!
//! `build.rs` includes this folder, so it uses nothing but the standard library.

mod actions;
mod conversions;
mod visits;

pub use actions::ACTIONS;
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

/// A column of the tables that we make.
#[derive(Debug)]
pub struct Column {
    pub name: &'static str,
    /// Its type and constraints in our tables, as `CREATE TABLE` takes them.
    #[allow(dead_code, reason = "for build.rs")]
    pub definition: &'static str,
    /// The same in the Node tool's tables, if they have it.
    #[allow(dead_code, reason = "for build.rs")]
    pub in_node: Option<&'static str>,
    pub source: Source,
    #[allow(dead_code, reason = "for build.rs")]
    pub comment: &'static str,
}

/// Where the value of a column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A key of the visit.
    Visit(&'static str),
    /// A key of the action.
    Action(&'static str),
    /// A key of the item.
    Item(&'static str),
    /// The place of the item in `itemDetails`.
    Place,
    /// A key of the action, and the value if the action does not have it.
    ActionOr(&'static str, &'static str),
    /// `eventValue` as a number.
    EventValue,
    /// `idVisit` and the action's place in the visit.
    ActionId,
    /// `idSite`, or the site that was asked for.
    SiteId,
    VisitId,
    /// The UTC date of `firstActionTimestamp`.
    FirstDay,
    /// `firstActionTimestamp`, else `lastActionTimestamp`; as `action_timestamp` has it.
    First,
    /// `lastActionTimestamp`, else `firstActionTimestamp`; as `action_timestamp` has it.
    Last,
    /// The day of `lastActionTimestamp` in the site's timezone. (`serverDate` is its UTC date.)
    Day,
    /// `timestamp` of the action, corrected by the times of its visit.
    Instant,
    CustomVariables,
    /// All custom dimensions as an object.
    CustomDimensions,
    /// The action's own custom dimensions as an object.
    ActionDimensions,
    /// The custom dimension of this number.
    Dimension(u32),
    Experiments,
    /// The number of actions of type `action`.
    PageViews,
    /// `truncatedActionsCount`, 0 where it is missing.
    Truncated,
    /// `url` of the first action of type `action`.
    EntryUrl,
    /// Its `title`.
    EntryTitle,
    /// `url` of the last action of type `action`, unless Matomo cut the actions.
    ExitUrl,
    /// Its `title`.
    ExitTitle,
    /// The visit's own custom dimensions as an object.
    VisitDimensions,
    /// The visit's own custom variables as an object.
    VisitVariables,
    /// Unknown keys of the visit, and values of the visit that its columns cannot hold.
    VisitExtra,
    /// Unknown keys of the item, and values of it that its columns cannot hold.
    ItemExtra,
    /// Unknown keys of the action, and values of the row that its columns cannot hold.
    Extra,
}

impl Source {
    /// Whether the value is the same in all rows of a visit.
    pub const fn is_of_visit(self) -> bool {
        use Source::*;
        match self {
            Visit(_) | SiteId | VisitId | FirstDay | First | Last | Day | Experiments
            | PageViews | Truncated | EntryUrl | EntryTitle | ExitUrl | ExitTitle
            | VisitDimensions | VisitVariables | VisitExtra => true,
            Action(_) | ActionOr(..) | EventValue | ActionId | Instant | CustomVariables
            | CustomDimensions | ActionDimensions | Dimension(_) | Item(_) | Place | ItemExtra
            | Extra => false,
        }
    }

    /// Whether a listing of visits without their actions contains the value. `extra` may hold values that
    /// such a listing lacks.
    pub const fn is_listed(self) -> bool {
        use Source::*;
        self.is_of_visit()
            && !matches!(
                self,
                PageViews | Truncated | EntryUrl | EntryTitle | ExitUrl | ExitTitle | VisitExtra
            )
    }

    /// The key in Matomo whose value the column holds, perhaps in another form.
    pub const fn key(self) -> Option<&'static str> {
        match self {
            Source::Visit(key) | Source::Action(key) | Source::ActionOr(key, _) => Some(key),
            Source::Item(key) => Some(key),
            Source::EventValue => Some("eventValue"),
            Source::SiteId => Some("idSite"),
            Source::First | Source::FirstDay => Some("firstActionTimestamp"),
            Source::Last | Source::Day => Some("lastActionTimestamp"),
            Source::Instant => Some("timestamp"),
            Source::Truncated => Some("truncatedActionsCount"),
            Source::CustomVariables | Source::VisitVariables => Some("customVariables"),
            Source::Experiments => Some("experiments"),
            _ => None,
        }
    }
}

/// A column that the Node tool's tables have, too, perhaps with another type.
const fn old(
    name: &'static str,
    definition: &'static str,
    in_node: &'static str,
    source: Source,
    comment: &'static str,
) -> Column {
    Column { name, definition, in_node: Some(in_node), source, comment }
}

/// Any other column.
const fn new(
    name: &'static str,
    definition: &'static str,
    source: Source,
    comment: &'static str,
) -> Column {
    Column { name, definition, in_node: None, source, comment }
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
