//! The injected faults happen, and TLS is as good or bad as requested.

mod common;

use common::{call, http, live, paris, raw, serve};
use fake_matomo::{Fake, Fault, Options, Page, TlsKind, When};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};

const LIVE: &str = "/?module=API&method=Live.getLastVisitsDetails&format=JSON&idSite=1";

fn ready() -> (Fake, String) {
    let fake = serve(paris(&[(1, "2026-11-20 10:00:00"), (2, "2026-11-20 10:00:00")]));
    let token = format!("token_auth={}", fake.token());
    (fake, token)
}

#[test]
fn faults_count_and_heal() {
    let (fake, _) = ready();
    fake.fail(Fault::Status(503, Page::Html), When::live().after(1).times(2));
    let statuses: Vec<_> =
        (0..4).map(|_| call(&fake, "Live.getLastVisitsDetails", "idSite=1").0).collect();
    assert_eq!(statuses, [200, 503, 503, 200]);
    fake.fail(
        Fault::Status500Envelope("Allowed memory size".to_owned()),
        When::live().limit_over(1),
    );
    assert_eq!(call(&fake, "Live.getLastVisitsDetails", "idSite=1").0, 500);
    assert_eq!(call(&fake, "Live.getLastVisitsDetails", "idSite=1&filter_limit=1").0, 200);
    assert_eq!(call(&fake, "API.getMatomoVersion", "").0, 200);
    fake.heal();
    assert_eq!(live(&fake, "").len(), 2);
    let seen: Vec<_> = fake.requests().iter().map(|s| s.status).collect();
    assert_eq!(seen, [200, 503, 503, 200, 500, 200, 200, 200]);
    fake.clear_requests();
    assert!(fake.requests().is_empty());
}

#[test]
fn answers_of_each_fault() {
    let (fake, token) = ready();
    let ask = |fault: Fault| {
        fake.fail(fault, When::once());
        http(&fake, "POST", LIVE, &token)
    };
    let (status, head, _) = ask(Fault::RetryAfter(7));
    assert!(status == 429 && head.contains("retry-after: 7"), "{head}");
    assert!(ask(Fault::Html).2.starts_with(b"<!DOCTYPE html>"));
    assert!(ask(Fault::Empty).1.contains("content-length: 0"));
    assert_eq!(ask(Fault::ErrorEnvelope("x".into())).2, br#"{"result":"error","message":"x"}"#);
    assert!(
        ask(Fault::Redirect(302, "https://e.org/".into())).1.contains("location: https://e.org/")
    );
    assert_eq!(ask(Fault::Raw(b"[1".to_vec())).2, b"[1");
    assert_eq!(ask(Fault::NotArray).2, br#"{"value":1}"#);
    let echo = ask(Fault::EchoToken);
    assert!(echo.0 == 500 && String::from_utf8_lossy(&echo.2).contains(fake.token()));
    let (_, _, big) = ask(Fault::OverSize(1_000_000));
    assert!(big.len() == 1_000_000 && serde_json::from_slice::<serde_json::Value>(&big).is_ok());
    assert!(ask(Fault::Endless).2.len() > 2_000_000);
    assert_eq!(ask(Fault::Status(502, Page::Empty)).0, 502);
}

#[test]
fn broken_and_silent_connections() {
    let (fake, token) = ready();
    let whole = http(&fake, "POST", LIVE, &token).2.len();
    let ask = |fault: Fault| {
        fake.fail(fault, When::once());
        let start = Instant::now();
        (http(&fake, "POST", LIVE, &token), start.elapsed() > Duration::from_millis(290))
    };
    for (fault, silent) in [(Fault::HalfBody, false), (Fault::HangMidBody, true)] {
        let ((status, head, body), waited) = ask(fault);
        assert_eq!((status, body.len(), waited), (200, whole / 2, silent));
        assert!(head.contains(&format!("content-length: {whole}")));
    }
    let (dribble, waited) = ask(Fault::Dribble);
    assert_eq!((dribble.2.len(), waited), (1, true));
    fake.fail(Fault::Reset, When::once());
    assert!(raw(&fake, "POST", LIVE, &token).is_empty());
    fake.fail(Fault::Hang, When::once());
    let mut hanging = TcpStream::connect(("127.0.0.1", fake.port())).unwrap();
    write!(hanging, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(fake.open_connections(), 1);
    drop(hanging);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(fake.open_connections(), 0);
    assert_eq!(fake.requests().last().map(|s| s.status), Some(0));
}

#[test]
fn gzip_and_latency() {
    let (fake, token) = ready();
    fake.knobs().gzip = true;
    fake.knobs().latency = Duration::from_millis(60);
    let start = Instant::now();
    let with_gzip = format!("{LIVE} HTTP/1.1\r\nAccept-Encoding: gzip\r\nX-Rest: ");
    let (_, head, body) = http(&fake, "POST", &with_gzip, &token);
    assert!(
        start.elapsed() >= Duration::from_millis(60) && head.contains("content-encoding: gzip"),
        "{head}"
    );
    let mut text = String::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
    assert!(
        text.starts_with(r#"[{"idSite":1,"#)
            && text.contains(r"https:\/\/x.org\/")
            && text.contains(r"\u20ac")
    );
}

/// Whether a client that trusts the fake's CA can connect.
fn trusts(kind: TlsKind) -> bool {
    let fake = Fake::start(Options { tls: Some(kind), ..Options::new(paris(&[])) });
    assert!(fake.url().starts_with("https://127.0.0.1:"));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(fake.ca_pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let host = ServerName::try_from("127.0.0.1").unwrap();
    let client = ClientConnection::new(Arc::new(config), host).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", fake.port())).unwrap();
    let mut stream = StreamOwned::new(client, socket);
    let mut start = [0; 12];
    write!(stream, "GET /nope HTTP/1.1\r\nHost: x\r\n\r\n").is_ok()
        && stream.read_exact(&mut start).is_ok()
        && start == *b"HTTP/1.1 404"
}

#[test]
fn certificates() {
    assert!(trusts(TlsKind::Good));
    for kind in [TlsKind::SelfSigned, TlsKind::WrongHost, TlsKind::Expired, TlsKind::NotYet] {
        assert!(!trusts(kind), "{kind:?}");
    }
}
