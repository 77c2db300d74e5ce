//! Errors of servers, user mappings, registered sites and their runs. Pure.

use std::fmt;
use std::time::Duration;

use super::sql_state::SqlState;

/// An error of stored configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredError {
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
    /// No slot is left for a process that would sync a site.
    NoProcess { site: i32, at_work: usize, hint: &'static str },
    /// Work for a site made no progress for this long.
    NoProgress(Duration),
}

impl StoredError {
    /// The SQLSTATE.
    pub fn state(&self) -> SqlState {
        match self {
            StoredError::InvalidOption { .. } => SqlState::FdwInvalidOptionName,
            StoredError::MissingOption(_) => SqlState::FdwDynamicParameterValueNeeded,
            StoredError::SuperuserOption(_)
            | StoredError::ServerPrivilege { .. }
            | StoredError::SitePrivilege { .. }
            | StoredError::ProcedurePrivilege
            | StoredError::CompanionOwner { .. }
            | StoredError::RolePrivilege(_) => SqlState::InsufficientPrivilege,
            StoredError::NoServer { .. }
            | StoredError::NoSite(_)
            | StoredError::NoRole(_)
            | StoredError::NoOwner { .. } => SqlState::UndefinedObject,
            StoredError::NotOurServer(_) | StoredError::TemporaryDestination(_) => {
                SqlState::WrongObjectType
            }
            StoredError::NoMapping { .. }
            | StoredError::NoToken { .. }
            | StoredError::RefusedBefore { .. } => SqlState::InvalidAuthorizationSpecification,
            StoredError::Registered { .. } => SqlState::UniqueViolation,
            StoredError::NoDestination { .. } => SqlState::UndefinedTable,
            StoredError::InTransactionBlock(_) | StoredError::InFunction(_) => {
                SqlState::ActiveSqlTransaction
            }
            StoredError::NoRun(_) | StoredError::RowsKept(_) => {
                SqlState::ObjectNotInPrerequisiteState
            }
            StoredError::SiteChanged(_) => SqlState::SerializationFailure,
            StoredError::NoProcess { .. } => SqlState::ConfigurationLimitExceeded,
            StoredError::NoProgress(_) => SqlState::QueryCanceled,
        }
    }

    /// The HINT.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            StoredError::InvalidOption { valid, .. } if valid.is_empty() => {
                "There are no valid options in this context.".to_owned()
            }
            StoredError::InvalidOption { valid, .. } => {
                format!("Valid options in this context are: {}.", valid.join(", "))
            }
            StoredError::MissingOption(_) => {
                "CREATE SERVER ... FOREIGN DATA WRAPPER matomo OPTIONS (url \
                 'https://analytics.example.org')."
                    .to_owned()
            }
            StoredError::NoToken { server, user } => format!(
                "ALTER USER MAPPING FOR {} SERVER {} OPTIONS (ADD token '...').",
                user.as_deref().map_or_else(|| "PUBLIC".to_owned(), quoted),
                quoted(server)
            ),
            StoredError::SuperuserOption(_) => "Ask a superuser to set it.".to_owned(),
            StoredError::NoServer { name, site } => {
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
            StoredError::NotOurServer(_) => {
                "Name a server of the foreign-data wrapper matomo.".to_owned()
            }
            StoredError::ServerPrivilege { server, user } => format!(
                "Ask the owner of the server to GRANT USAGE ON FOREIGN SERVER {} TO {}.",
                quoted(server),
                quoted(user)
            ),
            StoredError::NoMapping { server, user } => format!(
                "CREATE USER MAPPING FOR {} SERVER {} OPTIONS (token '...').",
                quoted(user),
                quoted(server)
            ),
            StoredError::NoSite(_) => "Look up the ID in the view matomo_sites.".to_owned(),
            StoredError::SitePrivilege { owner, .. } => {
                format!("SET ROLE {} first, or ask that role, its owner.", quoted(owner))
            }
            StoredError::ProcedurePrivilege => {
                "Ask a superuser to GRANT EXECUTE ON PROCEDURE matomo_sync_site, matomo_sync_all."
                    .to_owned()
            }
            StoredError::RolePrivilege(_) | StoredError::NoRole(_) => {
                "Name a role that you may SET ROLE to.".to_owned()
            }
            StoredError::Registered { is_yours: true, .. } => {
                "Change it with matomo_alter_site; the view matomo_sites has its ID.".to_owned()
            }
            StoredError::Registered { .. } => {
                "Ask an administrator, or name another destination.".to_owned()
            }
            StoredError::NoDestination { site, .. } => format!(
                "Give it another one with SELECT matomo_alter_site({site}, destination => '...'), or \
                 remove it with matomo_remove_site."
            ),
            StoredError::CompanionOwner { name, owner } => {
                format!("ALTER TABLE {name} OWNER TO {}.", quoted(owner))
            }
            StoredError::TemporaryDestination(_) => "Name a permanent table.".to_owned(),
            StoredError::NoOwner { site, .. } => {
                format!(
                    "Give it another one with SELECT matomo_alter_site({site}, owner => '...')."
                )
            }
            StoredError::RefusedBefore { server, site, user } => format!(
                "Fix it with ALTER USER MAPPING FOR {} SERVER {} OPTIONS (SET token '...'); or, if \
                 the token is good now, retry with SELECT matomo_alter_site({site}).",
                quoted(user),
                quoted(server)
            ),
            StoredError::InTransactionBlock(what) | StoredError::InFunction(what) => {
                let alone = "CALL it outside of transaction blocks and functions";
                match what.starts_with("matomo_sync") {
                    true => format!("{alone}; or use matomo_sync, which runs in a transaction."),
                    false => format!("{alone}."),
                }
            }
            StoredError::NoRun(_) => "CALL matomo_sync_site or matomo_sync_all.".to_owned(),
            StoredError::SiteChanged(_) => "Look at it in matomo_sites, and try again.".to_owned(),
            StoredError::RowsKept(_) => {
                "Remove what prevents it, such as a trigger on DELETE, or delete these rows yourself."
                    .to_owned()
            }
            StoredError::NoProcess { hint, .. } => (*hint).to_owned(),
            StoredError::NoProgress(_) => {
                "Look for a slow trigger or index of the destination; or lower matomo.page_size, or \
                 raise matomo.request_timeout if its triggers need that long."
                    .to_owned()
            }
        })
    }

    /// The DETAIL, if any.
    pub fn detail(&self) -> Option<String> {
        match self {
            StoredError::RefusedBefore { .. } => Some(
                "The same token is not sent again: after some 18 refused tokens Matomo locks out \
                 this server's address."
                    .to_owned(),
            ),
            StoredError::SuperuserOption(_) => Some("The server reads a file for it.".to_owned()),
            StoredError::Registered { is_yours: false, .. } => {
                Some("It is registered by another role.".to_owned())
            }
            StoredError::InTransactionBlock(_) | StoredError::InFunction(_) => {
                Some("It commits as it goes.".to_owned())
            }
            StoredError::CompanionOwner { .. } => Some(
                "Its triggers would run with the rights of the destination's owner.".to_owned(),
            ),
            StoredError::NoProcess { at_work, .. } => {
                Some(format!("{at_work} sites are being synced."))
            }
            StoredError::NoDestination { table: name, .. } => {
                Some(format!("The last known name of the table is {name}."))
            }
            StoredError::NoOwner { role: name, .. } => {
                Some(format!("The last known name of the role is {}.", quoted(name)))
            }
            _ => None,
        }
    }
}

impl fmt::Display for StoredError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredError::InvalidOption { name, .. } => write!(f, "invalid option \"{name}\""),
            StoredError::MissingOption(name) => write!(f, "option \"{name}\" is required"),
            StoredError::SuperuserOption(name) => {
                write!(f, "permission denied to set option \"{name}\"")
            }
            StoredError::NoServer { name, .. } => write!(f, "server \"{name}\" does not exist"),
            StoredError::NotOurServer(name) => write!(f, "server \"{name}\" is not a Matomo"),
            StoredError::ServerPrivilege { server, .. } => {
                write!(f, "permission denied for foreign server {server}")
            }
            StoredError::NoMapping { user, .. } => {
                write!(f, "user mapping not found for \"{user}\"")
            }
            StoredError::NoToken { user, .. } => {
                let user = user.as_deref().unwrap_or("public");
                write!(f, "user mapping for \"{user}\" has no token")
            }
            StoredError::NoSite(site) => write!(f, "registered site {site} does not exist"),
            StoredError::SitePrivilege { site, .. } => {
                write!(f, "permission denied for registered site {site}")
            }
            StoredError::ProcedurePrivilege => {
                f.write_str("permission denied for procedure matomo_sync_site")
            }
            StoredError::RolePrivilege(role) => write!(f, "must be member of role \"{role}\""),
            StoredError::NoRole(role) => write!(f, "role \"{role}\" does not exist"),
            StoredError::Registered { server, site, destination, .. } => write!(
                f,
                "site {site} of server \"{server}\" is already registered for \"{destination}\""
            ),
            StoredError::NoDestination { site, .. } => {
                write!(f, "the destination of registered site {site} does not exist any more")
            }
            StoredError::CompanionOwner { name, .. } => {
                write!(f, "table {name} has another owner than the destination that it belongs to")
            }
            StoredError::TemporaryDestination(name) => {
                write!(f, "destination \"{name}\" is a temporary table")
            }
            StoredError::NoOwner { site, .. } => {
                write!(f, "the owner of registered site {site} does not exist any more")
            }
            StoredError::RefusedBefore { server, .. } => {
                write!(f, "Matomo has refused the token for server \"{server}\" before")
            }
            StoredError::InTransactionBlock(what) => {
                write!(f, "{what} cannot run inside a transaction block")
            }
            StoredError::InFunction(what) => write!(f, "{what} cannot be executed from a function"),
            StoredError::NoRun(run) => write!(f, "run {run} does not exist any more"),
            StoredError::SiteChanged(site) => {
                write!(f, "registered site {site} was changed meanwhile")
            }
            StoredError::RowsKept(name) => write!(f, "rows of {name} are not deleted"),
            StoredError::NoProcess { site, .. } => {
                write!(f, "could not start a process for registered site {site}")
            }
            StoredError::NoProgress(time) => {
                write!(f, "canceled after {} s without progress", time.as_secs())
            }
        }
    }
}

/// Quotes a name for SQL.
fn quoted(name: &str) -> String {
    let is_plain = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_they_need_to_be() {
        assert_eq!(quoted("etl_2"), "etl_2");
        assert_eq!(quoted("My \"role\""), "\"My \"\"role\"\"\"");
        assert_eq!(quoted("2nd"), "\"2nd\"");
    }
}
