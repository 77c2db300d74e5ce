//! Odd data loses no visit: data that Matomo and its plugins have been seen to send, or might
//! send. Everything is synced into both tables and into one with the Node tool's columns and
//! types, and then again, which must change nothing.

mod values;
mod visits;
mod wrong;

use fake_matomo::{Fake, Fault, Site, Visit, When, World};
use postgres::Client;

use crate::support::*;

const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];
/// A table with the Node tool's columns and types.
const NODE: &str = "node";
const DAY: &str = "2026-10-25";
/// 2026-10-25 12:00:00 UTC.
const NOON: i64 = 1_792_929_600;

/// A Matomo with one site in UTC.
fn matomo(visits: impl IntoIterator<Item = Visit>) -> Fake {
    let mut world = World::new(fake_matomo::Clock::Real);
    let site = world.add_site(Site::new(1, "Site", "UTC"));
    for visit in visits {
        site.add(visit);
    }
    serve(world)
}

/// A Matomo that answers every request with this text.
fn saying(body: impl Into<Vec<u8>>) -> Fake {
    let fake = matomo([]);
    fake.fail(Fault::Raw(body.into()), When::live());
    fake
}

/// The text of a visit with two page views; extra members follow the usual ones.
fn visit_with(of_visit: &str, of_action: &str) -> String {
    let comma =
        |members: &str| if members.is_empty() { String::new() } else { format!(",{members}") };
    let (of_visit, of_action) = (comma(of_visit), comma(of_action));
    format!(
        r#"[{{"idSite":1,"idVisit":7,"firstActionTimestamp":{NOON},"lastActionTimestamp":{},
        "actionDetails":[{{"type":"action","timestamp":{NOON}{of_action}}},
        {{"type":"action","timestamp":{},"title":"second"}}]{of_visit}}}]"#,
        NOON + 60,
        NOON + 60,
    )
}

/// Syncs into all three tables, twice.
#[track_caller]
fn synced(fake: &Fake) -> Client {
    let mut db = database();
    run(
        &mut db,
        "SET TimeZone = 'UTC'; SET matomo.max_retries = 0;
         SELECT matomo_create_table('node', layout => 'node')",
    );
    for table in TABLES.into_iter().chain([NODE]) {
        let sync = Sync::of(fake, DAY, DAY).into(table);
        let sums = sync.run(&mut db);
        assert_eq!(sums.actions, sums.inserted);
        let all = |db: &mut Client| match table {
            NODE => vec![fingerprint(db, table)],
            _ => fingerprints(db, table).to_vec(),
        };
        let before = all(&mut db);
        assert_eq!(sync.run(&mut db).written(), 0);
        assert_eq!(all(&mut db), before);
    }
    db
}

/// Visits that a deep check finds to differ, and repairs.
fn repaired(db: &mut Client, fake: &Fake) -> i64 {
    let (url, token) = (fake.url(), fake.token());
    let check = format!(
        "SELECT sum(missing + stale + extra + repaired)::bigint FROM matomo_check(1, '{DAY}', '{DAY}', \
         '{url}', '{token}', deep => true, repair => true)"
    );
    one(db, &check)
}

/// Compares an expression in each row, ordered by action_id, in all tables; returns the values.
#[track_caller]
fn assert_rows(db: &mut Client, expression: &str, expected: &[&str]) -> Vec<String> {
    assert_each(db, expression, expected, expected)
}

/// The same, where typed tables have other values than the Node tool's table.
#[track_caller]
fn assert_each(db: &mut Client, expression: &str, typed: &[&str], of_node: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for (table, expected) in [(NODE, of_node), (TABLES[0], typed), (TABLES[1], typed)] {
        let sql = format!(
            "SELECT coalesce(({expression})::text, 'null') FROM {table} \
             ORDER BY length(action_id), action_id COLLATE \"C\""
        );
        let rows = db.query(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(found, expected, "{table}: {expression}");
        all = found;
    }
    all
}

#[track_caller]
fn assert_oracle(fake: &Fake) -> Client {
    let mut db = synced(fake);
    let oracle = oracle(fake, DAY, DAY);
    assert!(!oracle.is_empty());
    for table in TABLES {
        assert_equal(&mut db, table, &oracle);
        assert_tables_equal(&mut db, table, &tables_between(fake, 1, DAY, DAY));
    }
    assert_equal(&mut db, NODE, &oracle);
    db
}
