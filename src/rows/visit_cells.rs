//! The cells of the columns of a visit. Pure.

use std::borrow::Cow;
use std::ops::Range;

use crate::matomo::json;
use crate::matomo::keys::{action_key, visit_key};
use crate::matomo::memory::FallibleText;
use crate::matomo::visit::{Action, Visit};
use crate::rows::cell::{Misfit, calendar, extra, instant, note, put, representable, sent};
use crate::rows::column_type::Value;
use crate::rows::columns::Source;
use crate::rows::custom;
use crate::rows::layout::{Layout, Slot};
use crate::rows::lines::{self, Cells};
use crate::rows::site_context::SiteContext;

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
    pub midnight: i64,
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
            Source::SiteId => {
                let sent = self.visit.values[const { visit_key("idSite") }];
                let id = sent.and_then(json::integer);
                if let (Some(sent), None) = (sent, id) {
                    note(slot.column, sent, misfits);
                }
                Value::Integer(id.unwrap_or_else(|| self.site.id.into()))
            }
            Source::VisitId => Value::Integer(self.id),
            Source::FirstDay => {
                self.note_first(slot, misfits);
                let first = self.visit.first.and_then(calendar);
                first.map_or(Value::Null, |first| Value::Day(first.date_naive()))
            }
            Source::Experiments => sent(self.visit.experiments),
            Source::Day => {
                self.note_last(slot, misfits);
                let last = representable(self.visit.last).or(representable(self.visit.first));
                last.and_then(|last| self.site.zone.day(last)).map_or(Value::Null, Value::Day)
            }
            Source::First => {
                self.note_first(slot, misfits);
                instant(Some(self.on_axis(self.visit.first, self.visit.last)))
            }
            Source::Last => {
                self.note_last(slot, misfits);
                instant(Some(self.last()))
            }
            Source::Truncated => self.visit.values[const { visit_key("truncatedActionsCount") }]
                .map_or(Value::Integer(0), Value::Sent),
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
                let all = custom::variables(self.visit.custom_variables);
                if let Some(odd) = all.odd {
                    note(slot.column, odd, misfits);
                }
                members = all.members;
                Value::Object(&members)
            }
            Source::VisitExtra => match extra(&self.visit.unknown, Vec::new(), misfits) {
                Some(extra) => {
                    text = extra;
                    Value::Jsonb(&text)
                }
                None => Value::Null,
            },
            // Of the action or item.
            Source::Action(_)
            | Source::ActionOr(..)
            | Source::EventValue
            | Source::ActionId
            | Source::Instant
            | Source::CustomVariables
            | Source::CustomDimensions
            | Source::ActionDimensions
            | Source::Dimension(_)
            | Source::Item(_)
            | Source::Place
            | Source::ItemExtra
            | Source::Extra => Value::Null,
        };
        put(cells, slot, value, misfits);
    }

    /// Notes a first time that cannot be read, or that no calendar has.
    fn note_first(&self, slot: &Slot, misfits: &mut Vec<Misfit<'a>>) {
        if representable(self.visit.first).is_none() || self.visit.has_odd_numbers {
            self.note_time(slot, const { visit_key("firstActionTimestamp") }, misfits);
        }
    }

    /// The same for the last one.
    fn note_last(&self, slot: &Slot, misfits: &mut Vec<Misfit<'a>>) {
        if representable(self.visit.last).is_none() || self.visit.has_odd_numbers {
            self.note_time(slot, const { visit_key("lastActionTimestamp") }, misfits);
        }
    }

    fn note_time(&self, slot: &Slot, key: usize, misfits: &mut Vec<Misfit<'a>>) {
        if let Some(sent) = self.visit.values[key]
            && representable(json::integer(sent)).is_none()
        {
            note(slot.column, sent, misfits);
        }
    }

    /// `lastaction`, by which a visit is partitioned.
    pub fn last(&self) -> i64 {
        self.on_axis(self.visit.last, self.visit.first)
    }

    /// The first of two instants that the calendar has, in the kind of time of `matomo.action_time`.
    fn on_axis(&self, one: Option<i64>, other: Option<i64>) -> i64 {
        let instant = representable(one).or(representable(other)).unwrap_or(self.midnight);
        representable(Some(self.site.on_axis(instant))).unwrap_or(instant)
    }

    fn page_views(&self) -> impl DoubleEndedIterator<Item = &'v Action<'a>> {
        let is_view = |action: &&Action| {
            action.values[const { action_key("type") }]
                .is_some_and(|raw| raw.get() == r#""action""#)
        };
        self.visit.actions.iter().filter(is_view)
    }

    /// The last page view, unless Matomo may not have listed all actions.
    fn exit(&self) -> Option<&'v Action<'a>> {
        self.page_views().next_back().filter(|_| !self.visit.may_be_cut)
    }
}

/// A value of a page view; `key` is that of [`action_key`].
fn of_page<'a>(page: Option<&Action<'a>>, key: usize) -> Value<'static, 'a> {
    sent(page.and_then(|page| page.values[key]))
}

/// The values of [`Layout::listed`], in order; `midnight` is the instant of a visit without any time.
/// `None` when there is no memory for them.
pub fn visit_values(
    layout: &Layout,
    visit: &Visit,
    id: i64,
    site: SiteContext,
    midnight: i64,
) -> Option<Vec<Option<String>>> {
    let source = VisitSource { id, visit, site, midnight };
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
