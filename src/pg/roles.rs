//! Switches the current user: to the extension's owner for our own statements on its tables, and to
//! the owner of a registered site or of a table for work on their tables.

use pgrx::pg_sys;

/// The current user is the extension's owner until this is dropped, or after an ERROR until the abort.
pub struct AsExtensionOwner {
    user: pg_sys::Oid,
    context: i32,
}

impl AsExtensionOwner {
    /// Switches to `owner`, as a SECURITY DEFINER function would. Only for our own statements with
    /// qualified names.
    pub fn switch_to(owner: pg_sys::Oid) -> AsExtensionOwner {
        let (mut user, mut context) = (pg_sys::Oid::INVALID, 0);
        // SAFETY: main thread; both pointers are to locals.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            let local = pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
            pg_sys::SetUserIdAndSecContext(owner, context | local);
        }
        AsExtensionOwner { user, context }
    }
}

impl Drop for AsExtensionOwner {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: main thread; restores the previous values.
            unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) };
        }
    }
}

/// The current user is the owner of a site or table until this is dropped, or after an ERROR until
/// the abort. The owner's code, such as triggers, may run in this state. It has only the owner's rights,
/// its settings do not outlast it, and it cannot leave behind anything that the caller would run
/// later.
pub struct AsRestricted(Option<Before>);

struct Before {
    user: pg_sys::Oid,
    context: i32,
    settings: i32,
}

impl AsRestricted {
    /// Switches to `owner`, unless that is the current user.
    pub fn switch_to(owner: pg_sys::Oid) -> AsRestricted {
        let (mut user, mut context) = (pg_sys::Oid::INVALID, 0);
        // SAFETY: main thread; both pointers are to locals.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            if user == owner {
                return AsRestricted(None);
            }
            let restricted =
                pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
            pg_sys::SetUserIdAndSecContext(owner, context | restricted as i32);
            AsRestricted(Some(Before { user, context, settings: pg_sys::NewGUCNestLevel() }))
        }
    }
}

impl Drop for AsRestricted {
    fn drop(&mut self) {
        if let Some(before) = &self.0
            && !std::thread::panicking()
        {
            // SAFETY: main thread; restores the previous user and settings.
            unsafe {
                pg_sys::AtEOXact_GUC(false, before.settings);
                pg_sys::SetUserIdAndSecContext(before.user, before.context);
            }
        }
    }
}

/// The current user.
pub fn current_user() -> pg_sys::Oid {
    // SAFETY: main thread, within a transaction.
    unsafe { pg_sys::GetUserId() }
}

/// Whether the current user has the rights of a role.
pub fn has_rights_of(role: pg_sys::Oid) -> bool {
    // SAFETY: main thread, within a transaction.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) }
}

/// Locks a table until the end of the transaction if the current user has the rights of its owner, whom it
/// returns: with the lock, the table stays the owner's.
pub fn lock_as_owner(table: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let is_theirs = |owner: &pg_sys::Oid| has_rights_of(*owner);
    owner_of(table).filter(is_theirs)?;
    // SAFETY: main thread, within a transaction.
    unsafe { pg_sys::LockRelationOid(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
    owner_of(table).filter(is_theirs)
}

/// The owner of a relation; `None` if it does not exist. Not from a query, whose snapshot may be older.
fn owner_of(table: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: main thread, within a transaction; the relation's entry is valid until it is closed.
    unsafe {
        let relation = pg_sys::RelationIdGetRelation(table);
        if relation.is_null() {
            return None;
        }
        let owner = (*(*relation).rd_rel).relowner;
        pg_sys::RelationClose(relation);
        Some(owner)
    }
}
