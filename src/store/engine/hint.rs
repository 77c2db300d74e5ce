//! A hint for errors of another server that keeps rows of a table.

use std::panic::AssertUnwindSafe;

use pgrx::PgLogLevel;
use pgrx::prelude::*;

use crate::error::Error;
use crate::pg::ereport;
use crate::pg::failed::Failed;
use crate::store::destination::Destination;
use crate::store::engine::Engine;
use crate::store::relation::name_of;

/// Connections, logins, privileges, user mappings, foreign servers: none of these errors comes from a row.
/// 2F003 is that of a mapping without a password, for anyone but superusers.
const CONCERNED: [&str; 7] = ["08", "28", "2F003", "42501", "42704", "57P01", "HV00N"];

/// Citus: a transaction has written the same shards as two roles.
const TWO_ROLES: &str = "25001";

/// Runs what reads and writes a destination. Errors of its engine that concern roles or connections get a
/// hint, if they have none.
///
/// # Errors
/// Those of `work`.
pub fn with_engine_hint<T>(
    destination: &Destination,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    match destination.tables().find(|table| is_remote(&table.engine)) {
        Some(table) => with_hint_of(&table.engine, &table.name, work),
        None => work(),
    }
}

/// The same for what reads and writes one table, by its OID.
///
/// # Errors
/// Those of `work`.
pub fn with_engine_hint_of<T, E: From<Error>>(
    table: pg_sys::Oid,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let engine = Spi::connect_mut(|client| Engine::of(client, table))?;
    if !is_remote(&engine) {
        return work();
    }
    with_hint_of(&engine, &name_of(table)?.unwrap_or_default(), work)
}

fn is_remote(engine: &Engine) -> bool {
    matches!(engine, Engine::Citus | Engine::Foreign)
}

fn with_hint_of<T, E>(
    engine: &Engine,
    name: &str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let keeper = engine.name().unwrap_or_default();
    let hint = format!(
        "Check that the role may log in and write where {keeper} keeps rows of {name}; see docs/scale.md."
    );
    let is_citus = *engine == Engine::Citus;
    PgTryBuilder::new(AssertUnwindSafe(work))
        .catch_others(move |caught| {
            let mut failed = Failed::raised(ereport::raised(&caught));
            let is_concerned = CONCERNED.iter().any(|class| failed.state.starts_with(class));
            let told = match is_citus && failed.state == TWO_ROLES {
                true => Some("Repeat the call in a transaction of its own.".to_owned()),
                false => is_concerned.then(|| hint.clone()),
            };
            if failed.hint.is_none() && told.is_some() {
                failed.hint = told;
                failed.tell(PgLogLevel::ERROR);
            }
            caught.rethrow()
        })
        .execute()
}
