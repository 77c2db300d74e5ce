//! Keeps syncs of the same rows apart.

use std::collections::BTreeSet;

use pgrx::pg_sys;

use crate::error::{Busy, Error, Result};
use crate::pg::locks::{self, ALL_SITES, Held, Lock, Mode, Until};
use crate::pg::spi::sees_commits;
use crate::store::companions;
use crate::store::destination::Destination;

impl Destination {
    /// Allows one sync at a time of a site into a destination, until the end of the transaction, and none
    /// while old rows are being removed. It waits for the step that removes them.
    ///
    /// # Errors
    /// [`Busy::Drops`], [`Busy::Syncs`].
    pub fn lock_rows(&self, site: i32) -> Result<()> {
        let rows = Lock::Rows(self.oid, site);
        // Syncs of two sites may have the same visits, those of a roll-up. Where no index keeps them
        // unique, one sync runs at a time.
        let all = Lock::Rows(self.oid, ALL_SITES);
        if self.tables().any(|table| !table.is_unique)
            && !locks::take(all, Mode::ShareUpdateExclusive)
        {
            return Err(busy(self.oid, self.name.clone()));
        }
        for shared in [all, rows] {
            if !locks::take(shared, Mode::AccessShare) {
                return Err(busy(self.oid, self.name.clone()));
            }
        }
        if !locks::try_take(rows, Mode::ShareUpdateExclusive, Until::TransactionEnd) {
            return Err(Busy::Syncs { site, name: self.name.clone() }.into());
        }
        Ok(())
    }

    /// Keeps rows of the sites of a roll-up from being removed until the end of the transaction. It waits for
    /// the step that removes them.
    ///
    /// # Errors
    /// [`Busy::Drops`].
    pub fn lock_rows_of_others(&self, sites: &BTreeSet<i64>) -> Result<()> {
        for site in sites.iter().filter_map(|site| i32::try_from(*site).ok()) {
            if !locks::take(Lock::Rows(self.oid, site), Mode::AccessShare) {
                return Err(busy(self.oid, self.name.clone()));
            }
        }
        Ok(())
    }

    /// Keeps a site's retention from removing rows until the end of the transaction. It waits for the step
    /// that does.
    pub fn keep_rows(&self, site: i32) {
        locks::wait_for(Lock::Rows(self.oid, site), Mode::AccessShare);
    }

    /// Itself with the companions that it has by now: they may have been made while it waited for the
    /// lock.
    ///
    /// # Errors
    /// As [`Destination::open`]; [`Error::TooNew`] if the transaction does not see a companion.
    pub fn with_companions_of_now(self) -> Result<Destination> {
        let now = companions::now(&self.extension, self.oid)?;
        if now.iter().eq(self.companions.iter().map(|companion| &companion.oid)) {
            return Ok(self);
        }
        if !sees_commits() {
            return Err(Error::TooNew(format!("a companion of table {}", self.name)));
        }
        Destination::open_known(self.oid)?.ok_or(Error::NoDestination(self.name))
    }
}

/// Keeps syncs of all sites from a destination until the end of the transaction.
///
/// # Errors
/// [`Busy::Syncs`], [`Busy::Drops`].
pub fn lock_all_rows(destination: pg_sys::Oid, name: &str) -> Result<()> {
    let rows = Lock::Rows(destination, ALL_SITES);
    if locks::try_take(rows, Mode::AccessExclusive, Until::TransactionEnd) {
        return Ok(());
    }
    Err(busy(destination, name.to_owned()))
}

/// Why the rows of a site, or of all, cannot be locked.
fn busy(destination: pg_sys::Oid, name: String) -> Error {
    let mut held = locks::held(locks::LockKind::Rows);
    held.retain(|held| held.class == destination.to_u32() && !held.is_own());
    // A first sync has made companions, too.
    let syncs =
        |one: &Held| held.iter().any(|held| held.is_of_same(one) && held.is_share_update_exclusive);
    let is_kept_out = held.iter().any(|held| held.is_exclusive && !syncs(held));
    match held.iter().map(Held::rank).max().map(|(_, site)| site) {
        Some(site) if !is_kept_out => Busy::Syncs { site, name }.into(),
        _ => Busy::Drops(name).into(),
    }
}
