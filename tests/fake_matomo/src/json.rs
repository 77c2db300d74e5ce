//! A visit as `Live.getLastVisitsDetails` sends it.

use crate::action::{CustomVariable, Kind};
use crate::action_json;
use crate::catalog;
use crate::visit::Visit;
use crate::world::{Site, World};
use crate::writer::Writer;
use crate::zone::{Zone, utc};
use chrono::{NaiveDateTime, Timelike};

/// What a request asks of the visits' form.
#[derive(Clone, Debug, Default)]
pub struct Form {
    pub no_actions: bool,
    pub show: Vec<String>,
    pub hide: Vec<String>,
}

/// Writes one visit.
pub fn visit(w: &mut Writer, world: &World, site: &Site, zone: Zone, visit: &Visit, form: &Form) {
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
            ecommerce(w, visit);
        }
        w.db("events", visit.count(|k| matches!(k, Kind::Event { .. })));
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
        let cut = visit.actions.len().saturating_sub(world.max_actions);
        if cut > 0 {
            w.int("truncatedActionsCount", cut as i64);
        }
        if !visit.extra.is_empty() {
            // Out of the filter that hid Matomo's own keys of these names.
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
    w.str("fingerprint", &format!("{:016x}", visit.id.wrapping_mul(0x51_7cc1_b727_220a)));
    w.array("actionDetails", |w| {
        if !form.no_actions {
            action_json::write(w, world, site, zone, visit);
        }
    });
    w.db("goalConversions", visit.count(|k| matches!(k, Kind::Goal { .. })));
    w.str("siteCurrency", &site.currency);
    w.str("siteCurrencySymbol", symbol(&site.currency));
}

/// A currency's sign.
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
    let orders = visit.count(|k| matches!(k, Kind::Order { .. }));
    let carts = visit.count(|k| matches!(k, Kind::Cart { .. }));
    let converted = orders > 0 || visit.count(|k| matches!(k, Kind::Goal { .. })) > 0;
    let returning = visit.visitor_type != "new";
    let image = |on: bool, path: &'static str| on.then_some(path);
    w.opt("userId", visit.user_id.as_deref());
    w.str("visitorType", &visit.visitor_type);
    w.opt("visitorTypeIcon", image(returning, "plugins/Live/images/returningVisitor.png"));
    w.db("visitConverted", converted.into());
    w.opt("visitConvertedIcon", image(converted, "plugins/Morpheus/images/goal.svg"));
    w.db("visitCount", visit.visit_count);
    let (status, icon) = match (orders > 0, carts > 0) {
        (true, true) => {
            ("orderedThenAbandonedCart", Some("plugins/Morpheus/images/ecommerceAbandonedCart.svg"))
        }
        (true, false) => ("ordered", Some("plugins/Morpheus/images/ecommerceOrder.svg")),
        (false, true) => {
            ("abandonedCart", Some("plugins/Morpheus/images/ecommerceAbandonedCart.svg"))
        }
        (false, false) => ("none", None),
    };
    w.str("visitEcommerceStatus", status);
    w.opt("visitEcommerceStatusIcon", icon);
    w.db("daysSinceFirstVisit", visit.days_since_first);
    w.db("secondsSinceFirstVisit", visit.seconds_since_first);
    w.db("daysSinceLastEcommerceOrder", 0);
    w.raw("secondsSinceLastEcommerceOrder", if orders > 0 { "0" } else { "null" });
    w.db("visitDuration", visit.duration());
    w.str("visitDurationPretty", &crate::action_json::pretty(visit.duration()));
    let events = visit.count(|k| matches!(k, Kind::Event { .. }));
    w.db("searches", visit.count(|k| matches!(k, Kind::Search { .. })));
    w.db("actions", visit.action_count());
    w.db("interactions", visit.action_count() - events);
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
    let engine = format!("http://{}.com", from.name.to_lowercase());
    let network = format!("{}.com", from.name.to_lowercase());
    let search = (from.kind == "search").then_some(());
    let social = (from.kind == "social").then_some(());
    w.str("referrerType", &from.kind);
    w.str("referrerTypeName", type_name);
    w.str("referrerName", &from.name);
    w.str("referrerKeyword", &from.keyword);
    w.raw("referrerKeywordPosition", "null");
    w.opt("referrerUrl", from.url.as_deref());
    w.opt("referrerSearchEngineUrl", search.map(|()| engine.as_str()));
    w.opt(
        "referrerSearchEngineIcon",
        search.map(|()| "plugins/Morpheus/icons/dist/searchEngines/xx.png"),
    );
    w.opt("referrerSocialNetworkUrl", social.map(|()| network.as_str()));
    w.opt(
        "referrerSocialNetworkIcon",
        social.map(|()| "plugins/Morpheus/icons/dist/socials/xx.png"),
    );
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

fn ecommerce(w: &mut Writer, visit: &Visit) {
    let (mut order, mut cart) = ((0, 0, 0), (0, 0, 0));
    for action in &visit.actions {
        let (sums, items, discount) = match &action.kind {
            Kind::Order { items, discount, .. } => (&mut order, items, *discount),
            Kind::Cart { items } => (&mut cart, items, 0),
            _ => continue,
        };
        sums.0 += items.iter().map(|i| i.price * i.quantity).sum::<i64>() - discount;
        sums.1 += 1;
        sums.2 += items.iter().map(|i| i.quantity).sum::<i64>();
    }
    // A sum of items comes as a string, but as the number 0 when there is none.
    let items = |n: i64| {
        if n == 0 { "0".to_owned() } else { format!("\"{n}\"") }
    };
    w.raw("totalEcommerceRevenue", &action_json::money(order.0));
    w.db("totalEcommerceConversions", order.1);
    w.raw("totalEcommerceItems", &items(order.2));
    w.raw("totalAbandonedCartsRevenue", &action_json::money(cart.0));
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
    w.opt("regionCode", visit.region.as_ref().map(|_| "ca"));
    w.opt("city", visit.city.as_deref());
    w.str("location", &parts.join(", "));
    w.opt("latitude", visit.city.as_ref().map(|_| "48.856600"));
    w.opt("longitude", visit.city.as_ref().map(|_| "2.352200"));
    let local = zone.wall(visit.first);
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

/// The object `customVariables`, its keys with the given scope in their names.
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
