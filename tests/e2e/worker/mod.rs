//! The background worker, the procedures, and long use.

mod blocked_drops;
mod cron;
mod ends;
mod fleet;
mod forged_runs;
mod hostages;
mod meanwhile;
mod metadata;
mod monitoring;
mod procedure_faults;
mod procedures;
mod soak;
mod standstill;
mod upkeep;
mod weeks;
mod worker_faults;
mod worker_life;
mod worker_sync;
mod year;
