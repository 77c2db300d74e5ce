//! Failures in Postgres while a sync stores: full disks, the user's triggers and constraints,
//! locks, transactions of all kinds. Afterwards everything is as before and works again.

use std::path::PathBuf;
use std::process::Command;

use fake_matomo::{Action, Fake};
use postgres::Client;
use postgres::error::DbError;

use crate::support::cluster::{Cluster, shared};
use crate::support::report::{all_there, proven, said};
use crate::support::*;

const FIRST: &str = "2026-10-24";
const LAST: &str = "2026-10-26";
const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];

/// Two tables with rows, and a Matomo where every visit has got another action since.
struct Scene {
    fake: Fake,
    db: Client,
    before: Vec<String>,
}

impl Scene {
    fn new() -> Scene {
        let fake = serve(world(51, "Europe/Paris", 8, FIRST, LAST));
        let mut scene = Scene { fake, db: database(), before: Vec::new() };
        for table in TABLES {
            Sync::of(&scene.fake, FIRST, LAST).into(table).run(&mut scene.db);
        }
        for visit in &mut scene.fake.world().site_mut(1).visits {
            visit.push(Action::event(visit.last, "News", "of the visit"));
        }
        scene.before = scene.state();
        scene
    }

    /// A digest of the rows of each table, wherever they are stored.
    fn state(&mut self) -> Vec<String> {
        let companions = ["", "_visits", "_conversions", "_items"];
        let of = |table| companions.map(|companion| format!("{table}{companion}"));
        let tables = TABLES.iter().flat_map(of).chain(["matomo_ledger".to_owned()]);
        let rows = tables.map(|table| {
            one(
                &mut self.db,
                &format!("SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} t"),
            )
        });
        rows.collect()
    }

    #[track_caller]
    fn fails(&mut self, table: &str) -> DbError {
        let error = Sync::of(&self.fake, FIRST, LAST).into(table).error(&mut self.db);
        let after = self.state();
        assert_eq!(after, self.before, "{error:?}");
        error
    }

    /// Syncs into both tables; returns what the report shows.
    #[track_caller]
    fn works(&mut self) -> String {
        let rows = oracle(&self.fake, FIRST, LAST);
        let seen = TABLES.map(|table| {
            Sync::of(&self.fake, FIRST, LAST).into(table).run(&mut self.db);
            assert_tables_equal(&mut self.db, table, &tables_between(&self.fake, 1, FIRST, LAST));
            all_there(&mut self.db, table, &rows)
        });
        assert_eq!(seen[0], seen[1]);
        seen[0].clone()
    }
}

/// An in-memory file system. Needs root, or sudo without a password like the set-up.
struct Disk(PathBuf);

fn as_root(program: &str, args: &[&str]) {
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let mut command = match is_root {
        true => Command::new(program),
        false => Command::new("sudo"),
    };
    if !is_root {
        command.args(["-n", program]);
    }
    let output = command.args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Disk {
    fn new(megabytes: u32) -> Disk {
        let path = PathBuf::from(format!("/tmp/matomo_e2e_disk.{}", std::process::id()));
        let text = path.to_str().unwrap();
        as_root("mkdir", &["-p", text]);
        as_root("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs", text]);
        // The user that runs the server.
        let data = shared().dir.join("data");
        as_root("chown", &["--reference", data.to_str().unwrap(), text]);
        Disk(path)
    }

    fn grow(&self, megabytes: u32) {
        as_root("mount", &["-o", &format!("remount,size={megabytes}m"), self.0.to_str().unwrap()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        as_root("umount", &["-l", self.0.to_str().unwrap()]);
        as_root("rmdir", &[self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_full_disk_costs_nothing_but_the_sync() {
    let disk = Disk::new(3);
    let mut scene = Scene::new();
    run(&mut scene.db, &format!("CREATE TABLESPACE small LOCATION '{}'", disk.0.display()));
    let large = serve(world(52, "Europe/Paris", 900, FIRST, LAST));
    let mut seen = Vec::new();
    for table in ["small_matomo", "small_matomo_partitioned"] {
        let partitioned = table != "small_matomo";
        let make = format!(
            "SELECT matomo_create_table('{table}', {partitioned}); ALTER TABLE {table} SET TABLESPACE small"
        );
        run(&mut scene.db, &make);
        let sync = Sync::of(&large, FIRST, LAST).into(table);
        let error = sync.error(&mut scene.db);
        assert_eq!(error.code().code(), "53100", "{error:?}");
        assert!(error.message().contains("No space left on device"), "{error:?}");
        let rows: i64 = one(&mut scene.db, &format!("SELECT count(*) FROM {table}"));
        let known: i64 = one(
            &mut scene.db,
            &format!("SELECT count(*) FROM matomo_ledger WHERE destination = '{table}'::regclass"),
        );
        assert_eq!((rows, known), (0, 0), "{table}");
        // Which file it was, and whether extending or writing it failed, varies.
        let reason = error.message().rsplit(": ").next().unwrap();
        seen.push(format!("`{}` … {reason}, {rows} rows", error.code().code()));
        // The failed sync's disk space is freed only by VACUUM, which has no room either.
        let all = ["", "_visits", "_conversions", "_items"].map(|kind| format!("{table}{kind}"));
        run(&mut scene.db, &format!("DROP TABLE {}", all.join(", ")));
        run(&mut scene.db, &make);
    }
    disk.grow(64);
    for table in ["small_matomo", "small_matomo_partitioned"] {
        Sync::of(&large, FIRST, LAST).into(table).run(&mut scene.db);
        seen.push(all_there(&mut scene.db, table, &oracle(&large, FIRST, LAST)));
        assert_tables_equal(&mut scene.db, table, &tables_between(&large, 1, FIRST, LAST));
    }
    scene.works();
    let after = seen.split_off(2);
    assert!(seen[0] == seen[1] && after[0] == after[1], "{seen:?}, {after:?}");
    proven(
        "Crash",
        "disk full",
        "a sync of 2,700 visits into tables in a tablespace of 3 MB, which then becomes larger",
        "`53100` and nothing written; the next sync goes well",
        &format!("{}; then {}", seen[0], after[0]),
    );
    run(&mut scene.db, "DROP TABLE small_matomo, small_matomo_partitioned");
    run(&mut scene.db, "DROP TABLESPACE small");
}

#[test]
fn triggers_and_constraints_that_refuse_a_row_refuse_the_sync() {
    let mut scene = Scene::new();
    let mut rows = Vec::new();
    for (case, injected, make, drop, state, message) in [
        (
            "a trigger that fails",
            "`BEFORE INSERT OR UPDATE … FOR EACH ROW`, which raises on some rows",
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF NEW.action_eventcategory = 'News' THEN RAISE 'no news';
                END IF; RETURN NEW; END $$;
             CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION refuse()",
            "DROP FUNCTION refuse CASCADE",
            "P0001",
            "no news",
        ),
        (
            "a deferred trigger that fails",
            "`CONSTRAINT TRIGGER … INITIALLY DEFERRED`, which raises at COMMIT",
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE 'at the end'; END $$;
             CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON {} DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION refuse()",
            "DROP FUNCTION refuse CASCADE",
            "P0001",
            "at the end",
        ),
        (
            "a check constraint",
            "one that some of the new rows violate",
            "ALTER TABLE {} ADD CONSTRAINT calm CHECK (action_eventcategory <> 'News')",
            "ALTER TABLE {} DROP CONSTRAINT calm",
            "23514",
            "violates check constraint \"calm\"",
        ),
        (
            "a foreign key",
            "one that the new rows violate",
            "CREATE TABLE known (id text PRIMARY KEY); INSERT INTO known SELECT DISTINCT action_id FROM {};
             ALTER TABLE {} ADD CONSTRAINT known FOREIGN KEY (action_id) REFERENCES known",
            "DROP TABLE known CASCADE",
            "23503",
            "violates foreign key constraint",
        ),
    ] {
        let mut seen = Vec::new();
        for table in TABLES {
            run(&mut scene.db, &make.replace("{}", table));
            let error = scene.fails(table);
            assert_eq!(error.code().code(), state, "{table}: {error:?}");
            assert!(error.message().contains(message), "{table}: {error:?}");
            run(&mut scene.db, &drop.replace("{}", table));
            seen.push(said(&error));
        }
        seen.dedup();
        rows.push((case, injected, seen.join("; ")));
    }
    let after = scene.works();
    for (case, injected, seen) in rows {
        let promised =
            "its own error, every row and the ledger as before; without it a sync goes well";
        proven("Crash", case, injected, promised, &format!("{seen}; rows as before; then {after}"));
    }
}

#[test]
fn a_sync_belongs_to_its_transaction_whichever_kind_that_is() {
    let mut scene = Scene::new();
    let sql = |scene: &Scene, table| Sync::of(&scene.fake, FIRST, LAST).into(table).sql();
    let (mut rolled_back, mut caught) = (Vec::new(), Vec::new());
    for table in TABLES {
        let sync = sql(&scene, table);
        // Rolled back, in whole and in part.
        for (begin, end) in [
            ("BEGIN", "ROLLBACK"),
            ("BEGIN; SAVEPOINT a", "ROLLBACK TO a; COMMIT"),
            ("BEGIN; SAVEPOINT a; SAVEPOINT b", "RELEASE b; ROLLBACK TO a; COMMIT"),
            ("BEGIN ISOLATION LEVEL SERIALIZABLE", "ROLLBACK"),
        ] {
            run(&mut scene.db, begin);
            run(&mut scene.db, &sync);
            run(&mut scene.db, end);
            assert_eq!(scene.state(), scene.before, "{begin}; …; {end}");
            if table == TABLES[0] {
                rolled_back.push(format!("`{begin}; …; {end}`"));
            }
        }
        // A failure that the caller catches between other statements.
        run(
            &mut scene.db,
            &format!(
                "CREATE TABLE log_{table} (what text);
                 ALTER TABLE {table} ADD CONSTRAINT calm CHECK (action_eventcategory <> 'News');
                 DO $$ BEGIN
                     INSERT INTO log_{table} VALUES ('before');
                     BEGIN PERFORM * FROM ({}) s;
                     EXCEPTION WHEN check_violation THEN INSERT INTO log_{table} VALUES (SQLSTATE); END;
                     INSERT INTO log_{table} VALUES ('after');
                 END $$;
                 ALTER TABLE {table} DROP CONSTRAINT calm",
                sync
            ),
        );
        caught = texts(&mut scene.db, &format!("SELECT what FROM log_{table}"));
        assert_eq!(caught, ["before", "23514", "after"]);
        assert_eq!(scene.state(), scene.before);
    }
    let rows = oracle(&scene.fake, FIRST, LAST);
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for table in TABLES {
            let sync = sql(&scene, table);
            run(&mut scene.db, &format!("BEGIN ISOLATION LEVEL {level}"));
            run(&mut scene.db, &sync);
            run(&mut scene.db, "COMMIT");
            all_there(&mut scene.db, table, &rows);
        }
    }
    let after = scene.works();
    proven(
        "Crash",
        "a transaction that rolls back",
        &format!("a sync within {}", rolled_back.join(", within ")),
        "every row and the ledger as before",
        &format!("rows as before, {} times", rolled_back.len() * TABLES.len()),
    );
    proven(
        "Crash",
        "an error that the caller catches",
        "a sync that a constraint refuses, in a DO block with an EXCEPTION clause, amid other work",
        "the other work is done, every row as before; the next sync goes well",
        &format!("the block wrote {}; rows as before; then {after}", caught.join(", ")),
    );
}

#[test]
fn a_table_that_another_session_has_locked_is_waited_for_as_long_as_the_user_says() {
    let mut scene = Scene::new();
    let name: String = one(&mut scene.db, "SELECT current_database()");
    let mut other = shared().connect(&name);
    run(&mut scene.db, "SET lock_timeout = '200 ms'");
    let mut seen = String::new();
    for table in TABLES {
        run(&mut other, &format!("BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE"));
        let error = Sync::of(&scene.fake, FIRST, LAST).into(table).error(&mut scene.db);
        assert_eq!(error.code().code(), "55P03", "{error:?}");
        assert_eq!(error.message(), "canceling statement due to lock timeout");
        run(&mut other, "ROLLBACK");
        assert_eq!(scene.state(), scene.before);
        seen = said(&error);
    }
    let after = scene.works();
    proven(
        "Crash",
        "the table is locked",
        "another session holds `LOCK TABLE … IN EXCLUSIVE MODE`; `lock_timeout` is 200 ms",
        "`55P03` of Postgres, every row as before; the next sync goes well",
        &format!("{seen}; rows as before; then {after}"),
    );
}

#[test]
fn a_sync_needs_no_connection_but_its_own() {
    let cluster = Cluster::start_with("superuser_reserved_connections = 0\n");
    let name = cluster.database();
    let mut db = cluster.connect(&name);
    let most: String = one(&mut db, "SHOW max_connections");
    let most: usize = most.parse().unwrap();
    let mut others = Vec::new();
    while others.len() < most {
        match cluster.config(&name, "postgres").connect(postgres::NoTls) {
            Ok(other) => others.push(other),
            Err(_) => break,
        }
    }
    assert!(others.len() < most, "there is still room");
    let fake = serve(world(53, "UTC", 5, FIRST, LAST));
    run(&mut db, "SET matomo.fetch_workers = 8");
    Sync::of(&fake, FIRST, LAST).into("matomo_partitioned").run(&mut db);
    let after = all_there(&mut db, "matomo_partitioned", &oracle(&fake, FIRST, LAST));
    let refused = cluster.config(&name, "postgres").connect(postgres::NoTls).err().unwrap();
    assert_eq!(refused.code().unwrap().code(), "53300", "{refused:?}");
    proven(
        "Crash",
        "no connections left",
        "other sessions take all of `max_connections`; `matomo.fetch_workers` is 8",
        "a sync needs none but its own",
        &format!("another session: {}; the sync: {after}", said(refused.as_db_error().unwrap())),
    );
}
