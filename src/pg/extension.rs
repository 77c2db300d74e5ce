//! The extension as it is created in this database, and work on its own tables, which users may read
//! parts of but not write.

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::error::{Error, OtherVersion, Result};
use crate::pg::local_settings::LocalSettings;
use crate::pg::roles::AsOwner;
use crate::pg::spi::{query, spi};

/// Where the extension is, and whose.
#[derive(Debug, Clone)]
pub struct Extension {
    /// The schema, quoted.
    pub schema: String,
    pub owner: pg_sys::Oid,
}

impl Extension {
    /// Looks it up. Till the end of the transaction it cannot be dropped: DROP EXTENSION waits before
    /// it has locked anything that we want next.
    ///
    /// # Errors
    /// [`Error::OtherVersion`].
    pub fn find() -> Result<Extension> {
        let sql = "SELECT pg_catalog.quote_ident(n.nspname), e.extowner, e.oid, e.extversion \
                   FROM pg_catalog.pg_extension e \
                   JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace \
                   WHERE e.extname OPERATOR(pg_catalog.=) 'matomo_postgres'";
        // Its functions are there, so that it is new or just dropped.
        let unseen = || Error::TooNew("extension matomo_postgres".to_owned());
        let find = || -> Result<(Extension, pg_sys::Oid)> {
            Spi::connect_mut(|client| {
                let missing = || Error::Internal("the extension is not created".to_owned());
                let row = query(client, sql, &[])?.next().ok_or_else(unseen)?;
                let schema: String = row.get(1).map_err(spi)?.ok_or_else(missing)?;
                let owner: pg_sys::Oid = row.get(2).map_err(spi)?.ok_or_else(missing)?;
                let oid: pg_sys::Oid = row.get(3).map_err(spi)?.ok_or_else(missing)?;
                let version: String = row.get(4).map_err(spi)?.ok_or_else(missing)?;
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
        // Who had it locked may have dropped or moved it.
        Ok(find()?.0)
    }

    /// Runs statements of ours with the rights of the extension's owner.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn run<T>(&self, work: impl FnOnce(&mut SpiClient) -> Result<T>) -> Result<T> {
        let _safe = LocalSettings::of(&[
            (c"search_path", c"pg_catalog, pg_temp"),
            (c"datestyle", c"ISO"),
            (c"intervalstyle", c"postgres"),
        ]);
        let _owner = AsOwner::become_(self.owner);
        Spi::connect_mut(work)
    }
}
