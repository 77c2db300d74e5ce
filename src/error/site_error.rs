//! Errors of servers, user mappings, registered sites and their runs. Pure.

use std::fmt;
use std::time::Duration;

use super::quoted::quoted;
use super::sql_state::SqlState;

/// An error of stored configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SiteError {
    /// An unknown option, and the valid ones.
    InvalidOption { name: String, valid: Vec<&'static str> },
    /// A required option.
    MissingOption(&'static str),
    /// An option that only superusers may set.
    SuperuserOption(&'static str),
    /// The foreign server does not exist; the registered site that has it, if any.
    NoServer { name: String, site: Option<i32> },
    /// The foreign server has another foreign-data wrapper.
    NotOurServer(String),
    /// The user lacks USAGE on the server.
    ServerPrivilege { server: String, user: String },
    /// The user has no user mapping.
    NoMapping { server: String, user: String },
    /// The user mapping has no token; `None` is the mapping of PUBLIC.
    NoToken { server: String, user: Option<String> },
    /// The registered site does not exist.
    NoSite(i32),
    /// The registered site has another owner.
    SitePrivilege { site: i32, owner: String },
    /// The user may not call the procedures.
    ProcedurePrivilege,
    /// The user may not SET ROLE to a new owner.
    RolePrivilege(String),
    /// The role does not exist.
    NoRole(String),
    /// The site is already registered for this destination; whether the user has its owner's rights.
    Registered { server: String, site: i32, destination: String, is_yours: bool },
    /// The destination of a registered site was dropped, or not restored; its last known name.
    NoDestination { site: i32, table: String },
    /// A companion belongs to another role than its destination, its name and that role.
    CompanionOwner { name: String, owner: String },
    /// The destination is a temporary table.
    TemporaryDestination(String),
    /// The owner of a registered site was dropped, or not restored; its last known name.
    NoOwner { site: i32, role: String },
    /// Matomo has refused this token before.
    RefusedBefore { server: String, site: i32, user: String },
    /// A procedure that commits was called in a transaction block.
    InTransactionBlock(String),
    /// A procedure that commits was called in a function.
    InFunction(String),
    /// The run no longer exists.
    NoRun(i64),
    /// Another session has changed the registered site meanwhile.
    SiteChanged(i32),
    /// A trigger has kept rows that were to be deleted.
    RowsKept(String),
    /// A foreign table is several tables on its server, whose rows share their ctids.
    SharedCtids(String),
    /// An instant of a table of Citus has no timezone: the table, the column.
    NoTimezone { table: String, column: &'static str },
    /// The transaction has already read from the foreign server and may see stale rows.
    SeenBefore(String),
    /// The session has temporary objects, which triggers of a table of another role would find by name.
    TemporaryObjects(String),
    /// It is not known which Matomo a site is of: the site, its server.
    NoMatomo(i32, String),
    /// No slot is left for a process that would sync a site.
    NoProcess { site: i32, at_work: usize, hint: &'static str },
    /// Work for a site made no progress for this long.
    NoProgress(Duration),
}

impl SiteError {
    /// The SQLSTATE.
    pub fn state(&self) -> SqlState {
        match self {
            SiteError::InvalidOption { .. } => SqlState::FdwInvalidOptionName,
            SiteError::MissingOption(_) => SqlState::FdwDynamicParameterValueNeeded,
            SiteError::SuperuserOption(_)
            | SiteError::ServerPrivilege { .. }
            | SiteError::SitePrivilege { .. }
            | SiteError::ProcedurePrivilege
            | SiteError::CompanionOwner { .. }
            | SiteError::RolePrivilege(_) => SqlState::InsufficientPrivilege,
            SiteError::NoServer { .. }
            | SiteError::NoSite(_)
            | SiteError::NoRole(_)
            | SiteError::NoOwner { .. } => SqlState::UndefinedObject,
            SiteError::NotOurServer(_)
            | SiteError::TemporaryDestination(_)
            | SiteError::NoTimezone { .. }
            | SiteError::SharedCtids(_) => SqlState::WrongObjectType,
            SiteError::NoMapping { .. }
            | SiteError::NoToken { .. }
            | SiteError::RefusedBefore { .. } => SqlState::InvalidAuthorizationSpecification,
            SiteError::Registered { .. } => SqlState::UniqueViolation,
            SiteError::NoDestination { .. } => SqlState::UndefinedTable,
            SiteError::InTransactionBlock(_) | SiteError::InFunction(_) => {
                SqlState::ActiveSqlTransaction
            }
            SiteError::NoRun(_)
            | SiteError::RowsKept(_)
            | SiteError::TemporaryObjects(_)
            | SiteError::NoMatomo(..) => SqlState::ObjectNotInPrerequisiteState,
            SiteError::SeenBefore(_) => SqlState::FeatureNotSupported,
            SiteError::SiteChanged(_) => SqlState::SerializationFailure,
            SiteError::NoProcess { .. } => SqlState::ConfigurationLimitExceeded,
            SiteError::NoProgress(_) => SqlState::QueryCanceled,
        }
    }

    /// The HINT.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            SiteError::InvalidOption { valid, .. } if valid.is_empty() => {
                "There are no valid options in this context.".to_owned()
            }
            SiteError::InvalidOption { valid, .. } => {
                format!("Valid options in this context are: {}.", valid.join(", "))
            }
            SiteError::MissingOption(_) => {
                "CREATE SERVER ... FOREIGN DATA WRAPPER matomo OPTIONS (url \
                 'https://analytics.example.org')."
                    .to_owned()
            }
            SiteError::NoToken { server, user } => format!(
                "ALTER USER MAPPING FOR {} SERVER {} OPTIONS (ADD token '...').",
                user.as_deref().map_or_else(|| "PUBLIC".to_owned(), quoted),
                quoted(server)
            ),
            SiteError::SuperuserOption(_) => "Ask a superuser to set it.".to_owned(),
            SiteError::NoServer { name, site } => {
                let create = format!(
                    "CREATE SERVER {} FOREIGN DATA WRAPPER matomo OPTIONS (url '...')",
                    quoted(name)
                );
                match site {
                    Some(site) => format!(
                        "{create}; or, if it has another name now, SELECT matomo_alter_site({site}, server => '...')."
                    ),
                    None => create + ".",
                }
            }
            SiteError::NotOurServer(_) => {
                "Name a server of the foreign-data wrapper matomo.".to_owned()
            }
            SiteError::ServerPrivilege { server, user } => format!(
                "Ask the owner of the server to GRANT USAGE ON FOREIGN SERVER {} TO {}.",
                quoted(server),
                quoted(user)
            ),
            SiteError::NoMapping { server, user } => format!(
                "CREATE USER MAPPING FOR {} SERVER {} OPTIONS (token '...').",
                quoted(user),
                quoted(server)
            ),
            SiteError::NoSite(_) => "Look up the ID in the view matomo_sites.".to_owned(),
            SiteError::SitePrivilege { owner, .. } => {
                format!("SET ROLE {} first, or ask that role, its owner.", quoted(owner))
            }
            SiteError::ProcedurePrivilege => {
                "Ask a superuser to GRANT EXECUTE ON PROCEDURE matomo_sync_site, matomo_sync_all."
                    .to_owned()
            }
            SiteError::RolePrivilege(_) | SiteError::NoRole(_) => {
                "Name a role that you may SET ROLE to.".to_owned()
            }
            SiteError::Registered { is_yours: true, .. } => {
                "Change it with matomo_alter_site; the view matomo_sites has its ID.".to_owned()
            }
            SiteError::Registered { .. } => {
                "Ask an administrator, or name another destination.".to_owned()
            }
            SiteError::NoDestination { site, .. } => format!(
                "Give it another one with SELECT matomo_alter_site({site}, destination => '...'), or \
                 remove it with matomo_remove_site."
            ),
            SiteError::CompanionOwner { name, owner } => {
                format!("ALTER TABLE {name} OWNER TO {}.", quoted(owner))
            }
            SiteError::TemporaryDestination(_) => "Name a permanent table.".to_owned(),
            SiteError::NoOwner { site, .. } => {
                format!(
                    "Give it another one with SELECT matomo_alter_site({site}, owner => '...')."
                )
            }
            SiteError::RefusedBefore { server, site, user } => format!(
                "Fix it with ALTER USER MAPPING FOR {} SERVER {} OPTIONS (SET token '...'); or, if \
                 the token is good now, retry with SELECT matomo_alter_site({site}).",
                quoted(user),
                quoted(server)
            ),
            SiteError::InTransactionBlock(what) | SiteError::InFunction(what) => {
                let alone = "CALL it outside of transaction blocks and functions";
                match what.starts_with("matomo_sync") {
                    true => format!("{alone}; or use matomo_sync, which runs in a transaction."),
                    false => format!("{alone}."),
                }
            }
            SiteError::NoRun(_) => "CALL matomo_sync_site or matomo_sync_all.".to_owned(),
            SiteError::SiteChanged(_) => "Look at it in matomo_sites, and try again.".to_owned(),
            SiteError::RowsKept(_) => {
                "Remove what prevents it, such as a trigger on DELETE, or delete these rows yourself."
                    .to_owned()
            }
            SiteError::SharedCtids(_) => {
                "Make a foreign table of each partition there: postgres_fdw changes rows by their place, \
                 which rows of several partitions share."
                    .to_owned()
            }
            SiteError::NoTimezone { table, column } => format!(
                "ALTER TABLE {table} ALTER {column} TYPE timestamptz USING {column} AT TIME ZONE 'UTC': \
                 nodes of Citus may have other timezones."
            ),
            SiteError::SeenBefore(_) => "Call it in a transaction of its own, and in a statement that \
                                         does not look at the table."
                .to_owned(),
            SiteError::TemporaryObjects(_) => "DISCARD TEMP, or call it in a new session: the triggers of \
                                               the table have its owner's rights."
                .to_owned(),
            SiteError::NoMatomo(_, server) => {
                format!("Create server {} again, with its url.", quoted(server))
            }
            SiteError::NoProcess { hint, .. } => (*hint).to_owned(),
            SiteError::NoProgress(_) => {
                "Look for a slow trigger or index of the destination; or lower matomo.page_size, or \
                 raise matomo.request_timeout if its triggers need that long."
                    .to_owned()
            }
        })
    }

    /// The DETAIL, if any.
    pub fn detail(&self) -> Option<String> {
        match self {
            SiteError::RefusedBefore { .. } => Some(
                "The same token is not sent again: after some 18 refused tokens Matomo locks out \
                 this server's address."
                    .to_owned(),
            ),
            SiteError::SuperuserOption(_) => Some("The server reads a file for it.".to_owned()),
            SiteError::Registered { is_yours: false, .. } => {
                Some("It is registered by another role.".to_owned())
            }
            SiteError::InTransactionBlock(_) | SiteError::InFunction(_) => {
                Some("It commits as it goes.".to_owned())
            }
            SiteError::CompanionOwner { .. } => Some(
                "Its triggers would run with the rights of the destination's owner.".to_owned(),
            ),
            SiteError::NoProcess { at_work, .. } => {
                Some(format!("{at_work} sites are being synced."))
            }
            SiteError::NoDestination { table: name, .. } => {
                Some(format!("The last known name of the table is {name}."))
            }
            SiteError::NoOwner { role: name, .. } => {
                Some(format!("The last known name of the role is {}.", quoted(name)))
            }
            _ => None,
        }
    }
}

impl fmt::Display for SiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SiteError::InvalidOption { name, .. } => write!(f, "invalid option \"{name}\""),
            SiteError::MissingOption(name) => write!(f, "option \"{name}\" is required"),
            SiteError::SuperuserOption(name) => {
                write!(f, "permission denied to set option \"{name}\"")
            }
            SiteError::NoServer { name, .. } => write!(f, "server \"{name}\" does not exist"),
            SiteError::NotOurServer(name) => write!(f, "server \"{name}\" is not a Matomo"),
            SiteError::ServerPrivilege { server, .. } => {
                write!(f, "permission denied for foreign server {server}")
            }
            SiteError::NoMapping { user, .. } => {
                write!(f, "user mapping not found for \"{user}\"")
            }
            SiteError::NoToken { user, .. } => {
                let user = user.as_deref().unwrap_or("public");
                write!(f, "user mapping for \"{user}\" has no token")
            }
            SiteError::NoSite(site) => write!(f, "registered site {site} does not exist"),
            SiteError::SitePrivilege { site, .. } => {
                write!(f, "permission denied for registered site {site}")
            }
            SiteError::ProcedurePrivilege => {
                f.write_str("permission denied for procedure matomo_sync_site")
            }
            SiteError::RolePrivilege(role) => write!(f, "must be member of role \"{role}\""),
            SiteError::NoRole(role) => write!(f, "role \"{role}\" does not exist"),
            SiteError::Registered { server, site, destination, .. } => write!(
                f,
                "site {site} of server \"{server}\" is already registered for \"{destination}\""
            ),
            SiteError::NoDestination { site, .. } => {
                write!(f, "the destination of registered site {site} does not exist any more")
            }
            SiteError::CompanionOwner { name, .. } => {
                write!(f, "table {name} has another owner than the destination that it belongs to")
            }
            SiteError::TemporaryDestination(name) => {
                write!(f, "destination \"{name}\" is a temporary table")
            }
            SiteError::NoOwner { site, .. } => {
                write!(f, "the owner of registered site {site} does not exist any more")
            }
            SiteError::RefusedBefore { server, .. } => {
                write!(f, "Matomo has refused the token for server \"{server}\" before")
            }
            SiteError::InTransactionBlock(what) => {
                write!(f, "{what} cannot run inside a transaction block")
            }
            SiteError::InFunction(what) => write!(f, "{what} cannot be executed from a function"),
            SiteError::NoRun(run) => write!(f, "run {run} does not exist any more"),
            SiteError::SiteChanged(site) => {
                write!(f, "registered site {site} was changed meanwhile")
            }
            SiteError::RowsKept(name) => write!(f, "rows of {name} are not deleted"),
            SiteError::SharedCtids(name) => {
                write!(f, "foreign table {name} is a partitioned table on its server")
            }
            SiteError::NoTimezone { table, column } => {
                write!(f, "column {column} of {table} has no timezone")
            }
            SiteError::SeenBefore(server) => {
                write!(f, "this transaction sees an older state of foreign server \"{server}\"")
            }
            SiteError::TemporaryObjects(name) => {
                write!(f, "triggers of {name} could use temporary objects of this session")
            }
            SiteError::NoMatomo(site, _) => write!(f, "registered site {site} has no known Matomo"),
            SiteError::NoProcess { site, .. } => {
                write!(f, "could not start a process for registered site {site}")
            }
            SiteError::NoProgress(time) => {
                write!(f, "canceled after {} s without progress", time.as_secs())
            }
        }
    }
}
