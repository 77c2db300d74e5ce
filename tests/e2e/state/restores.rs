//! The extension's own tables are restored, in whichever way a dump is restored.

use std::path::PathBuf;

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::dump::{empty_database, output};
use crate::support::sites::*;
use crate::support::*;

/// A registered site that was synced once, and its database.
fn synced() -> (Fake, String, Client) {
    let fake = serve_two();
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    add_site(&mut db, ", start_date => '2026-10-24'");
    run(&mut db, "CALL matomo_sync_all()");
    (fake, name, db)
}

/// The state of the registered sites.
fn known(db: &mut Client) -> Vec<String> {
    texts(
        db,
        "SELECT concat_ws(' ', site_id, server, destination, failures, synced_to) FROM matomo_status",
    )
}

fn dumped(database: &str, user: &str) -> PathBuf {
    let name = format!("matomo_e2e.{}.{database}.{user}.dump", std::process::id());
    let file = std::env::temp_dir().join(name);
    output(shared().program("pg_dump").args(["-U", user, "-Fc", "-f"]).arg(&file).arg(database));
    file
}

#[test]
fn the_state_of_sites_comes_back_in_whatever_order_tables_are_loaded() {
    let (_fake, name, mut old) = synced();
    let file = dumped(&name, "postgres");
    let copy = format!("{name}_order");
    let mut db = empty_database(shared(), &copy);
    let restore = || {
        let mut command = shared().program("pg_restore");
        command.args(["-e", "-d", &copy]);
        command
    };
    output(restore().arg("--section=pre-data").arg(&file));
    // In reverse order, as parallel jobs may restore them.
    let list = output(shared().program("pg_restore").args(["-l", "--section=data"]).arg(&file));
    let list = String::from_utf8(list).unwrap();
    assert!(list.find("matomo_site_config").unwrap() < list.find("matomo_site_state").unwrap());
    let reversed: Vec<_> = list.lines().rev().collect();
    let order = file.with_extension("list");
    std::fs::write(&order, reversed.join("\n")).unwrap();
    output(restore().arg("-L").arg(&order).arg(&file));
    output(restore().arg("--section=post-data").arg(&file));
    assert_eq!(known(&mut db), known(&mut old));
    assert_eq!(known(&mut db).len(), 1);
    for file in [file, order] {
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn parallel_jobs_restore_everything() {
    let (_fake, name, mut old) = synced();
    let file = dumped(&name, "postgres");
    for n in 0..5 {
        let copy = format!("{name}_jobs_{n}");
        let mut db = empty_database(shared(), &copy);
        output(shared().program("pg_restore").args(["-j4", "-e", "-d", &copy]).arg(&file));
        assert_eq!(known(&mut db), known(&mut old));
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_dump_by_a_role_that_reads_no_tokens_is_restored_without_them() {
    let (fake, name, mut old) = synced();
    let reader = role(&mut old);
    run(
        &mut old,
        &format!(
            "GRANT pg_read_all_data TO {reader};
             CREATE USER MAPPING FOR PUBLIC SERVER analytics OPTIONS (token '{}')",
            fake.token()
        ),
    );
    let file = dumped(&name, &reader);
    let copy = format!("{name}_reader");
    let mut db = empty_database(shared(), &copy);
    output(shared().program("pg_restore").args(["-1", "-e", "-d", &copy]).arg(&file));
    std::fs::remove_file(file).unwrap();
    assert_eq!(known(&mut db), known(&mut old));
    let sync = "SELECT * FROM matomo_sync(1, server => 'analytics', force => true, start_date => '2026-10-24', end_date => '2026-10-24')";
    for (mapping, user) in [("postgres", "postgres"), ("PUBLIC", "public")] {
        let hint =
            format!("ALTER USER MAPPING FOR {mapping} SERVER analytics OPTIONS (ADD token '...').");
        let message = format!("user mapping for \"{user}\" has no token");
        assert_says(&error(&mut db, sync), "28000", &message, &[], &hint);
        if user == "public" {
            run(&mut db, &hint.trim_end_matches('.').replace("...", fake.token()));
        } else {
            run(&mut db, "DROP USER MAPPING FOR postgres SERVER analytics");
        }
    }
    run(&mut db, sync);
    // A run reports it too, and succeeds once there is a token.
    run(&mut db, "CREATE USER MAPPING FOR postgres SERVER analytics");
    run(&mut db, "CALL matomo_sync_all()");
    let failed =
        "SELECT concat_ws(' ', last_sqlstate, last_error) FROM matomo_status WHERE failures = 1";
    assert_eq!(texts(&mut db, failed), ["28000 user mapping for \"postgres\" has no token"]);
    let token = format!(
        "ALTER USER MAPPING FOR postgres SERVER analytics OPTIONS (ADD token '{}')",
        fake.token()
    );
    run(&mut db, &token);
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status"), 0);
}

/// For instance by a worker during a parallel restore. A site cannot be synced before the rows and
/// the key of its own table are there.
#[test]
fn a_site_that_is_synced_before_its_ledger_is_restored_loses_nothing() {
    let (fake, name, mut old) = synced();
    let sealed =
        "SELECT concat_ws(' ', day, visits, actions) FROM matomo_ledger WHERE sealed ORDER BY 1";
    let expected = texts(&mut old, sealed);
    assert!(expected.len() > 10, "{expected:?}");
    let file = dumped(&name, "postgres");
    let copy = format!("{name}_half");
    let mut db = empty_database(shared(), &copy);
    let restore = |arguments: &[&str]| {
        let mut command = shared().program("pg_restore");
        output(command.args(["-e", "-d", &copy]).args(arguments).arg(&file));
    };
    restore(&["--section=pre-data"]);
    restore(&["--section=data", "-t", "matomo_site_config"]);
    let sync = "CALL matomo_sync_site(1)";
    let refused = error(&mut db, sync);
    assert!(refused.message().contains("no usable unique index"), "{refused:?}");
    restore(&["--section=data", "-t", "matomo"]);
    restore(&["--section=post-data"]);
    run(&mut db, sync);
    restore(&["--section=data", "-t", "matomo_ledger"]);
    run(&mut db, sync);
    let found = texts(&mut db, sealed);
    let lacking: Vec<_> = expected.iter().filter(|day| !found.contains(day)).collect();
    assert!(lacking.is_empty(), "{lacking:?}");
    let names = "SELECT count(*) FROM matomo_ledger WHERE destination = 0";
    assert_eq!(one::<i64>(&mut db, names), 0);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status"), 0);
    std::fs::remove_file(file).unwrap();
}

/// Foreign keys would require an order that pg_restore does not keep.
#[test]
fn no_table_of_the_extension_has_a_foreign_key() {
    let mut db = database();
    let keys = texts(
        &mut db,
        "SELECT format('%s of %s', o.conname, o.conrelid::regclass) FROM pg_constraint o
         JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = o.conrelid AND d.deptype = 'e'
         WHERE o.contype = 'f'",
    );
    assert_eq!(keys, [""; 0]);
}

#[test]
fn the_state_of_a_removed_site_goes_with_it() {
    let (_fake, _, mut db) = synced();
    let left = "SELECT count(*) FROM matomo_site_state";
    assert_eq!(one::<i64>(&mut db, left), 1);
    run(&mut db, "SELECT matomo_remove_site(id) FROM matomo_sites");
    assert_eq!(one::<i64>(&mut db, left), 0);
}
