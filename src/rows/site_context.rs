//! A site, as far as its rows depend on it. Pure.

use crate::matomo::zone::Zone;

/// What `action_timestamp` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionTime {
    /// The true instant.
    Utc,
    /// The site's wall clock as if it were UTC, as Matomo sends it and the Node tool stores it.
    AsSent,
}

impl ActionTime {
    /// As `matomo.action_time` and the ledger name it.
    pub fn name(self) -> &'static str {
        match self {
            ActionTime::Utc => "utc",
            ActionTime::AsSent => "as_sent",
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<ActionTime> {
        [ActionTime::Utc, ActionTime::AsSent].into_iter().find(|known| known.name() == name)
    }

    /// The timezone whose midnights bound a site's days in `action_timestamp`.
    pub fn zone_of_days(self, of_site: Zone) -> Zone {
        match self {
            ActionTime::Utc => of_site,
            ActionTime::AsSent => Zone::Fixed(0),
        }
    }
}

/// A site in Matomo, as far as its rows depend on it.
#[derive(Debug, Clone, Copy)]
pub struct SiteContext {
    /// idSite.
    pub id: i32,
    /// The site's timezone.
    pub zone: Zone,
    /// The setting `matomo.action_time`.
    pub action_time: ActionTime,
    /// Whether it shows visits of other sites; `None` until Matomo was asked.
    pub is_rollup: Option<bool>,
}

impl SiteContext {
    /// An instant as `action_timestamp` holds it.
    pub fn on_axis(&self, instant: i64) -> i64 {
        match self.action_time {
            ActionTime::Utc => instant,
            ActionTime::AsSent => instant + self.zone.offset_at(instant),
        }
    }
}
