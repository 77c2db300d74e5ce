//! The coordinator of a database starts a process for each registered site that is due. It sends no
//! requests, touches no user's table, and does not wait for other sessions.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pgrx::PgSqlErrorCode;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::config::worker;
use crate::error::SiteError;
use crate::pg::ereport::warn_of;
use crate::pg::extension::Extension;
use crate::pg::failed::Failed;
use crate::pg::local_settings::LocalSettings;
use crate::state::{not_begun, restored};
use crate::worker::background::{self, Child, Database};
use crate::worker::holders;
use crate::worker::process_limits::ProcessLimits;
use crate::worker::queue::{self, Queue, Task};
use crate::worker::site_worker;

/// Wait before the next attempt after unfinished upkeep.
const UPKEEP_PAUSE: Duration = Duration::from_secs(300);

/// Main function of the process; its argument is the name of the database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn matomo_coordinator_main(_argument: pg_sys::Datum) {
    let database = BackgroundWorker::get_extra();
    background::begin(Database::Named(database));
    // Leaked, but its child processes end with this process.
    let coordinator: &mut Coordinator = background::end_with(Box::leak(Box::default()));
    loop {
        let pause = coordinator.round(database);
        let until = DateTime::<Utc>::from(std::time::SystemTime::now() + pause);
        background::show_idle(&format!(
            "matomo: {} at work, sleeps until {}",
            coordinator.at_work.len(),
            until.format("%Y-%m-%d %H:%M:%S UTC")
        ));
        background::sleep(pause);
    }
}

#[derive(Default)]
struct Coordinator {
    at_work: Vec<(Task, Child)>,
    /// Sites to leave alone for a while, for reasons that are not in their state.
    not_before: HashMap<i32, Instant>,
    /// Sites whose upkeep to leave alone for a while, unless its state changes.
    upkeep_not_before: HashMap<i32, (Instant, String)>,
    /// Crashes in each site's upkeep for which the site was already made to wait.
    upkeep_deaths: HashMap<i32, i32>,
    /// Sites that were synced since their last upkeep. It precedes the next sync: otherwise a site that is
    /// always due would get none.
    owes_upkeep: HashSet<i32>,
    /// Maximum processes of each Matomo.
    limits: ProcessLimits,
    /// The last messages, to report each only once.
    said: LastSaid,
}

#[derive(Default)]
struct LastSaid {
    missing: bool,
    no_room: bool,
    failure: Option<Failed>,
}

impl Coordinator {
    /// Handles ended processes and starts new ones for due sites. Returns the time to sleep.
    fn round(&mut self, database: &str) -> Duration {
        let naptime = worker::naptime();
        let (ended, at_work): (Vec<_>, _) =
            self.at_work.drain(..).partition(|(_, child)| child.has_ended());
        self.at_work = at_work;
        self.owes_upkeep
            .extend(ended.iter().filter(|(task, _)| task.syncs).map(|(task, _)| task.site));
        let mut queue = match look(queue::read) {
            Ok(Some(queue)) => queue,
            Ok(None) => {
                self.without_extension(database);
                return naptime;
            }
            Err(failed) => {
                self.keep_for_later(ended);
                self.complain(failed);
                return naptime.min(Duration::from_secs(1));
            }
        };
        self.said.missing = false;
        let ownerless = if queue.has_ownerless { look(note_ownerless) } else { Ok(()) };
        let outcomes = [ownerless, self.note_held()];
        if outcomes.iter().all(Result::is_ok) {
            self.said.failure = None;
        }
        outcomes.into_iter().filter_map(Result::err).for_each(|failed| self.complain(failed));
        let now = Instant::now();
        let busy: HashSet<&String> =
            ended.iter().chain(&self.at_work).map(|(task, _)| &task.matomo).collect();
        self.limits.rests(|matomo| busy.contains(matomo));
        for (task, _) in ended {
            self.see_what_came(&task, &queue, now + naptime, now + UPKEEP_PAUSE);
        }
        self.let_deaths_wait(&queue, now, naptime);
        self.not_before.retain(|_, until| *until > now);
        self.upkeep_not_before.retain(|_, (until, _)| *until > now);
        for task in &mut queue.tasks {
            task.syncs &= !self.not_before.contains_key(&task.site);
            let later = self.upkeep_not_before.get(&task.site);
            task.does_upkeep &= later.is_none_or(|(_, state)| *state != task.upkeep_state);
        }
        queue.tasks.retain(|task| task.syncs || task.does_upkeep);
        self.owes_upkeep.retain(|site| queue.tasks.iter().any(|task| task.site == *site));
        self.start(&queue);
        // One that ends while this session waits for a lock may have woken it there.
        if self.at_work.iter().any(|(_, child)| child.has_ended()) {
            return Duration::ZERO;
        }
        let again = self.not_before.values().map(|until| *until - now);
        again.chain(queue.pause).chain([naptime]).min().unwrap_or(naptime)
    }

    /// Makes a site wait after each crash in its upkeep, longer each time. The count comes from the queue, as
    /// a crash may restart the server and this process, which then remembers nothing.
    fn let_deaths_wait(&mut self, queue: &Queue, now: Instant, naptime: Duration) {
        for task in queue.tasks.iter().filter(|task| task.does_upkeep && task.upkeep_deaths > 0) {
            let is_at_work = self.at_work.iter().any(|(other, _)| other.site == task.site);
            let deaths = task.upkeep_deaths;
            if !is_at_work && self.upkeep_deaths.insert(task.site, deaths) != Some(deaths) {
                let wait =
                    naptime.min(UPKEEP_PAUSE) * 2_u32.pow(deaths.clamp(1, 8).unsigned_abs() - 1);
                let wait = (now + wait, task.upkeep_state.clone());
                self.upkeep_not_before.entry(task.site).or_insert(wait);
            }
        }
    }

    /// Records the failure of sites that a process holds for hours, such as one that was stopped.
    fn note_held(&self) -> Result<(), Failed> {
        let pid = |(task, child): &(Task, Child)| child.pid().map(|pid| (task.site, pid));
        let at_work: Vec<_> = self.at_work.iter().filter_map(pid).collect();
        look(|| {
            let extension = Extension::find()?;
            not_begun::note_held(&extension, &holders::held_sites(&extension, &at_work)?)
        })
    }

    /// Checks the result of an ended process. A site whose state it did not change would be due again at
    /// once, so it has to wait.
    fn see_what_came(&mut self, done: &Task, queue: &Queue, later: Instant, much_later: Instant) {
        let site = done.site;
        if done.syncs {
            self.limits.ended(&done.matomo, !queue.unanswered.contains(&site));
        }
        let Some(left) = queue.tasks.iter().find(|left| left.site == site) else { return };
        if done.syncs && left.syncs && left.due_at == done.due_at {
            self.not_before.insert(site, later);
        }
        if done.does_upkeep && left.does_upkeep {
            // If it is unfinished, the upkeep of other sites goes first.
            let until = if left.upkeep_state == done.upkeep_state { much_later } else { later };
            self.upkeep_not_before.insert(site, (until, left.upkeep_state.clone()));
        }
    }

    /// Makes the sites of ended processes wait, as their state is unknown.
    fn keep_for_later(&mut self, ended: Vec<(Task, Child)>) {
        let later = Instant::now() + worker::naptime();
        self.not_before.extend(ended.into_iter().map(|(task, _)| (task.site, later)));
    }

    /// Starts processes up to `matomo.max_workers`, each for a sync or for upkeep. If that is more than one,
    /// failing sites and upkeep together cannot use all of them; nor can the sites of one Matomo if there
    /// are several, as any of them may hang.
    fn start(&mut self, queue: &Queue) {
        let most = worker::max_workers();
        let all_but_one = most.saturating_sub(1).max(1);
        let matomos: HashSet<&String> =
            self.at_work.iter().map(|(task, _)| &task.matomo).chain(&queue.matomos).collect();
        let most_of_one = if matomos.len() > 1 { all_but_one } else { most };
        for task in &queue.tasks {
            if self.at_work.len() >= most {
                return;
            }
            let at_work = |is: &dyn Fn(&Task) -> bool| {
                self.at_work.iter().filter(|(task, _)| is(task)).count()
            };
            let is_failing = |task: &Task| task.is_failing || self.limits.is_doubtful(&task.matomo);
            let may_risk = at_work(&|other| !other.syncs || is_failing(other)) < all_but_one;
            let asks_the_same = |other: &Task| other.syncs && other.matomo == task.matomo;
            let most_of_one = most_of_one.min(self.limits.most(&task.matomo));
            let does_upkeep = task.does_upkeep
                && may_risk
                && (!task.syncs || self.owes_upkeep.contains(&task.site));
            let syncs = task.syncs
                && !does_upkeep
                && (may_risk || !is_failing(task))
                && at_work(&asks_the_same) < most_of_one;
            if at_work(&|other| other.site == task.site) > 0 || !does_upkeep && !syncs {
                continue;
            }
            let task = Task { syncs, does_upkeep, ..task.clone() };
            match Child::start(site_worker::process(&task)) {
                Some(child) => {
                    self.said.no_room = false;
                    if does_upkeep {
                        self.owes_upkeep.remove(&task.site);
                    }
                    self.at_work.push((task, child));
                }
                None => return self.complain_of_room(queue, task.site),
            }
        }
    }

    /// Warns once that no slot is left. If no process is working, no slot may become free: record a
    /// failure for all due sites.
    fn complain_of_room(&mut self, queue: &Queue, site: i32) {
        let at_work = self.at_work.len();
        let no_process =
            |site| SiteError::NoProcess { site, at_work, hint: worker::MORE_PROCESSES };
        if !std::mem::replace(&mut self.said.no_room, true) {
            warn_of(&no_process(site).into());
        }
        if at_work > 0 {
            return;
        }
        let due = queue.tasks.iter().filter(|task| task.syncs);
        let failed: Vec<_> =
            due.map(|due| (due.site, Failed::of(&no_process(due.site).into()))).collect();
        if let Err(failed) = look(|| not_begun::note(&Extension::find()?, &failed)) {
            self.complain(failed);
        }
    }

    /// Says what failed, once.
    fn complain(&mut self, failed: Failed) {
        // The extension was created or dropped meanwhile: the next round sees it.
        if failed.state == "40001" {
            return;
        }
        if self.said.failure.as_ref() != Some(&failed) {
            failed.clone().tell(PgLogLevel::WARNING);
            self.said.failure = Some(failed);
        }
    }

    /// The extension is not created (any more), so there is no work.
    fn without_extension(&mut self, database: &str) {
        if !std::mem::replace(&mut self.said.missing, true) {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                format!("extension \"matomo_postgres\" is not created in database \"{database}\""),
                "matomo",
            )
            .set_hint("CREATE EXTENSION matomo_postgres; the background worker finds it by itself.")
            .report(PgLogLevel::LOG);
        }
        self.not_before.clear();
        self.upkeep_not_before.clear();
    }
}

/// Runs `work` in a transaction with a short `lock_timeout`, as the next round follows soon.
fn look<T>(work: impl FnOnce() -> crate::error::Result<T>) -> Result<T, Failed> {
    background::transaction(|| {
        let _bounded = LocalSettings::of(&[(c"lock_timeout", c"500ms")]);
        work()
    })
}

fn note_ownerless() -> crate::error::Result<()> {
    for ownerless in restored::note_ownerless(&Extension::find()?)? {
        warn_of(&ownerless.into());
    }
    Ok(())
}
