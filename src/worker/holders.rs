//! Processes that hold registered sites. SPI only.

use std::collections::BTreeMap;

use crate::error::{Busy, Result};
use crate::pg::extension::Extension;
use crate::pg::failed::Failed;
use crate::pg::locks::{self, LockKind};
use crate::pg::spi::{query, values};

/// The sites that processes hold: those of running or hanging syncs, and `more`. Each with the failure to
/// record if the process makes no progress. Leaves out processes younger than 5 seconds, whose run may not be
/// recorded yet.
///
/// # Errors
/// Only internal ones.
pub fn held_sites(extension: &Extension, more: &[(i32, i32)]) -> Result<Vec<(i32, Failed)>> {
    let held = locks::held(LockKind::Run);
    let mut holders: BTreeMap<i32, i32> = more.iter().copied().collect();
    holders.extend(held.iter().map(|held| (held.object.cast_signed(), held.pid)));
    if holders.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT a.pid FROM pg_catalog.pg_stat_get_activity(NULL) AS a \
               WHERE a.pid OPERATOR(pg_catalog.=) ANY ($1) AND a.query_start IS NOT NULL \
               AND pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() \
                   OPERATOR(pg_catalog.-) a.query_start) OPERATOR(pg_catalog.>) 5";
    let pids: Vec<i32> = holders.values().copied().collect();
    // As the extension's owner: ordinary roles do not see when others' statements began.
    let old: Vec<i32> =
        extension.run(|client| query(client, sql, &[pids.into()]).and_then(values))?;
    holders.retain(|_, pid| old.contains(pid));
    let failed = |(site, pid)| (site, Failed::of(&Busy::Holds { site, pid }.into()));
    Ok(holders.into_iter().map(failed).collect())
}
