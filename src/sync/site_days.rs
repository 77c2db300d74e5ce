//! Copies site-days: fetches and stores at the same time, and records the result in the ledger. Runs
//! on the main thread.

use std::collections::HashSet;

use chrono::NaiveDate;
use pgrx::prelude::*;

use crate::error::{Busy, MissingPartitions, Result};
use crate::matomo::client::{Client, SiteInfo};
use crate::pg::ereport::say;
use crate::pg::secrecy::show_activity;
use crate::rows::batch::{Batch, Misfits};
use crate::rows::site_context::ActionTime;
use crate::rows::visit_tally::count;
use crate::state::day_state::Pass;
use crate::state::ledger::LedgerDays;
use crate::state::ledger::{Ledger, LedgerEntry};
use crate::state::run_row::StepCounts;
use crate::store::batch_writer::Writer;
use crate::store::destination::Destination;
use crate::store::partitions::WEEK;
use crate::store::written::Written;
use crate::sync::fetch::{self, DayRead, Message};
use crate::sync::helper::Helper;
use crate::sync::on_helper;
use crate::sync::pages::{Budget, ReadOptions};
use crate::sync::plan::{Due, Extent};
use crate::sync::progress::Progress;
use crate::sync::recheck;

/// What was read and written for a day.
pub type DayResult = (DayRead, Written);

/// Sums up the days of a step. `bytes` is the size of the answers.
pub fn counts(results: &[DayResult], misfits: Misfits, bytes: u64) -> StepCounts {
    let mut counts = StepCounts { bytes, misfits, ..StepCounts::default() };
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

/// The result of copying days.
pub enum CopyResult {
    Done(Vec<DayResult>, Misfits),
    /// The site has another timezone, so that other days are due.
    ZoneChanged(SiteInfo),
}

/// Maximum messages queued per fetch thread, with batches of some four megabytes as a rule: enough to
/// read two small days or a few pages ahead.
const ROOM: usize = 4;

/// Copies days.
pub struct Copier {
    pub client: Client,
    /// Number of fetch threads.
    pub fetch_threads: usize,
    pub reading: ReadOptions,
    pub destination: Destination,
    pub store: Writer,
    pub record: Recorder,
    pub misfits: Misfits,
    /// Partitions that were missing in the last step and have been made since, in a transaction of their own.
    /// If the same ones are still missing, this step makes them.
    pub made_before: Option<Vec<MissingPartitions>>,
    /// A week before the first day. Partitions before it hold single visits with odd times, so no others are
    /// made with them.
    pub since: i64,
}

impl Copier {
    /// Fetches and stores the days, of each as much as the budget allows.
    ///
    /// # Errors
    /// [`Busy::Partitions`] in a step that needs partitions; any of [`crate::error::Error`].
    pub fn days(
        mut self,
        days: Vec<Due>,
        budget: Budget,
        progress: &mut Progress,
    ) -> Result<CopyResult> {
        let first = days.first().map_or(0, |due| self.reading.site.zone.midnight(due.day));
        self.since = first - WEEK;
        let phase = match days.first() {
            Some(due) if progress.has_begun() => format!("reads {}", due.day),
            _ => "begins".to_owned(),
        };
        show_activity(&progress.line(&phase));
        let count = days.len();
        // Not for polls of a day that has no visits yet.
        let is_import = days.first().is_some_and(|due| due.extent == Extent::Whole && due.seals);
        let threads = self.fetch_threads.min(count);
        self.reading.budget = budget;
        let reading = self.reading;
        // Each of n threads reads every n-th day, ahead of storing by the length of its queue.
        let mut of_threads = vec![Vec::new(); threads];
        for (index, due) in days.into_iter().enumerate() {
            of_threads[index % threads].push(due);
        }
        let mut helpers = of_threads
            .into_iter()
            .map(|days| {
                let layouts = self.destination.layouts();
                on_helper::start(&self.client, ROOM, move |client, outbox| {
                    fetch::days(client, reading, &layouts, days, outbox);
                })
            })
            .collect::<Result<Vec<_>>>()?;
        if is_import {
            self.store.plan_ahead()?;
        }
        let mut results = Vec::with_capacity(count);
        let mut changed = None;
        for index in 0..count {
            let day = match self.store_day(&mut helpers[index % threads])? {
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
        // Wait until the threads have ended, so that the client can be used again.
        for helper in &mut helpers {
            while helper.next().is_some() {}
        }
        if let Some(info) = changed {
            return Ok(CopyResult::ZoneChanged(info));
        }
        for day in results.iter_mut().filter(|day| !day.differing.is_empty()) {
            self.fetch_differing(day)?;
            self.record(day, progress)?;
        }
        let results = results.into_iter().map(|day| (day.read, day.written)).collect();
        Ok(CopyResult::Done(results, self.misfits))
    }

    /// Stores the next day of a fetch thread.
    fn store_day(&mut self, helper: &mut Helper<Message>) -> Result<DayStored> {
        let (mut written, mut differing) = (Written::default(), Vec::new());
        while let Some(message) = helper.next() {
            match message {
                Message::Batch(batch) => {
                    written += self.write(&batch)?;
                }
                Message::Listed(visits) => {
                    differing.extend(recheck::differing(&self.destination, &visits)?);
                }
                Message::Day(read) => return Ok(DayStored::Done(Day { read, written, differing })),
                Message::Notice(line) => say(PgLogLevel::NOTICE, line),
                Message::ZoneChanged(info) => return Ok(DayStored::ZoneChanged(info)),
                Message::Failed(error) => return Err(error),
            }
        }
        Err(on_helper::ended_early())
    }

    /// Fetches and stores the visits that a recheck found to differ, within a second budget: for the
    /// others, the recheck resumes. Called after all threads have ended: `matomo.fetch_workers` limits
    /// concurrent requests.
    fn fetch_differing(&mut self, day: &mut Day) -> Result<()> {
        let (site, layouts) = (self.reading.site, self.destination.layouts());
        let midnight = site.zone.midnight(day.read.day);
        let (budget, mut asked) = (self.reading.budget.anew(), 0);
        let mut differing = std::mem::take(&mut day.differing);
        // Pages overlap, and a second that is longer than a page is listed several times.
        let mut known = HashSet::new();
        differing.retain(|(id, _)| known.insert(*id));
        differing.sort_by_key(|(_, last)| *last);
        let first = differing.first().and_then(|(_, last)| *last);
        let mut left = differing.as_slice();
        while let Some((_, next)) = left.first() {
            // Only at a later instant, so that the recheck comes to an end.
            if budget.is_spent(asked)
                && let Some(since) = next.filter(|next| Some(*next) > first)
            {
                let began =
                    day.read.rest.take().map(|rest| rest.began).or(day.read.rechecked.take());
                day.read.rest = began.map(|began| Pass { began, since, tally: None });
                break;
            }
            let now;
            (now, left) = left.split_at(left.len().min(fetch::IDS));
            let mut ids: Vec<_> = now.iter().map(|(id, _)| *id).collect();
            while !ids.is_empty() {
                asked += 1;
                let batch =
                    recheck::by_id(&self.client, site, &layouts, (midnight, &mut ids), true)?;
                day.written += self.write(&batch)?;
                day.read.met.visits += count(batch.visits().len());
                day.read.met.actions += count(batch.actions().rows.len());
            }
        }
        day.read.pages = day.read.pages.saturating_add(asked);
        Ok(())
    }

    /// Writes a batch. A step that goes on to wait for Matomo makes no partitions: other sessions that need
    /// some would have to wait too.
    fn write(&mut self, batch: &Batch) -> Result<Written> {
        let mut missing = self.store.prepare(batch)?;
        missing.iter_mut().for_each(|span| span.is_regular = span.from >= self.since);
        let is_step = matches!(self.reading.budget, Budget::Step { .. });
        if is_step && !missing.is_empty() && self.made_before.as_ref() != Some(&missing) {
            let name = self.destination.name.clone();
            return Err(Busy::Partitions { name, missing }.into());
        }
        let written = self.store.write(batch)?;
        self.misfits.merge(&batch.misfits);
        Ok(written)
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

/// A stored day.
struct Day {
    read: DayRead,
    written: Written,
    /// Visits that a recheck found missing or stale, as listed: idVisit and lastActionTimestamp.
    differing: Vec<(i64, Option<i64>)>,
}

enum DayStored {
    Done(Day),
    ZoneChanged(SiteInfo),
}

/// Records days in the ledger.
pub struct Recorder {
    pub ledger: Ledger,
    /// The entries before this sync.
    pub known: LedgerDays,
    pub timezone: String,
    pub action_time: ActionTime,
    /// Start of the sync, in Unix seconds. Only requests after a day has settled can seal it.
    pub now: i64,
}

impl Recorder {
    /// Whether a day's entry in the ledger was reset, so that the day is read again.
    pub fn is_to_read_anew(&self, day: NaiveDate) -> bool {
        self.known.get(&day).is_some_and(|entry| entry.state.read_at == 0)
    }

    fn day(&self, read: &DayRead, written: &Written) -> Result<()> {
        let before = self.known.get(&read.day);
        let mut entry =
            before.cloned().unwrap_or_else(|| LedgerEntry::new(read.day, &self.timezone));
        let known = &mut entry.state;
        // A whole reading drops the old cursor, even if unfinished: its rest is read too, as the day's
        // bounds may have changed.
        if read.extent == Extent::Whole {
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
        if read.extent.is_whole() && read.rest.is_none() {
            // A day that Matomo has purged keeps its rows.
            if read.met.visits > 0 {
                *counts = read.met;
            }
        } else {
            counts.visits += written.new_visits;
            counts.actions += written.inserted - written.deleted;
            counts.truncated_visits = counts.truncated_visits.max(read.met.truncated_visits);
            if read.extent.is_whole() {
                // They may have been stored before there was an entry.
                counts.visits = counts.visits.max(read.met.visits);
                counts.actions = counts.actions.max(read.met.actions);
            }
        }
        if before != Some(&entry) || self.is_to_read_anew(read.day) {
            entry.state.read_at = self.now;
            self.ledger.write(&entry)?;
        }
        Ok(())
    }
}
