//! The ways that are INSERT statements.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use postgres::Client;

use crate::cost::{Cost, measure};
use crate::scene::{Scene, TABLES, another};
use crate::ways::{Kind, Result, all_there, empty_table, pid};

/// The rows of a table as texts.
struct Texts {
    rows: Vec<Vec<Option<String>>>,
    /// Of its columns.
    types: Vec<String>,
}

/// What is to go into a table, by the columns that it has.
fn texts(scene: &Scene, db: &mut Client, suffix: &str) -> Result<Texts> {
    let columns = db.query(
        &format!(
            "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
             WHERE attrelid = 'copied{suffix}'::regclass AND attnum > 0 ORDER BY attnum"
        ),
        &[],
    )?;
    let like = if suffix.is_empty() { "matomo_action" } else { "copied" };
    db.batch_execute(&format!(
        "CREATE TEMP TABLE source{suffix} (LIKE {like}{suffix}) USING heap;
         COPY source{suffix} FROM '{}{suffix}'",
        scene.file
    ))?;
    let names: Vec<_> =
        columns.iter().map(|column| format!("{}::text", column.get::<_, String>(0))).collect();
    let all = db.query(&format!("SELECT {} FROM source{suffix}", names.join(", ")), &[])?;
    let rows = all.iter().map(|row| (0..columns.len()).map(|n| row.get(n)).collect()).collect();
    Ok(Texts { rows, types: columns.iter().map(|column| column.get(1)).collect() })
}

/// Rows of actions in a batch: those of a day of `medium`, as a sync has them.
const BATCH: usize = 4500;

/// `INSERT … SELECT FROM unnest(…)` of batches.
///
/// # Errors
/// Errors of the server, or missing rows.
pub fn unnest(scene: &Scene, kind: Kind) -> Result<Cost> {
    let mut db = scene.session("copied")?;
    empty_table(scene, &mut db, kind, "copied", "typed")?;
    let mut inserts = Vec::new();
    for suffix in TABLES {
        let Texts { rows, types } = texts(scene, &mut db, suffix)?;
        let numbered = || types.iter().enumerate();
        let casts: Vec<_> = numbered().map(|(n, kind)| format!("u.c{n}::{kind}")).collect();
        let arrays: Vec<_> = numbered().map(|(n, _)| format!("${}::text[]", n + 1)).collect();
        let names: Vec<_> = numbered().map(|(n, _)| format!("c{n}")).collect();
        let sql = format!(
            "INSERT INTO copied{suffix} SELECT {} FROM unnest({}) AS u({})",
            casts.join(", "),
            arrays.join(", "),
            names.join(", ")
        );
        let size = (rows.len() as u64 * BATCH as u64).div_ceil(scene.rows).max(1) as usize;
        let columns = |rows: &[Vec<Option<String>>]| -> Vec<Vec<Option<String>>> {
            (0..types.len()).map(|n| rows.iter().map(|row| row[n].clone()).collect()).collect()
        };
        inserts.push((sql, rows.chunks(size).map(columns).collect::<Vec<_>>()));
    }
    let backend = pid(&mut db)?;
    let cost = measure(&mut scene.watcher.borrow_mut(), backend, || {
        let mut transaction = db.transaction()?;
        for (sql, batches) in &inserts {
            let statement = transaction.prepare(sql)?;
            for columns in batches {
                let values: Vec<_> = columns
                    .iter()
                    .map(|column| column as &(dyn postgres::types::ToSql + Sync))
                    .collect();
                transaction.execute(&statement, &values)?;
            }
        }
        transaction.commit()?;
        Ok::<_, Box<dyn std::error::Error>>(scene.rows)
    })?;
    all_there(scene, &mut db, "copied")?;
    Ok(cost)
}

/// The Node tool's way.
///
/// # Errors
/// Errors of the server, or missing rows.
pub fn node(scene: &Scene, kind: Kind) -> Result<Cost> {
    let mut db = scene.session("copied")?;
    // With the Node tool's columns.
    empty_table(scene, &mut db, kind, "copied", "node")?;
    let Texts { rows, types } = texts(scene, &mut db, "")?;
    let casts: Vec<_> =
        types.iter().enumerate().map(|(n, kind)| format!("${}::text::{kind}", n + 1)).collect();
    let insert = format!("INSERT INTO copied VALUES ({}) ON CONFLICT DO NOTHING", casts.join(", "));
    let next = AtomicUsize::new(0);
    let (mut clients, mut pids) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let mut client = another()?;
        pids.push(pid(&mut client)?);
        clients.push(client);
    }
    let cpu = |pids: &[i32]| pids.iter().map(|pid| crate::cost::cpu(*pid)).sum::<f64>();
    let before = cpu(&pids);
    let insert = insert.as_str();
    let mut cost = measure(&mut scene.watcher.borrow_mut(), pids[0], || {
        thread::scope(|scope| {
            let work = |client: &mut Client| -> std::result::Result<(), postgres::Error> {
                let statement = client.prepare(insert)?;
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let values: Vec<_> = row
                        .iter()
                        .map(|value| value as &(dyn postgres::types::ToSql + Sync))
                        .collect();
                    client.execute(&statement, &values)?;
                }
                Ok(())
            };
            let threads: Vec<_> =
                clients.iter_mut().map(|client| scope.spawn(move || work(client))).collect();
            for thread in threads {
                thread.join().map_err(|_| "a connection broke off")??;
            }
            Ok::<_, Box<dyn std::error::Error>>(scene.rows)
        })
    })?;
    cost.backend = cpu(&pids) - before;
    all_there(scene, &mut db, "copied")?;
    Ok(cost)
}
