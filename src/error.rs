//! What can go wrong, and what the user is told of it: one enum, one table of SQLSTATEs.
//!
//! Texts follow Postgres' style: a lower-case message without a full stop, a DETAIL that gives the
//! facts, a HINT that says what to do. No variant ever holds the token.

use std::fmt;

use chrono::NaiveDate;

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
    /// No connection: refused, no route, unknown host.
    Unreachable(String),
    /// No answer within so many seconds.
    TimedOut(u64),
    /// The TLS handshake failed.
    Tls(String),
    /// The connection broke in the middle of an answer.
    Broken(String),
    /// A redirect, which is never followed; where it points.
    Redirected(String),
    /// HTTP 429; how long Matomo asks to wait, in seconds.
    RateLimited(Option<u64>),
    /// The token is refused.
    TokenRefused(String),
    /// The token is good, but not for this site.
    NoAccess(String),
    /// Too many refused tokens from this address.
    LockedOut(String),
    /// Matomo does not know the site.
    UnknownSite(String),
    /// Matomo ran out of memory or time over the request; its message.
    Exhausted(String),
    /// Matomo's own error message, in an answer of any HTTP status.
    Matomo(String),
    /// An HTTP status that says nothing more.
    Status(u16),
    /// The body is longer than `matomo.max_response_size` (bytes).
    TooLarge(u64),
    /// The body is not the JSON that the method gives; what it is instead.
    NotJson(String),
    /// JSON, but a part of it is not what Matomo sends; which.
    Unexpected(String),
}

/// Every error of the extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// An argument that must not be NULL.
    Null(&'static str),
    /// An argument or a setting that cannot be used.
    Argument { message: String, hint: String },
    /// The destination does not exist.
    NoDestination(String),
    /// The destination is no table; what it is.
    NotATable { name: String, kind: &'static str },
    /// The destination lacks columns.
    MissingColumns { name: String, columns: Vec<String> },
    /// No unique index of the destination can tell one action from another.
    NoUniqueIndex(String),
    /// The role may not do what a sync does with the destination.
    Privilege { name: String, missing: Vec<String> },
    /// Another session syncs the same site into the same destination.
    AlreadyRunning { site: i32, name: String },
    /// The destination holds another visit of the same ID: of another Matomo.
    Collision { name: String, visit: String, other: String },
    /// The database cannot hold what Matomo sends.
    Encoding(String),
    /// A request failed.
    Request { fault: Fault, call: Call },
    /// A fault of our own.
    Internal(String),
}

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

/// SQLSTATEs by name, so that this module needs no Postgres; `report` knows Postgres' constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// 22004
    NullValueNotAllowed,
    /// 22023
    InvalidParameterValue,
    /// 42P01
    UndefinedTable,
    /// 42809
    WrongObjectType,
    /// 42703
    UndefinedColumn,
    /// 42P10
    InvalidColumnReference,
    /// 42501
    InsufficientPrivilege,
    /// 55P03
    LockNotAvailable,
    /// 55000
    ObjectNotInPrerequisiteState,
    /// 0A000
    FeatureNotSupported,
    /// 28000
    InvalidAuthorizationSpecification,
    /// 08001
    UnableToEstablishSqlConnection,
    /// 08006
    ConnectionFailure,
    /// 08P01
    ProtocolViolation,
    /// 53400
    ConfigurationLimitExceeded,
    /// 54000
    ProgramLimitExceeded,
    /// XX000
    InternalError,
}

impl Error {
    /// A range of days whose end lies before its start.
    pub fn reversed(start: NaiveDate, end: NaiveDate) -> Error {
        Error::Argument {
            message: format!("end_date {end} is before start_date {start}"),
            hint: "Both days are included in the range.".to_owned(),
        }
    }

    /// The SQLSTATE.
    pub fn state(&self) -> State {
        match self {
            Error::Null(_) => State::NullValueNotAllowed,
            Error::Argument { .. } => State::InvalidParameterValue,
            Error::NoDestination(_) => State::UndefinedTable,
            Error::NotATable { .. } => State::WrongObjectType,
            Error::MissingColumns { .. } => State::UndefinedColumn,
            Error::NoUniqueIndex(_) => State::InvalidColumnReference,
            Error::Privilege { .. } => State::InsufficientPrivilege,
            Error::AlreadyRunning { .. } => State::LockNotAvailable,
            Error::Collision { .. } => State::ObjectNotInPrerequisiteState,
            Error::Encoding(_) => State::FeatureNotSupported,
            Error::Internal(_) => State::InternalError,
            Error::Request { fault, .. } => match fault {
                Fault::Unreachable(_) | Fault::Tls(_) => State::UnableToEstablishSqlConnection,
                Fault::TimedOut(_) | Fault::Broken(_) => State::ConnectionFailure,
                Fault::TokenRefused(_) | Fault::NoAccess(_) | Fault::LockedOut(_) => {
                    State::InvalidAuthorizationSpecification
                }
                Fault::UnknownSite(_) => State::InvalidParameterValue,
                Fault::RateLimited(_) => State::ConfigurationLimitExceeded,
                Fault::TooLarge(_) | Fault::Exhausted(_) => State::ProgramLimitExceeded,
                Fault::Status(500..) => State::ConnectionFailure,
                Fault::Redirected(_)
                | Fault::Matomo(_)
                | Fault::Status(_)
                | Fault::NotJson(_)
                | Fault::Unexpected(_) => State::ProtocolViolation,
            },
        }
    }

    /// The DETAIL line, if there is more to say than the message.
    pub fn detail(&self) -> Option<String> {
        match self {
            Error::Request { fault, call } => Some(match fault.words_of_matomo() {
                Some(words) => format!("{call} Matomo says: {words}"),
                None => call.to_string(),
            }),
            Error::MissingColumns { columns, .. } => {
                Some(format!("Missing: {}.", columns.join(", ")))
            }
            Error::Privilege { missing, .. } => {
                Some(format!("Privileges missing: {}.", missing.join(", ")))
            }
            Error::NoUniqueIndex(_) => Some(
                "A sync needs a valid unique index, neither partial nor deferrable, on action_id, \
                 alone or with action_timestamp, idsite or idvisit."
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// The HINT line: what to do.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Null(_) | Error::Internal(_) => return None,
            Error::Argument { hint, .. } if hint.is_empty() => return None,
            Error::Argument { hint, .. } => hint.clone(),
            Error::NoDestination(name) => {
                let quoted = name.replace('\'', "''");
                format!("Create it with SELECT matomo_create_table('{quoted}').")
            }
            Error::NotATable { .. } => {
                "Give the name of a table, partitioned or not.".to_owned()
            }
            Error::MissingColumns { .. } => {
                "Add them with ALTER TABLE ... ADD COLUMN, with the types of the table matomo_action."
                    .to_owned()
            }
            Error::NoUniqueIndex(name) => format!(
                "CREATE UNIQUE INDEX ON {name} (action_id), or (action_id, action_timestamp) where \
                 the table is partitioned by action_timestamp."
            ),
            Error::Privilege { name, .. } => {
                format!("Ask the owner of {name} to GRANT them.")
            }
            Error::AlreadyRunning { .. } => {
                "Wait for it to end, or look for it in pg_stat_activity.".to_owned()
            }
            Error::Collision { .. } => {
                "idVisit is unique only within one Matomo: give each Matomo a table of its own. If a \
                 Matomo has moved, update the column matomo of matomo_ledger."
                    .to_owned()
            }
            Error::Encoding(_) => "Use a database with encoding UTF8.".to_owned(),
            Error::Request { fault, .. } => fault.hint().to_owned(),
        };
        Some(text)
    }

    /// Whether Matomo, or a gateway before it, may have given up over the size of the request.
    pub fn is_overload(&self) -> bool {
        matches!(
            self,
            Error::Request {
                fault: Fault::TimedOut(_)
                    | Fault::Exhausted(_)
                    | Fault::TooLarge(_)
                    | Fault::Status(502 | 504),
                ..
            }
        )
    }

    /// Whether the same request may succeed in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            // Any 5xx may pass, but for what Matomo says will not.
            Error::Request { fault: Fault::Matomo(_), call } => call.status >= Some(500),
            Error::Request { fault, .. } => matches!(
                fault,
                Fault::Unreachable(_)
                    | Fault::TimedOut(_)
                    | Fault::Broken(_)
                    | Fault::RateLimited(_)
                    | Fault::Status(500..)
            ),
            _ => false,
        }
    }
}

impl Fault {
    fn words_of_matomo(&self) -> Option<&str> {
        match self {
            Fault::TokenRefused(words)
            | Fault::NoAccess(words)
            | Fault::LockedOut(words)
            | Fault::UnknownSite(words)
                if !words.is_empty() =>
            {
                Some(words)
            }
            _ => None,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Fault::Unreachable(_) => "Check the URL, and that the database server may reach it.",
            Fault::TimedOut(_) => "Lower matomo.page_size, or raise matomo.request_timeout.",
            Fault::Tls(_) => {
                "Check the certificate of the Matomo; a private CA belongs into the system's store \
                 or into the file that matomo.ca_file names."
            }
            Fault::Broken(_) => "Try again; if it lasts, lower matomo.page_size.",
            Fault::Redirected(_) => {
                "Give the URL that the redirect points to. A redirect is never followed: the token \
                 would be lost or go astray."
            }
            Fault::RateLimited(_) => "Wait, then try again; ask less often.",
            Fault::TokenRefused(_) => {
                "Check the key: a token_auth of Matomo (Personal > Security > Auth tokens). After \
                 some 18 refused tokens Matomo locks out this server's address."
            }
            Fault::NoAccess(_) => {
                "Give the token's user at least view access to the site; check the key too."
            }
            Fault::LockedOut(_) => {
                "Matomo refuses every token from this address for up to an hour. Mend the key, then \
                 wait, or unblock the address in Matomo (Administration > Brute Force)."
            }
            Fault::UnknownSite(_) => {
                "Check the site's ID in Matomo (Administration > Measurables > Manage)."
            }
            Fault::Exhausted(_) => "Lower matomo.page_size.",
            Fault::Matomo(_) => "The message is Matomo's own; look there.",
            Fault::Status(_) => {
                "Look into the log of the Matomo and of the proxies in front of it."
            }
            Fault::TooLarge(_) => "Lower matomo.page_size, or raise matomo.max_response_size.",
            Fault::NotJson(_) => {
                "Check that the URL is that of a Matomo, with its folder and nothing behind it."
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
            Fault::Unreachable(why) => write!(f, "could not connect to Matomo: {why}"),
            Fault::TimedOut(seconds) => write!(f, "Matomo did not answer within {seconds} s"),
            Fault::Tls(why) => write!(f, "could not connect to Matomo over TLS: {why}"),
            Fault::Broken(why) => write!(f, "the answer of Matomo broke off: {why}"),
            Fault::Redirected(to) => write!(f, "Matomo redirects to \"{to}\""),
            Fault::RateLimited(Some(wait)) => {
                write!(f, "Matomo limits the rate of requests: wait {wait} s")
            }
            Fault::RateLimited(None) => f.write_str("Matomo limits the rate of requests"),
            Fault::TokenRefused(_) => f.write_str("Matomo refused the token"),
            Fault::NoAccess(_) => f.write_str("the token has no access to the site"),
            Fault::LockedOut(_) => f.write_str("Matomo has locked out this server's address"),
            Fault::UnknownSite(_) => f.write_str("Matomo does not know the site"),
            Fault::Exhausted(words) => write!(f, "the request is too much for Matomo: {words}"),
            Fault::Matomo(words) => write!(f, "Matomo answered with an error: {words}"),
            Fault::Status(status) => write!(f, "Matomo answered with HTTP status {status}"),
            Fault::TooLarge(limit) => {
                write!(f, "the answer of Matomo is larger than {limit} bytes")
            }
            Fault::NotJson(what) => write!(f, "the answer of Matomo is not JSON but {what}"),
            Fault::Unexpected(what) => write!(f, "unexpected answer of Matomo: {what}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Null(argument) => write!(f, "argument \"{argument}\" must not be null"),
            Error::Argument { message, .. } => f.write_str(message),
            Error::NoDestination(name) => write!(f, "destination \"{name}\" does not exist"),
            Error::NotATable { name, kind } => write!(f, "destination \"{name}\" is {kind}"),
            Error::MissingColumns { name, .. } => write!(f, "destination \"{name}\" lacks columns"),
            Error::NoUniqueIndex(name) => {
                write!(f, "destination \"{name}\" has no usable unique index")
            }
            Error::Privilege { name, .. } => write!(f, "permission denied for table {name}"),
            Error::AlreadyRunning { site, name } => {
                write!(f, "site {site} is being synced into \"{name}\" by another session")
            }
            Error::Collision { name, visit, other } => {
                write!(f, "destination \"{name}\" holds another visit {visit}, of {other}")
            }
            Error::Encoding(name) => write!(f, "database encoding {name} is not supported"),
            Error::Request { fault, .. } => fault.fmt(f),
            Error::Internal(what) => write!(f, "internal error: {what}"),
        }
    }
}
