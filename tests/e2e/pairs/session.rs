//! A session that runs an operation, and what the operation returned.

use std::collections::BTreeMap;

use postgres::error::DbError;
use postgres::{Client, SimpleQueryMessage};

use crate::pairs::scene::Scene;
use crate::support::*;

/// What an operation returned, as text.
pub type Outcome = Result<String, Box<DbError>>;

pub struct Session {
    pub db: Client,
    pub pid: i32,
    notices: Errors,
}

impl Session {
    pub fn new(scene: &Scene) -> Session {
        let (mut db, notices) = scene.connect_with_notices();
        let pid = pid(&mut db);
        Session { db, pid, notices }
    }

    /// Runs an operation. Returns sums of its rows, the last words of a procedure, and its run.
    pub fn outcome(&mut self, sql: &str) -> Outcome {
        let mut returned = vec![outcome(&mut self.db, sql)?];
        let dropped = self.notices.notices_of("partitions dropped").join("");
        returned
            .push(dropped.replace(" partitions dropped, ", " partitions; ").replace("deleted", ""));
        let runs = "SELECT concat_ws(' ', status, sqlstate, days, 'days', inserted, 'inserted', updated, 'updated', deleted, 'deleted') \
            FROM matomo_run_log WHERE job_pid = pg_backend_pid() ORDER BY runid";
        returned.extend(texts(&mut self.db, runs));
        returned.retain(|text| !text.is_empty());
        Ok(returned.join("; "))
    }
}

/// Runs an operation; returns sums of its rows.
pub fn outcome(db: &mut Client, sql: &str) -> Outcome {
    let messages = db.simple_query(sql).map_err(|error| {
        Box::new(error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}")).clone())
    })?;
    let mut sums = BTreeMap::<String, i64>::new();
    for message in messages {
        let SimpleQueryMessage::Row(row) = message else { continue };
        for (n, column) in row.columns().iter().enumerate() {
            let Some(number) = row.get(n).and_then(|text| text.parse::<i64>().ok()) else {
                continue;
            };
            *sums.entry(column.name().to_owned()).or_default() += number;
        }
    }
    sums.retain(|_, sum| *sum != 0);
    let sums: Vec<_> = sums.iter().map(|(column, sum)| format!("{sum} {column}")).collect();
    Ok(sums.join(" "))
}

/// For the failure message.
pub fn said(outcome: &Outcome) -> String {
    match outcome {
        Ok(returned) if returned.is_empty() => "done".to_owned(),
        Ok(returned) => format!("done: {returned}"),
        Err(error) => format!("{} {}", error.code().code(), error.message()),
    }
}
