//! Subtransactions.

use std::panic::AssertUnwindSafe;
use std::ptr;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use crate::error::Error;

/// Why a subtransaction was rolled back.
pub enum RolledBack {
    Failed(Error),
    Raised(Box<CaughtError>),
}

/// Runs `work` in a subtransaction, and tells why if that is rolled back.
///
/// # Errors
/// That of `work`, returned or raised.
pub fn attempt<T>(work: impl FnOnce() -> crate::error::Result<T>) -> Result<T, RolledBack> {
    let raised = |caught| RolledBack::Raised(Box::new(caught));
    within(|| work().map_err(RolledBack::Failed), raised)
}

/// Runs `work` in a subtransaction, which is rolled back if it returns an error or raises one.
///
/// # Errors
/// Those of `work`; a raised one is converted by `raised`.
pub fn within<T, E>(
    work: impl FnOnce() -> Result<T, E>,
    raised: fn(CaughtError) -> E,
) -> Result<T, E> {
    // SAFETY: main thread, within a transaction.
    let (context, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(ptr::null());
        pg_sys::CurrentMemoryContext = before.0;
        before
    };
    let outcome = PgTryBuilder::new(AssertUnwindSafe(work))
        .catch_others(move |caught| Err(raised(caught)))
        .execute();
    // SAFETY: main thread; ends the subtransaction and restores the context and owner before it.
    unsafe {
        match &outcome {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::CurrentMemoryContext = context;
        pg_sys::CurrentResourceOwner = owner;
    }
    outcome
}
