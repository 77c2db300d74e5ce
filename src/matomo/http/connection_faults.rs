//! Which fault an error of the connection is. No Postgres.

use std::time::Duration;

use chrono::{DateTime, Utc};
use ureq::Timeout;

use crate::error::Fault;
use crate::error::HostRefusal;
use crate::matomo::http::certificates;
use crate::matomo::http::token::Token;

/// An attempt's timeouts and port.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    pub connect_timeout: Duration,
    /// For the whole attempt.
    pub timeout: Duration,
    pub port: u16,
}

/// Rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs_f64().ceil() as u64
}

/// The fault of a request that failed before the body of its answer.
pub fn head_fault(error: ureq::Error, attempt: Attempt, token: &Token) -> Fault {
    match error {
        ureq::Error::Protocol(why) => Fault::NotHttp(token.hide_in(&why.to_string())),
        ureq::Error::LargeResponseHeader(_, limit) => {
            Fault::NotHttp(format!("its headers are larger than {limit} bytes"))
        }
        other => transport_fault(other, attempt, token),
    }
}

/// The fault of a request that failed.
pub fn transport_fault(error: ureq::Error, attempt: Attempt, token: &Token) -> Fault {
    match error {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            let seconds = seconds(attempt.connect_timeout.min(attempt.timeout));
            Fault::Unreachable(format!("no connection within {seconds} s"))
        }
        ureq::Error::Timeout(_) => Fault::TimedOut(seconds(attempt.timeout)),
        ureq::Error::HostNotFound => Fault::Unreachable("unknown host".to_owned()),
        ureq::Error::Rustls(error) => tls_fault(&error, attempt),
        ureq::Error::Tls(why) => Fault::Tls(why.to_owned()),
        ureq::Error::Io(error) => io_fault(&error, attempt),
        ureq::Error::ConnectionFailed => Fault::Unreachable("connection failed".to_owned()),
        ureq::Error::Other(error) => match error.downcast::<HostRefusal>() {
            Ok(refusal) => Fault::Forbidden(refusal),
            Err(other) => Fault::Broken(token.hide_in(&other.to_string())),
        },
        other => Fault::Broken(token.hide_in(&other.to_string())),
    }
}

fn tls_fault(error: &rustls::Error, attempt: Attempt) -> Fault {
    match error {
        // The server does not speak TLS.
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            Fault::NoTls(attempt.port)
        }
        other => Fault::Tls(certificates::words(other)),
    }
}

/// Parses Retry-After: seconds, or a date.
pub fn seconds_to_wait(text: &str) -> Option<u64> {
    let text = text.trim();
    text.parse().ok().or_else(|| {
        let until = DateTime::parse_from_rfc2822(text).ok()?;
        u64::try_from((until.to_utc() - Utc::now()).num_seconds().max(0)).ok()
    })
}

/// The fault of an I/O error.
fn io_fault(error: &std::io::Error, attempt: Attempt) -> Fault {
    use std::io::ErrorKind as Kind;
    // rustls wraps its own errors in I/O errors.
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls_fault(tls, attempt);
    }
    match error.kind() {
        Kind::ConnectionRefused
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::AddrNotAvailable => Fault::Unreachable(error.to_string()),
        // Resolver errors have no kind, only this wording of the standard library.
        _ if error.to_string().starts_with("failed to lookup address") => {
            Fault::Unreachable(error.to_string())
        }
        _ => Fault::Broken(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_or_a_date() {
        assert_eq!(seconds_to_wait("120"), Some(120));
        assert_eq!(seconds_to_wait(" 0 "), Some(0));
        assert_eq!(seconds_to_wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(0));
        let soon = Utc::now() + chrono::TimeDelta::seconds(60);
        let wait = seconds_to_wait(&soon.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
        assert!((58..=60).contains(&wait.unwrap()), "{wait:?}");
        for text in ["", "soon", "-5", "1.5", "99999999999999999999"] {
            assert_eq!(seconds_to_wait(text), None, "{text}");
        }
    }
}
