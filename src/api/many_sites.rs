//! Registers all sites of a server.

use chrono::NaiveDate;
use pgrx::datum::{Date, Interval};
use pgrx::prelude::*;

use crate::api::metadata::all_sites;
use crate::api::sites::{check_intervals, check_start, lasting};
use crate::api::sync::day;
use crate::config::access::Access;
use crate::config::settings;
use crate::error::{Error, Result};
use crate::matomo::client::SiteInfo;
use crate::matomo::metadata::SiteDetail;
use crate::pg::ereport::{or_raise, say, warn_of};
use crate::pg::extension::Extension;
use crate::pg::roles::current_user;
use crate::pg::server_text::ServerText;
use crate::pg::spi::refuse_read_only;
use crate::state::ledger::Ledger;
use crate::state::new_sites;
use crate::state::registration::{self, Registration};
use crate::store::destination::Destination;
use crate::sync::new_tables;
use crate::worker::wake;

/// Registers all sites that the token of a server may see and that are not registered. Returns them.
#[pg_extern(name = "matomo_add_sites", volatile, parallel_unsafe)]
#[allow(clippy::too_many_arguments)]
fn matomo_add_sites_0_2_reconnect(
    server: Option<&str>,
    start_date: default!(Option<Date>, "NULL"),
    destination: default!(Option<&str>, "NULL"),
    every: default!(Option<Interval>, "'10 minutes'"),
    retention: default!(Option<Interval>, "NULL"),
    enabled: default!(Option<bool>, "true"),
    new_sites: default!(Option<bool>, "false"),
) -> TableIterator<'static, (name!(id, i32), name!(idsite, i32), name!(name, ServerText))> {
    refuse_read_only(c"matomo_add_sites()");
    TableIterator::new(or_raise((|| {
        let server = server.ok_or(Error::Null("server"))?;
        let start = day("start_date", start_date)?;
        let every = every.ok_or(Error::Null("every"))?;
        check_intervals(Some(every), retention)?;
        let (access, sites) = all_sites(server)?;
        let name = destination.map_or_else(settings::destination, str::to_owned);
        let destination = lasting(new_tables::open_or_create(&name)?)?;
        let owner = current_user();
        let pattern = Registration {
            server: Some(server),
            destination: Some(destination.oid),
            owner: Some(owner),
            start,
            every: Some(every),
            retention,
            enabled: Some(enabled.unwrap_or(true)),
            ..Registration::default()
        };
        let added = add(&access, &destination, &pattern, &sites, start)?;
        if new_sites == Some(true) {
            let like = added.first().map(|(id, ..)| *id);
            let extension = &destination.extension;
            let like_this =
                new_sites::follow(extension, server, owner, destination.oid, like, &sites)?;
            let Some(id) = like_this else {
                return Err(Error::Argument {
                    message: format!(
                        "no registered site of table {} can be the model of new ones",
                        destination.name
                    ),
                    hint: "Give the table of your registered sites, or give the token's user view access \
                           to a new site first."
                        .to_owned(),
                });
            };
            if like.is_none() {
                let line = format!("matomo: new sites are registered like registered site {id}");
                say(PgLogLevel::NOTICE, line);
            }
        }
        Ok(added)
    })()))
}

/// Stops registering new sites of a server. Returns the number of marks removed.
#[pg_extern(name = "matomo_ignore_new_sites", volatile, parallel_unsafe)]
fn matomo_ignore_new_sites_0_2_reconnect(server: Option<&str>) -> i32 {
    refuse_read_only(c"matomo_ignore_new_sites()");
    or_raise((|| {
        let server = server.ok_or(Error::Null("server"))?;
        new_sites::ignore(&Extension::find()?, server)
    })())
}

/// Registers those of these sites that are not registered, all like `pattern`.
fn add(
    access: &Access,
    destination: &Destination,
    pattern: &Registration,
    sites: &[SiteDetail],
    start: Option<NaiveDate>,
) -> Result<Vec<(i32, i32, ServerText)>> {
    let extension = Extension::find()?;
    let server = pattern.server.unwrap_or_default();
    // Two at once, into two tables, would register each site twice.
    new_sites::wait_for_others(server, current_user());
    new_sites::wait_for_yours(server);
    let known = registration::registered(&extension, server)?;
    let mut added = Vec::new();
    for site in sites.iter().filter(|site| !known.contains(&site.idsite)) {
        let idsite = site.idsite;
        let zone = match site.zone() {
            Ok(zone) => zone,
            Err(error) => {
                warn_of(&error);
                continue;
            }
        };
        check_start(start, zone)?;
        if added.is_empty() {
            let ledger = Ledger::of(destination, access.client.endpoint(), idsite);
            ledger.check_registration(destination)?;
        }
        let name = Some(site.name.clone());
        let timezone = site.timezone.clone();
        let info = SiteInfo { name, zone, timezone, is_rollup: Some(site.is_rollup()) };
        let entry = Registration { idsite: Some(idsite), info: Some(info), ..pattern.clone() };
        if let Err(error) = entry.check_retention(&extension, &entry, None) {
            warn_of(&error);
            continue;
        }
        added.push((entry.insert(&extension)?, idsite, ServerText(site.name.clone())));
    }
    if !added.is_empty() {
        wake::after_commit(&extension)?;
    }
    Ok(added)
}
