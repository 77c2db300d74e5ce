//! Being another user for a while: the extension's owner for a few statements of ours on tables that
//! users do not write, and the owner of a registered site for its sync.

use pgrx::pg_sys;

/// The user is another while this lives; an ERROR gives him back with the abort.
pub struct AsOwner {
    user: pg_sys::Oid,
    context: i32,
}

impl AsOwner {
    /// Becomes `owner`, as a SECURITY DEFINER function would. Only for statements whose text is
    /// ours and whose names are safe.
    pub fn become_(owner: pg_sys::Oid) -> AsOwner {
        let (mut user, mut context) = (pg_sys::Oid::INVALID, 0);
        // SAFETY: main thread; both pointers are to locals.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            let local = pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
            pg_sys::SetUserIdAndSecContext(owner, context | local);
        }
        AsOwner { user, context }
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: main thread; what was before.
            unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) };
        }
    }
}

/// The user is the owner of a site while this lives; an ERROR gives him back with the abort. What
/// is the owner's may run then, such as triggers of his tables, and can do no more than he: nor set
/// anything that would last, or leave anything behind to be run by the user.
pub struct AsSiteOwner(Option<Before>);

struct Before {
    user: pg_sys::Oid,
    context: i32,
    settings: i32,
}

impl AsSiteOwner {
    /// Becomes `owner`, if the user is not he already.
    pub fn become_(owner: pg_sys::Oid) -> AsSiteOwner {
        let (mut user, mut context) = (pg_sys::Oid::INVALID, 0);
        // SAFETY: main thread; both pointers are to locals.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
            if user == owner {
                return AsSiteOwner(None);
            }
            let confined =
                pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
            pg_sys::SetUserIdAndSecContext(owner, context | confined as i32);
            AsSiteOwner(Some(Before { user, context, settings: pg_sys::NewGUCNestLevel() }))
        }
    }
}

impl Drop for AsSiteOwner {
    fn drop(&mut self) {
        if let Some(before) = &self.0
            && !std::thread::panicking()
        {
            // SAFETY: main thread; what was before, whatever was set meanwhile.
            unsafe {
                pg_sys::AtEOXact_GUC(false, before.settings);
                pg_sys::SetUserIdAndSecContext(before.user, before.context);
            }
        }
    }
}

/// Whether the current user has the rights of a role.
pub fn has_rights_of(role: pg_sys::Oid) -> bool {
    // SAFETY: main thread, within a transaction.
    unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), role) }
}
