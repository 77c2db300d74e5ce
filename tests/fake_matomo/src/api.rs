//! Routes a request to its answer and checks who may ask for what.

use crate::answer::Answer;
use crate::errors::{self, Saying};
use crate::knobs::Knobs;
use crate::live;
use crate::metadata;
use crate::params::Params;
use crate::seen::{Seen, TokenPlace};
use crate::sites;
use crate::world::{Site, World};
use std::collections::BTreeSet;

const WRONG_ELSEWHERE: &str = "Unable to authenticate with the provided token. It is either invalid, expired or is \
    required to be sent as a POST parameter.";
const NO_VIEW: &str =
    "You can't access this resource as it requires 'view' access for at least one website.";
const MAINTENANCE: &str = "<!DOCTYPE html>\n<html><head><title>Matomo &rsaquo; Error</title></head><body>Matomo is \
    in scheduled maintenance. Please come back later.</body></html>\n";
const MODULES: [&str; 6] =
    ["API", "CustomDimensions", "Goals", "Live", "SitesManager", "VisitsSummary"];
/// The number of refused tokens after which Matomo locks everybody out.
pub const PATIENCE: usize = 18;

/// Whose token a request has.
#[derive(Clone, Debug, PartialEq)]
pub enum Caller {
    /// The server's own token, which may view all sites but `hidden_sites`.
    Token,
    /// One of the other tokens, with the sites that it may view.
    Other(BTreeSet<i64>),
    Nobody,
}

impl Caller {
    fn may_view(&self, knobs: &Knobs, site: i64) -> bool {
        match self {
            Caller::Token => !knobs.hidden_sites.contains(&site),
            Caller::Other(sites) => sites.contains(&site),
            Caller::Nobody => false,
        }
    }
}

pub fn answer(
    world: &World,
    knobs: &Knobs,
    seen: &Seen,
    caller: Caller,
    refused: &mut usize,
) -> Answer {
    let style = live::style(world, &seen.params, knobs.unescaped);
    if seen.method.is_empty() && seen.params.get("module").is_none() {
        return Answer::html(
            500,
            "<html><body>Piwik\\Exception\\NotYetInstalledException</body></html>",
        );
    }
    if knobs.maintenance {
        return Answer::html(503, MAINTENANCE);
    }
    let says = |saying| errors::answer(&saying, &seen.params, knobs);
    if knobs.address_refused {
        return formatted(seen, says(Saying::AddressRefused));
    }
    if knobs.lockout && *refused >= PATIENCE {
        return says(Saying::LockedOut);
    }
    let caller = match seen.token {
        TokenPlace::Body if caller != Caller::Nobody => caller,
        TokenPlace::Body | TokenPlace::Query | TokenPlace::BodyAndQuery => {
            *refused += 1;
            if !knobs.matomo_4 {
                let wrong = match seen.token {
                    TokenPlace::Body => says(Saying::WrongToken),
                    _ => Answer::error(401, WRONG_ELSEWHERE),
                };
                return formatted(seen, wrong);
            }
            Caller::Nobody
        }
        TokenPlace::Header | TokenPlace::None => Caller::Nobody,
    };
    let answer = match called(world, knobs, seen, &caller) {
        Err(refusal) => refusal,
        Ok(Call::Version) => sites::value("5.2.0-b5"),
        Ok(Call::Sites(all)) => sites::all(all.into_iter(), style),
        Ok(Call::SiteIds(all)) => sites::ids(all.into_iter()),
        Ok(Call::Site(site)) => sites::one(site, style),
        Ok(Call::Goals(all)) => metadata::goals(&all, style),
        Ok(Call::Dimensions(site)) => metadata::dimensions(site, style),
        Ok(Call::MostRecent(site)) => sites::most_recent(world, site),
        Ok(Call::Visits(site)) => sites::visits(world, site, &seen.params)
            .unwrap_or_else(|words| Answer::error(200, &words)),
        Ok(Call::Live(site)) if knobs.visits_log_off.contains(&site.id) => {
            says(Saying::VisitsLogOff)
        }
        Ok(Call::Live(site)) => live::last_visits_details(world, site, &seen.params, style)
            .unwrap_or_else(|words| Answer::error(200, &words)),
    };
    formatted(seen, answer)
}

enum Call<'a> {
    Version,
    Sites(Vec<&'a Site>),
    SiteIds(Vec<&'a Site>),
    Site(&'a Site),
    Goals(Vec<&'a Site>),
    Dimensions(&'a Site),
    MostRecent(&'a Site),
    Visits(&'a Site),
    Live(&'a Site),
}

fn called<'a>(
    world: &'a World,
    knobs: &Knobs,
    seen: &Seen,
    caller: &Caller,
) -> Result<Call<'a>, Answer> {
    let module = seen.method.split('.').next().unwrap_or_default();
    if knobs.plugins_off.contains(module) {
        return Err(plugin_off(module));
    }
    let site = || site(world, knobs, &seen.params, caller);
    let allowed = || {
        let is_allowed = |site: &&Site| caller.may_view(knobs, site.id);
        world.sites.iter().filter(is_allowed).collect()
    };
    match seen.method.as_str() {
        "API.getMatomoVersion" if *caller == Caller::Nobody => Err(Answer::error(401, NO_VIEW)),
        "API.getMatomoVersion" => Ok(Call::Version),
        "SitesManager.getSitesWithAtLeastViewAccess" => Ok(Call::Sites(allowed())),
        "SitesManager.getSitesIdWithAtLeastViewAccess" => Ok(Call::SiteIds(allowed())),
        "SitesManager.getSiteFromId" => site().map(Call::Site),
        "Goals.getGoals" if seen.params.get("idSite") == Some("all") => Ok(Call::Goals(allowed())),
        "Goals.getGoals" => sites(world, knobs, &seen.params, caller).map(Call::Goals),
        "CustomDimensions.getConfiguredCustomDimensions" => site().map(Call::Dimensions),
        "Live.getMostRecentVisitsDateTime" => site().map(Call::MostRecent),
        "VisitsSummary.getVisits" => site().map(Call::Visits),
        "Live.getLastVisitsDetails" => site().map(Call::Live),
        other => Err(unknown_method(other)),
    }
}

fn unknown_method(name: &str) -> Answer {
    let (module, method) = name.split_once('.').unwrap_or((name, ""));
    if MODULES.contains(&module) {
        let words = format!(
            "The method '{method}' does not exist or is not available in the module '\\Piwik\\Plugins\\{module}\\API'."
        );
        return Answer::error(400, &words);
    }
    plugin_off(module)
}

fn plugin_off(module: &str) -> Answer {
    let words = format!(
        "The plugin {module} is not enabled. You can activate the plugin on Settings &gt; Plugins page in Matomo."
    );
    Answer::error(200, &words)
}

/// The sites of a list; a single one without view access refuses the whole list.
fn sites<'a>(
    world: &'a World,
    knobs: &Knobs,
    params: &Params,
    caller: &Caller,
) -> Result<Vec<&'a Site>, Answer> {
    let asked = asked(params)?;
    asked.split(',').map(|id| found(world, knobs, params, caller, id)).collect()
}

fn site<'a>(
    world: &'a World,
    knobs: &Knobs,
    params: &Params,
    caller: &Caller,
) -> Result<&'a Site, Answer> {
    found(world, knobs, params, caller, asked(params)?)
}

fn asked(params: &Params) -> Result<&str, Answer> {
    let missing = || Answer::error(200, "Please specify a value for 'idSite'.");
    params.filled("idSite").ok_or_else(missing)
}

fn found<'a>(
    world: &'a World,
    knobs: &Knobs,
    params: &Params,
    caller: &Caller,
    asked: &str,
) -> Result<&'a Site, Answer> {
    let found = asked.parse().ok().and_then(|id| world.find(id));
    let is_forbidden = found.is_some_and(|site| !caller.may_view(knobs, site.id));
    if *caller == Caller::Nobody || is_forbidden {
        return Err(errors::answer(&Saying::NoView(asked.to_owned()), params, knobs));
    }
    found.ok_or_else(|| {
        let words = format!(
            "An unexpected website was found in the request: website id was set to '{asked}' ."
        );
        Answer::error(200, &words)
    })
}

/// Matomo answers in XML by default; the fake implements only JSON fully.
fn formatted(seen: &Seen, answer: Answer) -> Answer {
    let format = seen.params.filled("format").unwrap_or("xml").to_lowercase();
    match format.as_str() {
        "json" | "json2" => answer,
        "xml" => {
            let text =
                String::from_utf8_lossy(&answer.body).replace('&', "&amp;").replace('<', "&lt;");
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"utf-8\" ?>\n<result>\n\t{text}\n</result>"
            );
            Answer { content_type: "text/xml; charset=utf-8", body: body.into_bytes(), ..answer }
        }
        other => {
            let body = format!(
                "Error: Renderer format '{other}' not valid. Try any of the following instead: console, csv, html, \
                 json, json2, original, rss, tsv, xml."
            );
            Answer { content_type: "text/plain; charset=utf-8", ..Answer::html(200, body) }
        }
    }
}
