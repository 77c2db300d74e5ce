//! The launcher: a background worker that keeps a coordinator running in each database of
//! `matomo.database`.

use std::ffi::CStr;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, pg_guard};

use crate::config::worker;
use crate::worker::background::{self, Child, Database, builder};

/// Minimum and maximum time between two starts of a coordinator.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Whether the postmaster has loaded the library; its children inherit it.
static IS_PRELOADED: AtomicBool = AtomicBool::new(false);

/// Whether the current database is to have a coordinator.
pub fn serves_this_database() -> bool {
    // SAFETY: main thread, within a transaction; Postgres returns a copy, or null.
    let name = unsafe { pg_sys::get_database_name(pg_sys::MyDatabaseId) };
    if name.is_null() || !IS_PRELOADED.load(Ordering::Relaxed) {
        return false;
    }
    // SAFETY: a C string.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    worker::databases().iter().any(|database| database.as_bytes() == name)
}

/// Registers the launcher if the library is preloaded; not under `pg_upgrade`, which allows no other
/// connections and no writes.
pub fn register() {
    // SAFETY: called from _PG_init on the main thread.
    let (preloaded, upgrade) =
        unsafe { (pg_sys::process_shared_preload_libraries_in_progress, pg_sys::IsBinaryUpgrade) };
    IS_PRELOADED.store(preloaded, Ordering::Relaxed);
    if preloaded && !upgrade {
        builder("matomo launcher", "matomo launcher", "matomo_launcher_main")
            .set_restart_time(Some(PAUSE))
            .load();
    }
}

/// Main function of the process.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn matomo_launcher_main(_argument: pg_sys::Datum) {
    background::begin(Database::None);
    // Leaked, but its child processes end with this process.
    let states: &mut Vec<DatabaseState> = background::end_with(Box::leak(Box::default()));
    loop {
        let databases = worker::databases();
        states.retain(|state| databases.contains(&state.database));
        for database in databases {
            if states.iter().all(|state| state.database != database) {
                states.push(DatabaseState::new(database));
            }
        }
        let pauses: Vec<_> = states.iter_mut().map(DatabaseState::look_after).collect();
        let coordinators = states.iter().filter(|state| state.coordinator.is_some()).count();
        background::show_idle(&format!("matomo: databases: {coordinators}"));
        background::sleep(pauses.into_iter().min().unwrap_or(LONGEST_PAUSE));
    }
}

/// A database, and its coordinator.
struct DatabaseState {
    database: String,
    coordinator: Option<Child>,
    started: Instant,
    /// Time between the last start of a coordinator and the next one.
    pause: Duration,
    /// The last reported trouble, to report it only once.
    trouble: Option<Trouble>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The database does not exist.
    Missing,
    /// It does not accept connections.
    Closed,
    /// No slot is left for a process.
    NoRoom,
}

impl DatabaseState {
    fn new(database: String) -> DatabaseState {
        let started = Instant::now().checked_sub(LONGEST_PAUSE).unwrap_or_else(Instant::now);
        DatabaseState { database, coordinator: None, started, pause: Duration::ZERO, trouble: None }
    }

    /// Starts a coordinator if none is running. Returns the time until the next check.
    fn look_after(&mut self) -> Duration {
        if let Some(coordinator) = &self.coordinator {
            if !coordinator.has_ended() {
                // The postmaster wakes this process when that changes.
                return LONGEST_PAUSE;
            }
            // Back off if it ended soon after its start.
            let lived = self.started.elapsed();
            self.pause = match lived > LONGEST_PAUSE {
                true => PAUSE,
                false => (self.pause * 2).clamp(PAUSE, LONGEST_PAUSE),
            };
            self.started = Instant::now();
            self.coordinator = None;
        }
        let waited = self.started.elapsed();
        if waited < self.pause {
            return self.pause - waited;
        }
        self.started = Instant::now();
        match self.start() {
            Ok(coordinator) => {
                self.coordinator = Some(coordinator);
                self.trouble = None;
                LONGEST_PAUSE
            }
            Err(trouble) => {
                if self.trouble.replace(trouble) != Some(trouble) {
                    self.complain(trouble);
                }
                self.pause = PAUSE.max(worker::naptime()).min(LONGEST_PAUSE);
                self.pause
            }
        }
    }

    fn start(&self) -> Result<Child, Trouble> {
        match background::transaction(|| Ok(accepts_connections(&self.database))) {
            Ok(Some(true)) => {}
            Ok(Some(false)) => return Err(Trouble::Closed),
            Ok(None) => return Err(Trouble::Missing),
            Err(failed) => {
                failed.tell(PgLogLevel::WARNING);
                return Err(Trouble::Missing);
            }
        }
        let name = format!("matomo coordinator: {}", self.database);
        let coordinator = builder(&name, "matomo coordinator", "matomo_coordinator_main")
            .set_extra(&self.database);
        Child::start(coordinator).ok_or(Trouble::NoRoom)
    }

    fn complain(&self, trouble: Trouble) {
        let name = &self.database;
        let (code, message, hint) = match trouble {
            Trouble::Missing => (
                PgSqlErrorCode::ERRCODE_INVALID_CATALOG_NAME,
                format!("database \"{name}\" of matomo.database does not exist"),
                "Create it, or correct matomo.database and reload the configuration.",
            ),
            Trouble::Closed => (
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("database \"{name}\" of matomo.database does not accept connections"),
                "ALTER DATABASE ... ALLOW_CONNECTIONS true, or correct matomo.database and reload the configuration.",
            ),
            Trouble::NoRoom => (
                PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                format!("could not start the coordinator of database \"{name}\""),
                worker::MORE_PROCESSES,
            ),
        };
        ErrorReport::new(code, message, "matomo").set_hint(hint).report(PgLogLevel::WARNING);
    }
}

/// Whether a database accepts connections; `None` if it does not exist.
fn accepts_connections(name: &str) -> Option<bool> {
    let mut accepts = None;
    // SAFETY: main thread, within a transaction; each row is read before the next one is fetched.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let catalog = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
        // Without a database, the process may not find the catalog's indexes.
        let (no_index, current, no_keys) = (pg_sys::Oid::INVALID, ptr::null_mut(), ptr::null_mut());
        let scan = pg_sys::systable_beginscan(catalog, no_index, false, current, 0, no_keys);
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            if CStr::from_ptr((*row).datname.data.as_ptr()).to_bytes() == name.as_bytes() {
                accepts = Some((*row).datallowconn);
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, lock);
    }
    accepts
}
