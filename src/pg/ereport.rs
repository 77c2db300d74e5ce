//! Reports [`Error`] through `ereport`.

use pgrx::PgLogLevel;
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};

use crate::error::{Error, Result, SqlState};
use crate::pg::encoding::message;

/// Returns the value, or raises the error as a Postgres ERROR with SQLSTATE, DETAIL and HINT.
pub fn or_raise<T>(result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => {
            send(PgLogLevel::ERROR, &error);
            unreachable!("an ERROR does not return")
        }
    }
}

/// Reports an error as a WARNING.
pub fn warn_of(error: &Error) {
    send(PgLogLevel::WARNING, error);
}

fn send(level: PgLogLevel, error: &Error) {
    let mut report = ErrorReport::new(code(error.state()), message(error.to_string()), "matomo");
    if let Some(detail) = error.detail() {
        report = report.set_detail(message(detail));
    }
    if let Some(hint) = error.hint() {
        report = report.set_hint(message(hint));
    }
    report.report(level);
}

/// Reports a message at a level below ERROR.
pub fn say(level: PgLogLevel, line: String) {
    ErrorReport::new(Code::ERRCODE_SUCCESSFUL_COMPLETION, message(line), "matomo").report(level);
}

/// Reports a WARNING with a HINT.
pub fn warn(line: String, hint: &str) {
    ErrorReport::new(Code::ERRCODE_WARNING, message(line), "matomo")
        .set_hint(hint)
        .report(PgLogLevel::WARNING);
}

/// pgrx's constant for a SQLSTATE.
pub fn code(state: SqlState) -> Code {
    match state {
        SqlState::NullValueNotAllowed => Code::ERRCODE_NULL_VALUE_NOT_ALLOWED,
        SqlState::InvalidParameterValue => Code::ERRCODE_INVALID_PARAMETER_VALUE,
        SqlState::UndefinedTable => Code::ERRCODE_UNDEFINED_TABLE,
        SqlState::WrongObjectType => Code::ERRCODE_WRONG_OBJECT_TYPE,
        SqlState::UndefinedColumn => Code::ERRCODE_UNDEFINED_COLUMN,
        SqlState::InvalidColumnReference => Code::ERRCODE_INVALID_COLUMN_REFERENCE,
        SqlState::InsufficientPrivilege => Code::ERRCODE_INSUFFICIENT_PRIVILEGE,
        SqlState::LockNotAvailable => Code::ERRCODE_LOCK_NOT_AVAILABLE,
        SqlState::ObjectNotInPrerequisiteState => Code::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        SqlState::FeatureNotSupported => Code::ERRCODE_FEATURE_NOT_SUPPORTED,
        SqlState::InvalidAuthorizationSpecification => {
            Code::ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION
        }
        SqlState::UnableToEstablishSqlConnection => {
            Code::ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION
        }
        SqlState::ConnectionFailure => Code::ERRCODE_CONNECTION_FAILURE,
        SqlState::ProtocolViolation => Code::ERRCODE_PROTOCOL_VIOLATION,
        SqlState::ConfigurationLimitExceeded => Code::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        SqlState::SerializationFailure => Code::ERRCODE_T_R_SERIALIZATION_FAILURE,
        SqlState::OutOfMemory => Code::ERRCODE_OUT_OF_MEMORY,
        SqlState::ProgramLimitExceeded => Code::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        SqlState::UndefinedObject => Code::ERRCODE_UNDEFINED_OBJECT,
        SqlState::UniqueViolation => Code::ERRCODE_UNIQUE_VIOLATION,
        SqlState::QueryCanceled => Code::ERRCODE_QUERY_CANCELED,
        SqlState::ActiveSqlTransaction => Code::ERRCODE_ACTIVE_SQL_TRANSACTION,
        SqlState::FdwInvalidOptionName => Code::ERRCODE_FDW_INVALID_OPTION_NAME,
        SqlState::FdwDynamicParameterValueNeeded => {
            Code::ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED
        }
        SqlState::InternalError => Code::ERRCODE_INTERNAL_ERROR,
    }
}

/// The report in a caught error.
pub fn raised(caught: &CaughtError) -> &ErrorReportWithLevel {
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic { ereport: report, .. }) = caught;
    report
}
