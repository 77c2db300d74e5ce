//! The cost of an operation: time, CPU, memory, WAL.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

/// The cost of one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub seconds: f64,
    /// Rows written or compared.
    pub rows: u64,
    /// Requests to Matomo.
    pub requests: u64,
    /// CPU seconds of the backend, its threads included.
    pub backend: f64,
    /// CPU seconds of this process: the fake Matomo, and the client that waits or downloads.
    pub here: f64,
    /// The largest growth of the backend's own memory, in bytes.
    pub memory: u64,
    pub wal: u64,
}

impl Cost {
    pub fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.seconds
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "{:.3} s, {:.0} rows/s, CPU {:.2} + {:.2} s, {:.0} MB, WAL {:.0} MB",
            self.seconds,
            self.rows_per_second(),
            self.backend,
            self.here,
            self.memory as f64 / 1e6,
            self.wal as f64 / 1e6
        )
    }
}

/// Measures what a backend does in `work`, which returns the number of rows.
///
/// # Errors
/// Those of `work` and of the query for the WAL position.
pub fn measure<E: From<postgres::Error>>(
    watcher: &mut Client,
    backend: i32,
    work: impl FnOnce() -> Result<u64, E>,
) -> Result<Cost, E> {
    let wal = |watcher: &mut Client| -> Result<f64, postgres::Error> {
        let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0')::float8";
        Ok(watcher.query_one(sql, &[])?.get(0))
    };
    watcher.batch_execute("CHECKPOINT")?;
    // Otherwise the kernel writes to the disk meanwhile what came before: with a CPU that COPY leaves free.
    std::process::Command::new("sync").status().ok();
    let memory = Memory::watch(backend);
    let before = (wal(watcher)?, cpu(backend), cpu(own()), Instant::now());
    let rows = work()?;
    let seconds = before.3.elapsed().as_secs_f64();
    Ok(Cost {
        seconds,
        rows,
        requests: 0,
        backend: cpu(backend) - before.1,
        here: cpu(own()) - before.2,
        memory: memory.growth(),
        wal: (wal(watcher)? - before.0) as u64,
    })
}

fn own() -> i32 {
    std::process::id() as i32
}

/// CPU seconds used by a process so far.
pub fn cpu(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields after the name, which may contain spaces; utime and stime are the 12th and 13th.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Watches the growth of a process's own memory, without shared memory.
struct Memory {
    start: u64,
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Memory {
    fn watch(pid: i32) -> Memory {
        let start = anonymous(pid);
        let peak = Arc::new(AtomicU64::new(start));
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, until) = (Arc::clone(&peak), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                theirs.fetch_max(anonymous(pid), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(10));
            }
        });
        Memory { start, peak, stop, thread: Some(thread) }
    }

    fn growth(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.peak.load(Ordering::Relaxed) - self.start
    }
}

/// Bytes of a process's anonymous memory.
fn anonymous(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    kilobytes.unwrap_or(0) * 1024
}
