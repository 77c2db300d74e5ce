//! SQL functions that sync and check. They check arguments; the work is done in [`crate::sync`].

use chrono::{Days, NaiveDate};
use pgrx::datum::Date;
use pgrx::prelude::*;

use crate::config::access::Access;
use crate::config::credentials::Credentials;
use crate::config::options;
use crate::config::settings;
use crate::error::{Error, Result};
use crate::matomo::http::endpoint::Endpoint;
use crate::matomo::http::token::Token;
use crate::pg::encoding;
use crate::pg::ereport::or_raise;
use crate::pg::secrecy;
use crate::pg::spi::refuse_read_only;
use crate::sync::check::{self, CheckOptions, DayChecked};
use crate::sync::site_sync::{self, SyncRequest};

/// Copies the visits of a Matomo site into a table, by the day of their last action in the site's
/// timezone. See docs/functions.md for the arguments and the result.
#[pg_extern(name = "matomo_sync", volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn matomo_sync_0_2_reconnect(
    site: Option<i32>,
    url: default!(Option<&str>, "NULL"),
    key: default!(Option<&str>, "NULL"),
    start_date: default!(Option<Date>, "NULL"),
    end_date: default!(Option<Date>, "NULL"),
    destination: default!(Option<&str>, "NULL"),
    force: default!(Option<bool>, "false"),
    page_size: default!(Option<i32>, "NULL"),
    server: default!(Option<&str>, "NULL"),
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
    let _hidden = begin(site, key);
    refuse_read_only(c"matomo_sync()");
    let days = or_raise(
        Arguments { site, url, key, server, start_date, end_date, destination, force, page_size }
            .request()
            .and_then(site_sync::run),
    );
    let rows = days.into_iter().map(|(read, written)| {
        (
            date(read.day),
            read.pages,
            read.met.visits,
            read.met.actions,
            written.inserted,
            written.updated,
            written.deleted,
            read.met.truncated_visits,
        )
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// Compares the visits that Matomo lists for a range of days with those in a table, and optionally
/// repairs differences. See docs/functions.md for the arguments and the result.
#[pg_extern(name = "matomo_check", volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn matomo_check_0_2_reconnect(
    site: Option<i32>,
    start_date: Option<Date>,
    end_date: Option<Date>,
    url: default!(Option<&str>, "NULL"),
    key: default!(Option<&str>, "NULL"),
    destination: default!(Option<&str>, "NULL"),
    repair: default!(Option<bool>, "false"),
    deep: default!(Option<bool>, "false"),
    page_size: default!(Option<i32>, "NULL"),
    server: default!(Option<&str>, "NULL"),
    delete_purged: default!(Option<bool>, "false"),
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
        name!(purged, i64),
    ),
> {
    let _hidden = begin(site, key);
    let check_options = CheckOptions {
        repair: repair.unwrap_or(false),
        deep: deep.unwrap_or(false),
        delete_purged: delete_purged.unwrap_or(false),
    };
    if check_options.repair {
        refuse_read_only(c"matomo_check(repair)");
    }
    let days = or_raise(
        Arguments {
            site,
            url,
            key,
            server,
            start_date,
            end_date,
            destination,
            force: None,
            page_size,
        }
        .request()
        .and_then(|request| check::run(request, check_options)),
    );
    let rows = days.into_iter().map(|(day, found)| {
        let DayChecked { there, here, missing, extra, stale, repaired, purged } = found;
        (date(day), there, here, missing, extra, stale, repaired, purged)
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// Shows the activity in `pg_stat_activity`. Hides the statement first if it has a key, before
/// anything can fail or wait.
pub fn begin(site: Option<i32>, key: Option<&str>) -> Option<secrecy::WithoutContext> {
    let hidden = key.map(secrecy::hide_running_statement);
    secrecy::show_activity(&site.map_or_else(
        || "matomo: begins".to_owned(),
        |site| format!("matomo: site {site}, begins"),
    ));
    hidden
}

/// The common arguments of `matomo_sync`, `matomo_check` and `matomo_refresh_metadata`.
#[derive(Default)]
pub struct Arguments<'a> {
    pub site: Option<i32>,
    pub url: Option<&'a str>,
    pub key: Option<&'a str>,
    pub server: Option<&'a str>,
    pub start_date: Option<Date>,
    pub end_date: Option<Date>,
    pub destination: Option<&'a str>,
    pub force: Option<bool>,
    pub page_size: Option<i32>,
}

impl Arguments<'_> {
    /// Checks them.
    ///
    /// # Errors
    /// [`Error::Null`], [`Error::Argument`], and those of the credentials.
    pub fn request(self) -> Result<SyncRequest> {
        let site = id_of_site(self.site)?;
        self.only_one_way()?;
        if self.key.is_some_and(|key| key.trim().is_empty()) {
            return Err(Error::empty_token("the key"));
        }
        if let Some(size) = self.page_size
            && !options::PAGE_SIZES.contains(&size)
        {
            return Err(Error::Argument {
                message: format!("page_size {size} is out of range"),
                hint: format!(
                    "Give a number from {} to {}.",
                    options::PAGE_SIZES.start(),
                    options::PAGE_SIZES.end()
                ),
            });
        }
        let start = day("start_date", self.start_date)?;
        let end = day("end_date", self.end_date)?;
        if let (Some(start), Some(end)) = (start, end)
            && end < start
        {
            return Err(Error::reversed(start, end));
        }
        encoding::check()?;
        let mut access = match (self.server, self.url, self.key) {
            (None, Some(url), Some(key)) => Access::direct(Endpoint::parse(url)?, Token::new(key))?,
            (Some(server), ..) => Access::stored(Credentials::of_server(server)?)?,
            (None, None, _) => return Err(Error::Null("url")),
            (None, _, None) => return Err(Error::Null("key")),
        };
        if let Some(size) = self.page_size {
            access.page_size = size.unsigned_abs();
        }
        Ok(SyncRequest {
            site,
            access,
            start,
            end,
            destination: self.destination.map_or_else(settings::destination, str::to_owned),
            force: self.force.unwrap_or(false),
        })
    }

    /// Checks that the Matomo is given either by server or by url and key.
    fn only_one_way(&self) -> Result<()> {
        let message = match (self.server, self.url, self.key) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                "both a server and a url or key are given"
            }
            (None, None, None) => "neither a server nor a url and key are given",
            _ => return Ok(()),
        };
        Err(Error::Argument {
            message: message.to_owned(),
            hint: "Give either server => 'analytics', a foreign server with a user mapping, or \
                   url => 'https://analytics.example.org', key => '...'."
                .to_owned(),
        })
    }
}

/// Checks an idSite.
///
/// # Errors
/// [`Error::Null`], or [`Error::Argument`] below 1.
pub fn id_of_site(site: Option<i32>) -> Result<i32> {
    let site = site.ok_or(Error::Null("site"))?;
    if site >= 1 {
        return Ok(site);
    }
    Err(Error::Argument {
        message: format!("site {site} is no ID of a site"),
        hint: "Look up the ID in Matomo (Administration > Measurables > Manage); the first is 1."
            .to_owned(),
    })
}

/// Day 0 of Postgres dates.
const POSTGRES_EPOCH: NaiveDate = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap();

/// Converts and checks a date argument.
///
/// # Errors
/// [`Error::Argument`] for infinity, and for days before 1990.
pub fn day(argument: &str, date: Option<Date>) -> Result<Option<NaiveDate>> {
    let Some(date) = date else { return Ok(None) };
    let days = i64::from(date.to_pg_epoch_days());
    let shift = Days::new(days.unsigned_abs());
    let day = if days < 0 {
        POSTGRES_EPOCH.checked_sub_days(shift)
    } else {
        POSTGRES_EPOCH.checked_add_days(shift)
    };
    // There was no web before.
    match day {
        Some(day) if NaiveDate::from_ymd_opt(1990, 1, 1) <= Some(day) => Ok(Some(day)),
        _ => Err(Error::Argument {
            message: format!("{argument} is out of range"),
            hint: "Give a day from 1990-01-01 on.".to_owned(),
        }),
    }
}

/// Converts a day to a Postgres date.
pub fn date(day: NaiveDate) -> Date {
    let days = day.signed_duration_since(POSTGRES_EPOCH).num_days();
    // SAFETY: days of a NaiveDate from 1990 on are far from Postgres' bounds.
    unsafe { Date::from_pg_epoch_days(i32::try_from(days).unwrap_or(0)) }
}
