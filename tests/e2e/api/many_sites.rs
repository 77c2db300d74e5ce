//! All sites of a server: listed, registered, and new ones as they come.

use fake_matomo::{Fake, Site};
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::sites::*;
use crate::support::*;

const LIST: &str = "SELECT concat_ws(' ', idsite, name, main_url, timezone, currency, ecommerce, site_type, registered)
    FROM matomo_list_sites('analytics')";
const SITES: &str = "SELECT concat_ws(' ', idsite, name, timezone, destination, owner, start_date, every, retention, enabled, new_sites)
    FROM matomo_sites ORDER BY idsite, id";

/// Three sites.
fn matomo() -> (Fake, Client) {
    let fake = serve_two();
    fake.world().add_site(Site::new(7, "42", "UTC+2"));
    let mut db = database();
    server(&mut db, &fake);
    (fake, db)
}

fn next_day(db: &mut Client) {
    run(db, "UPDATE matomo_site_state SET metadata_on = metadata_on - 1");
    run(db, "CALL matomo_sync_all()");
}

#[test]
fn sites_are_listed_as_the_token_sees_them() {
    let (fake, mut db) = matomo();
    add_site(&mut db, "");
    fake.clear_requests();
    run(&mut db, "BEGIN READ ONLY");
    assert_eq!(
        texts(&mut db, LIST),
        [
            "1 Café & Co http://site1.example.org Europe/Paris EUR f website t",
            "2 Tōkyō http://site2.example.org Asia/Tokyo EUR f website f",
            "7 42 http://site7.example.org UTC+2 EUR f website f",
        ]
    );
    run(&mut db, "COMMIT");
    let requests = fake.requests();
    assert_eq!(requests.len(), 1);
    // Matomo would list a hundred.
    assert_eq!((requests[0].param("filter_limit"), requests[0].param("idSite")), ("-1", ""));
    fake.knobs().hidden_sites.extend([1, 7]);
    assert_eq!(texts(&mut db, LIST).len(), 1);
}

#[test]
fn a_token_that_sees_nothing_is_told_of() {
    let (fake, mut db) = matomo();
    fake.knobs().hidden_sites.extend([1, 2, 7]);
    assert_eq!(texts(&mut db, LIST), [""; 0]);
    let refused = error(&mut db, "SELECT matomo_add_sites('analytics', new_sites => true)");
    assert_says(
        &refused,
        "22023",
        "no registered site of table public.matomo can be the model of new ones",
        &[],
        "view access",
    );
    run(
        &mut db,
        "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token 'wrong-token')",
    );
    let refused = error(&mut db, LIST);
    assert_says(&refused, "28000", "Matomo refused the token", &[], "token_auth");
    assert_eq!(error(&mut db, "SELECT matomo_list_sites(NULL)").code().code(), "22004");
    assert_eq!(error(&mut db, "SELECT matomo_list_sites('nowhere')").code().code(), "42704");
}

#[test]
fn all_sites_are_registered_alike_with_one_request() {
    let (fake, mut db) = matomo();
    run(&mut db, "SELECT matomo_add_site('analytics', 2, destination => 'matomo_partitioned')");
    fake.clear_requests();
    let added = texts(
        &mut db,
        "SELECT concat_ws(' ', id, idsite, name) FROM matomo_add_sites('analytics', '2026-10-24', every => '1 hour',
             retention => '25 months', enabled => false)",
    );
    assert_eq!(added, ["2 1 Café & Co", "3 7 42"]);
    assert_eq!(fake.requests().len(), 1);
    assert_eq!(
        texts(&mut db, SITES),
        [
            "1 Café & Co Europe/Paris matomo postgres 2026-10-24 01:00:00 2 years 1 mon f f",
            "2 Tōkyō Asia/Tokyo matomo_partitioned postgres 00:10:00 t f",
            "7 42 UTC+2 matomo postgres 2026-10-24 01:00:00 2 years 1 mon f f",
        ]
    );
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_add_sites('analytics')"), 0);
    run(&mut db, "CALL matomo_sync_site(2)");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn one_odd_site_does_not_keep_the_others_from_being_registered() {
    let (fake, mut db) = matomo();
    fake.world().site_mut(7).timezone = "Mars/Olympus".to_owned();
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_add_sites('analytics')"), 2);
    for (call, state) in [
        ("matomo_add_sites(NULL)", "22004"),
        ("matomo_add_sites('nowhere')", "42704"),
        ("matomo_add_sites('analytics', every => NULL)", "22004"),
        ("matomo_add_sites('analytics', every => '0')", "22023"),
        ("matomo_add_sites('analytics', destination => 'nothing')", "42P01"),
    ] {
        assert_eq!(error(&mut db, &format!("SELECT {call}")).code().code(), state, "{call}");
    }
    run(&mut db, "SELECT matomo_remove_site(id) FROM matomo_sites");
    let future = error(&mut db, "SELECT matomo_add_sites('analytics', current_date + 3)");
    assert!(future.message().ends_with("is in the future"), "{future:?}");
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_sites"), 0);
}

#[test]
fn new_sites_are_registered_as_they_come_if_a_site_is_marked() {
    let (fake, mut db) = matomo();
    run(
        &mut db,
        "SELECT matomo_add_sites('analytics', '2026-10-24', every => '1 hour', new_sites => true)",
    );
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(texts(&mut db, SITES).len(), 3);
    // One that was removed is not new.
    run(&mut db, "SELECT matomo_remove_site(id) FROM matomo_sites WHERE idsite = 7");
    fake.world().add_site(Site::new(9, "Ninth", "Asia/Tokyo"));
    fake.world().add_site(Site::new(10, "Tenth", "Mars/Olympus"));
    // Once a day.
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(texts(&mut db, SITES).len(), 2);
    next_day(&mut db);
    assert_eq!(
        texts(&mut db, SITES),
        [
            "1 Café & Co Europe/Paris matomo postgres 2026-10-24 01:00:00 t t",
            "2 Tōkyō Asia/Tokyo matomo postgres 2026-10-24 01:00:00 t f",
            "9 Ninth Asia/Tokyo matomo postgres 2026-10-24 01:00:00 t f",
        ]
    );
    let errors = "SELECT metadata_error FROM matomo_status WHERE metadata_error IS NOT NULL";
    assert_eq!(
        texts(&mut db, errors),
        ["site 10 is not registered: unknown timezone \"Mars/Olympus\""]
    );
    fake.world().site_mut(10).timezone = "UTC".to_owned();
    next_day(&mut db);
    assert_eq!(texts(&mut db, SITES).len(), 4);
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(one::<i64>(&mut db, "SELECT sum(failures)::int8 FROM matomo_status"), 0);
    // Until it is called off.
    assert_eq!(one::<i32>(&mut db, "SELECT matomo_ignore_new_sites('analytics')"), 1);
    fake.world().add_site(Site::new(11, "Eleventh", "UTC"));
    next_day(&mut db);
    assert_eq!(texts(&mut db, SITES).len(), 4);
    assert_eq!(one::<i32>(&mut db, "SELECT matomo_ignore_new_sites('analytics')"), 0);
}

#[test]
fn a_site_that_was_registered_by_hand_and_removed_does_not_come_back() {
    let (fake, mut db) = matomo();
    run(&mut db, "SELECT matomo_add_sites('analytics', '2026-10-24', new_sites => true)");
    fake.world().add_site(Site::new(9, "Ninth", "Asia/Tokyo"));
    run(&mut db, "SELECT matomo_remove_site(matomo_add_site('analytics', 9))");
    next_day(&mut db);
    assert_eq!(texts(&mut db, SITES).len(), 3);
}

#[test]
fn what_one_owner_removes_is_still_new_to_another() {
    let (fake, _) = matomo();
    let (name, mut admin, owner) = database_and_role();
    server_for(&mut admin, &fake, &owner);
    run(
        &mut admin,
        &format!(
            "GRANT EXECUTE ON FUNCTION matomo_add_sites TO {owner};
             CREATE USER MAPPING FOR postgres SERVER analytics OPTIONS (token '{}')",
            fake.token()
        ),
    );
    let mut db = connect_as(&name, &owner);
    let all = format!(
        "SELECT matomo_add_sites('analytics', '2026-10-24', '{owner}.matomo', new_sites => true)"
    );
    run(&mut db, &format!("SELECT matomo_create_table('{owner}.matomo'); {all}"));
    fake.world().add_site(Site::new(9, "Ninth", "Asia/Tokyo"));
    run(&mut admin, "SELECT matomo_remove_site(matomo_add_site('analytics', 9))");
    run(&mut admin, "CALL matomo_sync_all()");
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_sites WHERE idsite = 9"), 1);
}

#[test]
fn new_sites_come_into_the_table_that_was_given() {
    let (_fake, db) = matomo();
    let name = one::<String>(&mut { db }, "SELECT current_database()::text");
    let (mut db, said) = connect_with_notices(crate::support::cluster::shared(), &name, "postgres");
    let add = |table: &str| {
        format!("SELECT matomo_add_sites('analytics', destination => '{table}', new_sites => true)")
    };
    run(&mut db, "SELECT matomo_add_sites('analytics')");
    let refused = error(&mut db, &add("matomo_partitioned"));
    let message =
        "no registered site of table public.matomo_partitioned can be the model of new ones";
    assert_says(&refused, "22023", message, &[], "table of your registered sites");
    run(&mut db, &add("matomo"));
    let site: i32 = one(&mut db, "SELECT id FROM matomo_sites WHERE new_sites");
    assert_eq!(
        said.notices_of("new sites"),
        [format!("matomo: new sites are registered like registered site {site}")]
    );
}

#[test]
fn a_rollup_gets_no_retention_with_all_sites() {
    let (fake, db) = matomo();
    fake.world().site_mut(2).kind = "rollup".to_owned();
    let name = one::<String>(&mut { db }, "SELECT current_database()::text");
    let (mut db, said) = connect_with_notices(crate::support::cluster::shared(), &name, "postgres");
    let all = "SELECT count(*) FROM matomo_add_sites('analytics', retention => '1 year', new_sites => true)";
    assert_eq!(one::<i64>(&mut db, all), 2);
    let warnings = said.warnings();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert_says(warning, "22023", "site 2 is a roll-up, which has no visits of its own", &[], "");
    let mut ninth = Site::new(9, "Ninth", "Asia/Tokyo");
    ninth.kind = "rollup".to_owned();
    fake.world().add_site(ninth);
    fake.world().add_site(Site::new(10, "Tenth", "Asia/Tokyo"));
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(
        texts(&mut db, "SELECT idsite::text FROM matomo_sites ORDER BY 1"),
        ["1", "10", "7"]
    );
    let told = "SELECT metadata_error FROM matomo_status WHERE metadata_error IS NOT NULL";
    assert_eq!(texts(&mut db, told), ["site 9 is a roll-up, which has no visits of its own"]);
    // It comes once there is no retention.
    run(
        &mut db,
        "SELECT matomo_alter_site(id, retention => '0') FROM matomo_sites WHERE new_sites",
    );
    next_day(&mut db);
    assert_eq!(texts(&mut db, "SELECT name FROM matomo_sites WHERE idsite = 9").len(), 1);
}

#[test]
fn a_mark_is_its_owners() {
    let (fake, _) = matomo();
    let (name, mut admin, owner) = database_and_role();
    server_for(&mut admin, &fake, &owner);
    run(
        &mut admin,
        &format!(
            "GRANT CREATE ON SCHEMA public TO {owner};
                  GRANT EXECUTE ON FUNCTION matomo_add_sites, matomo_list_sites TO {owner}"
        ),
    );
    let other = role(&mut admin);
    server_for(&mut admin, &fake, &other);
    let mut db = connect_as(&name, &owner);
    run(
        &mut db,
        "SELECT matomo_add_sites('analytics', '2026-10-24', 'public.matomo', new_sites => true)",
    );
    let mut stranger = connect_as(&name, &other);
    for call in ["matomo_list_sites('analytics')", "matomo_add_sites('analytics')"] {
        let refused = error(&mut stranger, &format!("SELECT {call}"));
        assert_eq!(refused.code().code(), "42501", "{call}");
    }
    run(&mut admin, &format!("GRANT EXECUTE ON FUNCTION matomo_list_sites TO {other}"));
    // Another's sites are not shown.
    let registered = "SELECT count(*) FROM matomo_list_sites('analytics') WHERE registered";
    assert_eq!([one::<i64>(&mut stranger, registered), one(&mut db, registered)], [0, 3]);
    assert_eq!(one::<i32>(&mut stranger, "SELECT matomo_ignore_new_sites('analytics')"), 0);
    fake.world().add_site(Site::new(9, "Ninth", "Asia/Tokyo"));
    // Whoever calls.
    run(&mut admin, "CALL matomo_sync_all()");
    next_day(&mut admin);
    let found = texts(&mut db, SITES);
    assert_eq!(found.len(), 4);
    assert!(found[3].starts_with(&format!("9 Ninth Asia/Tokyo matomo {owner}")), "{found:?}");
    // To another Matomo it does not apply.
    let elsewhere = serve_two();
    crate::support::worker::store(&mut admin, "elsewhere", &elsewhere);
    run(
        &mut admin,
        "SELECT matomo_alter_site(1, server => 'elsewhere', destination => 'matomo_partitioned', owner => 'postgres')",
    );
    let orders = "SELECT count(*) FROM matomo_sites WHERE new_sites";
    assert_eq!(one::<i64>(&mut admin, orders), 0);
}

#[test]
fn two_at_once_register_each_site_once() {
    let (fake, mut db) = matomo();
    run(&mut db, "SELECT matomo_create_table('one'); SELECT matomo_create_table('two')");
    let name: String = one(&mut db, "SELECT current_database()");
    let add = |table: &str, more: &str| {
        format!("SELECT FROM matomo_add_sites('analytics', '2026-10-24', '{table}'{more})")
    };
    let all = "SELECT count(*) FROM matomo_sites";
    // While the first is not committed, another call comes, then the daily look for new ones.
    let beside = |db: &mut Client, first: &str, second: String| {
        let mut other = shared().connect(&name);
        let backend = pid(&mut other);
        run(db, &format!("BEGIN; {first}"));
        let second = std::thread::spawn(move || run(&mut other, &second));
        let mut watcher = shared().connect(&name);
        wait_until("the second waits", || waits(&mut watcher, backend));
        run(db, "COMMIT");
        second.join().unwrap();
        one::<i64>(db, all)
    };
    assert_eq!(beside(&mut db, &add("one", ", new_sites => true"), add("two", "")), 3);
    run(&mut db, "CALL matomo_sync_all()");
    fake.world().add_site(Site::new(9, "Ninth", "Asia/Tokyo"));
    run(&mut db, "UPDATE matomo_site_state SET metadata_on = metadata_on - 1");
    assert_eq!(beside(&mut db, &add("two", ""), "CALL matomo_sync_all()".to_owned()), 4);
    assert_eq!(
        texts(&mut db, "SELECT metadata_error FROM matomo_status WHERE metadata_error IS NOT NULL"),
        [""; 0]
    );
}

/// Sites of a role count as registered for those who have its rights.
#[test]
fn who_has_the_rights_of_another_waits_for_it_but_not_for_long() {
    let (fake, mut db) = matomo();
    let name: String = one(&mut db, "SELECT current_database()");
    let [lower, upper] = [(); 2].map(|()| role(&mut db));
    run(&mut db, &format!("GRANT {lower} TO {upper}"));
    let mut add = Vec::new();
    for role in [&lower, &upper] {
        server_for(&mut db, &fake, role);
        run(&mut db, &format!("GRANT EXECUTE ON FUNCTION matomo_add_sites TO {role}"));
        let mut theirs = shared().connect_as(&name, role);
        run(&mut theirs, &format!("SELECT matomo_create_table('{role}.mine')"));
        let call = "SELECT count(*) FROM matomo_add_sites('analytics', '2026-10-24'";
        add.push(format!("{call}, '{role}.mine')"));
    }
    let [lower_adds, upper_adds] = [add.remove(0), add.remove(0)];
    let mut below = shared().connect_as(&name, &lower);
    let mut above = shared().connect_as(&name, &upper);
    let backend = pid(&mut above);

    run(&mut below, "BEGIN");
    assert_eq!(one::<i64>(&mut below, &lower_adds), 3);
    let sql = upper_adds.clone();
    let second = std::thread::spawn(move || one::<i64>(&mut above, &sql));
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {backend} AND wait_event_type = 'Extension'"
    );
    wait_until("the second waits", || {
        assert!(!second.is_finished(), "it does not wait");
        one::<i64>(&mut db, &waits) == 1
    });
    run(&mut below, "COMMIT");
    assert_eq!(second.join().unwrap(), 0);

    // One that stays open hinders nobody, and whose rights it lacks, it does not wait for.
    run(&mut db, "SELECT matomo_remove_site(id) FROM matomo_sites");
    let mut above = shared().connect_as(&name, &upper);
    run(&mut above, "BEGIN");
    assert_eq!(one::<i64>(&mut above, &upper_adds), 3);
    run(&mut below, "BEGIN; SET lock_timeout = '1 ms'");
    assert_eq!(one::<i64>(&mut below, &lower_adds), 3);
    run(&mut above, "ROLLBACK; SET lock_timeout = '300 ms'");
    assert_eq!(one::<i64>(&mut above, &upper_adds), 3);
    run(&mut below, "COMMIT");
}
