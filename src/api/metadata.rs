//! SQL functions for the names of sites, goals and custom dimensions.

use pgrx::prelude::*;

use crate::api::sync::{Arguments, begin};
use crate::config::access::Access;
use crate::config::credentials::Credentials;
use crate::error::{Error, Result};
use crate::matomo::metadata::SiteDetail;
use crate::pg::encoding;
use crate::pg::ereport::{or_raise, warn, warn_of};
use crate::pg::extension::Extension;
use crate::pg::server_text::ServerText;
use crate::pg::spi::refuse_read_only;
use crate::state::ledger::Ledger;
use crate::state::metadata;
use crate::state::registration;
use crate::state::snapshot::check_sees_days;
use crate::store::destination::Destination;
use crate::sync;

/// Reads what a site, its goals and its custom dimensions are called in Matomo. See docs/functions.md for
/// the arguments and the result.
#[pg_extern(name = "matomo_refresh_metadata", volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn matomo_refresh_metadata_0_2_reconnect(
    site: Option<i32>,
    url: default!(Option<&str>, "NULL"),
    key: default!(Option<&str>, "NULL"),
    destination: default!(Option<&str>, "NULL"),
    server: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (name!(name, ServerText), name!(goals, Option<i32>), name!(dimensions, Option<i32>)),
> {
    let _hidden = begin(site, key);
    refuse_read_only(c"matomo_refresh_metadata()");
    let arguments = Arguments { site, url, key, server, destination, ..Arguments::default() };
    TableIterator::once(or_raise(refresh(arguments)))
}

fn refresh(arguments: Arguments) -> Result<(ServerText, Option<i32>, Option<i32>)> {
    let request = arguments.request()?;
    let destination = Destination::open(&request.destination, true)?;
    let client = request.access.client;
    let told = sync::metadata::of_site(&client, request.site, None)?;
    let ledger = Ledger::of(&destination, client.endpoint(), request.site);
    // Another Matomo's first sync may not have committed yet, or since the transaction began.
    ledger.take_if_unknown(&destination.name)?;
    check_sees_days(&destination.extension, destination.oid, &destination.name)?;
    ledger.check_matomo(&destination)?;
    metadata::store(&destination.extension, destination.oid, &told)?;
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let goals = told.goals.as_ref().map(|goals| count(goals.len()));
    let dimensions = told.dimensions.as_ref().map(|dimensions| count(dimensions.len()));
    for error in [goals.as_ref().err(), dimensions.as_ref().err()].into_iter().flatten() {
        warn_of(error);
    }
    Ok((ServerText(told.site.name), goals.ok(), dimensions.ok()))
}

/// Lists the sites that the token of a server may see.
#[pg_extern(name = "matomo_list_sites", volatile, parallel_unsafe)]
#[allow(clippy::type_complexity)]
fn matomo_list_sites_0_2_reconnect(
    server: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(idsite, i32),
        name!(name, ServerText),
        name!(main_url, Option<ServerText>),
        name!(timezone, ServerText),
        name!(currency, Option<ServerText>),
        name!(ecommerce, Option<bool>),
        name!(site_type, Option<ServerText>),
        name!(registered, bool),
    ),
> {
    let (sites, registered) = or_raise((|| {
        let server = server.ok_or(Error::Null("server"))?;
        let (_, sites) = all_sites(server)?;
        Ok((sites, registration::registered(&Extension::find()?, server)?))
    })());
    let rows = sites.into_iter().map(move |site| {
        let is_registered = registered.contains(&site.idsite);
        let SiteDetail { idsite, ecommerce, .. } = site;
        let text = |text: Option<String>| text.map(ServerText);
        let (name, timezone) = (ServerText(site.name), ServerText(site.timezone));
        let (main_url, currency) = (text(site.main_url), text(site.currency));
        let site_type = text(site.site_type);
        (idsite, name, main_url, timezone, currency, ecommerce, site_type, is_registered)
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// The sites that the current user's token of a server may see.
pub fn all_sites(server: &str) -> Result<(Access, Vec<SiteDetail>)> {
    encoding::check()?;
    let access = Access::stored(Credentials::of_server(server)?)?;
    let sites = sync::metadata::sites(&access.client)?;
    if sites.is_empty() {
        // Matomo 4 says nothing else about a wrong token.
        warn(
            format!("the token may see no site of server \"{server}\""),
            "Check the token, and give its user at least view access to the sites.",
        );
    }
    Ok((access, sites))
}
