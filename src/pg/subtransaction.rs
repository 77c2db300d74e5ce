//! Work that can be undone without ending the transaction.

use std::panic::AssertUnwindSafe;
use std::ptr;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

/// Does something in a subtransaction, which is undone when it gives an error, or when one is raised.
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
    // SAFETY: main thread; ends what began above, and restores what was before it.
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
