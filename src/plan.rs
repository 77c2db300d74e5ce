//! Which site-days a sync has to ask for, and how much of each. Pure.

use std::collections::BTreeMap;

use chrono::{Days, NaiveDate};

use crate::error::{Error, Result};
use crate::seen::Seen;
use crate::zone::Zone;

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

/// A poll asks once more for so many seconds before the newest visit met: Matomo stamps a visit when the
/// request of its visitor comes in, and can only tell of it when it has written that.
const LATE: i64 = 60;

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

/// What the ledger knows of a day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Read whole after it had ended and settled.
    pub sealed: bool,
    /// `lastActionTimestamp` of the newest visit met.
    pub newest: Option<i64>,
    /// A reading of the whole day that has not come to its end.
    pub pass: Option<Pass>,
}

/// A reading of a whole day, as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// When it began.
    pub began: i64,
    /// From which instant on it goes on.
    pub since: i64,
    /// What it has met.
    pub seen: Seen,
}

/// A day to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub day: NaiveDate,
    pub extent: Extent,
    /// Whether the day is sealed by this reading.
    pub seals: bool,
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

    /// Whether all visits of the day are met when it is read.
    pub fn is_whole(&self) -> bool {
        !matches!(self, Extent::Since(_))
    }
}

/// Which days have to be read again although the ledger knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
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
    /// When the run began that this is a step of.
    pub run_began: i64,
    /// How long after its end a day is settled.
    pub settle: i64,
}

/// What is due of `days`: sealed days nothing, open ones what is new, and days that have settled
/// all, which seals them. A reading that was broken off goes on, unless the day has settled only
/// since it began, or is to be read again by a later run.
pub fn due(
    days: &[NaiveDate],
    known: &BTreeMap<NaiveDate, Known>,
    again: Again,
    zone: Zone,
    times: Times,
) -> Vec<Due> {
    let is_again = |day: NaiveDate| match again {
        Again::No => false,
        Again::From(first) => day >= first,
        Again::All => true,
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
            (!seals || pass.began >= settled) && (!is_again || pass.began >= times.run_began)
        };
        let extent = if seals || is_again {
            known.pass.filter(goes_on).map_or(Extent::Whole, Extent::Rest)
        } else {
            known.newest.map_or(Extent::Whole, |newest| Extent::Since(newest - LATE))
        };
        Some(Due { day: *day, extent, seals })
    };
    days.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn plan(start: Start, end: Option<&str>) -> Result<Vec<NaiveDate>> {
        days(start, end.map(day), day("2026-11-24"), Zone::Fixed(0))
    }

    #[test]
    fn both_ends_are_included() {
        let all = plan(Start::Day(day("2026-11-22")), None).unwrap();
        assert_eq!(all, [day("2026-11-22"), day("2026-11-23"), day("2026-11-24")]);
        let one = plan(Start::Day(day("2026-11-22")), Some("2026-11-22")).unwrap();
        assert_eq!(one, [day("2026-11-22")]);
    }

    #[test]
    fn the_end_is_today_at_the_latest() {
        let all = plan(Start::Day(day("2026-11-24")), Some("2027-01-01")).unwrap();
        assert_eq!(all, [day("2026-11-24")]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let future = plan(Start::Day(day("2026-11-25")), None).unwrap_err();
        assert_eq!(future.to_string(), "start_date 2026-11-25 is in the future");
        let turned = plan(Start::Day(day("2026-11-24")), Some("2026-11-23")).unwrap_err();
        assert_eq!(turned.to_string(), "end_date 2026-11-23 is before start_date 2026-11-24");
    }

    #[test]
    fn without_a_start() {
        let newest = day("2026-11-23").and_hms_opt(1, 0, 0).unwrap().and_utc().timestamp();
        assert_eq!(plan(Start::Newest(newest), None).unwrap()[0], day("2026-11-21"));
        assert_eq!(plan(Start::Newest(newest), Some("2026-11-01")).unwrap(), []);
        assert_eq!(plan(Start::Newest(i64::MAX), None).unwrap(), [day("2026-11-24")]);
        assert_eq!(plan(Start::Ago(3), None).unwrap()[0], day("2026-11-21"));
        assert_eq!(plan(Start::Known(day("2026-11-20")), None).unwrap()[0], day("2026-11-20"));
        // 23:00 UTC is the next day already where the clock is two hours ahead.
        let late = day("2026-11-22").and_hms_opt(23, 0, 0).unwrap().and_utc().timestamp();
        let days = days(Start::Newest(late), None, day("2026-11-24"), Zone::Fixed(7200)).unwrap();
        assert_eq!(days[0], day("2026-11-21"));
    }

    fn whole(text: &str, seals: bool) -> Due {
        Due { day: day(text), extent: Extent::Whole, seals }
    }

    #[test]
    fn what_is_due() {
        let zone = Zone::Fixed(0);
        let days = plan(Start::Day(day("2026-11-21")), None).unwrap();
        let known = |sealed, newest| Known { sealed, newest: Some(newest), pass: None };
        let known = BTreeMap::from([
            (day("2026-11-21"), known(true, 1)),
            (day("2026-11-22"), known(false, 2)),
            (day("2026-11-23"), known(false, 3)),
        ]);
        let midnight = zone.midnight(day("2026-11-24"));
        let at = |now: i64, again: Again| {
            due(&days, &known, again, zone, Times { now, run_began: now, settle: 3600 })
        };
        // An hour before the 23rd has settled, and when it has.
        assert_eq!(
            at(midnight + 3599, Again::No),
            [
                whole("2026-11-22", true),
                Due { day: day("2026-11-23"), extent: Extent::Since(3 - LATE), seals: false },
                whole("2026-11-24", false)
            ]
        );
        assert_eq!(at(midnight + 3600, Again::No)[1], whole("2026-11-23", true));
        let since = Again::From(day("2026-11-23"));
        assert_eq!(at(midnight, since)[1], whole("2026-11-23", false));
        assert_eq!(at(midnight, since).len(), 3);
        assert_eq!(at(midnight, Again::All)[0], whole("2026-11-21", true));
    }

    #[test]
    fn a_reading_that_was_broken_off_goes_on() {
        let zone = Zone::Fixed(0);
        let the_day = day("2026-11-22");
        let midnight = zone.midnight(day("2026-11-23"));
        let extent = |sealed: bool, began: i64, again: Again, now: i64, run_began: i64| {
            let pass = Pass { began, since: 7, seen: Seen::default() };
            let known = Known { sealed, newest: Some(9), pass: Some(pass.clone()) };
            let known = BTreeMap::from([(the_day, known)]);
            let times = Times { now, run_began, settle: 100 };
            let due = due(&[the_day], &known, again, zone, times);
            due.into_iter().next().map(|due| match due.extent {
                Extent::Rest(rest) => {
                    assert_eq!(rest, pass);
                    "rest"
                }
                Extent::Whole => "whole",
                Extent::Since(_) => "since",
            })
        };
        let settled = midnight + 100;
        // Begun after the day had settled, by this run or by another one.
        assert_eq!(extent(false, settled, Again::No, settled + 50, settled + 40), Some("rest"));
        // Begun before: it cannot seal the day.
        assert_eq!(extent(false, settled - 1, Again::No, settled + 50, settled - 1), Some("whole"));
        // An open day goes on from its newest visit.
        assert_eq!(extent(false, midnight, Again::No, midnight, midnight), Some("since"));
        // A sealed day is finished, whatever a reading of it was broken off for.
        assert_eq!(extent(true, settled, Again::No, settled + 50, settled + 40), None);
        // What is read again is read whole by each run, once.
        assert_eq!(extent(true, settled, Again::All, settled + 50, settled + 40), Some("whole"));
        assert_eq!(
            extent(true, settled + 45, Again::All, settled + 50, settled + 40),
            Some("rest")
        );
        assert_eq!(extent(false, midnight, Again::All, midnight + 9, midnight), Some("rest"));
    }
}
