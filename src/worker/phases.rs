//! The order of the work on a registered site, which processes and procedures share: the steps of a run, the
//! names of goals and custom dimensions, the steps of the upkeep.

use crate::error::Result;
use crate::worker::current_work::{self, Phase};
use crate::worker::metadata_step;
use crate::worker::step::{self, Status};
use crate::worker::upkeep::{self, UpkeepStatus};

/// Does the next piece of work, within the caller's transaction. Returns the phase that follows. The failure of a
/// run is left in [`current_work::Work::failed`]: it does not stop the upkeep.
///
/// # Errors
/// Only internal ones.
pub fn step(site: i32, phase: Phase) -> Result<Phase> {
    Ok(match phase {
        Phase::Run(run) => match step::step(run) {
            Status::Running => phase,
            Status::Skipped => Phase::End,
            Status::Succeeded => current_work::with(|work| work.metadata_day)?
                .map_or(Phase::Upkeep(0), Phase::Metadata),
            Status::Failed(failed) => {
                current_work::with(|work| work.failed = Some(failed))?;
                Phase::Upkeep(0)
            }
        },
        Phase::Metadata(today) => {
            metadata_step::step(site, today);
            Phase::Upkeep(0)
        }
        Phase::Upkeep(tries) => match upkeep::step(site) {
            UpkeepStatus::More => Phase::Upkeep(0),
            // The next run tries again.
            UpkeepStatus::Blocked if tries < upkeep::MOST_TRIES => Phase::Upkeep(tries + 1),
            _ => Phase::End,
        },
        Phase::End => Phase::End,
    })
}
