//! The setting for the measurements: a server with the extension, and a fake Matomo with cached
//! answers.

use std::cell::RefCell;

use chrono::{Days, NaiveDate, Utc};
use fake_matomo::{Clock, Fake, Options, Seen, SitePlan, World};
use postgres::{Client, Config, NoTls};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub struct Scene {
    pub fake: Fake,
    pub first: NaiveDate,
    pub last: NaiveDate,
    /// The rows of a full copy.
    pub rows: u64,
    /// The requests of a full copy.
    pub requests: Vec<Seen>,
    /// A file on the server with all rows of actions in `COPY` format; each companion has a file
    /// with its suffix.
    pub file: String,
    /// A Markdown table: sizes of the tables on disk, compared with a 0.1.0 table.
    pub sizes: String,
    /// A second connection, to observe the first.
    pub watcher: RefCell<Client>,
}

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub name: &'static str,
    /// Approximate.
    pub actions: usize,
    pub days: u64,
    /// Whether to measure the wait for Matomo's answers.
    pub waits: bool,
}

/// `matomo.fetch_workers` where Matomo answers at once: there is nothing to wait for, and the fake
/// needs a CPU too.
pub const WORKERS: usize = 1;

/// The plan with this name. Days of the first three are about the same size, so pages are too.
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

/// The average in the fake's generated visits.
const ACTIONS_PER_VISIT: f64 = 4.45;

impl Scene {
    /// Generates a site with about this many actions and requests everything once.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn build(plan: Plan) -> Result<Scene> {
        let Plan { actions, days, .. } = plan;
        // These days have ended and settled.
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
            sizes: String::new(),
            watcher: RefCell::new(connect()?),
        };
        let mut db = scene.session("matomo")?;
        db.execute(&scene.call("matomo", false), &[])?;
        scene.rows = db.query_one("SELECT count(*) FROM matomo", &[])?.get::<_, i64>(0) as u64;
        scene.sizes = sizes(&mut db)?;
        for suffix in TABLES {
            db.batch_execute(&format!(
                "COPY matomo{suffix} TO '{}{suffix}'; DROP TABLE matomo{suffix}",
                scene.file
            ))?;
        }
        let live =
            scene.fake.requests().into_iter().filter(|seen| seen.method.starts_with("Live."));
        scene.requests = live.collect();
        eprintln!("{} actions over {days} days in {} requests", scene.rows, scene.requests.len());
        Ok(scene)
    }

    /// A new session without a table of this name and without its ledger.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn session(&self, table: &str) -> Result<Client> {
        let mut db = connect()?;
        db.batch_execute(&format!(
            "SET client_min_messages = error;
             CREATE EXTENSION IF NOT EXISTS matomo_postgres;
             LOAD 'matomo_postgres';
             DELETE FROM matomo_ledger WHERE destination = to_regclass('{table}');
             DROP TABLE IF EXISTS {};",
            TABLES.map(|suffix| format!("{table}{suffix}")).join(", ")
        ))?;
        Ok(db)
    }

    /// The sync of all days.
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

/// The suffixes of a destination and its companions.
pub const TABLES: [&str; 4] = ["", "_visits", "_conversions", "_items"];

/// The sizes of the tables of `matomo`, and of its actions as 0.1.0 stored them: the Node tool's
/// columns, numbers as text, and a primary key on the action plus an index on the visit.
fn sizes(db: &mut Client) -> Result<String> {
    let columns = "(SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = 'of_0_1_0'::regclass AND attnum > 0)";
    db.batch_execute(&format!(
        "SELECT matomo_create_table('of_0_1_0', layout => 'node');
         DO $$ BEGIN
             EXECUTE (SELECT format('ALTER TABLE of_0_1_0 DROP CONSTRAINT %I', conname)
                      FROM pg_constraint WHERE conrelid = 'of_0_1_0'::regclass AND contype = 'p');
             EXECUTE 'ALTER TABLE of_0_1_0 ADD PRIMARY KEY (action_id)';
             EXECUTE 'CREATE INDEX ON of_0_1_0 (idvisit)';
             EXECUTE format('INSERT INTO of_0_1_0 SELECT %s FROM matomo', {columns});
         END $$"
    ))?;
    let mut text = String::from(
        "| size | rows | table, MB | indexes, MB | bytes a row |\n|---|--:|--:|--:|--:|\n",
    );
    for (name, table) in [("actions as in 0.1.0", "of_0_1_0".to_owned())].into_iter().chain(
        ["actions", "visits", "conversions", "items"]
            .into_iter()
            .zip(TABLES.map(|suffix| format!("matomo{suffix}"))),
    ) {
        let row = db.query_one(
            &format!(
                "SELECT format('| %s | %s | %s | %s | %s |', '{name}', n, round(t / 1e6, 1), round(i / 1e6, 1),
                     round((t + i) / greatest(n, 1)))
                 FROM (SELECT count(*) FROM {table}) AS c(n),
                      (SELECT pg_table_size('{table}')::numeric, pg_indexes_size('{table}')::numeric) AS s(t, i)"
            ),
            &[],
        )?;
        text += &(row.get::<_, String>(0) + "\n");
    }
    db.batch_execute("DROP TABLE of_0_1_0")?;
    Ok(text)
}

fn connect() -> Result<Client> {
    let get = |name: &str| std::env::var(name);
    let mut config = Config::new();
    config.host(&get("PGHOST")?).port(get("PGPORT")?.parse()?).user(&get("PGUSER")?);
    Ok(config.dbname(&get("PGDATABASE")?).connect(NoTls)?)
}

/// A new connection.
///
/// # Errors
/// Errors of the server.
pub fn another() -> Result<Client> {
    connect()
}
