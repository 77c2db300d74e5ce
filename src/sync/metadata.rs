//! Asks Matomo for its sites, goals and custom dimensions.

use crate::error::Result;
use crate::matomo::client::Client;
use crate::matomo::metadata::{self, Metadata, SiteDetail};
use crate::pg::secrecy::show_activity;
use crate::sync::on_helper;
use crate::sync::pages::retry_line;
use crate::sync::progress::Progress;

/// All of a site. `registered` is the ID of the registered site in a run.
///
/// # Errors
/// Those of [`metadata::of_site`].
pub fn of_site(client: &Client, site: i32, registered: Option<i32>) -> Result<Metadata> {
    let progress = Progress::new(site, 0).of_registered(registered);
    show_activity(&progress.line("asks for goals and dimensions"));
    on_helper::ask(client, move |client, notice| {
        let on_retry = &mut |error: &_, retry, wait| notice(retry_line(error, retry, wait));
        metadata::of_site(client, site, on_retry)
    })
}

/// All sites that the token may see.
///
/// # Errors
/// Those of [`metadata::sites`].
pub fn sites(client: &Client) -> Result<Vec<SiteDetail>> {
    show_activity("matomo: asks for all sites");
    on_helper::ask(client, move |client, notice| {
        let on_retry = &mut |error: &_, retry, wait| notice(retry_line(error, retry, wait));
        metadata::sites(client, on_retry)
    })
}
