//! The HTTP agents of a backend: kept, with their connections, from one sync to the next. No
//! Postgres.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ureq::unversioned::transport::Connector;

use crate::error::Result;
use crate::matomo::http::certificates;
use crate::matomo::http::dial::{Dialler, Later};
use crate::matomo::http::endpoint::Endpoint;
use crate::matomo::http::hosts::Hosts;
use crate::matomo::http::http_settings::HttpSettings;
use crate::matomo::http::tls::TlsConnector;
use crate::matomo::http::token::Token;

/// An agent of one client and its clones. With the last of them it goes back to the store, unless a
/// request of theirs has failed.
#[derive(Clone)]
pub struct Agent(Arc<Held>);

struct Held {
    agent: ureq::Agent,
    key: Key,
    made: Instant,
    /// Whether all requests so far got an answer.
    is_sound: AtomicBool,
}

/// Whose connections may be used again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    /// A hash of the Matomo's URL and the token, so that no token outlives its sync.
    credentials: u64,
    connect_timeout: Duration,
    ca_pem: Option<Vec<u8>>,
    hosts: Hosts,
}

/// An agent that nobody uses at the moment.
struct Kept {
    agent: ureq::Agent,
    key: Key,
    made: Instant,
}

/// The agent that was used last comes last.
static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

/// Of this process, so that hashes of tokens cannot be compared with others.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Agents to keep: a session seldom changes the settings that make another one necessary.
const MOST_AGENTS: usize = 4;
/// Connections an agent keeps: as many as `matomo.fetch_workers` may need.
const MOST_IDLE: usize = 8;
/// How long a connection is kept. Servers end most of them earlier, which is noticed.
const IDLE: Duration = Duration::from_secs(60);
/// After that long the system's CAs are read again.
const MAX_AGE: Duration = Duration::from_secs(3600);

impl Agent {
    /// An agent for requests of this manner, taken out of the store or made.
    ///
    /// # Errors
    /// [`crate::error::Error::Argument`] when the CA file holds no certificate.
    pub fn obtain(endpoint: &Endpoint, token: &Token, manner: &HttpSettings) -> Result<Agent> {
        let key = Key {
            credentials: HASHER.hash_one((endpoint.url(), token.secret())),
            connect_timeout: manner.connect_timeout,
            ca_pem: manner.ca_pem.clone(),
            hosts: manner.hosts.clone(),
        };
        let mut kept = kept();
        kept.retain(|kept| kept.made.elapsed() < MAX_AGE);
        let place = kept.iter().position(|kept| kept.key == key);
        let (agent, made) = match place.map(|place| kept.remove(place)) {
            Some(kept) => (kept.agent, kept.made),
            None => (new(manner)?, Instant::now()),
        };
        Ok(Agent(Arc::new(Held { agent, key, made, is_sound: AtomicBool::new(true) })))
    }

    /// A request to send, which may take this long; on a connection of its own if it must not meet
    /// a kept one.
    pub fn post(&self, url: &str, timeout: Duration, is_fresh: bool) -> Request {
        let config = self.0.agent.post(url).config().timeout_global(Some(timeout));
        config.max_idle_age(if is_fresh { Duration::ZERO } else { IDLE }).build()
    }

    /// Breaks off all of its requests, on any thread. Neither it nor its clones are of use then.
    pub fn shut_down(&self) {
        self.distrust();
        self.0.agent.clone().shutdown();
    }

    /// Sees to it that nobody else uses it: a request has failed.
    pub fn distrust(&self) {
        self.0.is_sound.store(false, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !*self.is_sound.get_mut() {
            return;
        }
        let mut all = kept();
        if all.len() >= MOST_AGENTS {
            all.remove(0);
        }
        all.push(Kept { agent: self.agent.clone(), key: self.key.clone(), made: self.made });
    }
}

/// A request that has a body.
pub type Request = ureq::RequestBuilder<ureq::typestate::WithBody>;

fn new(manner: &HttpSettings) -> Result<ureq::Agent> {
    let named = manner.ca_pem.as_deref().map(certificates::parse).transpose()?;
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        // Looking the host up is part of connecting here.
        .timeout_connect(Some(manner.connect_timeout))
        .max_idle_connections(MOST_IDLE)
        .max_idle_connections_per_host(MOST_IDLE)
        .max_idle_age(IDLE)
        .user_agent(concat!("matomo_postgres/", env!("CARGO_PKG_VERSION")))
        .build();
    let chain = Dialler::new(manner.hosts.clone()).chain(TlsConnector::new(named));
    Ok(ureq::Agent::with_parts(config, chain, Later))
}

fn kept() -> MutexGuard<'static, Vec<Kept>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held by tests for reading while they use the one store there is, for writing where it is theirs.
#[cfg(test)]
pub static ALONE: std::sync::RwLock<()> = std::sync::RwLock::new(());

#[cfg(test)]
mod tests {
    use super::*;

    fn manner(seconds: u64) -> HttpSettings {
        HttpSettings {
            connect_timeout: Duration::from_secs(seconds),
            request_timeout: Duration::from_secs(60),
            patience: None,
            max_retries: 0,
            max_response_size: 1,
            language: None,
            ca_pem: None,
            hosts: Hosts::new("*", false).unwrap(),
        }
    }

    fn obtain(token: &str, manner: &HttpSettings) -> Agent {
        let endpoint = Endpoint::parse("https://kept.example.org").unwrap();
        Agent::obtain(&endpoint, &Token::new(token), manner).unwrap()
    }

    /// Since when the agent is there tells whether it is the same one.
    fn made(agent: &Agent) -> Instant {
        agent.0.made
    }

    #[test]
    fn an_agent_has_one_user_at_a_time_and_is_kept_while_nothing_fails() {
        let _alone = ALONE.write().unwrap();
        let first = obtain("a", &manner(1));
        let at = made(&first);
        let other = obtain("a", &manner(1));
        assert_ne!(made(&other), at, "in use");
        drop(other.clone());
        drop(first);
        assert_eq!(made(&obtain("a", &HttpSettings { max_retries: 3, ..manner(1) })), at);
        assert_ne!(made(&obtain("b", &manner(1))), at, "somebody else's");
        let hosts = Hosts::new("a.example.org", false).unwrap();
        assert_ne!(made(&obtain("a", &HttpSettings { hosts, ..manner(1) })), at);
        let again = obtain("a", &manner(1));
        assert_eq!(made(&again), at);
        again.clone().shut_down();
        drop(again);
        let second = obtain("a", &manner(1));
        assert_ne!(made(&second), at);
        second.distrust();
        let at = made(&second);
        drop((second, other));
        for seconds in 1..10 {
            obtain("a", &manner(seconds));
            assert!(kept().len() <= MOST_AGENTS);
        }
        assert_ne!(made(&obtain("a", &manner(1))), at);
    }
}
