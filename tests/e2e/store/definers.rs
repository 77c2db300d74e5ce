//! A sync within another role's SECURITY DEFINER function.

use crate::support::cluster::shared;
use crate::support::report::{all_there, proven, said};
use crate::support::*;

const FIRST: &str = "2026-10-24";
const LAST: &str = "2026-10-26";

#[test]
fn a_security_definer_function_syncs_with_its_owners_rights_only() {
    let (name, mut admin) = named_database();
    let (definer, caller) = (role(&mut admin), role(&mut admin));
    let fake = serve(world(54, "UTC", 5, FIRST, LAST));
    run(
        &mut admin,
        &format!(
            "GRANT EXECUTE ON FUNCTION matomo_sync TO {definer};
             CREATE SCHEMA own AUTHORIZATION {definer};
             GRANT USAGE ON SCHEMA own TO {caller}"
        ),
    );
    let mut db = shared().connect_as(&name, &definer);
    run(
        &mut db,
        &format!(
            "SET search_path = own, public;
             CREATE FUNCTION own.fetch(url text) RETURNS bigint LANGUAGE sql SECURITY DEFINER
             SET search_path = own, public, pg_temp AS
             $$ SELECT sum(visits)::bigint FROM matomo_sync(1, url, '{}', '{FIRST}', '{LAST}') $$",
            fake.token()
        ),
    );
    let mut db = shared().connect_as(&name, &caller);
    // The caller's tables, which the definer must not use instead of its own: their triggers would
    // run with the definer's rights.
    run(
        &mut db,
        &format!(
            "CREATE TEMP TABLE matomo (LIKE matomo_action); CREATE UNIQUE INDEX ON matomo (action_id);
             CREATE FUNCTION pg_temp.evil() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE 'evil as %', current_user; END $$;
             CREATE TRIGGER evil BEFORE INSERT ON matomo FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.evil();
             GRANT ALL ON matomo TO {definer}; CREATE TEMP TABLE matomo_ledger (x int)"
        ),
    );
    let trapped = error(&mut db, &format!("SELECT own.fetch('{}')", fake.url()));
    assert_eq!(trapped.code().code(), "42501", "{trapped:?}");
    let begin = "permission denied for table pg_temp_";
    assert!(trapped.message().starts_with(begin), "{trapped:?}");
    assert!(trapped.message().ends_with(".matomo"), "{trapped:?}");
    assert_eq!(trapped.detail(), Some("Privileges missing: ownership."));
    let trap = said(&trapped);
    run(&mut db, "DROP TABLE matomo");
    let direct = error(&mut db, &Sync::of(&fake, FIRST, LAST).sql());
    let denied = (direct.code().code(), direct.message());
    assert_eq!(denied, ("42501", "permission denied for function matomo_sync"));
    let visits: i64 = one(&mut db, &format!("SELECT own.fetch('{}')", fake.url()));
    assert!(visits > 0);
    let lent = all_there(&mut admin, "own.matomo", &oracle(&fake, FIRST, LAST));
    let owner = "SELECT concat_ws(' ', tablename, tableowner) FROM pg_tables WHERE schemaname = 'own' ORDER BY 1";
    let owned = ["matomo", "matomo_conversions", "matomo_items", "matomo_visits"];
    assert_eq!(texts(&mut admin, owner), owned.map(|table| format!("{table} {definer}")));
    let read = error(&mut db, "SELECT * FROM own.matomo");
    let denied = (read.code().code(), read.message());
    assert_eq!(denied, ("42501", "permission denied for table matomo"));
    proven(
        "Crash",
        "SECURITY DEFINER",
        "a function of another role's that calls `matomo_sync`, which its caller may not",
        "it syncs into a table of the definer's; the caller gets to see or call nothing more",
        &format!("{lent}; the caller's own: {}; {}", said(&direct), said(&read)),
    );
    let schema = trap.split(' ').next_back().unwrap();
    assert!(schema.starts_with("pg_temp_"), "{trap}");
    proven(
        "Crash",
        "SECURITY DEFINER, a trap",
        "the same; the caller has a temporary table `matomo` with a trigger, and lets the definer write to it",
        "the trigger does not run with the definer's rights",
        &trap.replace(schema, "pg_temp_N.matomo"),
    );
}
