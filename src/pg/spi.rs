//! Statements through SPI. They take a transaction ID only when they write.

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{PreparedStatement, SpiClient, SpiTupleTable};

use crate::error::{Error, Result};
use crate::pg::encoding;

/// Runs one statement, which sees what this transaction has written before. Only one that writes
/// takes a transaction ID. What SPI finds wrong with it is a fault of ours; what Postgres finds
/// wrong is raised as its own ERROR.
pub fn query<'conn>(
    client: &mut SpiClient<'conn>,
    sql: &str,
    args: &[DatumWithOid],
) -> Result<SpiTupleTable<'conn>> {
    let kinds: Vec<_> = args.iter().map(|arg| PgOid::from(arg.oid())).collect();
    run_plan(client, &client.prepare_mut(sql, &kinds).map_err(spi)?, args)
}

/// Runs a statement that was prepared with `prepare_mut`.
///
/// `select` and `prepare_mut` are what they are not called: pgrx's `update` takes a transaction ID
/// even for a query, and so fails on a standby; its `select` of what `prepare` has made would not
/// see this transaction's own writes.
pub fn run_plan<'conn>(
    client: &SpiClient<'conn>,
    plan: &PreparedStatement<'conn>,
    args: &[DatumWithOid],
) -> Result<SpiTupleTable<'conn>> {
    let converted = encoding::arguments(args);
    client.select(plan, None, converted.as_deref().unwrap_or(args)).map_err(spi)
}

/// An SPI error as ours.
pub fn spi(error: pgrx::spi::SpiError) -> Error {
    Error::Internal(error.to_string())
}
