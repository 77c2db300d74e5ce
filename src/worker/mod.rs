//! Runs of registered sites: the launcher, a coordinator per database, a process per site, and the steps
//! that processes and procedures share.

pub mod attempt;
pub mod background;
pub mod coordinator;
pub mod current_work;
pub mod holders;
pub mod launcher;
pub mod metadata_step;
pub mod phases;
pub mod procedures;
pub mod process_limits;
pub mod queue;
pub mod site_worker;
pub mod step;
pub mod upkeep;
pub mod wake;
