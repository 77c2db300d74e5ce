//! Databases, statements, and the comparison of a table with the oracle.

use std::fmt::Write;

use fake_matomo::OracleRow;
use postgres::Client;
use postgres::error::DbError;

use crate::support::cluster::shared;
use crate::support::engines::Engine;

/// A new database in the shared cluster.
pub fn database() -> Client {
    shared().connect(&shared().database())
}

/// Runs a statement that must fail; returns its error.
pub fn error(db: &mut Client, sql: &str) -> DbError {
    let Err(error) = db.batch_execute(sql) else { panic!("the statement must fail: {sql}") };
    error.as_db_error().unwrap_or_else(|| panic!("no error of the server: {error}")).clone()
}

pub fn one<T: postgres::types::FromSqlOwned>(db: &mut Client, sql: &str) -> T {
    db.query_one(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// Whether the server is of this major or a later one.
pub fn since(db: &mut Client, major: i32) -> bool {
    one(db, &format!("SELECT current_setting('server_version_num')::int >= {major} * 10000"))
}

/// The process ID of a session.
pub fn pid(db: &mut Client) -> i32 {
    one(db, "SELECT pg_backend_pid()")
}

/// Asserts that a table has exactly the oracle's rows, comparing values as text.
pub fn assert_equal(db: &mut Client, table: &str, oracle: &[OracleRow]) {
    let found = differences(db, table, oracle);
    assert!(found.is_empty(), "{table} differs from the oracle:\n{found}");
}

/// The rows that only one side has, as text; empty if there are none.
pub fn differences(db: &mut Client, table: &str, oracle: &[OracleRow]) -> String {
    Engine::of_all_tests().check(db, table);
    db.batch_execute(
        "SET client_min_messages = warning; SET TimeZone = 'UTC';
         DROP TABLE IF EXISTS oracle; CREATE TEMP TABLE oracle (LIKE matomo_action_node)",
    )
    .unwrap();
    let mut writer = db.copy_in("COPY oracle FROM STDIN").unwrap();
    for row in oracle {
        let fields: Vec<_> = row.0.iter().map(|value| copy_field(value.as_deref())).collect();
        std::io::Write::write_all(&mut writer, (fields.join("\t") + "\n").as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    let columns = fake_matomo::COLUMNS.map(|column| format!("{column}::text")).join(", ");
    let expected = as_held(db, table).join(", ");
    let (ours, theirs) =
        (format!("SELECT {columns} FROM {table}"), format!("SELECT {expected} FROM oracle"));
    let mut text = String::new();
    for (name, sql) in [
        ("only in the table", format!("{ours} EXCEPT ALL {theirs}")),
        ("only in the oracle", format!("{theirs} EXCEPT ALL {ours}")),
    ] {
        for row in db
            .query(&format!("SELECT to_jsonb(x)::text FROM ({sql} ORDER BY 1 LIMIT 3) x"), &[])
            .unwrap()
        {
            writeln!(text, "{name}: {}", row.get::<_, String>(0)).unwrap();
        }
    }
    text
}

/// The oracle's texts as the table's columns hold them: in a column of whole numbers other text
/// becomes NULL, and `jsonb` has its own format.
fn as_held(db: &mut Client, table: &str) -> Vec<String> {
    let columns = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let of = |column: &&str| {
        let known = columns.columns().iter().find(|known| known.name() == *column);
        match known.map(|known| known.type_().name()) {
            Some("int4" | "int8") => {
                format!("CASE WHEN {column} ~ '^-?[0-9]+$' THEN {column} END")
            }
            Some("jsonb") => format!("{column}::jsonb::text"),
            _ => format!("{column}::text"),
        }
    };
    fake_matomo::COLUMNS.iter().map(of).collect()
}

pub fn copy_field(value: Option<&str>) -> String {
    value.map_or("\\N".to_owned(), |text| {
        text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
    })
}

/// A digest of the address and transaction of every row: unchanged as long as nothing writes the
/// table.
pub fn fingerprint(db: &mut Client, table: &str) -> String {
    one(
        db,
        &format!(
            "SELECT coalesce(md5(string_agg(format('%s %s %s %s', tableoid, ctid, xmin, xmax), ',' \
             ORDER BY tableoid, ctid)), 'empty') FROM {table}"
        ),
    )
}

/// The name of a new database in the shared cluster, and a connection. For tests with several
/// sessions.
pub fn named_database() -> (String, Client) {
    let name = shared().database();
    let db = shared().connect(&name);
    (name, db)
}

/// Runs statements that must succeed.
pub fn run(db: &mut Client, sql: &str) {
    db.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The first column of a result, which must be text.
pub fn texts(db: &mut Client, sql: &str) -> Vec<String> {
    let rows = db.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// Inserts rows of the oracle into a table, like another tool.
pub fn copy_rows(db: &mut Client, table: &str, rows: &[OracleRow]) {
    let columns = fake_matomo::COLUMNS.join(", ");
    let mut writer = db.copy_in(&format!("COPY {table} ({columns}) FROM STDIN")).unwrap();
    for row in rows {
        let fields: Vec<_> = row.0.iter().map(|value| copy_field(value.as_deref())).collect();
        std::io::Write::write_all(&mut writer, (fields.join("\t") + "\n").as_bytes()).unwrap();
    }
    writer.finish().unwrap();
}

/// Waits up to ten seconds for a condition.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !holds() {
        assert!(
            begin.elapsed() < std::time::Duration::from_secs(10),
            "waited in vain until {what}"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Whether a session waits for a lock that another one holds.
pub fn waits(db: &mut Client, pid: i32) -> bool {
    one(
        db,
        &format!(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock')"
        ),
    )
}

/// The ledger, one line per entry: `site day sealed|open visits actions truncated`.
pub fn ledger(db: &mut Client, destination: &str) -> Vec<String> {
    texts(
        db,
        &format!(
            "SELECT concat_ws(' ', idsite, day, CASE WHEN sealed THEN 'sealed' ELSE 'open' END, visits, \
             actions, truncated_visits) FROM matomo_ledger \
             WHERE destination = '{destination}'::regclass ORDER BY idsite, matomo, day"
        ),
    )
}

/// Empties the ledger, as for tables that another tool filled: the Matomo may then have another URL.
pub fn forget_matomo(db: &mut Client) {
    run(db, "DELETE FROM matomo_ledger");
}

/// Asserts an error's SQLSTATE, message, and parts of its DETAIL and HINT.
pub fn assert_says(error: &DbError, state: &str, message: &str, details: &[&str], hint: &str) {
    assert_eq!((error.code().code(), error.message()), (state, message));
    for words in details {
        assert!(error.detail().unwrap_or_default().contains(words), "{error:?} lacks {words}");
    }
    assert!(error.hint().unwrap_or_default().contains(hint), "{error:?} lacks {hint}");
    assert!(!format!("{error:?}").contains("secret-token"), "{error:?}");
}
