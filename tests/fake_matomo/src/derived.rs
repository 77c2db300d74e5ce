//! What Matomo derives from a visit and its context.

use crate::action::Kind;
use crate::visit::{Referrer, Visit};
use crate::world::Site;
use crate::zone::Zone;
use std::collections::HashMap;

impl Visit {
    /// Matomo's `fingerprint` of the visitor's configuration.
    pub fn fingerprint(&self) -> String {
        format!("{:016x}", self.id.wrapping_mul(0x51_7cc1_b727_220a))
    }

    /// How many goals the visit converted.
    pub fn goal_conversions(&self) -> i64 {
        self.count(|kind| matches!(kind, Kind::Goal { .. }))
    }

    /// Whether the visit converted a goal or has an order.
    pub fn is_converted(&self) -> bool {
        self.goal_conversions() > 0 || self.has_order()
    }

    pub fn has_order(&self) -> bool {
        self.count(|kind| matches!(kind, Kind::Order { .. })) > 0
    }

    /// Matomo's `visitEcommerceStatus`.
    pub fn ecommerce_status(&self) -> &'static str {
        let has_cart = self.count(|kind| matches!(kind, Kind::Cart { .. })) > 0;
        match (self.has_order(), has_cart) {
            (true, true) => "orderedThenAbandonedCart",
            (true, false) => "ordered",
            (false, true) => "abandonedCart",
            (false, false) => "none",
        }
    }

    /// Seconds since the visitor's last order; 0 when it belongs to this visit.
    pub fn since_order(&self) -> Option<i64> {
        if self.has_order() { Some(0) } else { self.seconds_since_order }
    }

    pub fn events(&self) -> i64 {
        self.count(|kind| matches!(kind, Kind::Event { .. }))
    }

    /// Matomo's `interactions`: in recorded visits, page views and searches.
    pub fn interactions(&self) -> i64 {
        self.count(|kind| matches!(kind, Kind::Page | Kind::Search { .. }))
    }

    pub fn searches(&self) -> i64 {
        self.count(|kind| matches!(kind, Kind::Search { .. }))
    }

    /// The region's code, if it has one.
    pub fn region_code(&self) -> Option<&'static str> {
        self.region.as_ref().map(|_| "ca")
    }

    /// Latitude and longitude as Matomo sends them, if the city is known.
    pub fn coordinates(&self) -> Option<(&'static str, &'static str)> {
        self.city.as_ref().map(|_| ("48.856600", "2.352200"))
    }

    /// The visitor's clock at the start of the visit; the fake uses the site's.
    pub fn local_time(&self, zone: Zone) -> chrono::NaiveDateTime {
        zone.wall(self.first)
    }

    /// The number of actions that Matomo cuts from a visit this long.
    pub fn cut(&self, max_actions: usize) -> i64 {
        self.actions.len().saturating_sub(max_actions) as i64
    }
}

impl Referrer {
    pub fn search_engine_url(&self) -> Option<String> {
        (self.kind == "search").then(|| format!("http://{}.com", self.name.to_lowercase()))
    }

    pub fn social_network_url(&self) -> Option<String> {
        (self.kind == "social").then(|| format!("{}.com", self.name.to_lowercase()))
    }

    /// The referrer name in a conversion: null if there is none.
    pub fn name_of_conversion(&self) -> Option<&str> {
        Some(self.name.as_str()).filter(|name| !name.is_empty())
    }

    /// The referrer keyword in a conversion: null for a direct entry.
    pub fn keyword_of_conversion(&self) -> Option<&str> {
        Some(self.keyword.as_str()).filter(|_| self.kind != "direct")
    }
}

/// All that a visitor ever ordered or left in a cart on the site: revenue in cents, number of
/// conversions, number of items. Matomo repeats it in every visit of the visitor, even the oldest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lifetime {
    pub orders: (i64, i64, i64),
    pub carts: (i64, i64, i64),
}

/// The lifetime totals of each visitor who ever had an order or a cart.
pub fn lifetimes(site: &Site, now: i64) -> HashMap<&str, Lifetime> {
    let mut all: HashMap<&str, Lifetime> = HashMap::new();
    if !site.ecommerce {
        return all;
    }
    for visit in site.visits.iter().filter(|v| v.arrives <= now) {
        for action in &visit.actions {
            let Some((_, sums)) = action.kind.sale() else { continue };
            let of_visitor = all.entry(&visit.visitor_id).or_default();
            let of_kind = match action.kind {
                Kind::Order { .. } => &mut of_visitor.orders,
                _ => &mut of_visitor.carts,
            };
            of_kind.0 += sums.revenue;
            of_kind.1 += 1;
            of_kind.2 += sums.items;
        }
    }
    all
}
