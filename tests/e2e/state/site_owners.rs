//! Owners of registered sites, what other roles may do with these sites, and how a dump keeps
//! owners.

use postgres::Client;

use crate::support::cluster::shared;
use crate::support::report::proven;
use crate::support::sites::*;
use crate::support::*;

/// The numbers of sites, runs and states that a role sees.
fn seen(db: &mut Client) -> (i64, i64, i64) {
    let count = |db: &mut Client, view: &str| one(db, &format!("SELECT count(*) FROM {view}"));
    (count(db, "matomo_sites"), count(db, "matomo_runs"), count(db, "matomo_status"))
}

#[test]
fn a_site_is_its_owners_and_nobody_elses() {
    let fake = serve_two();
    let (name, mut admin, owner) = database_and_role();
    let (stranger, member, watcher) = (role(&mut admin), role(&mut admin), role(&mut admin));
    server_for(&mut admin, &fake, &owner);
    server_for(&mut admin, &fake, &stranger);
    may_have_sites(&mut admin, &member);
    run(&mut admin, &format!("GRANT {owner} TO {member}; GRANT pg_monitor TO {watcher}"));
    let mut db = connect_as(&name, &owner);
    run(&mut db, &format!("SET search_path = {owner}, public"));
    let site = add_site(&mut db, ", start_date => '2026-10-24'");
    run(&mut db, "CALL public.matomo_sync_all()");
    assert_eq!(seen(&mut db), (1, 1, 1));
    assert_equal(&mut admin, &format!("{owner}.matomo"), &all_of(&fake, 1));

    let mut db = connect_as(&name, &stranger);
    assert_eq!(seen(&mut db), (0, 0, 0));
    let hint = format!("SET ROLE {owner}");
    let message = format!("permission denied for registered site {site}");
    for sql in [
        format!("SELECT matomo_alter_site({site}, enabled => false)"),
        format!("SELECT matomo_alter_site({site}, owner => '{stranger}')"),
        format!("SELECT matomo_remove_site({site})"),
        format!("CALL matomo_sync_site({site})"),
        format!("DO $$ BEGIN PERFORM public.matomo_run_step({site}, false); END $$"),
    ] {
        assert_says(&error(&mut db, &sql), "42501", &message, &[], &hint);
    }
    fake.clear_requests();
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(asked(&fake), [""; 0]);
    for table in ["matomo_site_config", "matomo_site_state", "matomo_run_log", "matomo_ledger"] {
        let refused = error(&mut db, &format!("SELECT * FROM {table}"));
        assert_eq!(refused.message(), format!("permission denied for table {table}"));
    }
    // A table takes each site of a server only once, whoever registers it.
    run(
        &mut admin,
        &format!(
            "GRANT ALL ON SCHEMA {owner} TO {stranger}; GRANT ALL ON ALL TABLES IN SCHEMA {owner} TO {stranger}"
        ),
    );
    let again = format!("SELECT matomo_add_site('analytics', 1, destination => '{owner}.matomo')");
    let message_again =
        format!("site 1 of server \"analytics\" is already registered for \"{owner}.matomo\"");
    let of_another = "name another destination";
    assert_says(&error(&mut db, &again), "23505", &message_again, &["another role"], of_another);
    run(
        &mut admin,
        &format!(
            "REVOKE ALL ON SCHEMA {owner} FROM {stranger}; REVOKE ALL ON {owner}.matomo FROM {stranger}"
        ),
    );
    // A role that monitors sees everything and can do nothing.
    let mut db = connect_as(&name, &watcher);
    assert_eq!(seen(&mut db), (1, 1, 1));
    assert_eq!(error(&mut db, "CALL matomo_sync_all()").code().code(), "42501");
    assert_says(
        &error(&mut db, &format!("SELECT matomo_remove_site({site})")),
        "42501",
        &message,
        &[],
        &hint,
    );
    // A member acts for the owner, without a mapping of its own.
    let mut db = connect_as(&name, &member);
    assert_eq!(seen(&mut db), (1, 1, 1));
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(
        one::<String>(
            &mut db,
            "SELECT concat_ws(' ', username, owner, status) FROM matomo_runs ORDER BY runid DESC LIMIT 1"
        ),
        format!("{member} {owner} succeeded")
    );
    // A member cannot give the site to a role of which it is not a member.
    assert_says(
        &error(&mut db, &format!("SELECT matomo_alter_site({site}, owner => '{stranger}')")),
        "42501",
        &format!("must be member of role \"{stranger}\""),
        &[],
        "Name a role that you may SET ROLE to.",
    );
    // The new owner needs rights on the table and a mapping.
    let give = |to: &str| format!("SELECT matomo_alter_site({site}, owner => '{to}')");
    let refused = error(&mut admin, &give(&stranger));
    assert_eq!(refused.message(), format!("permission denied for table {owner}.matomo"));
    run(
        &mut admin,
        &format!(
            "GRANT USAGE ON SCHEMA {owner} TO {stranger}; GRANT ALL ON ALL TABLES IN SCHEMA {owner} TO {stranger}"
        ),
    );
    run(&mut admin, &give(&stranger));
    let mut db = connect_as(&name, &stranger);
    // Earlier runs still belong to the former owner.
    assert_eq!(seen(&mut db), (1, 0, 1));
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    run(&mut db, &format!("SELECT matomo_remove_site({site})"));
    assert_eq!(seen(&mut admin), (0, 3, 0));
}

/// Since Postgres 16 a membership may lack SET ROLE.
#[test]
fn a_site_is_given_only_to_a_role_that_the_giver_may_become() {
    let (name, mut admin, owner) = database_and_role();
    let other = role(&mut admin);
    let fake = serve_two();
    server_for(&mut admin, &fake, &owner);
    server_for(&mut admin, &fake, &other);
    let mut db = connect_as(&name, &owner);
    let site = add_site(&mut db, "");
    run(
        &mut db,
        &format!(
            "GRANT USAGE ON SCHEMA {owner} TO {other}; GRANT ALL ON {} TO {other}",
            all_four("matomo")
        ),
    );
    let give = format!("SELECT matomo_alter_site({site}, owner => '{other}')");
    let mut grants = vec!["GRANT {other} TO {owner}"];
    if since(&mut admin, 16) {
        grants = vec![
            "GRANT {other} TO {owner} WITH SET FALSE",
            "GRANT {other} TO {owner} WITH SET TRUE",
        ];
    }
    for grant in grants {
        let refused = error(&mut db, &give);
        assert_eq!(refused.message(), format!("must be member of role \"{other}\""));
        run(&mut admin, &grant.replace("{other}", &other).replace("{owner}", &owner));
    }
    run(&mut db, &give);
    let now = format!("SELECT owner::text FROM matomo_sites WHERE id = {site}");
    assert_eq!(one::<String>(&mut admin, &now), other);
}

#[test]
fn a_site_that_is_given_away_meanwhile_is_not_changed_by_its_old_owner() {
    let (name, mut admin, owner) = database_and_role();
    let other = role(&mut admin);
    let fake = serve_two();
    server_for(&mut admin, &fake, &owner);
    server_for(&mut admin, &fake, &other);
    let mut db = connect_as(&name, &owner);
    let site = add_site(&mut db, "");
    run(&mut db, "SELECT matomo_create_table('trap')");
    let trap = all_four("trap");
    run(
        &mut db,
        &format!(
            "GRANT USAGE ON SCHEMA {owner} TO {other}; GRANT ALL ON {}, {trap} TO {other}",
            all_four("matomo")
        ),
    );
    let give = format!("SELECT matomo_alter_site({site}, owner => '{other}')");
    // In a transaction it would see the same at each look.
    let mut watcher = connect_as(&name, &owner);
    let statements = [
        format!("SELECT matomo_alter_site({site}, destination => 'trap')"),
        format!("SELECT matomo_remove_site({site})"),
    ];
    for (n, statement) in statements.into_iter().enumerate() {
        run(&mut admin, &format!("SELECT matomo_alter_site({site}, owner => '{owner}')"));
        // The first waits for a table, the second for the site itself.
        if n == 0 {
            run(&mut db, "BEGIN; LOCK TABLE trap");
        } else {
            run(&mut admin, "BEGIN");
            run(&mut admin, &give);
        }
        let mut session = connect_as(&name, &owner);
        let pid = one::<i32>(&mut session, "SELECT pg_backend_pid()");
        let changing = std::thread::spawn(move || session.batch_execute(&statement));
        wait_until("it waits", || changing.is_finished() || waits(&mut watcher, pid));
        if changing.is_finished() {
            panic!("{:?}", changing.join());
        }
        if n == 0 {
            run(&mut admin, &give);
            run(&mut db, "COMMIT");
        } else {
            run(&mut admin, "COMMIT");
        }
        let refused = changing.join().unwrap().unwrap_err();
        let refused = refused.as_db_error().unwrap();
        assert_eq!(refused.message(), format!("permission denied for registered site {site}"));
        let now =
            format!("SELECT concat(owner, ' ', destination) FROM matomo_sites WHERE id = {site}");
        assert_eq!(one::<String>(&mut admin, &now), format!("{other} {owner}.matomo"));
    }
}

#[test]
fn only_granted_roles_reach_the_network() {
    let (name, mut admin, owner) = database_and_role();
    let stranger = role(&mut admin);
    let fake = serve_two();
    server_for(&mut admin, &fake, &owner);
    let mut db = connect_as(&name, &owner);
    let site = add_site(&mut db, "");
    run(
        &mut admin,
        &format!(
            "ALTER ROLE {stranger} NOINHERIT; GRANT {owner} TO {stranger};
             GRANT USAGE ON FOREIGN SERVER analytics TO {stranger}"
        ),
    );
    let plain = role(&mut admin);
    let mut db = connect_as(&name, &plain);
    fake.clear_requests();
    let mut refused = Vec::new();
    for (sql, message) in [
        (
            "SELECT matomo_sync(1, server => 'analytics')".to_owned(),
            "permission denied for function matomo_sync",
        ),
        (
            "SELECT matomo_check(1, '2026-01-01', '2026-01-01', server => 'analytics')".to_owned(),
            "permission denied for function matomo_check",
        ),
        (
            "SELECT matomo_add_site('analytics', 1)".to_owned(),
            "permission denied for function matomo_add_site",
        ),
        (
            format!("SELECT matomo_alter_site({site})"),
            "permission denied for function matomo_alter_site",
        ),
        (
            format!("CALL matomo_sync_site({site})"),
            "permission denied for procedure matomo_sync_site",
        ),
        ("CALL matomo_sync_all()".to_owned(), "permission denied for procedure matomo_sync_all"),
        // The functions behind the procedures do not get around this.
        (
            format!("SELECT matomo_run_step({site}, false)"),
            "matomo_sync_site() cannot be executed from a function",
        ),
        (
            format!("DO $$ BEGIN PERFORM matomo_run_step({site}, false); END $$"),
            "permission denied for procedure matomo_sync_site",
        ),
        (
            "CREATE SERVER s FOREIGN DATA WRAPPER matomo OPTIONS (url 'https://a.example.org')"
                .to_owned(),
            "permission denied for foreign-data wrapper matomo",
        ),
    ] {
        let error = error(&mut db, &sql);
        assert_eq!(error.message(), message, "{sql}");
        refused.push(error.code().code().to_owned());
    }
    let requests = asked(&fake);
    assert_eq!(requests, [""; 0]);
    let count = |state: &str| refused.iter().filter(|found| *found == state).count();
    assert_eq!((count("42501"), count("25001")), (8, 1), "{refused:?}");
    proven(
        "Privileges",
        "the network, for a role without grants",
        &format!(
            "each of the {} ways to have the server ask somebody, those included that the procedures are made of",
            refused.len()
        ),
        "refused; nobody is asked",
        &format!(
            "{} × `42501`, {} × `25001`; {} requests",
            count("42501"),
            count("25001"),
            requests.len()
        ),
    );
    // A role does not see the sites of a role whose rights it does not inherit.
    let mut db = connect_as(&name, &stranger);
    assert_eq!(seen(&mut db), (0, 0, 0));
}

#[test]
fn sites_and_their_runs_survive_dump_and_restore() {
    let fake = serve_two();
    let (name, mut old, gone) = database_and_role();
    server(&mut old, &fake);
    server_for(&mut old, &fake, &gone);
    let first = add_site(
        &mut old,
        ", start_date => '2026-10-24', retention => '9 years', every => '1 min'",
    );
    run(&mut old, "CREATE SCHEMA w; SELECT matomo_create_table('w.dropped')");
    let dropped: i32 =
        one(&mut old, "SELECT matomo_add_site('analytics', 2, destination => 'w.dropped')");
    let kept: i32 = one(
        &mut old,
        "SELECT matomo_add_site('analytics', 2, destination => 'matomo_partitioned')",
    );
    assert_eq!((first, dropped, kept), (1, 2, 3));
    run(&mut old, "CALL matomo_sync_all()");
    run(&mut old, "DROP TABLE w.dropped");
    let contents = [
        "SELECT s::text FROM matomo_sites s WHERE id <> 2 ORDER BY id",
        "SELECT r::text FROM matomo_runs r ORDER BY runid",
        "SELECT s::text FROM (SELECT site_id, synced_to, sealed_to, failures, next_run FROM matomo_status) s WHERE site_id <> 2 ORDER BY site_id",
    ];
    let copy = format!("{name}_copy");
    run(&mut old, &format!("CREATE DATABASE {copy}"));
    let program = shared().program("pg_dump").get_program().to_owned();
    let bindir = std::path::Path::new(&program).parent().unwrap().display().to_string();
    let copied = std::process::Command::new("bash")
        .args(["-o", "pipefail", "-c"])
        .arg(format!("{bindir}/pg_dump -Fc {name} | {bindir}/pg_restore -1 -e -d {copy}"))
        .envs([("PGHOST", "127.0.0.1"), ("PGUSER", "postgres")])
        .env("PGPORT", shared().port().to_string())
        .status();
    assert!(copied.unwrap().success());
    let mut new = shared().connect(&copy);
    for sql in contents {
        assert_eq!(texts(&mut new, sql), texts(&mut old, sql));
        assert!(!texts(&mut new, sql).is_empty());
    }
    // They resume, and new ones get new IDs.
    fake.clear_requests();
    run(&mut new, "CALL matomo_sync_all()");
    let requests = asked(&fake);
    assert!(!requests.is_empty());
    let sealed = requests.iter().filter(|line| line.starts_with("day 2026-10-2")).count();
    assert_eq!(sealed, 0, "{requests:?}");
    assert_equal(&mut new, "matomo", &all_of(&fake, 1));
    run(&mut new, "SELECT matomo_create_table('w.fresh')");
    let next: i32 =
        one(&mut new, "SELECT matomo_add_site('analytics', 2, destination => 'w.fresh')");
    assert_eq!(next, 4);
    let runs: i64 = one(&mut new, "SELECT count(DISTINCT runid) FROM matomo_runs");
    assert_eq!(runs, 6);
    let last = "SELECT status FROM matomo_runs WHERE site_id = 2 ORDER BY runid DESC LIMIT 1";
    assert_eq!(texts(&mut new, last), ["failed"], "the site whose table was dropped");
    proven(
        "Lifecycle",
        "a dump with sites and runs",
        "`pg_dump -Fc`, `pg_restore -1 -e`; three sites, one of whose tables was dropped, with runs and a ledger",
        "sites, runs and states are there; sealed days are not asked for again; new IDs follow the old",
        &format!("{sealed} requests for sealed days; site {next} and {runs} runs after it"),
    );
}

/// Who shares a token with others has it tried again for their own sites, and holds up no others.
#[test]
fn a_refused_token_of_public_is_tried_again_by_each_owner_alone() {
    let fake = serve_two();
    let (name, mut admin, first) = database_and_role();
    let second = role(&mut admin);
    server_for(&mut admin, &fake, &first);
    run(
        &mut admin,
        &format!(
            "DROP USER MAPPING FOR {first} SERVER analytics;
             GRANT USAGE ON FOREIGN SERVER analytics TO {second};
             CREATE USER MAPPING FOR PUBLIC SERVER analytics OPTIONS (token '{}')",
            fake.token()
        ),
    );
    may_have_sites(&mut admin, &second);
    let mut sites = Vec::new();
    for owner in [&first, &second] {
        let mut db = connect_as(&name, owner);
        run(&mut db, &format!("SET search_path = {owner}, public"));
        sites.push((add_site(&mut db, ", start_date => '2026-10-24'"), db));
    }
    let mapping = "ALTER USER MAPPING FOR PUBLIC SERVER analytics OPTIONS";
    run(&mut admin, &format!("{mapping} (SET token 'revoked')"));
    fake.clear_requests();
    for (site, db) in &mut sites {
        for _ in 0..2 {
            let refused = error(db, &format!("CALL public.matomo_sync_site({site})"));
            assert_eq!(refused.code().code(), "28000");
        }
    }
    assert_eq!(asked(&fake).len(), 4, "once for each owner");
    let [(site, first), (other, second)] = &mut sites[..] else { unreachable!() };
    run(first, &format!("BEGIN; SELECT matomo_alter_site({site})"));
    run(&mut admin, &format!("{mapping} (SET token '{}')", fake.token()));
    run(second, &format!("CALL public.matomo_sync_site({other})"));
    run(second, &format!("SELECT matomo_alter_site({other}, every => '1 hour')"));
    run(first, "COMMIT");
    run(first, &format!("CALL public.matomo_sync_site({site})"));
    for (_, db) in &mut sites {
        assert_equal(db, "matomo", &all_of(&fake, 1));
    }
}
