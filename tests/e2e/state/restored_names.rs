//! Dumps have names of tables and roles. One that is missing after a restore is reported, does not
//! affect the others, and is found once it exists.

use postgres::Client;

use crate::support::cluster::{Cluster, shared};
use crate::support::dump::{empty_database, output};
use crate::support::restored::*;
use crate::support::sites::*;
use crate::support::*;

fn with_notices(name: &str) -> (Client, Errors) {
    connect_with_notices(shared(), name, "postgres")
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
    let sections: [&[&str]; 3] =
        [&["--section=pre-data"], &["--section=data"], &["--section=post-data"]];
    type Arguments<'a> = &'a [&'a str];
    let ways: [(&str, Arguments, &[Arguments]); 7] = [
        ("one", &["-Fc"], &[&["-1"]]),
        ("jobs", &["-Fc"], &[&["-j4"]]),
        ("sections", &["-Fc"], &sections),
        ("inserts", &["-Fc", "--inserts"], &[&[]]),
        ("columns", &["-Fc", "--column-inserts", "--rows-per-insert=3"], &[&[]]),
        ("no_owner", &["-Fc"], &[&["--no-owner"]]),
        ("plain", &[], &[]),
    ];
    for (way, dump, restores) in ways {
        let file = dumped(&name, dump);
        let copy = format!("{name}_{way}");
        let mut new = if dump.is_empty() {
            let new = empty_database(shared(), &copy);
            let mut psql = shared().program("psql");
            psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", &copy, "-f"]);
            output(psql.arg(&file));
            new
        } else {
            let new = empty_database(shared(), &copy);
            for restore in restores {
                let mut program = shared().program("pg_restore");
                output(program.args(*restore).args(["-e", "-d", &copy]).arg(&file));
            }
            new
        };
        std::fs::remove_file(file).unwrap();
        assert_eq!(kept(&mut new), before, "{way}");
        // Also once they are found, and from a dump of the restored database.
        let none = error(&mut new, "SELECT matomo_remove_site(-1)");
        assert_eq!(none.code().code(), "42704");
        assert_eq!(kept(&mut new), before, "{way}");
        if way == "no_owner" {
            run(&mut new, &format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {owner}"));
        }
        run(
            &mut new,
            "UPDATE matomo_ledger SET pass_began = NULL, pass_since = NULL, pass_seen = NULL",
        );
        assert_resumes(&mut new, &fake);
        for (site, table) in [(1, "matomo"), (2, "matomo_partitioned")] {
            let oracle = tables_between(&fake, site, FIRST, "2200-01-01");
            assert_tables_equal(&mut new, table, &oracle);
        }
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

    // The other site is still synced, and the erasure reports the tables that it skips.
    run(&mut new, "CALL matomo_sync_all()");
    let states = "SELECT concat_ws(' ', site_id, failures, last_sqlstate, last_detail) FROM matomo_status ORDER BY 1";
    assert_eq!(
        texts(&mut new, states),
        ["1 1 42P01 The last known name of the table is public.matomo.", "2 0"]
    );
    said.warnings();
    let forgotten = "SELECT destination::text FROM matomo_forget(visitorid => 'nobody') ORDER BY 1";
    // Companions that are there are searched without their destination.
    assert_eq!(texts(&mut new, forgotten), ["matomo_partitioned", "matomo_visits"]);
    let warnings: Vec<_> = said.warnings().iter().map(|w| w.message().to_owned()).collect();
    assert_eq!(
        warnings,
        ["tables that a dump was restored without are not searched: public.matomo"]
    );

    // From another dump, later.
    output(shared().program("pg_restore").args(["-e", "-d", &copy, "-t", "matomo"]).arg(&whole));
    run(&mut new, "ALTER TABLE matomo ADD PRIMARY KEY (action_id)");
    std::fs::remove_file(whole).unwrap();
    assert_resumes(&mut new, &fake);
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
             {}; {}",
            fake.token(),
            give_all_four("matomo", &owner),
            give_all_four("matomo_partitioned", &owner)
        ),
    );
    let mut theirs = cluster.connect_as("restored", &owner);
    assert_eq!(one::<i64>(&mut theirs, "SELECT count(*) FROM matomo_runs"), 2);
    assert_resumes(&mut new, &fake);
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
    assert_resumes(&mut db, &fake);
    run(&mut db, "ALTER SCHEMA web RENAME TO \"My Web\"");
    assert_resumes(&mut db, &fake);
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
    assert_resumes(&mut new, &fake);
    assert_eq!(texts(&mut new, shown), expected);
}

#[test]
fn companions_are_found_after_a_restore_and_followed_when_renamed() {
    let Scene { fake, name, mut db, .. } = scene();
    run(&mut db, "ALTER TABLE matomo_visits RENAME TO \"Who came\"");
    let mut new = copied(&name, "companions", &[]);
    assert_resumes(&mut new, &fake);
    run(
        &mut new,
        "ALTER TABLE matomo RENAME TO hits; ALTER TABLE \"Who came\" RENAME TO hits_visits;
         ALTER TABLE matomo_conversions RENAME TO hits_conversions; ALTER TABLE matomo_items RENAME TO hits_items",
    );
    let visit = {
        let mut world = fake.world();
        let visit = &mut world.site_mut(1).visits[4];
        visit.extra.insert("browserVersion".to_owned(), "999".into());
        visit.id
    };
    let sql = format!(
        "SELECT stale FROM matomo_check(1, '{FIRST}', '2026-10-26', '{}', '{}', 'hits', repair => true) WHERE stale > 0",
        fake.url(),
        fake.token()
    );
    assert_eq!(one::<i64>(&mut new, &sql), 1);
    let version = format!("SELECT browserversion FROM hits_visits WHERE idvisit = {visit}");
    assert_eq!(one::<String>(&mut new, &version), "999");
    assert_tables_equal(&mut new, "hits", &tables_between(&fake, 1, FIRST, "2200-01-01"));
}

#[test]
fn a_new_table_or_role_of_the_same_name_is_not_taken_for_the_old_one() {
    let Scene { fake: _fake, name, mut db, owner } = scene();
    run(
        &mut db,
        &format!(
            "DROP TABLE {}; SELECT matomo_create_table('matomo'); {}",
            all_four("matomo"),
            give_all_four("matomo", &owner)
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

/// Otherwise a role with CREATE on the schema could get the visits of a site whose table is
/// missing.
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
    run(
        &mut theirs,
        "SET matomo.companions = ''; SELECT matomo_create_table('matomo'); GRANT ALL ON matomo TO PUBLIC",
    );
    run(&mut new, "CALL matomo_sync_all()");
    let states =
        "SELECT concat_ws(' ', site_id, failures, last_sqlstate) FROM matomo_status ORDER BY 1";
    assert_eq!(texts(&mut new, states), ["1 1 42P01", "2 0"]);
    assert_eq!(one::<i64>(&mut new, "SELECT count(*) FROM matomo"), 0);
    assert_eq!(one::<i64>(&mut theirs, "SELECT count(*) FROM matomo_days"), 0);
}

/// A dump may hold a site of a dropped table and one of the table that replaced it.
#[test]
fn of_two_sites_with_one_name_the_newer_one_has_the_table() {
    let Scene { fake: _fake, name, mut db, owner } = scene();
    run(
        &mut db,
        &format!(
            "DROP TABLE {}; SELECT matomo_create_table('matomo'); {}",
            all_four("matomo"),
            give_all_four("matomo", &owner)
        ),
    );
    let add = format!("SELECT matomo_add_site('analytics', 1, '{FIRST}', 'public.matomo')");
    run(&mut connect_as(&name, &owner), &add);
    let mut new = copied(&name, "twice", &[]);
    run(&mut new, "CALL matomo_sync_all()");
    let states =
        "SELECT concat_ws(' ', site_id, failures, last_sqlstate) FROM matomo_status ORDER BY 1";
    assert_eq!(texts(&mut new, states), ["1 1 42P01", "2 0", "3 0"]);
}

/// In the dumped database, a table of the same name would not have replaced it either.
#[test]
fn what_was_dropped_before_the_dump_is_not_found_after_it() {
    let Scene { fake, name, mut db, owner } = scene();
    run(&mut db, &format!("DROP TABLE {}", all_four("matomo")));
    let mut new = copied(&name, "no_table", &[]);
    let make = format!("SELECT matomo_create_table('matomo'); {}", give_all_four("matomo", &owner));
    run(&mut new, &make);
    run(&mut new, "CALL matomo_sync_all()");
    let states = "SELECT concat_ws(' ', site_id, destination, owner, last_sqlstate) FROM matomo_status ORDER BY site_id";
    let expected =
        [format!("1 public.matomo {owner} 42P01"), format!("2 matomo_partitioned {owner}")];
    assert_eq!(texts(&mut new, states), expected);
    assert_eq!(one::<i64>(&mut new, "SELECT count(*) FROM matomo"), 0);
    // The same for a dump of the restored database.
    run(&mut new, &format!("DROP TABLE {}", all_four("matomo")));
    let mut again = copied(&format!("{name}_no_table"), "again", &[]);
    run(&mut again, &make);
    run(&mut again, "CALL matomo_sync_all()");
    assert_eq!(texts(&mut again, states), expected);
    // A user names the table.
    run(&mut again, "SELECT matomo_alter_site(1, destination => 'public.matomo')");
    run(&mut again, "CALL matomo_sync_all()");
    assert!(one::<i64>(&mut again, "SELECT count(*) FROM matomo") > 0);

    for copy in ["", "_no_table", "_no_table_again"] {
        let mut db = connect_as(&format!("{name}{copy}"), "postgres");
        run(&mut db, &format!("REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}"));
    }
    run(&mut db, &format!("DROP ROLE {owner}"));
    let mut new = copied(&name, "no_role", &[]);
    run(&mut new, &format!("CREATE ROLE {owner} LOGIN"));
    let mut theirs = connect_as(&format!("{name}_no_role"), &owner);
    assert_eq!(one::<i64>(&mut theirs, "SELECT count(*) FROM matomo_sites"), 0);
    assert_eq!(one::<i64>(&mut theirs, "SELECT count(*) FROM matomo_runs"), 0);
    run(&mut new, "CALL matomo_sync_all()");
    assert_eq!(one::<i64>(&mut theirs, "SELECT count(*) FROM matomo_sites"), 0);
    let state = |id, table| format!("{id} {table} {owner} 42704");
    let expected = [state(1, "public.matomo"), state(2, "matomo_partitioned")];
    assert_eq!(texts(&mut new, states), expected);
    // A user names the owner.
    let token = fake.token();
    run(
        &mut new,
        &format!("CREATE USER MAPPING FOR postgres SERVER analytics OPTIONS (token '{token}')"),
    );
    run(&mut new, "SELECT matomo_alter_site(2, owner => 'postgres')");
    run(&mut new, "CALL matomo_sync_all()");
    let well = "SELECT concat_ws(' ', site_id, owner) FROM matomo_status WHERE failures = 0";
    assert_eq!(texts(&mut new, well), ["2 postgres"]);
    assert_eq!(one::<i64>(&mut theirs, "SELECT count(*) FROM matomo_runs"), 0);
}

#[test]
fn sites_of_missing_tables_do_not_stand_in_each_others_way() {
    let Scene { fake: _fake, name, db: _db, owner } = scene();
    let add = format!("SELECT matomo_add_site('analytics', 1, '{FIRST}', 'matomo_partitioned')");
    run(&mut connect_as(&name, &owner), &add);
    let mut new =
        copied(&name, "both", &["-T", "public.matomo", "-T", "public.matomo_partitioned*"]);
    run(&mut new, "SELECT matomo_alter_site(1, server => 'analytics')");
    let destinations = "SELECT destination FROM matomo_sites ORDER BY id";
    let expected = ["public.matomo", "public.matomo_partitioned", "public.matomo_partitioned"];
    assert_eq!(texts(&mut new, destinations), expected);
}

#[test]
fn runs_stay_their_owners_when_roles_change_names_after_a_restore() {
    let Scene { fake: _fake, name, db: _db, owner } = scene();
    let mut new = copied(&name, "renaming", &[]);
    run(&mut new, "CALL matomo_sync_all()");
    run(
        &mut new,
        &format!("ALTER ROLE {owner} RENAME TO {owner}_renamed; CREATE ROLE {owner} LOGIN"),
    );
    let mut theirs = connect_as(&format!("{name}_renaming"), &owner);
    assert_eq!(one::<i64>(&mut theirs, "SELECT count(*) FROM matomo_runs"), 0);
    assert_eq!(one::<i64>(&mut theirs, "SELECT count(*) FROM matomo_sites"), 0);
    let owners = "SELECT DISTINCT owner::text FROM matomo_runs";
    assert_eq!(texts(&mut new, owners), [format!("{owner}_renamed")]);
}

#[test]
fn what_another_session_holds_is_found_later() {
    let Scene { fake, name, db: _db, .. } = scene();
    let mut new = copied(&name, "held", &[]);
    let mut other = connect_as(&format!("{name}_held"), "postgres");
    run(&mut other, "BEGIN; SELECT matomo_alter_site(1, every => '5 minutes')");
    run(&mut new, "SET lock_timeout = '1s'");
    run(&mut new, "CALL matomo_sync_all()");
    let synced = "SELECT count(*) FROM matomo_runs WHERE site_id = 2 AND status = 'succeeded'";
    assert_eq!(one::<i64>(&mut new, synced), 2);
    let found = "SELECT count(*) FROM matomo_site_config WHERE destination <> 0::oid";
    assert_eq!(one::<i64>(&mut new, found), 1);
    run(&mut other, "COMMIT");
    assert_resumes(&mut new, &fake);
    assert_eq!(one::<i64>(&mut new, found), 2);
}

/// Everything but dumps knows the schema by its OID, not its name.
#[test]
fn a_schema_that_was_renamed_is_dumped() {
    let fake = serve_two();
    let (name, mut db) = named_database();
    let path = "SET search_path = public, tools, renamed";
    run(
        &mut db,
        &format!(
            "DROP EXTENSION matomo_postgres; CREATE SCHEMA tools;
             CREATE EXTENSION matomo_postgres SCHEMA tools; {path}"
        ),
    );
    server(&mut db, &fake);
    add_site(&mut db, &format!(", start_date => '{FIRST}'"));
    run(&mut db, "CALL matomo_sync_all()");
    run(&mut db, "ALTER SCHEMA tools RENAME TO renamed");
    let before = kept(&mut db);
    assert!(before.len() > 6, "{before:#?}");
    for (suffix, arguments) in [("copy", &[][..]), ("inserts", &["--inserts"][..])] {
        let mut new = copied(&name, suffix, arguments);
        run(&mut new, path);
        assert_eq!(kept(&mut new), before, "{suffix}");
    }
}

#[test]
fn two_sites_with_missing_tables_may_have_the_same_site_but_not_the_same_table_too() {
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
