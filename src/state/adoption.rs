//! Assigns ledger entries to the table that has their rows: those that were restored, and those of a dropped
//! table that another one replaces. SPI only.

use pgrx::{PgLogLevel, pg_sys};

use crate::error::Result;
use crate::pg::ereport::say;
use crate::pg::extension::Extension;
use crate::pg::spi::query;
use crate::state::ledger::{Ledger, LedgerEntry};
use crate::state::{metadata, retention};
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
    // A roll-up has rows of other sites.
    let rollups = metadata::rollups_of(&destination.extension, destination.oid)?;
    let site = Some(ledger.site).filter(|site| !rollups.contains(site));
    let filled = inspect::have_rows(destination, site, &spans)?;
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

/// Gives a destination the days of tables that were dropped and whose companions it has taken over.
///
/// # Errors
/// Only internal ones.
pub fn inherit(
    extension: &Extension,
    destination: pg_sys::Oid,
    former: Vec<pg_sys::Oid>,
) -> Result<()> {
    let sql = format!(
        "UPDATE {0}.matomo_ledger l SET destination = $1 WHERE l.destination = ANY ($2) \
         AND l.destination <> 0::oid AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = l.destination) \
         AND NOT EXISTS (SELECT FROM {0}.matomo_ledger o WHERE o.destination = $1)",
        extension.schema
    );
    extension.run(|client| query(client, &sql, &[destination.into(), former.into()]).map(drop))
}
