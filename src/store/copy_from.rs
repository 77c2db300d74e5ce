//! `COPY … FROM` memory: the fastest way into a table, in the current transaction.
//!
//! Chosen by `tests/bench/run candidates`, with the table of 0.1.0 (43 columns, three indexes). Batches of
//! 1,500 rows given as texts, median of three rounds, time relative to one `COPY` of everything: `COPY` of
//! each batch 0.94, `COPY` into a stage and `INSERT … SELECT … ON CONFLICT` 1.4, `INSERT … SELECT FROM
//! unnest(43 arrays)` 1.9, `json_populate_recordset` 2.3.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::pg::encoding;
use crate::rows::layout::Layout;

/// The data that COPY has yet to read, in order.
struct CopySource<'a> {
    parts: std::slice::Iter<'a, Cow<'a, [u8]>>,
    rest: &'a [u8],
}

/// The source of the innermost running `COPY`; a trigger of the table may start another one.
static SOURCE: AtomicPtr<CopySource> = AtomicPtr::new(ptr::null_mut());

/// Copies lines, in the database's encoding, into a relation, with its triggers, defaults and
/// constraints. Returns the number of inserted rows, or `None` if the relation has row-level
/// security or rules, which only INSERT applies.
///
/// # Errors
/// Only internal ones; Postgres' own are raised.
pub fn copy_from(
    relation: pg_sys::Oid,
    layout: &Layout,
    parts: &[Cow<[u8]>],
) -> Result<Option<u64>> {
    let mut source = CopySource { parts: parts.iter(), rest: &[] };
    let _guard = SourceGuard::of(&mut source);
    let names: std::result::Result<Vec<_>, _> = layout.names().map(CString::new).collect();
    let columns = names.map_err(|_| Error::Internal("a column with a NUL".to_owned()))?;
    // SAFETY: main thread, in a transaction with a snapshot. The relation stays locked as after any
    // INSERT. The memory context is the transaction's and deleted here on success only: when a trigger
    // raises an ERROR within an SPI level of its own, unwinding goes back to that level's context,
    // which lies in ours, and allocates the error's texts there.
    unsafe {
        let context = pg_sys::AllocSetContextCreateExtended(
            pg_sys::CurTransactionContext,
            c"matomo copy".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let before = pg_sys::MemoryContextSwitchTo(context);
        let inserted = copy_into(relation, &columns);
        pg_sys::MemoryContextSwitchTo(before);
        pg_sys::MemoryContextDelete(context);
        Ok(inserted)
    }
}

/// # Safety
/// Main thread, in a transaction with a snapshot.
unsafe fn copy_into(relation: pg_sys::Oid, columns: &[CString]) -> Option<u64> {
    // SAFETY: the caller's promise.
    unsafe {
        let lock = pg_sys::RowExclusiveLock as c_int;
        let rel = pg_sys::table_open(relation, lock);
        let secured = pg_sys::check_enable_rls(relation, pg_sys::Oid::INVALID, false)
            == pg_sys::CheckEnableRlsResult::RLS_ENABLED as c_int;
        if secured || !(*rel).rd_rules.is_null() {
            pg_sys::table_close(rel, pg_sys::NoLock as c_int);
            return None;
        }
        // Makes earlier changes of this transaction visible to COPY, and its rows to later
        // commands.
        pg_sys::CommandCounterIncrement();
        let state = pg_sys::make_parsestate(ptr::null_mut());
        let item =
            pg_sys::addRangeTableEntryForRelation(state, rel, lock, ptr::null_mut(), false, false);
        check_privileges(state, item, relation, columns);
        let names = columns
            .iter()
            .fold(ptr::null_mut(), |names, name| pg_sys::lappend(names, string(name).cast()));
        let encoding = pg_sys::makeDefElem(
            pg_sys::pstrdup(c"encoding".as_ptr()),
            string(encoding::name()).cast(),
            -1,
        );
        let options = pg_sys::lappend(ptr::null_mut(), encoding.cast());
        let copy = pg_sys::BeginCopyFrom(
            state,
            rel,
            ptr::null_mut(),
            ptr::null(),
            false,
            Some(read),
            names,
            options,
        );
        let inserted = pg_sys::CopyFrom(copy);
        pg_sys::EndCopyFrom(copy);
        pg_sys::free_parsestate(state);
        pg_sys::table_close(rel, pg_sys::NoLock as c_int);
        pg_sys::CommandCounterIncrement();
        Some(inserted)
    }
}

/// A name as a parser node.
///
/// # Safety
/// Main thread; the copy lives in the current memory context.
unsafe fn string(text: &CStr) -> *mut pg_sys::String {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::makeString(pg_sys::pstrdup(text.as_ptr())) }
}

/// Raises an ERROR unless the current user may insert into all columns.
///
/// # Safety
/// Main thread; `item` is an entry of `state` for `relation`.
unsafe fn check_privileges(
    state: *mut pg_sys::ParseState,
    item: *mut pg_sys::ParseNamespaceItem,
    relation: pg_sys::Oid,
    columns: &[CString],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut inserted = ptr::null_mut();
        for column in columns {
            let place = c_int::from(pg_sys::get_attnum(relation, column.as_ptr()));
            let place = place - pg_sys::FirstLowInvalidHeapAttributeNumber;
            inserted = pg_sys::bms_add_member(inserted, place);
        }
        #[cfg(feature = "pg15")]
        {
            (*(*item).p_rte).requiredPerms = pg_sys::ACL_INSERT;
            (*(*item).p_rte).insertedCols = inserted;
            pg_sys::ExecCheckRTPerms((*state).p_rtable, true);
        }
        #[cfg(not(feature = "pg15"))]
        {
            (*(*item).p_perminfo).requiredPerms = pg_sys::ACL_INSERT.into();
            (*(*item).p_perminfo).insertedCols = inserted;
            pg_sys::ExecCheckPermissions((*state).p_rtable, (*state).p_rteperminfos, true);
        }
    }
}

/// Makes a source the current one until it is dropped.
struct SourceGuard {
    outer: *mut CopySource<'static>,
}

impl SourceGuard {
    fn of(source: &mut CopySource) -> SourceGuard {
        let source = ptr::from_mut(source).cast::<CopySource<'static>>();
        SourceGuard { outer: SOURCE.swap(source, Ordering::Relaxed) }
    }
}

impl Drop for SourceGuard {
    fn drop(&mut self) {
        SOURCE.store(self.outer, Ordering::Relaxed);
    }
}

/// Callback of `COPY`: writes up to `most` bytes, 0 at the end.
#[pg_guard]
unsafe extern "C-unwind" fn read(buffer: *mut c_void, _least: c_int, most: c_int) -> c_int {
    // SAFETY: `copy_from` has set it, and it lives as long as the COPY that calls us.
    let Some(source) = (unsafe { SOURCE.load(Ordering::Relaxed).as_mut() }) else { return 0 };
    let most = usize::try_from(most).unwrap_or(0);
    let mut done = 0;
    while done < most {
        if source.rest.is_empty() {
            match source.parts.next() {
                Some(part) => source.rest = part,
                None => break,
            }
        }
        let (now, rest) = source.rest.split_at(source.rest.len().min(most - done));
        // SAFETY: Postgres hands over room for `most` bytes.
        unsafe { ptr::copy_nonoverlapping(now.as_ptr(), buffer.cast::<u8>().add(done), now.len()) };
        source.rest = rest;
        done += now.len();
    }
    c_int::try_from(done).unwrap_or(0)
}
