//! How requests to Matomo fail, and what the user is told of it. Pure.

use std::fmt;

use chrono::NaiveDate;

use super::host_refusal::HostRefusal;

/// The request that an error speaks of; becomes the DETAIL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Call {
    /// The Matomo API method, such as `Live.getLastVisitsDetails`.
    pub method: &'static str,
    /// idSite.
    pub site: i32,
    /// The site-day asked for, if the method takes one.
    pub day: Option<NaiveDate>,
    /// Scheme, host and port of the Matomo.
    pub host: String,
    /// The HTTP status of the answer, if there was one.
    pub status: Option<u16>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Method {}, site {} at {}", self.method, self.site, self.host)?;
        if let Some(day) = self.day {
            write!(f, ", day {day}")?;
        }
        if let Some(status) = self.status {
            write!(f, ", HTTP status {status}")?;
        }
        f.write_str(".")
    }
}

/// How a request to Matomo failed. Texts from outside are already free of the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No connection is made to that host: the settings forbid it.
    Forbidden(Box<HostRefusal>),
    /// No connection: refused, no route, unknown host.
    Unreachable(String),
    /// No answer within so many seconds.
    TimedOut(u64),
    /// The TLS handshake failed.
    Tls(String),
    /// The port does not speak TLS.
    NoTls(u16),
    /// The connection broke in the middle of an answer.
    Broken(String),
    /// The answer is not HTTP, or bad HTTP; what is wrong with it.
    NotHttp(String),
    /// A redirect, which is never followed; where it points.
    Redirected(String),
    /// HTTP 429; how long Matomo asks to wait, in seconds.
    RateLimited(Option<u64>),
    /// It redirects to HTTPS (`force_ssl`); where.
    NeedsTls(String),
    /// The token is refused, for the question that every token may ask.
    TokenRefused(String),
    /// Refused for this site.
    NoAccess(String),
    /// Matomo does not let this server's address in (`login_allowlist_ip`).
    AddressRefused(String),
    /// Too many refused tokens from this address.
    LockedOut(String),
    /// Matomo does not know the site.
    UnknownSite(String),
    /// Matomo ran out of memory or time over the request; its message.
    Exhausted(String),
    /// Matomo keeps no visits log for the site, or shows none.
    VisitsLogOff(String),
    /// Matomo is in maintenance mode.
    Maintenance,
    /// An error of Matomo that may pass, such as of its database; its message.
    Passing(String),
    /// Matomo's own error message, in an answer of any HTTP status.
    Matomo(String),
    /// An HTTP status that says nothing more.
    Status(u16),
    /// The body is longer than `matomo.max_response_size` (bytes).
    TooLarge(u64),
    /// The rows of a visit (idVisit) are longer than that too.
    VisitTooLarge(i64, u64),
    /// This server has no memory for an answer.
    OutOfMemory,
    /// A visit (idVisit) of another site (idSite) than the one asked for, which is no roll-up.
    OtherSite(i64, i64),
    /// The body is not the JSON that the method gives; what it is instead.
    NotJson(String),
    /// A message of PHP in the answer; its kind.
    Php(&'static str),
    /// JSON, and more than that; what, and on which side.
    Mixed(&'static str),
    /// JSON, but a part of it is not what Matomo sends; which.
    Unexpected(String),
}

impl Fault {
    /// What completes the DETAIL: Matomo's own words where the message is not theirs, the rule
    /// that was broken.
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

    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Fault::Forbidden(refusal) => refusal.hint(),
            Fault::Unreachable(_) => "Check the URL, and that the database server may reach it.",
            Fault::TimedOut(_) => "Lower matomo.page_size, or raise matomo.request_timeout.",
            Fault::Tls(_) => {
                "Check the certificate of the Matomo; a private CA, or a self-signed certificate, \
                 belongs into the system's store or into the file that matomo.ca_file names."
            }
            Fault::NoTls(_) => {
                "Check the scheme and the port of the URL: https needs a port with TLS, usually 443."
            }
            Fault::NotHttp(_) => "Check the scheme and the port of the URL.",
            Fault::Broken(_) => "Try again; if it lasts, lower matomo.page_size.",
            Fault::Redirected(_) => {
                "Give the URL that the redirect points to. A redirect is never followed: the token \
                 would be lost or go astray."
            }
            Fault::NeedsTls(_) => {
                "Begin the URL with https: this Matomo takes no plain HTTP (force_ssl)."
            }
            Fault::RateLimited(_) => "Wait, then try again; ask less often.",
            Fault::TokenRefused(_) => {
                "Check the key: a token_auth of Matomo (Personal > Security > Auth tokens). After \
                 some 18 refused tokens Matomo locks out this server's address."
            }
            Fault::NoAccess(_) => {
                "Give the token's user at least view access to the site; check the key too."
            }
            Fault::AddressRefused(_) => {
                "Add the address to login_allowlist_ip[] in Matomo's config.ini.php, or set \
                 login_allowlist_apply_to_reporting_api_requests = 0 there."
            }
            Fault::LockedOut(_) => {
                "Matomo refuses every token from this address for up to an hour. Mend the key, then \
                 wait, or unblock the address in Matomo (Administration > Brute Force)."
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
                "Wait until it is over: maintenance_mode in Matomo's config.ini.php ends it."
            }
            Fault::Passing(_) => "Try again; if it lasts, look into the log of the Matomo.",
            Fault::Matomo(_) => "The message is Matomo's own; look there.",
            Fault::Status(404) => {
                "Check the folder in the URL: that of Matomo's own pages, such as \
                 https://www.example.org/matomo, without matomo.php or anything else behind it."
            }
            Fault::Status(401 | 407) => {
                "Look for what asks for a password in front of the Matomo: it is not Matomo that \
                 answers so."
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
                "Visits of other sites are taken only where Matomo says that the site is a roll-up: \
                 check the URL, and Matomo's plugins."
            }
            Fault::NotJson(_) => {
                "Check that the URL is that of a Matomo, with its folder and nothing behind it, such \
                 as matomo.php."
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
                "Check the versions of Matomo and of its plugins, and report the message."
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
            Fault::AddressRefused(_) => f.write_str("Matomo does not let this server's address in"),
            Fault::LockedOut(_) => f.write_str("Matomo has locked out this server's address"),
            Fault::UnknownSite(_) => f.write_str("Matomo does not know the site"),
            Fault::Exhausted(words) => write!(f, "the request is too much for Matomo: {words}"),
            Fault::VisitsLogOff(_) => f.write_str("the visits log of the site is switched off"),
            Fault::Maintenance => f.write_str("Matomo is in maintenance mode"),
            Fault::Passing(words) | Fault::Matomo(words) => {
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
