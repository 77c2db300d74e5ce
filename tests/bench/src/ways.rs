//! The measured ways to get rows into a table, or only pages from Matomo.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use postgres::Client;

use crate::cost::{Cost, measure};
use crate::inserts;
use crate::scene::{Scene, TABLES, another};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Standard,
    Partitioned,
    /// Of another access method, which is written by plain SQL.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `matomo_sync` into a new table.
    Sync { kind: Kind, latency: Duration, workers: usize },
    /// `matomo_sync` of days copied before.
    Again { kind: Kind, force: bool },
    /// `COPY FROM` a file on the server.
    Copy { kind: Kind, indexes: bool },
    /// `INSERT … SELECT FROM unnest(…)` of batches, as texts.
    Insert { kind: Kind },
    /// The sync's requests, with the answers discarded.
    Download { latency: Duration, workers: usize },
    /// One prepared `INSERT … ON CONFLICT DO NOTHING` per action over ten connections, each in its
    /// own transaction, as in the Node tool.
    Node { kind: Kind },
}

impl Kind {
    fn table(self) -> &'static str {
        match self {
            Kind::Standard | Kind::Other => "matomo",
            Kind::Partitioned => "matomo_partitioned",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Kind::Standard => "standard",
            Kind::Partitioned => "partitioned",
            Kind::Other => "other access method",
        })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Way::Sync { kind, latency, workers } => {
                write!(f, "sync, {kind}, {} ms, {workers} workers", latency.as_millis())
            }
            Way::Again { kind, force: true } => write!(f, "sync again with force, {kind}"),
            Way::Again { kind, force: false } => write!(f, "sync again, {kind}"),
            Way::Copy { kind, indexes: true } => write!(f, "COPY, {kind}"),
            Way::Copy { kind, indexes: false } => write!(f, "COPY without indexes, {kind}"),
            Way::Insert { kind } => write!(f, "INSERT of unnest, {kind}"),
            Way::Download { latency, workers } => {
                write!(f, "download, {} ms, {workers} workers", latency.as_millis())
            }
            Way::Node { kind } => write!(f, "the Node tool's way, {kind}"),
        }
    }
}

impl Way {
    /// Runs it once.
    ///
    /// # Errors
    /// Errors of the server, or missing rows.
    pub fn run(&self, scene: &Scene) -> Result<Cost> {
        match *self {
            Way::Sync { kind, latency, workers } => {
                let mut db = scene.session(kind.table())?;
                empty_table(scene, &mut db, kind, kind.table(), "typed")?;
                db.batch_execute(&format!("SET matomo.fetch_workers = {workers}"))?;
                scene.fake.knobs().latency = latency;
                let cost = sync(scene, &mut db, kind, false);
                scene.fake.knobs().latency = Duration::ZERO;
                cost
            }
            Way::Again { kind, force } => {
                // Into the table left by the previous sync, if any.
                let mut db = another()?;
                if !rows(&mut db, kind.table()).is_ok_and(|rows| rows == scene.rows) {
                    db = scene.session(kind.table())?;
                    db.execute(&scene.call(kind.table(), false), &[])?;
                }
                sync(scene, &mut db, kind, force)
            }
            Way::Copy { kind, indexes } => copy(scene, kind, indexes),
            Way::Insert { kind } => inserts::unnest(scene, kind),
            Way::Download { latency, workers } => {
                scene.fake.knobs().latency = latency;
                let cost = download(scene, workers);
                scene.fake.knobs().latency = Duration::ZERO;
                cost
            }
            Way::Node { kind } => inserts::node(scene, kind),
        }
    }
}

pub fn pid(db: &mut Client) -> Result<i32> {
    Ok(db.query_one("SELECT pg_backend_pid()", &[])?.get(0))
}

fn rows(db: &mut Client, table: &str) -> Result<u64> {
    let count: i64 = db.query_one(&format!("SELECT count(*) FROM {table}"), &[])?.get(0);
    Ok(count as u64)
}

fn sync(scene: &Scene, db: &mut Client, kind: Kind, force: bool) -> Result<Cost> {
    let backend = pid(db)?;
    scene.fake.clear_requests();
    let call = scene.call(kind.table(), force);
    let mut cost = measure(&mut scene.watcher.borrow_mut(), backend, || {
        db.execute(&call, &[])?;
        Ok::<_, Box<dyn std::error::Error>>(scene.rows)
    })?;
    cost.requests = scene.fake.requests().len() as u64;
    all_there(scene, db, kind.table())?;
    Ok(cost)
}

pub fn all_there(scene: &Scene, db: &mut Client, table: &str) -> Result<()> {
    let found = rows(db, table)?;
    if found != scene.rows {
        return Err(format!("{table} has {found} rows of {}", scene.rows).into());
    }
    Ok(())
}

/// An empty table with the partitions that it needs.
pub fn empty_table(
    scene: &Scene,
    db: &mut Client,
    kind: Kind,
    table: &str,
    layout: &str,
) -> Result<()> {
    let partitioned = kind == Kind::Partitioned;
    if kind == Kind::Other {
        let find = "SELECT FROM pg_am WHERE amname = 'heap2'";
        if db.query(find, &[])?.is_empty() {
            db.batch_execute("CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler")?;
        }
        db.batch_execute("SET default_table_access_method = heap2")?;
    }
    db.execute(
        &format!("SELECT matomo_create_table('{table}', {partitioned}, layout => '{layout}')"),
        &[],
    )?;
    if partitioned {
        let (from, to) = (scene.first.pred_opt(), scene.last.succ_opt());
        let (from, to) = (from.unwrap_or(scene.first), to.unwrap_or(scene.last));
        for suffix in TABLES {
            let name = format!("{table}{suffix}");
            if db.query_one("SELECT to_regclass($1) IS NULL", &[&name])?.get(0) {
                continue;
            }
            db.execute(
                &format!("SELECT matomo_create_partitions('{name}', '{from}', '{to} 23:59+00')"),
                &[],
            )?;
        }
    }
    Ok(())
}

fn copy(scene: &Scene, kind: Kind, indexes: bool) -> Result<Cost> {
    let mut db = scene.session("copied")?;
    empty_table(scene, &mut db, kind, "copied", "typed")?;
    for suffix in TABLES.iter().filter(|_| !indexes) {
        db.batch_execute(&format!(
            "DO $$ DECLARE name regclass; BEGIN
                 EXECUTE (SELECT string_agg(format('ALTER TABLE copied{suffix} DROP CONSTRAINT %I', conname), ';')
                          FROM pg_constraint WHERE conrelid = 'copied{suffix}'::regclass);
                 FOR name IN SELECT indexrelid FROM pg_index WHERE indrelid = 'copied{suffix}'::regclass LOOP
                     EXECUTE 'DROP INDEX ' || name;
                 END LOOP;
             END $$"
        ))?;
    }
    let backend = pid(&mut db)?;
    // The same rows into the same four tables, in one transaction like the sync.
    let copy = |suffix| format!("COPY copied{suffix} FROM '{}{suffix}'", scene.file);
    let statements = format!("BEGIN; {}; COMMIT", TABLES.map(copy).join("; "));
    let cost = measure(&mut scene.watcher.borrow_mut(), backend, || {
        db.batch_execute(&statements)?;
        Ok::<_, Box<dyn std::error::Error>>(scene.rows)
    })?;
    all_there(scene, &mut db, "copied")?;
    Ok(cost)
}

fn download(scene: &Scene, workers: usize) -> Result<Cost> {
    let next = AtomicUsize::new(0);
    let (url, token) = (scene.fake.url(), scene.fake.token());
    let agent = ureq::Agent::new_with_defaults();
    // Pages of a day come one after the other: only a page tells where the next one starts.
    let mut days: Vec<Vec<&fake_matomo::Seen>> = Vec::new();
    for seen in &scene.requests {
        match days.last_mut() {
            Some(day) if day[0].param("date") == seen.param("date") => day.push(seen),
            _ => days.push(vec![seen]),
        }
    }
    let work = || -> std::result::Result<(), ureq::Error> {
        while let Some(day) = days.get(next.fetch_add(1, Ordering::Relaxed)) {
            for seen in day {
                let params =
                    seen.params.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                let mut answer =
                    agent.post(&url).query_pairs(params).send_form([("token_auth", token)])?;
                std::io::copy(&mut answer.body_mut().as_reader(), &mut std::io::sink())?;
            }
        }
        Ok(())
    };
    let mut cost = measure(&mut scene.watcher.borrow_mut(), 0, || {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                thread.join().map_err(|_| "a download broke off")??;
            }
            Ok::<_, Box<dyn std::error::Error>>(scene.rows)
        })
    })?;
    cost.requests = scene.requests.len() as u64;
    Ok(cost)
}
