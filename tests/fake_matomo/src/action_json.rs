//! The actions of a visit as Matomo sends them.

use crate::action::{Action, Item, Kind};
use crate::json::{custom_variables, dimensions, symbol};
use crate::names::page_title;
use crate::visit::Visit;
use crate::world::{Site, World};
use crate::writer::Writer;
use crate::zone::{Zone, utc};

/// Writes the first `max_actions` actions as elements of an open array.
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

/// What an action takes from its surroundings.
struct Context<'a> {
    site: &'a Site,
    visit: &'a Visit,
    /// How many pages were seen so far.
    position: i64,
    /// The last of them.
    page: Option<&'a Action>,
    /// The wall clock of the site read as if it were UTC: Matomo's `timestamp`.
    wall: i64,
}

fn one(w: &mut Writer, c: &Context, index: usize, action: &Action) {
    let url = action.url.as_deref();
    match &action.kind {
        Kind::Goal { .. } => return goal(w, c, action),
        Kind::Order { items, .. } | Kind::Cart { items } => return order(w, c, action, items),
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
    match url.filter(|_| !search) {
        Some(url) => w.db("pageIdAction", id_of(url)),
        None => w.raw("pageIdAction", "null"),
    }
    w.str("idpageview", &action.idpageview);
    w.str("serverTimePretty", &pretty_time(c.wall));
    w.db("pageId", c.visit.page_id(action));
    particulars(w, c, index, action);
}

/// What only one kind has, in Matomo's order of keys.
fn particulars(w: &mut Writer, c: &Context, index: usize, action: &Action) {
    let position = |w: &mut Writer| match c.position {
        0 => w.raw("pageviewPosition", "null"),
        n => w.db("pageviewPosition", n),
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
            match count {
                Some(n) => w.db("siteSearchCount", *n),
                None => w.raw("siteSearchCount", "null"),
            }
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

fn goal(w: &mut Writer, c: &Context, action: &Action) {
    let Kind::Goal { id, name, revenue, manual } = &action.kind else {
        return;
    };
    let page = c.page.filter(|_| !manual);
    w.str("type", "goal");
    w.str("goalName", name);
    w.db("goalId", *id);
    w.opt("idpageview", page.map(|p| p.idpageview.as_str()));
    w.db_literal("revenue", revenue);
    match page {
        Some(page) => w.db("goalPageId", c.visit.page_id(page)),
        None => w.raw("goalPageId", "null"),
    }
    w.str("serverTimePretty", &pretty_time(c.wall));
    w.opt("url", action.url.as_deref());
    referrer(w, c);
    let euro = symbol(&c.site.currency);
    ending(w, c, action, "goal", &format!("{name} ({euro}{revenue} revenue)"));
}

fn order(w: &mut Writer, c: &Context, action: &Action, items: &[Item]) {
    let sum: i64 = items.iter().map(|i| i.price * i.quantity).sum();
    let count: i64 = items.iter().map(|i| i.quantity).sum();
    let mut revenue = sum;
    w.str("type", action.kind.type_name());
    if let Kind::Order { id, discount, .. } = &action.kind {
        revenue -= discount;
        w.str("orderId", id);
        w.raw("revenue", &money(revenue));
        w.raw("revenueSubTotal", &money(revenue));
        w.raw("revenueTax", "1.5");
        w.raw("revenueShipping", "0");
        w.raw("revenueDiscount", &money(*discount));
    } else {
        w.raw("revenue", &money(revenue));
    }
    w.db("items", count);
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
                w.array("categories", |w| {
                    for category in &item.categories {
                        w.element();
                        w.text(category);
                    }
                });
            });
        }
    });
    let names: Vec<_> = items.iter().map(|i| i.name.as_str()).collect();
    let euro = symbol(&c.site.currency);
    let subtitle = format!(
        "{euro}{}.{:02} revenue - {count} items: {})",
        revenue / 100,
        revenue % 100,
        names.join(", ")
    );
    ending(w, c, action, action.kind.type_name(), &subtitle);
}

/// Conversions carry the visit's referrer, with null for a missing name.
fn referrer(w: &mut Writer, c: &Context) {
    let from = &c.visit.referrer;
    w.str("referrerType", &from.kind);
    w.opt("referrerName", Some(from.name.as_str()).filter(|n| !n.is_empty()));
    w.opt("referrerKeyword", Some(from.keyword.as_str()).filter(|_| from.kind != "direct"));
}

fn ending(w: &mut Writer, c: &Context, action: &Action, icon: &str, subtitle: &str) {
    w.str("icon", &format!("plugins/Morpheus/images/{icon}.png"));
    w.str("iconSVG", &format!("plugins/Morpheus/images/{icon}.svg"));
    w.opt("title", action.kind.title(action).as_deref());
    w.str("subtitle", subtitle);
    w.int("timestamp", c.wall);
}

/// An id for a URL, the same each time.
fn id_of(url: &str) -> i64 {
    let hash =
        url.bytes().fold(2_166_136_261_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(16_777_619));
    i64::from(hash % 100_000) + 1
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

/// Cents as PHP writes the amount: 266.35, 1.5, 264.
pub fn money(cents: i64) -> String {
    let (sign, cents) = if cents < 0 { ("-", -cents) } else { ("", cents) };
    let text = format!("{sign}{}.{:02}", cents / 100, cents % 100);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
