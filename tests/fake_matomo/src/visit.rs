//! One visit, as it really happened.

use crate::action::{Action, CustomVariable, Kind, TimeSpent, set_dimension};
use serde_json::{Map, Value};

/// Where a visit came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Referrer {
    /// direct, search, website, social or campaign.
    pub kind: String,
    pub name: String,
    pub keyword: String,
    pub url: Option<String>,
}

/// What the plugin MarketingCampaignsReporting sends for a visit; "" for unknown values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Campaign {
    pub id: String,
    pub name: String,
    pub source: String,
    pub medium: String,
    pub keyword: String,
    pub content: String,
    pub group: String,
    pub placement: String,
}

/// The visitor's device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Device {
    pub kind: &'static str,
    pub brand: &'static str,
    pub model: &'static str,
    pub os: &'static str,
    pub os_code: &'static str,
    pub os_version: &'static str,
    pub browser: &'static str,
    pub browser_code: &'static str,
    pub browser_version: &'static str,
    pub family: &'static str,
    pub family_description: &'static str,
}

/// A visit. All instants are true UTC seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Visit {
    pub id: i64,
    pub first: i64,
    pub last: i64,
    /// When Matomo's database gets it; later than the visit with a queue of tracking requests.
    pub arrives: i64,
    pub visitor_id: String,
    pub ip: String,
    pub user_id: Option<String>,
    /// new, returning or returningCustomer.
    pub visitor_type: String,
    pub visit_count: i64,
    pub days_since_first: i64,
    pub seconds_since_first: i64,
    pub seconds_since_last: i64,
    /// Seconds since the visitor's last order, if there was one.
    pub seconds_since_order: Option<i64>,
    pub referrer: Referrer,
    /// `None` means that the plugin is not installed, so its keys are missing.
    pub campaign: Option<Campaign>,
    /// The position of the visitor's search result, sent by some plugins.
    pub keyword_position: Option<i64>,
    pub device: Device,
    /// The country's English name; its code and continent follow from it.
    pub country: Option<String>,
    pub region: Option<String>,
    pub city: Option<String>,
    pub language_code: String,
    pub resolution: String,
    /// Seconds of duration on top of last − first (Matomo adds one, heartbeats more).
    pub extra_duration: i64,
    pub custom_variables: Vec<CustomVariable>,
    pub dimensions: Vec<(u32, Option<String>)>,
    /// A/B tests, as the plugin sends them.
    pub experiments: Option<Value>,
    /// In the order in which Matomo sends them.
    pub actions: Vec<Action>,
    /// Extra keys; they replace Matomo's own of the same name. The oracle applies them too.
    pub extra: Map<String, Value>,
    /// Keys left out. The oracle leaves them out too.
    pub omit: Vec<String>,
}

impl Visit {
    /// A visit without actions, by a new visitor with a desktop in France who entered directly.
    pub fn new(id: i64, first: i64) -> Visit {
        Visit {
            id,
            first,
            last: first,
            arrives: i64::MIN,
            visitor_id: format!("{:016x}", (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ip: "203.0.113.7".to_owned(),
            user_id: None,
            visitor_type: "new".to_owned(),
            visit_count: 1,
            days_since_first: 0,
            seconds_since_first: 0,
            seconds_since_last: 0,
            seconds_since_order: None,
            referrer: Referrer {
                kind: "direct".to_owned(),
                name: String::new(),
                keyword: String::new(),
                url: None,
            },
            campaign: None,
            keyword_position: None,
            device: crate::catalog::DEVICES[0],
            country: Some("France".to_owned()),
            region: None,
            city: None,
            language_code: "fr".to_owned(),
            resolution: "1920x1080".to_owned(),
            extra_duration: 0,
            custom_variables: Vec::new(),
            dimensions: Vec::new(),
            experiments: None,
            actions: Vec::new(),
            extra: Map::new(),
            omit: Vec::new(),
        }
    }

    /// Inserts an action by time, after those of the same second, as Matomo sorts them: a late hit
    /// lands in the middle and does not change `last`.
    pub fn push(&mut self, mut action: Action) -> &mut Visit {
        action.serial = self.actions.iter().map(|a| a.serial + 1).max().unwrap_or(1);
        self.first = self.first.min(action.at);
        self.last = self.last.max(action.at);
        let place = self.actions.partition_point(|a| a.at <= action.at);
        self.actions.insert(place, action);
        self
    }

    /// `push` for building a visit in one expression.
    pub fn and(mut self, action: Action) -> Visit {
        self.push(action);
        self
    }

    /// A heartbeat ping: the duration and the time on the last page grow, `last` does not.
    pub fn heartbeat(&mut self, seconds: i64) {
        self.extra_duration += seconds;
        if let Some(page) = self.actions.iter_mut().rfind(|a| a.kind == Kind::Page) {
            page.heartbeat += seconds;
        }
    }

    /// Sets a dimension of the visit; `None` is sent as null.
    pub fn set_dimension(&mut self, number: u32, value: Option<&str>) {
        set_dimension(&mut self.dimensions, number, value.map(str::to_owned));
    }

    /// Adds a custom variable of scope visit.
    pub fn set_variable(&mut self, index: u32, name: &str, value: &str) {
        self.custom_variables.retain(|v| v.index != index);
        let (name, value) = (name.to_owned(), value.to_owned());
        self.custom_variables.push(CustomVariable { index, name, value });
        self.custom_variables.sort_by_key(|v| v.index);
    }

    /// visitDuration in seconds.
    pub fn duration(&self) -> i64 {
        self.last - self.first + self.extra_duration
    }

    /// The number of actions that pass the test.
    pub fn count(&self, test: impl Fn(&Kind) -> bool) -> i64 {
        self.actions.iter().filter(|a| test(&a.kind)).count() as i64
    }

    /// Matomo's `actions`: all but goals, orders, carts and content impressions.
    pub fn action_count(&self) -> i64 {
        self.count(|kind| {
            !matches!(
                kind,
                Kind::Goal { .. } | Kind::Order { .. } | Kind::Cart { .. } | Kind::Content { .. }
            )
        })
    }

    /// The time spent that Matomo sends for this action; `None` means no such key.
    pub fn time_spent(&self, index: usize) -> Option<i64> {
        let action = &self.actions[index];
        match action.time_spent {
            TimeSpent::Seconds(seconds) => return Some(seconds),
            TimeSpent::Absent => return None,
            TimeSpent::Auto if action.kind != Kind::Page => return None,
            TimeSpent::Auto => {}
        }
        // Until the next page, search, download or outlink; the last one until its last event.
        let mut until = action.at;
        for later in &self.actions[index + 1..] {
            match later.kind {
                Kind::Page | Kind::Search { .. } | Kind::Download | Kind::Outlink => {
                    until = later.at;
                    break;
                }
                Kind::Event { .. } => until = later.at,
                _ => {}
            }
        }
        Some(until - action.at + action.heartbeat)
    }

    /// Matomo's id of the action, unique over all visits.
    pub fn page_id(&self, action: &Action) -> i64 {
        self.id * 10_000 + action.serial
    }
}
