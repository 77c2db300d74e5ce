//! What may be turned on a running server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What may be turned while the server runs.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// After 18 refused tokens everybody gets a 500. On by default.
    pub lockout: bool,
    /// Passes before each answer.
    pub latency: Duration,
    /// Gzip for those who accept it. Off by default.
    pub gzip: bool,
    /// Sites that the token may not view.
    pub hidden_sites: BTreeSet<i64>,
    /// Further tokens, and the sites that each may view.
    pub tokens: BTreeMap<String, BTreeSet<i64>>,
    /// Plugins that are not activated: `Goals`, `CustomDimensions`.
    pub plugins_off: BTreeSet<String>,
    /// The language of the token's user, for messages to requests without `language`. English by
    /// default; also `fr`, `de`, `es`, `ru`.
    pub language: String,
    /// Matomo 4: a wrong token is nobody's, and refusals come with HTTP 200.
    pub matomo_4: bool,
    /// `login_allowlist_ip` has no place for the client.
    pub address_refused: bool,
    /// `maintenance_mode`.
    pub maintenance: bool,
    /// Sites without a visits log.
    pub visits_log_off: BTreeSet<i64>,
    /// JSON without PHP's `\/` and `\uXXXX`.
    pub unescaped: bool,
    /// A Live answer once made is sent again to whoever asks the same, whatever has happened since:
    /// for benchmarks, in which the server's own work must not count.
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
