//! Failures of requests to Matomo, with their messages. Pure.

use std::fmt;

use chrono::NaiveDate;

use super::host_refusal::HostRefusal;

/// The failed request, for the DETAIL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Call {
    /// The Matomo API method, such as `Live.getLastVisitsDetails`.
    pub method: &'static str,
    /// idSite; 0 if the method takes none.
    pub site: i32,
    /// The requested site-day, if the method takes one.
    pub day: Option<NaiveDate>,
    /// Scheme, host and port of the Matomo.
    pub host: String,
    /// The HTTP status of the answer, if there was one.
    pub status: Option<u16>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Method {}", self.method)?;
        if self.site > 0 {
            write!(f, ", site {}", self.site)?;
        }
        write!(f, " at {}", self.host)?;
        if let Some(day) = self.day {
            write!(f, ", day {day}")?;
        }
        if let Some(status) = self.status {
            write!(f, ", HTTP status {status}")?;
        }
        f.write_str(".")
    }
}

/// How a request to Matomo failed. The token is already removed from texts of other origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The settings forbid a connection to the host.
    Forbidden(Box<HostRefusal>),
    /// No connection: refused, no route, unknown host.
    Unreachable(String),
    /// No answer within so many seconds.
    TimedOut(u64),
    /// The TLS handshake failed.
    Tls(String),
    /// The port does not speak TLS.
    NoTls(u16),
    /// The connection broke during an answer.
    Broken(String),
    /// The answer is not valid HTTP; why.
    NotHttp(String),
    /// A redirect, which is never followed; its target.
    Redirected(String),
    /// HTTP 429; the wait that Matomo asks for, in seconds.
    RateLimited(Option<u64>),
    /// A redirect to HTTPS (`force_ssl`); its target.
    NeedsTls(String),
    /// The token is refused even for a request that every valid token may send.
    TokenRefused(String),
    /// The token is refused for this site.
    NoAccess(String),
    /// Matomo refuses this server's address (`login_allowlist_ip`).
    AddressRefused(String),
    /// Too many refused tokens from this address.
    LockedOut(String),
    /// Matomo does not know the site.
    UnknownSite(String),
    /// Matomo ran out of memory or time for the request; its message.
    Exhausted(String),
    /// Matomo has no visits log for the site, or does not show it.
    VisitsLogOff(String),
    /// Matomo is in maintenance mode.
    Maintenance,
    /// A transient error of Matomo, for example of its database; its message.
    Transient(String),
    /// Matomo's own error message, in an answer of any HTTP status.
    Matomo(String),
    /// Any other HTTP status.
    Status(u16),
    /// The body is larger than `matomo.max_response_size` (bytes).
    TooLarge(u64),
    /// The rows of a visit (idVisit) are larger than that (bytes).
    VisitTooLarge(i64, u64),
    /// This server has no memory for an answer.
    OutOfMemory,
    /// A visit (idVisit) of another site (idSite) than the requested one, which is not a roll-up.
    OtherSite(i64, i64),
    /// The body is not JSON; what it is instead.
    NotJson(String),
    /// A PHP message in the answer; its kind.
    Php(&'static str),
    /// JSON with other text; what, and on which side.
    Mixed(&'static str),
    /// JSON with a part that Matomo does not send; which.
    Unexpected(String),
}

impl Fault {
    /// The second part of the DETAIL, if any: Matomo's own words, or the rule that was broken.
    pub fn detail(&self) -> Option<String> {
        match self {
            Fault::Forbidden(refusal) => Some(refusal.detail()),
            Fault::TokenRefused(words)
            | Fault::NoAccess(words)
            | Fault::AddressRefused(words)
            | Fault::LockedOut(words)
            | Fault::VisitsLogOff(words)
            | Fault::UnknownSite(words)
                if !words.is_empty() =>
            {
                Some(format!("Matomo says: {words}"))
            }
            _ => None,
        }
    }

    /// The HINT.
    pub fn hint(&self) -> &'static str {
        match self {
            Fault::Forbidden(refusal) => refusal.hint(),
            Fault::Unreachable(_) => "Check the URL, and that the database server may reach it.",
            Fault::TimedOut(_) => "Lower matomo.page_size, or raise matomo.request_timeout.",
            Fault::Tls(_) => {
                "Check the certificate of the Matomo; a private CA, or a self-signed certificate, \
                 belongs in the system's store or in the file that matomo.ca_file names."
            }
            Fault::NoTls(_) => {
                "Check the scheme and the port of the URL: https needs a port with TLS, usually 443."
            }
            Fault::NotHttp(_) => "Check the scheme and the port of the URL.",
            Fault::Broken(_) => "Try again; if it fails again, lower matomo.page_size.",
            Fault::Redirected(_) => {
                "Use the URL that the redirect points to. Redirects are never followed, to protect \
                 the token."
            }
            Fault::NeedsTls(_) => {
                "Begin the URL with https: this Matomo does not accept plain HTTP (force_ssl)."
            }
            Fault::RateLimited(_) => "Wait, then try again; send fewer requests.",
            Fault::TokenRefused(_) => {
                "Check the token: a token_auth of Matomo (Personal > Security > Auth tokens). After \
                 some 18 refused tokens Matomo locks out this server's address."
            }
            Fault::NoAccess(_) => {
                "Give the token's user at least view access to the site; check the token too."
            }
            Fault::AddressRefused(_) => {
                "Add the address to login_allowlist_ip[] in Matomo's config.ini.php, or set \
                 login_allowlist_apply_to_reporting_api_requests = 0 there."
            }
            Fault::LockedOut(_) => {
                "Fix the token, then wait up to an hour, or unblock the address in Matomo \
                 (Administration > Brute Force): until then, Matomo refuses every token from it."
            }
            Fault::UnknownSite(_) => {
                "Check the site's ID in Matomo (Administration > Measurables > Manage)."
            }
            Fault::Exhausted(_) => "Lower matomo.page_size.",
            Fault::VisitsLogOff(_) => {
                "Switch the visits log on in Matomo (Administration > Websites > Settings), for all \
                 sites and for this one."
            }
            Fault::Maintenance => {
                "Wait until it ends; maintenance_mode in Matomo's config.ini.php controls it."
            }
            Fault::Transient(_) => "Try again; if it fails again, look into the log of the Matomo.",
            Fault::Matomo(_) => "Look into the log of the Matomo: the message is Matomo's own.",
            Fault::Status(404) => {
                "Check the folder in the URL: that of Matomo's own pages, such as \
                 https://www.example.org/matomo, without matomo.php or anything else after it."
            }
            Fault::Status(401 | 407) => {
                "Look for a proxy in front of the Matomo that asks for a password: Matomo itself \
                 does not answer like this."
            }
            Fault::Status(_) => {
                "Look into the log of the Matomo and of the proxies in front of it."
            }
            Fault::TooLarge(_) => "Lower matomo.page_size, or raise matomo.max_response_size.",
            Fault::VisitTooLarge(..) => {
                "Raise matomo.max_response_size: it bounds the rows of a visit as well."
            }
            Fault::OutOfMemory => {
                "Lower matomo.page_size or matomo.max_response_size, or give the database server \
                 more memory."
            }
            Fault::OtherSite(..) => {
                "Check the URL, and Matomo's plugins: visits of other sites are taken only where \
                 Matomo says that the site is a roll-up."
            }
            Fault::NotJson(_) => {
                "Check that the URL is that of a Matomo, with its folder, and without matomo.php or \
                 anything else after it."
            }
            Fault::Php(_) => {
                "Look into the log of PHP on the Matomo, and keep its messages out of answers: \
                 display_errors = Off in php.ini, no log_writers[] = screen in Matomo's config.ini.php."
            }
            Fault::Mixed(_) => {
                "Find what adds it: log_writers[] = screen in Matomo's config.ini.php, a plugin, or a \
                 proxy in front of the Matomo."
            }
            Fault::Unexpected(_) => {
                "Check the versions of Matomo and of its plugins, and whether all servers that answer \
                 at this URL have the same data; then report the message."
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Forbidden(refusal) => refusal.fmt(f),
            Fault::Unreachable(why) => write!(f, "could not connect to Matomo: {why}"),
            Fault::TimedOut(seconds) => write!(f, "Matomo did not answer within {seconds} s"),
            Fault::Tls(why) => write!(f, "could not connect to Matomo over TLS: {why}"),
            Fault::NoTls(port) => {
                write!(f, "could not connect to Matomo over TLS: port {port} does not speak it")
            }
            Fault::NotHttp(why) => write!(f, "the answer of Matomo is not valid HTTP: {why}"),
            Fault::Broken(why) => write!(f, "the answer of Matomo broke off: {why}"),
            Fault::Redirected(to) | Fault::NeedsTls(to) => {
                write!(f, "Matomo redirects to \"{to}\"")
            }
            Fault::RateLimited(Some(wait)) => {
                write!(f, "Matomo limits the rate of requests: wait {wait} s")
            }
            Fault::RateLimited(None) => f.write_str("Matomo limits the rate of requests"),
            Fault::TokenRefused(_) => f.write_str("Matomo refused the token"),
            Fault::NoAccess(_) => f.write_str("the token has no access to the site"),
            Fault::AddressRefused(_) => f.write_str("Matomo rejected this server's IP address"),
            Fault::LockedOut(_) => f.write_str("Matomo has locked out this server's address"),
            Fault::UnknownSite(_) => f.write_str("Matomo does not know the site"),
            Fault::Exhausted(words) => write!(f, "the request is too much for Matomo: {words}"),
            Fault::VisitsLogOff(_) => f.write_str("the visits log of the site is switched off"),
            Fault::Maintenance => f.write_str("Matomo is in maintenance mode"),
            Fault::Transient(words) | Fault::Matomo(words) => {
                write!(f, "Matomo answered with an error: {words}")
            }
            Fault::Status(status) => write!(f, "Matomo answered with HTTP status {status}"),
            Fault::TooLarge(limit) => {
                write!(f, "the answer of Matomo is larger than {limit} bytes")
            }
            Fault::VisitTooLarge(id, limit) => {
                write!(f, "the rows of visit {id} are larger than {limit} bytes")
            }
            Fault::OutOfMemory => f.write_str("out of memory for an answer of Matomo"),
            Fault::OtherSite(visit, site) => {
                write!(f, "unexpected answer of Matomo: visit {visit} is of site {site}")
            }
            Fault::NotJson(what) => write!(f, "the answer of Matomo is not JSON but {what}"),
            Fault::Php(kind) => {
                write!(f, "the answer of Matomo holds a message of PHP: \"{kind}\"")
            }
            Fault::Mixed(what) => write!(f, "the answer of Matomo has {what} its JSON"),
            Fault::Unexpected(what) => write!(f, "unexpected answer of Matomo: {what}"),
        }
    }
}
