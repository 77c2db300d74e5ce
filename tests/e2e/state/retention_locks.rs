//! `matomo_drop_before` with concurrent sessions, and for roles without privileges.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::cluster::shared;
use crate::support::*;

const WEEKS: &str = "SELECT matomo_create_table('visits', true);
    SELECT matomo_create_partitions('visits', '2026-01-05', '2026-02-01');
    INSERT INTO visits (action_id, idvisit, action_timestamp)
        SELECT n, n, '2026-01-05'::timestamptz + n * interval '1 hour' FROM generate_series(0, 600) n";

const DROP: &str = "CALL matomo_drop_before('visits', '2026-01-20 00:00+00')";

#[test]
fn readers_are_not_queued_behind_one_that_takes_its_time() {
    let (name, mut db) = named_database();
    run(&mut db, &format!("SET TimeZone = 'UTC'; {WEEKS}"));
    let mut slow = shared().connect(&name);
    run(&mut slow, "BEGIN; SELECT count(*) FROM visits");
    let slow_pid = pid(&mut slow);

    let theirs = name.clone();
    let begin = Instant::now();
    let dropping = thread::spawn(move || {
        error(&mut shared().connect(&theirs), &DROP.replace(")", ", patience => '1.5 s')"))
    });
    let (mut longest, mut reads) = (Duration::ZERO, 0);
    while !dropping.is_finished() {
        let begin = Instant::now();
        one::<i64>(&mut db, "SELECT count(*) FROM visits");
        longest = longest.max(begin.elapsed());
        reads += 1;
        thread::sleep(Duration::from_millis(1));
    }
    let refused = dropping.join().unwrap();
    assert!(begin.elapsed() > Duration::from_millis(1500));
    // A tenth of a second at a time, with room for a busy machine.
    assert!(longest < Duration::from_millis(600), "a reader waited for {longest:?}");
    assert!(longest > Duration::from_millis(50), "nothing ever asked for the lock: {longest:?}");
    assert!(reads > 20, "{reads}");
    assert_says(
        &refused,
        "55P03",
        "could not obtain lock on public.visits",
        &[
            "0 partitions were dropped and 0 actions deleted before.",
            &format!("Held by process {slow_pid}"),
        ],
        "Call it again when",
    );
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM visits"), 601);

    // A session that ends in time is waited for.
    let theirs = name.clone();
    let dropping = thread::spawn(move || run(&mut shared().connect(&theirs), DROP));
    wait_until("the lock is asked for", || {
        one(
            &mut db,
            "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'visits'::regclass)",
        )
    });
    run(&mut slow, "COMMIT");
    dropping.join().unwrap();
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM visits"), 241);
    assert_eq!(
        one::<i64>(
            &mut db,
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'visits'::regclass"
        ),
        2
    );
}

#[test]
fn a_bound_or_an_argument_that_cannot_be_meant_is_refused() {
    let mut db = database();
    run(&mut db, &format!("SET TimeZone = 'UTC'; {WEEKS}"));
    for (arguments, state, message) in [
        ("'visits', '2999-01-01'", "22023", "2999-01-01 00:00:00+00 is in the future"),
        ("'visits', 'infinity'", "22023", "infinity is in the future"),
        ("'visits', NULL", "22004", "argument \"before\" must not be null"),
        ("NULL, '2026-01-01'", "22004", "argument \"destination\" must not be null"),
        (
            "'visits', '2026-01-01', patience => NULL",
            "22004",
            "argument \"patience\" must not be null",
        ),
        (
            "'visits', '2026-01-01', lock_timeout => NULL",
            "22004",
            "argument \"lock_timeout\" must not be null",
        ),
        ("'nowhere', '2026-01-01'", "42P01", "relation \"nowhere\" does not exist"),
        ("'pg_class', '2026-01-01'", "42703", "column d.action_timestamp does not exist"),
    ] {
        let refused = error(&mut db, &format!("CALL matomo_drop_before({arguments})"));
        assert_eq!((refused.code().code(), refused.message()), (state, message));
    }
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM visits"), 601);
}

#[test]
fn inside_a_transaction_block_nothing_happens() {
    let mut db = database();
    run(&mut db, &format!("SET TimeZone = 'UTC'; {WEEKS}"));
    run(
        &mut db,
        &format!("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN {DROP}; END $$"),
    );
    for (statement, message) in [
        (format!("BEGIN; {DROP}"), "matomo_drop_before() cannot run inside a transaction block"),
        ("SELECT f()".to_owned(), "matomo_drop_before() cannot be executed from a function"),
    ] {
        let refused = error(&mut db, &statement);
        assert_says(&refused, "25001", message, &["commits"], "CALL it outside");
        run(&mut db, "ROLLBACK");
    }
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM visits"), 601);
}

#[test]
fn only_who_may_delete_does_and_only_the_owner_drops() {
    let (name, mut db) = named_database();
    let role = role(&mut db);
    run(&mut db, &format!("SET TimeZone = 'UTC'; {WEEKS}"));
    run(
        &mut db,
        &format!(
            "INSERT INTO matomo_ledger VALUES ('https://x.test/index.php', 1, 'visits', '2026-01-05', true, 5, 24, 0, NULL, 'UTC', now());
             GRANT SELECT ON {} TO {role}",
            all_four("visits")
        ),
    );
    let mut theirs = shared().connect_as(&name, &role);
    let refused = error(&mut theirs, DROP);
    assert_says(
        &refused,
        "42501",
        "permission denied for table public.visits",
        &["Privileges missing: DELETE."],
        "Ask the owner",
    );
    // A role without grants on the partitions deletes through the table and drops none.
    let weeks = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'visits'::regclass";
    run(&mut db, &format!("GRANT DELETE ON {} TO {role}", all_four("visits")));
    run(&mut theirs, DROP);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM visits"), 241);
    assert_eq!(one::<i64>(&mut db, weeks), 4);
    assert_eq!(ledger(&mut db, "visits"), ["1 2026-01-05 sealed 0 0 0"]);

    // The same for the owner of the table if a partition has another owner.
    run(
        &mut db,
        &format!(
            "{}; GRANT CREATE, USAGE ON SCHEMA public TO {role}",
            give_all_four("visits", &role)
        ),
    );
    run(&mut theirs, DROP);
    assert_eq!(one::<i64>(&mut db, weeks), 4);
    run(
        &mut db,
        &format!(
            "DO $$ DECLARE p text; BEGIN FOR p IN SELECT inhrelid::regclass FROM pg_inherits
                 WHERE inhparent = 'visits'::regclass LOOP EXECUTE format('ALTER TABLE %s OWNER TO {role}', p); END LOOP; END $$"
        ),
    );
    run(&mut theirs, DROP);
    assert_eq!(one::<i64>(&mut db, weeks), 2);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM visits"), 241);
}

#[test]
fn names_in_the_search_path_and_in_pg_temp_cannot_stand_in() {
    let mut db = database();
    run(&mut db, &format!("SET TimeZone = 'UTC'; {WEEKS}"));
    run(
        &mut db,
        "CREATE SCHEMA evil;
         CREATE TABLE evil.visits AS TABLE visits;
         CREATE TEMP TABLE visits AS TABLE public.visits;
         CREATE TEMP TABLE matomo_ledger (destination oid);
         CREATE FUNCTION evil.boom() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'boom'; END $$;
         CREATE FUNCTION evil.never(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT evil.boom()';
         CREATE FUNCTION evil.plus(bigint, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT evil.boom()::int::bigint';
         CREATE FUNCTION evil.format(text, VARIADIC \"any\") RETURNS text LANGUAGE internal AS 'text_format';
         CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz FROM evil.boom()';
         CREATE FUNCTION evil.pg_sleep(numeric) RETURNS void LANGUAGE sql AS 'SELECT evil.boom()';
         CREATE DOMAIN evil.int8 AS pg_catalog.int8 CHECK (evil.boom());
         CREATE DOMAIN evil.record AS text;
         CREATE OPERATOR evil.>= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.never);
         CREATE OPERATOR evil.> (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.never);
         CREATE OPERATOR evil.< (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.never);
         CREATE OPERATOR evil.+ (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.plus);
         SET search_path = pg_temp, evil, pg_catalog, public",
    );
    run(&mut db, "CALL public.matomo_drop_before('public.visits', '2026-01-20 00:00+00')");
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM public.visits"), 241);
    for other in ["evil.visits", "pg_temp.visits"] {
        assert_eq!(one::<i64>(&mut db, &format!("SELECT count(*) FROM {other}")), 601);
    }
}

/// Begins to remove old rows while another session has a lock on a table and gives names away.
fn drop_while(locked: &str, swap: &str) -> postgres::Client {
    drop_during("", DROP, locked, swap)
}

fn drop_during(before: &str, call: &str, locked: &str, swap: &str) -> postgres::Client {
    let (name, mut db) = named_database();
    run(
        &mut db,
        &format!(
            "SET TimeZone = 'UTC'; {WEEKS};
             CREATE TABLE other AS TABLE visits; {before}"
        ),
    );
    let mut swapping = shared().connect(&name);
    run(&mut swapping, &format!("BEGIN; LOCK TABLE {locked}; {swap}"));
    let call = call.replace(")", ", lock_timeout => '30 s')");
    let mut dropper = shared().connect(&name);
    let dropper_pid = pid(&mut dropper);
    let dropping = thread::spawn(move || run(&mut dropper, &call));
    wait_until("the lock is asked for", || waits(&mut db, dropper_pid));
    run(&mut swapping, "COMMIT");
    dropping.join().unwrap();
    db
}

#[test]
fn a_table_that_gets_the_name_meanwhile_keeps_its_rows() {
    let swap = "ALTER TABLE visits RENAME TO mine; ALTER TABLE other RENAME TO visits";
    let mut db = drop_while("visits", swap);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM visits"), 601);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM mine"), 241);
}

#[test]
fn a_partition_that_gets_the_name_of_an_old_one_meanwhile_stays() {
    let (old, new) = ("visits_2026w02", "visits_2026w05");
    let swap = format!(
        "ALTER TABLE {old} RENAME TO moved; ALTER TABLE {new} RENAME TO {old};
         ALTER TABLE moved RENAME TO {new}"
    );
    let mut db = drop_while(old, &swap);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM visits"), 241);
    assert!(one::<bool>(&mut db, &format!("SELECT to_regclass('{new}') IS NULL")));
}

#[test]
fn a_table_that_is_no_partition_and_gets_the_name_of_one_ends_nothing() {
    let swap =
        "ALTER TABLE visits_2026w02 RENAME TO moved; ALTER TABLE other RENAME TO visits_2026w02";
    let mut db = drop_while("visits_2026w02", swap);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM visits"), 241);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM visits_2026w02"), 601);
}

#[test]
fn an_empty_table_that_gets_the_name_of_a_mixed_partition_keeps_no_old_rows() {
    let swap = "TRUNCATE other; ALTER TABLE visits_2026w02 RENAME TO moved; ALTER TABLE other RENAME TO visits_2026w02";
    let of_one = DROP.replace("'2026-01-20 00:00+00'", "'2026-01-20 00:00+00', 1");
    let sites = "UPDATE visits SET idsite = 1; UPDATE visits SET idsite = 2 WHERE action_id = '1'";
    let mut db = drop_during(sites, &of_one, "visits_2026w02", swap);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM visits WHERE idsite = 1"), 241);
}
