//! The HTTP agents of a backend: kept, with their connections, from one sync to the next. No
//! Postgres.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::transport::{Connector, RustlsConnector};

use crate::client::Manner;
use crate::dial::{Dialler, Later};
use crate::error::Result;
use crate::hosts::Hosts;
use crate::transport::certificates;

/// An agent that others may be using as well.
#[derive(Clone)]
pub struct Agent {
    agent: ureq::Agent,
    made: Arc<Made>,
}

/// How an agent was made: syncs that would have it the same share it.
struct Made {
    connect_timeout: Duration,
    request_timeout: Duration,
    ca_pem: Option<Vec<u8>>,
    hosts: Hosts,
    at: Instant,
}

/// The agent that was used last comes last.
static KEPT: Mutex<Vec<Agent>> = Mutex::new(Vec::new());

/// Agents to keep: a session seldom changes the settings that make another one necessary.
const MOST_AGENTS: usize = 4;
/// Connections an agent keeps: as many as `matomo.fetch_workers` may need.
const MOST_IDLE: usize = 8;
/// How long a connection is kept. Servers end most of them earlier, which is noticed.
const IDLE: Duration = Duration::from_secs(60);
/// After that long the system's CAs are read again.
const MAX_AGE: Duration = Duration::from_secs(3600);

impl Agent {
    /// An agent for requests of this manner.
    ///
    /// # Errors
    /// [`crate::error::Error::Argument`] when the CA file holds no certificate.
    pub fn obtain(manner: &Manner) -> Result<Agent> {
        let mut kept = kept();
        kept.retain(|agent| agent.made.at.elapsed() < MAX_AGE);
        let agent = match kept.iter().position(|agent| agent.suits(manner)) {
            Some(place) => kept.remove(place),
            None => Agent::new(manner)?,
        };
        if kept.len() >= MOST_AGENTS {
            kept.remove(0);
        }
        kept.push(agent.clone());
        Ok(agent)
    }

    fn new(manner: &Manner) -> Result<Agent> {
        let roots = match &manner.ca_pem {
            None => RootCerts::PlatformVerifier,
            Some(pem) => RootCerts::from(certificates(pem)?),
        };
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            // Looking the host up is part of connecting here.
            .timeout_connect(Some(manner.connect_timeout))
            .timeout_global(Some(manner.request_timeout))
            .max_idle_connections(MOST_IDLE)
            .max_idle_connections_per_host(MOST_IDLE)
            .max_idle_age(IDLE)
            .user_agent(concat!("matomo_postgres/", env!("CARGO_PKG_VERSION")))
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build();
        let chain = Dialler::new(manner.hosts.clone()).chain(RustlsConnector::default());
        let made = Made {
            connect_timeout: manner.connect_timeout,
            request_timeout: manner.request_timeout,
            ca_pem: manner.ca_pem.clone(),
            hosts: manner.hosts.clone(),
            at: Instant::now(),
        };
        Ok(Agent { agent: ureq::Agent::with_parts(config, chain, Later), made: Arc::new(made) })
    }

    fn suits(&self, manner: &Manner) -> bool {
        self.made.connect_timeout == manner.connect_timeout
            && self.made.request_timeout == manner.request_timeout
            && self.made.ca_pem == manner.ca_pem
            && self.made.hosts == manner.hosts
    }

    /// A request to send.
    pub fn post(&self, url: &str) -> ureq::RequestBuilder<ureq::typestate::WithBody> {
        self.agent.post(url)
    }

    /// Breaks off all of its requests, on any thread. Neither it nor its clones are of use then.
    pub fn shut_down(&self) {
        self.retire();
        self.agent.clone().shutdown();
    }

    /// Sees to it that no further sync uses it.
    pub fn retire(&self) {
        kept().retain(|agent| !Arc::ptr_eq(&agent.made, &self.made));
    }
}

fn kept() -> MutexGuard<'static, Vec<Agent>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manner(seconds: u64) -> Manner {
        Manner {
            connect_timeout: Duration::from_secs(seconds),
            request_timeout: Duration::from_secs(60),
            max_retries: 0,
            max_response_size: 1,
            language: None,
            ca_pem: None,
            hosts: Hosts::new("*", false).unwrap(),
        }
    }

    fn same(one: &Agent, other: &Agent) -> bool {
        Arc::ptr_eq(&one.made, &other.made)
    }

    /// One test, as there is one store.
    #[test]
    fn an_agent_is_kept_until_it_is_shut_down_or_pushed_out() {
        let first = Agent::obtain(&manner(1)).unwrap();
        assert!(same(&first, &Agent::obtain(&Manner { max_retries: 3, ..manner(1) }).unwrap()));
        let hosts = Hosts::new("a.example.org", false).unwrap();
        assert!(!same(&first, &Agent::obtain(&Manner { hosts, ..manner(1) }).unwrap()));
        let other = Agent::obtain(&manner(2)).unwrap();
        assert!(!same(&first, &other));
        first.shut_down();
        let second = Agent::obtain(&manner(1)).unwrap();
        assert!(!same(&first, &second));
        for seconds in 3..10 {
            Agent::obtain(&manner(seconds)).unwrap();
            assert!(same(&second, &Agent::obtain(&manner(1)).unwrap()), "used just now");
            assert!(kept().len() <= MOST_AGENTS);
        }
        assert!(!same(&other, &Agent::obtain(&manner(2)).unwrap()));
    }
}
