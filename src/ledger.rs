//! What is known of each site-day: the table `matomo_ledger`. SPI only.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::destination::{Destination, query, spi};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::extension::Extension;
use crate::plan::{Known, Pass};
use crate::seen::{Counts, Seen};

/// The entries of one Matomo, site and destination.
pub struct Ledger {
    table: String,
    extension: Extension,
    matomo: String,
    site: i32,
    destination: pg_sys::Oid,
}

/// What is known of a day when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub day: NaiveDate,
    pub known: Known,
    pub counts: Counts,
    /// The site's timezone, as Matomo names it.
    pub timezone: String,
    /// An instant, in seconds.
    pub read_at: i64,
}

/// What an entry is set to of whose day nothing is known but that there is one.
pub const UNREAD: &str =
    "sealed = false, newest = NULL, pass_began = NULL, pass_since = NULL, pass_seen = NULL";

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

    /// All entries by day.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn read(&self) -> Result<BTreeMap<NaiveDate, Entry>> {
        let sql = format!(
            "SELECT day::text, sealed, date_part('epoch', newest), visits, actions, \
             truncated_visits, timezone, date_part('epoch', read_at), date_part('epoch', pass_began), \
             date_part('epoch', pass_since), pass_seen FROM {} \
             WHERE matomo = $1 AND idsite = $2 AND destination = $3",
            self.table
        );
        self.run(|client| {
            let mut entries = BTreeMap::new();
            for row in query(client, &sql, &self.key())? {
                let corrupt = || Error::Internal("the ledger holds what it cannot hold".to_owned());
                let day: String = row.get(1).map_err(spi)?.ok_or_else(corrupt)?;
                let day: NaiveDate = day.parse().map_err(|_| corrupt())?;
                let seconds = |at: Option<f64>| at.map(|at| at as i64);
                let seen: Option<Vec<u8>> = row.get(11).map_err(spi)?;
                let pass = seconds(row.get(9).map_err(spi)?)
                    .zip(seconds(row.get(10).map_err(spi)?))
                    .zip(seen.and_then(|seen| Seen::from_bytes(&seen)))
                    .map(|((began, since), seen)| Pass { began, since, seen });
                let entry = Entry {
                    day,
                    known: Known {
                        sealed: row.get(2).map_err(spi)?.unwrap_or(false),
                        newest: seconds(row.get(3).map_err(spi)?),
                        pass,
                    },
                    counts: Counts {
                        visits: row.get(4).map_err(spi)?.unwrap_or(0),
                        actions: row.get(5).map_err(spi)?.unwrap_or(0),
                        truncated_visits: row.get(6).map_err(spi)?.unwrap_or(0),
                    },
                    timezone: row.get(7).map_err(spi)?.unwrap_or_default(),
                    read_at: seconds(row.get(8).map_err(spi)?).unwrap_or(0),
                };
                entries.insert(day, entry);
            }
            Ok(entries)
        })
    }

    /// Another Matomo which has a site of this ID in the destination, if there is one.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn other_matomo(&self) -> Result<Option<String>> {
        let sql = format!(
            "SELECT matomo FROM {} WHERE destination = $1 AND idsite = $3 AND matomo <> $2 LIMIT 1",
            self.table
        );
        self.run(|client| {
            let args = [self.destination.into(), self.matomo.as_str().into(), self.site.into()];
            let found = query(client, &sql, &args)?;
            if found.is_empty() { Ok(None) } else { found.first().get_one().map_err(spi) }
        })
    }

    /// Whether the destination has to hold rows, of whichever site.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn claims_rows(&self) -> Result<bool> {
        let sql =
            format!("SELECT 1 FROM {} WHERE destination = $1 AND actions > 0 LIMIT 1", self.table);
        self.run(|client| Ok(!query(client, &sql, &[self.destination.into()])?.is_empty()))
    }

    /// Days have to be read again: they are no longer sealed.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn open_again(&self, from: NaiveDate) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET {UNREAD} WHERE matomo = $1 AND idsite = $2 \
             AND destination = $3 AND day >= $4::date",
            self.table
        );
        let mut args = Vec::from(self.key());
        args.push(from.to_string().into());
        self.run(|client| query(client, &sql, &args).map(drop))
    }

    /// The rows of the destination are gone, those of all sites: their days have to be read again. Days
    /// without visits stay as they are, such as those that were dropped for their age.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn disclaim_rows(&self) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET {UNREAD}, visits = 0, actions = 0, truncated_visits = 0 \
             WHERE destination = $1 AND visits > 0",
            self.table
        );
        self.run(|client| query(client, &sql, &[self.destination.into()]).map(drop))
    }

    /// Writes an entry; one that says what is there already is not written again.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn write(&self, entry: &Entry) -> Result<()> {
        let sql = format!(
            "INSERT INTO {} AS l (matomo, idsite, destination, day, sealed, visits, actions, \
                 truncated_visits, newest, timezone, read_at, pass_began, pass_since, pass_seen) \
             VALUES ($1, $2, $3, $4::date, $5, $6, $7, $8, to_timestamp($9), $10, to_timestamp($11), \
                 to_timestamp($12), to_timestamp($13), $14) \
             ON CONFLICT (destination, idsite, matomo, day) DO UPDATE SET sealed = excluded.sealed, \
                 visits = excluded.visits, actions = excluded.actions, \
                 truncated_visits = excluded.truncated_visits, newest = excluded.newest, \
                 timezone = excluded.timezone, read_at = excluded.read_at, \
                 pass_began = excluded.pass_began, pass_since = excluded.pass_since, \
                 pass_seen = excluded.pass_seen",
            self.table
        );
        let pass = entry.known.pass.as_ref();
        let mut args = Vec::from(self.key());
        args.extend([
            entry.day.to_string().into(),
            entry.known.sealed.into(),
            entry.counts.visits.into(),
            entry.counts.actions.into(),
            entry.counts.truncated_visits.into(),
            entry.known.newest.map(|at| at as f64).into(),
            entry.timezone.as_str().into(),
            (entry.read_at as f64).into(),
            pass.map(|pass| pass.began as f64).into(),
            pass.map(|pass| pass.since as f64).into(),
            pass.map(|pass| pass.seen.to_bytes()).into(),
        ]);
        self.run(|client| query(client, &sql, &args).map(drop))
    }

    /// Mends what an entry says of how much its day holds; where there is none, none is made.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn correct(&self, day: NaiveDate, visits: i64, actions: i64) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET visits = $5, actions = $6 WHERE matomo = $1 AND idsite = $2 \
             AND destination = $3 AND day = $4::date AND (visits, actions) <> ($5, $6)",
            self.table
        );
        let mut args = Vec::from(self.key());
        args.extend([day.to_string().into(), visits.into(), actions.into()]);
        self.run(|client| query(client, &sql, &args).map(drop))
    }

    fn key(&self) -> [DatumWithOid<'_>; 3] {
        [self.matomo.as_str().into(), self.site.into(), self.destination.into()]
    }

    fn run<T>(&self, work: impl FnOnce(&mut SpiClient) -> Result<T>) -> Result<T> {
        self.extension.run(work)
    }
}

/// Entries of tables that are gone go too: a later table may get the same OID.
///
/// # Errors
/// Only internal ones.
pub fn forget_dropped(extension: &Extension) -> Result<()> {
    let table = format!("{}.matomo_ledger", extension.schema);
    let sql = format!(
        "DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT l.ctid FROM {table} l \
         WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = l.destination) \
         FOR UPDATE SKIP LOCKED))"
    );
    extension.run(|client| query(client, &sql, &[]).map(drop))
}

impl Entry {
    /// The entry of a day about which nothing is known yet.
    pub fn new(day: NaiveDate, timezone: &str) -> Entry {
        Entry {
            day,
            known: Known::default(),
            counts: Counts::default(),
            timezone: timezone.to_owned(),
            read_at: 0,
        }
    }
}
