//! What a restore has left of a site's days becomes its table's, as far as their rows are there. SPI only.

use pgrx::PgLogLevel;

use crate::error::Result;
use crate::matomo::zone::Zone;
use crate::pg::report::say;
use crate::rows::mapping::ActionTime;
use crate::state::ledger::{Ledger, LedgerEntry};
use crate::state::retention::zone;
use crate::store::destination::Destination;
use crate::store::inspect;

/// Takes over the entries that a dump has of the site's days in this table. A table of that name may have
/// been made since, or filled in part: days without rows have to be read again, and those beside them,
/// which may be there in part. The site's rows are locked, so that nobody else takes its days over.
///
/// # Errors
/// Only internal ones.
pub fn adopt(ledger: &Ledger, destination: &Destination) -> Result<()> {
    let mut restored = ledger.take_restored()?;
    if restored.is_empty() {
        return Ok(());
    }
    // A sync may have begun anew before the table belonged to the role of the dump.
    let known = ledger.read()?;
    restored.retain(|day, _| !known.contains_key(day));
    let (with_rows, without): (Vec<_>, Vec<_>) =
        restored.into_values().partition(|entry| entry.counts.actions > 0);
    let spans: Vec<_> = with_rows.iter().map(span).collect();
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
                "{unread} days of site {site} that a dump knows are not, or not wholly, in table \
                 {name}: they are read anew"
            ),
        );
    }
    Ok(())
}

/// Between which instants the actions of a day are, as `action_timestamp` has them.
fn span(entry: &LedgerEntry) -> (i64, i64) {
    let zone = match entry.action_time {
        Some(ActionTime::AsSent) => Zone::Fixed(0),
        _ => zone(&entry.timezone),
    };
    let end = entry.day.succ_opt().map_or(i64::MAX, |next| zone.midnight(next));
    (zone.midnight(entry.day), end)
}
