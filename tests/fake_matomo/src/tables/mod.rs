//! The four tables that a correct sync fills, computed from the model and not from the JSON:
//! actions, visits, conversions and items, with values as the typed columns show them.

pub mod columns;
mod facts;
mod values;

use crate::action::{Action, Kind};
use crate::oracle::{ActionTime, COLUMNS, OracleRow, rows};
use crate::visit::Visit;
use crate::world::{Site, World};
use crate::zone::{Zone, utc};
use chrono::NaiveDate;
use columns::{
    CONVERSIONS, Column, ITEMS, LEFT_OUT_OF_ACTIONS, LEFT_OUT_OF_VISITS, MORE_OF_ACTIONS, Origin,
    TYPED_OF_ACTIONS, Type, VISITS,
};
use facts::{Before, Facts, is_dimension, variables};
use std::sync::LazyLock;
use values::{Misfit, Said, jsonb_of, numeric, object, typed};

/// A table: its columns in order, and its rows, each value as `column::text` shows it with
/// `TimeZone = 'UTC'` and `DateStyle = 'ISO'`.
#[derive(Clone, Debug, PartialEq)]
pub struct OracleTable {
    pub columns: &'static [&'static str],
    pub rows: Vec<Vec<Option<String>>>,
}

impl OracleTable {
    /// The value of a row's column.
    ///
    /// # Panics
    /// When there is no such column.
    pub fn get(&self, row: usize, column: &str) -> Option<&str> {
        let place = self.columns.iter().position(|c| *c == column);
        let place = place.unwrap_or_else(|| panic!("no such column: {column}"));
        self.rows[row][place].as_deref()
    }
}

/// The four tables of a destination.
#[derive(Clone, Debug, PartialEq)]
pub struct OracleTables {
    pub actions: OracleTable,
    pub visits: OracleTable,
    pub conversions: OracleTable,
    pub items: OracleTable,
}

type Row = Vec<Option<String>>;

fn names(of: &[Column]) -> Vec<&'static str> {
    of.iter().map(|column| column.name).collect()
}

static OF_ACTIONS: LazyLock<Vec<&str>> =
    LazyLock::new(|| COLUMNS.into_iter().chain(names(&MORE_OF_ACTIONS)).collect());
static OF_VISITS: LazyLock<Vec<&str>> = LazyLock::new(|| names(&VISITS));
static OF_CONVERSIONS: LazyLock<Vec<&str>> = LazyLock::new(|| names(&CONVERSIONS));
static OF_ITEMS: LazyLock<Vec<&str>> = LazyLock::new(|| names(&ITEMS));

impl World {
    /// The rows of all four tables for these site-days, sorted by the visits' last action and id,
    /// then by the action's index. See `oracle` for which rows these are.
    pub fn oracle_tables(
        &self,
        site: i64,
        first: NaiveDate,
        last: NaiveDate,
        time: ActionTime,
    ) -> OracleTables {
        let table = |columns: &'static [&'static str]| OracleTable { columns, rows: Vec::new() };
        let mut tables = OracleTables {
            actions: table(OF_ACTIONS.as_slice()),
            visits: table(OF_VISITS.as_slice()),
            conversions: table(OF_CONVERSIONS.as_slice()),
            items: table(OF_ITEMS.as_slice()),
        };
        let site = self.site(site);
        for visit in site.within(first, last, self.now.seconds()) {
            let scene = Scene::new(self, site, visit, time);
            scene.add(&rows(self, site, scene.zone, visit, time), &mut tables);
        }
        tables
    }
}

/// A visit and what Matomo sends for it and its actions.
struct Scene<'a> {
    zone: Zone,
    time: ActionTime,
    visit: &'a Visit,
    said: Facts,
    actions: Vec<(&'a Action, Facts)>,
}

impl<'a> Scene<'a> {
    fn new(world: &World, site: &Site, visit: &'a Visit, time: ActionTime) -> Scene<'a> {
        let zone = site.zone();
        let key = "actionDetails".to_owned();
        let none = visit.extra.contains_key(&key) || visit.omit.contains(&key);
        let sent = if none { 0 } else { world.max_actions };
        let mut before = Before::default();
        let mut actions = Vec::new();
        for (index, action) in visit.actions.iter().take(sent).enumerate() {
            if matches!(action.kind, Kind::Page | Kind::Search { .. }) {
                before = Before { position: before.position + 1, page: Some(action) };
            }
            actions.push((action, facts::action(visit, index, action, before)));
        }
        Scene { zone, time, visit, said: facts::visit(world, site, zone, visit), actions }
    }

    /// Adds the visit's rows; `rows` holds the 43 text columns of its actions.
    fn add(&self, rows: &[OracleRow], tables: &mut OracleTables) {
        tables.visits.rows.push(self.of_visit());
        for ((action, said), row) in self.actions.iter().zip(rows) {
            tables.actions.rows.push(self.of_action(said, row));
            let kind = said.get("type").as_text().unwrap_or_default();
            if !matches!(kind.as_str(), "goal" | "ecommerceOrder" | "ecommerceAbandonedCart") {
                continue;
            }
            tables.conversions.rows.push(self.of_conversion(said, row));
            for (place, item) in facts::items(action).iter().enumerate() {
                tables.items.rows.push(self.of_item(item, place, row));
            }
        }
    }

    /// The site-day of the last action.
    fn day(&self) -> Option<String> {
        Some(self.zone.day(self.last()).to_string())
    }

    fn of_visit(&self) -> Row {
        let mut misfits = Vec::new();
        let cut = self.said.get("truncatedActionsCount");
        let is_cut = !matches!(cut.as_text().as_deref(), None | Some("" | "0"));
        let pages = || self.actions.iter().map(|a| &a.1).filter(|said| is_page(said));
        let entry = |key: &str| pages().next().and_then(|page| page.get(key).as_text());
        let exit = |key: &str| {
            let page = pages().next_back().filter(|_| !is_cut);
            page.and_then(|page| page.get(key).as_text())
        };
        let mut row =
            fill(&VISITS, &self.said, &Facts::default(), &mut misfits, |name| match name {
                "firstaction" => Some(self.instant(self.first())),
                "lastaction" => Some(self.instant(self.last())),
                "day" => self.day(),
                "entryurl" => entry("url"),
                "entrytitle" => entry("title"),
                "exiturl" => exit("url"),
                "exittitle" => exit("title"),
                "pageviews" => Some(pages().count().to_string()),
                "dimensions" => Some(self.said.dimensions()),
                "customvariables" => Some(variables(&self.visit.custom_variables)),
                "experiments" => match self.said.get("experiments") {
                    Said::Null => None,
                    tests => Some(tests.as_jsonb()),
                },
                _ => None,
            });
        if cut == &Said::Null {
            set(&mut row, &OF_VISITS, "truncatedactionscount", Some("0".to_owned()));
        }
        set(&mut row, &OF_VISITS, "extra", extra(&self.said, &KNOWN_OF_VISITS, misfits));
        row
    }

    /// The time of the first action, else of the last one.
    fn first(&self) -> i64 {
        self.sent("firstActionTimestamp").unwrap_or_else(|| self.last())
    }

    /// The time of the last action.
    fn last(&self) -> i64 {
        // Also sent as `serverTimestamp`.
        self.sent("lastActionTimestamp").unwrap_or(self.visit.last)
    }

    /// The value under a key, if it is a whole number.
    fn sent(&self, key: &str) -> Option<i64> {
        typed(self.said.get(key), Type::BigInt).ok().flatten()?.parse().ok()
    }

    /// An instant as `action_timestamp` shows it.
    fn instant(&self, at: i64) -> String {
        let offset = if self.time == ActionTime::AsSent { self.zone.offset(at) } else { 0 };
        format!("{}+00", utc(at + offset))
    }

    fn of_action(&self, said: &Facts, row: &OracleRow) -> Row {
        let mut misfits: Vec<_> = other_title(said).into_iter().collect();
        let mut all: Row = row.0.to_vec();
        for column in TYPED_OF_ACTIONS {
            let place = place(&OF_ACTIONS, column.name);
            let is_absent =
                column.from == Origin::Action("timeSpent") && said.get("timeSpent") == &Said::Null;
            if !is_absent {
                all[place] = value(&column, &self.said, said, &mut misfits);
            }
        }
        let sent = said.get("eventValue");
        if sent.as_text().is_some_and(|text| !text.is_empty() && numeric(&text).is_none()) {
            misfits.push(("eventValue".to_owned(), sent.as_jsonb()));
        }
        let value = place(&OF_ACTIONS, "action_eventvalue");
        all[value] = all[value].as_deref().and_then(numeric);
        for name in ["usercustomproperties", "usercustomdimensions"] {
            let place = place(&OF_ACTIONS, name);
            all[place] = all[place].as_deref().map(jsonb_of);
        }
        let tests = self.said.get("experiments");
        let experiments = Some(tests.as_jsonb()).filter(|_| tests != &Said::Null);
        all[place(&OF_ACTIONS, "experiments")] = experiments;
        let more = fill(&MORE_OF_ACTIONS, &self.said, said, &mut misfits, |name| match name {
            "day" => self.day(),
            _ => None,
        });
        all.extend(more);
        set(&mut all, &OF_ACTIONS, "extra", extra(said, &KNOWN_OF_ACTIONS, misfits));
        all
    }

    fn of_conversion(&self, said: &Facts, row: &OracleRow) -> Row {
        let mut misfits: Vec<_> = other_title(said).into_iter().collect();
        let mut row = fill(&CONVERSIONS, &self.said, said, &mut misfits, |name| match name {
            "action_id" => row.get("action_id").map(str::to_owned),
            "converted" => row.get("action_timestamp").map(str::to_owned),
            "day" => self.day(),
            "dimensions" => Some(said.dimensions()),
            _ => None,
        });
        set(&mut row, &OF_CONVERSIONS, "extra", extra(said, &KNOWN_OF_ACTIONS, misfits));
        row
    }

    fn of_item(&self, said: &Facts, place: usize, row: &OracleRow) -> Row {
        let mut misfits = Vec::new();
        let mut row = fill(&ITEMS, &self.said, said, &mut misfits, |name| match name {
            "action_id" => row.get("action_id").map(str::to_owned),
            "place" => Some(place.to_string()),
            "converted" => row.get("action_timestamp").map(str::to_owned),
            _ => None,
        });
        set(&mut row, &OF_ITEMS, "extra", extra(said, &keys(ITEMS.iter()), misfits));
        row
    }
}

/// The title of the page where it is not that of the action.
fn other_title(said: &Facts) -> Option<(String, String)> {
    let key = "pageTitle";
    let text = said.get(key).as_text().filter(|text| !text.is_empty());
    let is_other = text.is_some() && text != said.get("title").as_text();
    is_other.then(|| (key.to_owned(), said.get(key).as_jsonb()))
}

fn is_page(said: &Facts) -> bool {
    said.get("type") == &Said::Text("action".to_owned())
}

fn place(of: &[&str], name: &str) -> usize {
    of.iter().position(|column| *column == name).unwrap_or_default()
}

fn set(row: &mut Row, of: &[&str], name: &str, value: Option<String>) {
    row[place(of, name)] = value;
}

/// The values of the columns; `made` computes those that are not simply a key's value.
fn fill(
    columns: &[Column],
    visit: &Facts,
    inner: &Facts,
    misfits: &mut Vec<(String, String)>,
    made: impl Fn(&str) -> Option<String>,
) -> Row {
    let of = |column: &Column| match column.from {
        Origin::Made => made(column.name),
        _ => value(column, visit, inner, misfits),
    };
    columns.iter().map(of).collect()
}

/// The value of a column that holds a key's value. One that does not fit becomes NULL and is
/// noted.
fn value(
    column: &Column,
    visit: &Facts,
    inner: &Facts,
    misfits: &mut Vec<(String, String)>,
) -> Option<String> {
    let (said, key) = match column.from {
        Origin::Visit(key) => (visit.get(key), key),
        Origin::Action(key) | Origin::Item(key) => (inner.get(key), key),
        Origin::Made => return None,
    };
    typed(said, column.ty).unwrap_or_else(|Misfit| {
        misfits.push((key.to_owned(), said.as_jsonb()));
        None
    })
}

/// Keys that no Matomo sends, and values that did not fit.
fn extra(said: &Facts, known: &[&str], misfits: Vec<(String, String)>) -> Option<String> {
    let is_unknown = |key: &str| !known.contains(&key) && !is_dimension(key);
    let unknown = said.iter().filter(|(key, said)| is_unknown(key) && *said != Said::Null);
    let mut all: Vec<_> = unknown.map(|(key, said)| (key.clone(), said.as_jsonb())).collect();
    all.extend(misfits);
    (!all.is_empty()).then(|| object(all))
}

fn keys<'a>(columns: impl Iterator<Item = &'a Column>) -> Vec<&'static str> {
    let key = |column: &Column| match column.from {
        Origin::Visit(key) | Origin::Action(key) | Origin::Item(key) => Some(key),
        Origin::Made => None,
    };
    columns.filter_map(key).collect()
}

/// Keys of a visit that have a column, or none on purpose.
static KNOWN_OF_VISITS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let others = [
        "firstActionTimestamp",
        "lastActionTimestamp",
        "actionDetails",
        "customVariables",
        "experiments",
    ];
    let columns = keys(VISITS.iter());
    columns.into_iter().chain(others).chain(LEFT_OUT_OF_VISITS).collect()
});

/// The same for an action.
static KNOWN_OF_ACTIONS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let others = [
        "type",
        "title",
        "url",
        "timestamp",
        "timeSpent",
        "eventCategory",
        "eventAction",
        "eventName",
        "eventValue",
        "siteSearchKeyword",
        "customVariables",
        "itemDetails",
    ];
    let columns = keys(MORE_OF_ACTIONS.iter().chain(&CONVERSIONS));
    columns.into_iter().chain(others).chain(LEFT_OUT_OF_ACTIONS).collect()
});
