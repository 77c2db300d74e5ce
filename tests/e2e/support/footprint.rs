//! Threads, files and memory of a process.

use crate::support::traps::threads;
use crate::support::*;

/// Threads, files and memory of a process.
#[derive(Debug, Clone, Copy)]
pub struct Footprint {
    pub threads: usize,
    pub files: usize,
    pub sockets: usize,
    /// Private memory, in kB; touched shared buffers would grow for long.
    pub memory: usize,
}

impl Footprint {
    pub fn of(pid: i32) -> Footprint {
        let links: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap_or_default())
            // Postgres keeps files of tables open, up to its own limit.
            .filter(|file| !file.to_string_lossy().starts_with("/tmp/matomo_e2e."))
            .collect();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        Footprint {
            threads: threads(pid).len(),
            files: links.len(),
            sockets: links.iter().filter(|l| l.to_string_lossy().starts_with("socket")).count(),
            memory: memory.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }

    /// The first footprint from now on that is within bounds, as the process may be working. A leak
    /// would be in all of them.
    pub fn at_rest(pid: i32, within: impl Fn(&Footprint) -> bool) -> Footprint {
        let mut found = Footprint::of(pid);
        wait_until(&format!("a process at rest after {found:?}"), || {
            found = Footprint::of(pid);
            within(&found)
        });
        found
    }
}
