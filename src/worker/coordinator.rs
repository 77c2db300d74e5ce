//! The coordinator of a database: has a process work on each registered site that is due. It reaches
//! no Matomo and no table of a user, and waits for nobody.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pgrx::PgSqlErrorCode;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::config::worker;
use crate::error::StoredError;
use crate::pg::extension::Extension;
use crate::pg::failed::Failed;
use crate::pg::local_settings::LocalSettings;
use crate::pg::report::warn_of;
use crate::state::{restored, runs};
use crate::worker::background::{self, Child, Database};
use crate::worker::queue::{self, Queue, Task};
use crate::worker::shares::Shares;
use crate::worker::site_worker;

/// After upkeep that did not come to its end, how long to wait till the next attempt.
const UPKEEP_PAUSE: Duration = Duration::from_secs(300);

/// The coordinator's process; its argument is the database's name.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn matomo_coordinator_main(_argument: pg_sys::Datum) {
    let database = BackgroundWorker::get_extra();
    background::begin(Database::Named(database));
    // Lives as long as the process; the next coordinator will start processes of its own.
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
    /// Sites that are left alone for a while, for reasons that their state does not tell.
    not_before: HashMap<i32, Instant>,
    /// The same of their upkeep, as long as it stands as it does.
    upkeep_not_before: HashMap<i32, (Instant, String)>,
    /// How many processes each Matomo may have.
    shares: Shares,
    /// What was said last, so as to say it once.
    said: LastSaid,
}

#[derive(Default)]
struct LastSaid {
    missing: bool,
    no_room: bool,
    failure: Option<Failed>,
}

impl Coordinator {
    /// Looks at what has ended and what is due; gives how long to sleep then.
    fn round(&mut self, database: &str) -> Duration {
        let naptime = worker::naptime();
        let (ended, at_work) = self.at_work.drain(..).partition(|(_, child)| child.has_ended());
        self.at_work = at_work;
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
        self.said.failure = None;
        if queue.has_ownerless
            && let Err(failed) = look(note_ownerless)
        {
            self.complain(failed);
        }
        let now = Instant::now();
        let busy: HashSet<&String> =
            ended.iter().chain(&self.at_work).map(|(task, _)| &task.matomo).collect();
        self.shares.rests(|matomo| busy.contains(matomo));
        for (task, _) in ended {
            self.see_what_came(&task, &queue, now + naptime, now + UPKEEP_PAUSE);
        }
        self.not_before.retain(|_, until| *until > now);
        self.upkeep_not_before.retain(|_, (until, _)| *until > now);
        for task in &mut queue.tasks {
            task.syncs &= !self.not_before.contains_key(&task.site);
            let later = self.upkeep_not_before.get(&task.site);
            task.tends &= later.is_none_or(|(_, upkeep)| *upkeep != task.upkeep);
        }
        queue.tasks.retain(|task| task.syncs || task.tends);
        self.start(&queue);
        let again = self.not_before.values().map(|until| *until - now);
        again.chain(queue.pause).chain([naptime]).min().unwrap_or(naptime)
    }

    /// A site that a process leaves as it was would be due again at once: whatever kept the process
    /// from it, it is tried again later.
    fn see_what_came(&mut self, done: &Task, queue: &Queue, later: Instant, much_later: Instant) {
        let site = done.site;
        if done.syncs {
            self.shares.ended(&done.matomo, !queue.unanswered.contains(&site));
        }
        let Some(left) = queue.tasks.iter().find(|left| left.site == site) else { return };
        if done.syncs && left.syncs && left.due_at == done.due_at {
            self.not_before.insert(site, later);
        }
        if done.tends && left.tends && left.upkeep == done.upkeep {
            self.upkeep_not_before.insert(site, (much_later, done.upkeep.clone()));
        }
    }

    /// Nothing is known of what they have left.
    fn keep_for_later(&mut self, ended: Vec<(Task, Child)>) {
        let later = Instant::now() + worker::naptime();
        self.not_before.extend(ended.into_iter().map(|(task, _)| (task.site, later)));
    }

    /// Starts as many processes as there may be. If there are several, one is kept free of sites that
    /// fail; and of each Matomo, if there are several, as any of them may hang.
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
            let is_failing = |task: &Task| task.is_failing || self.shares.is_doubtful(&task.matomo);
            let asks_the_same = |other: &Task| other.syncs && other.matomo == task.matomo;
            let most_of_one = most_of_one.min(self.shares.most(&task.matomo));
            if at_work(&|other| other.site == task.site) > 0
                || is_failing(task) && at_work(&is_failing) >= all_but_one
                || task.syncs && at_work(&asks_the_same) >= most_of_one
            {
                continue;
            }
            match Child::start(site_worker::process(task)) {
                Some(child) => {
                    self.said.no_room = false;
                    self.at_work.push((task.clone(), child));
                }
                None => return self.complain_of_room(queue, task.site),
            }
        }
    }

    /// While some work, there will be room; else the sites that are due have failed.
    fn complain_of_room(&mut self, queue: &Queue, site: i32) {
        let at_work = self.at_work.len();
        let no_process =
            |site| StoredError::NoProcess { site, at_work, hint: worker::MORE_PROCESSES };
        if !std::mem::replace(&mut self.said.no_room, true) {
            warn_of(&no_process(site).into());
        }
        if at_work > 0 {
            return;
        }
        let due = queue.tasks.iter().filter(|task| task.syncs);
        let failed: Vec<_> =
            due.map(|due| (due.site, Failed::of(&no_process(due.site).into()))).collect();
        if let Err(failed) = look(|| runs::note_not_begun(&Extension::find()?, &failed)) {
            self.complain(failed);
        }
    }

    fn complain(&mut self, failed: Failed) {
        if self.said.failure.as_ref() != Some(&failed) {
            failed.clone().tell(PgLogLevel::WARNING);
            self.said.failure = Some(failed);
        }
    }

    /// The extension is not there, or no longer: nothing of it is left to be done.
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

/// Does something in a transaction, and waits for nobody's lock: the next round comes soon.
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
