//! What Matomo sends for a visit, an action and an item, by key: the model's values, with those
//! that a test replaced, added or left out.

use crate::action::{Action, CustomVariable, Kind};
use crate::catalog;
use crate::commerce::{Item, Product, money};
use crate::names::page_title;
use crate::tables::values::{Said, jsonb, object, storable};
use crate::visit::Visit;
use crate::world::{Site, World};
use crate::zone::Zone;
use serde_json::{Map, Value};

/// Values by key.
#[derive(Debug, Default)]
pub struct Facts(Vec<(String, Said)>);

impl Facts {
    fn text(&mut self, key: &str, text: impl AsRef<str>) {
        self.0.push((key.to_owned(), Said::text(Some(text.as_ref()))));
    }

    fn opt(&mut self, key: &str, text: Option<&str>) {
        self.0.push((key.to_owned(), Said::text(text)));
    }

    fn int(&mut self, key: &str, number: i64) {
        self.0.push((key.to_owned(), Said::number(Some(number))));
    }

    fn opt_int(&mut self, key: &str, number: Option<i64>) {
        self.0.push((key.to_owned(), Said::number(number)));
    }

    fn json(&mut self, key: &str, json: impl Into<String>) {
        self.0.push((key.to_owned(), Said::Json(json.into())));
    }

    /// Applies a test's replacements and omissions.
    fn overlay(mut self, extra: &Map<String, Value>, omit: &[String]) -> Facts {
        self.0.retain(|(key, _)| !extra.contains_key(key) && !omit.contains(key));
        self.0.extend(extra.iter().map(|(key, value)| (key.clone(), Said::from(value))));
        self
    }

    /// The value sent under this key; null if there is none.
    pub fn get(&self, key: &str) -> &Said {
        self.0.iter().find(|(k, _)| k == key).map_or(&Said::Null, |(_, said)| said)
    }

    /// All keys with their values.
    pub fn iter(&self) -> impl Iterator<Item = &(String, Said)> {
        self.0.iter()
    }

    fn dimensions_of(&mut self, all: &[(u32, Option<String>)]) {
        for (number, value) in all {
            self.opt(&format!("dimension{number}"), value.as_deref());
        }
    }

    /// The dimensions that have a value, as an object.
    pub fn dimensions(&self) -> String {
        let with_value = self.0.iter().filter(|(key, _)| is_dimension(key));
        let with_value = with_value.filter_map(|(key, said)| {
            let text = said.as_text().filter(|text| !text.is_empty())?;
            Some((key.clone(), jsonb(&Value::from(text))))
        });
        object(with_value)
    }
}

/// Whether this is the key of a custom dimension.
pub fn is_dimension(key: &str) -> bool {
    let number = key.strip_prefix("dimension").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
}

/// The variables as an object; the first of each name counts.
pub fn variables(all: &[CustomVariable]) -> String {
    let mut members: Vec<(String, String)> = Vec::new();
    for variable in all {
        let name = storable(&variable.name);
        if !members.iter().any(|(other, _)| *other == name) {
            members.push((name, jsonb(&Value::from(variable.value.as_str()))));
        }
    }
    object(members)
}

/// What Matomo sends for a visit.
pub fn visit(world: &World, site: &Site, zone: Zone, visit: &Visit) -> Facts {
    let mut f = Facts::default();
    f.int("idSite", site.id);
    f.int("idVisit", visit.id);
    f.text("visitIp", &visit.ip);
    f.text("visitorId", &visit.visitor_id);
    f.text("fingerprint", visit.fingerprint());
    f.int("goalConversions", visit.goal_conversions());
    f.text("siteCurrency", &site.currency);
    f.text("siteName", &site.name);
    f.int("firstActionTimestamp", visit.first);
    f.int("lastActionTimestamp", visit.last);
    f.opt("userId", visit.user_id.as_deref());
    f.text("visitorType", &visit.visitor_type);
    f.int("visitConverted", visit.is_converted().into());
    f.int("visitCount", visit.visit_count);
    f.text("visitEcommerceStatus", visit.ecommerce_status());
    f.int("daysSinceFirstVisit", visit.days_since_first);
    f.int("secondsSinceFirstVisit", visit.seconds_since_first);
    f.opt_int("secondsSinceLastEcommerceOrder", visit.since_order());
    f.int("daysSinceLastVisit", visit.seconds_since_last / 86_400);
    f.int("secondsSinceLastVisit", visit.seconds_since_last);
    f.int("visitDuration", visit.duration());
    f.int("searches", visit.searches());
    f.int("events", visit.events());
    f.int("actions", visit.action_count());
    f.int("interactions", visit.interactions());
    f.int("truncatedActionsCount", visit.cut(world.max_actions));
    f.text("visitLocalTime", visit.local_time(zone).time().to_string());
    origin(&mut f, visit);
    surroundings(&mut f, visit);
    f.dimensions_of(&visit.dimensions);
    if let Some(tests) = &visit.experiments {
        f.0.push(("experiments".to_owned(), Said::from(tests)));
    }
    f.overlay(&visit.extra, &visit.omit)
}

fn origin(f: &mut Facts, visit: &Visit) {
    let from = &visit.referrer;
    f.text("referrerType", &from.kind);
    f.text("referrerName", &from.name);
    f.text("referrerKeyword", &from.keyword);
    f.opt_int("referrerKeywordPosition", visit.keyword_position);
    f.opt("referrerUrl", from.url.as_deref());
    f.opt("referrerSearchEngineUrl", from.search_engine_url().as_deref());
    f.opt("referrerSocialNetworkUrl", from.social_network_url().as_deref());
    if let Some(campaign) = &visit.campaign {
        f.text("campaignId", &campaign.id);
        f.text("campaignName", &campaign.name);
        f.text("campaignSource", &campaign.source);
        f.text("campaignMedium", &campaign.medium);
        f.text("campaignKeyword", &campaign.keyword);
        f.text("campaignContent", &campaign.content);
        f.text("campaignGroup", &campaign.group);
        f.text("campaignPlacement", &campaign.placement);
    }
}

fn surroundings(f: &mut Facts, visit: &Visit) {
    let device = &visit.device;
    f.text("languageCode", &visit.language_code);
    f.text("deviceType", device.kind);
    f.text("deviceBrand", device.brand);
    f.text("deviceModel", device.model);
    f.text("operatingSystemName", device.os);
    f.text("operatingSystemCode", device.os_code);
    f.text("operatingSystemVersion", device.os_version);
    f.text("browserFamily", device.family);
    f.text("browserName", device.browser);
    f.text("browserCode", device.browser_code);
    f.text("browserVersion", device.browser_version);
    f.text("resolution", &visit.resolution);
    f.text("plugins", "");
    let country = catalog::country(visit.country.as_deref().unwrap_or("Unknown"));
    f.text("continentCode", country.4);
    f.text("countryCode", country.2);
    f.opt("country", visit.country.as_deref());
    f.opt("regionCode", visit.region_code());
    f.opt("region", visit.region.as_deref());
    f.opt("city", visit.city.as_deref());
    f.opt("latitude", visit.coordinates().map(|c| c.0));
    f.opt("longitude", visit.coordinates().map(|c| c.1));
}

/// What an action takes from those before it.
#[derive(Clone, Copy, Default)]
pub struct Before<'a> {
    /// The number of pages and searches so far, including this one.
    pub position: i64,
    /// The last page or search.
    pub page: Option<&'a Action>,
}

/// What Matomo sends for an action.
pub fn action(visit: &Visit, index: usize, action: &Action, before: Before) -> Facts {
    let mut f = Facts::default();
    match &action.kind {
        // The number 13, not a JSON string.
        Kind::Content { .. } => f.json("type", "13"),
        kind => f.text("type", kind.type_name()),
    }
    f.opt("title", action.kind.title(action).as_deref());
    if action.kind.is_conversion() {
        conversion(&mut f, visit, action, before);
    } else {
        let is_search = matches!(action.kind, Kind::Search { .. });
        f.opt("url", action.url.as_deref().filter(|_| !is_search));
        f.int("pageId", visit.page_id(action));
        f.opt_int("pageIdAction", action.page_id_action());
        f.text("idpageview", &action.idpageview);
        f.opt_int("pageviewPosition", Some(before.position).filter(|n| *n > 0));
        if let Some(seconds) = visit.time_spent(index) {
            f.int("timeSpent", seconds);
        }
        particulars(&mut f, action);
    }
    f.dimensions_of(&action.dimensions);
    f.overlay(&action.extra, &action.omit)
}

fn particulars(f: &mut Facts, action: &Action) {
    match &action.kind {
        Kind::Page => {
            f.opt("pageTitle", page_title(action));
            if let Some(milliseconds) = action.load_ms {
                f.int("pageLoadTimeMilliseconds", milliseconds);
            }
            if let Some(product) = &action.product {
                shown(f, product);
            }
        }
        Kind::Event { category, action: done, value, .. } => {
            f.text("eventCategory", category);
            f.text("eventAction", done);
            if let Some(name) = action.kind.event_name() {
                f.text("eventName", name);
            }
            if let Some(literal) = value {
                f.json("eventValue", literal);
            }
        }
        Kind::Search { keyword, category, count } => {
            f.text("siteSearchKeyword", keyword);
            f.text("siteSearchCategory", category);
            f.opt_int("siteSearchCount", *count);
        }
        Kind::Content { name, piece, target, interaction } => {
            f.text("contentName", name);
            f.opt("contentPiece", piece.as_deref());
            f.opt("contentTarget", target.as_deref());
            f.opt("contentInteraction", interaction.as_deref());
        }
        _ => {}
    }
}

fn shown(f: &mut Facts, product: &Product) {
    let is_something = |text: &&str| !matches!(*text, "" | "0");
    if let Some(sku) = Some(product.sku.as_str()).filter(is_something) {
        f.text("productViewSku", sku);
    }
    if let Some(name) = Some(product.name.as_str()).filter(is_something) {
        f.text("productViewName", name);
    }
    if product.price != 0 {
        f.json("productViewPrice", money(product.price));
    }
    if !product.categories.is_empty() {
        f.0.push(("productViewCategories".to_owned(), Said::texts(&product.categories)));
    }
}

fn conversion(f: &mut Facts, visit: &Visit, action: &Action, before: Before) {
    f.text("referrerType", &visit.referrer.kind);
    f.opt("referrerName", visit.referrer.name_of_conversion());
    f.opt("referrerKeyword", visit.referrer.keyword_of_conversion());
    if let Kind::Goal { id, name, revenue, manual, deleted } = &action.kind {
        let page = before.page.filter(|_| !manual);
        f.opt("url", action.url.as_deref());
        f.opt_int("goalId", Some(*id).filter(|_| !deleted));
        f.opt("goalName", Some(name.as_str()).filter(|_| !deleted));
        f.opt("idpageview", page.map(|page| page.idpageview.as_str()));
        f.opt_int("goalPageId", page.map(|page| visit.page_id(page)));
        f.json("revenue", revenue);
    }
    let Some((_, sums)) = action.kind.sale() else { return };
    f.json("revenue", money(sums.revenue));
    f.int("items", sums.items);
    if let Kind::Order { id, .. } = &action.kind {
        f.text("orderId", id);
        f.json("revenueSubTotal", money(sums.subtotal));
        f.json("revenueTax", money(sums.tax));
        f.json("revenueShipping", money(sums.shipping));
        f.json("revenueDiscount", money(sums.discount));
    }
}

/// What Matomo sends for the items of an order or a cart.
pub fn items(action: &Action) -> Vec<Facts> {
    if let Some(replaced) = action.extra.get("itemDetails") {
        let of =
            |item: &Value| Facts::default().overlay(item.as_object().unwrap_or(&Map::new()), &[]);
        return match replaced {
            Value::Array(all) => all.iter().map(of).collect(),
            Value::Object(all) => all.values().map(of).collect(),
            _ => Vec::new(),
        };
    }
    if action.omit.iter().any(|key| key == "itemDetails") {
        return Vec::new();
    }
    action.kind.sale().map_or_else(Vec::new, |(items, _)| items.iter().map(item).collect())
}

fn item(item: &Item) -> Facts {
    let mut f = Facts::default();
    f.text("itemSKU", &item.sku);
    f.text("itemName", &item.name);
    f.opt("itemCategory", item.categories.first().map(String::as_str));
    f.json("price", money(item.price));
    f.int("quantity", item.quantity);
    f.0.push(("categories".to_owned(), Said::texts(&item.categories)));
    f
}
