//! Copies site-days: fetches and stores at the same time, and notes in the ledger what became of
//! them. Runs on the backend's main thread.

use chrono::NaiveDate;
use pgrx::prelude::*;

use crate::error::Result;
use crate::matomo::client::{Client, SiteInfo};
use crate::pg::report::say;
use crate::pg::secrecy::show_activity;
use crate::rows::mapping::ActionTime;
use crate::rows::visit_tally::count;
use crate::state::ledger::LedgerDays;
use crate::state::ledger::{Ledger, LedgerEntry};
use crate::state::run::StepCounts;
use crate::store::destination::Destination;
use crate::store::writer::{Writer, Written};
use crate::sync::fetch::{self, DayRead, Message, Part};
use crate::sync::helper::Helper;
use crate::sync::pages::ReadOptions;
use crate::sync::plan::Due;
use crate::sync::progress::Progress;
use crate::sync::recheck;
use crate::sync::remote;

/// What became of a day.
pub type DayResult = (DayRead, Written);

/// What the days of a step come to.
pub fn counts(results: &[DayResult], bytes: u64) -> StepCounts {
    let mut counts = StepCounts { bytes, ..StepCounts::default() };
    for (read, written) in results {
        if read.rest.is_none() {
            counts.days.push(read.day);
        }
        counts.pages += i64::from(read.pages);
        counts.visits += read.met.visits - read.met_before.visits;
        counts.actions += read.met.actions - read.met_before.actions;
        counts.truncated_visits += read.met.truncated_visits - read.met_before.truncated_visits;
        counts.written.inserted += written.inserted;
        counts.written.updated += written.updated;
        counts.written.deleted += written.deleted;
        counts.written.new_visits += written.new_visits;
    }
    counts
}

/// What became of all of them.
pub enum Outcome {
    Done(Vec<DayResult>),
    /// Nothing: the site has another timezone, so that other days are due.
    ZoneChanged(SiteInfo),
}

/// What of a worker's may wait to be stored: batches, of a megabyte or two each, and the ends of days.
/// Enough to read two small days or a few pages ahead, few enough for memory.
const ROOM: usize = 4;

/// All that it takes to copy days.
pub struct Copier {
    pub client: Client,
    /// Days to read at once.
    pub workers: usize,
    pub reading: ReadOptions,
    pub destination: Destination,
    pub store: Writer,
    pub record: Recorder,
}

impl Copier {
    /// Fetches and stores the days, of each at most so many pages.
    ///
    /// # Errors
    /// Any of [`crate::error::Error`].
    pub fn days(
        mut self,
        days: Vec<Due>,
        most_pages: i32,
        progress: &mut Progress,
    ) -> Result<Outcome> {
        let phase = match days.first() {
            Some(due) if progress.goes_on() => format!("reads {}", due.day),
            _ => "begins".to_owned(),
        };
        show_activity(&progress.line(&phase));
        let count = days.len();
        let workers = self.workers.min(count);
        let reading = ReadOptions { most_pages, ..self.reading };
        // Each worker reads every n-th day; what it is ahead waits in its mailbox.
        let mut of_workers = vec![Vec::new(); workers];
        for (index, due) in days.into_iter().enumerate() {
            of_workers[index % workers].push(due);
        }
        let mut helpers = of_workers
            .into_iter()
            .map(|days| {
                remote::start(&self.client, ROOM, move |client, outbox| {
                    fetch::days(client, reading, days, &mut |news| outbox.send(news));
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let mut results = Vec::with_capacity(count);
        let mut changed = None;
        for index in 0..count {
            let day = match self.store_day(&mut helpers[index % workers])? {
                DayStored::Done(day) => day,
                DayStored::ZoneChanged(info) => {
                    changed = Some(info);
                    break;
                }
            };
            if day.differing.is_empty() {
                self.record(&day, progress)?;
            }
            results.push(day);
        }
        // Their last word, so that the client can be used again.
        for helper in &mut helpers {
            while helper.next().is_some() {}
        }
        if let Some(info) = changed {
            return Ok(Outcome::ZoneChanged(info));
        }
        for day in results.iter_mut().filter(|day| !day.differing.is_empty()) {
            self.fetch_differing(day)?;
            self.record(day, progress)?;
        }
        Ok(Outcome::Done(results.into_iter().map(|day| (day.read, day.written)).collect()))
    }

    /// Stores what a worker reads of its next day.
    fn store_day(&mut self, helper: &mut Helper<Message>) -> Result<DayStored> {
        let (mut written, mut differing) = (Written::default(), Vec::new());
        while let Some(news) = helper.next() {
            match news {
                Message::Batch(batch) => written += self.store.write(&batch)?,
                Message::Listed(visits) => {
                    let found = recheck::compare(&self.destination, &visits)?;
                    differing.extend(found.missing.into_iter().chain(found.stale));
                }
                Message::Day(read) => return Ok(DayStored::Done(Day { read, written, differing })),
                Message::Notice(line) => say(PgLogLevel::NOTICE, line),
                Message::ZoneChanged(info) => return Ok(DayStored::ZoneChanged(info)),
                Message::Failed(error) => return Err(error),
            }
        }
        Err(remote::ended_early())
    }

    /// Fetches and stores the visits that a recheck has found to differ. Not while other days are
    /// read: Matomo gets no more requests at once than `matomo.fetch_workers`.
    fn fetch_differing(&mut self, day: &mut Day) -> Result<()> {
        let mut ids = std::mem::take(&mut day.differing);
        let requests = i32::try_from(ids.len().div_ceil(fetch::IDS)).unwrap_or(i32::MAX);
        day.read.pages = day.read.pages.saturating_add(requests);
        while !ids.is_empty() {
            let batch = recheck::by_id(&self.client, self.reading.site, &mut ids, true)?;
            day.written += self.store.write(&batch)?;
            day.read.met.visits += count(batch.visits.len());
            day.read.met.actions += count(batch.rows.len());
        }
        Ok(())
    }

    fn record(&self, day: &Day, progress: &mut Progress) -> Result<()> {
        self.record.day(&day.read, &day.written)?;
        let notice = progress.read(&day.read);
        show_activity(&progress.line(&day.read.day.to_string()));
        if let Some(line) = notice {
            say(PgLogLevel::NOTICE, line);
        }
        Ok(())
    }
}

/// A day as far as it is stored.
struct Day {
    read: DayRead,
    written: Written,
    /// Visits that a recheck has found to be missing or stale.
    differing: Vec<i64>,
}

enum DayStored {
    Done(Day),
    ZoneChanged(SiteInfo),
}

/// Notes in the ledger what became of days.
pub struct Recorder {
    pub ledger: Ledger,
    /// What was known before.
    pub known: LedgerDays,
    pub timezone: String,
    pub action_time: ActionTime,
    /// When the sync began: a day is sealed by what was asked after it had settled.
    pub now: i64,
}

impl Recorder {
    /// Whether the ledger knows that a day was read, but not what of.
    pub fn is_to_read_anew(&self, day: NaiveDate) -> bool {
        self.known.get(&day).is_some_and(|entry| entry.known.read_at == 0)
    }

    fn day(&self, read: &DayRead, written: &Written) -> Result<()> {
        let before = self.known.get(&read.day);
        let mut entry =
            before.cloned().unwrap_or_else(|| LedgerEntry::new(read.day, &self.timezone));
        let known = &mut entry.known;
        // What a whole reading has not come to is read again, as by other bounds of the day.
        if read.part == Part::Whole {
            known.newest = None;
            known.rechecked = read.newest.map(|_| self.now);
            entry.action_time = Some(self.action_time);
        }
        known.newest = known.newest.max(read.newest);
        known.sealed = read.seals && read.rest.is_none();
        known.rechecked = read.rechecked.or(known.rechecked).filter(|_| !known.sealed);
        known.pass.clone_from(&read.rest);
        entry.timezone.clone_from(&self.timezone);
        let counts = &mut entry.counts;
        if read.part != Part::New && read.rest.is_none() {
            *counts = read.met;
        } else {
            counts.visits += written.new_visits;
            counts.actions += written.inserted - written.deleted;
            counts.truncated_visits = counts.truncated_visits.max(read.met.truncated_visits);
        }
        if before != Some(&entry) || self.is_to_read_anew(read.day) {
            entry.known.read_at = self.now;
            self.ledger.write(&entry)?;
        }
        Ok(())
    }
}
