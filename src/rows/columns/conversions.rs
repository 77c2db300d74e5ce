//! The columns of a table of conversions, a row a goal conversion, an order or an abandoned cart; and of a
//! table of the items of orders and carts.

use super::column::{Column, Source::*, new};

/// In the order of the template `matomo_conversion`.
#[rustfmt::skip]
pub const CONVERSIONS: &[Column] = &[
    new("action_id", "text NOT NULL", ActionId, "The action in the destination: idVisit, an underscore, and its place in the visit"),
    new("idvisit", "bigint NOT NULL", VisitId, "ID of the visit (idVisit), unique within one Matomo"),
    new("idsite", "integer", SiteId, "ID of the site (idSite)"),
    new("visitorid", "text", Visit("visitorId"), "ID of the visitor, a hexadecimal number; NULL for an anonymous token"),
    new("type", "text", ActionOr("type", ""), "goal, ecommerceOrder or ecommerceAbandonedCart"),
    new("converted", "timestamptz NOT NULL", Instant, "When it happened (see matomo.action_time)"),
    new("day", "date", Day,
        "The site's day of the last action of the visit, in the site's timezone: the day of the visit in Matomo's reports"),
    new("goalid", "integer", Action("goalId"), "ID of the goal (idgoal); NULL for orders and carts, and for goals deleted since"),
    new("goalname", "text", Action("goalName"), "Name of the goal"),
    new("goalpageid", "bigint", Action("goalPageId"), "pageid of the action that converted the goal; NULL where it was converted by hand"),
    new("orderid", "text", Action("orderId"), "ID that the shop gave the order; NULL for a cart"),
    new("url", "text", Action("url"), "URL of the page on which the goal was converted"),
    new("revenue", "numeric", Action("revenue"), "Revenue, in the currency of the site"),
    new("revenuesubtotal", "numeric", Action("revenueSubTotal"), "Part of the revenue: the items"),
    new("revenuetax", "numeric", Action("revenueTax"), "Part of the revenue: tax"),
    new("revenueshipping", "numeric", Action("revenueShipping"), "Part of the revenue: shipping"),
    new("revenuediscount", "numeric", Action("revenueDiscount"), "Discount"),
    new("items", "integer", Action("items"), "Number of items in the order or cart"),
    new("referrertype", "text", Action("referrerType"), "To what Matomo attributes the conversion: direct, search, website, social or campaign"),
    new("referrername", "text", Action("referrerName"), "Name of that referrer"),
    new("referrerkeyword", "text", Action("referrerKeyword"), "Keyword of that referrer"),
    new("idpageview", "text", Action("idpageview"), "ID of the page view on which it happened"),
    new("dimensions", "jsonb", ActionDimensions, "Custom dimensions of the conversion that have a value: {\"dimension1\": ...}"),
    new("extra", "jsonb", Extra,
        "Keys of the conversion that no column has, and values that a column's type cannot hold, by their keys in Matomo; NULL where there are none"),
];

/// In the order of the template `matomo_item`.
#[rustfmt::skip]
pub const ITEMS: &[Column] = &[
    new("action_id", "text NOT NULL", ActionId, "The order or cart: action_id of its conversion"),
    new("place", "integer NOT NULL", Place, "Place of the item in the order or cart, from 0"),
    new("idvisit", "bigint NOT NULL", VisitId, "ID of the visit (idVisit), unique within one Matomo"),
    new("idsite", "integer", SiteId, "ID of the site (idSite)"),
    new("converted", "timestamptz NOT NULL", Instant, "When the order or cart happened (see matomo.action_time)"),
    new("itemsku", "text", Item("itemSKU"), "SKU of the product"),
    new("itemname", "text", Item("itemName"), "Name of the product"),
    new("itemcategory", "text", Item("itemCategory"), "First category of the product"),
    new("categories", "text[]", Item("categories"), "All categories of the product"),
    new("price", "numeric", Item("price"), "Price of one, in the currency of the site"),
    new("quantity", "integer", Item("quantity"), "Number of them"),
    new("extra", "jsonb", ItemExtra,
        "Keys of the item that no column has, and values that a column's type cannot hold, by their keys in Matomo; NULL where there are none"),
];
