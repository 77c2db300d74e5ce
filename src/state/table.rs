//! A table of a user's, from which rows are to be deleted. SPI only.

use std::panic::AssertUnwindSafe;

use pgrx::PgLogLevel;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use crate::error::{Error, Result, SiteError};
use crate::pg::ereport;
use crate::pg::failed::Failed;
use crate::pg::local_settings::{LocalSettings, PLANNED_ANEW, SAFE_PATH};
use crate::pg::roles::{AsRestricted, has_rights_of};
use crate::pg::spi::{get, one, query, spi, values};
use crate::pg::subtransaction::{self, RolledBack};
use crate::store::engine::ctids;
use crate::store::engine::hint::with_engine_hint_of;
use crate::store::relation::has_name;

/// A table to delete rows from.
pub struct Table {
    pub oid: pg_sys::Oid,
    /// Schema-qualified and quoted.
    pub name: String,
    owner: pg_sys::Oid,
}

impl Table {
    /// Finds a table; `None` if it does not exist.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn find(oid: pg_sys::Oid) -> Result<Option<Table>> {
        let _safe = LocalSettings::of(&[SAFE_PATH]);
        let sql = "SELECT format('%I.%I', n.nspname, c.relname), c.relowner \
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1";
        Spi::connect_mut(|client| {
            let Some(row) = query(client, sql, &[oid.into()])?.next() else { return Ok(None) };
            let name: Option<String> = get(&row, 1)?;
            let owner: Option<pg_sys::Oid> = get(&row, 2)?;
            Ok(name.zip(owner).map(|(name, owner)| Table { oid, name, owner }))
        })
    }

    /// Those of its columns by which a visitor's rows are found.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn columns(&self) -> Result<Vec<String>> {
        let sql = "SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a \
                   WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND NOT a.attisdropped \
                   AND a.attname OPERATOR(pg_catalog.=) ANY ('{visitorid,userid,visitip}'::pg_catalog.name[])";
        Spi::connect_mut(|client| values(query(client, sql, &[self.oid.into()])?))
    }

    /// A text as a column shows it, if the column's type is Postgres' own and has several texts for one value,
    /// as `inet` and `uuid` have.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn shown(&self, column: &str, text: &str) -> Result<Option<String>> {
        let _safe = LocalSettings::of(&[SAFE_PATH]);
        let sql = "WITH RECURSIVE base (oid) AS ( \
                       SELECT a.atttypid FROM pg_attribute a \
                       WHERE a.attrelid = $1 AND a.attname = $2::name AND NOT a.attisdropped \
                       UNION ALL SELECT d.typbasetype FROM base b \
                       JOIN pg_type d ON d.oid = b.oid AND d.typtype = 'd') \
                   SELECT format('%I.%I', n.nspname, t.typname) FROM base b \
                   JOIN pg_type t ON t.oid = b.oid AND t.typtype = 'b' AND t.typcategory <> 'S' \
                   JOIN pg_namespace n ON n.oid = t.typnamespace AND n.nspname = 'pg_catalog'";
        Spi::connect_mut(|client| {
            let Some(row) = query(client, sql, &[self.oid.into(), column.into()])?.next() else {
                return Ok(None);
            };
            let kind: Option<String> = get(&row, 1)?;
            let cast = format!("SELECT $1::text::{}::text", kind.unwrap_or_default());
            let shown = subtransaction::attempt(|| one(query(client, &cast, &[text.into()])?));
            shown.or_else(|rolled_back| match rolled_back {
                RolledBack::Failed(error) => Err(error),
                // Data exceptions: it is no text of that type.
                RolledBack::Raised(caught) => {
                    match Failed::raised(ereport::raised(&caught)).state.starts_with("22") {
                        true => Ok(None),
                        false => caught.rethrow(),
                    }
                }
            })
        })
    }

    /// Checks that the current user has the rights of its owner.
    ///
    /// # Errors
    /// [`Error::Privilege`].
    pub fn check_owner(&self) -> Result<()> {
        match has_rights_of(self.owner) {
            true => Ok(()),
            false => {
                let missing = vec!["ownership".to_owned()];
                Err(Error::Privilege { name: self.name.clone(), missing })
            }
        }
    }

    /// Checks that the current user may read and delete all of its rows.
    ///
    /// # Errors
    /// [`Error::Privilege`], [`Error::RowSecurity`].
    pub fn check(&self) -> Result<()> {
        let _safe = LocalSettings::of(&[SAFE_PATH]);
        let sql = "SELECT concat_ws(', ', \
                       CASE WHEN NOT coalesce(has_table_privilege($1, 'SELECT'), false) AND EXISTS ( \
                           SELECT FROM pg_attribute a WHERE a.attrelid = $1 AND NOT a.attisdropped \
                           AND a.attname IN ('visitorid', 'userid', 'visitip', 'idsite', 'idvisit', \
                               'action_timestamp', 'lastaction', 'converted') \
                           AND NOT has_column_privilege($1, a.attnum, 'SELECT')) THEN 'SELECT' END, \
                       CASE WHEN NOT coalesce(has_table_privilege($1, 'DELETE'), false) THEN 'DELETE' END), \
                   row_security_active($1)";
        let (missing, hides): (Option<String>, Option<bool>) = Spi::connect_mut(|client| {
            query(client, sql, &[self.oid.into()])?.first().get_two().map_err(spi)
        })?;
        match missing.filter(|missing| !missing.is_empty()) {
            Some(missing) => {
                Err(Error::Privilege { name: self.name.clone(), missing: vec![missing] })
            }
            None if hides == Some(true) => Err(Error::RowSecurity(self.name.clone())),
            None => Ok(()),
        }
    }

    /// Deletes the rows `d` that meet a condition, and gives the `idvisit` of each as text: with the caller's
    /// rights if the caller named the table, otherwise with the owner's, as the triggers are the owner's.
    ///
    /// # Errors
    /// As [`Table::check`], [`SiteError::SharedCtids`], [`SiteError::RowsKept`]; those of triggers and constraints are raised.
    pub fn delete(
        &self,
        which: &str,
        args: &[DatumWithOid],
        is_named: bool,
    ) -> Result<Vec<String>> {
        // Triggers use the session's search_path, as at an INSERT. But a caller without the owner's
        // rights could use it to make them call other functions.
        let is_trusted = self.is_trusted(is_named);
        self.check_temporary(is_named)?;
        let _owner = (!is_named).then(|| AsRestricted::switch_to(self.owner));
        let _path = (!is_trusted).then(|| LocalSettings::of(&[SAFE_PATH]));
        // Row-level security may apply to the owner too.
        self.check()?;
        self.check_name()?;
        let sql = format!(
            "DELETE FROM {} AS d WHERE {which} RETURNING d.idvisit::pg_catalog.text",
            self.name
        );
        let left = format!("SELECT 1 FROM {} AS d WHERE {which} LIMIT 1", self.name);
        let delete = || {
            // Not before the wait for syncs: postgres_fdw would not see what they store.
            ctids::check(self.oid)?;
            Spi::connect_mut(|client| {
                let mut gone = Vec::new();
                // Another session may just have stored more.
                for _ in 0..3 {
                    gone.extend(values::<String>(query(client, &sql, args)?)?);
                    let _planned_anew = LocalSettings::of(&[PLANNED_ANEW]);
                    if query(client, &left, args)?.is_empty() {
                        return Ok(gone);
                    }
                }
                Err(SiteError::RowsKept(self.name.clone()).into())
            })
        };
        let gone: Result<Vec<String>> =
            PgTryBuilder::new(AssertUnwindSafe(|| with_engine_hint_of(self.oid, delete)))
                .catch_others(|caught| self.name_in(caught))
                .execute();
        self.check_name()?;
        gone
    }

    /// Whether the owner's triggers may run with what the session has set up.
    fn is_trusted(&self, is_named: bool) -> bool {
        is_named || has_rights_of(self.owner)
    }

    /// Checks that a session which is not trusted has no temporary tables or types: they come before all
    /// others unless a trigger names its own with their schema.
    ///
    /// # Errors
    /// [`SiteError::TemporaryObjects`].
    pub fn check_temporary(&self, is_named: bool) -> Result<()> {
        if self.is_trusted(is_named) {
            return Ok(());
        }
        let _safe = LocalSettings::of(&[SAFE_PATH]);
        let sql = "SELECT 1 FROM pg_class c WHERE c.relnamespace = pg_my_temp_schema() \
                   UNION ALL SELECT 1 FROM pg_type t WHERE t.typnamespace = pg_my_temp_schema() LIMIT 1";
        match Spi::connect_mut(|client| Ok::<_, Error>(query(client, sql, &[])?.is_empty()))? {
            true => Ok(()),
            false => Err(SiteError::TemporaryObjects(self.name.clone()).into()),
        }
    }

    /// Checks that the name still refers to this table.
    fn check_name(&self) -> Result<()> {
        match has_name(self.oid, &self.name)? {
            true => Ok(()),
            false => Err(Error::Renamed(self.name.clone())),
        }
    }

    /// Raises an error of the table's triggers, constraints or engine again, with the name of the table.
    fn name_in<T>(&self, caught: CaughtError) -> T {
        if let CaughtError::PostgresError(report) = &caught {
            let mut failed = Failed::raised(report);
            let place = format!("Rows of table {} were to be deleted.", self.name);
            failed.detail =
                Some(failed.detail.map_or_else(|| place.clone(), |of| format!("{of} {place}")));
            failed.hint.get_or_insert_with(|| {
                "Name one table after the other as only_in to erase elsewhere.".to_owned()
            });
            failed.tell(PgLogLevel::ERROR);
        }
        caught.rethrow()
    }
}
