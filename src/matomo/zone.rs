//! A site's timezone: from wall clock to instant and back. Pure.
//!
//! Instants and wall clocks are seconds: since 1970-01-01 UTC, or since 1970-01-01 00:00 on the
//! site's clock.

use chrono::{DateTime, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone};
use chrono_tz::Tz;

/// An IANA zone, or Matomo's own `UTC+2` and `UTC-3.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// A zone of the IANA database.
    Iana(Tz),
    /// A fixed offset, in seconds east of UTC.
    Fixed(i32),
}

impl Zone {
    /// Parses the `timezone` of `SitesManager.getSiteFromId`; `None` for an unknown name.
    pub fn parse(name: &str) -> Option<Zone> {
        if let Some(hours) = name.strip_prefix("UTC").filter(|hours| !hours.is_empty()) {
            let hours: f64 = hours.parse().ok()?;
            return (hours.abs() <= 24.0).then(|| Zone::Fixed((hours * 3600.0).round() as i32));
        }
        name.parse().ok().map(Zone::Iana)
    }

    /// The offset from UTC at an instant, in seconds.
    pub fn offset_at(self, instant: i64) -> i64 {
        match self {
            Zone::Fixed(seconds) => seconds.into(),
            Zone::Iana(tz) => naive(instant)
                .map_or(0, |utc| tz.offset_from_utc_datetime(&utc).fix().local_minus_utc().into()),
        }
    }

    /// The instants at which the site's clock shows `wall`: two in the repeated hour of autumn (the
    /// earlier first), else one. A time skipped in spring is read with the offset before the
    /// change.
    pub fn instants(self, wall: i64) -> (i64, Option<i64>) {
        let (Zone::Iana(tz), Some(local)) = (self, naive(wall)) else {
            return (wall - self.offset_at(wall), None);
        };
        match tz.from_local_datetime(&local) {
            LocalResult::Single(at) => (at.timestamp(), None),
            LocalResult::Ambiguous(a, b) => {
                let (a, b) = (a.timestamp(), b.timestamp());
                (a.min(b), Some(a.max(b)))
            }
            // No zone changes twice within a day, so the day before still has the old offset.
            LocalResult::None => {
                (wall - self.offset_at(wall - self.offset_at(wall) - 86_400), None)
            }
        }
    }

    /// The site-day in which an instant lies.
    pub fn day(self, instant: i64) -> Option<NaiveDate> {
        naive(instant.checked_add(self.offset_at(instant))?).map(|local| local.date())
    }

    /// The instant at which a site-day begins.
    pub fn midnight(self, day: NaiveDate) -> i64 {
        self.instants(day.and_time(NaiveTime::MIN).and_utc().timestamp()).0
    }

    /// The instant at which the site-day after a day begins.
    pub fn day_end(self, day: NaiveDate) -> i64 {
        day.succ_opt().map_or(i64::MAX, |next| self.midnight(next))
    }
}

fn naive(seconds: i64) -> Option<NaiveDateTime> {
    DateTime::from_timestamp(seconds, 0).map(|at| at.naive_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<DateTime<chrono::Utc>>().unwrap().timestamp()
    }

    #[test]
    fn names_of_matomo() {
        assert_eq!(Zone::parse("UTC-3.5"), Some(Zone::Fixed(-12_600)));
        assert_eq!(Zone::parse("UTC+2"), Some(Zone::Fixed(7_200)));
        assert_eq!(Zone::parse("UTC+5.75"), Some(Zone::Fixed(20_700)));
        assert_eq!(Zone::parse("UTC").map(|zone| zone.offset_at(0)), Some(0));
        assert_eq!(Zone::parse("Europe/Paris"), Some(Zone::Iana(Tz::Europe__Paris)));
        for unknown in ["", "Mars/Olympus", "UTC+x", "UTC+99", "UTC+NaN"] {
            assert_eq!(Zone::parse(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn the_repeated_hour_has_two_instants_and_the_skipped_one_has_one() {
        let paris = Zone::Iana(Tz::Europe__Paris);
        assert_eq!(
            paris.instants(at("2026-10-25T02:30:00Z")),
            (at("2026-10-25T00:30:00Z"), Some(at("2026-10-25T01:30:00Z")))
        );
        assert_eq!(paris.instants(at("2026-03-29T02:30:00Z")), (at("2026-03-29T01:30:00Z"), None));
        assert_eq!(paris.instants(at("2026-07-01T12:00:00Z")).0, at("2026-07-01T10:00:00Z"));
    }

    #[test]
    fn days_begin_at_the_sites_midnight() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        let paris = Zone::Iana(Tz::Europe__Paris);
        assert_eq!(paris.midnight(day("2026-10-25")), at("2026-10-24T22:00:00Z"));
        assert_eq!(paris.midnight(day("2026-10-26")), at("2026-10-25T23:00:00Z"));
        assert_eq!(paris.day(at("2026-10-25T22:59:59Z")), Some(day("2026-10-25")));
        assert_eq!(paris.day(at("2026-10-25T23:00:00Z")), Some(day("2026-10-26")));
        // A midnight that does not exist: Cairo's clock jumps from 00:00 to 01:00.
        let cairo = Zone::Iana(Tz::Africa__Cairo);
        assert_eq!(cairo.midnight(day("2026-04-24")), at("2026-04-23T22:00:00Z"));
        assert_eq!(Zone::Fixed(-12_600).midnight(day("2026-01-01")), at("2026-01-01T03:30:00Z"));
    }
}
