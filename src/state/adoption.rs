//! Assigns a site's restored ledger entries to its table, if their rows exist. SPI only.

use pgrx::PgLogLevel;

use crate::error::Result;
use crate::pg::report::say;
use crate::state::ledger::{Ledger, LedgerEntry};
use crate::state::retention;
use crate::store::destination::Destination;
use crate::store::inspect;

/// Assigns restored entries of a site to this table. The table may be a new one of the same name, or only
/// partly filled: days without rows are read again, and so are the adjacent days, which may be
/// incomplete. The caller has the lock of the site's rows, so that no other session does the same.
///
/// # Errors
/// Only internal ones.
pub fn adopt(ledger: &Ledger, destination: &Destination) -> Result<bool> {
    let mut restored = ledger.take_restored()?;
    if restored.is_empty() {
        return Ok(false);
    }
    // A sync may have written new entries before the table got the owner of the dump.
    let known = ledger.read()?;
    restored.retain(|day, _| !known.contains_key(day));
    let (with_rows, without): (Vec<_>, Vec<_>) =
        restored.into_values().partition(|entry| entry.counts.actions > 0);
    let spans: Vec<_> = with_rows
        .iter()
        .map(|entry| retention::span(entry.day, &entry.timezone, entry.action_time))
        .collect();
    let filled = inspect::have_rows(destination, ledger.site, &spans)?;
    let is_whole = |n: usize| {
        let besides = n.saturating_sub(1)..filled.len().min(n + 2);
        filled[besides].iter().all(|is_filled| *is_filled)
    };
    let mut unread = 0;
    for (n, entry) in with_rows.iter().enumerate() {
        if is_whole(n) {
            ledger.write(entry)?;
        } else {
            unread += 1;
            ledger.write(&LedgerEntry::new(entry.day, &entry.timezone))?;
        }
    }
    for entry in &without {
        ledger.write(entry)?;
    }
    if unread > 0 {
        let (site, name) = (ledger.site, &destination.name);
        say(
            PgLogLevel::NOTICE,
            format!(
                "restored table {name} lacks rows of {unread} days of site {site}: they are read again"
            ),
        );
    }
    Ok(true)
}
