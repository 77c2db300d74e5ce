//! Certificates and their names.

use fake_matomo::{Fake, Options, TlsKind};

use super::network::promise;
use super::stage::{FIRST, LAST, Stage, talkative};
use crate::support::*;

const CERTIFICATE: &str = "or in the file that matomo.ca_file names";

fn matomo(token: &str, kind: TlsKind) -> Fake {
    let world = world(73, "UTC", 3, FIRST, LAST);
    Fake::start(Options { token: token.to_owned(), tls: Some(kind), ..Options::new(world) })
}

#[test]
fn tls() {
    let token = "90d7f2b6tlscertificates4c1e8a5d3b";
    let mut stage = Stage::new("TLS", token);
    let (file, store) = (talkative().dir.join("ca.pem"), talkative().dir.join("store.pem"));
    let named = format!("SET matomo.ca_file = '{}'", file.display());
    // A store that trusts another CA.
    std::fs::write(&store, matomo(token, TlsKind::Good).ca_pem()).unwrap();
    let message = "could not connect to Matomo over TLS: its certificate …";
    let refused = promise("08001", message, 0, CERTIFICATE);
    for (kind, case, injected) in [
        (TlsKind::SelfSigned, "self-signed", "a certificate signed by itself"),
        (TlsKind::Expired, "expired", "valid until 2021"),
        (TlsKind::NotYet, "not valid yet", "valid from 2090 on"),
        (TlsKind::WrongHost, "another host's", "a certificate for other.example.org"),
    ] {
        stage.with_other(matomo(token, kind), |stage| {
            std::fs::write(&file, stage.fake.ca_pem()).unwrap();
            run(&mut stage.db, &named);
            let injected = format!("{injected}; its CA is in `matomo.ca_file`");
            stage.fails(case, &injected, &refused);
            assert_eq!(stage.fake.requests().len(), 0, "the token went to nobody knows whom");
        });
    }
    run(&mut stage.db, "RESET matomo.ca_file");
    stage.with_other(matomo(token, TlsKind::Good), |stage| {
        let injected = "its CA is neither in the system's store nor in `matomo.ca_file`";
        stage.fails("an unknown CA", injected, &refused);
        std::fs::write(&file, matomo(token, TlsKind::Good).ca_pem()).unwrap();
        run(&mut stage.db, &named);
        stage.fails("another CA", "`matomo.ca_file` names another one", &refused);
        std::fs::write(&file, stage.fake.ca_pem()).unwrap();
        stage.works("a CA in `matomo.ca_file`", "a private CA");
        run(&mut stage.db, "RESET matomo.ca_file");
        // The same session, so it must load the store again.
        stage.fails("no longer named", "`matomo.ca_file` is reset", &refused);
        std::fs::write(&store, stage.fake.ca_pem()).unwrap();
        stage.works("a CA in the system's store, a file", "`SSL_CERT_FILE` of the server has it");
    });
    stage.with_other(matomo(token, TlsKind::Good), |stage| {
        let injected = "in the session that trusted the other one";
        stage.fails("a third CA", injected, &refused);
        std::fs::write(talkative().dir.join("certs/5ed36f99.0"), stage.fake.ca_pem()).unwrap();
        stage.works("a CA in the system's store, a folder", "`SSL_CERT_DIR` of the server has it");
    });
    schemes(&mut stage, token);
    stage.finish();
}

/// TLS to a plain port, and plain HTTP to a TLS port.
fn schemes(stage: &mut Stage, token: &str) {
    let plain = stage.url.clone();
    stage.url = plain.replace("http:", "https:");
    let message = "could not connect to Matomo over TLS: port …";
    let hint = "https needs a port with TLS";
    let injected = "`https://` and the port of a server without TLS";
    let port = plain.rsplit(':').next().unwrap().trim_end_matches('/');
    stage.masks.push((format!("port {port}"), "port N"));
    stage.fails("TLS where there is none", injected, &promise("08001", message, 0, hint));
    let secure = matomo(token, TlsKind::Good);
    stage.url = secure.url().replace("https:", "http:");
    let message = "the answer of Matomo is not valid HTTP: …";
    let injected = "`http://` and the port of a server with TLS";
    let promised = promise("08P01", message, 0, "Check the scheme and the port");
    stage.fails("no TLS where there is", injected, &promised);
    stage.url = plain;
}
