//! The retention of registered sites: the first day to keep, and the days to read again when a retention
//! gets longer. SPI only.

use chrono::{Datelike, Months, NaiveDate, TimeDelta, Utc};
use pgrx::datum::Interval;
use pgrx::pg_sys;

use crate::config::settings;
use crate::error::Result;
use crate::matomo::zone::Zone;
use crate::pg::extension::Extension;
use crate::pg::roles::AsRestricted;
use crate::pg::spi::{get, one, query, values};
use crate::rows::site_context::ActionTime;
use crate::state::ledger::UNREAD;
use crate::state::restored::is_of_table;
use crate::state::sites::RegisteredSite;
use crate::store::destination::Destination;

/// Today in a site's timezone.
pub fn today(timezone: &str) -> NaiveDate {
    zone(timezone).day(Utc::now().timestamp()).unwrap_or_default()
}

/// Seconds since the last midnight in a site's timezone.
pub fn seconds_of_today(timezone: &str) -> f64 {
    (Utc::now().timestamp() - zone(timezone).midnight(today(timezone))) as f64
}

/// A site's timezone; UTC if it is unknown.
pub fn zone(timezone: &str) -> Zone {
    Zone::parse(timezone).unwrap_or(Zone::Fixed(0))
}

/// Bounds of a day's actions in `action_timestamp`, in Unix seconds; the end is exclusive.
pub fn span(day: NaiveDate, timezone: &str, kind: Option<ActionTime>) -> (i64, i64) {
    let zone = kind.unwrap_or(ActionTime::Utc).zone_of_days(zone(timezone));
    (zone.midnight(day), zone.day_end(day))
}

/// The retention of a registered site; `None` means forever. Locks the site until the end of the
/// transaction.
///
/// # Errors
/// Only internal ones.
pub fn of(extension: &Extension, site: i32) -> Result<Option<Interval>> {
    let sql = format!(
        "SELECT s.retention FROM {}.matomo_site_config s WHERE s.id = $1 FOR NO KEY UPDATE",
        extension.schema
    );
    extension.run(|client| one(query(client, &sql, &[site.into()])?))
}

/// The first day within the retention of a registered site; `None` means all days.
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
        let timezone: String = get(&row, 1)?.unwrap_or_default();
        let retention: Option<Interval> = get(&row, 2)?;
        Ok(retention
            .and_then(|kept| before(today(&timezone), kept.months(), kept.days(), kept.micros())))
    })
}

/// Start of a day of a site in `action_timestamp`, in Unix seconds. If rows have both kinds of time, the
/// earlier one.
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
        "SELECT DISTINCT coalesce(l.action_time, $3) FROM {}.matomo_ledger l \
         WHERE {} AND l.idsite = $2 AND l.visits > 0",
        extension.schema,
        is_of_table(&extension.schema, "$1")
    );
    let usual = settings::action_time();
    let args = [site.destination.into(), site.idsite.into(), usual.name().into()];
    let kinds: Vec<String> = extension.run(|client| values(query(client, &sql, &args)?))?;
    let kinds = kinds.iter().filter_map(|kind| ActionTime::parse(kind));
    let begins = |kind: ActionTime| kind.zone_of_days(zone).midnight(day);
    Ok(kinds.map(begins).min().unwrap_or_else(|| begins(usual)))
}

/// Subtracts an interval from a day like Postgres. `None` if the result is out of range: older versions
/// accepted a retention of any length.
fn before(day: NaiveDate, months: i32, days: i32, micros: i64) -> Option<NaiveDate> {
    const DAY: i64 = 86_400_000_000;
    let size = Months::new(months.unsigned_abs());
    let day = match months {
        0.. => day.checked_sub_months(size)?,
        _ => day.checked_add_months(size)?,
    };
    // Round a part of a day up to a whole one.
    let days = i64::from(days) - (-micros).div_euclid(DAY);
    let day = day.checked_sub_signed(TimeDelta::try_days(days)?)?;
    (1..=9999).contains(&day.year()).then_some(day)
}

/// Whether the retention of a registered site is longer than it was.
fn is_longer(extension: &Extension, site: i32, before: Interval) -> Result<bool> {
    let sql = format!(
        "SELECT 1 FROM {}.matomo_site_config s WHERE s.id = $1 \
         AND (s.retention IS NULL OR s.retention > $2)",
        extension.schema
    );
    let args = [site.into(), before.into()];
    extension.run(|client| Ok(!query(client, &sql, &args)?.is_empty()))
}

/// After a longer retention of a site, opens the days that the old one has dropped, so that the next sync
/// reads them: those that are sealed and empty. Also opens the day after each, whose visits may have
/// started before midnight.
///
/// # Errors
/// Those of [`Destination::open_known`] if the site's owner may not sync it.
pub fn open_again(
    extension: &Extension,
    site: &RegisteredSite,
    owner: pg_sys::Oid,
    before: Option<Interval>,
) -> Result<()> {
    let Some(before) = before else { return Ok(()) };
    if !is_longer(extension, site.id, before)? {
        return Ok(());
    }
    if site.destination != pg_sys::Oid::INVALID {
        // It may be missing after a restore.
        let _owner = (owner != pg_sys::Oid::INVALID).then(|| AsRestricted::switch_to(owner));
        if let Some(destination) = Destination::open_known(site.destination)? {
            // The step that is removing rows is to be opened as well.
            destination.keep_rows(site.idsite);
        }
    }
    let first = first_day(extension, site.id)?.map(|day| day.to_string());
    let schema = &extension.schema;
    let is_meant = is_of_table(schema, "$1");
    // Before the site's first run its Matomo is unknown, so any matches.
    let sql = format!(
        "WITH emptied AS (SELECT l.matomo, l.day FROM {schema}.matomo_ledger l \
             WHERE {is_meant} AND l.idsite = $2 AND l.sealed AND l.visits = 0 AND l.actions = 0 \
             AND ($3 IS NULL OR l.day >= $3::date) \
             AND l.matomo = coalesce((SELECT t.matomo FROM {schema}.matomo_site_state t \
                 WHERE t.site_id = $4), l.matomo)) \
         UPDATE {schema}.matomo_ledger l SET {UNREAD} \
         FROM (SELECT matomo, day FROM emptied UNION SELECT matomo, day + 1 FROM emptied) e \
         WHERE {is_meant} AND l.idsite = $2 AND l.matomo = e.matomo AND l.day = e.day"
    );
    let args = [site.destination.into(), site.idsite.into(), first.into(), site.id.into()];
    extension.run(|client| query(client, &sql, &args).map(drop))
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
