//! A Matomo that moves to another URL keeps the visits copied under the old one.

use fake_matomo::{Action, Fake};
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::noon::{from, noon};
use crate::support::*;

/// The same Matomo by another name.
fn new_url(fake: &Fake) -> String {
    format!("http://localhost:{}", fake.port())
}

fn sync_there(db: &mut Client, fake: &Fake, arguments: &str) -> Sums {
    let sql = sync_sql(fake, 1, arguments).replace(&fake.url(), &new_url(fake));
    Sums::of(&db.query(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")))
}

fn check_there(noon: &Noon, fake: &Fake, arguments: &str) -> String {
    format!(
        "SELECT sum(extra) || ' ' || sum(missing) || ' ' || sum(stale) || ' ' || sum(repaired) \
         FROM matomo_check(1, '{}', NULL, '{}', '{}'{arguments})",
        noon.text(5),
        new_url(fake),
        fake.token()
    )
}

/// The visitor logs in, so Matomo gives the visit the visitor ID of the user.
fn log_in(fake: &Fake, noon: &Noon, visit: i64) {
    let mut world = fake.world();
    let visit = world.site_mut(1).visit_mut(visit);
    visit.visitor_id = format!("beef{:012x}", visit.id);
    visit.user_id = Some("ann@x.org".to_owned());
    visit.push(Action::page(noon.at(0, "11:00:00"), "https://noon.test/account", "Account"));
}

/// The call that the hint of a refused sync names.
fn change(fake: &Fake, table: &str) -> String {
    format!(
        "SELECT matomo_change_url('public.{table}', '{0}/index.php', '{1}/index.php')",
        fake.url(),
        new_url(fake)
    )
}

fn assert_refused(db: &mut Client, fake: &Fake, table: &str, sql: &str) {
    let message = format!(
        "destination \"public.{table}\" holds the visits of another Matomo, {}/index.php",
        fake.url()
    );
    let hint = format!("If this one has moved: {}.", change(fake, table));
    assert_says(&error(db, sql), "55000", &message, &[], &hint);
}

#[test]
fn a_visit_whose_visitor_logs_in_after_the_move_is_the_same() {
    for (table, style) in [("matomo", "ISO"), ("matomo_partitioned", "German")] {
        let (noon, fake, mut db) = noon(3);
        let into = format!(", destination => '{table}'");
        run(&mut db, &format!("SET datestyle = '{style}'"));
        sync(&mut db, &fake, &(from(&noon, 2) + &into));
        let there = sync_sql(&fake, 1, &into).replace(&fake.url(), &new_url(&fake));
        assert_refused(&mut db, &fake, table, &there);
        run(&mut db, &change(&fake, table));
        log_in(&fake, &noon, 1002);
        let sums = sync_there(&mut db, &fake, &into);
        assert_eq!((sums.inserted, sums.updated), (1, 3), "{table}");
        assert_equal(&mut db, table, &all_of(&fake, 1));
    }
}

#[test]
fn the_days_of_a_matomo_that_has_moved_go_with_it() {
    let (noon, fake, mut db) = noon(6);
    sync(&mut db, &fake, &from(&noon, 5));
    let before = ledger(&mut db, "matomo");
    fake.world().site_mut(1).delete(1021);
    let check = check_there(&noon, &fake, ", repair => true");
    for refused in [&check, &check_there(&noon, &fake, "")] {
        assert_refused(&mut db, &fake, "matomo", refused);
    }
    assert_eq!(ledger(&mut db, "matomo"), before);
    assert_eq!(one::<i64>(&mut db, &change(&fake, "matomo")), 6);
    assert_eq!(ledger(&mut db, "matomo"), before);
    let of = "SELECT string_agg(DISTINCT matomo, ' ') FROM matomo_days";
    assert_eq!(one::<String>(&mut db, of), new_url(&fake) + "/index.php");
    assert_eq!(one::<i64>(&mut db, &change(&fake, "matomo")), 0);

    asked(&fake);
    assert_eq!(one::<String>(&mut db, &check), "1 0 0 1");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    // Days sealed under the old URL are not read again.
    asked(&fake);
    log_in(&fake, &noon, 1003);
    assert_eq!(sync_there(&mut db, &fake, &from(&noon, 5)).written(), 4);
    assert_eq!(asked(&fake).len(), 1);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

/// As 0.1.0 left them. For a day with entries of both URLs, the new URL's entry counts.
#[test]
fn days_of_both_urls_become_those_of_the_new_one() {
    let mut db = database();
    run(&mut db, "SELECT matomo_create_table('matomo'); SELECT matomo_create_table('other')");
    let (old, new) = ("https://a.org/index.php", "https://b.org/m/index.php");
    let entry = |table: &str, url: &str, site: i32, sealed: bool, visits: i64| {
        format!(
            "INSERT INTO matomo_ledger (matomo, idsite, destination, day, sealed, visits, actions, \
             truncated_visits, timezone, read_at) \
             VALUES ('{url}', {site}, '{table}', '2026-03-02', {sealed}, {visits}, 9, 0, 'UTC', now())"
        )
    };
    for (table, url, site, sealed, visits) in [
        ("matomo", old, 1, true, 1),
        ("matomo", new, 1, false, 2),
        ("matomo", old, 2, true, 1),
        ("matomo", "https://c.org/index.php", 2, true, 3),
        ("other", old, 1, true, 1),
    ] {
        run(&mut db, &entry(table, url, site, sealed, visits));
    }
    let moved =
        "SELECT matomo_change_url('matomo', 'https://A.org:443', 'https://b.org/m/index.php')";
    assert_eq!(one::<i64>(&mut db, moved), 1);
    let entries = texts(
        &mut db,
        "SELECT concat_ws(' ', idsite, matomo, sealed, visits) FROM matomo_ledger \
         WHERE destination = 'matomo'::regclass ORDER BY idsite, matomo",
    );
    assert_eq!(
        entries,
        [
            "1 https://b.org/m/index.php f 2",
            "2 https://b.org/m/index.php t 1",
            "2 https://c.org/index.php t 3",
        ]
    );
    assert_eq!(ledger(&mut db, "other"), ["1 2026-03-02 sealed 1 9 0"]);
}

#[test]
fn a_url_is_changed_by_who_may_write_the_table() {
    let (noon, fake, mut db) = noon(2);
    sync(&mut db, &fake, &from(&noon, 1));
    let name: String = one(&mut db, "SELECT current_database()::text");
    let role = role(&mut db);
    let mut theirs = shared().connect_as(&name, &role);
    let change =
        format!("SELECT matomo_change_url('matomo', '{}', 'https://new.test')", fake.url());
    let refused = error(&mut theirs, &change);
    assert_says(&refused, "42501", "permission denied for function matomo_change_url", &[], "");
    run(
        &mut db,
        &format!(
            "GRANT EXECUTE ON FUNCTION matomo_change_url TO {role}; GRANT SELECT, INSERT ON {} TO {role}",
            all_four("matomo")
        ),
    );
    let refused = error(&mut theirs, &change);
    let message = "permission denied for table public.matomo";
    assert_says(&refused, "42501", message, &["Privileges missing: UPDATE, DELETE."], "GRANT");
    run(&mut db, &format!("GRANT UPDATE, DELETE ON {} TO {role}", all_four("matomo")));
    run(&mut theirs, "CREATE TEMP TABLE matomo_ledger (matomo text)");
    assert_eq!(one::<i64>(&mut theirs, &change), 2);
    let of = "SELECT string_agg(DISTINCT matomo, ' ') FROM matomo_days";
    assert_eq!(one::<String>(&mut db, of), "https://new.test/index.php");
}

#[test]
fn a_url_that_cannot_be_changed_is_refused() {
    let (noon, fake, mut db) = noon(2);
    sync(&mut db, &fake, &from(&noon, 1));
    let before = fingerprint(&mut db, "matomo_ledger");
    let (url, now) = (fake.url(), new_url(&fake));
    for (arguments, state, message, hint) in [
        (
            "NULL, 'https://a', 'https://b'",
            "22004",
            "argument \"destination\" must not be null",
            "",
        ),
        ("'matomo', NULL, 'https://b'", "22004", "argument \"old_url\" must not be null", ""),
        ("'matomo', 'https://a', NULL", "22004", "argument \"new_url\" must not be null", ""),
        (
            "'matomo', 'https://a', 'b'",
            "22023",
            "invalid URL of Matomo: it does not begin with https:// or http://",
            "https://analytics.example.org",
        ),
        (
            "'matomo', 'https://a.org', 'https://a.org/index.php'",
            "22023",
            "old_url and new_url are the same Matomo, https://a.org/index.php",
            "",
        ),
        (
            "'matomo_days', 'https://a', 'https://b'",
            "42809",
            "destination \"public.matomo_days\" is a view",
            "",
        ),
        (
            "999999999, 'https://a', 'https://b'",
            "42P01",
            "destination \"999999999\" does not exist",
            "",
        ),
    ] {
        let refused = error(&mut db, &format!("SELECT matomo_change_url({arguments})"));
        assert_says(&refused, state, message, &[], hint);
    }
    let change = format!("SELECT matomo_change_url('matomo', '{url}', '{now}')");
    run(&mut db, "BEGIN READ ONLY");
    let refused = error(&mut db, &change);
    let message = "cannot execute matomo_change_url() in a read-only transaction";
    assert_says(&refused, "25006", message, &[], "");
    run(&mut db, "ROLLBACK");
    // Not during a sync.
    let mut second = shared().connect(&one::<String>(&mut db, "SELECT current_database()::text"));
    run(&mut second, "BEGIN");
    sync(&mut second, &fake, "");
    let refused = error(&mut db, &change);
    let message = "site 1 is being synced into \"public.matomo\" by another session";
    assert_says(&refused, "55P03", message, &[], "Wait for it to end");
    run(&mut second, "ROLLBACK");
    assert_eq!(fingerprint(&mut db, "matomo_ledger"), before);
    assert_eq!(one::<i64>(&mut db, &change), 2);
}

#[test]
fn the_status_of_a_site_that_has_moved_continues() {
    let (noon, fake, mut db) = noon(3);
    crate::support::sites::server(&mut db, &fake);
    let site =
        crate::support::sites::add_site(&mut db, &format!(", start_date => '{}'", noon.text(2)));
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let status = "SELECT concat_ws(' | ', sealed_to, visits_today, synced_to IS NOT NULL, failures) FROM matomo_status";
    let expected = format!("{} | 3 | t | 0", noon.text(1));
    assert_eq!(one::<String>(&mut db, status), expected);
    run(&mut db, &format!("ALTER SERVER analytics OPTIONS (SET url '{}')", new_url(&fake)));
    let change =
        format!("SELECT matomo_change_url('matomo', '{}', '{}')", fake.url(), new_url(&fake));
    assert_eq!(one::<i64>(&mut db, &change), 3);
    assert_eq!(one::<String>(&mut db, status), expected);
    asked(&fake);
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(asked(&fake).len(), 1);
    assert_eq!(one::<String>(&mut db, status), expected);
}
