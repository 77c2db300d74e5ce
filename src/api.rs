//! The SQL surface. Checks arguments; everything else happens in [`crate::sync`].

use chrono::{Days, NaiveDate};
use pgrx::datum::Date;
use pgrx::prelude::*;

use crate::check::{self, DayChecked, How};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::report::or_raise;
use crate::retention;
use crate::secrecy;
use crate::settings;
use crate::sync::{self, Order};
use crate::token::Token;

/// Copies the visits of a Matomo site, by the day of their last action in the site's timezone,
/// into a table. See README for the arguments and the result.
#[pg_extern(volatile, parallel_unsafe, requires = ["tables", "partitions", "ledger"])]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn matomo_sync(
    site: Option<i32>,
    url: Option<&str>,
    key: Option<&str>,
    start_date: default!(Option<Date>, "NULL"),
    end_date: default!(Option<Date>, "NULL"),
    destination: default!(Option<&str>, "NULL"),
    force: default!(Option<bool>, "false"),
    page_size: default!(Option<i32>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(day, Date),
        name!(pages, i32),
        name!(visits, i64),
        name!(actions, i64),
        name!(inserted, i64),
        name!(updated, i64),
        name!(deleted, i64),
        name!(truncated_visits, i64),
    ),
> {
    let _hidden = hide_key(site);
    // SAFETY: main thread; raises an ERROR in a read-only transaction and on a standby.
    unsafe { pg_sys::PreventCommandIfReadOnly(c"matomo_sync()".as_ptr()) };
    let days = or_raise(
        order(site, url, key, start_date, end_date, destination, force, page_size)
            .and_then(sync::run),
    );
    let rows = days.into_iter().map(|(read, written)| {
        (
            date(read.due.day),
            read.pages,
            read.visits,
            read.actions,
            written.inserted,
            written.updated,
            written.deleted,
            read.truncated_visits,
        )
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// Compares what Matomo lists of a range of days with what a table holds, and mends what differs
/// if asked to. See README for the arguments and the result.
#[pg_extern(volatile, parallel_unsafe, requires = ["tables", "partitions", "ledger"])]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn matomo_check(
    site: Option<i32>,
    start_date: Option<Date>,
    end_date: Option<Date>,
    url: Option<&str>,
    key: Option<&str>,
    destination: default!(Option<&str>, "NULL"),
    repair: default!(Option<bool>, "false"),
    deep: default!(Option<bool>, "false"),
    page_size: default!(Option<i32>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(day, Date),
        name!(visits_there, i64),
        name!(visits_here, i64),
        name!(missing, i64),
        name!(extra, i64),
        name!(stale, i64),
        name!(repaired, i64),
    ),
> {
    let _hidden = hide_key(site);
    let how = How { repair: repair.unwrap_or(false), deep: deep.unwrap_or(false) };
    if how.repair {
        // SAFETY: main thread; raises an ERROR in a read-only transaction and on a standby.
        unsafe { pg_sys::PreventCommandIfReadOnly(c"matomo_check(repair)".as_ptr()) };
    }
    let days = or_raise(
        order(site, url, key, start_date, end_date, destination, None, page_size)
            .and_then(|order| check::run(order, how)),
    );
    let rows = days.into_iter().map(|(day, found)| {
        let DayChecked { there, here, missing, extra, stale, repaired } = found;
        (date(day), there, here, missing, extra, stale, repaired)
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// Tells the ledger that rows of a destination before an instant, of one site or of all, are dropped
/// for their age. Called by `matomo_drop_step`. Gives how many days that concerns.
#[pg_extern(volatile, parallel_unsafe, requires = ["ledger"])]
fn matomo_seal_dropped(
    destination: Option<pg_sys::Oid>,
    before: Option<TimestampWithTimeZone>,
    site: Option<i32>,
) -> i64 {
    or_raise((|| {
        let destination = destination.ok_or(Error::Null("destination"))?;
        let before = i64::from(before.ok_or(Error::Null("before"))?);
        // From microseconds since 2000.
        let before = before.div_euclid(1_000_000).saturating_add(946_684_800);
        retention::seal_dropped(destination, before, site)
    })())
}

/// Takes the statement, which holds the key, out of sight before anything can fail or wait.
fn hide_key(site: Option<i32>) -> secrecy::WithoutContext {
    let hidden = secrecy::hide_running_statement();
    secrecy::show_activity(&site.map_or_else(
        || "matomo: begins".to_owned(),
        |site| format!("matomo: site {site}, begins"),
    ));
    hidden
}

#[allow(clippy::too_many_arguments)]
fn order(
    site: Option<i32>,
    url: Option<&str>,
    key: Option<&str>,
    start: Option<Date>,
    end: Option<Date>,
    destination: Option<&str>,
    force: Option<bool>,
    page_size: Option<i32>,
) -> Result<Order> {
    let site = site.ok_or(Error::Null("site"))?;
    let url = url.ok_or(Error::Null("url"))?;
    let key = key.ok_or(Error::Null("key"))?;
    if site < 1 {
        return Err(Error::Argument {
            message: format!("site {site} is no ID of a site"),
            hint: "Matomo numbers its sites from 1 (Administration > Measurables > Manage)."
                .to_owned(),
        });
    }
    if key.trim().is_empty() {
        return Err(Error::Argument {
            message: "the key is empty".to_owned(),
            hint: "Give a token_auth of Matomo (Personal > Security > Auth tokens).".to_owned(),
        });
    }
    let page_size = page_size.unwrap_or_else(settings::page_size);
    if !settings::PAGE_SIZES.contains(&page_size) {
        return Err(Error::Argument {
            message: format!("page_size {page_size} is out of range"),
            hint: format!(
                "It must be from {} to {}.",
                settings::PAGE_SIZES.start(),
                settings::PAGE_SIZES.end()
            ),
        });
    }
    let (start, end) = (day("start_date", start)?, day("end_date", end)?);
    if let (Some(start), Some(end)) = (start, end)
        && end < start
    {
        return Err(Error::reversed(start, end));
    }
    // SAFETY: main thread; reads a constant of the database.
    let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
    if encoding != pg_sys::pg_enc::PG_UTF8 as i32 {
        // SAFETY: as above; the name is static.
        let name = unsafe { std::ffi::CStr::from_ptr(pg_sys::GetDatabaseEncodingName()) };
        return Err(Error::Encoding(name.to_string_lossy().into_owned()));
    }
    Ok(Order {
        site,
        endpoint: Endpoint::parse(url)?,
        token: Token::new(key),
        start,
        end,
        destination: destination.map_or_else(settings::destination, str::to_owned),
        force: force.unwrap_or(false),
        page_size: page_size.unsigned_abs(),
    })
}

/// The day from which Postgres counts.
const POSTGRES_EPOCH: NaiveDate = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap();

fn day(argument: &str, date: Option<Date>) -> Result<Option<NaiveDate>> {
    let Some(date) = date else { return Ok(None) };
    let days = i64::from(date.to_pg_epoch_days());
    let shift = Days::new(days.unsigned_abs());
    let day = if days < 0 {
        POSTGRES_EPOCH.checked_sub_days(shift)
    } else {
        POSTGRES_EPOCH.checked_add_days(shift)
    };
    // Nothing was tracked before there was a web; and an infinite range never ends.
    match day {
        Some(day) if NaiveDate::from_ymd_opt(1990, 1, 1) <= Some(day) => Ok(Some(day)),
        _ => Err(Error::Argument {
            message: format!("{argument} is out of range"),
            hint: "Give a day from 1990-01-01 on.".to_owned(),
        }),
    }
}

fn date(day: NaiveDate) -> Date {
    let days = day.signed_duration_since(POSTGRES_EPOCH).num_days();
    // SAFETY: days of a NaiveDate from 1990 on are far from Postgres' bounds.
    unsafe { Date::from_pg_epoch_days(i32::try_from(days).unwrap_or(0)) }
}
