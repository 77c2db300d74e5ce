//! All errors, with their SQLSTATEs and messages.
//!
//! Texts follow Postgres' style: a lower-case message without a full stop, a DETAIL with the facts,
//! a HINT that says what to do. No variant ever contains the token.

mod busy;
mod fault;
mod host_refusal;
mod other_matomo;
mod other_version;
mod quoted;
mod site_error;
mod sql_state;

use std::fmt;

use chrono::NaiveDate;

pub use crate::error::busy::{Busy, LockHolder, MissingPartitions};
pub use crate::error::fault::{Call, Fault};
pub use crate::error::host_refusal::{HostRefusal, RefusalReason};
pub use crate::error::other_matomo::OtherMatomo;
pub use crate::error::other_version::OtherVersion;
pub use crate::error::site_error::SiteError;
pub use crate::error::sql_state::SqlState;

/// Every error of the extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// An argument that must not be NULL.
    Null(&'static str),
    /// An invalid argument or setting.
    Argument { message: String, hint: String },
    /// The destination does not exist.
    NoDestination(String),
    /// Something was created after the transaction's snapshot, as with REPEATABLE READ; what.
    TooNew(String),
    /// The destination was renamed during a sync.
    Renamed(String),
    /// The destination is not a table; what it is.
    NotATable { name: String, kind: &'static str },
    /// The destination lacks columns.
    MissingColumns { name: String, columns: Vec<String> },
    /// The destination has no suitable unique index on actions.
    NoUniqueIndex { name: String, identity: String, time: &'static str },
    /// The role lacks privileges on the destination.
    Privilege { name: String, missing: Vec<String> },
    /// Policies may hide rows of a table from a role that must see them all.
    RowSecurity(String),
    /// An erasure without a visitor.
    NoVisitor,
    /// Another session conflicts.
    Busy(Busy),
    /// An erasure that cannot see rows committed after the transaction's snapshot.
    OldSnapshot,
    /// The destination belongs to another Matomo.
    OtherMatomo(OtherMatomo),
    /// Sealed days of the destination do not match `matomo.action_time`.
    OtherActionTime { name: String, kind: &'static str, first: NaiveDate, last: NaiveDate },
    /// A stored visit is not Matomo's visit of the same ID: site and day of the stored one, and
    /// Matomo's day.
    OtherVisit {
        name: String,
        visit: i64,
        stored: (String, Option<NaiveDate>),
        asked: Option<NaiveDate>,
    },
    /// A query does not find all rows that were written; what keeps them, if not Postgres itself.
    NotSeen { name: String, engine: Option<String>, written: i64, seen: i64 },
    /// Postgres cannot convert UTF-8 to the database's encoding.
    Encoding(String),
    /// The library and the extension's SQL objects are of different versions.
    OtherVersion(OtherVersion),
    /// An error of a server, user mapping, registered site or run.
    Site(SiteError),
    /// A request to Matomo failed.
    Request { fault: Fault, call: Call },
    /// A bug.
    Internal(String),
}

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl From<Busy> for Error {
    fn from(busy: Busy) -> Error {
        Error::Busy(busy)
    }
}

impl Error {
    /// A range of days that ends before its start.
    pub fn reversed(start: NaiveDate, end: NaiveDate) -> Error {
        Error::Argument {
            message: format!("end_date {end} is before start_date {start}"),
            hint: "Give an end_date from start_date on; the range includes both days.".to_owned(),
        }
    }

    /// A blank token; where it was given.
    pub fn empty_token(what: &str) -> Error {
        Error::Argument {
            message: format!("{what} is empty"),
            hint: "Give a token_auth of Matomo (Personal > Security > Auth tokens).".to_owned(),
        }
    }

    /// The SQLSTATE.
    pub fn state(&self) -> SqlState {
        match self {
            Error::Null(_) | Error::NoVisitor => SqlState::NullValueNotAllowed,
            Error::Argument { .. } => SqlState::InvalidParameterValue,
            Error::NoDestination(_) => SqlState::UndefinedTable,
            Error::NotATable { .. } => SqlState::WrongObjectType,
            Error::MissingColumns { .. } => SqlState::UndefinedColumn,
            Error::NoUniqueIndex { .. } => SqlState::InvalidColumnReference,
            Error::Privilege { .. } | Error::RowSecurity(_) => SqlState::InsufficientPrivilege,
            Error::Busy(_) => SqlState::LockNotAvailable,
            Error::OtherMatomo(_)
            | Error::OtherActionTime { .. }
            | Error::OtherVersion(_)
            | Error::OtherVisit { .. }
            | Error::Renamed(_) => SqlState::ObjectNotInPrerequisiteState,
            Error::NotSeen { .. } | Error::Encoding(_) | Error::OldSnapshot => {
                SqlState::FeatureNotSupported
            }
            Error::TooNew(_) => SqlState::SerializationFailure,
            Error::Site(error) => error.state(),
            Error::Internal(_) => SqlState::InternalError,
            Error::Request { fault, .. } => match fault {
                Fault::Forbidden(_) => SqlState::InsufficientPrivilege,
                Fault::Unreachable(_) | Fault::Tls(_) | Fault::NoTls(_) => {
                    SqlState::UnableToEstablishSqlConnection
                }
                Fault::TimedOut(_) | Fault::Broken(_) => SqlState::ConnectionFailure,
                Fault::Maintenance => SqlState::ConnectionFailure,
                Fault::TokenRefused(_)
                | Fault::NoAccess(_)
                | Fault::AddressRefused(_)
                | Fault::LockedOut(_)
                | Fault::Status(401 | 407) => SqlState::InvalidAuthorizationSpecification,
                Fault::VisitsLogOff(_) => SqlState::ObjectNotInPrerequisiteState,
                Fault::UnknownSite(_) => SqlState::InvalidParameterValue,
                Fault::RateLimited(_) => SqlState::ConfigurationLimitExceeded,
                Fault::TooLarge(_) | Fault::VisitTooLarge(..) | Fault::Exhausted(_) => {
                    SqlState::ProgramLimitExceeded
                }
                Fault::OutOfMemory => SqlState::OutOfMemory,
                Fault::Status(500..) => SqlState::ConnectionFailure,
                Fault::NotHttp(_)
                | Fault::Redirected(_)
                | Fault::NeedsTls(_)
                | Fault::Transient(_)
                | Fault::Matomo(_)
                | Fault::Status(_)
                | Fault::NotJson(_)
                | Fault::Php(_)
                | Fault::Mixed(_)
                | Fault::OtherSite(..)
                | Fault::Unexpected(_) => SqlState::ProtocolViolation,
            },
        }
    }

    /// The DETAIL, if any.
    pub fn detail(&self) -> Option<String> {
        match self {
            Error::Request { fault, call } => Some(match fault.detail() {
                Some(more) => format!("{call} {more}"),
                None => call.to_string(),
            }),
            Error::MissingColumns { columns, .. } => {
                Some(format!("Missing: {}.", columns.join(", ")))
            }
            Error::Privilege { missing, .. } => {
                Some(format!("Privileges missing: {}.", missing.join(", ")))
            }
            Error::OtherActionTime { kind, first, last, .. } => {
                Some(format!("From {first} to {last} it was '{kind}'."))
            }
            Error::NoUniqueIndex { identity, time, .. } => Some(format!(
                "A sync needs a valid unique index, neither partial nor deferrable, on {identity}, \
                 alone or with {time}, idsite or idvisit."
            )),
            Error::NotSeen { written, seen, .. } => {
                Some(format!("A query of the table finds {seen} of {written} rows."))
            }
            Error::OtherVisit { stored: (site, day), asked, .. } => {
                let on = |day: &Option<NaiveDate>| {
                    day.map_or_else(|| "at no known time".to_owned(), |day| format!("on {day}"))
                };
                Some(format!(
                    "The stored visit, of site {site}, began {}, Matomo's {}; they have neither the \
                     visitor nor the time of an action in common.",
                    on(day),
                    on(asked)
                ))
            }
            Error::RowSecurity(_) => Some("Rows that a policy hides would be skipped.".to_owned()),
            Error::Site(error) => error.detail(),
            _ => None,
        }
    }

    /// The HINT, if any.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Null(_) | Error::Internal(_) => return None,
            Error::Site(error) => return error.hint(),
            Error::OtherVersion(versions) => versions.hint().to_owned(),
            Error::Argument { hint, .. } if hint.is_empty() => return None,
            Error::Argument { hint, .. } => hint.clone(),
            Error::NoDestination(name) => {
                let quoted = name.replace('\'', "''");
                format!("Create it with SELECT matomo_create_table('{quoted}').")
            }
            Error::TooNew(_) => "Try the transaction again.".to_owned(),
            Error::Renamed(_) => "Try it again.".to_owned(),
            Error::NotATable { .. } => {
                "Give the name of a table, partitioned or not.".to_owned()
            }
            Error::MissingColumns { .. } => {
                "Add them with ALTER TABLE ... ADD COLUMN, with the types of the table matomo_action."
                    .to_owned()
            }
            Error::NoUniqueIndex { name, identity, time } => format!(
                "CREATE UNIQUE INDEX ON {name} ({identity}), or ({identity}, {time}) where the table \
                 is partitioned by {time}."
            ),
            Error::Privilege { name, .. } => {
                format!("Ask the owner of {name} to GRANT them.")
            }
            Error::RowSecurity(_) => {
                "Use a role to which no policy applies, such as the table's owner.".to_owned()
            }
            Error::NoVisitor => "Name the visitor by one of them, or by several.".to_owned(),
            Error::Busy(busy) => busy.hint(),
            Error::OldSnapshot => "Call it in a READ COMMITTED transaction.".to_owned(),
            Error::OtherMatomo(other) => other.hint(),
            Error::OtherActionTime { kind, first, last, .. } => format!(
                "Set matomo.action_time to '{kind}' again, or read these days again with \
                 matomo_sync(..., start_date => '{first}', end_date => '{last}', force => true)."
            ),
            Error::OtherVisit { name, .. } => format!(
                "Use another table if Matomo's IDs restarted, as after a new installation; or remove \
                 the older visits: CALL matomo_drop_before('{}', '...').",
                name.replace('\'', "''")
            ),
            Error::NotSeen { engine, .. } => format!(
                "Use an ordinary Postgres table, partitioned or not: {} stores the rows of this one \
                 elsewhere. docs/scale.md has what else can be a destination.",
                engine.as_deref().unwrap_or("an extension")
            ),
            Error::Encoding(_) => "Use a database with encoding UTF8.".to_owned(),
            Error::Request { fault, .. } => fault.hint().to_owned(),
        };
        Some(text)
    }

    /// Whether the request may have been too large for Matomo, a gateway, or this server.
    pub fn is_overload(&self) -> bool {
        matches!(
            self,
            Error::Request {
                fault: Fault::TimedOut(_)
                    | Fault::Exhausted(_)
                    | Fault::TooLarge(_)
                    | Fault::OutOfMemory
                    | Fault::Status(502 | 504),
                ..
            }
        )
    }

    /// Whether the same request may succeed in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            // Any 5xx may be transient, unless Matomo's message says otherwise.
            Error::Request { fault: Fault::Matomo(_), call } => call.status >= Some(500),
            Error::Request { fault, .. } => matches!(
                fault,
                Fault::Unreachable(_)
                    | Fault::TimedOut(_)
                    | Fault::Broken(_)
                    | Fault::RateLimited(_)
                    | Fault::Maintenance
                    | Fault::Transient(_)
                    | Fault::Status(408 | 500..)
            ),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Null(argument) => write!(f, "argument \"{argument}\" must not be null"),
            Error::Argument { message, .. } => f.write_str(message),
            Error::NoDestination(name) => write!(f, "destination \"{name}\" does not exist"),
            Error::TooNew(what) => {
                write!(f, "could not serialize access: {what} is newer than the transaction")
            }
            Error::Renamed(name) => write!(f, "destination \"{name}\" was renamed meanwhile"),
            Error::NotATable { name, kind } => write!(f, "destination \"{name}\" is {kind}"),
            Error::MissingColumns { name, .. } => write!(f, "destination \"{name}\" lacks columns"),
            Error::NoUniqueIndex { name, .. } => {
                write!(f, "destination \"{name}\" has no usable unique index")
            }
            Error::RowSecurity(name) => {
                write!(f, "row-level security may hide rows of table {name}")
            }
            Error::NoVisitor => f.write_str("none of visitorid, userid and visitip is given"),
            Error::Privilege { name, .. } => write!(f, "permission denied for table {name}"),
            Error::Busy(busy) => busy.fmt(f),
            Error::OldSnapshot => f.write_str(
                "rows cannot be removed in a transaction that does not see what others have committed",
            ),
            Error::OtherMatomo(other) => other.fmt(f),
            Error::OtherActionTime { name, .. } => {
                write!(
                    f,
                    "destination \"{name}\" was filled with another matomo.action_time"
                )
            }
            Error::OtherVisit { name, visit, .. } => {
                write!(f, "destination \"{name}\" holds a different visit {visit} than Matomo")
            }
            Error::NotSeen { name, .. } => {
                write!(f, "rows written to \"{name}\" are not visible in it")
            }
            Error::Encoding(name) => write!(f, "database encoding {name} is not supported"),
            Error::OtherVersion(versions) => versions.fmt(f),
            Error::Site(error) => error.fmt(f),
            Error::Request { fault, .. } => fault.fmt(f),
            Error::Internal(what) => write!(f, "internal error: {what}"),
        }
    }
}

impl From<SiteError> for Error {
    fn from(error: SiteError) -> Error {
        Error::Site(error)
    }
}
