//! Settings that a test can change while the server runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Knobs {
    /// After 18 refused tokens every request gets a 500. On by default.
    pub lockout: bool,
    /// The delay before each answer.
    pub latency: Duration,
    /// Gzip for clients that accept it. Off by default.
    pub gzip: bool,
    /// Sites that the token may not view.
    pub hidden_sites: BTreeSet<i64>,
    /// Other tokens, with the sites that each may view.
    pub tokens: BTreeMap<String, BTreeSet<i64>>,
    /// Plugins that are not activated: `Goals`, `CustomDimensions`.
    pub plugins_off: BTreeSet<String>,
    /// The language of the token's user, for messages when a request has no `language`. English by
    /// default; also `fr`, `de`, `es`, `ru`.
    pub language: String,
    /// Matomo 4: a wrong token counts as anonymous, and refusals come with HTTP 200.
    pub matomo_4: bool,
    /// The client's address is not in `login_allowlist_ip`.
    pub address_refused: bool,
    /// `maintenance_mode`.
    pub maintenance: bool,
    /// Sites without a visits log.
    pub visits_log_off: BTreeSet<i64>,
    /// JSON without PHP's `\/` and `\uXXXX`.
    pub unescaped: bool,
    /// Caches each Live answer and sends it again for the same request, whatever has changed
    /// since. For benchmarks, so that the server's own work does not count.
    pub remembers: bool,
}

impl Default for Knobs {
    fn default() -> Knobs {
        Knobs {
            lockout: true,
            latency: Duration::ZERO,
            gzip: false,
            hidden_sites: BTreeSet::new(),
            tokens: BTreeMap::new(),
            plugins_off: BTreeSet::new(),
            language: "en".to_owned(),
            matomo_4: false,
            address_refused: false,
            maintenance: false,
            visits_log_off: BTreeSet::new(),
            unescaped: false,
            remembers: false,
        }
    }
}
