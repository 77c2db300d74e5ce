//! Tables whose rows are kept by something else than Postgres' heap.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use fake_matomo::{Action, Fake};
use postgres::Client;

use crate::support::cluster::{Cluster, shared};
use crate::support::noon::from;
use crate::support::*;

/// What keeps the rows of a test's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Heap,
    /// The same under another name: written by plain SQL.
    Heap2,
    /// A partition of the table with partitions lies in another database.
    Foreign,
    /// A hypertable of TimescaleDB. In histories, the table with partitions has a second dimension, and
    /// companions that are hypertables too.
    Hypertable,
}

impl Engine {
    /// That of all tests, by `MATOMO_ENGINE`.
    pub fn of_all_tests() -> Engine {
        match std::env::var("MATOMO_ENGINE").as_deref() {
            Err(_) => Engine::Heap,
            Ok("heap2") => Engine::Heap2,
            Ok("hypertable") => Engine::Hypertable,
            Ok(other) => panic!("MATOMO_ENGINE={other}: neither heap2 nor hypertable"),
        }
    }

    /// Lines for `postgresql.conf`, with what the engine needs.
    pub fn conf(self, conf: &str) -> String {
        const PRELOADED: &str = "shared_preload_libraries = '";
        if self != Engine::Hypertable || conf.contains("timescaledb") {
            return conf.to_owned();
        }
        let conf = match conf.contains(PRELOADED) {
            true => conf.replace(PRELOADED, &format!("{PRELOADED}timescaledb, ")),
            false => format!("{conf}\n{PRELOADED}timescaledb'\n"),
        };
        format!("{conf}\ntimescaledb.telemetry_level = off\n")
    }

    /// Has the destinations and companions that are made in a database from now on kept by the engine.
    pub fn set_up(self, db: &mut Client) {
        match self {
            Engine::Heap | Engine::Foreign => {}
            Engine::Heap2 => {
                create_heap2(db);
                let name: String = one(db, "SELECT current_database()::text");
                let default =
                    format!("ALTER DATABASE {name} SET default_table_access_method = heap2");
                run(db, &default);
            }
            Engine::Hypertable => run(db, HYPERTABLES),
        }
    }

    /// Checks that it keeps a table into which a test has synced, or which it compares with the oracle.
    pub fn check(self, db: &mut Client, table: &str) {
        if self != Engine::Hypertable {
            return;
        }
        let is_kept = "SELECT c.relkind = 'p' OR EXISTS (
                 SELECT FROM timescaledb_information.hypertables h
                 WHERE (h.hypertable_schema, h.hypertable_name) = (n.nspname, c.relname))
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = $1::text::regclass";
        let is_kept: bool = db.query_one(is_kept, &[&table]).unwrap().get(0);
        assert!(is_kept, "{table} is no hypertable");
    }
}

/// Turns each table that `matomo_create_table` or `matomo_create_companions` makes into a hypertable with a
/// chunk a day. Their comment is the last thing they get. Those with partitions stay as they are, since
/// such a table cannot be one.
const HYPERTABLES: &str = r"
    SET client_min_messages = warning;
    CREATE EXTENSION timescaledb;
    CREATE FUNCTION make_hypertables() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    DECLARE
        made record;
    BEGIN
        FOR made IN
            SELECT t.made, t.time, k.conname AS key,
                   (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY p.place)
                    FROM unnest(k.conkey) WITH ORDINALITY AS p (attnum, place)
                    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.attnum) AS columns
            FROM pg_event_trigger_ddl_commands() d
            JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'r' AND c.relpersistence = 'p'
            JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p'
            CROSS JOIN LATERAL (SELECT c.oid::regclass, CASE substring(obj_description(c.oid, 'pg_class')
                                                                       FROM '^(?:Items of )?Matomo (\w+)')
                                    WHEN 'actions' THEN 'action_timestamp'
                                    WHEN 'visits' THEN 'lastaction'
                                    WHEN 'conversions' THEN 'converted'
                                    WHEN 'orders' THEN 'converted' END) AS t (made, time)
            WHERE d.object_type = 'table' AND t.time IS NOT NULL
              AND NOT EXISTS (SELECT FROM timescaledb_information.hypertables h
                              WHERE format('%I.%I', h.hypertable_schema, h.hypertable_name)::regclass = c.oid)
        LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I, ADD PRIMARY KEY (%s, %I)',
                made.made, made.key, made.columns, made.time);
            PERFORM create_hypertable(made.made, made.time::name, chunk_time_interval => interval '1 day');
        END LOOP;
    END
    $$;
    CREATE EVENT TRIGGER make_hypertables ON ddl_command_end WHEN TAG IN ('COMMENT')
        EXECUTE FUNCTION make_hypertables();
    RESET client_min_messages";

/// Makes the heap known under another name. A table of that access method is as any other, but not known
/// to be: a sync writes it with plain SQL by key.
pub fn create_heap2(db: &mut Client) {
    run(db, "CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler");
}

/// A database in which the session makes ordinary tables, however the suite runs.
pub fn heap() -> Client {
    let mut db = database();
    run(&mut db, "SET default_table_access_method = heap");
    db
}

/// A database in which the session makes tables with that method.
pub fn heap2() -> Client {
    let mut db = database();
    // The whole suite may run so.
    if texts(&mut db, "SELECT amname::text FROM pg_am WHERE amname = 'heap2'").is_empty() {
        create_heap2(&mut db);
    }
    run(&mut db, "SET default_table_access_method = heap2");
    db
}

/// Compiles a module for the server; returns its library.
pub fn module(name: &str, source: &str) -> PathBuf {
    // Tests may compile the same one at the same time.
    static COMPILED: AtomicU32 = AtomicU32::new(0);
    let number = COMPILED.fetch_add(1, Ordering::Relaxed);
    let path = format!("/tmp/matomo_e2e_{name}_{}_{number}", std::process::id());
    let [file, library] = ["c", "so"].map(|kind| PathBuf::from(format!("{path}.{kind}")));
    std::fs::write(&file, source).unwrap();
    let config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".to_owned());
    let headers = Command::new(config).arg("--includedir-server").output().unwrap();
    let headers = String::from_utf8(headers.stdout).unwrap();
    let done = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-I", headers.trim(), "-o"])
        .args([&library, &file])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::remove_file(file).unwrap();
    library
}

/// A partitioned destination, of which all before an instant lies in another database, as a foreign
/// partition. Returns a connection to that.
pub fn foreign_partition(db: &mut Client, destination: &str, until: &str) -> Client {
    let (name, mut there) = named_database();
    run(&mut there, "CREATE TABLE old (LIKE matomo_action)");
    create_server(db, shared().port(), &name);
    create_parted(db, destination, until);
    there
}

/// The same with a foreign server and its table that exist.
pub fn create_parted(db: &mut Client, destination: &str, until: &str) {
    run(
        db,
        &format!(
            "CREATE TABLE {destination} (LIKE matomo_action) PARTITION BY RANGE (action_timestamp);
             CREATE FOREIGN TABLE {destination}_old PARTITION OF {destination}
                 FOR VALUES FROM (MINVALUE) TO ('{until}') SERVER there OPTIONS (table_name 'old');
             CREATE INDEX ON {destination} (idvisit);
             SELECT matomo_create_companions('{destination}')"
        ),
    );
}

/// The foreign server `there`: a database of a server on this port.
pub fn create_server(db: &mut Client, port: u16, database: &str) {
    run(
        db,
        &format!(
            "CREATE EXTENSION IF NOT EXISTS postgres_fdw; CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw
                 OPTIONS (host '127.0.0.1', port '{port}', dbname '{database}');
             CREATE USER MAPPING FOR CURRENT_USER SERVER there OPTIONS (user 'postgres')"
        ),
    );
}

/// A server with TimescaleDB, if it can be had here: `tests/majors` requires it on 17 and 18.
pub fn timescale() -> Option<Cluster> {
    let available =
        "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')";
    let is_there: bool = one(&mut database(), available);
    let must_be_there = std::env::var_os("MATOMO_TIMESCALE").is_some();
    assert!(is_there || !must_be_there, "this server has no TimescaleDB");
    let conf = "shared_preload_libraries = 'timescaledb, matomo_postgres'\ntimescaledb.telemetry_level = off\n";
    is_there.then(|| Cluster::start_with(conf))
}

/// Makes a destination a hypertable, with a chunk a day.
pub fn create_hypertable(db: &mut Client, destination: &str) {
    run(
        db,
        &format!(
            "CREATE EXTENSION IF NOT EXISTS timescaledb; SELECT matomo_create_table('{destination}')"
        ),
    );
    spread(db, destination, "action_id, action_timestamp", "action_timestamp");
}

/// The same, by visits too, and its companions.
pub fn create_hypertables(db: &mut Client, destination: &str) {
    create_hypertable(db, destination);
    run(db, &format!("SELECT add_dimension('{destination}', 'idvisit', number_partitions => 2)"));
    for (companion, key, time) in [
        ("visits", "lastaction", "lastaction"),
        ("conversions", "action_id, converted", "converted"),
        ("items", "action_id, place, converted", "converted"),
    ] {
        spread(db, &format!("{destination}_{companion}"), key, time);
    }
}

fn spread(db: &mut Client, table: &str, key: &str, time: &str) {
    run(
        db,
        &format!(
            "ALTER TABLE {table} DROP CONSTRAINT {table}_pkey, ADD PRIMARY KEY (idvisit, {key});
             SELECT create_hypertable('{table}', '{time}', chunk_time_interval => interval '1 day')"
        ),
    );
}

fn changed(noon: &Noon, fake: &Fake) {
    let mut world = fake.world();
    let site = world.site_mut(1);
    // One more, one less, other values, none any more, new.
    let at = site.visit_mut(1011).first;
    let more = Action::page(at + 60, "https://noon.test/more", "It's \\ \t more");
    site.visit_mut(1011).actions.push(more);
    site.visit_mut(1012).actions.truncate(1);
    site.visit_mut(1013).visitor_type = "returning".to_owned();
    site.visit_mut(1022).actions.clear();
    let mut new = noon.visit(1, 2);
    new.id = 1019;
    site.add(new);
}

/// Copies four days, changes some visits, and reads them again. Returns what the second sync says.
pub fn course(db: &mut Client, table: &str) -> Sums {
    let noon = Noon::new();
    let fake = serve(noon.world(4));
    run(db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    let into = format!("{}, destination => '{table}', force => true", from(&noon, 3));
    assert_eq!(sync(db, &fake, &into).inserted, 36);
    assert_tables_equal(db, table, &all_tables_of(&fake, 1));
    changed(&noon, &fake);
    let sums = sync(db, &fake, &into);
    assert_tables_equal(db, table, &all_tables_of(&fake, 1));
    let rows = fingerprints(db, table);
    assert_eq!(sync(db, &fake, &into).written(), 0);
    assert_eq!(fingerprints(db, table), rows, "a sync without news writes nothing");
    sums
}

/// Copies eight days, of which `care` takes: check and repair, erasure, and removal of old rows.
pub fn care(db: &mut Client, table: &str) {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    run(db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    let into = format!("{}, destination => '{table}'", from(&noon, 7));
    assert_eq!(sync(db, &fake, &into).inserted, 72);
    run(
        db,
        &format!(
            "DELETE FROM {table} WHERE idvisit = 1012; UPDATE {table} SET country = 'x' WHERE idvisit = 1042"
        ),
    );
    fake.world().site_mut(1).delete(1033);
    let check = format!(
        "SELECT sum(missing + extra + stale)::bigint FROM matomo_check(1, '{}', '{}', '{}', '{}', '{table}', true, true)",
        noon.text(7),
        noon.text(0),
        fake.url(),
        fake.token()
    );
    assert_eq!(one::<i64>(db, &check), 3);
    assert_tables_equal(db, table, &all_tables_of(&fake, 1));
    assert_eq!(one::<i64>(db, &check), 0);
    let find = format!("SELECT max(visitorid) FROM {table} WHERE idvisit = 1022");
    let visitor: String = one(db, &find);
    run(db, &format!("SELECT matomo_forget('{visitor}')"));
    let of_visitor = format!("SELECT count(*) FROM {table} WHERE visitorid = '{visitor}'");
    assert_eq!(one::<i64>(db, &of_visitor), 0);
    let before = chrono::DateTime::from_timestamp(noon.at(5, "00:00:00"), 0).unwrap().to_rfc3339();
    run(db, &format!("CALL matomo_drop_before('{table}', '{before}')"));
    let old = format!(
        "SELECT count(*) FILTER (WHERE action_timestamp < '{before}') = 0 AND count(*) > 20 FROM {table}"
    );
    assert!(one::<bool>(db, &old));
    assert_eq!(sync(db, &fake, &into).written(), 0, "the old days are sealed");
}

/// Writes into the catalog what Citus would, with the table `matomo`.
pub fn create_citus(db: &mut Client) {
    run(
        db,
        "CREATE SCHEMA \"Odd one\"; CREATE TABLE \"Odd one\".pg_dist_partition (logicalrelid regclass);
         INSERT INTO \"Odd one\".pg_dist_partition VALUES ('matomo');
         SET allow_system_table_mods = on;
         INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
             VALUES (15999, 'citus', 10, 'pg_catalog'::regnamespace, false, '0');
         INSERT INTO pg_depend VALUES ('pg_class'::regclass, '\"Odd one\".pg_dist_partition'::regclass, 0,
             'pg_extension'::regclass, 15999, 0, 'e')",
    );
}

/// A server with Citus, if `MATOMO_CITUS` is set: see `make test-engines`.
pub fn citus() -> Option<Cluster> {
    std::env::var_os("MATOMO_CITUS")?;
    Some(Cluster::start_with("shared_preload_libraries = 'citus, matomo_postgres'\n"))
}

/// The ways in which Citus keeps a destination.
pub const SPREAD: [Spread; 4] = [
    Spread { name: "by_visit", is_partitioned: false, by: Some("idvisit") },
    Spread { name: "by_visit_and_week", is_partitioned: true, by: Some("idvisit") },
    Spread { name: "by_site", is_partitioned: false, by: Some("idsite") },
    Spread { name: "everywhere", is_partitioned: false, by: None },
];

/// How Citus keeps a destination.
pub struct Spread {
    /// That of the destination.
    pub name: &'static str,
    pub is_partitioned: bool,
    /// The distribution column; `None` for reference tables.
    pub by: Option<&'static str>,
}

/// Makes a destination and its companions tables of Citus, as docs/scale.md says.
pub fn spread_by_citus(db: &mut Client, spread: &Spread) {
    let Spread { name, is_partitioned, by } = spread;
    run(
        db,
        &format!(
            "CREATE EXTENSION IF NOT EXISTS citus; SELECT matomo_create_table('{name}', {is_partitioned})"
        ),
    );
    let keys = ["action_id", "idvisit", "action_id", "action_id, place"];
    for (table, key) in four(name).iter().zip(keys) {
        if *by == Some("idsite") {
            run(
                db,
                &format!(
                    "ALTER TABLE {table} DROP CONSTRAINT {table}_pkey, ADD PRIMARY KEY (idsite, idvisit{})",
                    if key == "idvisit" { String::new() } else { format!(", {key}") }
                ),
            );
        }
        let make = match by {
            None => format!("create_reference_table('{table}')"),
            Some(by) if table == name => format!("create_distributed_table('{table}', '{by}')"),
            Some(by) => {
                format!("create_distributed_table('{table}', '{by}', colocate_with => '{name}')")
            }
        };
        run(db, &format!("SELECT {make}"));
    }
}
