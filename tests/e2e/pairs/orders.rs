//! Two operations one after the other: what they return, and what is there afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use crate::pairs::operations::{NEW_URL, Operation};
use crate::pairs::scene::Scene;
use crate::pairs::session::{Outcome, Session};
use crate::support::*;

/// What two operations returned, and what is there afterwards, as lines.
#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    pub returned: [String; 2],
    pub state: Vec<String>,
}

impl Seen {
    pub fn after(scene: &mut Scene, outcomes: [&Outcome; 2]) -> Seen {
        let returned = outcomes.map(|outcome| match outcome {
            Ok(returned) => returned.clone(),
            Err(error) => error.code().code().to_owned(),
        });
        Seen { returned, state: state(scene) }
    }
}

/// By the noon of its scene, as several tests need the same.
static KNOWN: Mutex<BTreeMap<String, Seen>> = Mutex::new(BTreeMap::new());

/// One operation after the other, or the first alone if the second `has_failed`.
pub fn in_order(scene: &mut Scene, first: Operation, second: Operation, has_failed: bool) -> Seen {
    let (zone, today) = (&scene.noon.zone, scene.noon.day(0));
    let key = format!("{zone} {today} {first:?} {second:?} {has_failed}");
    if let Some(seen) = KNOWN.lock().unwrap().get(&key) {
        return seen.clone();
    }
    scene.reset([first, second].contains(&Operation::Retention));
    let returned = |operation: Operation, is_run: bool| -> Outcome {
        operation.prepare(scene);
        let sql = operation.sql(scene);
        if is_run { Session::new(scene).outcome(&sql) } else { Ok(String::new()) }
    };
    let (one, two) = (returned(first, true), returned(second, !has_failed));
    let seen = Seen::after(scene, [&one, &two]);
    KNOWN.lock().unwrap().insert(key, seen.clone());
    seen
}

/// Rows, ledger and sites. Gives tables their names back first.
fn state(scene: &mut Scene) -> Vec<String> {
    let columns = fake_matomo::COLUMNS.join(", ");
    let db = &mut scene.db;
    run(
        db,
        "ALTER TABLE IF EXISTS renamed RENAME TO visits; ALTER TABLE IF EXISTS renamed_visits RENAME TO visits_visits;
         ALTER TABLE IF EXISTS renamed_conversions RENAME TO visits_conversions",
    );
    let mut lines = texts(
        db,
        &format!(
            "SELECT concat_ws(' ', 'day', destination, CASE matomo WHEN '{NEW_URL}' THEN 'moved' END, idsite, day, sealed, visits, actions)
             FROM matomo_ledger
             UNION ALL SELECT concat_ws(' ', 'site', idsite, destination, owner = 'postgres', start_date, retention) FROM matomo_sites
             ORDER BY 1"
        ),
    );
    for table in ["visits", "visits_visits", "visits_conversions", "visits_items", "visits_moved"] {
        if one::<bool>(db, &format!("SELECT to_regclass('{table}') IS NOT NULL")) {
            let text =
                if table == "visits" { format!("({columns})::text") } else { "''".to_owned() };
            let rows = format!(
                "SELECT concat_ws(' ', '{table}', idsite, idvisit, count(*), md5(string_agg({text}, ' ' ORDER BY {text})))
                 FROM {table} GROUP BY idsite, idvisit ORDER BY 1"
            );
            lines.extend(texts(db, &rows));
        }
    }
    lines
}

/// Whether a state with the same visits in Matomo comes for the first time.
pub fn is_new(scene: &Scene, is_erased: bool, seen: &Seen) -> bool {
    static CHECKED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let state = seen.state.join("\n");
    CHECKED.lock().unwrap().insert(format!("{} {is_erased} {state}", scene.noon.zone))
}
