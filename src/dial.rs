//! Opens connections: looks the host up and connects. What HTTP and TLS stand on. No Postgres.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Instant;

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, Connector, NextTimeout, TcpConnector, time};

thread_local! {
    static DIALLED: Cell<u64> = const { Cell::new(0) };
}

/// How many connections this thread has tried to open. A request that opens none goes out on a
/// connection that was kept.
pub fn dialled() -> u64 {
    DIALLED.get()
}

/// Addresses of a host to try: as many as ureq has room for.
const MOST: usize = 16;

/// The first link of the chain of connectors: TCP.
#[derive(Debug, Default)]
pub struct Dialler(TcpConnector);

impl Connector for Dialler {
    type Out = <TcpConnector as Connector>::Out;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        DIALLED.set(dialled() + 1);
        let begin = Instant::now();
        let time = details.timeout;
        let addresses = look_up(details.uri, time)?;
        let left = time.after.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Err(Error::Timeout(time.reason));
        }
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: addresses,
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: (details.current_time)(),
            timeout: NextTimeout { after: time::Duration::Exact(left), ..time },
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        self.0.connect(&details, chained)
    }
}

/// Where the host of a URL may be found.
fn look_up(uri: &Uri, time: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let standard = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let port = uri.port_u16().unwrap_or(standard);
    let mut addresses = Later.empty();
    match host.parse::<IpAddr>() {
        Ok(address) => addresses.push(SocketAddr::new(address, port)),
        Err(_) => {
            for address in resolve(host.to_owned(), port, time)?.into_iter().take(MOST) {
                addresses.push(address);
            }
        }
    }
    if addresses.is_empty() { Err(Error::HostNotFound) } else { Ok(addresses) }
}

/// Asks the system's resolver, which knows no timeout of ours: on a thread that is left to itself
/// when it takes too long.
fn resolve(host: String, port: u16, time: NextTimeout) -> Result<Vec<SocketAddr>, Error> {
    let (sender, answer) = sync_channel(1);
    let ask = move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
        // Nobody waits any more, perhaps.
        let _ = sender.send(found);
    };
    thread::Builder::new().name("matomo resolve".to_owned()).spawn(ask)?;
    match answer.recv_timeout(*time.after) {
        Ok(found) => Ok(found?),
        Err(RecvTimeoutError::Timeout) => Err(Error::Timeout(time.reason)),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the resolver failed").into()),
    }
}

/// Looks nothing up: the dialler does, once there is a connection to be made. A request on a kept
/// one needs no address.
#[derive(Debug)]
pub struct Later;

impl Resolver for Later {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn found(url: &str) -> Vec<String> {
        let time = NextTimeout {
            after: time::Duration::Exact(Duration::from_secs(10)),
            ..NextTimeout::default()
        };
        let addresses = look_up(&url.parse().unwrap(), time).unwrap();
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_in_a_url_need_no_resolver() {
        assert_eq!(found("https://192.0.2.7/x"), ["192.0.2.7:443"]);
        assert_eq!(found("http://192.0.2.7"), ["192.0.2.7:80"]);
        assert_eq!(found("http://[2001:db8::7]:8080"), ["[2001:db8::7]:8080"]);
    }

    #[test]
    fn names_are_looked_up() {
        assert!(found("http://localhost:81").contains(&"127.0.0.1:81".to_owned()));
    }
}
