//! Random histories of hypertables of TimescaleDB.

use super::bench::Engine;
use super::course::Tally;
use super::{Histories, live_all};
use crate::support::engines::timescale;

const HISTORIES: u64 = 30;

#[test]
fn after_any_history_a_hypertable_holds_all_that_can_be_known_and_after_a_repair_everything() {
    let Some(cluster) = timescale() else { return };
    let histories = Histories { many: HISTORIES, kills: 5, engine: Some(Engine::Hypertable) };
    let sum = live_all(&histories, &cluster, || timescale().unwrap());
    if sum.histories as u64 >= HISTORIES {
        let Tally { failed, killed, killed_late, excused, found, .. } = sum;
        let rare = [failed, killed - killed_late, excused];
        assert!(rare.iter().all(|times| *times > 0), "too quiet: {sum:?}");
        assert!(found.missing > 0 && found.stale > 0, "too quiet: {sum:?}");
    }
}
