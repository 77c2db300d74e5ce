//! Compares what Matomo lists of a range of days with what is stored, and mends what differs if
//! asked to. Runs on the backend's main thread, in the caller's transaction.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{NaiveDate, Utc};

use crate::config::access::Access;
use crate::config::settings;
use crate::error::{Error, Result};
use crate::matomo::client::{Client, SiteInfo};
use crate::pg::report::warn;
use crate::pg::secrecy::show_activity;
use crate::rows::batch::Batch;
use crate::rows::mapping::{ActionTime, SiteContext};
use crate::rows::visit_tally::count;
use crate::state::ledger::Ledger;
use crate::state::restored;
use crate::store::destination::Destination;
use crate::store::inspect::{self, Differing};
use crate::store::writer::Writer;
use crate::sync::fetch;
use crate::sync::pages::ReadOptions;
use crate::sync::plan::{self, Start};
use crate::sync::recheck;
use crate::sync::remote;
use crate::sync::site_sync::{SyncRequest, ask_for_site, note_emptied};

/// How to check.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// Whether to mend what differs.
    pub repair: bool,
    /// Whether to compare every action, not only the visits' own values.
    pub deep: bool,
    /// Whether a repair removes the visits of days that look purged too.
    pub delete_purged: bool,
}

/// What a check found of a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DayChecked {
    /// Visits that Matomo lists.
    pub there: i64,
    /// Of these, those of which rows are stored, and the extra ones.
    pub here: i64,
    /// Visits of which nothing is stored, though they have actions.
    pub missing: i64,
    /// Stored visits that Matomo does not have any more; of the day of their last row.
    pub extra: i64,
    /// Visits whose rows are not as Matomo has them.
    pub stale: i64,
    /// Visits mended.
    pub repaired: i64,
    /// Of the extra ones, those of a day that looks purged in Matomo; they stay.
    pub purged: i64,
}

/// A day of which Matomo lists fewer visits than this part of what is stored looks purged.
const NEXT_TO_NOTHING: i64 = 10;

/// Does it all; gives what was found by day.
///
/// # Errors
/// Any of [`Error`]; nothing of the transaction remains then.
pub fn run(request: SyncRequest, options: CheckOptions) -> Result<BTreeMap<NaiveDate, DayChecked>> {
    let SyncRequest { site, access, start, end, destination, .. } = request;
    let Access { client, page_size, .. } = access;
    let destination = Destination::open(&destination, options.repair)?;
    destination.lock_rows(site)?;
    let start = start.ok_or(Error::Null("start_date"))?;
    restored::resolve(&destination.extension)?;
    let ledger = Ledger::of(&destination, client.endpoint(), site);
    if options.repair {
        note_emptied(&ledger, &destination)?;
    }
    let SiteInfo { zone, is_rollup, .. } = ask_for_site(&client, site, None)?;
    let today = zone.day(Utc::now().timestamp()).unwrap_or_default();
    let days = plan::days(Start::Day(start), end, today, zone)?;
    ledger.check_matomo(&destination.name)?;
    let action_time = settings::action_time();
    let site = SiteContext { id: site, zone, action_time, is_rollup };
    let is_other = |kind: &ActionTime| *kind != action_time;
    let entries = ledger.read()?;
    let of_other_kind =
        entries.values().filter(|entry| entry.action_time.as_ref().is_some_and(is_other));
    let now = Utc::now().timestamp();
    let reading =
        ReadOptions { site, page_size, most_pages: i32::MAX, began: now, is_zone_known: true };
    let mut check = Check {
        client,
        site,
        store: Writer::new(destination.clone()),
        destination,
        options,
        of_other_kind: of_other_kind.map(|entry| entry.day).collect(),
        listed: HashSet::new(),
        of_days: BTreeMap::new(),
    };
    let mut found = BTreeMap::new();
    for day in &days {
        show_activity(&format!("matomo: site {}, checks {day}", site.id));
        found.insert(*day, check.day(*day, reading)?);
    }
    check.extra(&days, &mut found)?;
    if options.repair {
        warn_of_purged(&found);
    }
    let mended = |checked: &DayChecked| checked.repaired > 0 && checked.purged == 0;
    for (day, checked) in found.iter().filter(|(_, checked)| mended(checked)) {
        let kind = check.of_other_kind.contains(day).then_some(action_time);
        ledger.correct(*day, checked.there, check.rows_of(*day)?, kind)?;
    }
    Ok(found)
}

fn warn_of_purged(found: &BTreeMap<NaiveDate, DayChecked>) {
    let purged = || found.iter().filter(|(_, checked)| checked.purged > 0);
    if let (Some((first, _)), Some((last, _))) = (purged().next(), purged().next_back()) {
        let visits: i64 = purged().map(|(_, checked)| checked.purged).sum();
        warn(
            format!(
                "Matomo's raw data from {first} to {last} looks purged: {visits} visits that only \
                 the table has stay"
            ),
            "If Matomo has deleted these visits and they should go here too, add delete_purged => true.",
        );
    }
}

struct Check {
    client: Client,
    site: SiteContext,
    store: Writer,
    destination: Destination,
    options: CheckOptions,
    /// Days whose rows hold the other kind of time.
    of_other_kind: BTreeSet<NaiveDate>,
    /// All visits that Matomo has listed.
    listed: HashSet<i64>,
    /// The same by day, for a repair.
    of_days: BTreeMap<NaiveDate, Vec<i64>>,
}

impl Check {
    fn day(&mut self, day: NaiveDate, reading: ReadOptions) -> Result<DayChecked> {
        let listed = remote::ask(&self.client, move |client, notice| {
            fetch::list_day(client, reading, day, notice)
        })?;
        self.listed.extend(listed.iter().map(|visit| visit.id));
        if self.options.repair {
            self.of_days.insert(day, listed.iter().map(|visit| visit.id).collect());
        }
        let mut checked = DayChecked { there: count(listed.len()), ..DayChecked::default() };
        let Differing { mut stale, mut missing } = recheck::compare(&self.destination, &listed)?;
        if self.of_other_kind.contains(&day) {
            let missing: HashSet<_> = missing.iter().collect();
            stale =
                listed.iter().map(|visit| visit.id).filter(|id| !missing.contains(id)).collect();
        }
        checked.stale = count(stale.len());
        if self.options.deep {
            // Those whose own values are equal may have other actions.
            let known: HashSet<_> = stale.iter().chain(&missing).copied().collect();
            let mut equal: Vec<_> =
                listed.iter().map(|visit| visit.id).filter(|id| !known.contains(id)).collect();
            while !equal.is_empty() {
                let batch = recheck::by_id(&self.client, self.site, &mut equal, true)?;
                let differing = self.store.differing(&batch)?;
                checked.stale += count(differing);
                if differing > 0 {
                    checked.repaired += self.mend(&batch, differing)?;
                }
            }
        }
        checked.here = checked.there - count(missing.len());
        while !missing.is_empty() {
            let batch = recheck::by_id(&self.client, self.site, &mut missing, true)?;
            // A visit without actions has no rows to miss.
            let with_rows = batch.visits.iter().filter(|(_, rows)| !rows.is_empty()).count();
            checked.missing += count(with_rows);
            checked.repaired += self.mend(&batch, with_rows)?;
        }
        while self.options.repair && !stale.is_empty() {
            let batch = recheck::by_id(&self.client, self.site, &mut stale, true)?;
            checked.repaired += self.mend(&batch, batch.visits.len())?;
        }
        Ok(checked)
    }

    /// Writes the visits if they are to be mended; gives how many were.
    fn mend(&mut self, batch: &Batch, visits: usize) -> Result<i64> {
        if !self.options.repair {
            return Ok(0);
        }
        self.store.write(batch)?;
        Ok(count(visits))
    }

    /// How many rows are stored of the visits that Matomo has listed of a day.
    fn rows_of(&self, day: NaiveDate) -> Result<i64> {
        let visits = self.of_days.get(&day).map_or(&[][..], Vec::as_slice);
        inspect::count_rows(&self.destination, visits)
    }

    /// Finds the stored visits of the days that Matomo does not have at all, and removes them if
    /// they are to be mended; but not those of days that look purged.
    fn extra(
        &mut self,
        days: &[NaiveDate],
        found: &mut BTreeMap<NaiveDate, DayChecked>,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (days.first(), days.last()) else { return Ok(()) };
        let zone = self.site.zone;
        let after = last.succ_opt().unwrap_or(*last);
        // The axis of the stored times.
        let on_axis = |instant: i64| match self.site.action_time {
            ActionTime::Utc => instant,
            ActionTime::AsSent => instant + zone.offset_at(instant),
        };
        let (from, to) = (on_axis(zone.midnight(*first)), on_axis(zone.midnight(after)));
        let stored = inspect::visits_between(&self.destination, self.site.id, from, to)?;
        // Some may only have moved to another day.
        let suspects = stored.iter().map(|(id, _)| *id).filter(|id| !self.listed.contains(id));
        let suspects: Vec<i64> = suspects.collect();
        let known = recheck::by_id(&self.client, self.site, &mut suspects.clone(), false)?;
        let known: HashSet<_> = known.visits.into_iter().map(|(id, _)| id).collect();
        let gone: HashSet<i64> = suspects.into_iter().filter(|id| !known.contains(id)).collect();
        let day = |at: i64| {
            let instant =
                if self.site.action_time == ActionTime::Utc { at } else { zone.instants(at).0 };
            zone.day(instant).unwrap_or(*first).clamp(*first, *last)
        };
        let mut by_day: BTreeMap<NaiveDate, Vec<(i64, i64)>> = BTreeMap::new();
        for (id, at) in stored {
            by_day.entry(day(at)).or_default().push((id, at));
        }
        let (mut to_remove, mut last_purged) = (Vec::new(), None);
        for (day, visits) in by_day {
            let (gone, left): (Vec<_>, Vec<_>) =
                visits.into_iter().partition(|(id, _)| gone.contains(id));
            let checked = found.entry(day).or_default();
            checked.extra += count(gone.len());
            checked.here += count(gone.len());
            // What is purged are the oldest visits, so that of a day the last ones may be left.
            let is_purged = checked.there * NEXT_TO_NOTHING < count(gone.len() + left.len());
            let first_left = left.iter().map(|(_, at)| *at).min().unwrap_or(i64::MAX);
            let is_begun = last_purged.is_some_and(|last: NaiveDate| last.succ_opt() == Some(day))
                && gone.iter().all(|(_, at)| *at < first_left);
            if is_purged {
                last_purged = Some(day);
            }
            if (is_purged || is_begun) && !self.options.delete_purged {
                checked.purged = count(gone.len());
            } else if self.options.repair {
                checked.repaired += count(gone.len());
                to_remove.extend(gone.into_iter().map(|(id, _)| id));
            }
        }
        if !to_remove.is_empty() {
            self.store.remove(self.site.id, &to_remove)?;
        }
        Ok(())
    }
}
