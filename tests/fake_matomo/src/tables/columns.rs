//! The columns of the four tables with their types, and the keys that have no column.

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Type {
    Text,
    SmallInt,
    Int,
    BigInt,
    Bool,
    Numeric,
    Double,
    Time,
    TextArray,
    /// The text is built with the value: dates, instants, jsonb.
    Made,
}

/// Where a column's value comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Origin {
    Visit(&'static str),
    Action(&'static str),
    Item(&'static str),
    /// Computed, by the column's name.
    Made,
}

#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    pub ty: Type,
    pub from: Origin,
}

const fn text(name: &'static str, from: Origin) -> Column {
    Column { name, ty: Type::Text, from }
}

const fn int(name: &'static str, from: Origin) -> Column {
    Column { name, ty: Type::Int, from }
}

const fn bigint(name: &'static str, from: Origin) -> Column {
    Column { name, ty: Type::BigInt, from }
}

const fn numeric(name: &'static str, from: Origin) -> Column {
    Column { name, ty: Type::Numeric, from }
}

const fn made(name: &'static str) -> Column {
    Column { name, ty: Type::Made, from: Origin::Made }
}

use Origin::{Action, Item, Visit};

/// The columns of actions after the Node tool's 43.
#[rustfmt::skip]
pub const MORE_OF_ACTIONS: [Column; 22] = [
    bigint("pageid", Action("pageId")),
    bigint("pageidaction", Action("pageIdAction")),
    text("idpageview", Action("idpageview")),
    int("pageviewposition", Action("pageviewPosition")),
    int("pageloadtimemilliseconds", Action("pageLoadTimeMilliseconds")),
    int("goalid", Action("goalId")),
    text("goalname", Action("goalName")),
    numeric("revenue", Action("revenue")),
    text("orderid", Action("orderId")),
    int("items", Action("items")),
    text("contentname", Action("contentName")),
    text("contentpiece", Action("contentPiece")),
    text("contenttarget", Action("contentTarget")),
    text("contentinteraction", Action("contentInteraction")),
    text("sitesearchcategory", Action("siteSearchCategory")),
    int("sitesearchcount", Action("siteSearchCount")),
    text("productviewsku", Action("productViewSku")),
    text("productviewname", Action("productViewName")),
    numeric("productviewprice", Action("productViewPrice")),
    Column { name: "productviewcategories", ty: Type::TextArray, from: Action("productViewCategories") },
    made("day"),
    made("extra"),
];

/// Those of the 43 columns that are not text, dates, times or JSON.
pub const TYPED_OF_ACTIONS: [Column; 6] = [
    int("idsite", Visit("idSite")),
    bigint("idvisit", Visit("idVisit")),
    int("actions", Visit("actions")),
    int("visitduration", Visit("visitDuration")),
    int("dayssincefirstvisit", Visit("daysSinceFirstVisit")),
    int("action_timespent", Action("timeSpent")),
];

/// The table of visits.
#[rustfmt::skip]
pub const VISITS: [Column; 73] = [
    int("idsite", Visit("idSite")),
    bigint("idvisit", Visit("idVisit")),
    text("visitorid", Visit("visitorId")),
    text("userid", Visit("userId")),
    text("visitip", Visit("visitIp")),
    text("fingerprint", Visit("fingerprint")),
    made("firstaction"),
    made("lastaction"),
    made("day"),
    Column { name: "visitlocaltime", ty: Type::Time, from: Visit("visitLocalTime") },
    int("visitduration", Visit("visitDuration")),
    text("visitortype", Visit("visitorType")),
    int("visitcount", Visit("visitCount")),
    Column { name: "visitconverted", ty: Type::Bool, from: Visit("visitConverted") },
    text("visitecommercestatus", Visit("visitEcommerceStatus")),
    int("goalconversions", Visit("goalConversions")),
    int("actions", Visit("actions")),
    int("interactions", Visit("interactions")),
    int("searches", Visit("searches")),
    int("events", Visit("events")),
    int("truncatedactionscount", Visit("truncatedActionsCount")),
    int("dayssincefirstvisit", Visit("daysSinceFirstVisit")),
    bigint("secondssincefirstvisit", Visit("secondsSinceFirstVisit")),
    int("dayssincelastvisit", Visit("daysSinceLastVisit")),
    bigint("secondssincelastvisit", Visit("secondsSinceLastVisit")),
    bigint("secondssincelastecommerceorder", Visit("secondsSinceLastEcommerceOrder")),
    text("referrertype", Visit("referrerType")),
    text("referrername", Visit("referrerName")),
    text("referrerkeyword", Visit("referrerKeyword")),
    int("referrerkeywordposition", Visit("referrerKeywordPosition")),
    text("referrerurl", Visit("referrerUrl")),
    text("referrersearchengineurl", Visit("referrerSearchEngineUrl")),
    text("referrersocialnetworkurl", Visit("referrerSocialNetworkUrl")),
    text("campaignid", Visit("campaignId")),
    text("campaignname", Visit("campaignName")),
    text("campaignsource", Visit("campaignSource")),
    text("campaignmedium", Visit("campaignMedium")),
    text("campaignkeyword", Visit("campaignKeyword")),
    text("campaigncontent", Visit("campaignContent")),
    text("campaigngroup", Visit("campaignGroup")),
    text("campaignplacement", Visit("campaignPlacement")),
    text("languagecode", Visit("languageCode")),
    text("devicetype", Visit("deviceType")),
    text("devicebrand", Visit("deviceBrand")),
    text("devicemodel", Visit("deviceModel")),
    text("operatingsystemname", Visit("operatingSystemName")),
    text("operatingsystemcode", Visit("operatingSystemCode")),
    text("operatingsystemversion", Visit("operatingSystemVersion")),
    text("browsername", Visit("browserName")),
    text("browsercode", Visit("browserCode")),
    text("browserversion", Visit("browserVersion")),
    text("browserfamily", Visit("browserFamily")),
    text("resolution", Visit("resolution")),
    text("plugins", Visit("plugins")),
    text("continentcode", Visit("continentCode")),
    text("countrycode", Visit("countryCode")),
    text("country", Visit("country")),
    text("regioncode", Visit("regionCode")),
    text("region", Visit("region")),
    text("city", Visit("city")),
    Column { name: "latitude", ty: Type::Double, from: Visit("latitude") },
    Column { name: "longitude", ty: Type::Double, from: Visit("longitude") },
    text("sitename", Visit("siteName")),
    text("sitecurrency", Visit("siteCurrency")),
    made("entryurl"),
    made("entrytitle"),
    made("exiturl"),
    made("exittitle"),
    made("pageviews"),
    made("dimensions"),
    made("customvariables"),
    made("experiments"),
    made("extra"),
];

/// The table of conversions.
#[rustfmt::skip]
pub const CONVERSIONS: [Column; 24] = [
    made("action_id"),
    int("idsite", Visit("idSite")),
    bigint("idvisit", Visit("idVisit")),
    text("visitorid", Visit("visitorId")),
    text("type", Action("type")),
    made("converted"),
    made("day"),
    int("goalid", Action("goalId")),
    text("goalname", Action("goalName")),
    bigint("goalpageid", Action("goalPageId")),
    text("orderid", Action("orderId")),
    text("url", Action("url")),
    numeric("revenue", Action("revenue")),
    numeric("revenuesubtotal", Action("revenueSubTotal")),
    numeric("revenuetax", Action("revenueTax")),
    numeric("revenueshipping", Action("revenueShipping")),
    numeric("revenuediscount", Action("revenueDiscount")),
    int("items", Action("items")),
    text("referrertype", Action("referrerType")),
    text("referrername", Action("referrerName")),
    text("referrerkeyword", Action("referrerKeyword")),
    text("idpageview", Action("idpageview")),
    made("dimensions"),
    made("extra"),
];

/// The table of items.
#[rustfmt::skip]
pub const ITEMS: [Column; 12] = [
    made("action_id"),
    Column { name: "place", ty: Type::SmallInt, from: Origin::Made },
    int("idsite", Visit("idSite")),
    bigint("idvisit", Visit("idVisit")),
    made("converted"),
    text("itemsku", Item("itemSKU")),
    text("itemname", Item("itemName")),
    text("itemcategory", Item("itemCategory")),
    Column { name: "categories", ty: Type::TextArray, from: Item("categories") },
    numeric("price", Item("price")),
    int("quantity", Item("quantity")),
    made("extra"),
];

/// Keys of a visit left out on purpose: icons, display texts, what other columns hold, lifetime
/// totals of the visitor.
#[rustfmt::skip]
pub const LEFT_OUT_OF_VISITS: [&str; 35] = [
    "siteCurrencySymbol", "visitServerHour", "lastActionDateTime", "serverTimestamp", "serverDate",
    "serverTimePretty", "serverDatePretty", "serverDatePrettyFirstAction", "serverTimePrettyFirstAction",
    "visitorTypeIcon", "visitConvertedIcon", "visitEcommerceStatusIcon", "daysSinceLastEcommerceOrder",
    "visitDurationPretty", "referrerTypeName", "referrerSearchEngineIcon", "referrerSocialNetworkIcon",
    "language", "deviceTypeIcon", "operatingSystem", "operatingSystemIcon", "browserFamilyDescription",
    "browser", "browserIcon", "continent", "countryFlag", "location", "visitLocalHour", "pluginsIcons",
    "totalEcommerceRevenue", "totalEcommerceConversions", "totalEcommerceItems",
    "totalAbandonedCartsRevenue", "totalAbandonedCarts", "totalAbandonedCartsItems",
];

/// Keys of an action left out on purpose: icons, display texts, the repeated title.
pub const LEFT_OUT_OF_ACTIONS: [&str; 8] = [
    "generationTime",
    "pageTitle",
    "serverTimePretty",
    "timeSpentPretty",
    "icon",
    "iconSVG",
    "subtitle",
    "pageLoadTime",
];
