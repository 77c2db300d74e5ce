//! The cells of the columns of a visit. Pure.

use std::borrow::Cow;
use std::ops::Range;

use crate::matomo::json;
use crate::matomo::keys::{ACTION_KEYS, VISIT_KEYS};
use crate::matomo::memory::FallibleText;
use crate::matomo::visit::{Action, Visit};
use crate::rows::cell::{Misfit, calendar, extra, instant, put, representable, sent};
use crate::rows::column_type::Value;
use crate::rows::columns::Source;
use crate::rows::custom;
use crate::rows::layout::{Layout, Slot};
use crate::rows::lines::{self, Cells};
use crate::rows::site_context::SiteContext;

/// The position of a key in [`VISIT_KEYS`], for constants.
pub const fn visit_key(key: &str) -> usize {
    find(&VISIT_KEYS, key)
}

/// The position of a key in [`ACTION_KEYS`], for constants.
pub const fn action_key(key: &str) -> usize {
    find(&ACTION_KEYS, key)
}

const fn find(keys: &[&str], key: &str) -> usize {
    let mut n = 0;
    while n < keys.len() && !is_same(keys[n], key) {
        n += 1;
    }
    assert!(n < keys.len(), "no key that is read");
    n
}

/// Whether two texts are equal; `==` is not for constants.
const fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut n = 0;
    while n < a.len() && n < b.len() && a[n] == b[n] {
        n += 1;
    }
    n == a.len() && n == b.len()
}

/// The cells of the columns of a visit, written once for all its rows.
#[derive(Default)]
pub struct VisitCells<'a> {
    pub text: FallibleText,
    /// The part of each run of adjacent columns.
    pub runs: Vec<Range<usize>>,
    pub misfits: Vec<Misfit<'a>>,
}

/// More bytes than the cells of most visits have.
const ROOM: usize = 1024;

/// What the columns of a visit need.
pub struct VisitSource<'v, 'a> {
    pub id: i64,
    pub visit: &'v Visit<'a>,
    pub site: SiteContext,
    /// The instant of a visit without any time.
    pub fallback: i64,
}

impl<'v, 'a> VisitSource<'v, 'a> {
    /// The cells of runs of columns.
    pub fn cells<'s>(&self, slots: impl Iterator<Item = &'s [Slot]>) -> VisitCells<'a> {
        let mut all = VisitCells::default();
        all.text.reserve(ROOM);
        for run in slots {
            let begin = all.text.len();
            for slot in run {
                self.write(&mut Cells(&mut all.text), slot, &mut all.misfits);
            }
            all.runs.push(begin..all.text.len());
        }
        all
    }

    fn write(&self, cells: &mut Cells, slot: &Slot, misfits: &mut Vec<Misfit<'a>>) {
        let (text, members);
        let value = match slot.column.source {
            Source::Visit(_) => sent(slot.key.and_then(|key| self.visit.values[key])),
            Source::SiteId => Value::Integer(id_site(self.visit, self.site)),
            Source::VisitId => Value::Integer(self.id),
            Source::FirstDay => match self.visit.first.and_then(calendar) {
                Some(first) => Value::Day(first.date_naive()),
                None => Value::Null,
            },
            Source::Experiments => sent(self.visit.experiments),
            Source::Day => {
                let last = representable(self.visit.last).or(representable(self.visit.first));
                last.and_then(|last| self.site.zone.day(last)).map_or(Value::Null, Value::Day)
            }
            Source::First => instant(Some(self.on_axis(self.visit.first, self.visit.last))),
            Source::Last => instant(Some(self.last())),
            Source::Truncated => Value::Integer(self.visit.truncated),
            Source::PageViews => {
                Value::Integer(i64::try_from(self.page_views().count()).unwrap_or(i64::MAX))
            }
            Source::EntryUrl => of_page(self.page_views().next(), const { action_key("url") }),
            Source::EntryTitle => of_page(self.page_views().next(), const { action_key("title") }),
            Source::ExitUrl => of_page(self.exit(), const { action_key("url") }),
            Source::ExitTitle => of_page(self.exit(), const { action_key("title") }),
            Source::VisitDimensions => {
                members = custom::dimensions(&self.visit.dimensions);
                Value::Object(&members)
            }
            Source::VisitVariables => {
                members = custom::variables_of_both(self.visit.custom_variables, &[]);
                Value::Object(&members)
            }
            Source::VisitExtra => match extra(&self.visit.unknown, misfits) {
                Some(extra) => {
                    text = extra;
                    Value::Jsonb(&text)
                }
                None => Value::Null,
            },
            // Of the action.
            _ => Value::Null,
        };
        put(cells, slot, value, misfits);
    }

    /// `lastaction`, by which a visit is partitioned.
    pub fn last(&self) -> i64 {
        self.on_axis(self.visit.last, self.visit.first)
    }

    /// The first of two instants that is one, as `action_timestamp` has it.
    fn on_axis(&self, one: Option<i64>, other: Option<i64>) -> i64 {
        let instant = representable(one).or(representable(other)).unwrap_or(self.fallback);
        representable(Some(self.site.on_axis(instant))).unwrap_or(instant)
    }

    fn page_views(&self) -> impl DoubleEndedIterator<Item = &'v Action<'a>> {
        let is_view = |action: &&Action| {
            action.values[const { action_key("type") }]
                .is_some_and(|raw| raw.get() == r#""action""#)
        };
        self.visit.actions.iter().filter(is_view)
    }

    /// The last page view, unless Matomo did not list all actions.
    fn exit(&self) -> Option<&'v Action<'a>> {
        self.page_views().next_back().filter(|_| self.visit.truncated == 0)
    }
}

/// A value of a page view; `key` is that of [`action_key`].
fn of_page<'a>(page: Option<&Action<'a>>, key: usize) -> Value<'static, 'a> {
    sent(page.and_then(|page| page.values[key]))
}

/// The values of [`Layout::listed`], in order; `day_begin` is the instant of a visit without any time.
/// `None` when there is no memory for them.
pub fn visit_values(
    layout: &Layout,
    visit: &Visit,
    id: i64,
    site: SiteContext,
    day_begin: i64,
) -> Option<Vec<Option<String>>> {
    let source = VisitSource { id, visit, site, fallback: day_begin };
    let cells = source.cells(layout.listed().map(std::slice::from_ref));
    let mut values = Vec::with_capacity(cells.runs.len());
    for cell in cells.runs {
        let cell = cells.text.get(cell)?.strip_suffix('\t')?;
        values.push(lines::value(cell).map(Cow::into_owned));
    }
    (!cells.text.is_cut()).then_some(values)
}

/// `idSite`; in a roll-up it differs from the requested site.
pub fn id_site(visit: &Visit, site: SiteContext) -> i64 {
    visit.values[const { visit_key("idSite") }]
        .and_then(json::integer)
        .unwrap_or_else(|| site.id.into())
}
