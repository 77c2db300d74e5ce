use super::*;
use crate::rows::visit_tally::VisitTally;

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
    // 23:00 UTC is already the next day in a timezone two hours ahead.
    let late = day("2026-11-22").and_hms_opt(23, 0, 0).unwrap().and_utc().timestamp();
    let days = days(Start::Newest(late), None, day("2026-11-24"), Zone::Fixed(7200)).unwrap();
    assert_eq!(days[0], day("2026-11-21"));
}

fn whole(text: &str, seals: bool) -> Due {
    Due { day: day(text), extent: Extent::Whole, seals, recheck: None }
}

fn times(now: i64, run_began: i64, settle: i64) -> Times {
    Times { now, run_began, settle, overlap: 60, recheck: None }
}

#[test]
fn what_is_due() {
    let zone = Zone::Fixed(0);
    let days = plan(Start::Day(day("2026-11-21")), None).unwrap();
    let known = |sealed, newest| DayState { sealed, newest: Some(newest), ..DayState::default() };
    let known = BTreeMap::from([
        (day("2026-11-21"), known(true, 1)),
        (day("2026-11-22"), known(false, 2)),
        (day("2026-11-23"), known(false, 3)),
    ]);
    let midnight = zone.midnight(day("2026-11-24"));
    let at = |now: i64, again: Reread| due(&days, &known, again, zone, times(now, now, 3600));
    // An hour before the 23rd has settled, and when it has.
    assert_eq!(
        at(midnight + 3599, Reread::No),
        [
            whole("2026-11-22", true),
            Due { extent: Extent::Since(3 - 60), ..whole("2026-11-23", false) },
            whole("2026-11-24", false)
        ]
    );
    assert_eq!(at(midnight + 3600, Reread::No)[1], whole("2026-11-23", true));
    let since = Reread::From(day("2026-11-23"));
    assert_eq!(at(midnight, since)[1], whole("2026-11-23", false));
    assert_eq!(at(midnight, since).len(), 3);
    assert_eq!(at(midnight, Reread::All)[0], whole("2026-11-21", true));
}

#[test]
fn a_reading_that_was_broken_off_resumes() {
    let zone = Zone::Fixed(0);
    let the_day = day("2026-11-22");
    let midnight = zone.midnight(day("2026-11-23"));
    let extent = |sealed: bool, began: i64, again: Reread, now: i64, run_began: i64| {
        let pass = Pass { began, since: 7, tally: Some(met()) };
        let known =
            DayState { sealed, newest: Some(9), pass: Some(pass.clone()), ..DayState::default() };
        let known = BTreeMap::from([(the_day, known)]);
        let due = due(&[the_day], &known, again, zone, times(now, run_began, 100));
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
    // Begun after the day had settled, by this run or an earlier one.
    assert_eq!(extent(false, settled, Reread::No, settled + 50, settled + 40), Some("rest"));
    // Begun before that: it cannot seal the day.
    assert_eq!(extent(false, settled - 1, Reread::No, settled + 50, settled - 1), Some("whole"));
    // An open day resumes from its newest visit.
    assert_eq!(extent(false, midnight, Reread::No, midnight, midnight), Some("since"));
    // A sealed day is finished, even if a later reading of it is not.
    assert_eq!(extent(true, settled, Reread::No, settled + 50, settled + 40), None);
    // A day to read again is read whole once by each run.
    assert_eq!(extent(true, settled, Reread::All, settled + 50, settled + 40), Some("whole"));
    assert_eq!(extent(true, settled + 45, Reread::All, settled + 50, settled + 40), Some("rest"));
    assert_eq!(extent(false, midnight, Reread::All, midnight + 9, midnight), Some("rest"));
}

#[test]
fn an_open_day_is_rechecked_now_and_then() {
    let (zone, the_day) = (Zone::Fixed(0), day("2026-11-22"));
    let midnight = zone.midnight(the_day);
    let recheck = |rechecked, pass: Option<Pass>, every, now: i64| {
        let known = DayState {
            sealed: false,
            newest: Some(midnight + 9),
            rechecked,
            pass,
            ..DayState::default()
        };
        let known = BTreeMap::from([(the_day, known)]);
        let times = Times { recheck: every, ..times(now, now, 100) };
        due(&[the_day], &known, Reread::No, zone, times).remove(0).recheck
    };
    let now = midnight + 10_000;
    let begun = |began, since| Some(Pass { began, since, tally: None });
    assert_eq!(recheck(Some(now - 3599), None, Some(3600), now), None);
    assert_eq!(recheck(Some(now - 3600), None, Some(3600), now), begun(now, midnight));
    assert_eq!(recheck(None, None, None, now), None);
    assert_eq!(recheck(None, None, Some(3600), now), begun(now, midnight));
    // A recheck in the future, by a clock that was ahead, does not count.
    assert_eq!(recheck(Some(now + 1), None, Some(3600), now), begun(now, midnight));
    // An unfinished recheck resumes; so does an unfinished reading of the whole day, as a recheck.
    let half = begun(now - 50, midnight + 5);
    assert_eq!(recheck(None, half.clone(), Some(3600), now), half);
    let read = half.clone().map(|pass| Pass { tally: Some(met()), ..pass });
    assert_eq!(recheck(None, read, Some(3600), now), half);
    // An unfinished recheck seals nothing.
    let known = DayState { pass: begun(midnight + 90_000, midnight), ..DayState::default() };
    let known = BTreeMap::from([(the_day, known)]);
    let at = midnight + 100_000;
    let due = due(&[the_day], &known, Reread::No, zone, times(at, at, 100));
    assert_eq!(due, [whole("2026-11-22", true)]);
}

#[test]
fn a_run_reads_the_overlap_once() {
    let (zone, the_day) = (Zone::Fixed(0), day("2026-11-22"));
    let since = |began: i64, tally: Option<VisitTally>| {
        let pass = Some(Pass { began, since: 4950, tally });
        let known = DayState { newest: Some(5000), pass, ..DayState::default() };
        let known = BTreeMap::from([(the_day, known)]);
        due(&[the_day], &known, Reread::No, zone, times(9000, 8000, 100)).remove(0).extent
    };
    // It resumes where it was, within the overlap or after it.
    assert_eq!(since(8000, Some(VisitTally::default())), Extent::Since(4950));
    assert_eq!(since(8000, Some(met())), Extent::Since(5000));
    assert_eq!(since(8000, None), Extent::Since(5000));
    // The next run reads it again.
    for tally in [None, Some(VisitTally::default()), Some(met())] {
        assert_eq!(since(7999, tally), Extent::Since(4940));
    }
}

fn met() -> VisitTally {
    let mut tally = VisitTally::default();
    tally.insert(1, 1, false);
    tally
}
