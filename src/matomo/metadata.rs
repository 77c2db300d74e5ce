//! What a Matomo says of its sites, and what the numbers in visits mean: goals and custom dimensions.
//! No Postgres.

use std::collections::HashMap;
use std::sync::PoisonError;

use chrono::NaiveDateTime;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::error::{Error, Fault, Result};
use crate::matomo::client::{Client, OnRetry, ROLLUP};
use crate::matomo::json;
use crate::matomo::zone::Zone;

const SITE: &str = "SitesManager.getSiteFromId";
const SITES: &str = "SitesManager.getSitesWithAtLeastViewAccess";
const GOALS: &str = "Goals.getGoals";
const DIMENSIONS: &str = "CustomDimensions.getConfiguredCustomDimensions";

/// A site as configured. The names of the fields are those of columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SiteDetail {
    pub idsite: i32,
    pub name: String,
    pub main_url: Option<String>,
    pub site_group: Option<String>,
    pub site_type: Option<String>,
    pub timezone: String,
    pub currency: Option<String>,
    pub ecommerce: Option<bool>,
    /// With its offset, UTC.
    pub created_at: Option<String>,
}

/// A goal as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Goal {
    pub goalid: i32,
    pub name: String,
    pub description: Option<String>,
    pub match_attribute: Option<String>,
    pub pattern: Option<String>,
    pub pattern_type: Option<String>,
    pub case_sensitive: Option<bool>,
    pub allow_multiple: Option<bool>,
    /// The digits as sent, of a finite number.
    pub revenue: Option<String>,
    pub event_value_as_revenue: Option<bool>,
}

/// A custom dimension as configured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dimension {
    pub iddimension: i32,
    pub name: String,
    pub scope: Option<String>,
    pub slot: Option<i32>,
    pub active: Option<bool>,
    pub case_sensitive: Option<bool>,
    pub extractions: Option<serde_json::Value>,
}

/// What Matomo says of one site. A plugin may be off, or withheld from the token.
#[derive(Debug)]
pub struct Metadata {
    pub site: SiteDetail,
    pub goals: Result<Vec<Goal>>,
    pub dimensions: Result<Vec<Dimension>>,
}

impl SiteDetail {
    /// Whether it has the visits of other sites.
    pub fn is_rollup(&self) -> bool {
        self.site_type.as_deref() == Some(ROLLUP)
    }

    /// Its timezone.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is neither of the IANA database nor Matomo's own.
    pub fn zone(&self) -> Result<Zone> {
        let SiteDetail { idsite, timezone, .. } = self;
        Zone::parse(timezone).ok_or_else(|| Error::Argument {
            message: format!("site {idsite} is not registered: unknown timezone \"{timezone}\""),
            hint: "Give the site a timezone of the IANA database in Matomo.".to_owned(),
        })
    }
}

/// Asks for all of a site.
///
/// # Errors
/// [`Error::Request`] if Matomo does not answer, or not for the site itself.
pub fn of_site(client: &Client, site: i32, on_retry: OnRetry) -> Result<Metadata> {
    let body = client.configuration(SITE, site, on_retry)?;
    let detail = read(&body).and_then(|site| site_detail(&members(site)));
    let detail = detail.and_then(|found| match found.idsite == site {
        true => Ok(found),
        false => Err(format!("site {}", found.idsite)),
    });
    let detail = detail.map_err(|what| client.unexpected_configuration(SITE, site, what))?;
    let goals = of_method(list(client, GOALS, site, goal, on_retry))?;
    let dimensions = of_method(list(client, DIMENSIONS, site, dimension, on_retry))?;
    Ok(Metadata { site: detail, goals, dimensions })
}

/// Only an error of the method itself lets other methods be asked.
fn of_method<T>(answer: Result<T>) -> Result<Result<T>> {
    match answer {
        Err(Error::Request {
            fault: Fault::Matomo(_) | Fault::NoAccess(_) | Fault::Unexpected(_),
            ..
        })
        | Ok(_) => Ok(answer),
        Err(error) => Err(error),
    }
}

/// Asks for all sites that the token may see.
///
/// # Errors
/// [`Error::Request`].
pub fn sites(client: &Client, on_retry: OnRetry) -> Result<Vec<SiteDetail>> {
    let mut sites = list(client, SITES, 0, site_detail, on_retry)?;
    sites.sort_by_key(|site| site.idsite);
    sites.dedup_by_key(|site| site.idsite);
    Ok(sites)
}

/// The timezone of a site whose visits a roll-up has. Matomo is asked for all sites at once, and only once:
/// there may be very many. A site that it does not know is taken to have the roll-up's, so that an odd ID
/// loses no visit.
///
/// # Errors
/// [`Error::Request`], also for a site that the token may not see.
pub fn zone_of_child(client: &Client, site: i32, rollup: Zone) -> Result<Zone> {
    // Other threads wait here, so no message may: the main thread may be waiting for one of them.
    let silent: OnRetry = &mut |_, _, _| {};
    let mut zones = client.zones.lock().unwrap_or_else(PoisonError::into_inner);
    if zones.is_empty() {
        let all = sites(client, silent)?;
        zones.extend(all.iter().filter_map(|site| Some((site.idsite, site.zone().ok()?))));
    }
    if let Some(zone) = zones.get(&site) {
        return Ok(*zone);
    }
    let zone = match client.site(site, silent) {
        Err(Error::Request { fault: Fault::UnknownSite(_), .. }) => rollup,
        found => found?.zone,
    };
    zones.insert(site, zone);
    Ok(zone)
}

/// The members of an object.
type Members<'a> = HashMap<String, &'a RawValue>;

/// `Err` says what is wrong.
type Parsed<T> = std::result::Result<T, String>;

fn list<T>(
    client: &Client,
    method: &'static str,
    site: i32,
    entry: fn(&Members) -> Parsed<T>,
    on_retry: OnRetry,
) -> Result<Vec<T>> {
    let body = client.configuration(method, site, on_retry)?;
    entries(&body, entry).map_err(|what| client.unexpected_configuration(method, site, what))
}

/// The entries of a list. PHP writes one with gaps as an object.
fn entries<T>(body: &str, entry: fn(&Members) -> Parsed<T>) -> Parsed<Vec<T>> {
    let mut found = Vec::new();
    json::each_member(read(body)?, |_, raw| found.push(entry(&members(raw))));
    found.into_iter().collect()
}

fn read(body: &str) -> Parsed<&RawValue> {
    serde_json::from_str(body).map_err(|_| "no JSON".to_owned())
}

fn members(raw: &RawValue) -> Members<'_> {
    let mut members = Members::new();
    json::each_member(raw, |key, value| {
        members.insert(key.into_owned(), value);
    });
    members
}

fn site_detail(site: &Members) -> Parsed<SiteDetail> {
    let created = text(site, "ts_created");
    let created =
        created.and_then(|at| NaiveDateTime::parse_from_str(&at, "%Y-%m-%d %H:%M:%S").ok());
    Ok(SiteDetail {
        idsite: id(site, "idsite", "a site")?,
        name: text(site, "name").unwrap_or_default(),
        main_url: text(site, "main_url"),
        site_group: text(site, "group").filter(|group| !group.is_empty()),
        site_type: text(site, "type"),
        timezone: text(site, "timezone").ok_or("a site without timezone")?,
        currency: text(site, "currency"),
        ecommerce: flag(site, "ecommerce"),
        created_at: created.map(|at| format!("{at}+00")),
    })
}

fn goal(goal: &Members) -> Parsed<Goal> {
    Ok(Goal {
        goalid: id(goal, "idgoal", "a goal")?,
        name: text(goal, "name").unwrap_or_default(),
        description: text(goal, "description").filter(|text| !text.is_empty()),
        match_attribute: text(goal, "match_attribute"),
        pattern: text(goal, "pattern"),
        pattern_type: text(goal, "pattern_type"),
        case_sensitive: flag(goal, "case_sensitive"),
        allow_multiple: flag(goal, "allow_multiple"),
        revenue: text(goal, "revenue").filter(|digits| is_number(digits)),
        event_value_as_revenue: flag(goal, "event_value_as_revenue"),
    })
}

fn dimension(dimension: &Members) -> Parsed<Dimension> {
    let slot = dimension.get("index").and_then(|raw| json::integer(raw));
    Ok(Dimension {
        iddimension: id(dimension, "idcustomdimension", "a custom dimension")?,
        name: text(dimension, "name").unwrap_or_default(),
        scope: text(dimension, "scope"),
        slot: slot.and_then(|slot| i32::try_from(slot).ok()),
        active: flag(dimension, "active"),
        case_sensitive: flag(dimension, "case_sensitive"),
        extractions: dimension.get("extractions").and_then(|raw| json::tree(raw)),
    })
}

fn id(of: &Members, key: &str, what: &str) -> Parsed<i32> {
    let id = of.get(key).and_then(|raw| json::integer(raw));
    let id = id.and_then(|id| i32::try_from(id).ok()).filter(|id| *id > 0);
    id.ok_or_else(|| format!("{what} without ID"))
}

fn text(of: &Members, key: &str) -> Option<String> {
    of.get(key).and_then(|raw| json::text(raw))
}

fn flag(of: &Members, key: &str) -> Option<bool> {
    match text(of, key)?.as_str() {
        "1" | "true" => Some(true),
        "0" | "false" | "" => Some(false),
        _ => None,
    }
}

/// Whether the type `numeric` takes it, which has a shorter range of exponents below one than its texts.
fn is_number(digits: &str) -> bool {
    let has_digits_only = digits.bytes().all(|byte| b"0123456789.+-eE".contains(&byte));
    let is_within = |number: f64| number.is_finite() && (number == 0.0 || number.abs() > 1e-300);
    has_digits_only
        && digits.len() < 100
        && digits.parse().is_ok_and(is_within)
        && !(digits.contains(['e', 'E']) && digits.parse() == Ok(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(method: &str) -> String {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recordings/answers");
        std::fs::read_to_string(format!("{folder}/{method}.json")).unwrap()
    }

    #[test]
    fn goals_of_a_real_matomo() {
        let goals = entries(&recorded(GOALS), goal).unwrap();
        let names: Vec<_> = goals.iter().map(|goal| (goal.goalid, goal.name.as_str())).collect();
        assert_eq!(names, [(1, "Contact"), (2, "Download"), (3, "Play"), (4, "Manual multi")]);
        assert_eq!(goals[0].pattern.as_deref(), Some("/contact"));
        assert_eq!(goals[3].revenue.as_deref(), Some("2.5"));
        assert_eq!((goals[3].allow_multiple, goals[3].pattern.as_deref()), (Some(true), None));
    }

    #[test]
    fn dimensions_of_a_real_matomo() {
        let found = entries(&recorded(DIMENSIONS), dimension).unwrap();
        let line = |d: &Dimension| {
            let scope = d.scope.clone().unwrap_or_default();
            format!("{} {} {scope} {:?} {:?}", d.iddimension, d.name, d.slot, d.active)
        };
        let lines: Vec<_> = found.iter().map(line).collect();
        assert_eq!(lines[0], "1 plan visit Some(1) Some(true)");
        assert_eq!(lines[3], "4 author action Some(2) Some(true)");
    }

    #[test]
    fn a_list_with_gaps_is_an_object() {
        let body = r#"{"1":{"idgoal":"1","name":"A"},"3":{"idgoal":3,"name":7,"revenue":1e400}}"#;
        let goals = entries(body, goal).unwrap();
        assert_eq!((goals[0].goalid, goals[1].goalid), (1, 3));
        assert_eq!((goals[1].name.as_str(), &goals[1].revenue), ("7", &None));
        assert_eq!(entries("[]", goal), Ok(Vec::new()));
    }

    #[test]
    fn an_entry_without_an_id_spoils_the_list() {
        for body in [r#"[{"name":"A"}]"#, r#"{"value":1}"#, r#"[{"idgoal":0}]"#, "[null]"] {
            assert_eq!(entries(body, goal), Err("a goal without ID".to_owned()), "{body}");
        }
    }

    #[test]
    fn what_numeric_takes() {
        for digits in ["5", "2.5", "1e3", "-0.10", "0", "0.00"] {
            assert!(is_number(digits), "{digits}");
        }
        for text in ["", "NaN", "inf", "1e400", "1e-99999", "0e-99999", "5 EUR", "0x10"] {
            assert!(!is_number(text), "{text}");
        }
    }
}
