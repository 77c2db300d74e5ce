//! Relations by name and by OID.

use std::ffi::CStr;

use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::encoding;

/// The lock held on a table until the end of the transaction. Any lock prevents renaming.
pub fn lock_mode(to_write: bool) -> pg_sys::LOCKMODE {
    let mode = if to_write { pg_sys::RowExclusiveLock } else { pg_sys::AccessShareLock };
    mode as pg_sys::LOCKMODE
}

/// Finds a relation by the search_path and locks it; it still has this name once it is locked.
pub fn find(name: &str, to_write: bool) -> Option<pg_sys::Oid> {
    let name = encoding::to_server(name);
    let length = i32::try_from(name.len()).unwrap_or(i32::MAX);
    let missing_ok = pg_sys::RVROption::RVR_MISSING_OK;
    // SAFETY: main thread, within a transaction; what it takes of memory is SPI's.
    let oid = unsafe {
        let name = pg_sys::cstring_to_text_with_len(name.as_ptr().cast(), length);
        let name = pg_sys::makeRangeVarFromNameList(pg_sys::textToQualifiedNameList(name));
        let (mode, nobody) = (lock_mode(to_write), std::ptr::null_mut());
        pg_sys::RangeVarGetRelidExtended(name, mode, missing_ok, None, nobody)
    };
    Some(oid).filter(|oid| *oid != pg_sys::Oid::INVALID)
}

/// The qualified and quoted name of a relation; `None` if there is none with that OID. Not from a
/// query, whose snapshot may be older than the name.
///
/// # Errors
/// Only internal ones.
pub fn name_of(oid: pg_sys::Oid) -> Result<Option<String>> {
    // SAFETY: main thread, within a transaction.
    let name = unsafe {
        pg_sys::AcceptInvalidationMessages();
        let name = pg_sys::get_rel_name(oid);
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(oid));
        if name.is_null() || schema.is_null() {
            return Ok(None);
        }
        CStr::from_ptr(pg_sys::quote_qualified_identifier(schema, name))
    };
    Ok(Some(encoding::from_server(name.to_bytes())))
}

/// Whether a relation still has its qualified name, which statements use. A lock on it prevents renaming it,
/// but not its schema.
///
/// # Errors
/// Only internal ones.
pub fn has_name(oid: pg_sys::Oid, name: &str) -> Result<bool> {
    Ok(name_of(oid)?.as_deref() == Some(name))
}
