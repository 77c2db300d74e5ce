//! Who may sync, other roles' objects in the search_path, which have no effect, and two concurrent
//! syncs.

use std::time::{Duration, Instant};

use fake_matomo::{Clock, Fake, Fault, Plan, SitePlan, When, World};
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::report::{all_there, proven, said};
use crate::support::*;

const FIRST: &str = "2026-10-24";
const LAST: &str = "2026-10-26";

fn serve_site() -> Fake {
    serve(world(51, "Europe/Paris", 20, FIRST, LAST))
}

/// The privileges that a sync needs, and no others.
fn may_sync(admin: &mut Client, role: &str) {
    run(admin, &format!("GRANT EXECUTE ON FUNCTION matomo_sync TO {role}"));
}

#[test]
fn names_in_the_search_path_cannot_stand_in_for_those_of_postgres() {
    let fake = serve_site();
    let oracle = oracle(&fake, FIRST, LAST);
    let (name, mut db) = named_database();
    run(&mut db, HOSTILE);
    run(&mut db, "SET search_path = evil, pg_catalog, public");
    // The traps work for careless statements.
    for (trap, what) in [
        ("lower('X'::pg_catalog.text)", "lower"),
        ("'x'::pg_catalog.text = 'y'", "="),
        ("'x'::text", "text"),
    ] {
        let error = error(&mut db, &format!("SELECT {trap}"));
        assert_eq!(error.message(), format!("fell for evil.{what}"));
    }
    let mut clean = shared().connect(&name);
    let mut seen = String::new();
    for table in ["public.matomo", "public.matomo_partitioned"] {
        let sync = Sync::of(&fake, FIRST, LAST).into(table);
        let call = sync.sql().replace("matomo_sync", "public.matomo_sync");
        // The first sync creates the table; the next one updates, inserts and deletes; the last
        // one finds nothing to do.
        run(&mut db, &call);
        assert_equal(&mut clean, table, &oracle);
        run(
            &mut clean,
            &format!(
                "UPDATE {table} SET visitduration = '-1' WHERE action_id LIKE '%7_0';
                 DELETE FROM {table} WHERE action_id LIKE '%8_0';
                 UPDATE {table} SET action_id = idvisit || '_999' WHERE action_id LIKE '%9_0'"
            ),
        );
        run(&mut db, &call);
        seen = all_there(&mut clean, table, &oracle);
        let rows = fingerprint(&mut clean, table);
        run(&mut db, &call);
        assert_eq!(fingerprint(&mut clean, table), rows);
    }
    // Without a start date the newest row is looked for.
    run(
        &mut db,
        &format!(
            "SELECT public.matomo_sync(1, '{}', '{}', destination => 'public.matomo')",
            fake.url(),
            fake.token()
        ),
    );
    run(
        &mut db,
        "SELECT public.matomo_create_table('public.weekly'::pg_catalog.text, true);
         SELECT public.matomo_create_partitions('public.weekly', '2026-11-18', '2026-11-18')",
    );
    let columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'weekly_2026w47'::regclass AND attnum > 0";
    assert_eq!(one::<i64>(&mut clean, columns), 65);
    proven(
        "Privileges",
        "a hostile search_path around a sync",
        "functions, operators, types and tables named like Postgres' and ours stand in front, and raise",
        "none is used: syncs that make a table, update, insert and delete go well",
        &seen,
    );
}

#[test]
fn an_ordinary_role_makes_and_owns_its_tables() {
    let fake = serve_site();
    let (name, mut admin) = named_database();
    let analyst = role(&mut admin);
    may_sync(&mut admin, &analyst);
    run(&mut admin, &format!("CREATE SCHEMA work AUTHORIZATION {analyst}"));
    let mut db = shared().connect_as(&name, &analyst);
    run(&mut db, "SET search_path = work, public");
    for table in ["matomo", "work.matomo_partitioned"] {
        let sync = Sync::of(&fake, FIRST, LAST).into(table);
        sync.run(&mut db);
        assert_equal(&mut db, table, &oracle(&fake, FIRST, LAST));
        assert_eq!(sync.run(&mut db).written(), 0);
    }
    let strangers = "SELECT relname::text FROM pg_class WHERE relnamespace = 'work'::regnamespace AND relowner <> current_user::regrole";
    assert_eq!(texts(&mut db, strangers), [""; 0]);
    let all = "SELECT count(*) FROM pg_class WHERE relnamespace = 'work'::regnamespace AND relkind IN ('r', 'p')";
    assert_eq!(
        one::<i64>(&mut db, all),
        16,
        "two destinations and two weeks, each with companions"
    );
}

#[test]
fn only_those_who_were_allowed_may_sync() {
    let fake = serve_site();
    let (name, mut admin) = named_database();
    let stranger = role(&mut admin);
    run(&mut admin, &format!("CREATE SCHEMA own AUTHORIZATION {stranger}"));
    let mut db = shared().connect_as(&name, &stranger);
    run(&mut db, "SET search_path = own, public");
    let sync = Sync::of(&fake, FIRST, LAST);
    let refused = sync.error(&mut db);
    let found = (refused.code().code(), refused.message());
    assert_eq!(found, ("42501", "permission denied for function matomo_sync"));
    assert_eq!(fake.requests().len(), 0);
    // Functions without network access are open to all.
    run(
        &mut db,
        "SELECT matomo_create_table('weekly', true);
         SELECT matomo_create_partitions('weekly', '2026-11-18', '2026-11-18')",
    );
    // Nothing can be created in another role's schema.
    may_sync(&mut admin, &stranger);
    let refused = Sync::of(&fake, FIRST, LAST).into("public.matomo").error(&mut db);
    assert_eq!(
        (refused.code().code(), refused.message()),
        ("42501", "permission denied for schema public")
    );
    assert_eq!(fake.requests().len(), 0);
}

#[test]
fn rights_on_the_table_are_enough_for_who_does_not_own_it() {
    let fake = serve_site();
    let (name, mut admin) = named_database();
    let loader = role(&mut admin);
    may_sync(&mut admin, &loader);
    run(
        &mut admin,
        "SELECT matomo_create_table('matomo'), matomo_create_table('matomo_partitioned', true);
         SELECT matomo_create_partitions(t, '2026-10-19', '2026-10-26') FROM unnest('{matomo_partitioned,
             matomo_partitioned_visits,matomo_partitioned_conversions,matomo_partitioned_items}'::regclass[]) t",
    );
    let mut db = shared().connect_as(&name, &loader);
    let mut seen = Vec::new();
    for table in ["matomo", "matomo_partitioned"] {
        let sync = Sync::of(&fake, FIRST, LAST).into(table);
        seen.clear();
        run(&mut admin, &format!("GRANT SELECT, INSERT ON {} TO {loader}", all_four(table)));
        let refused = sync.error(&mut db);
        let found = (refused.code().code(), refused.message(), refused.detail(), refused.hint());
        let message = format!("permission denied for table public.{table}");
        let hint = format!("Ask the owner of public.{table} to GRANT them.");
        assert_eq!(
            found,
            ("42501", &*message, Some("Privileges missing: UPDATE, DELETE."), Some(&*hint))
        );
        seen.push(format!("{}. {}", said(&refused), refused.detail().unwrap()));
        run(&mut admin, &format!("GRANT UPDATE, DELETE ON {} TO {loader}", all_four(table)));
        sync.run(&mut db);
        assert_equal(&mut db, table, &oracle(&fake, FIRST, LAST));
        run(
            &mut admin,
            &format!(
                "UPDATE {table} SET city = 'Atlantis'; DELETE FROM {table} WHERE action_id LIKE '%_1'"
            ),
        );
        sync.run(&mut db);
        seen.push(all_there(&mut db, table, &oracle(&fake, FIRST, LAST)));
    }
    // Only the owner can create partitions.
    run(&mut admin, &format!("GRANT CREATE ON SCHEMA public TO {loader}"));
    let make = "SELECT matomo_create_partitions('matomo_partitioned', '2026-11-18', '2026-11-18')";
    let refused = error(&mut db, make);
    let found = (refused.code().code(), refused.message());
    let message = "permission denied to create the partition of table public.matomo_partitioned for the week of 2026-11-16";
    assert_eq!(found, ("42501", message));
    proven(
        "Privileges",
        "a loader without all rights on the table",
        "a role that owns nothing, with `SELECT, INSERT`; then with `UPDATE, DELETE` too; then it wants a new partition",
        "refused with what is missing; then a sync like any other; partitions are the owner's to make",
        &format!("{}; {}", seen.join("; "), said(&refused)),
    );
    assert_eq!(
        one::<i64>(&mut admin, "SELECT count(*) FROM pg_class WHERE relname LIKE '%2026w47'"),
        0
    );
}

#[test]
fn making_partitions_locks_no_reader_and_no_writer_out() {
    let (name, mut maker) = named_database();
    run(
        &mut maker,
        "SELECT matomo_create_table('weekly', true);
         SELECT matomo_create_partitions('weekly', '2026-11-18', '2026-11-18')",
    );
    run(&mut maker, "BEGIN; SELECT matomo_create_partitions('weekly', '2026-11-25', '2026-12-09')");
    let mut other = shared().connect(&name);
    run(
        &mut other,
        "SET lock_timeout = '1s';
         SELECT count(*) FROM weekly; SELECT count(*) FROM weekly_2026w47;
         INSERT INTO weekly (action_id, idvisit, action_timestamp) VALUES ('1_0', 1, '2026-11-18');
         UPDATE weekly SET city = 'Paris'",
    );
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'weekly'::regclass";
    assert_eq!(one::<i64>(&mut other, partitions), 1);
    run(&mut maker, "COMMIT");
    assert_eq!(one::<i64>(&mut other, partitions), 4);
}

#[test]
fn two_first_syncs_at_once_share_the_table() {
    let fake = serve(World::generate(&Plan {
        seed: 52,
        sites: vec![SitePlan::new(1, "UTC", 20), SitePlan::new(2, "Europe/Paris", 20)],
        first_day: day(FIRST),
        last_day: day(LAST),
        now: Clock::Real,
    }));
    for table in ["matomo", "matomo_partitioned"] {
        let name = shared().database();
        let both = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for site in [1, 2] {
                let (name, fake, both) = (&name, &fake, &both);
                scope.spawn(move || {
                    let mut db = shared().connect(name);
                    let sync = Sync { site, ..Sync::of(fake, FIRST, LAST).into(table) };
                    both.wait();
                    sync.run(&mut db);
                });
            }
        });
        let mut all = oracle(&fake, FIRST, LAST);
        all.extend(fake.world().oracle(2, day(FIRST), day(LAST), fake_matomo::ActionTime::Utc));
        assert_equal(&mut shared().connect(&name), table, &all);
    }
}

#[test]
fn a_second_sync_of_the_same_is_refused_at_once() {
    let fake = serve_site();
    let (name, mut db) = named_database();
    run(&mut db, "SELECT matomo_create_table('matomo'); SELECT matomo_create_table('other')");
    let sync = Sync::of(&fake, FIRST, LAST);
    fake.fail(Fault::Hang, When::live().times(1));
    let mut first = shared().connect(&name);
    let cancel = first.cancel_token();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let error = first.batch_execute(&sync.sql()).unwrap_err();
            // The error arrives before the locks are released.
            run(&mut first, "SELECT 1");
            error
        });
        wait_until("the first sync hangs", || {
            fake.requests().iter().any(|seen| seen.fault.is_some())
        });
        let begin = Instant::now();
        let refused = sync.error(&mut db);
        assert!(begin.elapsed() < Duration::from_secs(1), "it waited for {:?}", begin.elapsed());
        let found = (refused.code().code(), refused.message(), refused.hint());
        let message = "site 1 is being synced into \"public.matomo\" by another session";
        let hint = "Wait for it to end, or look for it in pg_stat_activity.";
        assert_eq!(found, ("55P03", message, Some(hint)));
        // Another destination is not locked.
        Sync::of(&fake, FIRST, LAST).into("other").run(&mut db);
        cancel.cancel_query(postgres::NoTls).unwrap();
        assert_eq!(running.join().unwrap().code().unwrap().code(), "57014");
    });
    // The lock ended with the transaction.
    fake.heal();
    sync.run(&mut db);
    assert_equal(&mut db, "matomo", &oracle(&fake, FIRST, LAST));
}

#[test]
fn a_session_sees_what_has_changed_since_its_last_sync() {
    let fake = serve_site();
    let (name, mut db) = named_database();
    let (sync, oracle) = (Sync::of(&fake, FIRST, LAST), oracle(&fake, FIRST, LAST));
    sync.run(&mut db);
    assert_equal(&mut db, "matomo", &oracle);
    for change in [
        // Another type, another key.
        "ALTER TABLE matomo ALTER COLUMN visitduration TYPE text, DROP CONSTRAINT matomo_pkey;
         CREATE UNIQUE INDEX ON matomo (action_id)",
        "CREATE TEMP TABLE pg_class AS TABLE pg_catalog.pg_class WITH NO DATA;
         CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (false)",
        "DISCARD TEMP; DISCARD PLANS; SET search_path = pg_temp, public",
        "RESET ALL; DROP EXTENSION matomo_postgres; CREATE EXTENSION matomo_postgres",
    ] {
        run(&mut db, change);
        run(&mut db, "UPDATE public.matomo SET city = 'Elsewhere' WHERE action_id LIKE '%7_0'");
        assert!(sync.run(&mut db).written() > 0, "{change}");
        assert_equal(&mut shared().connect(&name), "matomo", &oracle);
    }
    run(&mut db, "CREATE SCHEMA other; DROP EXTENSION matomo_postgres; DROP TABLE matomo");
    run(&mut db, "CREATE EXTENSION matomo_postgres SCHEMA other; SET search_path = other, public");
    sync.run(&mut db);
    assert_equal(&mut db, "other.matomo", &oracle);
    // With another role's rights.
    let reader = role(&mut db);
    may_sync(&mut db, &reader);
    run(&mut db, &format!("GRANT USAGE ON SCHEMA other TO {reader}"));
    run(&mut db, &format!("GRANT SELECT ON matomo TO {reader}; SET ROLE {reader}"));
    let refused = sync.error(&mut db);
    assert_eq!(refused.code().code(), "42501", "{}", refused.message());
    run(&mut db, "RESET ROLE; ALTER TABLE matomo DROP COLUMN idvisit CASCADE");
    let refused = sync.error(&mut db);
    assert_eq!(refused.code().code(), "42703", "{}", refused.message());
}
