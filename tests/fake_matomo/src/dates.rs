//! Matomo's periods and dates as time limits.

use crate::params::Params;
use crate::zone::{Zone, next};
use chrono::{Datelike, Days, Months, NaiveDate};

const BAD_DATE: &str = "Date format must be: YYYY-MM-DD, or 'today' or 'yesterday' or any keyword supported by the \
    strtotime function (see http://php.net/strtotime for more information): false";

/// The days covered by `period` and `date`, both ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub first: NaiveDate,
    pub last: NaiveDate,
    /// One date with period=day. Matomo treats it differently when it is today.
    pub single_day: bool,
}

/// Reads `period` and `date`; `None` (all time) when either is missing.
///
/// # Errors
/// Matomo's own message.
pub fn span(params: &Params, today: NaiveDate) -> Result<Option<Span>, String> {
    let (Some(period), Some(date)) = (params.filled("period"), params.filled("date")) else {
        return Ok(None);
    };
    if !["day", "week", "month", "year", "range"].contains(&period) {
        return Err(format!(
            "The period '{period}' is not supported. Try any of the following instead: day, week, month, year, range"
        ));
    }
    if let Some((first, last)) = ends(date, today)? {
        return Ok(Some(Span { first, last, single_day: false }));
    }
    if period == "range" {
        return Err(format!(
            "The date '{date}' is not a correct date range. It should have the following format:  'lastN', \
             'previousN', 'YYYY-MM-DD,YYYY-MM-DD'."
        ));
    }
    let day = one(date, today)?;
    let month_start = day - Days::new(u64::from(day.day0()));
    let year_start = day - Days::new(u64::from(day.ordinal0()));
    let (first, last) = match period {
        "week" => {
            let monday = day - Days::new(u64::from(day.weekday().num_days_from_monday()));
            (monday, monday + Days::new(6))
        }
        "month" => (month_start, month_start + Months::new(1) - Days::new(1)),
        "year" => (year_start, year_start + Months::new(12) - Days::new(1)),
        _ => (day, day),
    };
    Ok(Some(Span { first, last, single_day: period == "day" }))
}

/// `D1,D2`, `lastN` and `previousN`.
fn ends(date: &str, today: NaiveDate) -> Result<Option<(NaiveDate, NaiveDate)>, String> {
    if let Some((first, last)) = date.split_once(',') {
        return Ok(Some((one(first, today)?, one(last, today)?)));
    }
    let back =
        |prefix| date.strip_prefix(prefix).and_then(|n| n.parse::<u64>().ok()).filter(|n| *n > 0);
    if let Some(n) = back("last") {
        return Ok(Some((today - Days::new(n - 1), today)));
    }
    Ok(back("previous").map(|n| (today - Days::new(n), today - Days::new(1))))
}

/// One date. Like PHP's strtotime it takes 2026-02-30 for 2026-03-02.
fn one(date: &str, today: NaiveDate) -> Result<NaiveDate, String> {
    match date {
        "today" | "now" => return Ok(today),
        "yesterday" => return Ok(today - Days::new(1)),
        _ => {}
    }
    let parts: Vec<_> = date.split('-').map(str::parse::<u32>).collect();
    let [Ok(year), Ok(month), Ok(day @ 1..=31)] = parts[..] else {
        return Err(BAD_DATE.to_owned());
    };
    let start =
        NaiveDate::from_ymd_opt(year as i32, month, 1).ok_or_else(|| BAD_DATE.to_owned())?;
    Ok(start + Days::new(u64::from(day - 1)))
}

/// The limits of a Live request on the time of the last action, both inclusive.
pub fn limits(span: Option<Span>, zone: Zone, today: NaiveDate) -> (i64, i64) {
    let Some(span) = span else {
        return (i64::MIN, i64::MAX);
    };
    if span.single_day && span.first == today {
        // Matomo's quirk: today starts at yesterday's midnight and has no end.
        return (zone.midnight(today - Days::new(1)), i64::MAX);
    }
    // A range up to today has no end; others include the first second of the next day.
    let end = if span.last == today { i64::MAX } else { zone.midnight(next(span.last)) };
    (zone.midnight(span.first), end)
}
