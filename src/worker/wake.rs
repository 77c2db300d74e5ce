//! Wakes the coordinator of this database.

use pgrx::prelude::*;
use pgrx::{PgXactCallbackEvent, register_xact_callback};

use crate::error::Result;
use crate::pg::extension::Extension;
use crate::pg::spi::{get, query};

/// Wakes the coordinator, if there is one, when the current transaction commits.
///
/// # Errors
/// Only internal ones.
pub fn after_commit(extension: &Extension) -> Result<()> {
    // As the extension's owner: backend_type is shown only to superusers and pg_read_all_stats.
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'matomo coordinator' \
               AND datname = current_database()";
    let coordinators: Vec<i32> = extension.run(|client| {
        query(client, sql, &[])?.filter_map(|row| get::<i32>(&row, 1).transpose()).collect()
    })?;
    if !coordinators.is_empty() {
        register_xact_callback(PgXactCallbackEvent::Commit, move || {
            coordinators.iter().copied().for_each(wake);
        });
    }
    Ok(())
}

/// Sets the latch of a process, if it still exists. Waking the wrong process is harmless.
fn wake(pid: i32) {
    // SAFETY: main thread; the entries of processes and their latches are never freed.
    unsafe {
        if let Some(process) = pg_sys::BackendPidGetProc(pid).as_mut() {
            pg_sys::SetLatch(&mut process.procLatch);
        }
    }
}
