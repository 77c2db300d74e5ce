//! Makes rows from a visit, with the columns of the Node tool. Pure.

use std::borrow::Cow;

use chrono::DateTime;
use serde_json::value::RawValue;

use crate::matomo::json;
use crate::matomo::memory::FallibleText;
use crate::matomo::visit::{ACTION_KEYS, Action, Dimensions, VISIT_KEYS, Visit};
use crate::matomo::zone::Zone;
use crate::rows::columns::{self, COLUMNS, Column, Source};
use crate::rows::custom;
use crate::rows::lines::{self, Cells, Lines};
use crate::rows::times::{self, ActionClock};
use crate::rows::values;

/// What `action_timestamp` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionTime {
    /// The true instant.
    Utc,
    /// The site's wall clock as if it were UTC, as Matomo sends it and the Node tool stores it.
    AsSent,
}

impl ActionTime {
    /// As `matomo.action_time` and the ledger name it.
    pub fn name(self) -> &'static str {
        match self {
            ActionTime::Utc => "utc",
            ActionTime::AsSent => "as_sent",
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<ActionTime> {
        [ActionTime::Utc, ActionTime::AsSent].into_iter().find(|known| known.name() == name)
    }

    /// The timezone whose midnights bound a site's days in `action_timestamp`.
    pub fn zone_of_days(self, of_site: Zone) -> Zone {
        match self {
            ActionTime::Utc => of_site,
            ActionTime::AsSent => Zone::Fixed(0),
        }
    }
}

/// A site in Matomo, as far as its rows depend on it.
#[derive(Debug, Clone, Copy)]
pub struct SiteContext {
    /// idSite.
    pub id: i32,
    /// The site's timezone.
    pub zone: Zone,
    /// The setting `matomo.action_time`.
    pub action_time: ActionTime,
    /// Whether it shows visits of other sites; `None` until Matomo was asked.
    pub is_rollup: Option<bool>,
}

/// For each of [`COLUMNS`] the position of its key in [`VISIT_KEYS`] or [`ACTION_KEYS`].
const KEYS: [usize; COLUMNS.len()] = {
    let mut keys = [0; COLUMNS.len()];
    let mut n = 0;
    while n < keys.len() {
        keys[n] = match COLUMNS[n].source {
            Source::Visit(key) => visit_key(key),
            Source::Action(key) | Source::ActionOr(key, _) => action_key(key),
            _ => 0,
        };
        n += 1;
    }
    keys
};

/// The position of a key in [`VISIT_KEYS`], for constants.
pub const fn visit_key(key: &str) -> usize {
    find(&VISIT_KEYS, key)
}

/// The position of a key in [`ACTION_KEYS`], for constants.
const fn action_key(key: &str) -> usize {
    find(&ACTION_KEYS, key)
}

const fn find(keys: &[&str], key: &str) -> usize {
    let mut n = 0;
    while n < keys.len() && !columns::is_same(keys[n], key) {
        n += 1;
    }
    assert!(n < keys.len(), "no key that is read");
    n
}

/// The columns in order: each item is a run of adjacent columns of the visit, or one column of the
/// action, with the positions of their keys.
fn parts() -> impl Iterator<Item = (&'static [Column], &'static [usize])> {
    let runs = COLUMNS.chunk_by(|a, b| a.source.is_of_visit() && b.source.is_of_visit());
    let mut begin = 0;
    runs.map(move |columns| {
        let keys = &KEYS[begin..begin + columns.len()];
        begin += columns.len();
        (columns, keys)
    })
}

/// The cells of each run of columns of the visit, written once for all its rows.
fn visit_cells(visit: &Visit, id: i64, site: SiteContext) -> Vec<FallibleText> {
    let runs = parts().filter(|(columns, _)| columns[0].source.is_of_visit());
    let cells = runs.map(|(columns, keys)| {
        let mut text = FallibleText::default();
        for (column, key) in columns.iter().zip(keys) {
            write_of_visit(&mut Cells(&mut text), column.source, *key, (id, visit), site);
        }
        text
    });
    cells.collect()
}

fn write_of_visit(
    cells: &mut Cells,
    source: Source,
    key: usize,
    (id, visit): (i64, &Visit),
    site: SiteContext,
) {
    match source {
        Source::Visit(_) => write_value(cells, visit.values[key]),
        Source::SiteId => cells.display(id_site(visit, site)),
        Source::VisitId => cells.display(id),
        Source::FirstDay => match visit.first.and_then(calendar) {
            Some(first) => cells.display(first.date_naive()),
            None => cells.null(),
        },
        Source::Experiments => match visit.experiments {
            Some(raw) => cells.text(&values::jsonb(raw)),
            None => cells.null(),
        },
        // Of the action.
        _ => cells.null(),
    }
}

/// The values of the columns of the visit, in order; `None` when there is no memory for them.
pub fn visit_values(visit: &Visit, id: i64, site: SiteContext) -> Option<Vec<Option<String>>> {
    let mut all = FallibleText::default();
    visit_cells(visit, id, site).iter().for_each(|cells| all.push_all(cells));
    let cells = lines::cells(all.strip_suffix('\t').unwrap_or_default());
    let values = cells.map(|cell| lines::value(cell).map(Cow::into_owned));
    (!all.is_cut()).then(|| values.collect())
}

/// Adds the rows of a visit, one an action. `day_begin` is the instant for actions of a visit without
/// any time. Returns false if there is no memory for them, or if they exceed `max_bytes`: the values
/// of the visit are repeated in each of its rows, so a short answer could become very many bytes.
#[must_use]
pub fn add_rows(
    rows: &mut Lines,
    visit: &Visit,
    id: i64,
    site: SiteContext,
    day_begin: i64,
    max_bytes: usize,
) -> bool {
    let size_before = rows.size();
    let parts: Vec<_> = parts().collect();
    let of_visit = visit_cells(visit, id, site);
    let visit_variables = custom::variables(visit.custom_variables);
    let instants = instants(visit, site, day_begin);
    for (index, (action, at)) in visit.actions.iter().zip(instants).enumerate() {
        let both;
        let dimensions = match (&visit.dimensions, &action.dimensions) {
            (of_visit, own) if own.is_empty() => of_visit,
            (of_visit, own) if of_visit.is_empty() => own,
            (of_visit, own) => {
                both = of_visit.iter().chain(own).map(|(number, raw)| (*number, *raw)).collect();
                &both
            }
        };
        let row = Row { id, index, at, action, dimensions, visit_variables: &visit_variables };
        let mut cells = rows.begin_line(at);
        let mut of_visit = of_visit.iter();
        for (columns, keys) in &parts {
            match columns[0].source {
                source if source.is_of_visit() => {
                    of_visit.next().into_iter().for_each(|run| cells.append(run));
                }
                source => row.write(&mut cells, source, keys[0]),
            }
        }
        cells.end_line();
        if rows.size() - size_before > max_bytes || rows.is_cut() {
            return false;
        }
    }
    true
}

/// `idSite`; in a roll-up it differs from the requested site.
pub fn id_site(visit: &Visit, site: SiteContext) -> i64 {
    visit.values[const { visit_key("idSite") }]
        .and_then(json::integer)
        .unwrap_or_else(|| site.id.into())
}

/// The sources of an action's own columns.
struct Row<'a> {
    id: i64,
    index: usize,
    at: i64,
    action: &'a Action<'a>,
    /// The action's and the visit's.
    dimensions: &'a Dimensions<'a>,
    visit_variables: &'a [custom::Variable],
}

impl Row<'_> {
    fn write(&self, cells: &mut Cells, source: Source, key: usize) {
        match source {
            Source::Action(_) => write_value(cells, self.action.values[key]),
            Source::ActionOr(_, default) => match self.action.values[key] {
                Some(raw) => write_value(cells, Some(raw)),
                None => cells.plain(default),
            },
            Source::EventValue => match self.action.values[const { action_key("eventValue") }] {
                Some(raw) => cells.plain(&values::number(raw)),
                None => cells.plain("0"),
            },
            Source::ActionId => cells.display(format_args!("{}_{}", self.id, self.index)),
            Source::Instant => match calendar(self.at) {
                Some(at) => timestamp(cells, at),
                None => cells.null(),
            },
            Source::CustomVariables => match (self.action.custom_variables, self.visit_variables) {
                (None, []) => cells.plain("{}"),
                (own, of_visit) => cells.text(&custom::variables_of_both(own, of_visit)),
            },
            Source::CustomDimensions => match self.dimensions {
                none if none.is_empty() => cells.plain("{}"),
                all => cells.text(&custom::dimensions(all)),
            },
            Source::Dimension(number) => write_value(cells, self.dimensions.get(&number).copied()),
            // Of the visit.
            _ => cells.null(),
        }
    }
}

/// A value as it is, or null.
fn write_value(cells: &mut Cells, raw: Option<&RawValue>) {
    let mut is_null = true;
    if let Some(raw) = raw {
        json::with_text(raw, |text| {
            cells.text(text);
            is_null = false;
        });
    }
    if is_null {
        cells.null();
    }
}

/// The value of `action_timestamp` for each action; none is missing.
fn instants(visit: &Visit, site: SiteContext, day_begin: i64) -> Vec<i64> {
    let (first, last) = (representable(visit.first), representable(visit.last));
    let clocks = visit.actions.iter().map(|action| ActionClock {
        wall: representable(action.wall),
        time_spent: action.values[const { action_key("timeSpent") }].and_then(json::integer),
    });
    let (times, fallback): (Vec<_>, _) = match site.action_time {
        ActionTime::Utc => {
            let clocks: Vec<_> = clocks.collect();
            let times = times::true_times(site.zone, first, last, visit.truncated == 0, &clocks);
            (times, first.or(last).unwrap_or(day_begin))
        }
        ActionTime::AsSent => {
            let fallback = first.or(last).unwrap_or(day_begin);
            let wall =
                representable(Some(fallback + site.zone.offset_at(fallback))).unwrap_or(fallback);
            (clocks.map(|clock| clock.wall).collect(), wall)
        }
    };
    let mut before = fallback;
    times
        .into_iter()
        .map(|at| {
            // The zone's offset may push an instant out of the calendar.
            before = representable(at).unwrap_or(before);
            before
        })
        .collect()
}

/// Discards a time that Postgres or the calendar cannot represent.
pub fn representable(at: Option<i64>) -> Option<i64> {
    at.filter(|at| calendar(*at).is_some())
}

fn calendar(seconds: i64) -> Option<DateTime<chrono::Utc>> {
    use chrono::Datelike;
    DateTime::from_timestamp(seconds, 0).filter(|at| (1..=9999).contains(&at.year()))
}

/// As Postgres shows it in UTC.
fn timestamp(cells: &mut Cells, at: DateTime<chrono::Utc>) {
    let (day, time) = (at.date_naive(), at.time());
    // Formatting date and time apart is several times as fast as `format`.
    cells.display(format_args!("{day} {time}+00"));
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "fuzz_tests.rs"]
mod fuzz;
