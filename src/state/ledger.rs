//! The ledger: the table `matomo_ledger`. SPI only.

pub mod matomo_of_table;

use std::collections::BTreeMap;

use chrono::NaiveDate;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::error::{Error, Result};
use crate::matomo::http::endpoint::Endpoint;
use crate::pg::extension::Extension;
use crate::pg::spi::{get, query, query_kept};
use crate::rows::site_context::ActionTime;
use crate::rows::visit_tally::{Counts, VisitTally};
use crate::state::day_state::{DayState, Pass};
use crate::state::metadata;
use crate::state::restored;
use crate::state::restored::is_of_table;
use crate::store::companions;
use crate::store::destination::Destination;

/// The entries of a Matomo, site and destination.
pub struct Ledger {
    table: String,
    extension: Extension,
    matomo: String,
    pub(super) site: i32,
    destination: pg_sys::Oid,
}

/// The entry of a site-day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    pub day: NaiveDate,
    pub state: DayState,
    pub counts: Counts,
    /// The site's timezone, as Matomo names it.
    pub timezone: String,
    /// The kind of time in `action_timestamp`, if known.
    pub action_time: Option<ActionTime>,
}

/// Entries of a site, by day.
pub type LedgerDays = BTreeMap<NaiveDate, LedgerEntry>;

/// SQL that sets the counts of an entry for a day without rows.
pub const EMPTY: &str = "visits = 0, actions = 0, truncated_visits = 0";

/// SQL that resets an entry, so that its day is read again.
pub const UNREAD: &str = "sealed = false, newest = NULL, rechecked_at = NULL, \
     pass_began = NULL, pass_since = NULL, pass_seen = NULL";

impl Ledger {
    /// The ledger of a site in a destination.
    pub fn of(destination: &Destination, endpoint: &Endpoint, site: i32) -> Ledger {
        Ledger {
            table: format!("{}.matomo_ledger", destination.extension.schema),
            extension: destination.extension.clone(),
            matomo: endpoint.url().to_owned(),
            site,
            destination: destination.oid,
        }
    }

    /// Reads all entries, also restored ones that have only the destination's name. Of several entries of a
    /// day, takes the destination's own, then one that is to be read anew, then the one that was read last.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn read(&self) -> Result<LedgerDays> {
        self.read_where("true")
    }

    /// Reads and deletes restored entries that have only the destination's name.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn take_restored(&self) -> Result<LedgerDays> {
        let by_name = "l.destination = 0::oid";
        let found = self.read_where(by_name)?;
        if !found.is_empty() {
            let sql = format!(
                "DELETE FROM {} l WHERE {} AND l.matomo = $1 AND l.idsite = $2 AND {by_name}",
                self.table,
                is_of_table(&self.extension.schema, "$3")
            );
            self.run(|client| query(client, &sql, &self.key()).map(drop))?;
        }
        Ok(found)
    }

    fn read_where(&self, condition: &str) -> Result<LedgerDays> {
        let sql = format!(
            "SELECT day::text, sealed, date_part('epoch', newest), visits, actions, \
             truncated_visits, timezone, date_part('epoch', read_at), date_part('epoch', pass_began), \
             date_part('epoch', pass_since), pass_seen, date_part('epoch', rechecked_at), action_time \
             FROM {} l WHERE matomo = $1 AND idsite = $2 AND {} AND {condition} \
             ORDER BY l.destination, coalesce(nullif(l.read_at, 'epoch'), 'infinity')",
            self.table,
            is_of_table(&self.extension.schema, "$3")
        );
        self.run(|client| {
            let mut entries = BTreeMap::new();
            for row in query(client, &sql, &self.key())? {
                let day: String = get(&row, 1)?.ok_or_else(corrupt)?;
                let day: NaiveDate = day.parse().map_err(|_| corrupt())?;
                let seconds = |at: Option<f64>| at.map(|at| at as i64);
                let tally: Option<Vec<u8>> = get(&row, 11)?;
                let tally = tally.and_then(|tally| VisitTally::from_bytes(&tally));
                let pass = seconds(get(&row, 9)?)
                    .zip(seconds(get(&row, 10)?))
                    .map(|(began, since)| Pass { began, since, tally });
                let action_time: Option<String> = get(&row, 13)?;
                let entry = LedgerEntry {
                    day,
                    state: DayState {
                        sealed: get(&row, 2)?.unwrap_or(false),
                        newest: seconds(get(&row, 3)?),
                        read_at: seconds(get(&row, 8)?).unwrap_or(0),
                        rechecked: seconds(get(&row, 12)?),
                        pass,
                    },
                    counts: Counts {
                        visits: get(&row, 4)?.unwrap_or(0),
                        actions: get(&row, 5)?.unwrap_or(0),
                        truncated_visits: get(&row, 6)?.unwrap_or(0),
                    },
                    timezone: get(&row, 7)?.unwrap_or_default(),
                    action_time: action_time.as_deref().and_then(ActionTime::parse),
                };
                entries.insert(day, entry);
            }
            Ok(entries)
        })
    }

    /// Whether the destination must have rows, of any site.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn must_have_rows(&self) -> Result<bool> {
        let sql =
            format!("SELECT 1 FROM {} WHERE destination = $1 AND actions > 0 LIMIT 1", self.table);
        self.run(|client| Ok(!query(client, &sql, &[self.destination.into()])?.is_empty()))
    }

    /// Whether the destination's table of visits must have rows: visits were read since the days were last
    /// reset. Days that Matomo has purged since then add no visits.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn must_have_visits(&self) -> Result<bool> {
        let sql = format!(
            "SELECT 1 FROM {} WHERE destination = $1 AND visits > 0 AND newest IS NOT NULL LIMIT 1",
            self.table
        );
        self.run(|client| Ok(!query(client, &sql, &[self.destination.into()])?.is_empty()))
    }

    /// Resets days that were read after `now`, by a clock that was ahead.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn reset_read_after(&self, now: i64) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET {UNREAD}, read_at = to_timestamp($4) WHERE matomo = $1 AND idsite = $2 \
             AND destination = $3 AND read_at > to_timestamp($4)",
            self.table
        );
        let mut args = Vec::from(self.key());
        args.push((now as f64).into());
        self.run(|client| query(client, &sql, &args).map(drop))
    }

    /// Sets the timezone of days; the first ones stay valid, the second ones are reset.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn set_timezone(
        &self,
        (read, unread): (Vec<NaiveDate>, Vec<NaiveDate>),
        timezone: &str,
    ) -> Result<()> {
        for (days, more) in [(read, String::new()), (unread, format!(", {UNREAD}"))] {
            let sql = format!(
                "UPDATE {} SET timezone = $5{more} WHERE matomo = $1 AND idsite = $2 \
                 AND destination = $3 AND day = ANY ($4::text[]::date[])",
                self.table
            );
            let days: Vec<_> = days.iter().map(NaiveDate::to_string).collect();
            let mut args = Vec::from(self.key());
            args.extend([days.into(), timezone.into()]);
            self.run(|client| query(client, &sql, &args).map(drop))?;
        }
        Ok(())
    }

    /// Resets all days of all sites after the destination was emptied. `read_at` becomes 1970, so that
    /// runs which have already read a day read it again. Keeps days without visits, such as those that
    /// retention has dropped.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn reset_all(&self) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET {UNREAD}, {EMPTY}, read_at = to_timestamp(0) WHERE destination = $1 AND visits > 0",
            self.table
        );
        self.run(|client| query(client, &sql, &[self.destination.into()]).map(drop))
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn write(&self, entry: &LedgerEntry) -> Result<()> {
        let sql = format!(
            "INSERT INTO {} AS l (matomo, idsite, destination, day, sealed, visits, actions, \
                 truncated_visits, newest, timezone, read_at, pass_began, pass_since, pass_seen, \
                 rechecked_at, action_time) \
             VALUES ($1, $2, $3, $4::date, $5, $6, $7, $8, to_timestamp($9), $10, to_timestamp($11), \
                 to_timestamp($12), to_timestamp($13), $14, to_timestamp($15), $16) \
             ON CONFLICT (destination, idsite, matomo, day, destination_name) DO UPDATE SET sealed = excluded.sealed, \
                 visits = excluded.visits, actions = excluded.actions, \
                 truncated_visits = excluded.truncated_visits, newest = excluded.newest, \
                 timezone = excluded.timezone, read_at = excluded.read_at, \
                 pass_began = excluded.pass_began, pass_since = excluded.pass_since, \
                 pass_seen = excluded.pass_seen, rechecked_at = excluded.rechecked_at, \
                 action_time = excluded.action_time",
            self.table
        );
        let pass = entry.state.pass.as_ref();
        let mut args = Vec::from(self.key());
        args.extend([
            entry.day.to_string().into(),
            entry.state.sealed.into(),
            entry.counts.visits.into(),
            entry.counts.actions.into(),
            entry.counts.truncated_visits.into(),
            entry.state.newest.map(|at| at as f64).into(),
            entry.timezone.as_str().into(),
            (entry.state.read_at as f64).into(),
            pass.map(|pass| pass.began as f64).into(),
            pass.map(|pass| pass.since as f64).into(),
            pass.and_then(|pass| pass.tally.as_ref()).map(VisitTally::to_bytes).into(),
            entry.state.rechecked.map(|at| at as f64).into(),
            entry.action_time.map(ActionTime::name).into(),
        ]);
        self.run(|client| query_kept(client, &sql, &args).map(drop))
    }

    /// Corrects the counts of a repaired day's entry, and its kind of time if the whole day was written.
    /// Writes it also if they are right, so that a transaction that does not see the rows fails. Creates no
    /// entry.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn correct(
        &self,
        day: NaiveDate,
        visits: i64,
        actions: i64,
        action_time: Option<ActionTime>,
    ) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET visits = $5, actions = $6, action_time = coalesce($7, action_time) \
             WHERE matomo = $1 AND idsite = $2 AND destination = $3 AND day = $4::date",
            self.table
        );
        let mut args = Vec::from(self.key());
        let action_time = action_time.map(ActionTime::name);
        args.extend([day.to_string().into(), visits.into(), actions.into(), action_time.into()]);
        self.run(|client| query(client, &sql, &args).map(drop))
    }

    fn key(&self) -> [DatumWithOid<'_>; 3] {
        [self.matomo.as_str().into(), self.site.into(), self.destination.into()]
    }

    pub(super) fn run<T>(&self, work: impl FnOnce(&mut SpiClient) -> Result<T>) -> Result<T> {
        self.extension.run(work)
    }
}

/// The error of an entry that violates the table's constraints.
pub fn corrupt() -> Error {
    Error::Internal("invalid row in matomo_ledger".to_owned())
}

/// Marks the days of a destination to be read again, of all sites. Keeps their counts. Skips days without
/// visits, except unfinished ones: 0.1.0 may have recorded 0 for them.
///
/// # Errors
/// Only internal ones.
pub fn reread_all(extension: &Extension, destination: pg_sys::Oid) -> Result<()> {
    let sql = format!(
        "UPDATE {0}.matomo_ledger l SET {UNREAD}, read_at = to_timestamp(0) \
         WHERE (l.visits > 0 OR l.pass_began IS NOT NULL) AND {1}",
        extension.schema,
        restored::is_of_table(&extension.schema, "$1")
    );
    extension.run(|client| query(client, &sql, &[destination.into()]).map(drop))
}

/// Deletes entries of dropped tables, and what is known of their companions, as a later table may get the
/// same OID.
///
/// # Errors
/// Only internal ones.
pub fn forget_dropped(extension: &Extension) -> Result<()> {
    let table = format!("{}.matomo_ledger", extension.schema);
    let sql = format!(
        "DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT l.ctid FROM {table} l \
         WHERE l.destination <> 0::oid \
         AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = l.destination) \
         AND NOT EXISTS (SELECT FROM {0}.matomo_companion k WHERE k.destination = l.destination) \
         FOR UPDATE SKIP LOCKED))",
        extension.schema
    );
    companions::forget_dropped(extension)?;
    extension.run(|client| query(client, &sql, &[]).map(drop))?;
    metadata::forget_dropped(extension)
}

impl LedgerEntry {
    /// A new entry.
    pub fn new(day: NaiveDate, timezone: &str) -> LedgerEntry {
        LedgerEntry {
            day,
            state: DayState::default(),
            counts: Counts::default(),
            timezone: timezone.to_owned(),
            action_time: None,
        }
    }
}
