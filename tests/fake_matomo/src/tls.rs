//! Certificates, good and bad.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto};

/// The certificate that the server presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsKind {
    /// Signed by the CA, for 127.0.0.1 and localhost.
    Good,
    /// Signed by itself only.
    SelfSigned,
    /// As made by `openssl req -x509` with the host in `subjectAltName`: self-signed, and a CA by
    /// the defaults of openssl.cnf.
    OpenSsl,
    /// The same without `subjectAltName`: the host is the common name.
    OpenSslNameOnly,
    /// The same with `subjectAltName` and `basicConstraints=critical,CA:FALSE`.
    OpenSslNoCa,
    /// As `OpenSsl`, for another host.
    OpenSslWrongHost,
    /// The same, expired in 2021.
    OpenSslExpired,
    /// Signed by the CA, for another host.
    WrongHost,
    /// Signed by the CA, for the right host, expired in 2021.
    Expired,
    /// Signed by the CA, for the right host, valid from 2090.
    NotYet,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Makes a CA and a certificate of this kind; returns the CA's certificate (PEM) and the acceptor.
/// For openssl's kinds the PEM is the server's own certificate.
pub fn acceptor(kind: TlsKind) -> Result<(String, TlsAcceptor), Failure> {
    let ca_key = KeyPair::generate()?;
    // A name of its own, so that no CA is mistaken for another.
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let mut ca = params(&[], &format!("Fake Matomo CA {}", NUMBER.fetch_add(1, Relaxed)))?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let hosts: &[&str] = match kind {
        TlsKind::WrongHost | TlsKind::OpenSslWrongHost => &["other.example.org"],
        TlsKind::OpenSslNameOnly => &[],
        _ => &["localhost", "127.0.0.1"],
    };
    let is_openssls = matches!(
        kind,
        TlsKind::OpenSsl
            | TlsKind::OpenSslNameOnly
            | TlsKind::OpenSslNoCa
            | TlsKind::OpenSslWrongHost
            | TlsKind::OpenSslExpired
    );
    let name = if is_openssls { "127.0.0.1" } else { "Fake Matomo" };
    let mut leaf = params(hosts, name)?;
    if kind == TlsKind::OpenSslNoCa {
        leaf.is_ca = IsCa::ExplicitNoCa;
    } else if is_openssls {
        leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    } else {
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    }
    if matches!(kind, TlsKind::Expired | TlsKind::OpenSslExpired) {
        leaf.not_after = date_time_ymd(2021, 1, 1);
    }
    if kind == TlsKind::NotYet {
        leaf.not_before = date_time_ymd(2090, 1, 1);
    }
    let key = KeyPair::generate()?;
    let certificate = match kind {
        TlsKind::SelfSigned => leaf.self_signed(&key)?,
        _ if is_openssls => leaf.self_signed(&key)?,
        _ => leaf.signed_by(&key, &issuer)?,
    };
    let ca_pem = if is_openssls { certificate.pem() } else { ca_pem };
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der())?,
        )?;
    Ok((ca_pem, TlsAcceptor::from(Arc::new(config))))
}

fn params(hosts: &[&str], name: &str) -> Result<CertificateParams, Failure> {
    let mut params =
        CertificateParams::new(hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    Ok(params)
}
