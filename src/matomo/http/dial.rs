//! Opens TCP connections: looks up the host, checks its addresses, connects. No Postgres.

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

use crate::error::HostRefusal;
use crate::matomo::http::hosts::AllowedHosts;

thread_local! {
    static DIALS: Cell<u64> = const { Cell::new(0) };
}

/// Number of connections that this thread has tried to open. If a request does not increase it, it
/// used a kept connection.
pub fn dials() -> u64 {
    DIALS.get()
}

/// Addresses of a host to try; ureq has room for no more.
const MAX_ADDRESSES: usize = 16;

/// The first connector of the chain: TCP, to allowed hosts only.
#[derive(Debug)]
pub struct Dialler {
    hosts: AllowedHosts,
    lookup: Lookup,
    tcp: TcpConnector,
}

/// Looks up the addresses of a host and port.
type Lookup = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// The system's lookup: DNS and `/etc/hosts`.
fn system(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    (host, port).to_socket_addrs().map(Vec::from_iter)
}

impl Dialler {
    /// Connects to these hosts only.
    pub fn new(hosts: AllowedHosts) -> Dialler {
        Dialler { hosts, lookup: system, tcp: TcpConnector::default() }
    }
}

impl Connector for Dialler {
    type Out = <TcpConnector as Connector>::Out;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        DIALS.set(dials() + 1);
        let begin = Instant::now();
        let time = details.timeout;
        let addresses = look_up(details.uri, &self.hosts, self.lookup, time)?;
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
        self.tcp.connect(&details, chained)
    }
}

/// The allowed addresses of a URL's host. The connection goes to these very addresses, so a name
/// whose address changes in between gains nothing.
fn look_up(
    uri: &Uri,
    hosts: &AllowedHosts,
    lookup: Lookup,
    time: NextTimeout,
) -> Result<ResolvedSocketAddrs, Error> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let refuse = |refusal: HostRefusal| Error::Other(Box::new(refusal));
    hosts.admit_name(host).map_err(refuse)?;
    let found = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => resolve(host.to_owned(), port, lookup, time)?,
    };
    let mut admitted = NoResolver.empty();
    let mut refused = None;
    for address in found.into_iter().take(MAX_ADDRESSES) {
        match hosts.admit(host, address.ip(), tls) {
            Ok(()) => admitted.push(address),
            Err(refusal) => refused = refused.or(Some(refusal)),
        }
    }
    match refused {
        Some(refusal) if admitted.is_empty() => Err(refuse(refusal)),
        _ if admitted.is_empty() => Err(Error::HostNotFound),
        _ => Ok(admitted),
    }
}

/// Looks up a name. The system's lookup has no timeout, so it runs on a thread that is abandoned if
/// it takes too long.
fn resolve(
    host: String,
    port: u16,
    lookup: Lookup,
    time: NextTimeout,
) -> Result<Vec<SocketAddr>, Error> {
    let (sender, answer) = sync_channel(1);
    let ask = move || {
        // Fails if the caller has stopped waiting.
        let _ = sender.send(lookup(&host, port));
    };
    thread::Builder::new().name("matomo resolve".to_owned()).spawn(ask)?;
    match answer.recv_timeout(*time.after) {
        Ok(found) => Ok(found?),
        Err(RecvTimeoutError::Timeout) => Err(Error::Timeout(time.reason)),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the resolver failed").into()),
    }
}

/// Looks nothing up: the dialler does that when it opens a connection. A kept connection needs no
/// address.
#[derive(Debug)]
pub struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        Ok(self.empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn found(url: &str, hosts: &str) -> Result<Vec<String>, String> {
        let time = NextTimeout {
            after: time::Duration::Exact(Duration::from_secs(10)),
            ..NextTimeout::default()
        };
        let hosts = AllowedHosts::new(hosts, true).unwrap();
        let addresses = look_up(&url.parse().unwrap(), &hosts, system, time);
        let addresses = addresses.map_err(|error| error.to_string())?;
        Ok(addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_in_a_url_need_no_resolver() {
        for (url, address) in [
            ("https://192.0.2.7/x", "192.0.2.7:443"),
            ("http://192.0.2.7", "192.0.2.7:80"),
            ("http://[2001:db8::7]:8080", "[2001:db8::7]:8080"),
        ] {
            assert_eq!(found(url, "*").unwrap(), [address]);
        }
    }

    #[test]
    fn names_are_looked_up() {
        assert!(found("http://localhost:81", "*").unwrap().contains(&"127.0.0.1:81".to_owned()));
    }

    /// As the system's resolver reads them.
    #[test]
    fn numbers_are_addresses_in_many_forms() {
        for host in
            ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "0xa9.254.0xa9fe", "169.16689662"]
        {
            let error = found(&format!("http://{host}/"), "*,169.254.0.0/16").unwrap_err();
            assert!(error.contains("is not allowed"), "{host}: {error}");
        }
        for host in ["2130706433", "0x7f000001", "0177.0.0.1", "127.1"] {
            assert_eq!(found(&format!("http://{host}"), "127.0.0.1").unwrap(), ["127.0.0.1:80"]);
        }
    }

    /// A name that leads somewhere else each time it is looked up.
    #[test]
    fn a_name_that_changes_its_address_gains_nothing() {
        use std::net::{Ipv4Addr, TcpListener};
        use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        let rebinding: Lookup = |_, port| {
            let evil = LOOKUPS.fetch_add(1, SeqCst) % 2 == 1;
            let address =
                if evil { Ipv4Addr::new(169, 254, 169, 254) } else { Ipv4Addr::LOCALHOST };
            Ok(vec![SocketAddr::new(address.into(), port)])
        };
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://rebinding.example.org:{}", server.local_addr().unwrap().port());
        let hosts = AllowedHosts::new("*", true).unwrap();
        let dialler = Dialler { hosts, lookup: rebinding, tcp: TcpConnector::default() };
        let agent = ureq::Agent::with_parts(ureq::config::Config::default(), dialler, NoResolver);
        let asked = std::thread::spawn(move || {
            for _ in 0..3 {
                let (mut stream, _) = server.accept().unwrap();
                std::io::Read::read(&mut stream, &mut [0; 1000]).unwrap();
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]";
                std::io::Write::write_all(&mut stream, answer).unwrap();
            }
        });
        for round in 0..6 {
            let result = agent.get(&url).call();
            assert_eq!(LOOKUPS.load(SeqCst), round + 1, "one lookup a connection");
            match result {
                Ok(_) => assert_eq!(round % 2, 0),
                Err(Error::Other(refusal)) => {
                    assert_eq!(round % 2, 1);
                    assert!(
                        refusal.downcast::<HostRefusal>().unwrap().detail().contains("link-local")
                    );
                }
                Err(other) => panic!("{other}"),
            }
        }
        asked.join().unwrap();
    }

    #[test]
    fn only_those_addresses_of_a_host_that_are_allowed_are_tried() {
        let both = found("http://localhost:81", "127.0.0.0/8,::1").unwrap();
        assert!(both.contains(&"127.0.0.1:81".to_owned()));
        assert_eq!(found("http://localhost:81", "127.0.0.0/8").unwrap(), ["127.0.0.1:81"]);
        assert!(found("http://localhost:81", "10.0.0.0/8").unwrap_err().contains("not allowed"));
    }
}
