//! Another session is at work on the same table. Pure.

use std::fmt;

/// What another session does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Busy {
    /// It syncs the same site into the same destination.
    Syncs { site: i32, name: String },
    /// It syncs another Matomo into the destination for the first time.
    OtherFirst(String),
    /// It removes old rows of the destination.
    Drops(String),
    /// It is the first to sync into the destination since that was emptied.
    Refills(String),
    /// It has synced the site into the destination for longer than an erasure waits.
    StillSyncs { site: i32, name: String, holder: Holder },
    /// It has the destination to itself for longer than that; for one site, or for all.
    StillDrops { site: Option<i32>, name: String, holder: Holder },
}

/// What has a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    Process(i32),
    /// A prepared transaction, by its identifier.
    Prepared(String),
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
            Busy::StillSyncs { holder: Holder::Process(pid), .. } => format!(
                "Call it again when that sync has ended, see matomo_progress; or end it by \
                 pg_cancel_backend({pid})."
            ),
            Busy::StillDrops { holder: Holder::Process(pid), .. } => format!(
                "Call it again when that has ended, see pg_stat_activity; or end it by \
                 pg_cancel_backend({pid})."
            ),
            Busy::StillSyncs { holder: Holder::Prepared(gid), .. }
            | Busy::StillDrops { holder: Holder::Prepared(gid), .. } => {
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
            Busy::Drops(name) => write!(f, "another session removes old rows of \"{name}\""),
            Busy::Refills(name) => {
                write!(
                    f,
                    "\"{name}\" was emptied, and another session is the first to sync into it"
                )
            }
            Busy::StillSyncs { site, name, holder: Holder::Process(_) } => {
                write!(f, "could not erase: site {site} is still being synced into {name}")
            }
            Busy::StillSyncs { site, name, holder: Holder::Prepared(gid) } => write!(
                f,
                "could not erase: prepared transaction \"{gid}\" has synced site {site} into {name}"
            ),
            Busy::StillDrops { site: Some(site), name, holder: Holder::Process(_) } => {
                write!(
                    f,
                    "could not erase: old rows of site {site} are still being removed from {name}"
                )
            }
            Busy::StillDrops { site: None, name, holder: Holder::Process(_) } => write!(
                f,
                "could not erase: old rows are still being removed from {name}, or its URL changed"
            ),
            Busy::StillDrops { name, holder: Holder::Prepared(gid), .. } => write!(
                f,
                "could not erase: prepared transaction \"{gid}\" has removed old rows from {name}, or \
                 changed its URL"
            ),
        }
    }
}
