//! Copies site-days: fetches and stores at the same time, and notes in the ledger what became of
//! them. Runs on the backend's main thread.

use pgrx::prelude::*;

use crate::client::Client;
use crate::error::Result;
use crate::fetch::{self, DayRead, News, Reading};
use crate::helper::Helper;
use crate::ledger::{Entry, Ledger};
use crate::plan::Due;
use crate::progress::Progress;
use crate::remote;
use crate::report::say;
use crate::secrecy::show_activity;
use crate::store::{Store, Written};
use crate::sync::Entries;

/// What became of a day.
pub type DayResult = (DayRead, Written);

/// What of a worker's may wait to be stored: batches, of a megabyte or two each, and the ends of days.
/// Enough to read two small days or a few pages ahead, few enough for memory.
const ROOM: usize = 4;

/// All that it takes to copy days.
pub struct Copy {
    pub client: Client,
    /// Days to read at once.
    pub workers: usize,
    pub reading: Reading,
    pub store: Store,
    pub record: Record,
}

impl Copy {
    /// Fetches and stores the days, of each at most so many pages.
    ///
    /// # Errors
    /// Any of [`crate::error::Error`].
    pub fn days(
        mut self,
        days: Vec<Due>,
        most_pages: i32,
        progress: &mut Progress,
    ) -> Result<Vec<DayResult>> {
        let phase = match days.first() {
            Some(due) if progress.goes_on() => format!("reads {}", due.day),
            _ => "begins".to_owned(),
        };
        show_activity(&progress.line(&phase));
        let count = days.len();
        let workers = self.workers.min(count);
        let reading = Reading { most_pages, ..self.reading };
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
        for index in 0..count {
            let (read, written) = store_day(&mut helpers[index % workers], &mut self.store)?;
            self.record.day(&read, &written)?;
            progress.read(&read);
            let line = progress.line(&read.day.to_string());
            show_activity(&line);
            say(PgLogLevel::NOTICE, line);
            results.push((read, written));
        }
        // Their last word, so that the client can be used again.
        for helper in &mut helpers {
            while helper.next().is_some() {}
        }
        Ok(results)
    }
}

/// Stores what a worker reads of its next day.
fn store_day(helper: &mut Helper<News>, store: &mut Store) -> Result<DayResult> {
    let mut written = Written::default();
    while let Some(news) = helper.next() {
        match news {
            News::Batch(batch) => written += store.write(&batch)?,
            News::Day(read) => return Ok((read, written)),
            News::Notice(line) => say(PgLogLevel::NOTICE, line),
            News::Failed(error) => return Err(error),
        }
    }
    Err(remote::ended_early())
}

/// Notes in the ledger what became of days.
pub struct Record {
    pub ledger: Ledger,
    /// What was known before.
    pub known: Entries,
    pub timezone: String,
    /// When the sync began: a day is sealed by what was asked after it had settled.
    pub now: i64,
}

impl Record {
    fn day(&self, read: &DayRead, written: &Written) -> Result<()> {
        let before = self.known.get(&read.day);
        let mut entry = before.cloned().unwrap_or_else(|| Entry::new(read.day, &self.timezone));
        entry.known.newest = entry.known.newest.max(read.newest);
        entry.known.sealed = read.seals && read.rest.is_none();
        entry.known.pass = read.rest.clone().filter(|_| read.is_whole);
        entry.timezone.clone_from(&self.timezone);
        let counts = &mut entry.counts;
        if read.is_whole && read.rest.is_none() {
            *counts = read.met;
        } else {
            counts.visits += written.new_visits;
            counts.actions += written.inserted - written.deleted;
            counts.truncated_visits = counts.truncated_visits.max(read.met.truncated_visits);
        }
        if before != Some(&entry) {
            entry.read_at = self.now;
            self.ledger.write(&entry)?;
        }
        Ok(())
    }
}
