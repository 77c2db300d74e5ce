//! Finds ledger entries that are no longer valid: the site's timezone, `matomo.action_time` or the
//! server's clock may have changed since they were written. Pure.

use std::collections::BTreeMap;

use chrono::NaiveDate;

use crate::matomo::zone::Zone;
use crate::rows::site_context::ActionTime;
use crate::state::day_state::DayState;
use crate::state::ledger::LedgerEntry;
use crate::sync::plan::Due;

/// What is known of each day, given the current time and `matomo.action_time`. Of an open day that
/// does not match `matomo.action_time`, nothing is known: it is read whole.
pub fn known(
    entries: &BTreeMap<NaiveDate, LedgerEntry>,
    zone: Zone,
    action_time: ActionTime,
    now: i64,
) -> BTreeMap<NaiveDate, DayState> {
    let known = |entry: &LedgerEntry| {
        let mut known = entry.state.clone();
        known.newest = known.newest.map(|newest| newest.min(known.read_at));
        // A clock that was ahead may have sealed it too early.
        known.sealed &= span(zone, entry.day).1 <= now;
        let is_of_kind = entry.action_time.is_none_or(|kind| kind == action_time);
        if known.sealed || is_of_kind { known } else { DayState::default() }
    };
    entries.iter().map(|(day, entry)| (*day, known(entry))).collect()
}

/// Start and end of a day.
fn span(zone: Zone, day: NaiveDate) -> (i64, i64) {
    (zone.midnight(day), zone.day_end(day))
}

/// The days that were read in other timezones, in two lists: those that stay valid, as their time in this
/// timezone is all covered by sealed days, and the others, at the ends of the copied range. With
/// `has_day`, the rows have the day of their visit, and days with visits do not stay valid.
pub fn of_other_zones(
    entries: &BTreeMap<NaiveDate, LedgerEntry>,
    zone: Zone,
    has_day: bool,
) -> (Vec<NaiveDate>, Vec<NaiveDate>) {
    let is_other = |entry: &&LedgerEntry| Zone::parse(&entry.timezone) != Some(zone);
    let others: Vec<_> = entries.values().filter(is_other).collect();
    if others.is_empty() {
        return Default::default();
    }
    let sealed = entries.values().filter(|entry| entry.state.sealed);
    let spans = sealed.filter_map(|entry| Some(span(Zone::parse(&entry.timezone)?, entry.day)));
    let mut spans: Vec<_> = spans.collect();
    spans.sort_unstable();
    let mut union: Vec<(i64, i64)> = Vec::new();
    for (from, to) in spans {
        match union.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => union.push((from, to)),
        }
    }
    let is_covered = |entry: &&LedgerEntry| {
        let (begin, end) = span(zone, entry.day);
        let before = union.partition_point(|(from, _)| *from <= begin);
        let is_within = before.checked_sub(1).is_some_and(|place| end <= union[place].1);
        let is_right = !has_day || entry.counts.visits == 0;
        entry.state.sealed && is_within && is_right
    };
    let (covered, open): (Vec<_>, Vec<_>) = others.into_iter().partition(is_covered);
    let days = |entries: Vec<&LedgerEntry>| entries.into_iter().map(|entry| entry.day).collect();
    (days(covered), days(open))
}

/// The first and last day with rows that do not match `matomo.action_time` and are not due, and the
/// kind of time in these rows.
pub fn of_other_kind(
    entries: &BTreeMap<NaiveDate, LedgerEntry>,
    days: &[NaiveDate],
    due: &[Due],
    action_time: ActionTime,
) -> Option<(NaiveDate, NaiveDate, ActionTime)> {
    let other = |day: &&NaiveDate| {
        let entry = entries.get(day)?;
        let kind = entry.action_time.filter(|kind| *kind != action_time)?;
        let stays = entry.counts.actions > 0 && due.iter().all(|due| due.day != **day);
        stays.then_some((**day, kind))
    };
    let mut found = days.iter().filter_map(|day| other(&day));
    let (first, kind) = found.next()?;
    Some((first, found.next_back().map_or(first, |(last, _)| last), kind))
}

#[cfg(test)]
mod tests {
    use chrono::Days;

    use super::*;
    use crate::sync::plan::Extent;

    const KIND: ActionTime = ActionTime::Utc;

    fn day(n: u64) -> NaiveDate {
        "2026-11-01".parse::<NaiveDate>().unwrap() + Days::new(n)
    }

    fn entry(n: u64, zone: &str, sealed: bool) -> LedgerEntry {
        let read_at = span(Zone::parse(zone).unwrap(), day(n)).1 + 9;
        let known = DayState { sealed, newest: Some(read_at - 10), read_at, ..DayState::default() };
        LedgerEntry { state: known, action_time: Some(KIND), ..LedgerEntry::new(day(n), zone) }
    }

    fn all(entries: &[LedgerEntry]) -> BTreeMap<NaiveDate, LedgerEntry> {
        entries.iter().map(|entry| (entry.day, entry.clone())).collect()
    }

    #[test]
    fn the_ends_of_what_was_copied_in_another_timezone_are_read_again() {
        let cases: [(&str, &str, &[u64]); 6] = [
            ("UTC", "UTC", &[]),
            ("UTC", "UTC+0", &[]),
            // Days that begin earlier now: the first ones; later: the last ones.
            ("UTC", "UTC+1", &[1, 7]),
            ("UTC", "UTC-1", &[4, 9]),
            ("Pacific/Niue", "Pacific/Kiritimati", &[1, 2, 7, 8]),
            ("Pacific/Kiritimati", "Pacific/Niue", &[3, 4, 8, 9]),
        ];
        for (before, after, expected) in cases {
            let copied = [1, 2, 3, 4, 7, 8, 9].map(|n| entry(n, before, true));
            let (covered, open) = of_other_zones(&all(&copied), Zone::parse(after).unwrap(), false);
            assert_eq!(open, expected.iter().map(|n| day(*n)).collect::<Vec<_>>(), "{before}");
            assert!(before == after || covered.len() + open.len() == 7, "{before} to {after}");
        }
        // An open day, and one that was read in the new timezone.
        let mut entries = [1, 2, 3, 4].map(|n| entry(n, "UTC", n < 4));
        entries[0] = entry(1, "UTC+1", true);
        let (covered, open) = of_other_zones(&all(&entries), Zone::Fixed(3600), false);
        assert_eq!((covered, open), (vec![day(3)], vec![day(2), day(4)]));
    }

    #[test]
    fn neither_seal_nor_cursor_is_ahead_of_the_clock() {
        let entries = [entry(1, "UTC", true), entry(2, "UTC", true)];
        let zone = Zone::parse("UTC").unwrap();
        let now = span(zone, day(1)).1;
        let known = known(&all(&entries), zone, KIND, now);
        assert_eq!((known[&day(1)].sealed, known[&day(2)].sealed), (true, false));
        let mut ahead = entry(1, "UTC", false);
        ahead.state.newest = Some(ahead.state.read_at + 500);
        let known = super::known(&all(&[ahead.clone()]), zone, KIND, now);
        assert_eq!(known[&day(1)].newest, Some(ahead.state.read_at));
    }

    #[test]
    fn days_of_the_other_kind_of_time_are_read_again_or_told() {
        let mut entries = [1, 2, 3, 4].map(|n| entry(n, "UTC", n < 4));
        entries.iter_mut().for_each(|entry| entry.counts.actions = 1);
        entries[0].counts.actions = 0;
        let entries = all(&entries);
        let days = [1, 2, 3, 4].map(day);
        let kind = ActionTime::AsSent;
        let zone = Zone::parse("UTC").unwrap();
        let known = known(&entries, zone, kind, i64::MAX);
        assert_eq!((known[&day(3)].sealed, &known[&day(4)]), (true, &DayState::default()));
        let due = |n: u64| Due { day: day(n), extent: Extent::Whole, seals: false, recheck: None };
        let other = |due: &[Due], kind| of_other_kind(&entries, &days, due, kind);
        assert_eq!(other(&[due(4)], kind), Some((day(2), day(3), KIND)));
        assert_eq!(other(&[due(3), due(4)], kind), Some((day(2), day(2), KIND)));
        assert_eq!(other(&[due(2), due(3), due(4)], kind), None);
        assert_eq!(other(&[due(4)], KIND), None);
    }
}
