//! Heavyweight locks that only this extension can take and release: SQL has no function for their
//! type. `pg_locks` shows them as `userlock`.

use std::ffi::CString;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::local_settings::LocalSettings;
use crate::pg::spi::{one, query};

/// The longest wait for a lock in runs and upkeep of registered sites.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Limits `lock_timeout` to [`LONGEST_WAIT`] until the result is dropped.
pub fn bounded_waits() -> LocalSettings {
    waits_up_to(own_timeout().unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT))
}

/// Sets `lock_timeout` until the result is dropped.
pub fn waits_up_to(longest: Duration) -> LocalSettings {
    let setting = CString::new(longest.as_millis().max(1).to_string()).unwrap_or_default();
    LocalSettings::of(&[(c"lock_timeout", &setting)])
}

/// The session's `lock_timeout`; `None` if disabled.
pub fn own_timeout() -> Option<Duration> {
    // SAFETY: main thread; a setting of the session.
    let milliseconds = u64::try_from(unsafe { pg_sys::LockTimeout }).unwrap_or(0);
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

/// The object of a lock, in this database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// The run of a registered site (its ID).
    Run(i32),
    /// The rows of a site (idSite) in a destination, or of [`ALL_SITES`].
    Rows(pg_sys::Oid, i32),
    /// A destination whose ledger does not yet have a Matomo, and a hash of the URL of the Matomo
    /// that claims it.
    Matomo(pg_sys::Oid, u32),
    /// The creation of a table in a schema; the hash of its name.
    Creation(pg_sys::Oid, u32),
    /// The registration by a role of all sites of a server; the hash of its name.
    Registration(pg_sys::Oid, u32),
}

/// Takes the place of an idSite.
pub const ALL_SITES: i32 = 0;

/// Lock modes, a part of Postgres' own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Conflicts with `AccessExclusive`.
    AccessShare,
    /// Conflicts with itself and `AccessExclusive`.
    ShareUpdateExclusive,
    /// Conflicts with every mode.
    AccessExclusive,
}

/// How long a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The end of the transaction, or of the subtransaction if that aborts.
    TransactionEnd,
    /// [`release`], or the next abort of a transaction.
    Released,
}

/// Kinds of locks, `objsubid` in `pg_locks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    Run = 0x6d72,
    Rows = 0x6d64,
    Matomo = 0x6d6d,
    Creation = 0x6d74,
    Registration = 0x6d73,
}

/// A lock held by a transaction.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// The destination, schema or role.
    pub class: u32,
    /// The site, or the hash.
    pub object: u32,
    /// The process; 0 for a prepared transaction.
    pub pid: i32,
    /// Whether it is held in [`Mode::AccessExclusive`].
    pub is_exclusive: bool,
    /// Whether it is held in [`Mode::ShareUpdateExclusive`].
    pub is_share_update_exclusive: bool,
    /// Virtual transaction ID, which a prepared transaction keeps: backend number and local
    /// transaction ID.
    transaction: (i32, u32),
}

/// A hash (FNV-1a) that is the same in all sessions.
pub fn hash(text: &str) -> u32 {
    let add = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    text.bytes().fold(0x811c_9dc5, add)
}

/// Takes a lock without waiting. Returns false if another session holds a conflicting one.
pub fn try_take(lock: Lock, mode: Mode, until: Until) -> bool {
    let is_of_session = until == Until::Released;
    // SAFETY: main thread, within a transaction.
    let result = unsafe { pg_sys::LockAcquire(&lock.tag(), mode.number(), is_of_session, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Takes a lock until the end of the transaction, waiting as long as [`bounded_waits`] allows.
/// Returns false on timeout; the caller must then abort the transaction or subtransaction.
pub fn take(lock: Lock, mode: Mode) -> bool {
    let _bounded = bounded_waits();
    let wait = || {
        wait_for(lock, mode);
        true
    };
    PgTryBuilder::new(wait)
        .catch_when(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, |_| false)
        .execute()
}

/// Releases a lock taken with [`Until::Released`].
pub fn release(lock: Lock, mode: Mode) {
    // SAFETY: main thread; needs no transaction.
    unsafe { pg_sys::LockRelease(&lock.tag(), mode.number(), true) };
}

/// All locks of a kind held in this database.
pub fn held(kind: LockKind) -> Vec<Held> {
    // SAFETY: main thread; Postgres returns a copy in the current memory context.
    unsafe {
        let data = pg_sys::GetLockStatusData();
        let count = usize::try_from((*data).nelements).unwrap_or(0);
        let locks = std::slice::from_raw_parts((*data).locks, count);
        let is_meant = |lock: &&pg_sys::LockInstanceData| {
            lock.holdMask != 0
                && lock.locktag.locktag_type == pg_sys::LockTagType::LOCKTAG_USERLOCK as u8
                && lock.locktag.locktag_field1 == pg_sys::MyDatabaseId.to_u32()
                && lock.locktag.locktag_field4 == kind as u16
        };
        let found = locks.iter().filter(is_meant).map(Held::of).collect();
        pg_sys::pfree((*data).locks.cast());
        pg_sys::pfree(data.cast());
        found
    }
}

/// Waits until all other sessions' transactions that hold such a lock now have ended. On timeout,
/// returns one that has not. Does not wait for later holders, nor block them.
pub fn outwait(
    kind: LockKind,
    is_meant: impl Fn(&Held) -> bool,
    longest: Duration,
) -> Option<Held> {
    let begin = Instant::now();
    let mut left = held(kind);
    left.retain(|held| !held.is_own() && is_meant(held));
    while let Some(first) = left.first() {
        if begin.elapsed() >= longest {
            return Some(*first);
        }
        pause();
        let now = held(kind);
        left.retain(|held| now.iter().any(|other| other.is_same(held)));
    }
    None
}

/// Sleeps for up to 50 ms, then handles interrupts.
fn pause() {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: main thread; the process's own latch.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, 50, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

impl Held {
    fn of(lock: &pg_sys::LockInstanceData) -> Held {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let transaction = (lock.backend, lock.lxid);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let transaction = (lock.vxid.procNumber, lock.vxid.localTransactionId);
        let (class, object) = (lock.locktag.locktag_field2, lock.locktag.locktag_field3);
        let has = |mode: Mode| lock.holdMask & (1 << mode.number()) != 0;
        let (is_exclusive, is_share_update_exclusive) =
            (has(Mode::AccessExclusive), has(Mode::ShareUpdateExclusive));
        Held { class, object, pid: lock.pid, is_exclusive, is_share_update_exclusive, transaction }
    }

    /// Whether this session holds it.
    pub fn is_own(&self) -> bool {
        // SAFETY: main thread; set at process start.
        self.pid == unsafe { pg_sys::MyProcPid }
    }

    /// Whether the same transaction holds both. One that is prepared has no process any more.
    pub fn is_of_same(&self, other: &Held) -> bool {
        self.transaction == other.transaction
    }

    /// Of the locks of rows, the greatest is that of the site itself that is synced or removed: a session may
    /// have those of other sites, or of all, besides.
    pub fn rank(&self) -> (bool, i32) {
        (self.is_share_update_exclusive || self.is_exclusive, self.object.cast_signed())
    }

    /// Whether it is the same lock of the same transaction, possibly in more modes.
    fn is_same(&self, other: &Held) -> bool {
        self.is_of_same(other) && self.class == other.class && self.object == other.object
    }

    /// The identifier of the prepared transaction; `None` if it is not one.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn prepared(&self) -> Result<Option<String>> {
        let sql = "SELECT p.gid FROM pg_catalog.pg_prepared_xacts p JOIN pg_catalog.pg_locks l \
                   ON l.transactionid OPERATOR(pg_catalog.=) p.transaction \
                   WHERE l.pid IS NULL AND l.virtualtransaction OPERATOR(pg_catalog.=) $1";
        let (slot, number) = self.transaction;
        let transaction = format!("{slot}/{number}");
        Spi::connect_mut(|client| one(query(client, sql, &[transaction.into()])?))
    }
}

impl Mode {
    fn number(self) -> pg_sys::LOCKMODE {
        let mode = match self {
            Mode::AccessShare => pg_sys::AccessShareLock,
            Mode::ShareUpdateExclusive => pg_sys::ShareUpdateExclusiveLock,
            Mode::AccessExclusive => pg_sys::AccessExclusiveLock,
        };
        mode as pg_sys::LOCKMODE
    }
}

impl Lock {
    fn tag(self) -> pg_sys::LOCKTAG {
        let (class, object, kind) = match self {
            Lock::Run(site) => (0, site.cast_unsigned(), LockKind::Run),
            Lock::Rows(destination, site) => {
                (destination.to_u32(), site.cast_unsigned(), LockKind::Rows)
            }
            Lock::Matomo(destination, hash) => (destination.to_u32(), hash, LockKind::Matomo),
            Lock::Creation(schema, hash) => (schema.to_u32(), hash, LockKind::Creation),
            Lock::Registration(role, hash) => (role.to_u32(), hash, LockKind::Registration),
        };
        pg_sys::LOCKTAG {
            // SAFETY: main thread; set at session start.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2: class,
            locktag_field3: object,
            locktag_field4: kind as u16,
            locktag_type: pg_sys::LockTagType::LOCKTAG_USERLOCK as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        }
    }
}

/// Takes a lock until the end of the transaction, waiting as long as the session's `lock_timeout` allows.
pub fn wait_for(lock: Lock, mode: Mode) {
    // SAFETY: main thread, within a transaction.
    unsafe { pg_sys::LockAcquire(&lock.tag(), mode.number(), false, false) };
}
