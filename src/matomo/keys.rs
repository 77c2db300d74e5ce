//! The keys of a visit and of its actions in `Live.getLastVisitsDetails`: which of them are kept, and
//! which are left out on purpose. A key in no list here is unknown, and kept as it is. Pure.

/// Keys of a visit whose values columns take, in alphabetical order. The last eight of `campaign…` are
/// those of the plugin MarketingCampaignsReporting.
pub const VISIT_KEYS: [&str; 59] = [
    "actions",
    "browserCode",
    "browserFamily",
    "browserName",
    "browserVersion",
    "campaignContent",
    "campaignGroup",
    "campaignId",
    "campaignKeyword",
    "campaignMedium",
    "campaignName",
    "campaignPlacement",
    "campaignSource",
    "city",
    "continentCode",
    "country",
    "countryCode",
    "daysSinceFirstVisit",
    "daysSinceLastVisit",
    "deviceBrand",
    "deviceModel",
    "deviceType",
    "events",
    "fingerprint",
    "goalConversions",
    "idSite",
    "interactions",
    "languageCode",
    "latitude",
    "longitude",
    "operatingSystemCode",
    "operatingSystemName",
    "operatingSystemVersion",
    "plugins",
    "referrerKeyword",
    "referrerKeywordPosition",
    "referrerName",
    "referrerSearchEngineUrl",
    "referrerSocialNetworkUrl",
    "referrerType",
    "referrerUrl",
    "region",
    "regionCode",
    "resolution",
    "searches",
    "secondsSinceFirstVisit",
    "secondsSinceLastEcommerceOrder",
    "secondsSinceLastVisit",
    "siteCurrency",
    "siteName",
    "userId",
    "visitConverted",
    "visitCount",
    "visitDuration",
    "visitEcommerceStatus",
    "visitIp",
    "visitLocalTime",
    "visitorId",
    "visitorType",
];

/// Keys of an action whose values columns take, in alphabetical order.
pub const ACTION_KEYS: [&str; 38] = [
    "contentInteraction",
    "contentName",
    "contentPiece",
    "contentTarget",
    "eventAction",
    "eventCategory",
    "eventName",
    "eventValue",
    "goalId",
    "goalName",
    "goalPageId",
    "idpageview",
    "itemDetails",
    "items",
    "orderId",
    "pageId",
    "pageIdAction",
    "pageLoadTimeMilliseconds",
    "pageviewPosition",
    "productViewCategories",
    "productViewName",
    "productViewPrice",
    "productViewSku",
    "referrerKeyword",
    "referrerName",
    "referrerType",
    "revenue",
    "revenueDiscount",
    "revenueShipping",
    "revenueSubTotal",
    "revenueTax",
    "siteSearchCategory",
    "siteSearchCount",
    "siteSearchKeyword",
    "timeSpent",
    "title",
    "type",
    "url",
];

/// Keys of an element of `itemDetails` whose values columns take, in alphabetical order.
pub const ITEM_KEYS: [&str; 6] =
    ["categories", "itemCategory", "itemName", "itemSKU", "price", "quantity"];

/// Keys that are left out by name, in alphabetical order: texts for people that another key has as a
/// value (`browser` is `browserName` and `browserVersion`), times that another key has in full, and
/// totals of the visitor, which change in old visits.
const LEFT_OUT: [&str; 27] = [
    "browser",
    "browserFamilyDescription",
    "continent",
    "countryFlag",
    "daysSinceLastEcommerceOrder",
    "icon",
    "iconSVG",
    "language",
    "lastActionDateTime",
    "location",
    "operatingSystem",
    "pageLoadTime",
    "pageTitle",
    "pluginsIcons",
    "referrerTypeName",
    "serverDate",
    "serverTimestamp",
    "siteCurrencySymbol",
    "subtitle",
    "totalAbandonedCarts",
    "totalAbandonedCartsItems",
    "totalAbandonedCartsRevenue",
    "totalEcommerceConversions",
    "totalEcommerceItems",
    "totalEcommerceRevenue",
    "visitLocalHour",
    "visitServerHour",
];

/// Where a key stands in a list in alphabetical order.
pub fn place(keys: &[&str], key: &str) -> Option<usize> {
    keys.binary_search(&key).ok()
}

/// Whether a key is left out on purpose; so are all icons and texts for people.
pub fn is_left_out(key: &str) -> bool {
    key.ends_with("Icon") || key.contains("Pretty") || place(&LEFT_OUT, key).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_order() {
        for keys in [&VISIT_KEYS[..], &ACTION_KEYS, &ITEM_KEYS, &LEFT_OUT] {
            assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
        }
    }

    #[test]
    fn icons_and_texts_for_people_are_left_out() {
        for key in ["visitorTypeIcon", "serverDatePrettyFirstAction", "icon", "subtitle"] {
            assert!(is_left_out(key), "{key}");
        }
        for key in ["deviceType", "pageId", "somethingNew"] {
            assert!(!is_left_out(key), "{key}");
        }
    }
}
