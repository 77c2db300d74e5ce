//! A few statements of ours run as the extension's owner: on the ledger, which users read but do
//! not write.

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
