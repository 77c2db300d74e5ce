//! A column: its name, its type, and where its value comes from.

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
pub const fn old(
    name: &'static str,
    definition: &'static str,
    in_node: &'static str,
    source: Source,
    comment: &'static str,
) -> Column {
    Column { name, definition, in_node: Some(in_node), source, comment }
}

/// Any other column.
pub const fn new(
    name: &'static str,
    definition: &'static str,
    source: Source,
    comment: &'static str,
) -> Column {
    Column { name, definition, in_node: None, source, comment }
}
