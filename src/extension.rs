//! The extension as it is created in this database, and work on its own tables, which users may read
//! parts of but not write.

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::destination::{query, spi};
use crate::error::{Error, Result};
use crate::owner::AsOwner;
use crate::scope::Scope;

/// Where the extension is, and whose.
#[derive(Debug, Clone)]
pub struct Extension {
    /// The schema, quoted.
    pub schema: String,
    pub owner: pg_sys::Oid,
}

impl Extension {
    /// Looks it up.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn find() -> Result<Extension> {
        let sql = "SELECT pg_catalog.quote_ident(n.nspname), e.extowner FROM pg_catalog.pg_extension e \
                   JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace \
                   WHERE e.extname OPERATOR(pg_catalog.=) 'matomo_postgres'";
        let (schema, owner) = Spi::connect_mut(|client| {
            query(client, sql, &[])?.first().get_two::<String, pg_sys::Oid>().map_err(spi)
        })?;
        let missing = || Error::Internal("the extension is not created".to_owned());
        let (schema, owner) = schema.zip(owner).ok_or_else(missing)?;
        Ok(Extension { schema, owner })
    }

    /// Runs statements of ours with the rights of the extension's owner.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn run<T>(&self, work: impl FnOnce(&mut SpiClient) -> Result<T>) -> Result<T> {
        let _safe = Scope::of(&[
            (c"search_path", c"pg_catalog, pg_temp"),
            (c"datestyle", c"ISO"),
            (c"intervalstyle", c"postgres"),
        ]);
        let _owner = AsOwner::become_(self.owner);
        Spi::connect_mut(work)
    }
}
