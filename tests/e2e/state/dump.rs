//! Users lose nothing when they dump, restore, drop and recreate.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::{Cluster, shared};
use crate::support::dump::{empty_database, output};
use crate::support::report::{all_there, proven};
use crate::support::*;

/// Both standard tables, and a table that a user created.
const TABLES: [&str; 3] = ["matomo", "matomo_partitioned", r#"archive."Visits 2026""#];
const FIRST: &str = "2026-10-24";
const LAST: &str = "2026-10-26";
/// A week without a partition.
const LATER: &str = "2026-11-10";
/// An analyst's role that grants name; dumps do not contain roles.
const ANALYST: &str = "dump_analyst";

fn serve_visits() -> Fake {
    let mut all = world(41, "Europe/Paris", 25, FIRST, LAST);
    let later = world(42, "Europe/Paris", 10, LATER, LATER);
    let next = all.next_visit_id();
    for (id, mut visit) in (next..).zip(later.site(1).visits.clone()) {
        visit.id = id;
        all.site_mut(1).add(visit);
    }
    serve(all)
}

/// Syncs into each table and adds what users add.
fn fill(db: &mut Client, fake: &Fake) {
    run(
        db,
        &format!(
            "DO $$ BEGIN CREATE ROLE {ANALYST}; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
             CREATE SCHEMA archive; SELECT matomo_create_table('archive.\"Visits 2026\"', true)"
        ),
    );
    for table in TABLES {
        Sync::of(fake, FIRST, LAST).into(table).run(db);
        run(
            db,
            &format!(
                "ALTER TABLE {table} ADD COLUMN reviewed_by text DEFAULT 'nobody';
                 UPDATE {table} SET reviewed_by = 'Zoë' WHERE action_type = 'goal';
                 CREATE INDEX ON {table} (country, reviewed_by);
                 COMMENT ON COLUMN {table}.reviewed_by IS 'Who looked at it';
                 GRANT SELECT ON {table} TO {ANALYST}"
            ),
        );
    }
}

/// Everything about the user's relations that a dump must restore, except rows.
fn shapes(db: &mut Client) -> Vec<String> {
    texts(
        db,
        "WITH mine AS (
             SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname IN ('public', 'archive') AND NOT EXISTS (
                 SELECT FROM pg_depend d LEFT JOIN pg_index i ON i.indrelid = d.objid
                 WHERE c.oid IN (d.objid, i.indexrelid) AND d.deptype = 'e'))
         SELECT format('%s %s owner %s, acl %s, bounds %s, comment %s', relkind, oid::regclass,
                relowner::regrole, relacl, pg_get_expr(relpartbound, oid), obj_description(oid, 'pg_class'))
         FROM mine
         UNION ALL
         SELECT format('column %s %s %s %s default %s, comment %s', m.oid::regclass, a.attname,
                format_type(a.atttypid, a.atttypmod), a.attnotnull,
                (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
                 WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum),
                col_description(m.oid, a.attnum))
         FROM mine m JOIN pg_attribute a ON a.attrelid = m.oid
         WHERE m.relkind IN ('r', 'p') AND a.attnum > 0
         UNION ALL
         SELECT format('index %s', pg_get_indexdef(i.indexrelid)) FROM mine m JOIN pg_index i ON i.indexrelid = m.oid
         ORDER BY 1",
    )
}

/// A digest and the number of all rows of a table, including the user's column.
fn contents(db: &mut Client, table: &str) -> String {
    let sql = format!(
        "SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY action_id, action_timestamp)) FROM {table} t"
    );
    run(db, "SET TimeZone = 'UTC'");
    one(db, &sql)
}

/// Asserts that a database holds what the other one held, and that its syncs resume.
fn assert_restored(old: &mut Client, new: &mut Client, fake: &Fake) -> String {
    for kept in ["reviewed_by", "2026w44"] {
        assert!(shapes(old).iter().any(|line| line.contains(kept)), "{kept} is not there to keep");
    }
    assert_eq!(shapes(new), shapes(old));
    for table in TABLES {
        assert_eq!(contents(new, table), contents(old, table));
        assert_tables_equal(new, table, &tables_between(fake, 1, FIRST, LAST));
        let reviewed = format!("SELECT count(*) FROM {table} WHERE reviewed_by = 'Zoë'");
        assert!(one::<i64>(new, &reviewed) > 0);
    }
    let shapes = shapes(new).len();
    let rows = assert_resumes(new, fake);
    format!("{shapes} relations, columns and indexes the same; {rows}")
}

/// Adds a way to dump and restore to the report.
fn proves_dump(case: &str, way: &str, seen: &str) {
    let injected = format!(
        "{way}; three tables with a column, an index, grants and a comment of the user's own"
    );
    let promised =
        "all of it is there; a sync of what is there writes nothing, a later week is added";
    proven("Lifecycle", case, &injected, promised, seen);
}

/// Asserts that a sync of stored days changes nothing, and that one of a later week adds it.
fn assert_resumes(db: &mut Client, fake: &Fake) -> String {
    let mut seen = Vec::new();
    for table in TABLES {
        let rows = fingerprint(db, table);
        assert_eq!(Sync::of(fake, FIRST, LAST).into(table).run(db).written(), 0);
        assert_eq!(fingerprint(db, table), rows, "{table}");
        let later = oracle(fake, LATER, LATER);
        let sums = Sync::of(fake, LATER, LATER).into(table).run(db);
        assert_eq!(sums.inserted, i64::try_from(later.len()).unwrap());
        let all: Vec<_> = oracle(fake, FIRST, LAST).into_iter().chain(later).collect();
        seen.push(format!("{}, {} of them new", all_there(db, table, &all), sums.inserted));
        assert_tables_equal(db, table, &tables_between(fake, 1, FIRST, LATER));
    }
    for parent in &TABLES[1..] {
        let sql = format!(
            "SELECT right(inhrelid::regclass::text, 9) FROM pg_inherits
             WHERE inhparent = '{parent}'::regclass ORDER BY 1"
        );
        let weeks: Vec<_> =
            texts(db, &sql).iter().map(|name| name.replace(['_', '"'], "")).collect();
        assert!(weeks.iter().any(|week| week.contains("2026w46")), "{weeks:?}");
        assert_eq!(weeks.len(), 3, "{weeks:?}");
    }
    seen.dedup();
    format!("then in each table {}", seen.join("; "))
}

fn dump(cluster: &Cluster, database: &str) -> PathBuf {
    let file =
        std::env::temp_dir().join(format!("matomo_e2e.{}.{database}.dump", std::process::id()));
    output(cluster.program("pg_dump").arg("-Fc").arg("-f").arg(&file).arg(database));
    file
}

fn restore(cluster: &Cluster, database: &str, file: &PathBuf) {
    output(cluster.program("pg_restore").args(["-1", "-e", "-d", database]).arg(file));
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_new_cluster_gets_back_everything_from_a_dump() {
    let fake = serve_visits();
    let (name, mut old) = named_database();
    fill(&mut old, &fake);
    let file = dump(shared(), &name);
    let cluster = Cluster::start();
    run(&mut cluster.connect("postgres"), &format!("CREATE ROLE {ANALYST}"));
    let mut new = empty_database(&cluster, "restored");
    restore(&cluster, "restored", &file);
    let seen = assert_restored(&mut old, &mut new, &fake);
    proves_dump("a dump into a new server", "`pg_dump -Fc`, `pg_restore -1 -e`", &seen);
}

#[test]
fn a_new_database_gets_back_everything_from_a_dump() {
    let fake = serve_visits();
    let (name, mut old) = named_database();
    fill(&mut old, &fake);
    let copy = format!("{name}_copy");
    let mut new = empty_database(shared(), &copy);
    restore(shared(), &copy, &dump(shared(), &name));
    let seen = assert_restored(&mut old, &mut new, &fake);
    let case = "a dump into a new database";
    proves_dump(case, "`pg_dump -Fc`, `pg_restore -1 -e` beside the old one", &seen);
}

#[test]
fn a_plain_dump_runs_through_psql() {
    let fake = serve_visits();
    let (name, mut old) = named_database();
    fill(&mut old, &fake);
    let script = output(shared().program("pg_dump").arg(&name));
    let copy = format!("{name}_plain");
    let mut new = empty_database(shared(), &copy);
    let mut psql = shared()
        .program("psql")
        .args(["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", &copy])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    psql.stdin.take().unwrap().write_all(&script).unwrap();
    assert!(psql.wait().unwrap().success());
    let seen = assert_restored(&mut old, &mut new, &fake);
    proves_dump("a plain dump", "`pg_dump`, `psql -1 -v ON_ERROR_STOP=1`", &seen);
}

#[test]
fn dropping_the_extension_leaves_the_data_and_creating_it_again_continues_from_it() {
    let fake = serve_visits();
    let mut db = database();
    fill(&mut db, &fake);
    let state = |db: &mut Client| {
        let rows =
            TABLES.map(|table| format!("{} {}", fingerprint(db, table), contents(db, table)));
        (shapes(db), rows)
    };
    let before = state(&mut db);
    // RESTRICT is the default: nothing of the user's depends on the extension.
    run(&mut db, "DROP EXTENSION matomo_postgres");
    assert_eq!(state(&mut db), before);
    let gone = error(&mut db, &Sync::of(&fake, FIRST, LAST).sql());
    assert_eq!(gone.code().code(), "42883");
    let left = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'matomo%'";
    let left = one::<i64>(&mut db, left);
    assert_eq!(left, 0);
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    assert_eq!(state(&mut db), before);
    for table in TABLES {
        let taken = format!("SELECT count(*) FROM matomo_create_companions('{table}')");
        assert_eq!(one::<i64>(&mut db, &taken), 3);
    }
    assert_eq!(state(&mut db), before);
    let rows = assert_resumes(&mut db, &fake);
    proven(
        "Lifecycle",
        "DROP EXTENSION without servers",
        "without CASCADE, then CREATE EXTENSION",
        "no object of the extension is left; tables, rows and what the user added are not touched; syncs go on",
        &format!("{left} functions left; `matomo_sync` then is `{}`; {rows}", gone.code().code()),
    );
}

#[test]
fn the_users_tables_are_no_members_of_the_extension() {
    let fake = serve_visits();
    let mut db = database();
    fill(&mut db, &fake);
    let all = "SELECT m.objid FROM pg_depend m JOIN pg_extension e ON e.oid = m.refobjid
         AND m.refclassid = 'pg_extension'::regclass WHERE e.extname = 'matomo_postgres' AND m.deptype = 'e'";
    let relations = texts(
        &mut db,
        &format!(
            "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND oid IN ({all}) ORDER BY 1"
        ),
    );
    let ours = [
        "matomo_action",
        "matomo_action_node",
        "matomo_companion",
        "matomo_conversion",
        "matomo_item",
        "matomo_ledger",
        "matomo_run_log",
        "matomo_site_config",
        "matomo_site_metadata",
        "matomo_site_state",
        "matomo_visit",
    ];
    assert_eq!(relations, ours);
    // Nothing of the user's depends on a member either: DROP EXTENSION would require CASCADE.
    let dependents = texts(
        &mut db,
        &format!(
            "WITH ours AS ({all})
             SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend d
             WHERE d.refobjid IN (TABLE ours) AND d.objid NOT IN (TABLE ours)
               AND d.deptype <> 'i' AND d.classid <> 'pg_attrdef'::regclass
               AND d.objid NOT IN (SELECT oid FROM pg_constraint WHERE conrelid IN (TABLE ours))
               AND d.objid NOT IN (SELECT oid FROM pg_rewrite WHERE ev_class IN (TABLE ours))
               AND d.objid NOT IN (SELECT indexrelid FROM pg_index WHERE indrelid IN (TABLE ours))"
        ),
    );
    assert_eq!(dependents, [""; 0]);
}

/// A large table may be left out of the dump: then all its days are read again.
#[test]
fn a_dump_without_the_rows_of_a_table_has_them_read_anew() {
    let (name, mut old) = named_database();
    let fake = serve_visits();
    let range = format!(", '{FIRST}', '{LAST}'");
    sync(&mut old, &fake, &range);
    let rows = oracle(&fake, FIRST, LAST);
    let file = std::env::temp_dir().join(format!("matomo_e2e.{}.{name}.sql", std::process::id()));
    for (without, copy) in [
        ("--exclude-table-data=matomo", format!("{name}_empty")),
        ("--exclude-table=matomo", format!("{name}_lacking")),
    ] {
        output(shared().program("pg_dump").args([without, &name, "-f"]).arg(&file));
        let mut db = empty_database(shared(), &copy);
        let mut psql = shared().program("psql");
        psql.args(["-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", &copy, "-f"]);
        output(psql.arg(&file));
        assert_eq!(sync(&mut db, &fake, &range).inserted, i64::try_from(rows.len()).unwrap());
        assert_eq!(ledger(&mut db, "matomo"), ledger(&mut old, "matomo"));
        assert_equal(&mut db, "matomo", &rows);
    }
    std::fs::remove_file(file).unwrap();
}
