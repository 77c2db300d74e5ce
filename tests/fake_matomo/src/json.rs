//! A visit as `Live.getLastVisitsDetails` sends it.

use crate::action::CustomVariable;
use crate::action_json;
use crate::catalog;
use crate::commerce::money;
use crate::derived::Lifetime;
use crate::visit::Visit;
use crate::world::{Site, World};
use crate::writer::Writer;
use crate::zone::{Zone, utc};
use chrono::{NaiveDateTime, Timelike};
use std::collections::HashMap;

/// Which form the request wants the visits in.
#[derive(Clone, Debug, Default)]
pub struct Form {
    pub no_actions: bool,
    pub show: Vec<String>,
    pub hide: Vec<String>,
}

/// The context of a visit.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub world: &'a World,
    pub site: &'a Site,
    pub zone: Zone,
    /// Only visitors who ever ordered.
    pub lifetimes: &'a HashMap<&'a str, Lifetime>,
}

pub fn visit(w: &mut Writer, scene: Scene, visit: &Visit, form: &Form) {
    let Scene { world, site, zone, lifetimes } = scene;
    w.braces(|w| {
        if !(visit.extra.is_empty()
            && visit.omit.is_empty()
            && form.show.is_empty()
            && form.hide.is_empty())
        {
            let replaced = visit.extra.keys().chain(&visit.omit).chain(&form.hide);
            w.filter(replaced.cloned().collect(), form.show.clone());
        }
        identity(w, world, site, zone, visit, form);
        times(w, site, zone, visit);
        visitor(w, visit);
        referrer(w, visit);
        device(w, visit);
        if site.ecommerce {
            ecommerce(w, lifetimes.get(visit.visitor_id.as_str()).copied().unwrap_or_default());
        }
        w.db("events", visit.events());
        place(w, zone, visit);
        if let Some(tests) = &visit.experiments {
            w.value("experiments", tests);
        }
        dimensions(w, &visit.dimensions);
        if visit.custom_variables.is_empty() {
            w.raw("customVariables", "[]");
        } else {
            custom_variables(w, "", &visit.custom_variables);
        }
        let cut = visit.cut(world.max_actions);
        if cut > 0 {
            w.int("truncatedActionsCount", cut);
        }
        if !visit.extra.is_empty() {
            // Outside the filter that hid Matomo's own keys of these names.
            for (key, value) in &visit.extra {
                w.element();
                w.text(key);
                w.out.push(':');
                w.any(value);
            }
        }
    });
}

fn identity(w: &mut Writer, world: &World, site: &Site, zone: Zone, visit: &Visit, form: &Form) {
    w.db("idSite", site.id);
    w.db("idVisit", visit.id);
    w.str("visitIp", &visit.ip);
    w.str("visitorId", &visit.visitor_id);
    w.str("fingerprint", &visit.fingerprint());
    w.array("actionDetails", |w| {
        if !form.no_actions {
            action_json::write(w, world, site, zone, visit);
        }
    });
    w.db("goalConversions", visit.goal_conversions());
    w.str("siteCurrency", &site.currency);
    w.str("siteCurrencySymbol", symbol(&site.currency));
}

/// A currency's symbol.
pub fn symbol(currency: &str) -> &str {
    match currency {
        "EUR" => "€",
        "USD" => "$",
        "GBP" => "£",
        other => other,
    }
}

fn times(w: &mut Writer, site: &Site, zone: Zone, visit: &Visit) {
    let last = utc(visit.last);
    let (last_here, first_here) = (zone.wall(visit.last), zone.wall(visit.first));
    w.str("serverDate", &last.date().to_string());
    w.str("visitServerHour", &last.hour().to_string());
    w.int("lastActionTimestamp", visit.last);
    w.str("lastActionDateTime", &last.to_string());
    w.str("siteName", &site.name);
    w.int("serverTimestamp", visit.last);
    w.int("firstActionTimestamp", visit.first);
    w.str("serverTimePretty", &clock(last_here));
    w.str("serverDatePretty", &long_date(last_here));
    w.str("serverDatePrettyFirstAction", &long_date(first_here));
    w.str("serverTimePrettyFirstAction", &clock(first_here));
}

fn clock(at: NaiveDateTime) -> String {
    at.time().to_string()
}

fn long_date(at: NaiveDateTime) -> String {
    at.format("%A, %B %-d, %Y").to_string()
}

fn visitor(w: &mut Writer, visit: &Visit) {
    let converted = visit.is_converted();
    let returning = visit.visitor_type != "new";
    let image = |on: bool, path: &'static str| on.then_some(path);
    w.opt("userId", visit.user_id.as_deref());
    w.str("visitorType", &visit.visitor_type);
    w.opt("visitorTypeIcon", image(returning, "plugins/Live/images/returningVisitor.png"));
    w.db("visitConverted", converted.into());
    w.opt("visitConvertedIcon", image(converted, "plugins/Morpheus/images/goal.svg"));
    w.db("visitCount", visit.visit_count);
    let status = visit.ecommerce_status();
    let icon = match status {
        "ordered" => Some("plugins/Morpheus/images/ecommerceOrder.svg"),
        "none" => None,
        _ => Some("plugins/Morpheus/images/ecommerceAbandonedCart.svg"),
    };
    w.str("visitEcommerceStatus", status);
    w.opt("visitEcommerceStatusIcon", icon);
    w.db("daysSinceFirstVisit", visit.days_since_first);
    w.db("secondsSinceFirstVisit", visit.seconds_since_first);
    w.db("daysSinceLastEcommerceOrder", visit.since_order().unwrap_or(0) / 86_400);
    w.opt_db("secondsSinceLastEcommerceOrder", visit.since_order());
    w.db("visitDuration", visit.duration());
    w.str("visitDurationPretty", &action_json::pretty(visit.duration()));
    w.db("searches", visit.searches());
    w.db("actions", visit.action_count());
    w.db("interactions", visit.interactions());
}

fn referrer(w: &mut Writer, visit: &Visit) {
    let from = &visit.referrer;
    let type_name = match from.kind.as_str() {
        "direct" => "Direct Entry",
        "search" => "Search Engines",
        "website" => "Websites",
        "social" => "Social Networks",
        "campaign" => "Campaigns",
        other => other,
    };
    let (engine, network) = (from.search_engine_url(), from.social_network_url());
    let icon = |url: &Option<String>, path: &'static str| url.is_some().then_some(path);
    w.str("referrerType", &from.kind);
    w.str("referrerTypeName", type_name);
    w.str("referrerName", &from.name);
    w.str("referrerKeyword", &from.keyword);
    w.opt_db("referrerKeywordPosition", visit.keyword_position);
    w.opt("referrerUrl", from.url.as_deref());
    w.opt("referrerSearchEngineUrl", engine.as_deref());
    w.opt(
        "referrerSearchEngineIcon",
        icon(&engine, "plugins/Morpheus/icons/dist/searchEngines/xx.png"),
    );
    w.opt("referrerSocialNetworkUrl", network.as_deref());
    w.opt(
        "referrerSocialNetworkIcon",
        icon(&network, "plugins/Morpheus/icons/dist/socials/xx.png"),
    );
    if let Some(campaign) = &visit.campaign {
        w.str("campaignId", &campaign.id);
        w.str("campaignContent", &campaign.content);
        w.str("campaignKeyword", &campaign.keyword);
        w.str("campaignMedium", &campaign.medium);
        w.str("campaignName", &campaign.name);
        w.str("campaignSource", &campaign.source);
        w.str("campaignGroup", &campaign.group);
        w.str("campaignPlacement", &campaign.placement);
    }
    let language = catalog::LANGUAGES.iter().find(|l| l.0 == visit.language_code);
    w.str("languageCode", &visit.language_code);
    w.str("language", language.map_or("Unknown", |l| l.1));
}

fn device(w: &mut Writer, visit: &Visit) {
    let d = &visit.device;
    let joined = |name: &str, version: &str| {
        if version.is_empty() { name.to_owned() } else { format!("{name} {version}") }
    };
    let kind = match (w.style().french, d.kind) {
        (true, "Desktop") => "Ordinateur",
        (true, "Tablet") => "Tablette",
        (true, "Unknown") => "Inconnu",
        (_, kind) => kind,
    };
    w.str("deviceType", kind);
    let picture = d.kind.to_lowercase();
    w.str("deviceTypeIcon", &format!("plugins/Morpheus/icons/dist/devices/{picture}.png"));
    w.str("deviceBrand", d.brand);
    w.str("deviceModel", d.model);
    w.str("operatingSystem", &joined(d.os, d.os_version));
    w.str("operatingSystemName", d.os);
    w.str("operatingSystemIcon", "plugins/Morpheus/icons/dist/os/UNK.png");
    w.str("operatingSystemCode", d.os_code);
    w.str("operatingSystemVersion", d.os_version);
    w.str("browserFamily", d.family);
    w.str("browserFamilyDescription", d.family_description);
    w.str("browser", &joined(d.browser, d.browser_version));
    w.str("browserName", d.browser);
    w.str("browserIcon", "plugins/Morpheus/icons/dist/browsers/UNK.png");
    w.str("browserCode", d.browser_code);
    w.str("browserVersion", d.browser_version);
}

fn ecommerce(w: &mut Writer, Lifetime { orders: order, carts: cart }: Lifetime) {
    // An item total is a string, but the number 0 when there are no items.
    let items = |n: i64| {
        if n == 0 { "0".to_owned() } else { format!("\"{n}\"") }
    };
    w.raw("totalEcommerceRevenue", &money(order.0));
    w.db("totalEcommerceConversions", order.1);
    w.raw("totalEcommerceItems", &items(order.2));
    w.raw("totalAbandonedCartsRevenue", &money(cart.0));
    w.db("totalAbandonedCarts", cart.1);
    w.raw("totalAbandonedCartsItems", &items(cart.2));
}

fn place(w: &mut Writer, zone: Zone, visit: &Visit) {
    let known = catalog::country(visit.country.as_deref().unwrap_or("Unknown"));
    let country = match visit.country.as_deref() {
        Some(name) if w.style().french => Some(catalog::country_in_french(name)),
        other => other,
    };
    let parts: Vec<&str> =
        [visit.city.as_deref(), visit.region.as_deref(), country].into_iter().flatten().collect();
    w.str("continent", known.3);
    w.str("continentCode", known.4);
    w.opt("country", country);
    w.str("countryCode", known.2);
    w.str("countryFlag", "plugins/Morpheus/icons/dist/flags/xx.png");
    w.opt("region", visit.region.as_deref());
    w.opt("regionCode", visit.region_code());
    w.opt("city", visit.city.as_deref());
    w.str("location", &parts.join(", "));
    w.opt("latitude", visit.coordinates().map(|c| c.0));
    w.opt("longitude", visit.coordinates().map(|c| c.1));
    let local = visit.local_time(zone);
    w.str("visitLocalTime", &clock(local));
    w.str("visitLocalHour", &local.hour().to_string());
    w.db("daysSinceLastVisit", visit.seconds_since_last / 86_400);
    w.db("secondsSinceLastVisit", visit.seconds_since_last);
    w.str("resolution", &visit.resolution);
    w.str("plugins", "");
    w.raw("pluginsIcons", "null");
}

/// The keys `dimensionN`.
pub fn dimensions(w: &mut Writer, all: &[(u32, Option<String>)]) {
    for (number, value) in all {
        w.opt(&format!("dimension{number}"), value.as_deref());
    }
}

/// The object `customVariables`, with the given scope in its keys.
pub fn custom_variables(w: &mut Writer, scope: &str, all: &[CustomVariable]) {
    w.object("customVariables", |w| {
        for one in all {
            let n = one.index;
            w.object(&n.to_string(), |w| {
                w.str(&format!("customVariable{scope}Name{n}"), &one.name);
                w.str(&format!("customVariable{scope}Value{n}"), &one.value);
            });
        }
    });
}
