//! Failed connections to Matomo: closed ports, unknown hosts, other protocols, TLS.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use fake_matomo::TlsKind;

use super::*;
use crate::support::cluster::Cluster;

const UNREACHABLE: &str = "Check the URL, and that the database server may reach it";
const CERTIFICATE: &str = "or in the file that matomo.ca_file names";

fn detail_at(url: &str) -> String {
    detail("SitesManager.getSiteFromId, site 1", url, "", None)
}

/// An address that refuses connections while the stream lives: the stream's own end.
fn closed_port() -> (SocketAddr, (TcpListener, TcpStream)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (stream.local_addr().unwrap(), (listener, stream))
}

#[test]
fn a_host_that_cannot_be_reached() {
    let mut stage = Stage::new();
    let (closed, _held) = closed_port();
    let refused = "could not connect to Matomo: Connection refused (os error 111)";
    let unknown = "could not connect to Matomo: failed to lookup address information: ...";
    for (url, message) in [
        (format!("http://{closed}"), refused),
        (format!("https://{closed}"), refused),
        ("http://nowhere.invalid".to_owned(), unknown),
        ("https://nowhere.invalid:8443".to_owned(), unknown),
    ] {
        let error = stage.refuses(&[("url", &format!("'{url}/matomo'"))]);
        expect(&error, "08001", message, &detail_at(&url), UNREACHABLE);
    }
}

#[test]
fn a_host_that_cannot_be_reached_is_tried_again() {
    let (closed, _held) = closed_port();
    let (mut db, notices) = database_with_notices();
    let call = format!("SELECT * FROM matomo_sync(1, 'http://{closed}', 'secret')");
    db.batch_execute("SET matomo.max_retries = 1").unwrap();
    assert_eq!(error(&mut db, &call).code().code(), "08001");
    let said = notices.take();
    let begin =
        "matomo: could not connect to Matomo: Connection refused (os error 111); retry 1 in";
    assert!(said.len() == 1 && said[0].1.starts_with(begin), "{said:?}");
}

#[test]
fn a_host_that_lets_nobody_in_is_given_up_in_time() {
    // A queue for one connection, already full: the next SYN gets no answer.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    // SAFETY: a socket of this test.
    unsafe { libc::listen(full.as_raw_fd(), 0) };
    let address = full.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(one) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queue.push(one);
    }
    let mut db = database();
    db.batch_execute("SET matomo.max_retries = 0; SET matomo.connect_timeout = '1 s'").unwrap();
    let url = format!("http://{address}");
    let begin = Instant::now();
    let late = error(&mut db, &format!("SELECT * FROM matomo_sync(1, '{url}', 'secret')"));
    let time = begin.elapsed();
    let message = "could not connect to Matomo: no connection within 1 s";
    expect(&late, "08001", message, &detail_at(&url), UNREACHABLE);
    assert!(time >= Duration::from_secs(1) && time < Duration::from_secs(2), "{time:?}");
}

#[test]
fn a_port_that_speaks_another_protocol() {
    let mut stage = Stage::new();
    let ssh = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", ssh.local_addr().unwrap());
    let greeter = std::thread::spawn(move || {
        for stream in ssh.incoming().take(CALLS + 1) {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
            // Reads the whole request, so that closing does not reset the connection.
            let mut rest = [0; 4096];
            let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
            while matches!(std::io::Read::read(&mut stream, &mut rest), Ok(1..)) {}
        }
    });
    let error = stage.refuses(&[("url", &format!("'{url}'"))]);
    let message = "the answer of Matomo is not valid HTTP: http parse fail: invalid HTTP version";
    expect(&error, "08P01", message, &detail_at(&url), "Check the scheme and the port");
    let _ = TcpStream::connect(url.trim_start_matches("http://"));
    greeter.join().unwrap();
    // TLS to a plain HTTP port.
    let url = stage.fake.url().replace("http:", "https:");
    let error = stage.refuses(&[("url", &format!("'{url}'"))]);
    let port = stage.fake.port();
    let message = format!("could not connect to Matomo over TLS: port {port} does not speak it");
    let hint = "Check the scheme and the port of the URL: https needs a port with TLS";
    expect(&error, "08001", &message, &detail_at(&url), hint);
    assert!(stage.fake.requests().is_empty());
    stage.recovers();
}

#[test]
fn plain_http_where_tls_is_spoken() {
    let mut stage = Stage::with(|options| options.tls = Some(TlsKind::Good));
    let url = stage.fake.url().replace("https:", "http:");
    let error = stage.refuses(&[("url", &format!("'{url}'"))]);
    let message = "the answer of Matomo is not valid HTTP: http parse fail: invalid HTTP version";
    expect(&error, "08P01", message, &detail_at(&url), "Check the scheme and the port");
}

/// A CA file that the server can read.
fn ca_file(stage: &Stage) -> String {
    let path = format!("/tmp/matomo_e2e_ca.{}.{}.pem", std::process::id(), stage.fake.port());
    std::fs::write(&path, stage.fake.ca_pem()).unwrap();
    path
}

#[test]
fn certificates_that_nobody_should_trust() {
    for (kind, what) in [
        (TlsKind::SelfSigned, "its certificate is of a CA that is not trusted here"),
        (TlsKind::WrongHost, "its certificate is for another host: other.example.org"),
        (TlsKind::Expired, "its certificate has expired: 2021-01-01"),
        (TlsKind::NotYet, "its certificate is not valid yet, but from 2090-01-01"),
        (TlsKind::OpenSslWrongHost, "its certificate is for another host: other.example.org"),
        (TlsKind::OpenSslExpired, "its certificate has expired: 2021-01-01"),
    ] {
        let mut stage = Stage::with(|options| options.tls = Some(kind));
        let path = ca_file(&stage);
        stage.execute(&format!("SET matomo.ca_file = '{path}'"));
        let error = stage.refuses(&[]);
        let message = format!("could not connect to Matomo over TLS: {what}");
        expect(&error, "08001", &message, &detail_at(&stage.fake.url()), CERTIFICATE);
        assert!(stage.fake.requests().is_empty(), "the token was sent to nobody knows whom");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_self_signed_certificate_is_trusted_when_its_file_is_named() {
    for kind in [TlsKind::OpenSsl, TlsKind::OpenSslNameOnly, TlsKind::OpenSslNoCa] {
        let mut stage = Stage::with(|options| options.tls = Some(kind));
        let error = stage.refuses(&[]);
        let what = match kind {
            TlsKind::OpenSslNoCa => "of a CA that is not trusted here",
            _ => "a CA's, or self-signed, and not trusted here",
        };
        let message = format!("could not connect to Matomo over TLS: its certificate is {what}");
        expect(&error, "08001", &message, &detail_at(&stage.fake.url()), CERTIFICATE);
        // Another certificate for the same host is not trusted.
        let other = Stage::with(|options| options.tls = Some(kind));
        let path = ca_file(&other);
        stage.execute(&format!("SET matomo.ca_file = '{path}'"));
        assert_eq!(stage.refuses(&[]).message(), message);
        std::fs::write(&path, stage.fake.ca_pem()).unwrap();
        if kind == TlsKind::OpenSslNameOnly {
            let url = stage.fake.url().replace("127.0.0.1", "localhost");
            let error = stage.refuses(&[("url", &format!("'{url}'"))]);
            let message = "could not connect to Matomo over TLS: its certificate names no host";
            expect(&error, "08001", message, &detail_at(&url), CERTIFICATE);
        }
        stage.recovers();
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_private_ca_is_trusted_when_its_file_is_named() {
    let mut stage = Stage::with(|options| options.tls = Some(TlsKind::Good));
    let error = stage.refuses(&[]);
    let message = "could not connect to Matomo over TLS: its certificate is of a CA that is not \
                   trusted here";
    expect(&error, "08001", message, &detail_at(&stage.fake.url()), CERTIFICATE);
    let path = ca_file(&stage);
    stage.execute(&format!("SET matomo.ca_file = '{path}'"));
    stage.recovers();
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_ca_file_that_is_none() {
    let mut stage = Stage::with(|options| options.tls = Some(TlsKind::Good));
    stage.execute("SET matomo.ca_file = '/nowhere/ca.pem'");
    let error = stage.refuses(&[]);
    let message =
        "could not read the file \"/nowhere/ca.pem\": No such file or directory (os error 2)";
    expect(&error, "22023", message, "", "file on the database server");
    stage.execute("SET matomo.ca_file = '/tmp'");
    let error = stage.refuses(&[]);
    let message = "could not read the file \"/tmp\": Is a directory (os error 21)";
    expect(&error, "22023", message, "", "file on the database server");
    let path = ca_file(&stage);
    stage.execute(&format!("SET matomo.ca_file = '{path}'"));
    let message = "the file that matomo.ca_file names holds no certificate";
    let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    let bad = stage.fake.ca_pem().replace("CERTIFICATE", "NONSENSE");
    for content in ["", "no PEM", key, &bad, "\0\u{1}"] {
        std::fs::write(&path, content).unwrap();
        let error = stage.refuses(&[]);
        expect(&error, "22023", message, "", "in PEM form");
    }
    std::fs::remove_file(path).unwrap();
    assert!(stage.fake.requests().is_empty());
}

/// The system's store is a file set for one server, by the variable that OpenSSL also reads. A
/// proxy in that server's environment is not used either.
#[test]
fn a_ca_in_the_systems_store_is_trusted() {
    let stage = Stage::with(|options| options.tls = Some(TlsKind::Good));
    let cluster = Cluster::start();
    cluster.stop("fast");
    let store = cluster.dir.join("store.pem");
    std::fs::write(&store, stage.fake.ca_pem()).unwrap();
    cluster.start_again_in(&[
        ("SSL_CERT_FILE", store.to_str().unwrap()),
        ("HTTPS_PROXY", "http://127.0.0.1:9"),
        ("ALL_PROXY", "http://127.0.0.1:9"),
    ]);
    let mut db = cluster.connect(&cluster.database());
    Sync::of(&stage.fake, FIRST, LAST).run(&mut db);
    assert_equal(&mut db, "matomo", &oracle(&stage.fake, FIRST, LAST));
}
