//! Which site-days a sync has to ask for, and how much of each. Pure.

use std::collections::BTreeMap;

use chrono::{Days, NaiveDate};

use crate::error::{Error, Result};
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// Read whole after it had ended and settled.
    pub sealed: bool,
    /// `lastActionTimestamp` of the newest visit met.
    pub newest: Option<i64>,
}

/// A day to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub day: NaiveDate,
    /// From which instant on; `None` for the whole day.
    pub since: Option<i64>,
    /// Whether the day is sealed by this reading.
    pub seals: bool,
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

/// What is due of `days` at an instant `now`: sealed days nothing, open ones what is new, and days
/// that have ended `settle` seconds ago all, which seals them.
pub fn due(
    days: &[NaiveDate],
    known: &BTreeMap<NaiveDate, Known>,
    again: Again,
    zone: Zone,
    now: i64,
    settle: i64,
) -> Vec<Due> {
    let is_again = |day: NaiveDate| match again {
        Again::No => false,
        Again::From(first) => day >= first,
        Again::All => true,
    };
    let one = |day: &NaiveDate| {
        let known = known.get(day).copied().unwrap_or_default();
        if known.sealed && !is_again(*day) {
            return None;
        }
        let seals =
            day.succ_opt().is_some_and(|next| zone.midnight(next).saturating_add(settle) <= now);
        let since = if seals || is_again(*day) { None } else { known.newest };
        Some(Due { day: *day, since, seals })
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

    #[test]
    fn what_is_due() {
        let zone = Zone::Fixed(0);
        let days = plan(Start::Day(day("2026-11-21")), None).unwrap();
        let known = BTreeMap::from([
            (day("2026-11-21"), Known { sealed: true, newest: Some(1) }),
            (day("2026-11-22"), Known { sealed: false, newest: Some(2) }),
            (day("2026-11-23"), Known { sealed: false, newest: Some(3) }),
        ]);
        let midnight = zone.midnight(day("2026-11-24"));
        let at = |now: i64, again: Again| due(&days, &known, again, zone, now, 3600);
        let line =
            |text: &str, since: Option<i64>, seals: bool| Due { day: day(text), since, seals };
        // An hour before the 23rd has settled, and when it has.
        assert_eq!(
            at(midnight + 3599, Again::No),
            [
                line("2026-11-22", None, true),
                line("2026-11-23", Some(3), false),
                line("2026-11-24", None, false)
            ]
        );
        assert_eq!(at(midnight + 3600, Again::No)[1], line("2026-11-23", None, true));
        let since = Again::From(day("2026-11-23"));
        assert_eq!(at(midnight, since)[1], line("2026-11-23", None, false));
        assert_eq!(at(midnight, since).len(), 3);
        assert_eq!(at(midnight, Again::All)[0], line("2026-11-21", None, true));
    }
}
