//! Dumps have names of tables and roles. One that is missing after a restore is reported, does not
//! affect the others, and is found once it exists.

use std::path::{Path, PathBuf};

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::{Cluster, shared};
use crate::support::dump::{empty_database, output};
use crate::support::sites::*;
use crate::support::*;

const FIRST: &str = "2026-10-24";

/// Site 1 in the table `matomo` and site 2 in `matomo_partitioned`, both synced once by an owner.
struct Scene {
    fake: Fake,
    name: String,
    db: Client,
    owner: String,
}

fn scene() -> Scene {
    let fake = serve_two();
    let (name, mut admin, owner) = database_and_role();
    server_for(&mut admin, &fake, &owner);
    run(&mut admin, &format!("GRANT CREATE ON SCHEMA public TO {owner}"));
    let mut db = connect_as(&name, &owner);
    for (site, table) in [(1, "public.matomo"), (2, "public.matomo_partitioned")] {
        let add = format!("SELECT matomo_add_site('analytics', {site}, '{FIRST}', '{table}')");
        run(&mut db, &add);
    }
    run(&mut db, "CALL matomo_sync_all()");
    Scene { fake, name, db: admin, owner }
}

/// All that the extension keeps, by name.
fn kept(db: &mut Client) -> Vec<String> {
    texts(
        db,
        "SELECT concat('site ', s) FROM matomo_sites s
         UNION ALL SELECT concat('state ', t) FROM matomo_site_state t
         UNION ALL SELECT concat('run ', r) FROM matomo_runs r
         UNION ALL SELECT concat('rest of run ', r.runid, r.next_day, r.done, r.timezone, r.step_pages, r.changes)
             FROM matomo_run_log r
         UNION ALL SELECT concat('day ', d) FROM matomo_days d
         UNION ALL SELECT concat('rest of day ', l.idsite, l.day, l.pass_began, l.pass_since, l.pass_seen)
             FROM matomo_ledger l
         UNION ALL SELECT concat('status ', site_id, destination, owner, synced_to, sealed_to, newest_action, failures)
             FROM matomo_status
         ORDER BY 1",
    )
}

fn file_of(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("matomo_e2e.{}.{name}.dump", std::process::id()))
}

/// A dump with further arguments.
fn dumped(name: &str, arguments: &[&str]) -> PathBuf {
    let file = file_of(name);
    output(shared().program("pg_dump").args(arguments).arg("-f").arg(&file).arg(name));
    file
}

/// Restores a dump in the custom format into a new database.
fn restored(cluster: &Cluster, file: &Path, copy: &str, arguments: &[&str]) -> Client {
    let db = empty_database(cluster, copy);
    output(cluster.program("pg_restore").args(arguments).args(["-e", "-d", copy]).arg(file));
    db
}

fn with_notices(name: &str) -> (Client, Errors) {
    connect_with_notices(shared(), name, "postgres")
}

/// That the sites go on where they were: nothing of the days that are sealed is read again.
fn assert_goes_on(db: &mut Client, fake: &Fake) {
    fake.clear_requests();
    run(db, "CALL matomo_sync_all()");
    let failed = texts(db, "SELECT s::text FROM matomo_status s WHERE failures <> 0");
    assert_eq!(failed, [""; 0]);
    let asked = asked(fake);
    assert!(!asked.iter().any(|line| line.contains(FIRST)), "{asked:?}");
}

#[test]
fn every_way_to_dump_and_restore_brings_back_all_that_is_known() {
    let Scene { fake, name, mut db, owner } = scene();
    run(
        &mut db,
        "UPDATE matomo_ledger SET pass_began = now(), pass_since = now(), pass_seen = 'x' WHERE sealed AND day = '2026-10-25';
         UPDATE matomo_run_log SET next_day = '2026-10-25', done = '{2026-10-26}', step_pages = 3, sqlstate = 'XX000'",
    );
    let before = kept(&mut db);
    assert!(before.len() > 12, "{before:#?}");
    let ways: [(&str, &[&str], &[&str]); 6] = [
        ("one", &["-Fc"], &["-1"]),
        ("jobs", &["-Fc"], &["-j4"]),
        ("inserts", &["-Fc", "--inserts"], &[]),
        ("columns", &["-Fc", "--column-inserts", "--rows-per-insert=3"], &[]),
        ("no_owner", &["-Fc"], &["--no-owner"]),
        ("plain", &[], &[]),
    ];
    for (way, dump, restore) in ways {
        let file = dumped(&name, dump);
        let copy = format!("{name}_{way}");
        let mut new = if dump.is_empty() {
            let new = empty_database(shared(), &copy);
            let mut psql = shared().program("psql");
            psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", &copy, "-f"]);
            output(psql.arg(&file));
            new
        } else {
            restored(shared(), &file, &copy, restore)
        };
        std::fs::remove_file(file).unwrap();
        assert_eq!(kept(&mut new), before, "{way}");
        // Also when they are found, and from a dump of the dump.
        let none = error(&mut new, "SELECT matomo_remove_site(-1)");
        assert_eq!(none.code().code(), "42704");
        assert_eq!(kept(&mut new), before, "{way}");
        if restore == ["--no-owner"] {
            run(&mut new, &format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {owner}"));
        }
        run(
            &mut new,
            "UPDATE matomo_ledger SET pass_began = NULL, pass_since = NULL, pass_seen = NULL",
        );
        assert_goes_on(&mut new, &fake);
    }
}

#[test]
fn a_table_that_is_missing_costs_only_its_own_site_and_is_found_when_it_comes() {
    let Scene { fake, name, mut db, .. } = scene();
    let before = kept(&mut db);
    let whole = dumped(&name, &["-Fc"]);
    let copy = format!("{name}_lacking");
    let lacking = file_of(&copy);
    output(
        shared()
            .program("pg_dump")
            .args(["-Fc", "-T", "public.matomo", "-f"])
            .arg(&lacking)
            .arg(&name),
    );
    restored(shared(), &lacking, &copy, &["-1"]);
    std::fs::remove_file(lacking).unwrap();
    let (mut new, said) = with_notices(&copy);
    let shown = "SELECT concat_ws(' ', id, destination) FROM matomo_sites ORDER BY id";
    assert_eq!(texts(&mut new, shown), ["1 public.matomo", "2 matomo_partitioned"]);
    let days = "SELECT DISTINCT concat_ws(' ', destination, missing) FROM matomo_days ORDER BY 1";
    assert_eq!(texts(&mut new, days), ["matomo_partitioned", "public.matomo"]);

    // The other site goes on, and the erasure says what it passes over.
    run(&mut new, "CALL matomo_sync_all()");
    let states = "SELECT concat_ws(' ', site_id, failures, last_sqlstate, last_detail) FROM matomo_status ORDER BY 1";
    assert_eq!(
        texts(&mut new, states),
        ["1 1 42P01 The last known name of the table is public.matomo.", "2 0"]
    );
    said.warnings();
    let forgotten = "SELECT destination::text FROM matomo_forget(visitorid => 'nobody') ORDER BY 1";
    assert_eq!(texts(&mut new, forgotten), ["matomo_partitioned"]);
    let warnings: Vec<_> = said.warnings().iter().map(|w| w.message().to_owned()).collect();
    assert_eq!(
        warnings,
        ["tables that a dump was restored without are not searched: public.matomo"]
    );

    // From another dump, later.
    output(shared().program("pg_restore").args(["-e", "-d", &copy, "-t", "matomo"]).arg(&whole));
    run(&mut new, "ALTER TABLE matomo ADD PRIMARY KEY (action_id)");
    std::fs::remove_file(whole).unwrap();
    assert_goes_on(&mut new, &fake);
    let of = |lines: Vec<String>| {
        lines.into_iter().filter(|line| line.starts_with("site ")).collect::<Vec<_>>()
    };
    assert_eq!(of(kept(&mut new)), of(before));
    assert_eq!(texts(&mut new, days), ["matomo", "matomo_partitioned"]);
    assert_eq!(texts(&mut new, forgotten), ["matomo", "matomo_partitioned"]);
    assert_eq!(said.warnings().len(), 0);
}

#[test]
fn a_role_that_is_missing_costs_nothing_else_and_is_found_when_it_comes() {
    let Scene { fake, name, mut db, owner } = scene();
    let before = kept(&mut db);
    let file = dumped(&name, &["-Fc", "--no-privileges"]);
    let cluster = Cluster::start();
    let mut new = empty_database(&cluster, "restored");
    let mut restore = cluster.program("pg_restore");
    let restore = restore.args(["--no-owner", "-d", "restored"]).arg(&file).output().unwrap();
    std::fs::remove_file(file).unwrap();
    let said = String::from_utf8_lossy(&restore.stderr).into_owned();
    let errors: Vec<_> = said.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "{said}");
    assert!(errors[0].contains(&format!("role \"{owner}\" does not exist")), "{said}");
    assert_eq!(kept(&mut new), before);

    run(&mut new, "CALL matomo_sync_all()");
    let states = "SELECT concat_ws(' ', owner, failures, last_sqlstate, last_detail) FROM matomo_status ORDER BY 1";
    let state = format!("{owner} 1 42704 The last known name of the role is {owner}.");
    assert_eq!(texts(&mut new, states), [state.clone(), state]);

    run(
        &mut new,
        &format!(
            "CREATE ROLE {owner} LOGIN; GRANT USAGE ON FOREIGN SERVER analytics TO {owner};
             CREATE USER MAPPING FOR {owner} SERVER analytics OPTIONS (token '{}');
             ALTER TABLE matomo OWNER TO {owner}; ALTER TABLE matomo_partitioned OWNER TO {owner}",
            fake.token()
        ),
    );
    let mut theirs = cluster.connect_as("restored", &owner);
    assert_eq!(one::<i64>(&mut theirs, "SELECT count(*) FROM matomo_runs"), 2);
    assert_goes_on(&mut new, &fake);
}

#[test]
fn renaming_is_followed_and_dumped() {
    let Scene { fake, name, mut db, owner } = scene();
    let renamed = format!("{owner}_renamed");
    run(
        &mut db,
        &format!(
            "CREATE SCHEMA web; ALTER TABLE matomo SET SCHEMA web; ALTER TABLE web.matomo RENAME TO \"Visits 2026\";
             ALTER ROLE {owner} RENAME TO {renamed}; GRANT USAGE ON SCHEMA web TO {renamed}"
        ),
    );
    assert_goes_on(&mut db, &fake);
    run(&mut db, "ALTER SCHEMA web RENAME TO \"My Web\"");
    assert_goes_on(&mut db, &fake);
    let shown = "SELECT concat_ws(' ', id, destination, owner) FROM matomo_sites ORDER BY id";
    let expected = [
        format!("1 \"My Web\".\"Visits 2026\" {renamed}"),
        format!("2 matomo_partitioned {renamed}"),
    ];
    assert_eq!(texts(&mut db, shown), expected);
    let file = dumped(&name, &["-Fc"]);
    let copy = format!("{name}_renamed");
    let mut new = restored(shared(), &file, &copy, &[]);
    std::fs::remove_file(file).unwrap();
    assert_eq!(kept(&mut new), kept(&mut db));
    assert_goes_on(&mut new, &fake);
    assert_eq!(texts(&mut new, shown), expected);
}

#[test]
fn a_new_table_or_role_of_the_same_name_is_not_taken_for_the_old_one() {
    let Scene { fake: _fake, name, mut db, owner } = scene();
    run(
        &mut db,
        &format!(
            "DROP TABLE matomo; SELECT matomo_create_table('matomo'); ALTER TABLE matomo OWNER TO {owner}"
        ),
    );
    run(&mut db, "CALL matomo_sync_all()");
    let states = "SELECT concat_ws(' ', site_id, destination, failures, last_sqlstate) FROM matomo_status ORDER BY 1";
    let expected = ["1 public.matomo 1 42P01", "2 matomo_partitioned 0"];
    assert_eq!(texts(&mut db, states), expected);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 0);
    let of_old =
        "SELECT count(*) FROM matomo_ledger WHERE destination <> 'matomo_partitioned'::regclass";
    run(&mut db, "SELECT matomo_forget(visitorid => 'nobody')");
    assert_eq!(one::<i64>(&mut db, of_old), 0);

    run(
        &mut db,
        &format!(
            "REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}; DROP ROLE {owner}; CREATE ROLE {owner}"
        ),
    );
    let mut theirs = connect_as(&name, "postgres");
    run(&mut theirs, &format!("SET ROLE {owner}"));
    assert_eq!(one::<i64>(&mut theirs, "SELECT count(*) FROM matomo_sites"), 0);
    assert_eq!(one::<i64>(&mut theirs, "SELECT count(*) FROM matomo_runs"), 0);
    run(&mut db, "CALL matomo_sync_all()");
    let states = "SELECT DISTINCT last_sqlstate FROM matomo_status";
    assert_eq!(texts(&mut db, states), ["42704"]);
}

/// Who may create tables in a schema could else have the visits of a site whose table is missing.
#[test]
fn a_table_of_another_role_is_not_taken_for_the_one_that_is_missing() {
    let Scene { fake: _fake, name, mut db, .. } = scene();
    let copy = format!("{name}_attacked");
    let file = file_of(&copy);
    output(
        shared()
            .program("pg_dump")
            .args(["-Fc", "-T", "public.matomo", "-f"])
            .arg(&file)
            .arg(&name),
    );
    let mut new = restored(shared(), &file, &copy, &[]);
    std::fs::remove_file(file).unwrap();
    let attacker = role(&mut db);
    run(&mut new, &format!("GRANT CREATE ON SCHEMA public TO {attacker}"));
    let mut theirs = connect_as(&copy, &attacker);
    run(&mut theirs, "SELECT matomo_create_table('matomo'); GRANT ALL ON matomo TO PUBLIC");
    run(&mut new, "CALL matomo_sync_all()");
    let states =
        "SELECT concat_ws(' ', site_id, failures, last_sqlstate) FROM matomo_status ORDER BY 1";
    assert_eq!(texts(&mut new, states), ["1 1 42P01", "2 0"]);
    assert_eq!(one::<i64>(&mut new, "SELECT count(*) FROM matomo"), 0);
    assert_eq!(one::<i64>(&mut theirs, "SELECT count(*) FROM matomo_days"), 0);
}

/// A dump may hold the site of a table that was dropped, and one of the table that came in its place.
#[test]
fn of_two_sites_with_one_name_the_newer_one_has_the_table() {
    let Scene { fake: _fake, name, mut db, owner } = scene();
    run(
        &mut db,
        &format!(
            "DROP TABLE matomo; SELECT matomo_create_table('matomo'); ALTER TABLE matomo OWNER TO {owner}"
        ),
    );
    let add = format!("SELECT matomo_add_site('analytics', 1, '{FIRST}', 'public.matomo')");
    run(&mut connect_as(&name, &owner), &add);
    let file = dumped(&name, &["-Fc"]);
    let mut new = restored(shared(), &file, &format!("{name}_twice"), &[]);
    std::fs::remove_file(file).unwrap();
    run(&mut new, "CALL matomo_sync_all()");
    let states =
        "SELECT concat_ws(' ', site_id, failures, last_sqlstate) FROM matomo_status ORDER BY 1";
    assert_eq!(texts(&mut new, states), ["1 1 42P01", "2 0", "3 0"]);
}

#[test]
fn of_two_sites_whose_tables_are_missing_one_may_become_as_the_other_but_for_the_table() {
    let Scene { fake: _fake, name, mut db, owner } = scene();
    run(
        &mut db,
        "DROP TABLE matomo, matomo_partitioned; UPDATE matomo_site_config SET destination = 0",
    );
    let mut theirs = connect_as(&name, &owner);
    run(&mut theirs, "SELECT matomo_alter_site(1, site => 2)");
    let shown = "SELECT concat_ws(' ', id, idsite) FROM matomo_sites ORDER BY id";
    assert_eq!(texts(&mut db, shown), ["1 2", "2 2"]);
    run(
        &mut db,
        "UPDATE matomo_site_config s SET destination_name = o.destination_name
         FROM matomo_site_config o WHERE (s.id, o.id) = (2, 1)",
    );
    let refused = error(&mut theirs, "SELECT matomo_alter_site(2, site => 2)");
    let message = "site 2 of server \"analytics\" is already registered for \"public.matomo\"";
    assert_says(&refused, "23505", message, &[], "matomo_alter_site");
}
