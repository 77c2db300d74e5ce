//! The true instants of a visit's actions. Pure.
//!
//! Matomo sends an action's `timestamp` in the site's wall clock, but the first and last instant of
//! the visit in UTC. In the hour that autumn repeats, a wall-clock time has two instants: the
//! visit's bounds, the order of its actions and the time spent on its pages decide.

use crate::matomo::zone::Zone;

/// The times of an action: its wall clock, and for page views the seconds until the next one, if
/// known.
#[derive(Debug, Clone, Copy)]
pub struct ActionClock {
    pub wall: Option<i64>,
    pub time_spent: Option<i64>,
}

/// The instants of the actions in order, in seconds; `None` for an action without wall clock.
/// `first` and `last` are the visit's; `whole` tells that no action was cut off.
pub fn true_times(
    zone: Zone,
    first: Option<i64>,
    last: Option<i64>,
    whole: bool,
    actions: &[ActionClock],
) -> Vec<Option<i64>> {
    let candidates: Vec<_> =
        actions.iter().map(|action| action.wall.map(|wall| zone.instants(wall))).collect();
    let latest = latest_possible(&candidates, last);
    let end = actions.iter().rposition(|action| action.wall.is_some());
    let mut earliest = first.unwrap_or(i64::MIN);
    let mut next_page = None;
    let mut times = Vec::with_capacity(actions.len());
    for (index, action) in actions.iter().enumerate() {
        let Some((one, two)) = candidates[index] else {
            times.push(None);
            continue;
        };
        let time = match two {
            None => one,
            Some(two) => {
                let possible = |at: i64| earliest <= at && at <= latest[index];
                let is_end = whole && end == Some(index) && last == Some(two);
                match (possible(one), possible(two)) {
                    (true, true) if is_end || next_page == Some(two) => two,
                    // Two actions of a visit are less than the repeated hour apart.
                    (true, _) => one,
                    (false, true) => two,
                    // The visit's times are contradictory: take the one nearer to the previous
                    // action.
                    (false, false) if one < earliest => two,
                    (false, false) => one,
                }
            }
        };
        earliest = earliest.max(time);
        if let Some(seconds) = action.time_spent {
            next_page = time.checked_add(seconds);
        }
        times.push(Some(time));
    }
    times
}

/// For each action the latest instant that leaves room for the following ones.
fn latest_possible(candidates: &[Option<(i64, Option<i64>)>], last: Option<i64>) -> Vec<i64> {
    let mut bound = last.unwrap_or(i64::MAX);
    let mut bounds = vec![bound; candidates.len()];
    for (index, candidate) in candidates.iter().enumerate().rev() {
        bounds[index] = bound;
        if let Some((one, two)) = candidate {
            let latest = two.filter(|two| *two <= bound).unwrap_or(*one);
            bound = bound.min(latest);
        }
    }
    bounds
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;
    use proptest::prelude::*;

    use super::*;

    const PARIS: Zone = Zone::Iana(Tz::Europe__Paris);
    /// 2026-10-25 00:00 UTC, when the clock shows 02:00 for the first time.
    const FIRST_PASS: i64 = 1_792_886_400;
    const SECOND_PASS: i64 = FIRST_PASS + 3600;

    fn wall(instant: i64) -> ActionClock {
        ActionClock { wall: Some(instant + PARIS.offset_at(instant)), time_spent: None }
    }

    fn proven(instants: &[i64]) {
        let actions: Vec<_> = instants.iter().map(|at| wall(*at)).collect();
        let (first, last) = (instants.first().copied(), instants.last().copied());
        let times = true_times(PARIS, first, last, true, &actions);
        let expected: Vec<_> = instants.iter().map(|at| Some(*at)).collect();
        assert_eq!(times, expected);
    }

    #[test]
    fn both_passes_of_the_repeated_hour() {
        proven(&[FIRST_PASS + 600]);
        proven(&[SECOND_PASS + 600]);
        proven(&[FIRST_PASS + 600, FIRST_PASS + 1200]);
        proven(&[SECOND_PASS + 600, SECOND_PASS + 1200]);
        proven(&[FIRST_PASS + 3000, SECOND_PASS + 10]);
        proven(&[
            FIRST_PASS - 600,
            FIRST_PASS + 900,
            SECOND_PASS + 300,
            SECOND_PASS + 1800,
            SECOND_PASS + 3601,
        ]);
        // Only the visit's last instant tells.
        proven(&[FIRST_PASS + 600, SECOND_PASS + 1200]);
    }

    #[test]
    fn time_spent_tells_where_the_hour_passed() {
        let mut actions =
            [wall(FIRST_PASS + 600), wall(SECOND_PASS + 900), wall(SECOND_PASS + 1200)];
        let bounds = (Some(FIRST_PASS + 600), Some(SECOND_PASS + 1200));
        actions[0].time_spent = Some(3900);
        let times = true_times(PARIS, bounds.0, bounds.1, true, &actions);
        assert_eq!(times[1], Some(SECOND_PASS + 900));
        actions[0].time_spent = Some(300);
        let times = true_times(PARIS, bounds.0, bounds.1, true, &actions);
        assert_eq!(times[1], Some(FIRST_PASS + 900));
    }

    #[test]
    fn a_cut_visit_need_not_end_at_its_last_instant() {
        let actions = [wall(FIRST_PASS + 600), wall(FIRST_PASS + 1200)];
        let last = Some(SECOND_PASS + 1200);
        let times = true_times(PARIS, Some(FIRST_PASS + 600), last, false, &actions);
        assert_eq!(times[1], Some(FIRST_PASS + 1200));
    }

    #[test]
    fn contradictions_and_gaps_do_no_harm() {
        let gap = ActionClock { wall: None, time_spent: None };
        assert_eq!(true_times(PARIS, None, None, true, &[gap]), [None]);
        let times = true_times(PARIS, Some(0), Some(1), true, &[wall(FIRST_PASS), gap]);
        assert_eq!(times, [Some(FIRST_PASS), None]);
        assert_eq!(true_times(PARIS, None, None, true, &[]), []);
    }

    proptest! {
        /// Hits at most half an hour apart (Matomo then begins a new visit) around the change.
        #[test]
        fn any_visit_around_the_change(
            start in -7200i64..7200,
            gaps in prop::collection::vec(0i64..=1800, 0..12),
        ) {
            let mut instants = vec![FIRST_PASS + start];
            for gap in gaps {
                instants.push(instants.last().unwrap() + gap);
            }
            proven(&instants);
        }
    }
}
