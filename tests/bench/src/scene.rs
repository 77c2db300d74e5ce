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
    /// A file on the server with all rows of actions, as `COPY` writes it; those of a companion are in
    /// one with its suffix.
    pub file: String,
    /// What the tables take on disk, beside one of 0.1.0, as a table of Markdown.
    pub sizes: String,
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
             DROP TABLE IF EXISTS {};",
            TABLES.map(|suffix| format!("{table}{suffix}")).join(", ")
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

/// What the names of a destination and of its companions end with.
pub const TABLES: [&str; 4] = ["", "_visits", "_conversions", "_items"];

/// The sizes of the tables of `matomo`, and of its actions as 0.1.0 kept them: the Node tool's columns,
/// numbers as text, and a primary key on the action beside an index on the visit.
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

/// A connection as every other.
///
/// # Errors
/// What the server says.
pub fn another() -> Result<Client> {
    connect()
}
