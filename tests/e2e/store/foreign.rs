//! Destinations whose rows lie in another database, wholly or in part, through postgres_fdw.

use postgres::Client;

use crate::support::cluster::{Cluster, is_gone, shared};
use crate::support::engines::{create_parted, create_server, foreign_partition};
use crate::support::noon::from;
use crate::support::worker::{register, store};
use crate::support::*;

/// A destination of eight days, of which the first four lie elsewhere.
fn parted(noon: &Noon) -> (Client, Client) {
    let mut db = database();
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    let until = chrono::DateTime::from_timestamp(noon.at(3, "00:00:00"), 0).unwrap();
    let there = foreign_partition(&mut db, "visits", &until.to_rfc3339());
    (db, there)
}

#[test]
fn a_table_with_a_foreign_partition_is_a_destination_as_any_other() {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let (mut db, mut there) = parted(&noon);
    let into = format!("{}, destination => 'visits', force => true", from(&noon, 7));
    assert_eq!(sync(&mut db, &fake, &into).inserted, 72);
    assert_tables_equal(&mut db, "visits", &all_tables_of(&fake, 1));
    let count = "SELECT count(*) FROM old";
    assert_eq!(one::<i64>(&mut there, count), 36, "those of four days are there");
    for ago in [1, 6] {
        let mut world = fake.world();
        let site = world.site_mut(1);
        site.visit_mut(1001 + 10 * ago).actions.truncate(2);
        site.visit_mut(1002 + 10 * ago).visitor_type = "returning".to_owned();
        site.delete(1003 + 10 * ago);
    }
    sync(&mut db, &fake, &into);
    let check = format!(
        "SELECT sum(repaired)::bigint FROM matomo_check(1, '{}', '{}', '{}', '{}', 'visits', true, true)",
        noon.text(7),
        noon.text(0),
        fake.url(),
        fake.token()
    );
    assert_eq!(one::<i64>(&mut db, &check), 2, "two visits are gone");
    assert_tables_equal(&mut db, "visits", &all_tables_of(&fake, 1));
    assert_eq!(sync(&mut db, &fake, &into).written(), 0);
    let visitor: String = one(&mut db, "SELECT max(visitorid) FROM visits WHERE idvisit = 1062");
    let erased: i64 =
        one(&mut db, &format!("SELECT sum(actions)::bigint FROM matomo_forget('{visitor}')"));
    assert!(erased >= 3);
    assert_eq!(one::<i64>(&mut there, &format!("{count} WHERE visitorid = '{visitor}'")), 0);
    let before = chrono::DateTime::from_timestamp(noon.at(5, "00:00:00"), 0).unwrap().to_rfc3339();
    run(&mut db, &format!("CALL matomo_drop_before('visits', '{before}')"));
    assert_eq!(one::<i64>(&mut there, &format!("{count} WHERE action_timestamp < '{before}'")), 0);
    assert!(one::<i64>(&mut there, count) > 0);
}

#[test]
fn a_sync_killed_between_the_commits_of_two_databases_is_completed_by_the_next() {
    // Commits that nobody confirms wait, with the lock that those of notifications need.
    let cluster = Cluster::start_with(
        "shared_preload_libraries = 'matomo_postgres'\nsynchronous_standby_names = 'nobody'\nsynchronous_commit = local\n",
    );
    let name = cluster.database();
    let mut db = cluster.connect(&name);
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let until = chrono::DateTime::from_timestamp(noon.at(3, "00:00:00"), 0).unwrap();
    let other = cluster.database();
    let count = "SELECT count(*) FROM old";
    let mut there = cluster.connect(&other);
    run(&mut there, "CREATE TABLE old (LIKE matomo_action)");
    create_server(&mut db, cluster.port(), &other);
    create_parted(&mut db, "visits", &until.to_rfc3339());
    let into = format!("{}, destination => 'visits'", from(&noon, 7));
    let begin = format!("BEGIN; {}; NOTIFY done; COMMIT", sync_sql(&fake, 1, &into));
    let (session, postmaster) = (pid(&mut db), cluster.postmaster());
    std::thread::scope(|scope| {
        let mut blocker = cluster.connect(&name);
        scope.spawn(move || {
            let never = "SET synchronous_commit = on; CREATE TABLE held (); NOTIFY never";
            assert!(blocker.batch_execute(never).is_err(), "the server is killed");
        });
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        wait_until("the lock is held", || one::<i64>(&mut there, waits) == 1);
        let sync = scope.spawn(|| db.batch_execute(&begin).is_err());
        wait_until("the other database has committed", || one::<i64>(&mut there, count) == 36);
        // SAFETY: signals to the server that this test has started.
        unsafe {
            libc::kill(postmaster, libc::SIGSTOP);
            libc::kill(session, libc::SIGKILL);
            libc::kill(postmaster, libc::SIGKILL);
        }
        assert!(sync.join().unwrap(), "the server is killed");
    });
    wait_until("all that was killed is gone", || is_gone(postmaster) && is_gone(session));
    cluster.start_again();
    let (mut db, mut there) = (cluster.connect(&name), cluster.connect(&other));
    let here = "SELECT count(*) FROM visits";
    assert_eq!((one::<i64>(&mut there, count), one::<i64>(&mut db, here)), (36, 36));
    assert_eq!(sync(&mut db, &fake, &into).inserted, 36);
    assert_tables_equal(&mut db, "visits", &all_tables_of(&fake, 1));
}

#[test]
fn old_rows_of_a_foreign_partition_go_with_the_rights_on_the_table() {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let (mut db, mut there) = parted(&noon);
    sync(&mut db, &fake, &format!("{}, destination => 'visits'", from(&noon, 7)));
    let role = role(&mut db);
    run(
        &mut db,
        &format!(
            "GRANT ALL ON {} TO {role};
             CREATE USER MAPPING FOR {role} SERVER there OPTIONS (user 'postgres', password_required 'false');
             SET ROLE {role}",
            all_four("visits")
        ),
    );
    let before = chrono::DateTime::from_timestamp(noon.at(1, "00:00:00"), 0).unwrap().to_rfc3339();
    run(&mut db, &format!("CALL matomo_drop_before('visits', '{before}')"));
    assert_eq!(one::<i64>(&mut there, "SELECT count(*) FROM old"), 0);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM visits"), 18);
}

#[test]
fn repair_deletes_where_old_weeks_can_only_be_read() {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let (mut db, _there) = parted(&noon);
    sync(&mut db, &fake, &format!("{}, destination => 'visits'", from(&noon, 7)));
    run(&mut db, "ALTER FOREIGN TABLE visits_old OPTIONS (ADD updatable 'false')");
    fake.world().site_mut(1).delete(1013);
    fake.world().site_mut(1).visit_mut(1012).actions.truncate(1);
    let check = |first: u64| {
        format!(
            "SELECT sum(repaired)::bigint FROM matomo_check(1, '{}', '{}', '{}', '{}', 'visits', true, true)",
            noon.text(first),
            noon.text(0),
            fake.url(),
            fake.token()
        )
    };
    assert_eq!(one::<i64>(&mut db, &check(2)), 2);
    assert_tables_equal(&mut db, "visits", &all_tables_of(&fake, 1));
    // What lies there is not taken for repaired.
    fake.world().site_mut(1).delete(1063);
    let refused = error(&mut db, &check(7));
    assert!(refused.message().contains("does not allow deletes"), "{refused:?}");
}

#[test]
fn what_is_stored_twice_where_no_index_prevents_that_is_made_one() {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let (mut db, mut there) = parted(&noon);
    let into = format!("{}, destination => 'visits', force => true", from(&noon, 7));
    sync(&mut db, &fake, &into);
    run(&mut there, "INSERT INTO old SELECT * FROM old WHERE idvisit = 1061");
    run(&mut db, "INSERT INTO visits SELECT * FROM visits WHERE action_id = '1011_1'");
    let sums = sync(&mut db, &fake, &into);
    // Both rows go, and one comes.
    assert_eq!((sums.inserted, sums.updated, sums.deleted), (4, 0, 8));
    assert_tables_equal(&mut db, "visits", &all_tables_of(&fake, 1));
}

#[test]
fn stored_rows_that_have_lost_their_key_are_replaced() {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let (mut db, mut there) = parted(&noon);
    let into = format!("{}, destination => 'visits', force => true", from(&noon, 7));
    sync(&mut db, &fake, &into);
    run(
        &mut there,
        "ALTER TABLE old ALTER action_id DROP NOT NULL, ALTER action_timestamp DROP NOT NULL;
         UPDATE old SET action_id = NULL WHERE action_id = '1061_1';
         UPDATE old SET action_timestamp = NULL WHERE action_id = '1052_2';
         UPDATE old SET action_id = NULL, action_timestamp = NULL WHERE idvisit = 1043",
    );
    let sums = sync(&mut db, &fake, &into);
    assert_eq!((sums.inserted, sums.updated, sums.deleted), (5, 0, 5));
    assert_tables_equal(&mut db, "visits", &all_tables_of(&fake, 1));
    assert_eq!(sync(&mut db, &fake, &into).written(), 0);
}

#[test]
fn visits_of_two_sites_are_not_written_at_once_where_no_index_keeps_them_unique() {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    crate::support::noon::add_site(&fake, &noon, 2, 5000, 8);
    let (mut db, _there) = parted(&noon);
    let into = format!("{}, destination => 'visits'", from(&noon, 7));
    run(&mut db, "BEGIN");
    sync(&mut db, &fake, &into);
    let name: String = one(&mut db, "SELECT current_database()::text");
    let mut other = shared().connect(&name);
    run(&mut other, "SET lock_timeout = '100ms'");
    let refused = error(&mut other, &sync_sql(&fake, 2, &into));
    let message = "site 1 is being synced into \"public.visits\" by another session";
    assert_says(&refused, "55P03", message, &[], "Wait for it to end");
    // As registered sites do, it waits for a step of the other.
    run(&mut other, "RESET lock_timeout");
    let second_pid = pid(&mut other);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| sync_site(&mut other, &fake, 2, &into).inserted);
        wait_until("it waits", || waits(&mut db, second_pid));
        run(&mut db, "COMMIT");
        assert!(second.join().unwrap() > 0);
    });
}

#[test]
fn a_foreign_table_is_a_destination_and_one_that_only_reads_is_refused() {
    let noon = Noon::new();
    let fake = serve(noon.world(4));
    let (name, mut there) = named_database();
    run(&mut there, "CREATE TABLE actions (LIKE matomo_action, PRIMARY KEY (idvisit, action_id))");
    let mut db = database();
    create_server(&mut db, shared().port(), &name);
    let columns: String = one(
        &mut db,
        "SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)
         FROM pg_attribute WHERE attrelid = 'matomo_action'::regclass AND attnum > 0",
    );
    run(
        &mut db,
        &format!(
            "CREATE FOREIGN TABLE visits ({columns}) SERVER there OPTIONS (table_name 'actions', batch_size '100');
             SELECT matomo_create_companions('visits');
             CREATE FOREIGN TABLE reads ({columns}) SERVER there OPTIONS (table_name 'actions', updatable 'false')"
        ),
    );
    let into = |table| format!("{}, destination => '{table}', force => true", from(&noon, 3));
    assert_eq!(sync(&mut db, &fake, &into("visits")).inserted, 36);
    fake.world().site_mut(1).visit_mut(1012).actions.truncate(2);
    assert_eq!(sync(&mut db, &fake, &into("visits")).deleted, 1);
    assert_tables_equal(&mut db, "visits", &all_tables_of(&fake, 1));
    asked(&fake);
    let refused = error(&mut db, &sync_sql(&fake, 1, &into("reads")));
    let message = "destination \"public.reads\" is a foreign table whose server does not allow INSERT, UPDATE and DELETE";
    assert_says(&refused, "42809", message, &[], "the name of a table, partitioned or not");
    assert_eq!(asked(&fake), [""; 0], "refused before anything is fetched");
}

#[test]
fn errors_of_the_other_server_name_it_and_say_what_to_check() {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let (mut db, mut there) = parted(&noon);
    let name: String = one(&mut db, "SELECT current_database()::text");
    let role = role(&mut there);
    let into = format!("{}, destination => 'visits', force => true", from(&noon, 7));
    store(&mut db, "analytics", &fake);
    let site = register(&mut db, "'analytics', 1, destination => 'visits'");
    let hint = "may log in and write where a foreign server keeps rows of public.visits; see docs/scale.md";
    sync(&mut db, &fake, &into);
    let old = format!("CALL matomo_drop_before('visits', '{}')", noon.text(6));
    // Each in a session of its own, as connections are kept.
    let fails = |change: &str, state: &str, words: &str| {
        run(&mut shared().connect(&name), change);
        for call in [
            &sync_sql(&fake, 1, &into),
            "SELECT matomo_forget('nobody')",
            "SELECT matomo_forget('nobody', only_in => 'visits')",
            &old,
        ] {
            let failed = error(&mut shared().connect(&name), call);
            assert!(failed.message().contains(words), "{call}: {failed:?}");
            assert_says(&failed, state, failed.message(), &[], hint);
        }
    };
    fails("ALTER SERVER there OPTIONS (SET port '1')", "08001", "could not connect to server");
    fails(
        &format!(
            "ALTER SERVER there OPTIONS (SET port '{}');
             ALTER USER MAPPING FOR CURRENT_USER SERVER there OPTIONS (SET user '{role}')",
            shared().port()
        ),
        "42501",
        "permission denied for table old",
    );
    // It may read, but not delete.
    run(&mut there, &format!("GRANT SELECT ON old TO {role}"));
    let refused = error(&mut shared().connect(&name), &old);
    assert_says(&refused, "42501", "permission denied for table old", &[], hint);
    run(&mut there, &format!("REVOKE SELECT ON old FROM {role}"));
    let check = format!(
        "SELECT matomo_check(1, '{}', NULL, '{}', '{}', 'visits')",
        noon.text(7),
        fake.url(),
        fake.token()
    );
    assert!(error(&mut shared().connect(&name), &check).hint().unwrap_or_default().contains(hint));
    fails("DROP USER MAPPING FOR CURRENT_USER SERVER there", "42704", "user mapping not found");
    // Only superusers may have a mapping without a password.
    let owner = crate::support::role(&mut db);
    run(
        &mut db,
        &format!(
            "GRANT ALL ON {} TO {owner}; GRANT USAGE ON FOREIGN SERVER there TO {owner};
             CREATE USER MAPPING FOR {owner} SERVER there OPTIONS (user '{role}')",
            all_four("visits")
        ),
    );
    let refused =
        error(&mut connect_as(&name, &owner), "SELECT matomo_forget('x', only_in => 'visits')");
    assert_says(&refused, "2F003", refused.message(), &["password"], hint);
    // A registered site's, too.
    let failed = error(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert!(failed.hint().unwrap_or_default().contains(hint), "{failed:?}");
    let told: String = one(&mut db, "SELECT hint FROM matomo_runs WHERE status = 'failed'");
    assert!(told.contains(hint), "{told}");
}

#[test]
fn a_foreign_table_that_is_partitioned_on_its_server_is_refused_before_other_rows_are_changed() {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let (mut db, mut there) = parted(&noon);
    let middle = chrono::DateTime::from_timestamp(noon.at(5, "00:00:00"), 0).unwrap().to_rfc3339();
    run(
        &mut there,
        &format!(
            "DROP TABLE old; CREATE TABLE old (LIKE matomo_action) PARTITION BY RANGE (action_timestamp);
             CREATE TABLE old_1 PARTITION OF old FOR VALUES FROM (MINVALUE) TO ('{middle}');
             CREATE TABLE old_2 PARTITION OF old FOR VALUES FROM ('{middle}') TO (MAXVALUE)"
        ),
    );
    let into = format!("{}, destination => 'visits', force => true", from(&noon, 7));
    sync(&mut db, &fake, &into);
    let before = fingerprint(&mut db, "visits");
    let visitor: String = one(&mut db, "SELECT min(visitorid) FROM visits");
    for call in [
        sync_sql(&fake, 1, &into),
        format!("SELECT matomo_forget('{visitor}')"),
        format!("CALL matomo_drop_before('visits', '{middle}')"),
    ] {
        let refused = error(&mut db, &call);
        let message = "foreign table public.visits_old is a partitioned table on its server";
        assert_says(&refused, "42809", message, &[], "Make a foreign table of each partition");
    }
    assert_eq!(fingerprint(&mut db, "visits"), before);
}

#[test]
fn rows_that_the_other_server_does_not_insert_fail_the_sync_also_beside_a_trigger_here() {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let (mut db, mut there) = parted(&noon);
    run(
        &mut db,
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER audit AFTER INSERT ON visits FOR EACH STATEMENT EXECUTE FUNCTION audit()",
    );
    run(
        &mut there,
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER no BEFORE INSERT ON old FOR EACH ROW EXECUTE FUNCTION no()",
    );
    let into = format!("{}, destination => 'visits'", from(&noon, 7));
    let failed = error(&mut db, &sync_sql(&fake, 1, &into));
    assert_eq!(failed.code().code(), "0A000", "{failed:?}");
    assert_eq!(ledger(&mut db, "visits"), [""; 0]);
    run(&mut there, "DROP TRIGGER no ON old");
    sync(&mut db, &fake, &into);
    assert_tables_equal(&mut db, "visits", &all_tables_of(&fake, 1));
}

#[test]
fn an_erasure_on_another_server_does_not_miss_what_was_stored_since_the_transaction_began() {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let (mut db, _there) = parted(&noon);
    sync(&mut db, &fake, &format!("{}, destination => 'visits'", from(&noon, 7)));
    let visitor: String = one(&mut db, "SELECT max(visitorid) FROM visits WHERE idvisit = 1062");
    let forget = format!("SELECT matomo_forget('{visitor}')");
    for look in [
        "BEGIN; SELECT count(*) FROM visits".to_owned(),
        format!(
            "DO $$ BEGIN PERFORM FROM visits LIMIT 1; PERFORM matomo_forget('{visitor}'); END $$"
        ),
        "SELECT f.* FROM (SELECT DISTINCT visitorid FROM visits WHERE idvisit = 1062) v
             CROSS JOIN LATERAL matomo_forget(v.visitorid) f"
            .to_owned(),
    ] {
        let is_block = look.starts_with("BEGIN");
        if is_block {
            run(&mut db, &look);
        }
        let refused = error(&mut db, if is_block { &forget } else { &look });
        let message = "this transaction sees an older state of foreign server \"there\"";
        assert_says(&refused, "0A000", message, &[], "Call it in a transaction of its own");
        run(&mut db, "ROLLBACK");
    }
    run(&mut db, &forget);
    let left = format!("SELECT count(*) FROM visits WHERE visitorid = '{visitor}'");
    assert_eq!(one::<i64>(&mut db, &left), 0);
}

#[test]
fn an_erasure_on_another_server_finds_what_the_sync_stores_for_which_it_waits() {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let (mut db, _there) = parted(&noon);
    let into = format!("{}, destination => 'visits', force => true", from(&noon, 7));
    sync(&mut db, &fake, &into);
    let visitor: String = one(&mut db, "SELECT max(visitorid) FROM visits WHERE idvisit = 1062");
    let mut more = fake.world().site_mut(1).visit_mut(1062).clone();
    more.id = 9001;
    fake.world().site_mut(1).add(more);
    run(&mut db, &format!("BEGIN; {}", sync_sql(&fake, 1, &into)));
    let left = format!("SELECT count(*) FROM visits WHERE visitorid = '{visitor}'");
    let of_person: i64 = one(&mut db, &left);
    let name: String = one(&mut db, "SELECT current_database()");
    let mut officer = shared().connect(&name);
    let forget = format!("SELECT actions FROM matomo_forget('{visitor}')");
    let erasing = std::thread::spawn(move || one::<i64>(&mut officer, &forget));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(!erasing.is_finished());
    run(&mut db, "COMMIT");
    assert_eq!([erasing.join().unwrap(), one(&mut db, &left)], [of_person, 0]);
}

/// From 18 on, the extension's own has an argument.
#[test]
fn an_erasure_calls_no_function_without_arguments_in_place_of_one_of_postgres_fdw() {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let (mut db, _there) = parted(&noon);
    sync(&mut db, &fake, &format!("{}, destination => 'visits', force => true", from(&noon, 7)));
    let is_own = "SELECT count(*) > 0 FROM pg_proc WHERE proname = 'postgres_fdw_get_connections' AND pronargs = 0";
    if !one::<bool>(&mut db, is_own) {
        run(
            &mut db,
            "CREATE FUNCTION public.postgres_fdw_get_connections() RETURNS TABLE (server_name text)
             LANGUAGE plpgsql AS $$ BEGIN RAISE 'called'; END $$",
        );
    }
    let visitor: String = one(&mut db, "SELECT min(visitorid) FROM visits");
    run(&mut db, &format!("SELECT * FROM matomo_forget('{visitor}')"));
    let left = format!("SELECT count(*) FROM visits WHERE visitorid = '{visitor}'");
    assert_eq!(one::<i64>(&mut db, &left), 0);
}
