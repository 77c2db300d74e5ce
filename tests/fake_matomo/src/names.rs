//! Matomo's names for actions: types and titles.

use crate::action::{Action, Kind};

impl Kind {
    /// Matomo's `type`, as text.
    pub fn type_name(&self) -> &'static str {
        match self {
            Kind::Page => "action",
            Kind::Event { .. } => "event",
            Kind::Download => "download",
            Kind::Outlink => "outlink",
            Kind::Search { .. } => "search",
            Kind::Goal { .. } => "goal",
            Kind::Order { .. } => "ecommerceOrder",
            Kind::Cart { .. } => "ecommerceAbandonedCart",
            Kind::Content { .. } => "13",
        }
    }

    /// Matomo's `title` of an action of this kind.
    pub fn title(&self, action: &Action) -> Option<String> {
        let own = match self {
            Kind::Page => return page_title(action).map(str::to_owned),
            Kind::Order { id, .. } => return Some(format!("Ordered ({id})")),
            Kind::Event { .. } => "Event",
            Kind::Download => "Download",
            Kind::Outlink => "Outlink",
            Kind::Search { .. } => "Site Search",
            Kind::Goal { .. } => "Goal conversion",
            Kind::Cart { .. } => "Abandoned Cart",
            Kind::Content { .. } => "Content Impression",
        };
        Some(own.to_owned())
    }

    /// Goals, orders and abandoned carts.
    pub fn is_conversion(&self) -> bool {
        matches!(self, Kind::Goal { .. } | Kind::Order { .. } | Kind::Cart { .. })
    }

    /// An event's name, if Matomo sends it: PHP treats "" and "0" as empty.
    pub fn event_name(&self) -> Option<&str> {
        match self {
            Kind::Event { name, .. } => name.as_deref().filter(|n| !matches!(*n, "" | "0")),
            _ => None,
        }
    }
}

/// A page's title as Matomo sends it: "0" becomes null.
pub fn page_title(action: &Action) -> Option<&str> {
    action.page_title.as_deref().filter(|t| *t != "0")
}

impl Action {
    /// Matomo's id of the URL: one id per URL. Searches and conversions have none.
    pub fn page_id_action(&self) -> Option<i64> {
        if matches!(self.kind, Kind::Search { .. }) || self.kind.is_conversion() {
            return None;
        }
        let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
        let hash = self.url.as_ref()?.bytes().fold(2_166_136_261_u32, step);
        Some(i64::from(hash % 100_000) + 1)
    }
}
