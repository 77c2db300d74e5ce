//! Makes rows from a visit. Pure.

use crate::matomo::json;
use crate::matomo::keys::action_key;
use crate::matomo::visit::Visit;
use crate::rows::action_row::{Item, Row, is_conversion};
use crate::rows::cell::{Misfit, note, representable};
use crate::rows::columns::{Source, TableKind};
use crate::rows::custom::{self, Variables};
use crate::rows::layout::{Layout, Slot};
use crate::rows::lines::Lines;
use crate::rows::site_context::{ActionTime, SiteContext};
use crate::rows::times::{self, ActionClock};
use crate::rows::visit_cells::{VisitCells, VisitSource};

/// A visit to be made into rows.
pub struct VisitRows<'v, 'a> {
    source: VisitSource<'v, 'a>,
    /// `action_timestamp` of each action.
    instants: Vec<i64>,
    /// The visit's own.
    variables: Variables<'a>,
}

/// Rows of a visit in a table.
struct Table<'r> {
    rows: &'r mut Lines,
    layout: &'r Layout,
    size_before: usize,
    max_bytes: usize,
}

impl<'v, 'a> VisitRows<'v, 'a> {
    /// `midnight` is the instant of a visit without any time.
    pub fn of(visit: &'v Visit<'a>, id: i64, site: SiteContext, midnight: i64) -> Self {
        VisitRows {
            source: VisitSource { id, visit, site, midnight },
            instants: instants(visit, site, midnight),
            variables: custom::variables(visit.custom_variables),
        }
    }

    /// Adds its rows in a table. Returns a column for each value that its type cannot hold; `None` if
    /// there is no memory for the rows, or if they exceed `max_bytes`: the values of the visit are
    /// repeated in each of its rows, so a short answer could become very many bytes.
    #[must_use]
    pub fn add(
        &self,
        rows: &mut Lines,
        layout: &Layout,
        max_bytes: usize,
    ) -> Option<Vec<&'static str>> {
        let mut actions = self.source.visit.actions.iter();
        if matches!(layout.kind, TableKind::Conversions | TableKind::Items)
            && !actions.any(is_conversion)
        {
            return Some(Vec::new());
        }
        let runs = layout.runs().map(|run| &layout.slots()[run]);
        let mut of_visit = self.source.cells(runs.clone().filter(is_of_visit));
        let mut slots = layout.slots().iter();
        if let Some(odd) = self.variables.odd
            && let Some(slot) = slots.find(|slot| slot.column.source == Source::CustomVariables)
        {
            note(slot.column, odd, &mut of_visit.misfits);
        }
        let mut misfits = of_visit.misfits.clone();
        let mut all = names(&misfits);
        let size_before = rows.size();
        let mut table = Table { rows, layout, size_before, max_bytes };
        if layout.kind == TableKind::Visits {
            return table.add(self.source.last(), &of_visit, None, &mut misfits).then_some(all);
        }
        for (index, action) in self.source.visit.actions.iter().enumerate() {
            if layout.kind != TableKind::Actions && !is_conversion(action) {
                continue;
            }
            let both;
            let dimensions = match (&self.source.visit.dimensions, &action.dimensions) {
                (of_visit, own) if own.is_empty() => of_visit,
                (of_visit, own) if of_visit.is_empty() => own,
                (of_visit, own) => {
                    both =
                        of_visit.iter().chain(own).map(|(number, raw)| (*number, *raw)).collect();
                    &both
                }
            };
            let (id, at, visit_variables) =
                (self.source.id, self.instants[index], &self.variables.members);
            let row = Row { id, index, at, action, dimensions, visit_variables, item: None };
            let mut add = |row: &Row<'_, 'a>| {
                misfits.truncate(of_visit.misfits.len());
                let fits = table.add(at, &of_visit, Some(row), &mut misfits);
                all.extend(names(&misfits[of_visit.misfits.len()..]));
                fits.then_some(())
            };
            if layout.kind != TableKind::Items {
                add(&row)?;
                continue;
            }
            let Some(details) = action.values[const { action_key("itemDetails") }] else {
                continue;
            };
            let mut fits = Some(());
            Item::each(details, |place, item| {
                if fits.is_some() {
                    fits = add(&Row { item: Some((place, item)), ..row });
                }
            });
            fits?;
        }
        Some(all)
    }
}

impl Table<'_> {
    /// Adds a row; false if there is no room for it.
    fn add<'a>(
        &mut self,
        at: i64,
        of_visit: &VisitCells,
        row: Option<&Row<'_, 'a>>,
        misfits: &mut Vec<Misfit<'a>>,
    ) -> bool {
        let mut cells = self.rows.begin_line(at);
        let mut visit_runs = of_visit.runs.iter();
        for run in self.layout.runs().map(|run| &self.layout.slots()[run]) {
            if is_of_visit(&run) {
                if let Some(run) = visit_runs.next() {
                    cells.append(&of_visit.text, run.clone());
                }
            } else if let Some(row) = row {
                row.write(&mut cells, &run[0], misfits);
            }
        }
        cells.end_line();
        self.rows.size() - self.size_before <= self.max_bytes && !self.rows.is_cut()
    }
}

fn is_of_visit(run: &&[Slot]) -> bool {
    run[0].column.source.is_of_visit()
}

fn names(misfits: &[Misfit]) -> Vec<&'static str> {
    misfits.iter().map(|misfit| misfit.column.name).collect()
}

/// The value of `action_timestamp` for each action; none is missing.
fn instants(visit: &Visit, site: SiteContext, midnight: i64) -> Vec<i64> {
    let (first, last) = (representable(visit.first), representable(visit.last));
    let clocks = visit.actions.iter().map(|action| ActionClock {
        wall: representable(action.wall),
        time_spent: action.values[const { action_key("timeSpent") }].and_then(json::integer),
    });
    let (times, fallback): (Vec<_>, _) = match site.action_time {
        ActionTime::Utc => {
            let clocks: Vec<_> = clocks.collect();
            let times = times::true_times(site.zone, first, last, !visit.may_be_cut, &clocks);
            (times, first.or(last).unwrap_or(midnight))
        }
        ActionTime::AsSent => {
            let fallback = first.or(last).unwrap_or(midnight);
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

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "fuzz_tests.rs"]
mod fuzz;

#[cfg(test)]
#[path = "coverage_tests.rs"]
mod coverage;

#[cfg(test)]
#[path = "nothing_lost_tests.rs"]
mod nothing_lost;
