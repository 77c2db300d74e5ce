//! The SQLSTATEs of our errors. Pure.

/// SQLSTATEs by name, without pgrx; `src/pg/ereport.rs` maps them to its constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlState {
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
    /// 40001
    SerializationFailure,
    /// 53200
    OutOfMemory,
    /// 54000
    ProgramLimitExceeded,
    /// 42704
    UndefinedObject,
    /// 23505
    UniqueViolation,
    /// 25001
    ActiveSqlTransaction,
    /// 57014
    QueryCanceled,
    /// HV00D
    FdwInvalidOptionName,
    /// HV002
    FdwDynamicParameterValueNeeded,
    /// XX000
    InternalError,
}
