//! Conflicts with another session that works on the same table. Pure.

use std::fmt;

/// What the other session does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Busy {
    /// It syncs the same site into the same destination.
    Syncs { site: i32, name: String },
    /// It is the first to sync another Matomo into the destination.
    OtherFirst(String),
    /// It removes old rows of the destination.
    Drops(String),
    /// It is the first to sync into the destination after that was emptied.
    Refills(String),
    /// It is still syncing the site into the destination after an erasure's longest wait.
    StillSyncs { site: u32, name: String, pid: i32 },
}

impl Busy {
    /// The HINT line.
    pub fn hint(&self) -> String {
        match self {
            Busy::OtherFirst(_) => {
                "Give each Matomo a table of its own, with destination => '...'. If it is \
                 the same under another URL, use one URL."
                    .to_owned()
            }
            Busy::StillSyncs { pid, .. } => format!(
                "Call it again when that sync has ended, see matomo_progress; or end it with \
                 pg_cancel_backend({pid})."
            ),
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
            Busy::Drops(name) => write!(f, "another session is removing old rows of \"{name}\""),
            Busy::Refills(name) => {
                write!(
                    f,
                    "\"{name}\" was emptied, and another session is the first to sync into it"
                )
            }
            Busy::StillSyncs { site, name, .. } => {
                write!(f, "could not erase: site {site} is still being synced into {name}")
            }
        }
    }
}
