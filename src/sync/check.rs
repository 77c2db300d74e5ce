//! Compares the visits that Matomo lists for a range of days with the stored ones, and optionally
//! repairs differences. Runs on the main thread, in the caller's transaction.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{NaiveDate, Utc};

use crate::config::access::Access;
use crate::config::settings;
use crate::error::{Error, Result};
use crate::matomo::client::{Client, SiteInfo};
use crate::pg::ereport::warn;
use crate::pg::secrecy::show_activity;
use crate::rows::batch::{Batch, Misfits};
use crate::rows::site_context::{ActionTime, SiteContext};
use crate::rows::visit_tally::{Counts, count};
use crate::state::adoption::adopt;
use crate::state::late_companions;
use crate::state::ledger::{Ledger, LedgerEntry};
use crate::state::metadata;
use crate::store::batch_writer::Writer;
use crate::store::destination::Destination;
use crate::store::engine::hint::with_engine_hint;
use crate::store::inspect::{self, Differing};
use crate::sync::fetch;
use crate::sync::on_helper;
use crate::sync::pages::{Budget, ReadOptions};
use crate::sync::plan::{self, Start};
use crate::sync::recheck;
use crate::sync::site_sync::{SyncRequest, ask_for_site, note_emptied, warn_of_misfits};

/// Options of a check.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// Whether to repair differences.
    pub repair: bool,
    /// Whether to compare actions as well, not only the visits' own values.
    pub deep: bool,
    /// Whether a repair also deletes visits of days that look purged in Matomo.
    pub delete_purged: bool,
}

/// Result of a check for a day, in visits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DayChecked {
    /// Listed by Matomo.
    pub there: i64,
    /// Stored: those of the listed ones that have rows, and the extra ones.
    pub here: i64,
    /// Listed, but not stored; without a table of visits only those with actions.
    pub missing: i64,
    /// Stored, but no longer in Matomo; counted on the day of their last row.
    pub extra: i64,
    /// Stored rows differ from Matomo.
    pub stale: i64,
    pub repaired: i64,
    /// Extra visits that were kept, as their day looks purged in Matomo.
    pub purged: i64,
}

/// A day looks purged if Matomo lists fewer than one in this many of its stored visits.
const PURGED_FACTOR: i64 = 10;

/// Checks a range of days. Returns the result of each day.
///
/// # Errors
/// Any of [`Error`]; the transaction must then abort.
pub fn run(request: SyncRequest, options: CheckOptions) -> Result<BTreeMap<NaiveDate, DayChecked>> {
    let mut destination = Destination::open(&request.destination, options.repair)?;
    // Otherwise whoever may read the table could keep syncs and erasures waiting.
    if options.repair {
        destination = late_companions::locked(destination, request.site)?;
    }
    with_engine_hint(&destination.clone(), || run_in(destination, request, options))
}

fn run_in(
    destination: Destination,
    request: SyncRequest,
    options: CheckOptions,
) -> Result<BTreeMap<NaiveDate, DayChecked>> {
    let SyncRequest { site, access, start, end, .. } = request;
    let Access { client, page_size, .. } = access;
    destination.check_is_whole()?;
    let start = start.ok_or(Error::Null("start_date"))?;
    let ledger = Ledger::of(&destination, client.endpoint(), site);
    if options.repair {
        note_emptied(&ledger, &destination)?;
        adopt(&ledger, &destination)?;
    }
    // A repair may be what first fills it.
    let is_first = options.repair && ledger.take_if_unknown(&destination.name)?;
    let info = ask_for_site(&client, site, None)?;
    let zone = info.zone;
    let today = zone.day(Utc::now().timestamp()).unwrap_or_default();
    let days = plan::days(Start::Day(start), end, today, zone)?;
    ledger.check_matomo(&destination)?;
    let SiteInfo { is_rollup, ref timezone, .. } = info;
    let action_time = settings::action_time();
    let site = SiteContext { id: site, zone, action_time, is_rollup };
    let is_other = |kind: &ActionTime| *kind != action_time;
    let entries = ledger.read()?;
    let of_other_kind =
        entries.values().filter(|entry| entry.action_time.as_ref().is_some_and(is_other));
    let now = Utc::now().timestamp();
    let reading = ReadOptions {
        site,
        page_size,
        budget: Budget::Unlimited,
        began: now,
        is_zone_confirmed: true,
    };
    if options.repair {
        destination.check_ctids()?;
    }
    let mut check = Check {
        client,
        site,
        store: Writer::new(&destination),
        destination,
        options,
        of_other_kind: of_other_kind.map(|entry| entry.day).collect(),
        listed: HashSet::new(),
        misfits: Misfits::default(),
        of_days: BTreeMap::new(),
    };
    let mut found = BTreeMap::new();
    for day in &days {
        show_activity(&format!("matomo: site {}, checks {day}", site.id));
        found.insert(*day, check.day(*day, reading)?);
    }
    match is_rollup {
        Some(true) => warn(
            format!(
                "visits that Matomo no longer has are not looked for: site {} is a roll-up",
                site.id
            ),
            "Check the sites that its visits come from.",
        ),
        _ => check.extra(&days, &mut found)?,
    }
    if options.repair {
        let Destination { extension, oid, .. } = &check.destination;
        metadata::note_type(extension, *oid, site.id, &info)?;
        warn_of_purged(&found);
        warn_of_misfits("", &check.misfits);
    }
    let is_repaired = |checked: &DayChecked| checked.repaired > 0 && checked.purged == 0;
    for (day, checked) in found.iter().filter(|(_, checked)| is_repaired(checked)) {
        let kind = check.of_other_kind.contains(day).then_some(action_time);
        let actions = check.rows_of(*day)?;
        if is_first {
            // The next sync reads it whole.
            let counts = Counts { visits: checked.there, actions, ..Counts::default() };
            let action_time = Some(action_time);
            let unread = LedgerEntry::new(*day, timezone);
            ledger.write(&LedgerEntry { counts, action_time, ..unread })?;
        } else {
            ledger.correct(*day, checked.there, actions, kind)?;
        }
    }
    Ok(found)
}

fn warn_of_purged(found: &BTreeMap<NaiveDate, DayChecked>) {
    let purged = || found.iter().filter(|(_, checked)| checked.purged > 0);
    if let (Some((first, _)), Some((last, _))) = (purged().next(), purged().next_back()) {
        let visits: i64 = purged().map(|(_, checked)| checked.purged).sum();
        warn(
            format!(
                "Matomo's raw data from {first} to {last} looks purged: kept {visits} visits that \
                 only the table has"
            ),
            "To delete these visits here too, add delete_purged => true.",
        );
    }
}

struct Check {
    client: Client,
    site: SiteContext,
    store: Writer,
    destination: Destination,
    options: CheckOptions,
    /// Days whose rows do not match `matomo.action_time`.
    of_other_kind: BTreeSet<NaiveDate>,
    /// All visits that Matomo listed.
    listed: HashSet<i64>,
    /// The same by day; only for a repair.
    of_days: BTreeMap<NaiveDate, Vec<i64>>,
    /// Of what was repaired.
    misfits: Misfits,
}

impl Check {
    fn day(&mut self, day: NaiveDate, reading: ReadOptions) -> Result<DayChecked> {
        let layouts = self.destination.layouts();
        let listed = on_helper::ask(&self.client, move |client, notice| {
            fetch::list_day(client, reading, &layouts, day, notice)
        })?;
        self.listed.extend(listed.iter().map(|visit| visit.id));
        if self.options.repair {
            self.of_days.insert(day, listed.iter().map(|visit| visit.id).collect());
        }
        let mut checked = DayChecked { there: count(listed.len()), ..DayChecked::default() };
        let Differing { mut stale, mut missing, in_visits } =
            recheck::compare(&self.destination, &listed)?;
        if self.of_other_kind.contains(&day) {
            let missing: HashSet<_> = missing.iter().collect();
            stale =
                listed.iter().map(|visit| visit.id).filter(|id| !missing.contains(id)).collect();
        }
        checked.stale = count(stale.len());
        if self.options.deep {
            // Visits with equal values may have different actions.
            let known: HashSet<_> = stale.iter().chain(&missing).copied().collect();
            let mut equal: Vec<_> =
                listed.iter().map(|visit| visit.id).filter(|id| !known.contains(id)).collect();
            while !equal.is_empty() {
                let batch = self.by_id(day, &mut equal, true)?;
                let differing = self.store.differing(&batch)?;
                checked.stale += count(differing);
                if differing > 0 {
                    checked.repaired += self.repair(&batch, differing)?;
                }
            }
        }
        checked.here = checked.there - count(missing.len());
        let has_visits = self.destination.visits().is_some();
        while !missing.is_empty() {
            let batch = self.by_id(day, &mut missing, true)?;
            // A visit without actions has no rows but in the table of visits.
            let is_missing = |(id, rows): &&(i64, std::ops::Range<usize>)| {
                !rows.is_empty() || in_visits.contains(id)
            };
            let with_rows = batch.visits().iter().filter(is_missing).count();
            if has_visits {
                checked.here += count(batch.visits().len() - with_rows);
            }
            checked.missing += count(with_rows);
            checked.repaired += self.repair(&batch, with_rows)?;
        }
        while self.options.repair && !stale.is_empty() {
            let batch = self.by_id(day, &mut stale, true)?;
            checked.repaired += self.repair(&batch, batch.visits().len())?;
        }
        Ok(checked)
    }

    /// As [`recheck::by_id`].
    fn by_id(&self, day: NaiveDate, ids: &mut Vec<i64>, actions: bool) -> Result<Batch> {
        let (midnight, layouts) = (self.site.zone.midnight(day), self.destination.layouts());
        recheck::by_id(&self.client, self.site, &layouts, (midnight, ids), actions)
    }

    /// Writes the batch if this is a repair. Returns the number of repaired visits.
    fn repair(&mut self, batch: &Batch, visits: usize) -> Result<i64> {
        if !self.options.repair {
            return Ok(0);
        }
        self.store.write(batch)?;
        self.misfits.merge(&batch.misfits);
        Ok(count(visits))
    }

    /// Number of stored rows of the visits that Matomo listed for a day.
    fn rows_of(&self, day: NaiveDate) -> Result<i64> {
        let visits = self.of_days.get(&day).map_or(&[][..], Vec::as_slice);
        inspect::count_rows(&self.destination, visits)
    }

    /// Finds stored visits of the days that Matomo no longer has. A repair deletes them, except on
    /// days that look purged.
    fn extra(
        &mut self,
        days: &[NaiveDate],
        found: &mut BTreeMap<NaiveDate, DayChecked>,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (days.first(), days.last()) else { return Ok(()) };
        let zone = self.site.zone;
        let after = last.succ_opt().unwrap_or(*last);
        let (from, to) = (zone.midnight(*first), zone.midnight(after));
        let (from, to) = (self.site.on_axis(from), self.site.on_axis(to));
        let mut stored = inspect::visits_between(&self.destination, self.site.id, from, to)?;
        // Visits without actions, and such as only a companion has.
        for companion in self.destination.tables().skip(1) {
            let known: HashSet<_> = stored.iter().map(|(id, _)| *id).collect();
            let of_table = inspect::visits_between(companion, self.site.id, from, to)?;
            stored.extend(of_table.into_iter().filter(|(id, _)| !known.contains(id)));
        }
        // Matomo may have moved some of them to another day.
        let suspects = stored.iter().map(|(id, _)| *id).filter(|id| !self.listed.contains(id));
        let suspects: Vec<i64> = suspects.collect();
        let (mut left, mut known) = (suspects.clone(), HashSet::new());
        while !left.is_empty() {
            let batch = self.by_id(*first, &mut left, false)?;
            known.extend(batch.visits().iter().map(|(id, _)| *id));
        }
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
            // Matomo purges the oldest visits first. So the first day after the purged ones may have
            // lost only its oldest visits.
            let is_purged = checked.there * PURGED_FACTOR < count(gone.len() + left.len());
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
