//! The keys of a visit and of its actions in `Live.getLastVisitsDetails`: which of them are kept, and
//! which are left out on purpose. A key in no list here is unknown, and kept as it is. Pure.

/// Keys of a visit whose values columns take, in alphabetical order. The eight `campaign…` are those
/// of the plugin MarketingCampaignsReporting.
pub const VISIT_KEYS: [&str; 62] = [
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
    "firstActionTimestamp",
    "goalConversions",
    "idSite",
    "interactions",
    "languageCode",
    "lastActionTimestamp",
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
    "truncatedActionsCount",
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
pub const ACTION_KEYS: [&str; 39] = [
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
    "timestamp",
    "title",
    "type",
    "url",
];

/// Keys of an element of `itemDetails` whose values columns take, in alphabetical order.
pub const ITEM_KEYS: [&str; 6] =
    ["categories", "itemCategory", "itemName", "itemSKU", "price", "quantity"];

/// Keys of a visit that are left out by name, in alphabetical order: texts for people that another key has
/// as a value (`browser` is `browserName` and `browserVersion`), times that another key has in full, and
/// totals of the visitor, which change in old visits.
const LEFT_OUT_OF_VISITS: [&str; 22] = [
    "browser",
    "browserFamilyDescription",
    "continent",
    "countryFlag",
    "daysSinceLastEcommerceOrder",
    "language",
    "lastActionDateTime",
    "location",
    "operatingSystem",
    "pluginsIcons",
    "referrerTypeName",
    "serverDate",
    "serverTimestamp",
    "siteCurrencySymbol",
    "totalAbandonedCarts",
    "totalAbandonedCartsItems",
    "totalAbandonedCartsRevenue",
    "totalEcommerceConversions",
    "totalEcommerceItems",
    "totalEcommerceRevenue",
    "visitLocalHour",
    "visitServerHour",
];

/// The same of an action. `subtitle` is its URL or made of other values, and `generationTime` what
/// `generationTimeMilliseconds` is in words, in the language of the request.
const LEFT_OUT_OF_ACTIONS: [&str; 5] =
    ["generationTime", "icon", "iconSVG", "pageLoadTime", "subtitle"];

/// The position of a key in [`VISIT_KEYS`], for constants.
pub const fn visit_key(key: &str) -> usize {
    position(&VISIT_KEYS, key)
}

/// The position of a key in [`ACTION_KEYS`], for constants.
pub const fn action_key(key: &str) -> usize {
    position(&ACTION_KEYS, key)
}

const fn position(keys: &[&str], key: &str) -> usize {
    let mut n = 0;
    while n < keys.len() && !is_same(keys[n], key) {
        n += 1;
    }
    assert!(n < keys.len(), "no key that is read");
    n
}

/// Whether two texts are equal; `==` is not for constants.
const fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut n = 0;
    while n < a.len() && n < b.len() && a[n] == b[n] {
        n += 1;
    }
    n == a.len() && n == b.len()
}

/// Where the keys stand in their lists.
pub static VISIT_PLACES: Places = Places::of(&VISIT_KEYS);
pub static ACTION_PLACES: Places = Places::of(&ACTION_KEYS);
pub static ITEM_PLACES: Places = Places::of(&ITEM_KEYS);
static PLACES_LEFT_OUT_OF_VISITS: Places = Places::of(&LEFT_OUT_OF_VISITS);
static PLACES_LEFT_OUT_OF_ACTIONS: Places = Places::of(&LEFT_OUT_OF_ACTIONS);

/// A hash table of a list of keys, made by the compiler. An answer has a hundred keys a visit.
pub struct Places {
    keys: &'static [&'static str],
    /// A place in `keys`, or [`FREE`]. A key is in the slot of its hash or in the next free one.
    slots: [u8; SLOTS],
}

const FREE: u8 = u8::MAX;
/// Several times the longest list, so that few keys share a slot.
const SLOTS: usize = 256;

impl Places {
    const fn of(keys: &'static [&'static str]) -> Places {
        assert!(keys.len() < SLOTS / 2);
        let mut slots = [FREE; SLOTS];
        let mut place = 0;
        while place < keys.len() {
            let mut slot = hash(keys[place].as_bytes());
            while slots[slot] != FREE {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = place as u8;
            place += 1;
        }
        Places { keys, slots }
    }

    /// Where a key stands in the list.
    pub fn find(&self, key: &str) -> Option<usize> {
        let mut slot = hash(key.as_bytes());
        while self.slots[slot] != FREE {
            let place = usize::from(self.slots[slot]);
            if self.keys[place] == key {
                return Some(place);
            }
            slot = (slot + 1) % SLOTS;
        }
        None
    }
}

/// A slot for a key, by its length and three of its bytes.
const fn hash(key: &[u8]) -> usize {
    let length = key.len();
    if length == 0 {
        return 0;
    }
    let (first, middle, last) = (key[0], key[length / 2], key[length - 1]);
    (length * 59 + first as usize * 7 + middle as usize * 31 + last as usize * 13) % SLOTS
}

/// Whether a key of a visit is left out on purpose.
pub fn is_left_out_of_visits(key: &str) -> bool {
    PLACES_LEFT_OUT_OF_VISITS.find(key).is_some() || is_for_people(key)
}

/// Whether a key of an action is left out on purpose.
pub fn is_left_out_of_actions(key: &str) -> bool {
    PLACES_LEFT_OUT_OF_ACTIONS.find(key).is_some() || is_for_people(key)
}

/// Whether a value is an icon or a text for people.
fn is_for_people(key: &str) -> bool {
    key.ends_with("Icon") || key.as_bytes().windows(PRETTY.len()).any(|part| part == PRETTY)
}

const PRETTY: &[u8; 6] = b"Pretty";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_found_where_it_stands() {
        for places in [
            &VISIT_PLACES,
            &ACTION_PLACES,
            &ITEM_PLACES,
            &PLACES_LEFT_OUT_OF_VISITS,
            &PLACES_LEFT_OUT_OF_ACTIONS,
        ] {
            let keys = places.keys;
            assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
            for (place, key) in keys.iter().enumerate() {
                assert_eq!(places.find(key), Some(place), "{key}");
                for other in [&key[1..], &key[..key.len() - 1], &format!("{key}s")] {
                    assert!(keys.contains(&other) || places.find(other).is_none(), "{other}");
                }
            }
            assert_eq!(places.find(""), None);
        }
    }

    #[test]
    fn icons_and_texts_for_people_are_left_out() {
        for key in ["visitorTypeIcon", "serverDatePrettyFirstAction"] {
            assert!(is_left_out_of_visits(key) && is_left_out_of_actions(key), "{key}");
        }
        for key in ["deviceType", "pageId", "somethingNew"] {
            assert!(!is_left_out_of_visits(key) && !is_left_out_of_actions(key), "{key}");
        }
    }
}
