//! A hint for errors of another server that keeps rows of a destination.

use std::panic::AssertUnwindSafe;

use pgrx::PgLogLevel;
use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::failed::Failed;
use crate::pg::report;
use crate::store::destination::Destination;
use crate::store::engine::Engine;

/// Connections, logins, privileges, user mappings, foreign servers: none of these errors comes from a row.
const CONCERNED: [&str; 5] = ["08", "28", "42501", "42704", "HV00N"];

/// Runs what reads and writes a destination. Errors of its engine that concern roles or connections get a
/// hint, if they have none.
///
/// # Errors
/// Those of `work`.
pub fn with_engine_hint<T>(
    destination: &Destination,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let is_remote = |table: &&Destination| matches!(table.engine, Engine::Citus | Engine::Foreign);
    let Some(table) = destination.tables().find(is_remote) else { return work() };
    let keeper = table.engine.name().unwrap_or_default();
    let hint = format!(
        "Check that the role may log in and write where {keeper} keeps rows of {}; see docs/scale.md.",
        table.name
    );
    PgTryBuilder::new(AssertUnwindSafe(work))
        .catch_others(move |caught| {
            let mut failed = Failed::raised(report::raised(&caught));
            let is_concerned = CONCERNED.iter().any(|class| failed.state.starts_with(class));
            if is_concerned && failed.hint.is_none() {
                failed.hint = Some(hint.clone());
                failed.tell(PgLogLevel::ERROR);
            }
            caught.rethrow()
        })
        .execute()
}
