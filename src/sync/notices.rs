//! Limits progress NOTICEs: at most one per second, one for consecutive days without visits, and a
//! last one. Pure.

use std::time::{Duration, Instant};

use chrono::NaiveDate;

/// Minimum time between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// State of a sync's NOTICEs, kept across its transactions.
#[derive(Debug, Clone, Copy)]
pub struct Notices {
    /// Time of the last line, or start of the sync.
    last: Instant,
    /// The last stored day, if it was stored since.
    unsaid: Option<NaiveDate>,
    /// Whether the last line was for days without visits, and no day with visits has followed.
    is_quiet: bool,
}

impl Notices {
    /// State at the start of a sync.
    pub fn begin() -> Notices {
        Notices::begin_at(Instant::now())
    }

    fn begin_at(now: Instant) -> Notices {
        Notices { last: now, unsaid: None, is_quiet: false }
    }

    /// Whether to send a line for a stored day.
    pub fn say(&mut self, day: NaiveDate, has_visits: bool) -> bool {
        self.say_at(Instant::now(), day, has_visits)
    }

    fn say_at(&mut self, now: Instant, day: NaiveDate, has_visits: bool) -> bool {
        self.unsaid = Some(day);
        self.is_quiet &= !has_visits;
        if self.is_quiet || now.duration_since(self.last) < PAUSE {
            return false;
        }
        *self = Notices { last: now, unsaid: None, is_quiet: !has_visits };
        true
    }

    /// The day of the last line at the end of the sync, if one is due.
    pub fn end(&mut self) -> Option<NaiveDate> {
        self.unsaid.take()
    }
}

/// A number with commas between thousands.
pub fn readable(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For days that take `every` milliseconds each: the days with a line, and whether there is a
    /// last line.
    fn said(every: u64, days: &[bool]) -> (Vec<usize>, bool) {
        let begin = Instant::now();
        let mut notices = Notices::begin_at(begin);
        let mut said = Vec::new();
        for (index, has_visits) in days.iter().enumerate() {
            let now = begin + Duration::from_millis(every * (index as u64 + 1));
            if notices.say_at(now, NaiveDate::default(), *has_visits) {
                said.push(index);
            }
        }
        (said, notices.end().is_some())
    }

    #[test]
    fn a_line_a_second_and_a_last_one() {
        assert_eq!(said(400, &[true; 8]), (vec![2, 5], true));
        assert_eq!(said(2_000, &[true; 3]), (vec![0, 1, 2], false));
        // Two years of days in seven seconds.
        let (lines, last) = said(10, &[true; 730]);
        assert_eq!((lines.len(), last), (7, true));
    }

    #[test]
    fn a_short_sync_says_one_line() {
        assert_eq!(said(10, &[true; 21]), (vec![], true));
        assert_eq!(said(10, &[]), (vec![], false));
    }

    #[test]
    fn days_without_visits_are_one_line() {
        let mut days = [false; 100].to_vec();
        assert_eq!(said(500, &days), (vec![1], true));
        days.extend([true, true]);
        days.extend([false; 50]);
        assert_eq!(said(1_000, &days), (vec![0, 100, 101, 102], true));
    }

    #[test]
    fn thousands() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567"), (-1_000, "-1,000")]
        {
            assert_eq!(readable(number), text);
        }
        assert_eq!(readable(i64::MIN), "-9,223,372,036,854,775,808");
    }
}
