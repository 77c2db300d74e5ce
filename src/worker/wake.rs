//! Wakes the coordinator of this database when a transaction commits that gives it work.

use pgrx::prelude::*;
use pgrx::{PgXactCallbackEvent, register_xact_callback};

use crate::error::Result;
use crate::pg::extension::Extension;
use crate::pg::spi::{query, spi};

/// Wakes it with the commit, if there is one.
///
/// # Errors
/// Only internal ones.
pub fn after_commit(extension: &Extension) -> Result<()> {
    // What a process is, only superusers and pg_read_all_stats are told.
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'matomo coordinator' \
               AND datname = current_database()";
    let coordinators: Vec<i32> = extension.run(|client| {
        query(client, sql, &[])?
            .filter_map(|row| row.get::<i32>(1).map_err(spi).transpose())
            .collect()
    })?;
    if !coordinators.is_empty() {
        register_xact_callback(PgXactCallbackEvent::Commit, move || {
            coordinators.iter().copied().for_each(wake);
        });
    }
    Ok(())
}

/// Sets the latch of a process, if it is still there; to wake another one does no harm.
fn wake(pid: i32) {
    // SAFETY: main thread; entries of processes are never freed, and so are their latches.
    unsafe {
        if let Some(process) = pg_sys::BackendPidGetProc(pid).as_mut() {
            pg_sys::SetLatch(&mut process.procLatch);
        }
    }
}
