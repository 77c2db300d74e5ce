//! Which certificates are trusted, and why others are not. No Postgres.

use std::sync::Arc;

use chrono::DateTime;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    ALL_VERSIONS, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};
use ureq::tls::{PemItem, parse_pem};

use crate::error::{Error, Result};

/// TLS that trusts the certificates of `matomo.ca_file`, or the CAs of the system.
///
/// # Errors
/// If there are none.
pub fn config(ca_file: Option<&[Certificate]>) -> std::result::Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = match ca_file {
        Some(certificates) => verifier(certificates, &provider)?,
        None => Arc::new(rustls_platform_verifier::Verifier::new(Arc::clone(&provider))?),
    };
    // rustls calls every custom verifier dangerous.
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(ALL_VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(config.with_no_client_auth())
}

/// A certificate, as a PEM file holds it.
pub type Certificate = CertificateDer<'static>;

/// The contents of `matomo.ca_file`.
///
/// # Errors
/// [`Error::Argument`] when it cannot be read.
pub fn read(path: String) -> Result<Vec<u8>> {
    std::fs::read(&path).map_err(|error| Error::Argument {
        message: format!("could not read the file \"{path}\": {error}"),
        hint:
            "Name a file on the database server, readable by Postgres, in matomo.ca_file or in the \
               option ca_file of the server."
                .to_owned(),
    })
}

/// The certificates of a PEM file.
///
/// # Errors
/// [`Error::Argument`] when there are none.
pub fn parse(pem: &[u8]) -> Result<Vec<Certificate>> {
    let found: Vec<_> = parse_pem(pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(found)) => Some(CertificateDer::from(found.der().to_vec())),
            _ => None,
        })
        .collect();
    if found.is_empty() {
        return Err(Error::Argument {
            message: "the file that matomo.ca_file names holds no certificate".to_owned(),
            hint: "Put the certificates of one or more CAs into it, in PEM form.".to_owned(),
        });
    }
    Ok(found)
}

fn verifier(
    certificates: &[Certificate],
    provider: &Arc<CryptoProvider>,
) -> std::result::Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.iter().cloned());
    let webpki = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(provider));
    let webpki = webpki.build().map_err(|_| {
        rustls::Error::General("matomo.ca_file holds no certificate that can be used".to_owned())
    })?;
    Ok(Arc::new(CaFileVerifier { webpki, certificates: certificates.to_vec() }))
}

/// Trusts CAs, and server certificates that are in the file themselves: `openssl req -x509` makes
/// self-signed ones marked as a CA, which webpki refuses for a server.
#[derive(Debug)]
struct CaFileVerifier {
    webpki: Arc<WebPkiServerVerifier>,
    certificates: Vec<Certificate>,
}

type Verified = std::result::Result<ServerCertVerified, rustls::Error>;
type Signature = std::result::Result<HandshakeSignatureValid, rustls::Error>;

impl ServerCertVerifier for CaFileVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Verified {
        let webpki = &self.webpki;
        let verified =
            webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // Both come after the check of dates.
            Err(rustls::Error::InvalidCertificate(error))
                if self.certificates.contains(end_entity)
                    && (is_ca(&error) || names(&error).is_some()) =>
            {
                verify_name(end_entity, server_name)
            }
            // The issuer has the name of a certificate in the file, but another key: for instance a
            // self-signed certificate that was renewed.
            Err(rustls::Error::InvalidCertificate(CertificateError::BadSignature)) => {
                Err(CertificateError::UnknownIssuer.into())
            }
            done => done,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Signature {
        self.webpki.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Signature {
        self.webpki.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Whether a certificate was refused because it is a CA's. rustls has no error of its own for that.
fn is_ca(error: &CertificateError) -> bool {
    matches!(error, CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity"))
}

/// The names in a certificate for other hosts.
fn names(error: &CertificateError) -> Option<&[String]> {
    match error {
        CertificateError::NotValidForNameContext { presented, .. } => Some(presented),
        CertificateError::NotValidForName => Some(&[]),
        _ => None,
    }
}

/// Whether the certificate is for that host, by its alternative names or, as in OpenSSL, by its
/// common name if it has none.
fn verify_name(certificate: &CertificateDer<'_>, host: &ServerName<'_>) -> Verified {
    let error = match verify_server_name(&ParsedCertificate::try_from(certificate)?, host) {
        Ok(()) => return Ok(ServerCertVerified::assertion()),
        Err(error) => error,
    };
    let has_no_names = matches!(&error, rustls::Error::InvalidCertificate(error)
        if names(error).is_some_and(<[_]>::is_empty));
    let host = host.to_str();
    if has_no_names
        && common_names(certificate).any(|name| name.eq_ignore_ascii_case(host.as_bytes()))
    {
        return Ok(ServerCertVerified::assertion());
    }
    Err(error)
}

/// `commonName`, wherever it is, followed by the tag and length of a string. The certificate is
/// from the file, so no attacker has put it there.
fn common_names(certificate: &[u8]) -> impl Iterator<Item = &[u8]> {
    const OID: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
    let places = certificate.windows(OID.len()).enumerate().filter(|(_, bytes)| *bytes == OID);
    places.filter_map(|(at, _)| {
        let [_, length, rest @ ..] = &certificate[at + OID.len()..] else { return None };
        rest.get(..usize::from(*length))
    })
}

/// Describes an error of TLS.
pub fn words(error: &rustls::Error) -> String {
    use rustls::Error as Tls;
    let error = match error {
        Tls::InvalidCertificate(error) => error,
        Tls::General(what) => return what.clone(),
        Tls::AlertReceived(alert) => return format!("it refuses the handshake: {alert:?}"),
        other => return other.to_string(),
    };
    let date = |at: &UnixTime| {
        let at = i64::try_from(at.as_secs()).ok().and_then(|at| DateTime::from_timestamp(at, 0));
        at.map_or_else(String::new, |at| format!(" {}", at.date_naive()))
    };
    match error {
        CertificateError::Expired => "its certificate has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate has expired:{}", date(not_after))
        }
        CertificateError::NotValidYet => "its certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is not valid yet, but from{}", date(not_before))
        }
        CertificateError::UnknownIssuer => {
            "its certificate is of a CA that is not trusted here".to_owned()
        }
        CertificateError::Revoked => "its certificate has been revoked".to_owned(),
        error if is_ca(error) => {
            "its certificate is a CA's, or self-signed, and not trusted here".to_owned()
        }
        error => match names(error) {
            Some([]) => "its certificate names no host".to_owned(),
            Some(names) => {
                let plain = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
                let names: Vec<_> = names.iter().map(plain).collect();
                format!("its certificate is for another host: {}", names.join(", "))
            }
            None => format!("its certificate is not valid: {error}"),
        },
    }
}
