//! SQL functions for registered sites.

use pgrx::datum::{Date, Interval};
use pgrx::prelude::*;

use crate::api::sync::{date, day, id_of_site};
use crate::config::access::Access;
use crate::config::credentials::Credentials;
use crate::config::settings;
use crate::error::{Error, Result, SiteError};
use crate::matomo::client::SiteInfo;
use crate::matomo::zone::Zone;
use crate::pg::encoding;
use crate::pg::ereport::or_raise;
use crate::pg::extension::Extension;
use crate::pg::roles::{AsRestricted, current_user};
use crate::pg::spi::{one, query, refuse_read_only, spi};
use crate::state::ledger::Ledger;
use crate::state::registration::{self, Registration};
use crate::state::sites::RegisteredSite;
use crate::store::destination::Destination;
use crate::sync::new_tables;
use crate::sync::plan::{self, Start};
use crate::sync::site_sync::ask_for_site;
use crate::worker::wake;

/// Registers a site for the procedures and the background worker. Returns its ID.
#[pg_extern(name = "matomo_add_site", volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments)]
fn matomo_add_site_0_2_reconnect(
    server: Option<&str>,
    site: Option<i32>,
    start_date: default!(Option<Date>, "NULL"),
    destination: default!(Option<&str>, "NULL"),
    every: default!(Option<Interval>, "'10 minutes'"),
    retention: default!(Option<Interval>, "NULL"),
    enabled: default!(Option<bool>, "true"),
) -> i32 {
    refuse_read_only(c"matomo_add_site()");
    or_raise((|| {
        let server = server.ok_or(Error::Null("server"))?;
        let idsite = id_of_site(site)?;
        let start = day("start_date", start_date)?;
        let every = every.ok_or(Error::Null("every"))?;
        check_intervals(Some(every), retention)?;
        encoding::check()?;
        let access = Access::stored(Credentials::of_server(server)?)?;
        let name = destination.map_or_else(settings::destination, str::to_owned);
        let destination = lasting(new_tables::open_or_create(&name)?)?;
        let owner = current_user();
        let mut entry = Registration {
            server: Some(server),
            idsite: Some(idsite),
            destination: Some(destination.oid),
            owner: Some(owner),
            start,
            every: Some(every),
            retention,
            enabled: Some(enabled.unwrap_or(true)),
            ..Registration::default()
        };
        let extension = Extension::find()?;
        entry.check_is_new(&extension, None)?;
        entry.info = Some(ask(&access, idsite, start)?);
        let ledger = Ledger::of(&destination, access.client.endpoint(), idsite);
        ledger.check_registration(&destination)?;
        let id = entry.insert(&extension)?;
        wake::after_commit(&extension)?;
        Ok(id)
    })())
}

/// Changes a registered site; NULL keeps a value. Resets the count of failures.
#[pg_extern(name = "matomo_alter_site", volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments)]
fn matomo_alter_site_0_2_reconnect(
    id: Option<i32>,
    server: default!(Option<&str>, "NULL"),
    site: default!(Option<i32>, "NULL"),
    start_date: default!(Option<Date>, "NULL"),
    destination: default!(Option<&str>, "NULL"),
    every: default!(Option<Interval>, "NULL"),
    retention: default!(Option<Interval>, "NULL"),
    enabled: default!(Option<bool>, "NULL"),
    owner: default!(Option<&str>, "NULL"),
) {
    refuse_read_only(c"matomo_alter_site()");
    or_raise((|| {
        let extension = Extension::find()?;
        let id = id.ok_or(Error::Null("id"))?;
        let known = RegisteredSite::find(&extension, id)?.ok_or(SiteError::NoSite(id))?;
        known.check_rights()?;
        let start = day("start_date", start_date)?;
        check_intervals(every, retention)?;
        let new_owner = owner.map(role).transpose()?;
        let idsite = site.map(|site| id_of_site(Some(site))).transpose()?;
        let mut entry = Registration {
            server,
            idsite,
            owner: new_owner,
            start,
            every,
            retention,
            enabled,
            ..Registration::default()
        };
        {
            let _owner = AsRestricted::switch_to(new_owner.unwrap_or(known.owner));
            if let Some(name) = destination {
                entry.destination = Some(lasting(new_tables::open_or_create(name)?)?.oid);
            } else if new_owner.is_some() {
                // Check that the new owner may write to it.
                Destination::open_known(known.destination)?
                    .ok_or_else(|| known.no_destination())?;
            }
            if server.is_some() || idsite.is_some() || start.is_some() || new_owner.is_some() {
                let credentials = match server {
                    Some(server) => Credentials::of_server(server)?,
                    None => Credentials::of_site(known.id, &known.server)?,
                };
                let access = Access::stored(credentials)?;
                entry.matomo = server.map(|_| access.client.endpoint().url().to_owned());
                entry.info = Some(ask(&access, idsite.unwrap_or(known.idsite), start)?);
            }
        }
        entry.update(&extension, &known)?;
        wake::after_commit(&extension)
    })());
}

/// Removes a registered site, but not its copied visits.
#[pg_extern(name = "matomo_remove_site", volatile, parallel_unsafe)]
fn matomo_remove_site_0_2_reconnect(id: Option<i32>) {
    refuse_read_only(c"matomo_remove_site()");
    or_raise((|| {
        let extension = Extension::find()?;
        let id = id.ok_or(Error::Null("id"))?;
        let known = RegisteredSite::find(&extension, id)?.ok_or(SiteError::NoSite(id))?;
        known.check_rights()?;
        registration::remove(&extension, id, settings::keep_runs())
    })());
}

/// Today in a timezone, named as Matomo does; NULL if the zone is unknown.
#[pg_extern(stable, strict, parallel_safe)]
fn matomo_today(timezone: &str) -> Option<Date> {
    Zone::parse(timezone)?.day(chrono::Utc::now().timestamp()).map(date)
}

/// Asks Matomo for the site, and checks that `start` is not after its current day.
fn ask(access: &Access, idsite: i32, start: Option<chrono::NaiveDate>) -> Result<SiteInfo> {
    let info = ask_for_site(&access.client, idsite, None)?;
    check_start(start, info.zone)?;
    Ok(info)
}

/// Checks that `start` is not after the current day of a site.
///
/// # Errors
/// [`Error::Argument`].
pub fn check_start(start: Option<chrono::NaiveDate>, zone: Zone) -> Result<()> {
    let Some(start) = start else { return Ok(()) };
    let today = zone.day(chrono::Utc::now().timestamp()).unwrap_or_default();
    plan::days(Start::Day(start), None, today, zone).map(drop)
}

/// Checks that the table is not a temporary one.
///
/// # Errors
/// [`SiteError::TemporaryDestination`].
pub fn lasting(destination: Destination) -> Result<Destination> {
    let sql = "SELECT c.relpersistence OPERATOR(pg_catalog.=) 't' FROM pg_catalog.pg_class c \
               WHERE c.oid OPERATOR(pg_catalog.=) $1";
    let is_temporary: Option<bool> =
        Spi::connect_mut(|client| one(query(client, sql, &[destination.oid.into()])?))?;
    match is_temporary {
        Some(false) => Ok(destination),
        _ => Err(SiteError::TemporaryDestination(destination.name).into()),
    }
}

/// The privilege to SET ROLE: since Postgres 16, membership is not enough.
const MAY_BE: &str = if cfg!(feature = "pg15") { "MEMBER" } else { "SET" };

/// The OID of a role that the current user may SET ROLE to.
fn role(name: &str) -> Result<pg_sys::Oid> {
    let sql = "SELECT r.oid, pg_catalog.pg_has_role(r.oid, $2) FROM pg_catalog.pg_roles r \
               WHERE r.rolname OPERATOR(pg_catalog.=) $1";
    let found = Spi::connect_mut(|client| {
        let table = query(client, sql, &[name.into(), MAY_BE.into()])?;
        if table.is_empty() {
            return Ok((None, None));
        }
        table.first().get_two::<pg_sys::Oid, bool>().map_err(spi)
    })?;
    match found {
        (Some(oid), Some(true)) => Ok(oid),
        (Some(_), _) => Err(SiteError::RolePrivilege(name.to_owned()).into()),
        (None, _) => Err(SiteError::NoRole(name.to_owned()).into()),
    }
}

/// Checks the intervals of a registered site.
///
/// # Errors
/// [`Error::Argument`].
pub fn check_intervals(every: Option<Interval>, retention: Option<Interval>) -> Result<()> {
    const SECOND: i128 = 1_000_000;
    const DAY: i128 = 86_400 * SECOND;
    // Check each field: any of them can overflow a date that the interval is subtracted from.
    let is_out = |interval: Interval, least: i128| {
        let (months, days, micros) = (interval.months(), interval.days(), interval.micros());
        let days_in_all = 30 * i128::from(months) + i128::from(days);
        let sum = days_in_all * DAY + i128::from(micros);
        months < 0 || days < 0 || micros < 0 || sum < least || sum > 36_000 * DAY
    };
    let (argument, hint) = if every.is_some_and(|every| is_out(every, SECOND)) {
        ("every", "Give an interval from 1 second to 100 years, without negative parts.")
    } else if retention.is_some_and(|retention| is_out(retention, 0)) {
        (
            "retention",
            "Give an interval of at most 100 years, without negative parts; 0 keeps visits for ever.",
        )
    } else {
        return Ok(());
    };
    Err(Error::Argument { message: format!("{argument} is out of range"), hint: hint.to_owned() })
}
