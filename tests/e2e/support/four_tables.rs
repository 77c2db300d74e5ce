//! The comparison of a destination and its companions with the oracle.

use std::fmt::Write;
use std::io::Write as _;

use fake_matomo::tables::{OracleTable, OracleTables};
use fake_matomo::{ActionTime, Fake};
use postgres::Client;

use crate::support::engines::Engine;
use crate::support::*;

/// Visits on which the destination and its companions disagree: only one of them has the visit, a
/// conversion or the items of one, or values differ.
pub fn apart(db: &mut Client, destination: &str) -> Vec<i64> {
    let columns = "idvisit, idsite, visitorid, actions, visitduration, day";
    let (values, sales) =
        ("idvisit, action_id, revenue, orderid", "'ecommerceOrder', 'ecommerceAbandonedCart'");
    let sql = format!(
        "SELECT DISTINCT idvisit FROM (
             (SELECT DISTINCT {columns} FROM {destination} EXCEPT SELECT {columns} FROM {destination}_visits)
             UNION ALL
             (SELECT {columns} FROM {destination}_visits EXCEPT SELECT {columns} FROM {destination})) v
         UNION
         SELECT idvisit FROM (
             (SELECT {values} FROM {destination} WHERE action_type IN ('goal', {sales})
              EXCEPT ALL SELECT {values} FROM {destination}_conversions)
             UNION ALL
             (SELECT {values} FROM {destination}_conversions EXCEPT ALL
              SELECT {values} FROM {destination} WHERE action_type IN ('goal', {sales}))) c
         UNION
         SELECT DISTINCT idvisit FROM {destination}_items i
         FULL JOIN (SELECT idvisit, action_id FROM {destination} WHERE action_type IN ({sales})) a
             USING (idvisit, action_id)
         WHERE a IS NULL OR i IS NULL
         ORDER BY 1"
    );
    db.query(&sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// The oracle of all four tables of a site, with true times.
pub fn all_tables_of(fake: &Fake, site: i64) -> OracleTables {
    tables_between(fake, site, "1990-01-01", "2200-01-01")
}

/// The same for some days.
pub fn tables_between(fake: &Fake, site: i64, first: &str, last: &str) -> OracleTables {
    fake.world().oracle_tables(site, day(first), day(last), ActionTime::Utc)
}

/// The tables of an oracle, to change them: of the actions, visits, conversions and items.
pub fn oracles(of: &mut OracleTables) -> [&mut OracleTable; 4] {
    [&mut of.actions, &mut of.visits, &mut of.conversions, &mut of.items]
}

/// The same oracle with only the visits that are meant.
pub fn only(of: &OracleTables, is_meant: impl Fn(i64) -> bool) -> OracleTables {
    let mut left = of.clone();
    for table in oracles(&mut left) {
        let place = table.columns.iter().position(|column| *column == "idvisit").unwrap();
        table.rows.retain(|row| is_meant(row[place].as_ref().unwrap().parse().unwrap()));
    }
    left
}

/// Asserts that a destination and its companions have exactly the oracle's rows.
pub fn assert_tables_equal(db: &mut Client, destination: &str, oracle: &OracleTables) {
    let found = table_differences(db, destination, oracle);
    assert!(found.is_empty(), "{destination} and its companions differ from the oracle:\n{found}");
}

/// The same for the companions alone, for tables with fewer columns.
pub fn assert_companions_equal(db: &mut Client, destination: &str, oracle: &OracleTables) {
    let found = differences_in(db, destination, &companions(oracle));
    assert!(found.is_empty(), "the companions of {destination} differ from the oracle:\n{found}");
}

/// The names of a destination and of its companions.
pub fn four(destination: &str) -> [String; 4] {
    ["", "_visits", "_conversions", "_items"].map(|kind| named(destination, kind))
}

/// The name of a companion; the destination's may be quoted.
fn named(destination: &str, kind: &str) -> String {
    match destination.strip_suffix('"') {
        Some(name) => format!("{name}{kind}\""),
        None => format!("{destination}{kind}"),
    }
}

/// The same as a comma-separated list.
pub fn all_four(destination: &str) -> String {
    four(destination).join(", ")
}

/// Statements that make a role the owner of all four tables.
pub fn give_all_four(destination: &str, owner: &str) -> String {
    four(destination).map(|table| format!("ALTER TABLE {table} OWNER TO {owner}")).join("; ")
}

/// The fingerprints of a destination and of its companions.
pub fn fingerprints(db: &mut Client, destination: &str) -> [String; 4] {
    four(destination).map(|table| fingerprint(db, &table))
}

/// The rows that only one side has, as text; empty if there are none.
pub fn table_differences(db: &mut Client, destination: &str, oracle: &OracleTables) -> String {
    let actions = differences_in(db, destination, &[("", &oracle.actions)]);
    actions + &differences_in(db, destination, &companions(oracle))
}

fn companions(oracle: &OracleTables) -> [(&'static str, &OracleTable); 3] {
    [("_visits", &oracle.visits), ("_conversions", &oracle.conversions), ("_items", &oracle.items)]
}

fn differences_in(db: &mut Client, destination: &str, of: &[(&str, &OracleTable)]) -> String {
    let mut text = String::new();
    for (companion, oracle) in of {
        let table = named(destination, companion);
        let found = differences_of(db, &table, oracle);
        if !found.is_empty() {
            writeln!(text, "{table}:\n{found}").unwrap();
        }
    }
    text
}

fn differences_of(db: &mut Client, table: &str, oracle: &OracleTable) -> String {
    Engine::of_all_tests().check(db, table);
    let columns: Vec<_> = oracle.columns.iter().map(|column| format!("{column} text")).collect();
    run(
        db,
        &format!(
            "SET client_min_messages = warning; SET TimeZone = 'UTC'; SET DateStyle = 'ISO';
             DROP TABLE IF EXISTS oracle; CREATE TEMP TABLE oracle ({})",
            columns.join(", ")
        ),
    );
    let mut writer = db.copy_in("COPY oracle FROM STDIN").unwrap();
    for row in &oracle.rows {
        let fields: Vec<_> = row.iter().map(|value| copy_field(value.as_deref())).collect();
        writer.write_all((fields.join("\t") + "\n").as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    let columns: Vec<_> = oracle.columns.iter().map(|column| format!("{column}::text")).collect();
    let columns = columns.join(", ");
    let (ours, theirs) =
        (format!("SELECT {columns} FROM {table}"), format!("SELECT {columns} FROM oracle"));
    let mut text = String::new();
    for (name, sql) in [
        ("only in the table", format!("{ours} EXCEPT ALL {theirs}")),
        ("only in the oracle", format!("{theirs} EXCEPT ALL {ours}")),
    ] {
        let sql = format!(
            "SELECT jsonb_strip_nulls(to_jsonb(x))::text FROM ({sql} ORDER BY 1 LIMIT 3) x"
        );
        for row in texts(db, &sql) {
            writeln!(text, "{name}: {row}").unwrap();
        }
    }
    text
}
