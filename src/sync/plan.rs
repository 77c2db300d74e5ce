//! Which site-days a sync has to ask for, and how much of each. Pure.

use std::collections::BTreeMap;

use chrono::{Days, NaiveDate};

use crate::error::{Error, Result};
use crate::matomo::zone::Zone;
use crate::state::known::{Known, Pass};

/// Where a sync begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The caller named the day.
    Day(NaiveDate),
    /// The first day that the ledger knows: all that is not sealed since then.
    Known(NaiveDate),
    /// Two days before the site's newest row in the destination (an instant, in seconds), as the
    /// Node tool does: late hits of those days are still to come.
    Newest(i64),
    /// So many days before today: the first sync of a site.
    Ago(u32),
}

const LOOK_BACK: Days = Days::new(2);

/// The site-days from `start` to `end`, both included; `end` is today at the latest.
///
/// # Errors
/// [`Error::Argument`] for a start in the future or after the end.
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
            hint: format!("It is {today} in the site's timezone."),
        });
    }
    let last = end.map_or(today, |end| end.min(today));
    if first > last {
        // A start that the caller did not name may lie behind the end he named: nothing is due.
        if !matches!(start, Start::Day(_)) {
            return Ok(Vec::new());
        }
        return Err(Error::reversed(first, last));
    }
    Ok(first.iter_days().take_while(|day| *day <= last).collect())
}

/// A day to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub day: NaiveDate,
    pub extent: Extent,
    /// Whether the day is sealed by this reading.
    pub seals: bool,
    /// Where a recheck of the day, after this reading, begins or goes on.
    pub recheck: Option<Pass>,
}

/// How much of a day to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// What an unfinished reading of all of it has left.
    Rest(Pass),
    /// What has happened since an instant.
    Since(i64),
}

impl Extent {
    /// From which instant on to ask.
    pub fn since(&self) -> Option<i64> {
        match self {
            Extent::Whole => None,
            Extent::Rest(Pass { since, .. }) | Extent::Since(since) => Some(*since),
        }
    }
}

/// Which days have to be read again although the ledger knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reread {
    /// None.
    No,
    /// Those from a day on: `matomo.lookback`.
    From(NaiveDate),
    /// All: `force`.
    All,
}

/// When something is planned.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Now.
    pub now: i64,
    /// When the run began that this is a step of; for a sync of one step the end of time.
    pub run_began: i64,
    /// How long after its end a day is settled.
    pub settle: i64,
    /// How far before the newest visit met a poll begins.
    pub overlap: i64,
    /// How long after a recheck of an open day the next one is due; `None`: never.
    pub recheck: Option<i64>,
}

/// What is due of `days`: sealed days nothing, open ones what is new, with a recheck now and then, and
/// days that have settled all, which seals them. A reading that was broken off goes on, unless the day
/// has settled only since it began, or is to be read again by a later run.
pub fn due(
    days: &[NaiveDate],
    known: &BTreeMap<NaiveDate, Known>,
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
        let end = day.succ_opt().map_or(i64::MAX, |next| zone.midnight(next));
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
            // A run reads the overlap once: it may be more than a step reads.
            let of_run = known.pass.as_ref().filter(|pass| pass.began >= times.run_began);
            let since = match of_run {
                Some(pass) if pass.is_of_new() => pass.since,
                Some(_) => newest,
                None => newest - times.overlap,
            };
            if times.recheck.is_some_and(is_due) {
                let pass = known.pass.filter(|pass| !pass.is_of_new());
                let pass = pass.map(|pass| Pass { seen: None, ..pass });
                let begin = Pass { began: times.now, since: zone.midnight(*day), seen: None };
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
