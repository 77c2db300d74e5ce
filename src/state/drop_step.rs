//! The steps of `matomo_drop_before` and of retention, which remove old rows from a table. SPI only.

mod cursor;
mod holders;
mod old_rows;

use std::time::Duration;

use pgrx::datum::Interval;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use pgrx::{JsonB, PgLogLevel};

use crate::error::{Error, Result};
use crate::pg::ereport;
use crate::pg::extension::Extension;
use crate::pg::local_settings::{LocalSettings, SAFE_PATH};
use crate::pg::locks::{self, ALL_SITES, Lock, Mode, Until};
use crate::pg::spi::{one, query, sees_commits, spi, undefer};
use crate::pg::subtransaction;
use crate::rows::columns::TableKind;
use crate::state::drop_step::cursor::Cursor;
pub use crate::state::drop_step::old_rows::POSTGRES_EPOCH;
use crate::state::drop_step::old_rows::{Dropped, OldRows, seconds};
use crate::state::emptied_days::{self, Bounds, Gone, Noted};
use crate::state::metadata;
use crate::state::table::Table;
use crate::store::companions;
use crate::store::relation::{has_name, lock_mode};

/// Arguments of a step: the rows to remove, and where the last step stopped.
pub struct DropArguments {
    pub destination: pg_sys::Oid,
    pub before: TimestampWithTimeZone,
    pub site: Option<i32>,
    pub lock_timeout: Interval,
    pub place: Option<JsonB>,
}

/// Drops a partition or deletes a batch of rows, and seals the days that are then empty, so that no sync
/// copies them again. Days are sealed as empty only here. Does not wait for syncs, nor for locks on
/// ledger entries.
///
/// # Errors
/// [`Error::Argument`] for an instant in the future, a roll-up site, or a partition of a destination;
/// [`Error::Privilege`] and [`Error::RowSecurity`] if the caller cannot delete all rows.
pub fn drop_step(arguments: DropArguments) -> Result<Dropped> {
    // Otherwise a partition may be dropped with rows that another session has committed.
    if !sees_commits() {
        return Err(Error::OldSnapshot);
    }
    let DropArguments { destination, before, site, lock_timeout, place } = arguments;
    let Some(table) = Table::find(destination)? else { return Ok(Dropped::default()) };
    let search_path = search_path()?;
    let _safe = LocalSettings::of(&[SAFE_PATH, (c"timezone", c"UTC"), (c"datestyle", c"ISO")]);
    let mut cursor = Cursor::resume(place, text_of_past(before)?);
    let step = Step::checked(table, OldRows { before, site, lock_timeout, search_path })?;
    let mut dropped = match step.lock_rows() {
        true => step.attempt(&mut cursor)?,
        false => blocked(step.table.name, holders::of_rows(destination, site)),
    };
    if dropped.more {
        dropped.place = cursor.place()?;
    }
    Ok(dropped)
}

fn search_path() -> Result<Option<String>> {
    let sql = "SELECT pg_catalog.current_setting('search_path')";
    Spi::connect_mut(|client| one(query(client, sql, &[])?))
}

/// An instant as text; it must not be in the future.
fn text_of_past(instant: TimestampWithTimeZone) -> Result<String> {
    let sql = "SELECT $1::text, $1 > now()";
    let (text, is_future): (Option<String>, Option<bool>) = Spi::connect_mut(|client| {
        query(client, sql, &[instant.into()])?.first().get_two().map_err(spi)
    })?;
    let text = text.unwrap_or_default();
    match is_future {
        Some(false) => Ok(text),
        _ => Err(Error::Argument {
            message: format!("{text} is in the future"),
            hint: "Use TRUNCATE to empty the whole table.".to_owned(),
        }),
    }
}

fn blocked(what: String, holders: Option<String>) -> Dropped {
    Dropped { more: true, blocked: Some(what), holders, ..Dropped::default() }
}

/// A step whose arguments are checked.
struct Step {
    extension: Extension,
    table: Table,
    companions: Vec<(TableKind, pg_sys::Oid)>,
    rows: OldRows,
}

impl Step {
    /// Checks that the caller may delete these rows of a table and of its companions.
    fn checked(table: Table, rows: OldRows) -> Result<Step> {
        table.check()?;
        let extension = Extension::find()?;
        if let Some(site) = rows.site {
            metadata::check_has_rows(&extension, table.oid, site)?;
        }
        if let Some(root) = companions::root_of(&extension, table.oid)? {
            return Err(Error::Argument {
                message: format!("table {} is a partition of {root}", table.name),
                hint: format!("Give {root}, whose ledger and companions lose the same days."),
            });
        }
        let companions = companions::of(&extension, table.oid)?;
        for (_, companion) in &companions {
            Table::find(*companion)?.map_or(Ok(()), |table| table.check())?;
        }
        Ok(Step { extension, table, companions, rows })
    }

    /// Rows of a concurrent sync would remain in days that are sealed as empty; and the sync would seal
    /// days that lose rows here.
    fn lock_rows(&self) -> bool {
        let rows = Lock::Rows(self.table.oid, self.rows.site.unwrap_or(ALL_SITES));
        locks::try_take(rows, Mode::AccessExclusive, Until::TransactionEnd)
    }

    /// Removes rows and moves the cursor; does neither if another session holds a lock.
    fn attempt(&self, cursor: &mut Cursor) -> Result<Dropped> {
        let mut moved = cursor.clone();
        match subtransaction::within(|| self.run(&mut moved), raised) {
            Ok(dropped) => {
                *cursor = moved;
                Ok(dropped)
            }
            Err(failure) => self.blocked_by(failure),
        }
    }

    /// Locks the table and removes rows of it, or raises why some could not be deleted.
    fn run(&self, cursor: &mut Cursor) -> Undoable<Dropped> {
        // Otherwise the commit would undo all of the step.
        undefer()?;
        // Do not wait for an exclusive lock on a partition either.
        let wait = u64::try_from(self.rows.lock_timeout.micros()).unwrap_or_default();
        let _bounded = locks::waits_up_to(Duration::from_micros(wait));
        // SAFETY: main thread, within a transaction.
        unsafe { pg_sys::LockRelationOid(self.table.oid, lock_mode(false)) };
        self.check_name()?;
        if cursor.is_over
            && let Some(failed) = cursor.failed.take()
        {
            failed.tell(PgLogLevel::ERROR);
        }
        let dropped = self.remove(cursor)?;
        // The lock does not prevent renaming its schema.
        self.check_name()?;
        Ok(dropped)
    }

    /// Statements use the name, which another table may have got.
    fn check_name(&self) -> Undoable<()> {
        match has_name(self.table.oid, &self.table.name)? {
            true => Ok(()),
            false => Err(DropFailure::TableLocked),
        }
    }

    /// Removes rows of one table. If it has none left, goes on with the next one.
    fn remove(&self, cursor: &mut Cursor) -> Undoable<Dropped> {
        let first = cursor.table;
        if first == TableKind::Actions {
            let dropped = self.remove_actions(cursor)?;
            if dropped.more {
                return Ok(dropped);
            }
        }
        // The rows of the companions go after those of the actions.
        for (kind, companion) in self.companions.iter().filter(|(kind, _)| *kind >= first) {
            cursor.move_to(*kind);
            let (dropped, _) = self.rows.remove_from(&self.extension, *companion, cursor)?;
            if dropped.more {
                // Of the actions alone.
                return Ok(Dropped { actions: 0, ..dropped });
            }
        }
        let are_days_noted = first == TableKind::Actions || cursor.has_rows_left;
        if !are_days_noted && self.note_days(None)? == Noted::RowsLeft {
            // A sync has stored them since: scan from the start once more.
            cursor.restart();
            return Ok(Dropped { more: true, ..Dropped::default() });
        }
        // The next step raises it, when this one is committed.
        cursor.is_over = cursor.failed.is_some();
        Ok(Dropped { more: cursor.is_over, ..Dropped::default() })
    }

    fn remove_actions(&self, cursor: &mut Cursor) -> Undoable<Dropped> {
        let has_skipped_rows = cursor.scan_position.is_some();
        let (mut dropped, gone) = self.rows.remove_from(&self.extension, self.table.oid, cursor)?;
        if dropped.blocked.is_some() || dropped.more && gone.is_none() {
            return Ok(dropped);
        }
        cursor.has_rows_left = self.note_days(gone.as_ref())? == Noted::RowsLeft;
        // Some may be among those that were skipped: scan from the start once more.
        if cursor.has_rows_left && has_skipped_rows && cursor.failed.is_none() {
            cursor.restart();
            dropped.more = true;
        }
        Ok(dropped)
    }

    /// Notes the days that are empty now.
    fn note_days(&self, gone: Option<&Gone>) -> Undoable<Noted> {
        let bounds = Bounds {
            destination: self.table.oid,
            table: &self.table.name,
            site: self.rows.site,
            before: seconds(self.rows.before),
        };
        match emptied_days::note(&self.extension, &bounds, gone)? {
            Noted::Locked => Err(DropFailure::LedgerLocked),
            noted => Ok(noted),
        }
    }

    /// Tells which lock the step could not get; returns or raises any other failure.
    fn blocked_by(&self, failure: DropFailure) -> Result<Dropped> {
        let (what, modes): (_, &[&str]) = match failure {
            DropFailure::Failed(error) => return Err(error),
            DropFailure::Raised(caught) => caught.rethrow(),
            DropFailure::LedgerLocked => (
                format!("{}.matomo_ledger", self.extension.schema),
                &["RowShareLock", "RowExclusiveLock"],
            ),
            DropFailure::TableLocked => (self.table.name.clone(), &["AccessExclusiveLock"]),
        };
        let holders = holders::of_tree(&what, modes)?;
        Ok(blocked(what, holders))
    }
}

type Undoable<T> = std::result::Result<T, DropFailure>;

/// Why a step is rolled back.
enum DropFailure {
    Failed(Error),
    Raised(Box<CaughtError>),
    /// Another session has locked a ledger entry.
    LedgerLocked,
    /// Another session has locked the table or a partition, or has just renamed it.
    TableLocked,
}

fn raised(caught: CaughtError) -> DropFailure {
    match ereport::raised(&caught).sql_error_code() {
        PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE => DropFailure::TableLocked,
        _ => DropFailure::Raised(Box::new(caught)),
    }
}

impl From<Error> for DropFailure {
    fn from(error: Error) -> DropFailure {
        DropFailure::Failed(error)
    }
}
