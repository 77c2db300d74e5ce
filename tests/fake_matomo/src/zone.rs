//! Matomo's timezone names, and the days of a site.

use chrono::{DateTime, Days, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone};
use chrono_tz::Tz;

/// An IANA zone, or one of Matomo's own fixed offsets (`UTC+2`, `UTC-3.5`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Zone {
    /// A zone of the tz database.
    Named(Tz),
    /// Seconds east of UTC.
    Fixed(i64),
}

impl Zone {
    /// Parses a timezone's name; `None` when Matomo does not know it either.
    pub fn parse(name: &str) -> Option<Zone> {
        if let Some(hours) = name.strip_prefix("UTC").filter(|rest| !rest.is_empty()) {
            let hours: f64 = hours.parse().ok()?;
            return (hours.abs() <= 14.0).then_some(Zone::Fixed((hours * 3600.0).round() as i64));
        }
        name.parse().ok().map(Zone::Named)
    }

    /// The zone's offset from UTC at this instant, in seconds.
    pub fn offset(&self, instant: i64) -> i64 {
        match self {
            Zone::Fixed(seconds) => *seconds,
            Zone::Named(tz) => {
                let offset = tz.offset_from_utc_datetime(&utc(instant));
                i64::from(offset.fix().local_minus_utc())
            }
        }
    }

    /// The zone's wall clock at this instant.
    pub fn wall(&self, instant: i64) -> NaiveDateTime {
        utc(instant + self.offset(instant))
    }

    pub fn day(&self, instant: i64) -> NaiveDate {
        self.wall(instant).date()
    }

    /// The first instant of the day. Where the clocks skip midnight, the instant of the change.
    pub fn midnight(&self, day: NaiveDate) -> i64 {
        self.instant(day.and_time(NaiveTime::MIN))
    }

    /// The earliest instant at which the clocks show this time.
    pub fn instant(&self, wall: NaiveDateTime) -> i64 {
        let as_utc = wall.and_utc().timestamp();
        match self {
            Zone::Fixed(seconds) => as_utc - seconds,
            Zone::Named(tz) => match tz.from_local_datetime(&wall) {
                LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => at.timestamp(),
                // Skipped by the clocks: with the offset before the gap it lands just after the
                // gap.
                LocalResult::None => as_utc - self.offset(as_utc - 86_400),
            },
        }
    }

    /// The instant within the day at which the zone's offset changes, if it does.
    pub fn change_within(&self, day: NaiveDate) -> Option<i64> {
        let (mut low, mut high) = (self.midnight(day), self.midnight(next(day)));
        let before = self.offset(low);
        if self.offset(high) == before {
            return None;
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.offset(middle) == before {
                low = middle;
            } else {
                high = middle;
            }
        }
        Some(high)
    }
}

pub fn next(day: NaiveDate) -> NaiveDate {
    day + Days::new(1)
}

/// The days from the first to the last, both included.
pub fn days(first: NaiveDate, last: NaiveDate) -> impl Iterator<Item = NaiveDate> {
    first.iter_days().take_while(move |day| *day <= last)
}

/// Unix seconds as a calendar time in UTC.
pub fn utc(instant: i64) -> NaiveDateTime {
    DateTime::from_timestamp(instant, 0).unwrap_or_default().naive_utc()
}
