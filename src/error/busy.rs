//! Conflicts with another session that works on the same table. Pure.

use std::fmt;

/// A span, in Unix seconds, in which a table (its OID) lacks partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingPartitions {
    pub table: u32,
    pub from: i64,
    pub to: i64,
    /// False for an odd time of a single visit; otherwise the following weeks will be needed too.
    pub is_regular: bool,
}

/// What the other session does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Busy {
    /// It syncs the same site into the same destination.
    Syncs { site: i32, name: String },
    /// It is the first to sync another Matomo into the destination.
    OtherFirst(String),
    /// It removes old rows of the destination, or changes its URL or companions.
    Drops(String),
    /// It is the first to sync into the destination after that was emptied.
    FirstAfterTruncate(String),
    /// It holds a registered site without progress; its process.
    Holds { site: i32, pid: i32 },
    /// No conflict yet: creating these partitions in this step would block other sessions.
    Partitions { name: String, missing: Vec<MissingPartitions> },
    /// It is the first to sync into the destination since that was restored without a companion.
    FirstAfterRestore(String),
    /// It is still syncing the site into the destination after an erasure's longest wait.
    StillSyncs { site: i32, name: String, holder: LockHolder },
    /// It still has an exclusive lock on the destination after that wait, for one site or all.
    StillDrops { site: Option<i32>, name: String, holder: LockHolder },
}

/// The holder of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockHolder {
    Process(i32),
    /// A prepared transaction, by its identifier.
    Prepared(String),
}

impl Busy {
    /// The HINT.
    pub fn hint(&self) -> String {
        match self {
            Busy::OtherFirst(_) => {
                "Give each Matomo a table of its own, with destination => '...'. If it is \
                 the same under another URL, use one URL."
                    .to_owned()
            }
            Busy::Holds { pid, .. } => format!(
                "End it with pg_terminate_backend({pid}). If it was stopped (SIGSTOP), \
                 resume it with kill -CONT {pid}."
            ),
            Busy::StillSyncs { holder: LockHolder::Process(pid), .. } => format!(
                "Call it again when that sync has ended, see matomo_progress; or end it with \
                 pg_terminate_backend({pid})."
            ),
            Busy::StillDrops { holder: LockHolder::Process(pid), .. } => format!(
                "Call it again when that has ended, see pg_stat_activity; or end it with \
                 pg_terminate_backend({pid})."
            ),
            Busy::StillSyncs { holder: LockHolder::Prepared(gid), .. }
            | Busy::StillDrops { holder: LockHolder::Prepared(gid), .. } => {
                let gid = gid.replace('\'', "''");
                format!("COMMIT PREPARED '{gid}' or ROLLBACK PREPARED '{gid}', then call it again.")
            }
            _ => "Wait for it to end, or look for it in pg_stat_activity.".to_owned(),
        }
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Busy::Syncs { site, name } => {
                write!(f, "site {site} is being synced into \"{name}\" by another session")
            }
            Busy::OtherFirst(name) => {
                write!(f, "another Matomo is being synced into \"{name}\" for the first time")
            }
            Busy::Drops(name) => write!(
                f,
                "another session is removing old rows of \"{name}\", or changing its URL or companions"
            ),
            Busy::FirstAfterTruncate(name) => {
                write!(
                    f,
                    "\"{name}\" was emptied, and another session is the first to sync into it"
                )
            }
            Busy::Holds { site, pid } => {
                write!(
                    f,
                    "process {pid} has kept registered site {site} from a sync for over an hour"
                )
            }
            Busy::Partitions { name, .. } => write!(f, "partitions of \"{name}\" are missing"),
            Busy::FirstAfterRestore(name) => write!(
                f,
                "another session is the first to sync into \"{name}\" since that was restored without a \
                 companion"
            ),
            Busy::StillSyncs { site, name, holder: LockHolder::Process(_) } => {
                write!(f, "could not erase: site {site} is still being synced into {name}")
            }
            Busy::StillSyncs { site, name, holder: LockHolder::Prepared(gid) } => write!(
                f,
                "could not erase: prepared transaction \"{gid}\" has synced site {site} into {name}"
            ),
            Busy::StillDrops { site: Some(site), name, holder: LockHolder::Process(_) } => {
                write!(
                    f,
                    "could not erase: old rows of site {site} are still being removed from {name}"
                )
            }
            Busy::StillDrops { site: None, name, holder: LockHolder::Process(_) } => write!(
                f,
                "could not erase: old rows are still being removed from {name}, or its URL or companions changed"
            ),
            Busy::StillDrops { name, holder: LockHolder::Prepared(gid), .. } => write!(
                f,
                "could not erase: prepared transaction \"{gid}\" has removed old rows from {name}, or \
                 changed its URL or companions"
            ),
        }
    }
}
