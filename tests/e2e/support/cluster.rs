//! Throwaway Postgres clusters with the built extension, through `tests/cluster`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use postgres::{Client, Config, NoTls};

use crate::support::engines::Engine;
use crate::support::pages::root;

/// A running server; stopped and removed on drop.
pub struct Cluster {
    pub dir: PathBuf,
}

fn script() -> PathBuf {
    root().join("tests/cluster")
}

fn cluster(args: &[&str]) {
    cluster_in(args, &[]);
}

/// Runs `tests/cluster` with variables in its environment.
fn cluster_in(args: &[&str], variables: &[(&str, &str)]) {
    let mut command = Command::new(script());
    command.args(args).envs(variables.iter().copied());
    let output = command.output().expect("tests/cluster runs");
    assert!(
        output.status.success(),
        "tests/cluster {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn new_dir() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("/tmp/matomo_e2e.{}.{number}", std::process::id()))
}

impl Cluster {
    /// Creates and starts a server.
    pub fn start() -> Cluster {
        Cluster::start_with("")
    }

    /// The same, with lines for `postgresql.conf`.
    pub fn start_with(conf: &str) -> Cluster {
        let made = Cluster::create(conf, &[]);
        made.start_again();
        made
    }

    /// Creates a server without starting it, with variables in the environment of `tests/cluster`.
    pub fn create(conf: &str, variables: &[(&str, &str)]) -> Cluster {
        assert!(
            std::env::var_os("MATOMO_PACKAGE").is_some(),
            "MATOMO_PACKAGE is not set: run these tests with `make test`, or build the extension with packaging/package"
        );
        adopt_orphans();
        let made = Cluster { dir: new_dir() };
        cluster_in(&["create", made.path()], variables);
        let file = made.dir.join("data/postgresql.conf");
        let mut text = std::fs::read_to_string(&file).unwrap();
        // Tests do not wait for the disk, and most expect requests in the order of days.
        text += "\nfsync = off\nmax_connections = 60\nmatomo.fetch_workers = 1\n";
        text += &Engine::of_all_tests().conf(conf);
        std::fs::write(&file, text).unwrap();
        made
    }

    /// Creates and starts a standby of it.
    pub fn standby(&self) -> Cluster {
        let made = Cluster { dir: new_dir() };
        cluster(&["create", made.path()]);
        cluster(&["standby", made.path(), self.path()]);
        cluster(&["start", made.path()]);
        made
    }

    /// Starts it again after `stop`.
    pub fn start_again(&self) {
        cluster(&["start", self.path()]);
    }

    /// The same, with variables in the environment of the server.
    pub fn start_again_in(&self, variables: &[(&str, &str)]) {
        cluster_in(&["start", self.path()], variables);
    }

    /// `pg_ctl stop`.
    pub fn stop(&self, mode: &str) {
        cluster(&["stop", self.path(), mode]);
    }

    fn path(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    pub fn port(&self) -> u16 {
        std::fs::read_to_string(self.dir.join("port")).unwrap().trim().parse().unwrap()
    }

    /// The server's first process.
    pub fn postmaster(&self) -> i32 {
        self.find_postmaster().expect("a server that runs")
    }

    fn find_postmaster(&self) -> Option<i32> {
        let file = std::fs::read_to_string(self.dir.join("data/postmaster.pid")).ok()?;
        file.lines().next()?.parse().ok()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.join("log")).unwrap()).into_owned()
    }

    /// A connection as the superuser `postgres`.
    pub fn connect(&self, database: &str) -> Client {
        self.connect_as(database, "postgres")
    }

    pub fn connect_as(&self, database: &str, user: &str) -> Client {
        self.config(database, user).connect(NoTls).expect("connects")
    }

    pub fn config(&self, database: &str, user: &str) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port()).user(user).dbname(database);
        config
    }

    /// A program of this server, such as `psql` or `pg_dump`, set up to connect to it.
    pub fn program(&self, name: &str) -> Command {
        let bindir = std::fs::read_to_string(self.dir.join("bindir")).unwrap();
        let mut command = Command::new(Path::new(bindir.trim()).join(name));
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port().to_string())
            .env("PGUSER", "postgres")
            .env_remove("PGOPTIONS")
            .env_remove("PGDATABASE");
        command
    }

    /// A new database with the extension. `MATOMO_ENGINE` has another engine keep all tables that the
    /// extension makes there.
    pub fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.connect("postgres").batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        let mut db = self.connect(&name);
        db.batch_execute("CREATE EXTENSION matomo_postgres").unwrap();
        Engine::of_all_tests().set_up(&mut db);
        name
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // `pg_ctl` would wait for a zombie postmaster.
        let _ = self.find_postmaster().map(is_gone);
        // Not `cluster`, which may panic: a second panic would hide the first one.
        let _ = Command::new(script()).args(["destroy", self.path()]).output();
    }
}

impl Cluster {
    /// The same as `start_with`, shared by many tests: ends with the process.
    pub fn keep_with(conf: &str) -> &'static Cluster {
        static KEPT: Mutex<Vec<&'static Cluster>> = Mutex::new(Vec::new());
        // Statics are never dropped.
        extern "C" fn destroy() {
            for cluster in KEPT.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let _ = Command::new(script()).args(["destroy", cluster.path()]).output();
            }
        }
        let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start_with(conf)));
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_empty() {
            // SAFETY: registers a function without arguments.
            unsafe { libc::atexit(destroy) };
        }
        kept.push(cluster);
        cluster
    }
}

/// The server for all tests that neither stop it nor check its whole log.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<&'static Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::keep_with(""))
}

/// Makes this process the parent of orphans, so that `is_gone` can reap them. Postgres takes a zombie
/// for a running process, and does not start again.
fn adopt_orphans() {
    // SAFETY: sets a flag of this process.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
}

/// Whether a process has ended and was reaped.
pub fn is_gone(pid: i32) -> bool {
    // Signal 0 only checks that the process exists.
    // SAFETY: both calls only query the process, which may be our child.
    unsafe {
        libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG);
        libc::kill(pid, 0) != 0
    }
}
