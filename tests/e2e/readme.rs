//! Every SQL example of README.md runs, in order, against a fake Matomo.

use chrono::{Days, Utc};
use postgres::SimpleQueryMessage;

use crate::cluster::shared;
use crate::support::*;

const README: &str = include_str!("../../README.md");

/// The blocks marked as SQL.
fn examples() -> Vec<&'static str> {
    README.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_example_runs() {
    let today = Utc::now().date_naive();
    let first = (today - Days::new(7)).to_string();
    let fake = serve(world(11, "Europe/Paris", 20, &first, &today.to_string()));
    // Roles and the database's settings are the README's: a server of its own.
    let cluster = crate::cluster::Cluster::start();
    let mut db = cluster.connect("postgres");
    let examples = examples();
    assert!(examples.len() >= 9, "only {} examples found", examples.len());
    for example in examples {
        let sql = example
            .replace("https://analytics.example.org", &fake.url())
            .replace("'TOKEN'", &format!("'{}'", fake.token()));
        for statement in statements(&sql) {
            let answer =
                db.simple_query(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
            let rows = answer
                .iter()
                .filter(|message| matches!(message, SimpleQueryMessage::Row(_)))
                .count();
            let may_be_empty = !statement.contains("SELECT") || statement.contains("no rows: ");
            assert!(rows > 0 || may_be_empty, "no rows: {statement}");
        }
    }
    // The last example was DROP EXTENSION: the visits are still there.
    assert!(one::<i64>(&mut db, "SELECT count(*) FROM matomo") > 100);
    assert!(one::<i64>(&mut db, "SELECT count(*) FROM analytics.matomo") > 100);
    assert!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_partitioned") > 100);
}

/// Statements one by one, as psql sends them.
fn statements(sql: &str) -> impl Iterator<Item = &str> {
    sql.split_inclusive(';').map(str::trim).filter(|statement| {
        statement.contains(|c: char| c.is_alphabetic()) && statement.ends_with(';')
    })
}

/// What README says of settings is what the server says.
#[test]
fn the_table_of_settings_is_true() {
    let mut db = shared().connect(&shared().database());
    db.batch_execute("LOAD 'matomo_postgres'").unwrap();
    let rows = db
        .query(
            // What the tests' own file says is no default.
            "SELECT name, CASE source WHEN 'configuration file' THEN boot_val ELSE current_setting(name) END
             FROM pg_settings WHERE name LIKE 'matomo.%' ORDER BY 1",
            &[],
        )
        .unwrap();
    assert!(rows.len() >= 10);
    for row in rows {
        let (name, value): (String, String) = (row.get(0), row.get(1));
        let default = if value.is_empty() { String::new() } else { format!("`{value}` ") };
        let line = format!("| `{name}` | {default}|");
        assert!(README.contains(&line), "README lacks: {line}");
    }
}
