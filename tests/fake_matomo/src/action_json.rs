//! The actions of a visit as Matomo sends them.

use crate::action::{Action, Kind};
use crate::commerce::{Item, Product, Sums, money};
use crate::json::{custom_variables, dimensions, symbol};
use crate::names::page_title;
use crate::visit::Visit;
use crate::world::{Site, World};
use crate::writer::Writer;
use crate::zone::{Zone, utc};

/// Writes at most `max_actions` actions as elements of an open array.
pub fn write(w: &mut Writer, world: &World, site: &Site, zone: Zone, visit: &Visit) {
    let mut position = 0;
    let mut page = None;
    for (index, action) in visit.actions.iter().take(world.max_actions).enumerate() {
        if matches!(action.kind, Kind::Page | Kind::Search { .. }) {
            position += 1;
            page = Some(action);
        }
        let context =
            Context { site, visit, position, page, wall: action.at + zone.offset(action.at) };
        w.element();
        w.braces(|w| {
            if !(action.extra.is_empty() && action.omit.is_empty()) {
                let replaced = action.extra.keys().chain(&action.omit);
                w.filter(replaced.cloned().collect(), Vec::new());
            }
            one(w, &context, index, action);
            dimensions(w, &action.dimensions);
            if !action.custom_variables.is_empty() {
                let scope = if world.plain_custom_variables { "" } else { "Page" };
                custom_variables(w, scope, &action.custom_variables);
            }
            for (key, value) in &action.extra {
                w.element();
                w.text(key);
                w.out.push(':');
                w.any(value);
            }
        });
    }
}

/// What an action takes from its visit.
struct Context<'a> {
    site: &'a Site,
    visit: &'a Visit,
    /// Pages seen so far.
    position: i64,
    /// The last page seen.
    page: Option<&'a Action>,
    /// Matomo's `timestamp`: the site's wall clock read as if it were UTC.
    wall: i64,
}

fn one(w: &mut Writer, c: &Context, index: usize, action: &Action) {
    let url = action.url.as_deref();
    match &action.kind {
        Kind::Goal { .. } => return goal(w, c, action),
        Kind::Order { .. } | Kind::Cart { .. } => {
            if let Some((items, sums)) = action.kind.sale() {
                order(w, c, action, items, sums);
            }
            return;
        }
        Kind::Content { .. } => w.int("type", 13),
        kind => w.str("type", kind.type_name()),
    }
    let search = matches!(action.kind, Kind::Search { .. });
    w.opt("url", if search { None } else { url });
    match action.kind {
        Kind::Page => w.opt("pageTitle", page_title(action)),
        Kind::Content { .. } | Kind::Download | Kind::Outlink => w.raw("pageTitle", "null"),
        _ => {}
    }
    w.opt_db("pageIdAction", action.page_id_action());
    w.str("idpageview", &action.idpageview);
    w.str("serverTimePretty", &pretty_time(c.wall));
    w.db("pageId", c.visit.page_id(action));
    particulars(w, c, index, action);
}

/// The keys that only one kind has, in Matomo's order.
fn particulars(w: &mut Writer, c: &Context, index: usize, action: &Action) {
    let position = |w: &mut Writer| {
        w.opt_db("pageviewPosition", Some(c.position).filter(|n| *n > 0));
    };
    let icon = |w: &mut Writer, name: &str| {
        w.str("icon", &format!("plugins/Morpheus/images/{name}.png"));
        w.str("iconSVG", &format!("plugins/Morpheus/images/{name}.svg"));
    };
    let spent = |w: &mut Writer| {
        if let Some(seconds) = c.visit.time_spent(index) {
            w.db("timeSpent", seconds);
            w.str("timeSpentPretty", &pretty(seconds));
        }
    };
    let url = action.url.as_deref();
    let title = action.kind.title(action);
    match &action.kind {
        Kind::Page => {
            if let Some(ms) = action.load_ms {
                w.str("pageLoadTime", &format!("{:.2}s", ms as f64 / 1000.0));
            }
            spent(w);
            if let Some(ms) = action.load_ms {
                w.db("pageLoadTimeMilliseconds", ms);
            }
            position(w);
            w.opt("title", title.as_deref());
            w.opt("subtitle", url);
            w.str("icon", "");
            w.str("iconSVG", "plugins/Morpheus/images/action.svg");
            w.int("timestamp", c.wall);
            if let Some(product) = &action.product {
                shown(w, product);
            }
        }
        Kind::Event { category, action: done, value, .. } => {
            w.str("eventCategory", category);
            w.str("eventAction", done);
            spent(w);
            position(w);
            w.int("timestamp", c.wall);
            icon(w, "event");
            w.opt("title", title.as_deref());
            w.str("subtitle", &format!("Category: \"{category}', Action: \"{done}\""));
            if let Some(name) = action.kind.event_name() {
                w.str("eventName", name);
            }
            if let Some(literal) = value {
                w.db_literal("eventValue", literal);
            }
        }
        Kind::Search { keyword, category, count } => {
            w.str("siteSearchKeyword", keyword);
            w.str("siteSearchCategory", category);
            w.opt_db("siteSearchCount", *count);
            spent(w);
            position(w);
            icon(w, "search");
            w.opt("title", title.as_deref());
            w.str("subtitle", keyword);
            w.int("timestamp", c.wall);
        }
        Kind::Content { name, piece, target, interaction } => {
            w.str("contentName", name);
            w.opt("contentPiece", piece.as_deref());
            w.opt("contentTarget", target.as_deref());
            w.opt("contentInteraction", interaction.as_deref());
            spent(w);
            position(w);
            icon(w, "contentimpression");
            w.opt("title", title.as_deref());
            w.str("subtitle", &format!("{name} - {}", piece.as_deref().unwrap_or("")));
            w.int("timestamp", c.wall);
        }
        _ => {
            spent(w);
            position(w);
            icon(w, if action.kind == Kind::Download { "download" } else { "link" });
            w.opt("title", title.as_deref());
            w.opt("subtitle", url);
            w.int("timestamp", c.wall);
        }
    }
}

/// A product on show. PHP leaves out empty values.
fn shown(w: &mut Writer, product: &Product) {
    for (key, text) in [("productViewSku", &product.sku), ("productViewName", &product.name)] {
        if !matches!(text.as_str(), "" | "0") {
            w.str(key, text);
        }
    }
    if product.price != 0 {
        w.raw("productViewPrice", &money(product.price));
    }
    if !product.categories.is_empty() {
        w.texts("productViewCategories", &product.categories);
    }
}

fn goal(w: &mut Writer, c: &Context, action: &Action) {
    let Kind::Goal { id, name, revenue, manual, deleted } = &action.kind else {
        return;
    };
    let known = (!deleted).then_some((*id, name.as_str()));
    let page = c.page.filter(|_| !manual);
    w.str("type", "goal");
    w.opt("goalName", known.map(|k| k.1));
    w.opt_db("goalId", known.map(|k| k.0));
    w.opt("idpageview", page.map(|p| p.idpageview.as_str()));
    w.db_literal("revenue", revenue);
    w.opt_db("goalPageId", page.map(|page| c.visit.page_id(page)));
    w.str("serverTimePretty", &pretty_time(c.wall));
    w.opt("url", action.url.as_deref());
    referrer(w, c);
    let euro = symbol(&c.site.currency);
    let subtitle = format!("{} ({euro}{revenue} revenue)", known.map_or("", |k| k.1));
    ending(w, c, action, "goal", &subtitle);
}

fn order(w: &mut Writer, c: &Context, action: &Action, items: &[Item], sums: Sums) {
    w.str("type", action.kind.type_name());
    if let Kind::Order { id, .. } = &action.kind {
        w.str("orderId", id);
        w.raw("revenue", &money(sums.revenue));
        w.raw("revenueSubTotal", &money(sums.subtotal));
        w.raw("revenueTax", &money(sums.tax));
        w.raw("revenueShipping", &money(sums.shipping));
        w.raw("revenueDiscount", &money(sums.discount));
    } else {
        w.raw("revenue", &money(sums.revenue));
    }
    w.db("items", sums.items);
    w.str("serverTimePretty", &pretty_time(c.wall));
    w.raw("idpageview", "null");
    referrer(w, c);
    w.array("itemDetails", |w| {
        for item in items {
            w.element();
            w.braces(|w| {
                w.str("itemSKU", &item.sku);
                w.str("itemName", &item.name);
                w.opt("itemCategory", item.categories.first().map(String::as_str));
                w.raw("price", &money(item.price));
                w.db("quantity", item.quantity);
                w.texts("categories", &item.categories);
            });
        }
    });
    let names: Vec<_> = items.iter().map(|i| i.name.as_str()).collect();
    let euro = symbol(&c.site.currency);
    let subtitle = format!(
        "{euro}{}.{:02} revenue - {} items: {})",
        sums.revenue / 100,
        sums.revenue % 100,
        sums.items,
        names.join(", ")
    );
    ending(w, c, action, action.kind.type_name(), &subtitle);
}

/// Conversions carry the visit's referrer; a missing name is null.
fn referrer(w: &mut Writer, c: &Context) {
    let from = &c.visit.referrer;
    w.str("referrerType", &from.kind);
    w.opt("referrerName", from.name_of_conversion());
    w.opt("referrerKeyword", from.keyword_of_conversion());
}

fn ending(w: &mut Writer, c: &Context, action: &Action, icon: &str, subtitle: &str) {
    w.str("icon", &format!("plugins/Morpheus/images/{icon}.png"));
    w.str("iconSVG", &format!("plugins/Morpheus/images/{icon}.svg"));
    w.opt("title", action.kind.title(action).as_deref());
    w.str("subtitle", subtitle);
    w.int("timestamp", c.wall);
}

/// "Nov 12, 2026 23:59:24".
fn pretty_time(wall: i64) -> String {
    utc(wall).format("%b %-d, %Y %H:%M:%S").to_string()
}

/// "43s", "1 min 15s", "2 hours 29 min".
pub fn pretty(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{} min {}s", seconds / 60, seconds % 60),
        _ => format!("{} hours {} min", seconds / 3600, seconds % 3600 / 60),
    }
}
