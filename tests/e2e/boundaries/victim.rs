//! Kills a process at a boundary, and waits until the server is up again.

use std::path::Path;

use postgres::{Client, NoTls};

use crate::support::cluster::{Cluster, is_gone};
use crate::support::worker::wait_long;
use crate::support::*;

/// Which process is ended, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// `kill -9` of the held process; the postmaster then ends all others.
    Process,
    /// `kill -9` of the postmaster, and of the process.
    Postmaster,
    /// `pg_terminate_backend` of the process.
    Terminated,
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: sends a signal to a process of a server that this test started.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "no process {pid}");
}

/// The child processes of another one.
fn children(parent: i32) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pid = |path: &Path| path.file_name()?.to_str()?.parse::<i32>().ok();
    let parent_of = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it may contain anything.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    processes
        .filter_map(|entry| pid(&entry.path()))
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

impl Victim {
    /// Ends the process; returns a new connection.
    pub fn end(self, cluster: &Cluster, mut db: Client, pid: i32) -> Client {
        match self {
            Victim::Terminated => {
                assert!(one::<bool>(&mut db, &format!("SELECT pg_terminate_backend({pid})")));
                let left = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
                wait_long(60, "it has ended", || one::<i64>(&mut db, &left) == 0);
                run(&mut db, "SELECT pg_advisory_unlock_all()");
                return db;
            }
            Victim::Process => {
                signal(pid, libc::SIGKILL);
                wait_long(60, "all sessions have ended", || db.batch_execute("SELECT 1").is_err());
            }
            Victim::Postmaster => {
                let postmaster = cluster.postmaster();
                let all = children(postmaster);
                assert!(
                    all.contains(&pid),
                    "process {pid} is no child of the postmaster, which has {all:?}"
                );
                // The process first, while the postmaster is stopped: held, it has no lock of
                // shared memory. A process that is exiting may have one, and the others would wait
                // for it for ever.
                signal(postmaster, libc::SIGSTOP);
                signal(pid, libc::SIGKILL);
                signal(postmaster, libc::SIGKILL);
                wait_long(60, "all that was killed is gone", || {
                    is_gone(postmaster) && all.iter().all(|pid| is_gone(*pid))
                });
                cluster.start_again();
            }
        }
        connect(cluster)
    }
}

/// A connection, as soon as the server accepts one.
pub fn connect(cluster: &Cluster) -> Client {
    let config = cluster.config("postgres", "postgres");
    let mut found = None;
    wait_long(60, "the server is back", || {
        found = config.connect(NoTls).ok();
        found.is_some()
    });
    let mut db = found.unwrap();
    run(&mut db, "SET client_min_messages = warning; SET TimeZone = 'UTC'");
    db
}
