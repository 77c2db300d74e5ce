//! A pool of HTTP agents: a backend keeps them, with their connections, from one sync to the next.
//! No Postgres.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;
use ureq::unversioned::transport::Connector;

use crate::error::Result;
use crate::matomo::http::certificates;
use crate::matomo::http::dial::{Dialler, NoResolver};
use crate::matomo::http::endpoint::Endpoint;
use crate::matomo::http::hosts::AllowedHosts;
use crate::matomo::http::http_settings::HttpSettings;
use crate::matomo::http::tls::TlsConnector;
use crate::matomo::http::token::Token;

/// The agent of a client and its clones. It returns to the pool with the last of them, unless one
/// of their requests has failed.
#[derive(Clone)]
pub struct Agent(Arc<BusyAgent>);

struct BusyAgent {
    agent: ureq::Agent,
    key: AgentKey,
    made: Instant,
    /// False once a request has failed.
    is_reusable: AtomicBool,
}

/// An agent is reused only for an equal key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AgentKey {
    /// A hash of URL and token, so that no token outlives its sync.
    credentials: u64,
    connect_timeout: Duration,
    ca_pem: Option<Vec<u8>>,
    hosts: AllowedHosts,
}

/// An agent in the pool.
struct IdleAgent {
    agent: ureq::Agent,
    key: AgentKey,
    made: Instant,
}

/// In the order of their last use.
static POOL: Mutex<Vec<IdleAgent>> = Mutex::new(Vec::new());

/// Random for each process, so that hashes of tokens cannot be compared.
static HASHER: Lazy<RandomState> = Lazy::new(RandomState::new);

/// Size of the pool: sessions seldom change the settings that require another agent.
const MAX_AGENTS: usize = 4;
/// Idle connections per agent: as many as `matomo.fetch_workers` may need.
const MAX_IDLE_CONNECTIONS: usize = 8;
/// Maximum idle time of a connection. Most servers close it earlier, which is noticed.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);
/// Age at which an agent is dropped, so that the system's CAs are read again.
const MAX_AGE: Duration = Duration::from_secs(3600);

impl Agent {
    /// An agent for these settings, from the pool or new.
    ///
    /// # Errors
    /// [`crate::error::Error::Argument`] when the CA file holds no certificate.
    pub fn obtain(endpoint: &Endpoint, token: &Token, settings: &HttpSettings) -> Result<Agent> {
        let key = AgentKey {
            credentials: HASHER.hash_one((endpoint.url(), token.secret())),
            connect_timeout: settings.connect_timeout,
            ca_pem: settings.ca_pem.clone(),
            hosts: settings.hosts.clone(),
        };
        let mut pool = pool();
        pool.retain(|idle| idle.made.elapsed() < MAX_AGE);
        let place = pool.iter().position(|idle| idle.key == key);
        let (agent, made) = match place.map(|place| pool.remove(place)) {
            Some(idle) => (idle.agent, idle.made),
            None => (new(settings)?, Instant::now()),
        };
        Ok(Agent(Arc::new(BusyAgent { agent, key, made, is_reusable: AtomicBool::new(true) })))
    }

    /// A request with a timeout, on a new connection if asked.
    pub fn post(&self, url: &str, timeout: Duration, is_new_connection: bool) -> PostRequest {
        let config = self.0.agent.post(url).config().timeout_global(Some(timeout));
        config.max_idle_age(if is_new_connection { Duration::ZERO } else { MAX_IDLE_TIME }).build()
    }

    /// Aborts all of its requests, on any thread. It and its clones are unusable afterwards.
    pub fn shut_down(&self) {
        self.discard();
        self.0.agent.clone().shutdown();
    }

    /// Keeps it out of the pool, after a request has failed.
    pub fn discard(&self) {
        self.0.is_reusable.store(false, Ordering::Relaxed);
    }
}

impl Drop for BusyAgent {
    fn drop(&mut self) {
        if !*self.is_reusable.get_mut() {
            return;
        }
        let mut all = pool();
        if all.len() >= MAX_AGENTS {
            all.remove(0);
        }
        all.push(IdleAgent { agent: self.agent.clone(), key: self.key.clone(), made: self.made });
    }
}

/// A POST request under construction.
pub type PostRequest = ureq::RequestBuilder<ureq::typestate::WithBody>;

fn new(settings: &HttpSettings) -> Result<ureq::Agent> {
    let ca_file = settings.ca_pem.as_deref().map(certificates::parse).transpose()?;
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        // Includes the DNS lookup, which is part of connecting here.
        .timeout_connect(Some(settings.connect_timeout))
        .max_idle_connections(MAX_IDLE_CONNECTIONS)
        .max_idle_connections_per_host(MAX_IDLE_CONNECTIONS)
        .max_idle_age(MAX_IDLE_TIME)
        .user_agent(concat!("matomo_postgres/", env!("CARGO_PKG_VERSION")))
        .build();
    let chain = Dialler::new(settings.hosts.clone()).chain(TlsConnector::new(ca_file));
    Ok(ureq::Agent::with_parts(config, chain, NoResolver))
}

fn pool() -> MutexGuard<'static, Vec<IdleAgent>> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tests that use the pool hold a read lock, a test that needs it to itself a write lock.
#[cfg(test)]
pub static ALONE: std::sync::RwLock<()> = std::sync::RwLock::new(());

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(seconds: u64) -> HttpSettings {
        HttpSettings {
            connect_timeout: Duration::from_secs(seconds),
            request_timeout: Duration::from_secs(60),
            answer_timeout: None,
            max_retries: 0,
            max_response_size: 1,
            language: None,
            ca_pem: None,
            hosts: AllowedHosts::new("*", false).unwrap(),
        }
    }

    fn obtain(token: &str, settings: &HttpSettings) -> Agent {
        let endpoint = Endpoint::parse("https://pool.example.org").unwrap();
        Agent::obtain(&endpoint, &Token::new(token), settings).unwrap()
    }

    /// When an agent was made, which tells it from others.
    fn made(agent: &Agent) -> Instant {
        agent.0.made
    }

    #[test]
    fn an_agent_has_one_user_at_a_time_and_is_kept_while_nothing_fails() {
        let _alone = ALONE.write().unwrap();
        let first = obtain("a", &settings(1));
        let at = made(&first);
        let other = obtain("a", &settings(1));
        assert_ne!(made(&other), at, "in use");
        drop(other.clone());
        drop(first);
        assert_eq!(made(&obtain("a", &HttpSettings { max_retries: 3, ..settings(1) })), at);
        assert_ne!(made(&obtain("b", &settings(1))), at, "somebody else's");
        let hosts = AllowedHosts::new("a.example.org", false).unwrap();
        assert_ne!(made(&obtain("a", &HttpSettings { hosts, ..settings(1) })), at);
        let again = obtain("a", &settings(1));
        assert_eq!(made(&again), at);
        again.clone().shut_down();
        drop(again);
        let second = obtain("a", &settings(1));
        assert_ne!(made(&second), at);
        second.discard();
        let at = made(&second);
        drop((second, other));
        for seconds in 1..10 {
            obtain("a", &settings(seconds));
            assert!(pool().len() <= MAX_AGENTS);
        }
        assert_ne!(made(&obtain("a", &settings(1))), at);
    }
}
