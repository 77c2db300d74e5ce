//! Heavyweight locks that only this extension can take: SQL has no function that takes a lock of their
//! type, nor one that releases it. `pg_locks` shows them as `userlock`.

use std::time::Duration;

use pgrx::pg_sys;

use crate::pg::local_settings::LocalSettings;

/// The longest that runs and upkeep of registered sites wait for any lock.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// As long as this lives, statements wait no longer than that for a lock; where the session's own
/// `lock_timeout` is shorter, no longer than that.
pub fn bounded_waits() -> LocalSettings {
    // SAFETY: main thread; a setting of the session.
    let own = unsafe { pg_sys::LockTimeout };
    match own {
        1..=5_000 => LocalSettings::of(&[]),
        _ => LocalSettings::of(&[(c"lock_timeout", c"5s")]),
    }
}

/// What a lock is on, in this database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// The run of a registered site (its ID).
    Run(i32),
    /// The rows of a site (idSite) in a destination.
    Rows(pg_sys::Oid, i32),
    /// That a destination becomes the Matomo's with this hash of its URL, as long as the ledger does
    /// not say whose it is; syncs of one Matomo share it.
    Matomo(pg_sys::Oid, u32),
    /// What the ledger says of a destination that was emptied.
    Emptied(pg_sys::Oid),
}

/// How long a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The end of the transaction, or of the subtransaction if that aborts.
    TransactionEnd,
    /// [`release`], or the next transaction that aborts.
    Released,
}

/// `objsubid` in `pg_locks`.
pub const RUN: u16 = 0x6d72;
const ROWS: u16 = 0x6d64;
pub const MATOMO: u16 = 0x6d6d;
const EMPTIED: u16 = 0x6d65;

/// Takes a lock without waiting; gives false when another session has it.
pub fn try_take(lock: Lock, until: Until) -> bool {
    // SAFETY: main thread, within a transaction.
    let result =
        unsafe { pg_sys::LockAcquire(&lock.tag(), lock.mode(), until == Until::Released, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Releases a lock that was taken until then.
pub fn release(lock: Lock) {
    // SAFETY: main thread; needs no transaction.
    unsafe { pg_sys::LockRelease(&lock.tag(), lock.mode(), true) };
}

impl Lock {
    fn mode(self) -> pg_sys::LOCKMODE {
        let mode = match self {
            Lock::Matomo(..) => pg_sys::ShareLock,
            Lock::Run(_) | Lock::Rows(..) | Lock::Emptied(_) => pg_sys::ExclusiveLock,
        };
        mode as pg_sys::LOCKMODE
    }

    fn tag(self) -> pg_sys::LOCKTAG {
        let (class, object, kind) = match self {
            Lock::Run(site) => (0, site.cast_unsigned(), RUN),
            Lock::Rows(destination, site) => (destination.to_u32(), site.cast_unsigned(), ROWS),
            Lock::Matomo(destination, hash) => (destination.to_u32(), hash, MATOMO),
            Lock::Emptied(destination) => (destination.to_u32(), 0, EMPTIED),
        };
        pg_sys::LOCKTAG {
            // SAFETY: main thread; a number that is set when the session begins.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2: class,
            locktag_field3: object,
            locktag_field4: kind,
            locktag_type: pg_sys::LockTagType::LOCKTAG_USERLOCK as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        }
    }
}

/// Waits till nobody else makes a table of a name with this hash; others wait till the end of the
/// transaction.
pub fn wait_to_create(hash: i32) {
    let tag = pg_sys::LOCKTAG {
        // SAFETY: main thread; a number that is set when the session begins.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: 0,
        locktag_field3: hash.cast_unsigned(),
        locktag_field4: 0x6d74,
        locktag_type: pg_sys::LockTagType::LOCKTAG_USERLOCK as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    // SAFETY: main thread, within a transaction.
    unsafe { pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as pg_sys::LOCKMODE, false, false) };
}
