//! The columns of a destination, in one list. `CREATE TABLE`, comments, the order of COPY and
//! comparison follow from it, and tests compare the documentation with it.
//!
//! `build.rs` includes this file, so it uses nothing but the standard library.

/// A column of the tables that we make.
pub struct Column {
    pub name: &'static str,
    /// Its type and constraints in our tables, as `CREATE TABLE` takes them.
    #[allow(dead_code, reason = "for build.rs")]
    pub definition: &'static str,
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
    /// `timestamp` of the action, corrected by the times of its visit.
    Instant,
    CustomVariables,
    /// All custom dimensions as an object.
    CustomDimensions,
    /// The custom dimension of this number.
    Dimension(u32),
    Experiments,
}

impl Source {
    /// Whether the value is the same in all rows of a visit.
    pub const fn is_of_visit(self) -> bool {
        use Source::*;
        matches!(self, Visit(_) | SiteId | VisitId | FirstDay | Experiments)
    }
}

const fn column(
    name: &'static str,
    definition: &'static str,
    source: Source,
    comment: &'static str,
) -> Column {
    Column { name, definition, source, comment }
}

use Source::*;

/// In the order of the template `matomo_action`, which COPY uses too.
#[rustfmt::skip]
pub const COLUMNS: &[Column] = &[
    column("action_id", "text NOT NULL", ActionId,
        "idVisit, an underscore, and the place of the action in its visit, from 0"),
    column("idsite", "text", SiteId, "ID of the site (idSite)"),
    column("idvisit", "text", VisitId, "ID of the visit (idVisit), unique within one Matomo"),
    column("actions", "text", Visit("actions"),
        "Number of actions of the visit as Matomo counts them: page views, downloads, outlinks, searches and events"),
    column("country", "text", Visit("country"),
        "Country of the visitor, in the language of the token's user or of matomo.language"),
    column("region", "text", Visit("region"), "Region of the visitor"),
    column("city", "text", Visit("city"), "City of the visitor"),
    column("operatingsystemname", "text", Visit("operatingSystemName"),
        "Operating system of the visitor"),
    column("devicemodel", "text", Visit("deviceModel"), "Model of the visitor's device"),
    column("devicebrand", "text", Visit("deviceBrand"), "Brand of the visitor's device"),
    column("visitduration", "text", Visit("visitDuration"), "Duration of the visit, in seconds"),
    column("dayssincefirstvisit", "text", Visit("daysSinceFirstVisit"),
        "Days since the visitor's first visit"),
    column("visitortype", "text", Visit("visitorType"), "new, returning or returningCustomer"),
    column("sitename", "text", Visit("siteName"), "Name of the site"),
    column("userid", "text", Visit("userId"), "User ID that the site gave the visitor"),
    column("serverdateprettyfirstaction", "date", FirstDay,
        "UTC date of the first action of the visit"),
    column("action_type", "text", ActionOr("type", ""),
        "action (page view), event, download, outlink, search, goal, ecommerceOrder, ecommerceAbandonedCart, or 13 (content)"),
    column("action_eventcategory", "text", ActionOr("eventCategory", ""),
        "Category of the event, empty for other actions"),
    column("action_eventaction", "text", ActionOr("eventAction", ""),
        "Action of the event, empty for other actions"),
    column("action_eventname", "text", ActionOr("eventName", ""),
        "Name of the event, empty where it has none"),
    column("action_eventvalue", "numeric", EventValue, "Value of the event, 0 where it has none"),
    column("action_timespent", "text", ActionOr("timeSpent", "0"),
        "Time spent on the page, in seconds, 0 where Matomo does not tell"),
    column("action_timestamp", "timestamptz NOT NULL DEFAULT pg_catalog.now()", Instant,
        "When the action happened (see matomo.action_time)"),
    column("usercustomproperties", "json", CustomVariables,
        "Custom variables by name, the action's before the visit's"),
    column("usercustomdimensions", "json", CustomDimensions,
        "Custom dimensions that have a value: {\"dimension1\": ...}, the action's before the visit's"),
    column("dimension1", "text", Dimension(1), "Custom dimension 1, as in usercustomdimensions"),
    column("dimension2", "text", Dimension(2), "Custom dimension 2, as in usercustomdimensions"),
    column("dimension3", "text", Dimension(3), "Custom dimension 3, as in usercustomdimensions"),
    column("dimension4", "text", Dimension(4), "Custom dimension 4, as in usercustomdimensions"),
    column("dimension5", "text", Dimension(5), "Custom dimension 5, as in usercustomdimensions"),
    column("dimension6", "text", Dimension(6), "Custom dimension 6, as in usercustomdimensions"),
    column("dimension7", "text", Dimension(7), "Custom dimension 7, as in usercustomdimensions"),
    column("dimension8", "text", Dimension(8), "Custom dimension 8, as in usercustomdimensions"),
    column("dimension9", "text", Dimension(9), "Custom dimension 9, as in usercustomdimensions"),
    column("dimension10", "text", Dimension(10), "Custom dimension 10, as in usercustomdimensions"),
    column("action_url", "text", Action("url"), "URL of the page, download or outlink"),
    column("sitesearchkeyword", "text", Action("siteSearchKeyword"), "Keyword of a site search"),
    column("action_title", "text", Action("title"), "Title of the page or of the action"),
    column("visitorid", "text", Visit("visitorId"), "ID of the visitor, a hexadecimal number"),
    column("referrertype", "text", Visit("referrerType"),
        "direct, search, website, social or campaign"),
    column("referrername", "text", Visit("referrerName"), "Name of the referrer"),
    column("resolution", "text", Visit("resolution"), "Screen resolution of the visitor"),
    column("experiments", "jsonb", Experiments, "A/B tests that the visit took part in"),];

/// The position of a column in [`COLUMNS`].
///
/// # Panics
/// If there is no such column; in constants, at compile time.
pub const fn position(name: &str) -> usize {
    let mut n = 0;
    while n < COLUMNS.len() && !is_same(COLUMNS[n].name, name) {
        n += 1;
    }
    assert!(n < COLUMNS.len(), "no such column");
    n
}

/// Whether two texts are equal; `==` is not for constants.
pub const fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut n = 0;
    while n < a.len() && n < b.len() && a[n] == b[n] {
        n += 1;
    }
    n == a.len() && n == b.len()
}

/// The names of all columns.
pub fn names() -> impl Iterator<Item = &'static str> + Clone {
    COLUMNS.iter().map(|column| column.name)
}

/// The columns whose values are the same in all rows of a visit.
pub fn of_visit() -> impl Iterator<Item = &'static Column> + Clone {
    COLUMNS.iter().filter(|column| column.source.is_of_visit())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_name_stands_once_and_has_a_comment() {
        let all: BTreeSet<_> = names().collect();
        assert_eq!(all.len(), COLUMNS.len());
        for column in COLUMNS {
            assert!(!column.comment.is_empty(), "{}", column.name);
            assert_eq!(COLUMNS[position(column.name)].name, column.name);
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
        let mut all: Vec<_> = names().map(str::to_owned).collect();
        documented.sort();
        all.sort();
        assert_eq!(documented, all);
    }
}
