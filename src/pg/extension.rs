//! The extension in this database, and statements on its own tables with its owner's rights.

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::error::{Error, OtherVersion, Result};
use crate::pg::local_settings::{LocalSettings, SAFE_PATH};
use crate::pg::roles::AsExtensionOwner;
use crate::pg::spi::{get, query_kept};

/// The extension's schema and owner.
#[derive(Debug, Clone)]
pub struct Extension {
    /// Quoted.
    pub schema: String,
    pub owner: pg_sys::Oid,
}

impl Extension {
    /// Finds the extension and locks it against DROP EXTENSION until the end of the transaction.
    /// Without this lock, DROP EXTENSION could deadlock with the statements that follow.
    ///
    /// # Errors
    /// [`Error::OtherVersion`].
    pub fn find() -> Result<Extension> {
        let sql = "SELECT pg_catalog.quote_ident(n.nspname), e.extowner, e.oid, e.extversion \
                   FROM pg_catalog.pg_extension e \
                   JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace \
                   WHERE e.extname OPERATOR(pg_catalog.=) 'matomo_postgres'";
        // One of its functions is running, so it has just been created or dropped.
        let unseen = || Error::TooNew("extension matomo_postgres".to_owned());
        let find = || -> Result<(Extension, pg_sys::Oid)> {
            Spi::connect_mut(|client| {
                let missing = || Error::Internal("the extension is not created".to_owned());
                let row = query_kept(client, sql, &[])?.next().ok_or_else(unseen)?;
                let schema: String = get(&row, 1)?.ok_or_else(missing)?;
                let owner: pg_sys::Oid = get(&row, 2)?.ok_or_else(missing)?;
                let oid: pg_sys::Oid = get(&row, 3)?.ok_or_else(missing)?;
                let version: String = get(&row, 4)?.ok_or_else(missing)?;
                if let Some(versions) = OtherVersion::find(env!("CARGO_PKG_VERSION"), &version) {
                    return Err(Error::OtherVersion(versions));
                }
                Ok((Extension { schema, owner }, oid))
            })
        };
        let (_, oid) = find()?;
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        // SAFETY: main thread, within a transaction.
        unsafe { pg_sys::LockDatabaseObject(pg_sys::ExtensionRelationId, oid, 0, lock) };
        // The lock's last holder may have dropped or moved it.
        Ok(find()?.0)
    }

    /// Runs our own statements with the rights of the extension's owner.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn run<T>(&self, work: impl FnOnce(&mut SpiClient) -> Result<T>) -> Result<T> {
        let _safe = LocalSettings::of(&[
            SAFE_PATH,
            (c"datestyle", c"ISO"),
            (c"intervalstyle", c"postgres"),
        ]);
        let _owner = AsExtensionOwner::switch_to(self.owner);
        Spi::connect_mut(work)
    }
}
