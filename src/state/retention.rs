//! The retention of registered sites, and what the ledger is told when rows are dropped for their age:
//! days that are gone stay gone, and nothing is claimed of them. SPI only.

use std::collections::BTreeSet;

use chrono::{Datelike, Days, Months, NaiveDate, TimeDelta, Utc};
use pgrx::JsonB;
use pgrx::datum::Interval;
use pgrx::prelude::*;

use crate::config::settings;
use crate::error::{Error, Result};
use crate::matomo::zone::Zone;
use crate::pg::extension::Extension;
use crate::pg::local_settings::LocalSettings;
use crate::pg::locks::{self, ALL_SITES, Held, Kind, Lock, Mode, Until};
use crate::pg::spi::{query, spi};
use crate::rows::mapping::ActionTime;
use crate::state::forget::Table;
use crate::state::ledger::UNREAD;
use crate::state::restored;
use crate::state::sites::RegisteredSite;

/// What day it is in a site's timezone.
pub fn today(timezone: &str) -> NaiveDate {
    zone(timezone).day(Utc::now().timestamp()).unwrap_or_default()
}

/// A site's timezone; UTC if it is none that we know.
pub fn zone(timezone: &str) -> Zone {
    Zone::parse(timezone).unwrap_or(Zone::Fixed(0))
}

/// The retention of a registered site, `None`: for ever. Nobody else changes it till the end of the
/// transaction.
///
/// # Errors
/// Only internal ones.
pub fn of(extension: &Extension, site: i32) -> Result<Option<Interval>> {
    let sql = format!(
        "SELECT s.retention FROM {}.matomo_site_config s WHERE s.id = $1 FOR NO KEY UPDATE",
        extension.schema
    );
    extension.run(|client| {
        let row = query(client, &sql, &[site.into()])?.next();
        row.map_or(Ok(None), |row| row.get(1).map_err(spi))
    })
}

/// The first day that the retention of a registered site keeps; `None`: all are kept.
///
/// # Errors
/// Only internal ones.
pub fn first_day(extension: &Extension, site: i32) -> Result<Option<NaiveDate>> {
    let sql = format!(
        "SELECT s.timezone, s.retention FROM {}.matomo_site_config s WHERE s.id = $1",
        extension.schema
    );
    extension.run(|client| {
        let Some(row) = query(client, &sql, &[site.into()])?.next() else { return Ok(None) };
        let timezone: String = row.get(1).map_err(spi)?.unwrap_or_default();
        let retention: Option<Interval> = row.get(2).map_err(spi)?;
        Ok(retention
            .and_then(|kept| before(today(&timezone), kept.months(), kept.days(), kept.micros())))
    })
}

/// Where a site's day begins, as `action_timestamp` has it; of two kinds of time the earlier one.
///
/// # Errors
/// Only internal ones.
pub fn begins(
    extension: &Extension,
    site: &RegisteredSite,
    day: NaiveDate,
    zone: Zone,
) -> Result<i64> {
    let sql = format!(
        "SELECT DISTINCT coalesce(action_time, $3) FROM {}.matomo_ledger \
         WHERE destination = $1 AND idsite = $2 AND visits > 0",
        extension.schema
    );
    let usual = settings::action_time();
    let args = [site.destination.into(), site.idsite.into(), usual.name().into()];
    let kinds: Vec<Option<String>> = extension
        .run(|client| query(client, &sql, &args)?.map(|row| row.get(1).map_err(spi)).collect())?;
    let kinds = kinds.iter().flatten().filter_map(|kind| ActionTime::parse(kind));
    let begins = |kind| match kind {
        ActionTime::Utc => zone.midnight(day),
        ActionTime::AsSent => Zone::Fixed(0).midnight(day),
    };
    Ok(kinds.map(begins).min().unwrap_or_else(|| begins(usual)))
}

/// A day so much before another one, as Postgres subtracts it; `None` where there is no such day, or
/// none that Postgres knows: what older versions took for a retention may be of any size.
fn before(day: NaiveDate, months: i32, days: i32, micros: i64) -> Option<NaiveDate> {
    const DAY: i64 = 86_400_000_000;
    let size = Months::new(months.unsigned_abs());
    let day = match months {
        0.. => day.checked_sub_months(size)?,
        _ => day.checked_add_months(size)?,
    };
    // Part of a day reaches into the day before.
    let days = i64::from(days) - (-micros).div_euclid(DAY);
    let day = day.checked_sub_signed(TimeDelta::try_days(days)?)?;
    (1..=9999).contains(&day.year()).then_some(day)
}

/// Opens the days again that the retention of a site has dropped and does not drop any more, so that
/// the next sync reads them: those that are sealed and empty. With each the day after it, whose
/// visits may have begun before midnight.
///
/// # Errors
/// As [`first_day`].
pub fn open_again(
    extension: &Extension,
    site: &RegisteredSite,
    before: Option<Interval>,
) -> Result<()> {
    let Some(before) = before else { return Ok(()) };
    let first = first_day(extension, site.id)?.map(|day| day.to_string());
    let schema = &extension.schema;
    // Where no run has told yet which Matomo it is, it is any.
    let sql = format!(
        "WITH emptied AS (SELECT l.matomo, l.day FROM {schema}.matomo_ledger l \
             WHERE l.destination = $1 AND l.idsite = $2 AND l.sealed AND l.visits = 0 AND l.actions = 0 \
             AND ($3 IS NULL OR l.day >= $3::date) \
             AND l.matomo = coalesce((SELECT t.matomo FROM {schema}.matomo_site_state t \
                 WHERE t.site_id = $4), l.matomo)) \
         UPDATE {schema}.matomo_ledger l SET {UNREAD} \
         FROM (SELECT matomo, day FROM emptied UNION SELECT matomo, day + 1 FROM emptied) e \
         WHERE l.destination = $1 AND l.idsite = $2 AND l.matomo = e.matomo AND l.day = e.day \
         AND EXISTS (SELECT FROM {schema}.matomo_site_config s WHERE s.id = $4 \
             AND (s.retention IS NULL OR s.retention > $5))"
    );
    let args =
        [site.destination.into(), site.idsite.into(), first.into(), site.id.into(), before.into()];
    extension.run(|client| query(client, &sql, &args).map(drop))
}

/// What is to be dropped, and where the last step was.
pub struct Step {
    pub destination: pg_sys::Oid,
    pub before: TimestampWithTimeZone,
    pub site: Option<i32>,
    pub lock_timeout: Interval,
    pub place: Option<JsonB>,
}

/// What a step has done, and whether there may be more to do.
#[derive(Default)]
pub struct Dropped {
    pub place: Option<JsonB>,
    pub more: bool,
    pub dropped: Option<String>,
    pub actions: i64,
    pub blocked: Option<String>,
    pub holders: Option<String>,
}

/// Drops a partition, or deletes a batch of rows, and seals the days that go: no sync shall bring them
/// back, and days are sealed in no other way. Waits for nobody, neither a sync nor rows of the ledger.
///
/// # Errors
/// [`Error::Argument`] for an instant of the future; [`Error::Privilege`] and [`Error::RowSecurity`] for
/// who cannot delete all of it.
pub fn drop_step(step: Step) -> Result<Dropped> {
    let Some(table) = Table::find(step.destination)? else { return Ok(Dropped::default()) };
    let Step { destination, before, site, lock_timeout, place } = step;
    let path: Option<String> = Spi::connect_mut(|client| {
        let sql = "SELECT pg_catalog.current_setting('search_path')";
        query(client, sql, &[])?.first().get_one().map_err(spi)
    })?;
    let _safe = LocalSettings::of(&[
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"timezone", c"UTC"),
        (c"datestyle", c"ISO"),
    ]);
    let sql = "SELECT $1::text, $1 > now()";
    let (text, is_future): (Option<String>, Option<bool>) = Spi::connect_mut(|client| {
        query(client, sql, &[before.into()])?.first().get_two().map_err(spi)
    })?;
    if is_future != Some(false) {
        return Err(Error::Argument {
            message: format!("{} is in the future", text.unwrap_or_default()),
            hint: "To empty the whole table use TRUNCATE.".to_owned(),
        });
    }
    table.check()?;
    let extension = Extension::find()?;
    let blocked = |place, what: String, holders| {
        let blocked = Some(what);
        Ok(Dropped { place, more: true, blocked, holders, ..Dropped::default() })
    };
    // What a sync has stored and not committed would stay, in days that are sealed as empty; and it would
    // seal days as whole of which rows go.
    let rows = Lock::Rows(destination, site.unwrap_or(ALL_SITES));
    if !locks::try_take(rows, Mode::Exclusive, Until::TransactionEnd) {
        return blocked(place, table.name, processes_of(destination, site));
    }
    if place.is_none() {
        restored::resolve(&extension)?;
    }
    // From microseconds since 2000.
    let instant = i64::from(before).div_euclid(1_000_000).saturating_add(946_684_800);
    let mut place = place;
    match seal_dropped(&extension, destination, instant, site)? {
        Sealed::Already => {}
        // A sync has read such days since, as by force: all of it once more.
        Sealed::Now => place = None,
        Sealed::Locked => {
            let ledger = format!("{}.matomo_ledger", extension.schema);
            let holders = holders(&ledger)?;
            return blocked(place, ledger, holders);
        }
    }
    let sql = format!(
        "SELECT s.place, s.more, s.dropped, s.actions, s.blocked, s.holders \
         FROM {}.matomo_drop_rows($1::regclass, $2, $3, $4, $5, $6) AS s",
        extension.schema
    );
    let args = [
        destination.into(),
        before.into(),
        site.into(),
        lock_timeout.into(),
        path.into(),
        place.into(),
    ];
    Spi::connect_mut(|client| {
        let Some(row) = query(client, &sql, &args)?.next() else { return Ok(Dropped::default()) };
        Ok(Dropped {
            place: row.get(1).map_err(spi)?,
            more: row.get(2).map_err(spi)?.unwrap_or(false),
            dropped: row.get(3).map_err(spi)?,
            actions: row.get(4).map_err(spi)?.unwrap_or(0),
            blocked: row.get(5).map_err(spi)?,
            holders: row.get(6).map_err(spi)?,
        })
    })
}

/// The processes that may hold rows of a table of ours.
fn holders(table: &str) -> Result<Option<String>> {
    let sql = "SELECT string_agg(DISTINCT l.pid::text, ', ') FROM pg_locks l \
               WHERE l.relation = $1::regclass AND l.pid <> pg_backend_pid() \
               AND l.mode IN ('RowShareLock', 'RowExclusiveLock') \
               AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())";
    Spi::connect_mut(|client| query(client, sql, &[table.into()])?.first().get_one().map_err(spi))
}

/// The processes that sync a site, or any, into a destination.
fn processes_of(destination: pg_sys::Oid, site: Option<i32>) -> Option<String> {
    let is_meant = |held: &Held| {
        let is_site = site.is_none_or(|site| held.object == site.cast_unsigned());
        held.class == destination.to_u32() && is_site
    };
    let held = locks::held(Kind::Rows).into_iter().filter(is_meant).map(|held| held.pid);
    let held: BTreeSet<i32> = held.collect();
    let held: Vec<_> = held.iter().map(i32::to_string).collect();
    (!held.is_empty()).then(|| held.join(", "))
}

/// Whether days are sealed.
enum Sealed {
    /// They were.
    Already,
    Now,
    /// Another session holds one of them.
    Locked,
}

/// Seals all days of a destination, of one site or of all, that end at an instant or before.
fn seal_dropped(
    extension: &Extension,
    destination: pg_sys::Oid,
    before: i64,
    site: Option<i32>,
) -> Result<Sealed> {
    extension.run(|client| {
        let ledger = format!("{}.matomo_ledger", extension.schema);
        let sql = format!(
            "SELECT DISTINCT matomo, idsite, timezone, coalesce(action_time, $3) FROM {ledger} \
             WHERE destination = $1 AND ($2 IS NULL OR idsite = $2)"
        );
        let usual = settings::action_time().name();
        let mut ends = Vec::new();
        for row in query(client, &sql, &[destination.into(), site.into(), usual.into()])? {
            let matomo: Option<String> = row.get(1).map_err(spi)?;
            let site: Option<i32> = row.get(2).map_err(spi)?;
            let timezone: String = row.get(3).map_err(spi)?.unwrap_or_default();
            let kind: String = row.get(4).map_err(spi)?.unwrap_or_default();
            let last = match ActionTime::parse(&kind) {
                Some(ActionTime::AsSent) => last_day("UTC", before),
                _ => last_day(&timezone, before),
            };
            ends.extend(last.map(|day| (matomo, site, timezone, kind, day)));
        }
        let days = "destination = $1 AND matomo = $2 AND idsite = $3 AND timezone = $4 AND day <= $5::date \
             AND coalesce(action_time, $7) = $6 \
             AND NOT (sealed AND visits = 0 AND actions = 0 AND truncated_visits = 0)";
        let locked = format!(
            "WITH locked AS (SELECT FROM {ledger} WHERE {days} FOR UPDATE SKIP LOCKED) \
             SELECT (SELECT count(*) FROM locked), (SELECT count(*) FROM {ledger} WHERE {days})"
        );
        let seal = format!(
            "UPDATE {ledger} SET sealed = true, visits = 0, actions = 0, truncated_visits = 0, \
                 pass_began = NULL, pass_since = NULL, pass_seen = NULL WHERE {days}"
        );
        let mut sealed = Sealed::Already;
        for sql in [&locked, &seal] {
            for (matomo, site, timezone, kind, day) in &ends {
                let args = [
                    destination.into(),
                    matomo.as_deref().into(),
                    (*site).into(),
                    timezone.as_str().into(),
                    day.to_string().into(),
                    kind.as_str().into(),
                    usual.into(),
                ];
                let found = query(client, sql, &args)?;
                if sql == &seal {
                    continue;
                }
                let (locked, all) = found.first().get_two::<i64, i64>().map_err(spi)?;
                if locked != all {
                    return Ok(Sealed::Locked);
                }
                if locked > Some(0) {
                    sealed = Sealed::Now;
                }
            }
            if matches!(sealed, Sealed::Already) {
                break;
            }
        }
        Ok(sealed)
    })
}

/// The last day that ends at an instant or before, in a timezone.
fn last_day(timezone: &str, before: i64) -> Option<NaiveDate> {
    Zone::parse(timezone)?.day(before)?.checked_sub_days(Days::new(1))
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
