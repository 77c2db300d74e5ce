//! Which site-days a sync has to ask for. Pure.

use chrono::{Days, NaiveDate};

use crate::error::{Error, Result};
use crate::zone::Zone;

/// Where a sync begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The caller named the day.
    Day(NaiveDate),
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
        // 23:00 UTC is the next day already where the clock is two hours ahead.
        let late = day("2026-11-22").and_hms_opt(23, 0, 0).unwrap().and_utc().timestamp();
        let days = days(Start::Newest(late), None, day("2026-11-24"), Zone::Fixed(7200)).unwrap();
        assert_eq!(days[0], day("2026-11-21"));
    }
}
