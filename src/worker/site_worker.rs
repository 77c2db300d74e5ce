//! The process for one registered site: syncs it or does the upkeep of its table for a turn, and ends. It
//! uses the same functions as the procedures, with a transaction per step.

use std::time::{Duration, Instant};

use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder};
use pgrx::prelude::*;

use crate::error::Error;
use crate::pg::extension::Extension;
use crate::pg::failed::Failed;
use crate::pg::locks;
use crate::state::not_begun;
use crate::worker::background::{self, Database, builder};
use crate::worker::current_work::{self, Phase};
use crate::worker::phases;
use crate::worker::queue::{self, Task};
use crate::worker::step;
use crate::worker::upkeep;

/// Length of a turn, after which other sites may follow: the last step starts before its end.
const TURN: Duration = Duration::from_secs(5);

/// Value of `command` in `matomo_runs`.
const COMMAND: &str = "background worker";

/// The process for a task, in this database.
pub fn process(task: &Task) -> BackgroundWorkerBuilder {
    // SAFETY: main thread; set at process start.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let Task { site, syncs, .. } = task;
    builder(&format!("matomo worker: site {site}"), "matomo worker", "matomo_worker_main")
        .set_extra(&format!("{database} {site} {syncs}"))
}

/// Main function of the process; its argument comes from [`process`].
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn matomo_worker_main(_argument: pg_sys::Datum) {
    let mut words = BackgroundWorker::get_extra().split(' ');
    let mut number = || words.next().and_then(|word| word.parse::<u32>().ok()).unwrap_or_default();
    let (database, site) = (number(), number().cast_signed());
    let syncs = words.next() == Some("true");
    background::begin(Database::Of(database.into()));
    if let Err(failed) = if syncs { sync(site) } else { look_after(site) } {
        failed.about(&format!("registered site {site}")).tell(PgLogLevel::WARNING);
    }
}

/// Syncs for a turn.
fn sync(site: i32) -> Result<(), Failed> {
    let since = Instant::now();
    let begun = transaction(None, || step::begin(site, COMMAND, false)).inspect_err(|failed| {
        let note = || {
            let _bounded = locks::bounded_waits();
            not_begun::note(&Extension::find()?, &[(site, failed.clone())])
        };
        if let Err(second) = transaction((), note) {
            second.about("could not note a failure").tell(PgLogLevel::WARNING);
        }
    });
    let mut phase = begun?.map_or(Phase::End, Phase::Run);
    // The upkeep has a process of its own.
    while !matches!(phase, Phase::Upkeep(_) | Phase::End) {
        // Handle signals between steps.
        background::sleep(Duration::ZERO);
        phase = transaction(Phase::End, || phases::step(site, phase))?;
        if let Phase::Run(run) = phase
            && since.elapsed() >= TURN
        {
            return background::transaction(|| step::pause(run));
        }
    }
    match current_work::with(|work| work.failed.take()) {
        Ok(Some(failed)) => Err(failed),
        _ => Ok(()),
    }
}

/// A transaction; does nothing if the extension was dropped meanwhile.
fn transaction<T>(if_dropped: T, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Failed> {
    background::transaction(|| if queue::is_created()? { work() } else { Ok(if_dropped) })
}

/// Does upkeep for a turn.
fn look_after(site: i32) -> Result<(), Failed> {
    if !transaction(false, || upkeep::begin(site))? {
        return Ok(());
    }
    let (since, mut phase) = (Instant::now(), Phase::Upkeep(0));
    while let Phase::Upkeep(tries) = phase {
        if tries == 0 && since.elapsed() >= TURN {
            break;
        }
        background::sleep(if tries > 0 { upkeep::BETWEEN_TRIES } else { Duration::ZERO });
        phase = transaction(Phase::End, || phases::step(site, phase))?;
    }
    transaction((), || upkeep::end(site))
}
