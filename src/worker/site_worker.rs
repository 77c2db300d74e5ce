//! The process that works on one registered site: syncs it for a turn, and looks after its table. It
//! does what the procedures do, by the same functions, a transaction a step; then it ends.

use std::time::{Duration, Instant};

use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder};
use pgrx::prelude::*;

use crate::pg::failed::Failed;
use crate::worker::background::{self, Database, builder};
use crate::worker::queue::{self, Task};
use crate::worker::step::{self, Status};
use crate::worker::upkeep::{self, Outcome};

/// How long one site goes on while others may wait: a step is begun no later than that.
const TURN: Duration = Duration::from_secs(5);

/// What a run is called for by, in `matomo_runs`.
const COMMAND: &str = "background worker";

/// A process of this database for an task.
pub fn process(task: &Task) -> BackgroundWorkerBuilder {
    // SAFETY: main thread; a number that is set when the process begins.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let Task { site, syncs, tends, .. } = task;
    builder(&format!("matomo worker: site {site}"), "matomo worker", "matomo_worker_main")
        .set_extra(&format!("{database} {site} {syncs} {tends}"))
}

/// The process; its argument is what `process` has written.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn matomo_worker_main(_argument: pg_sys::Datum) {
    let mut words = BackgroundWorker::get_extra().split(' ');
    let mut number = || words.next().and_then(|word| word.parse::<u32>().ok()).unwrap_or_default();
    let (database, site) = (number(), number().cast_signed());
    let mut is = || words.next() == Some("true");
    let (syncs, tends) = (is(), is());
    background::begin(Database::Of(database.into()));
    if syncs && let Err(failed) = sync(site) {
        warn(site, failed);
    }
    if tends && let Err(failed) = look_after(site) {
        warn(site, failed);
    }
}

fn warn(site: i32, failed: Failed) {
    failed.about(&format!("registered site {site}")).tell(PgLogLevel::WARNING);
}

/// A turn of a run.
fn sync(site: i32) -> Result<(), Failed> {
    let since = Instant::now();
    let begin = || {
        // Somebody may have dropped it meanwhile.
        if queue::is_created()? { step::begin(site, COMMAND, false) } else { Ok(None) }
    };
    let Some(run) = background::transaction(begin)? else { return Ok(()) };
    loop {
        // Signals are looked at between any two steps.
        background::sleep(Duration::ZERO);
        match background::transaction(|| Ok(step::step(run)))? {
            Status::Running if since.elapsed() < TURN => {}
            Status::Running => return background::transaction(|| step::pause(run)),
            Status::Failed(failed) => return Err(failed),
            Status::Succeeded | Status::Skipped => return Ok(()),
        }
    }
}

/// The upkeep, as far as it comes in a turn.
fn look_after(site: i32) -> Result<(), Failed> {
    let (since, mut tries) = (Instant::now(), 0);
    while since.elapsed() < TURN || tries > 0 {
        background::sleep(if tries > 0 { upkeep::BETWEEN_TRIES } else { Duration::ZERO });
        let step = || if queue::is_created()? { Ok(upkeep::step(site)) } else { Ok(Outcome::Done) };
        match background::transaction(step)? {
            Outcome::More => tries = 0,
            Outcome::Blocked if tries < upkeep::MOST_TRIES => tries += 1,
            _ => break,
        }
    }
    Ok(())
}
