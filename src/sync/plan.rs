//! Plans which site-days a sync requests, and which part of each. Pure.

use std::collections::BTreeMap;

use chrono::{Days, NaiveDate};

use crate::error::{Error, Result};
use crate::matomo::zone::Zone;
use crate::state::day_state::{DayState, Pass};

/// Where a sync starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A day given by the caller.
    Day(NaiveDate),
    /// The first day in the ledger.
    Known(NaiveDate),
    /// Two days before the site's newest row in the destination (an instant, in seconds), like the
    /// Node tool: late hits of those days are still to come.
    Newest(i64),
    /// This many days before today, for the first sync of a site.
    Ago(u32),
}

const LOOK_BACK: Days = Days::new(2);

/// The site-days from `start` to `end`, inclusive, up to today.
///
/// # Errors
/// [`Error::Argument`] if the start is in the future or after the end.
pub fn days(
    start: Start,
    end: Option<NaiveDate>,
    today: NaiveDate,
    zone: Zone,
) -> Result<Vec<NaiveDate>> {
    let first = match start {
        Start::Day(day) => day,
        Start::Known(day) => day.min(today),
        Start::Newest(instant) => zone
            .day(instant)
            .and_then(|day| day.checked_sub_days(LOOK_BACK))
            .unwrap_or(today)
            .min(today),
        Start::Ago(days) => today.checked_sub_days(Days::new(days.into())).unwrap_or(today),
    };
    if first > today {
        return Err(Error::Argument {
            message: format!("start_date {first} is in the future"),
            hint: format!("Give a day up to {today}, which is today in the site's timezone."),
        });
    }
    let last = end.map_or(today, |end| end.min(today));
    if first > last {
        // If the caller gave only an end, the start may be later: then nothing is due.
        if !matches!(start, Start::Day(_)) {
            return Ok(Vec::new());
        }
        return Err(Error::reversed(first, last));
    }
    Ok(first.iter_days().take_while(|day| *day <= last).collect())
}

/// A day to request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub day: NaiveDate,
    pub extent: Extent,
    /// Whether this reading seals the day.
    pub seals: bool,
    /// The recheck that follows this reading, new or resumed.
    pub recheck: Option<Pass>,
}

/// The part of a day to request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// The whole day.
    Whole,
    /// The rest of an unfinished reading of the whole day.
    Rest(Pass),
    /// Visits since an instant.
    Since(i64),
}

impl Extent {
    /// Whether the day is read whole, in this step or with earlier ones.
    pub fn is_whole(&self) -> bool {
        !matches!(self, Extent::Since(_))
    }

    /// The first instant to request; `None` for the start of the day.
    pub fn since(&self) -> Option<i64> {
        match self {
            Extent::Whole => None,
            Extent::Rest(Pass { since, .. }) | Extent::Since(since) => Some(*since),
        }
    }
}

/// Which days to read again although the ledger knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reread {
    /// None.
    No,
    /// Those from a day on: `matomo.lookback`.
    From(NaiveDate),
    /// All: `force`.
    All,
}

/// Times for planning: instants in Unix seconds, durations in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub now: i64,
    /// Start of the run that this step belongs to; `i64::MAX` for a sync in one transaction.
    pub run_began: i64,
    /// Time after its end when a day has settled.
    pub settle: i64,
    /// How far before the newest visit read a poll starts.
    pub overlap: i64,
    /// Time between two rechecks of an open day; `None` if disabled.
    pub recheck: Option<i64>,
}

/// The days of `days` that are due. Sealed days are not; of open days, only new visits are, with a
/// recheck from time to time; days that have settled are read whole and sealed. An unfinished reading
/// resumes, unless it began before the day had settled, or a later run reads the day again.
pub fn due(
    days: &[NaiveDate],
    known: &BTreeMap<NaiveDate, DayState>,
    reread: Reread,
    zone: Zone,
    times: Times,
) -> Vec<Due> {
    let is_again = |day: NaiveDate| match reread {
        Reread::No => false,
        Reread::From(first) => day >= first,
        Reread::All => true,
    };
    let one = |day: &NaiveDate| {
        let known = known.get(day).cloned().unwrap_or_default();
        let is_again = is_again(*day);
        if known.sealed && !is_again {
            return None;
        }
        let end = zone.day_end(*day);
        let settled = end.saturating_add(times.settle);
        let seals = settled <= times.now;
        let goes_on = |pass: &Pass| {
            pass.is_whole()
                && (!seals || pass.began >= settled)
                && (!is_again || pass.began >= times.run_began)
        };
        let mut recheck = None;
        let extent = if seals || is_again {
            known.pass.filter(goes_on).map_or(Extent::Whole, Extent::Rest)
        } else if let Some(newest) = known.newest {
            let is_due =
                |every| known.rechecked.is_none_or(|at| at > times.now || at + every <= times.now);
            // A run reads the overlap only once, as it may take more than one step.
            let of_run = known.pass.as_ref().filter(|pass| pass.began >= times.run_began);
            let since = match of_run {
                Some(pass) if pass.is_of_new() => pass.since,
                Some(_) => newest,
                None => newest - times.overlap,
            };
            if times.recheck.is_some_and(is_due) {
                let pass = known.pass.filter(|pass| !pass.is_of_new());
                let pass = pass.map(|pass| Pass { tally: None, ..pass });
                let begin = Pass { began: times.now, since: zone.midnight(*day), tally: None };
                recheck = Some(pass.unwrap_or(begin));
            }
            Extent::Since(since)
        } else {
            Extent::Whole
        };
        Some(Due { day: *day, extent, seals, recheck })
    };
    days.iter().filter_map(one).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
