//! Makes the planner use an index on idvisit for our own statements.
//!
//! During the first import a destination has no statistics. The planner then takes a range of
//! instants for more selective than a list of visits, and reads a whole partition for each batch.

use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::{pg_guard, pg_sys};

/// Whether only indexes that begin with idvisit are offered to the planner.
static VISIT_INDEX_ONLY: AtomicBool = AtomicBool::new(false);

static mut NEXT_HOOK: pg_sys::get_relation_info_hook_type = None;

const VISIT: &CStr = c"idvisit";

/// Installs the hook. Called once, when the library is loaded.
pub fn register() {
    // SAFETY: called from _PG_init on the main thread.
    unsafe {
        NEXT_HOOK = pg_sys::get_relation_info_hook;
        pg_sys::get_relation_info_hook = Some(choose);
    }
}

/// While this exists, statements are planned with indexes on idvisit.
pub struct VisitIndexOnly(bool);

impl VisitIndexOnly {
    /// Restricts planning until the result is dropped.
    pub fn set() -> VisitIndexOnly {
        VisitIndexOnly(VISIT_INDEX_ONLY.swap(true, Ordering::Relaxed))
    }
}

impl Drop for VisitIndexOnly {
    fn drop(&mut self) {
        VISIT_INDEX_ONLY.store(self.0, Ordering::Relaxed);
    }
}

/// Called for each relation of a statement that is planned. Raises the errors of catalog lookups.
#[pg_guard]
unsafe extern "C-unwind" fn choose(
    root: *mut pg_sys::PlannerInfo,
    relation: pg_sys::Oid,
    is_parent: bool,
    info: *mut pg_sys::RelOptInfo,
) {
    // SAFETY: Postgres hands over valid pointers, on the main thread.
    unsafe {
        if VISIT_INDEX_ONLY.load(Ordering::Relaxed) {
            let visit = i32::from(pg_sys::get_attnum(relation, VISIT.as_ptr()));
            let all = (*info).indexlist;
            let mut chosen = ptr::null_mut();
            for n in 0..all.as_ref().map_or(0, |all| all.length) {
                let index = (*(*all).elements.add(n as usize)).ptr_value;
                let columns = (*index.cast::<pg_sys::IndexOptInfo>()).indexkeys;
                if *columns == visit {
                    chosen = pg_sys::lappend(chosen, index);
                }
            }
            // Without such an index, all are offered. 0 would be an expression.
            if visit != 0 && !chosen.is_null() {
                (*info).indexlist = chosen;
            }
        }
        if let Some(next) = NEXT_HOOK {
            next(root, relation, is_parent, info);
        }
    }
}
