//! The Matomo of a destination: `idVisit` is unique only within one. SPI only.

use pgrx::pg_sys;

use crate::error::{Busy, Error, OtherMatomo, Result};
use crate::matomo::http::endpoint::Endpoint;
use crate::pg::extension::Extension;
use crate::pg::locks::{self, Lock, LockKind, Mode, Until};
use crate::pg::spi::{one, query};
use crate::state::ledger::Ledger;
use crate::state::metadata;
use crate::state::restored::is_of_table;
use crate::store::destination::Destination;
use crate::store::relation::name_of;

impl Ledger {
    /// Whether the destination has any entry, and so belongs to a Matomo.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn knows_destination(&self) -> Result<bool> {
        let sql = format!("SELECT 1 FROM {} WHERE destination = $1 LIMIT 1", self.table);
        self.run(|client| Ok(!query(client, &sql, &[self.destination.into()])?.is_empty()))
    }

    /// If the destination belongs to no Matomo, takes it for this one until the end of the transaction, and
    /// returns true. Does not wait: of two concurrent sessions, the second one finds the lock of the first.
    ///
    /// # Errors
    /// [`Busy::OtherFirst`].
    pub fn take_if_unknown(&self, name: &str) -> Result<bool> {
        if self.knows_destination()? {
            return Ok(false);
        }
        let hash = locks::hash(&self.matomo);
        locks::try_take(
            Lock::Matomo(self.destination, hash),
            Mode::AccessShare,
            Until::TransactionEnd,
        );
        let is_other =
            |held: &locks::Held| held.class == self.destination.to_u32() && held.object != hash;
        match locks::held(LockKind::Matomo).iter().any(is_other) {
            true => Err(Busy::OtherFirst(name.to_owned()).into()),
            false => Ok(true),
        }
    }

    /// Checks that the destination belongs to this Matomo or to none.
    ///
    /// # Errors
    /// [`Error::OtherMatomo`].
    pub fn check_matomo(&self, destination: &Destination) -> Result<()> {
        let other = other_than(&self.extension, self.destination, &self.matomo)?;
        let Some(known) = other else { return Ok(()) };
        let mut companions = destination.filled()?;
        // An empty table of the same name as one in a dump may be a new one.
        if companions.is_empty() && !self.knows_destination()? {
            return Ok(());
        }
        if companions.contains(&destination.name) {
            companions.clear();
        }
        let (destination, asked) = (destination.name.clone(), self.matomo.clone());
        Err(Error::OtherMatomo(OtherMatomo { destination, known, asked, companions }))
    }

    /// The same for a site that is to be registered: its first sync may fill tables that were emptied.
    ///
    /// # Errors
    /// [`Error::OtherMatomo`].
    pub fn check_registration(&self, destination: &Destination) -> Result<()> {
        match self.must_have_rows()? && destination.filled()?.is_empty() {
            true => Ok(()),
            false => self.check_matomo(destination),
        }
    }

    /// Deletes what is known of the destination from other Matomos, if no table of it has a row: those
    /// of a companion are theirs, too.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn forget_others(&self, destination: &Destination) -> Result<()> {
        if !destination.filled()?.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "DELETE FROM {} WHERE destination = $1 AND matomo <> $2 RETURNING 1",
            self.table
        );
        let args = [self.destination.into(), self.matomo.as_str().into()];
        if self.run(|client| Ok(!query(client, &sql, &args)?.is_empty()))? {
            // Names are stored without their Matomo; so far it was the other one.
            metadata::forget_table(&self.extension, self.destination)?;
        }
        Ok(())
    }
}

/// Checks that a table belongs to a Matomo or to none. As [`Ledger::check_matomo`], but by the ledger alone:
/// for what does not open the table.
///
/// # Errors
/// [`Error::OtherMatomo`].
pub fn check(extension: &Extension, table: pg_sys::Oid, matomo: &Endpoint) -> Result<()> {
    let Some(known) = other_than(extension, table, matomo.url())? else { return Ok(()) };
    // 0.1.0 kept URLs as typed.
    if Endpoint::parse(&known).is_ok_and(|known| known == *matomo) {
        return Ok(());
    }
    let (destination, asked) = (name_of(table)?.unwrap_or_default(), matomo.url().to_owned());
    Err(Error::OtherMatomo(OtherMatomo { destination, known, asked, companions: Vec::new() }))
}

/// Another Matomo than the given one that a table belongs to. After a restore, its name says so until there
/// are entries of its own.
///
/// # Errors
/// Only internal ones.
pub fn other_than(
    extension: &Extension,
    table: pg_sys::Oid,
    matomo: &str,
) -> Result<Option<String>> {
    // Skips from site to site, as there may be very many entries.
    let sql = format!(
        "WITH RECURSIVE m AS ( \
             (SELECT idsite, matomo FROM {0} WHERE destination = $1 ORDER BY 1, 2 LIMIT 1) \
             UNION ALL \
             SELECT n.idsite, n.matomo FROM m CROSS JOIN LATERAL ( \
                 SELECT l.idsite, l.matomo FROM {0} l WHERE l.destination = $1 \
                 AND (l.idsite, l.matomo) > (m.idsite, m.matomo) ORDER BY 1, 2 LIMIT 1) n) \
         SELECT matomo FROM m WHERE matomo <> $2 LIMIT 1",
        format_args!("{}.matomo_ledger", extension.schema)
    );
    let schema = &extension.schema;
    let by_name = format!(
        "SELECT l.matomo FROM {schema}.matomo_ledger l WHERE {} AND l.matomo <> $2 \
         AND NOT EXISTS (SELECT FROM {schema}.matomo_ledger o WHERE o.destination = $1) LIMIT 1",
        is_of_table(schema, "$1")
    );
    let args = [table.into(), matomo.into()];
    extension.run(|client| match one(query(client, &sql, &args)?)? {
        None => one(query(client, &by_name, &args)?),
        own => Ok(own),
    })
}
