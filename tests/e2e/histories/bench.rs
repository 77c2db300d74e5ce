//! The database of a history, which may be killed, and the faults of a sync.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use fake_matomo::{Fake, World};
use postgres::{Client, Config, NoTls};

use super::events::{Calendar, Scenery};
use super::random::Random;
use super::witness::Witness;
use crate::support::cluster::{Cluster, is_gone};
pub use crate::support::engines::Engine;
use crate::support::engines::{
    create_heap2, create_hypertable, create_hypertables, create_parted, create_server,
};
use crate::support::*;

/// A database with a connection.
pub struct Bench<'a> {
    cluster: &'a Cluster,
    database: String,
    pub db: Client,
    pub engine: Engine,
    /// That of all tables, if there is one.
    pub only: Option<Engine>,
    pub has_fdw: bool,
    /// The database of foreign partitions, once there is one.
    there: Option<(String, Client)>,
}

impl<'a> Bench<'a> {
    pub fn new(cluster: &'a Cluster) -> Bench<'a> {
        let database = cluster.database();
        let mut db = cluster.connect(&database);
        run(&mut db, "DROP ACCESS METHOD IF EXISTS heap2");
        create_heap2(&mut db);
        // PyPI's PostgreSQL 16 lacks it.
        let available =
            "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'postgres_fdw')";
        let has_fdw = one(&mut db, available);
        Bench { cluster, database, db, engine: Engine::Heap, only: None, has_fdw, there: None }
    }

    /// With this engine alone.
    pub fn only(cluster: &'a Cluster, engine: Option<Engine>) -> Bench<'a> {
        Bench { only: engine, ..Bench::new(cluster) }
    }

    /// Takes away what an earlier history has left, and has tables made with an engine; all rows before
    /// an instant lie elsewhere, if there are foreign ones.
    pub fn clear(&mut self, engine: Engine, until: &str) {
        run(&mut self.db, "RESET ALL; SET client_min_messages = warning");
        // One by one, as hypertables must be.
        for table in ["matomo", "matomo_partitioned"].into_iter().flat_map(four) {
            run(&mut self.db, &format!("DROP TABLE IF EXISTS {table}"));
        }
        run(&mut self.db, "DELETE FROM matomo_ledger");
        self.engine = engine;
        self.set_engine();
        match engine {
            Engine::Heap | Engine::Heap2 => {}
            Engine::Foreign => {
                self.create_foreign();
                create_parted(&mut self.db, "matomo_partitioned", until);
            }
            Engine::Hypertable => {
                create_hypertable(&mut self.db, "matomo");
                create_hypertables(&mut self.db, "matomo_partitioned");
            }
        }
    }

    fn set_engine(&mut self) {
        let method = if self.engine == Engine::Heap2 { "heap2" } else { "heap" };
        run(&mut self.db, &format!("SET default_table_access_method = {method}"));
    }

    /// Makes the other database, or empties its table.
    fn create_foreign(&mut self) {
        if let Some((_, there)) = &mut self.there {
            return run(there, "TRUNCATE old");
        }
        let name = self.cluster.database();
        let mut there = self.cluster.connect(&name);
        run(&mut there, "CREATE TABLE old (LIKE matomo_action)");
        create_server(&mut self.db, self.cluster.port(), &name);
        self.there = Some((name, there));
    }

    /// What the ledger says.
    pub fn ledger(&mut self) -> Vec<String> {
        texts(&mut self.db, "SELECT l::text FROM matomo_ledger AS l ORDER BY 1")
    }

    pub fn postmaster(&self) -> i32 {
        self.cluster.postmaster()
    }

    pub fn cancel(&mut self) -> Disaster {
        let config = self.cluster.config(&self.database, "postgres");
        Disaster::Cancel { config: Box::new(config), pid: pid(&mut self.db) }
    }

    /// Waits until the killed server and the session's process are gone, and starts it again.
    pub fn start_again(&mut self, postmaster: i32, session: i32) {
        wait_until("all that was killed is gone", || is_gone(postmaster) && is_gone(session));
        self.cluster.start_again();
        self.db = self.cluster.connect(&self.database);
        if let Some((name, there)) = &mut self.there {
            *there = self.cluster.connect(name);
        }
        run(&mut self.db, "SET client_min_messages = warning");
        self.set_engine();
    }
}

/// What ends a sync from outside.
pub enum Disaster {
    /// `kill -9`, at once or so many milliseconds after the request.
    Kill {
        postmaster: i32,
        late: Option<u64>,
    },
    Cancel {
        config: Box<Config>,
        pid: i32,
    },
}

impl Disaster {
    /// Strikes on a thread of its own; what strikes at once has struck when this returns.
    fn strike(self) -> JoinHandle<()> {
        let wait = !matches!(self, Disaster::Kill { late: Some(_), .. });
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            match self {
                Disaster::Kill { postmaster, late } => {
                    std::thread::sleep(Duration::from_millis(late.unwrap_or(0)));
                    // SAFETY: a signal to the server that this test has started.
                    assert_eq!(unsafe { libc::kill(postmaster, libc::SIGKILL) }, 0);
                }
                Disaster::Cancel { config, pid } => {
                    let mut other = config.connect(NoTls).expect("connects");
                    other.execute("SELECT pg_cancel_backend($1)", &[&pid]).unwrap();
                }
            }
            let _ = tell.send(());
        });
        if wait {
            let _ = told.recv();
        }
        thread
    }
}

/// What goes on behind the server's back while it answers.
pub struct Scene {
    pub witness: Witness,
    pub random: Random,
    calendar: Calendar,
    last_id: i64,
    /// So many events may still happen while the sync pages.
    pub events: usize,
    /// Strikes with the request of this number, from 0.
    pub disaster: Option<(usize, Disaster)>,
    /// It has struck.
    pub struck: Option<JoinHandle<()>>,
    pub steps: Vec<String>,
}

/// A scene between the test and the fake.
#[derive(Clone)]
pub struct Stage(Arc<Mutex<Scene>>);

impl Stage {
    pub fn new(calendar: Calendar, seed: u64) -> Stage {
        Stage(Arc::new(Mutex::new(Scene {
            witness: Witness::new(calendar.zone),
            random: Random::new(!seed),
            calendar,
            last_id: 0,
            events: 0,
            disaster: None,
            struck: None,
            steps: Vec::new(),
        })))
    }

    /// Never while the world is asked for after it: the fake takes the world first.
    pub fn scene(&self) -> MutexGuard<'_, Scene> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, step: String) {
        self.scene().steps.push(step);
    }

    /// Lets one thing happen.
    pub fn event(&self, fake: &Fake) {
        let mut world = fake.world();
        self.scene().event(&mut world, "");
    }

    /// Watches the fake from now on.
    pub fn watch(&self, fake: &Fake) {
        let stage = self.clone();
        fake.before_each(Box::new(move |world, seen| {
            let mut scene = stage.scene();
            scene.witness.asked(seen);
            if scene.events > 0 && scene.random.percent(40) {
                scene.events -= 1;
                scene.event(world, "  while paging: ");
            }
            scene.witness.answers(world, seen);
            match scene.disaster.take() {
                Some((0, disaster)) => scene.struck = Some(disaster.strike()),
                Some((later, disaster)) => scene.disaster = Some((later - 1, disaster)),
                None => {}
            }
        }));
    }
}

impl Scene {
    fn event(&mut self, world: &mut World, when: &str) {
        let Scene { calendar, random, last_id, .. } = self;
        // The number of a visit that is deleted is not given again.
        *last_id = world.next_visit_id().max(*last_id + 1) - 1;
        let (what, ids) = Scenery { calendar: *calendar, random, world, last_id }.happen();
        for id in ids {
            self.witness.changed(world, id);
        }
        self.steps.push(format!("{when}{what}"));
    }
}
