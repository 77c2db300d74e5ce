//! The worker of one database: syncs each registered site when it is due, and once a day looks after
//! its table. It does what the procedures do, by the same functions, a transaction a step; sites that
//! are due at the same time take turns, so that none waits for another's import.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use pgrx::PgSqlErrorCode;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::agenda::{self, Agenda};
use crate::background;
use crate::session;
use crate::settings;

/// How long to try to get at a table whose old partitions are to be dropped, and how often.
const PATIENCE: Duration = Duration::from_secs(10);
const BETWEEN_TRIES: Duration = Duration::from_millis(500);
/// After that, how long to wait till the next attempt.
const LATER: Duration = Duration::from_secs(300);

/// The worker's process; its argument is the database's name.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn matomo_worker_main(_argument: pg_sys::Datum) {
    let database = BackgroundWorker::get_extra();
    background::begin(Some(database));
    session::take_turns();
    let mut worker = Worker { database: database.to_owned(), ..Worker::default() };
    loop {
        let pause = worker.round();
        if !pause.is_zero() {
            let until = DateTime::<Utc>::from(std::time::SystemTime::now() + pause);
            background::show_idle(&format!(
                "matomo: sleeps until {}",
                until.format("%Y-%m-%d %H:%M:%S UTC")
            ));
        }
        background::sleep(pause);
    }
}

#[derive(Default)]
struct Worker {
    database: String,
    /// What is being done, by site.
    work: HashMap<i32, Work>,
    /// Sites that are left alone for a while, for reasons that their state does not tell.
    not_before: HashMap<i32, Instant>,
    /// The same of their upkeep.
    upkeep_not_before: HashMap<i32, Instant>,
    /// Whether it was said that the extension is missing.
    said_missing: bool,
}

/// What is being done for a site.
#[derive(Clone, Copy)]
enum Work {
    /// A run, by its number.
    Run(i64),
    /// Old partitions to be dropped, new ones to be made; since when somebody is in the way.
    Upkeep { blocked: Option<Instant> },
}

/// What comes of a step.
enum Next {
    /// Another one.
    Step(Work),
    /// Nothing more.
    Done,
    /// Nothing more now, though the site's state may say that it is due.
    LetBe,
    /// The same of its upkeep.
    UpkeepLater,
}

impl Worker {
    /// A step of all that is due; gives how long to sleep then.
    fn round(&mut self) -> Duration {
        let naptime = settings::naptime();
        let agenda = match background::transaction(agenda::read) {
            Ok(Some(agenda)) => agenda,
            Ok(None) => {
                self.without_extension();
                return naptime;
            }
            Err(failure) => {
                failure.log();
                return naptime;
            }
        };
        self.said_missing = false;
        let now = Instant::now();
        self.not_before.retain(|_, until| *until > now);
        self.upkeep_not_before.retain(|_, until| *until > now);
        for site in &agenda.due {
            if !self.work.contains_key(site) && !self.not_before.contains_key(site) {
                let next = self.begin(&agenda, *site);
                self.note(*site, next);
            }
        }
        for site in &agenda.untended {
            if !self.work.contains_key(site) && self.has_to_tend(&agenda, *site) {
                self.work.insert(*site, Work::Upkeep { blocked: None });
            }
        }
        let mut sites: Vec<_> = self.work.keys().copied().collect();
        sites.sort_unstable();
        for site in sites {
            let Some(work) = self.work.get(&site).copied() else { continue };
            let next = match work {
                Work::Run(run) => self.step(&agenda, site, run),
                Work::Upkeep { blocked } => self.look_after(&agenda, site, blocked),
            };
            self.note(site, next);
            // Signals are looked at between any two steps.
            background::sleep(Duration::ZERO);
        }
        self.pause(&agenda, naptime)
    }

    fn has_to_tend(&self, agenda: &Agenda, site: i32) -> bool {
        agenda.untended.contains(&site) && !self.upkeep_not_before.contains_key(&site)
    }

    fn pause(&self, agenda: &Agenda, naptime: Duration) -> Duration {
        let is_blocked = |work: &Work| matches!(work, Work::Upkeep { blocked: Some(_) });
        if self.work.values().any(|work| !is_blocked(work)) {
            return Duration::ZERO;
        }
        if !self.work.is_empty() {
            return BETWEEN_TRIES;
        }
        agenda.pause.map_or(naptime, |pause| pause.min(naptime))
    }

    /// The extension is not there, or no longer: nothing of it is left to be done.
    fn without_extension(&mut self) {
        if !self.said_missing {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                format!(
                    "extension \"matomo_postgres\" is not created in database \"{}\"",
                    self.database
                ),
                "matomo",
            )
            .set_hint("CREATE EXTENSION matomo_postgres; the worker finds it by itself.")
            .report(PgLogLevel::LOG);
            self.said_missing = true;
        }
        session::release(|_| true);
        self.work.clear();
        self.not_before.clear();
        self.upkeep_not_before.clear();
    }

    fn note(&mut self, site: i32, next: Next) {
        match next {
            Next::Step(work) => {
                self.work.insert(site, work);
            }
            Next::Done => {
                self.work.remove(&site);
            }
            Next::LetBe => {
                self.work.remove(&site);
                self.not_before.insert(site, Instant::now() + settings::naptime());
            }
            Next::UpkeepLater => {
                self.work.remove(&site);
                self.upkeep_not_before.insert(site, Instant::now() + LATER);
            }
        }
    }

    fn begin(&self, agenda: &Agenda, site: i32) -> Next {
        match background::transaction(|| agenda.begin(site)) {
            Ok(Some(run)) => Next::Step(Work::Run(run)),
            // Another session syncs it.
            Ok(None) => Next::LetBe,
            Err(failure) => {
                failure.log();
                Next::LetBe
            }
        }
    }

    fn step(&self, agenda: &Agenda, site: i32, run: i64) -> Next {
        let status = match background::transaction(|| agenda.step(run)) {
            Ok(status) => status,
            Err(failure) => {
                failure.log();
                // What the run would have done at its end.
                session::release(|run| run.site == site);
                return Next::LetBe;
            }
        };
        if status == "running" {
            return Next::Step(Work::Run(run));
        }
        // What it failed with goes to the log.
        if let Err(failure) = background::transaction(|| agenda.report(run)) {
            failure.log();
        }
        match status.as_str() {
            "skipped" => Next::LetBe,
            // A site that is always due would else never be looked after.
            _ if self.has_to_tend(agenda, site) => Next::Step(Work::Upkeep { blocked: None }),
            _ => Next::Done,
        }
    }

    fn look_after(&self, agenda: &Agenda, site: i32, blocked: Option<Instant>) -> Next {
        if blocked.is_some_and(|since| since.elapsed() > PATIENCE) {
            return Next::UpkeepLater;
        }
        match background::transaction(|| agenda.look_after(site)) {
            Ok(status) => match status.as_str() {
                "more" => Next::Step(Work::Upkeep { blocked: None }),
                "blocked" => {
                    let since = blocked.unwrap_or_else(Instant::now);
                    Next::Step(Work::Upkeep { blocked: Some(since) })
                }
                _ => Next::Done,
            },
            Err(failure) => {
                failure.log();
                Next::UpkeepLater
            }
        }
    }
}
