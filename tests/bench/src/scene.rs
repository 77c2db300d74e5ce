//! What is measured on: a server with the extension, and a fake Matomo whose answers are ready.

use std::cell::RefCell;

use chrono::{Days, NaiveDate, Utc};
use fake_matomo::{Clock, Fake, Options, Seen, SitePlan, World};
use postgres::{Client, Config, NoTls};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub struct Scene {
    pub fake: Fake,
    pub first: NaiveDate,
    pub last: NaiveDate,
    /// Rows of a whole copy.
    pub rows: u64,
    /// The requests of a whole copy.
    pub requests: Vec<Seen>,
    /// A file on the server with all rows, as `COPY` writes it.
    pub file: String,
    /// Another connection, to look on.
    pub watcher: RefCell<Client>,
}

/// What to make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub name: &'static str,
    /// About.
    pub actions: usize,
    pub days: u64,
    /// Whether what counts is how long Matomo takes to answer.
    pub waits: bool,
}

/// `matomo.fetch_workers` where Matomo answers at once: there is nothing to wait for, and the fake needs
/// a CPU too.
pub const WORKERS: usize = 1;

/// The plan of this name. Days of the first three are about as large, so that pages are too.
pub fn plan(name: &str) -> Option<Plan> {
    let plan = |name, actions, days, waits| Some(Plan { name, actions, days, waits });
    match name {
        "small" => plan("small", 10_000, 3, false),
        "medium" => plan("medium", 126_000, 30, false),
        "large" => plan("large", 2_000_000, 365, false),
        "waits" => plan("waits", 126_000, 182, true),
        _ => None,
    }
}

/// On the average of what the fake makes up.
const ACTIONS_PER_VISIT: f64 = 4.45;

impl Scene {
    /// Makes up a site with about so many actions, and has everything asked for once.
    ///
    /// # Errors
    /// What the server says.
    pub fn build(plan: Plan) -> Result<Scene> {
        let Plan { actions, days, .. } = plan;
        // All have ended and settled.
        let last = Utc::now().date_naive() - Days::new(3);
        let first = last - Days::new(days - 1);
        let a_day = actions as f64 / ACTIONS_PER_VISIT / days as f64;
        let site = SitePlan {
            ecommerce: true,
            ..SitePlan::new(1, "Europe/Paris", a_day.round() as usize)
        };
        let plan = fake_matomo::Plan {
            seed: 1,
            sites: vec![site],
            first_day: first,
            last_day: last,
            now: Clock::Real,
        };
        let fake = Fake::start(Options::new(World::generate(&plan)));
        fake.knobs().remembers = true;
        let mut scene = Scene {
            fake,
            first,
            last,
            rows: 0,
            requests: Vec::new(),
            file: format!("{}/rows", std::env::var("PGHOST")?),
            watcher: RefCell::new(connect()?),
        };
        let mut db = scene.session("matomo")?;
        db.execute(&scene.call("matomo", false), &[])?;
        scene.rows = db.query_one("SELECT count(*) FROM matomo", &[])?.get::<_, i64>(0) as u64;
        db.batch_execute(&format!("COPY matomo TO '{}'; DROP TABLE matomo", scene.file))?;
        let live =
            scene.fake.requests().into_iter().filter(|seen| seen.method.starts_with("Live."));
        scene.requests = live.collect();
        eprintln!("{} actions over {days} days in {} requests", scene.rows, scene.requests.len());
        Ok(scene)
    }

    /// A new session, in which no table of this name is there and nothing known of it.
    ///
    /// # Errors
    /// What the server says.
    pub fn session(&self, table: &str) -> Result<Client> {
        let mut db = connect()?;
        db.batch_execute(&format!(
            "SET client_min_messages = error;
             CREATE EXTENSION IF NOT EXISTS matomo_postgres;
             LOAD 'matomo_postgres';
             DELETE FROM matomo_ledger WHERE destination = to_regclass('{table}');
             DROP TABLE IF EXISTS {table};"
        ))?;
        Ok(db)
    }

    /// The sync of everything.
    pub fn call(&self, table: &str, force: bool) -> String {
        format!(
            "SELECT * FROM matomo_sync(1, '{}', '{}', '{}', '{}', '{table}', {force})",
            self.fake.url(),
            self.fake.token(),
            self.first,
            self.last
        )
    }
}

fn connect() -> Result<Client> {
    let get = |name: &str| std::env::var(name);
    let mut config = Config::new();
    config.host(&get("PGHOST")?).port(get("PGPORT")?.parse()?).user(&get("PGUSER")?);
    Ok(config.dbname(&get("PGDATABASE")?).connect(NoTls)?)
}

/// A connection as every other.
///
/// # Errors
/// What the server says.
pub fn another() -> Result<Client> {
    connect()
}
