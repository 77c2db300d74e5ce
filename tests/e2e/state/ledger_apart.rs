//! Several Matomos and several sessions with one table: conflicts are refused.

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::noon::{add_site, from, noon};
use crate::support::*;

/// Another Matomo with its own site 2, whose visit IDs do not occur in the first one.
fn another(noon: &Noon) -> Fake {
    let other = serve(Noon::new().world(0));
    add_site(&other, noon, 2, 5000, 1);
    other
}

fn refusal(ours: &Fake, table: &str) -> String {
    format!(
        "destination \"public.{table}\" holds the visits of another Matomo, {}/index.php",
        ours.url()
    )
}

fn assert_refused(db: &mut Client, ours: &Fake, sql: &str) {
    let message = refusal(ours, "matomo");
    assert_says(&error(db, sql), "55000", &message, &[], "Give each Matomo a table of its own");
}

#[test]
fn a_second_matomo_is_refused_whatever_its_sites() {
    let (noon, fake, mut db) = noon(3);
    sync(&mut db, &fake, &from(&noon, 2));
    let other = another(&noon);
    let before = (fingerprint(&mut db, "matomo"), fingerprint(&mut db, "matomo_ledger"));
    asked(&other);
    assert_refused(&mut db, &fake, &sync_sql(&other, 2, &from(&noon, 2)));
    let check = format!(
        "SELECT * FROM matomo_check(2{}, NULL, '{}', '{}')",
        from(&noon, 2),
        other.url(),
        other.token()
    );
    assert_refused(&mut db, &fake, &check);
    crate::support::worker::store(&mut db, "other", &other);
    assert_refused(&mut db, &fake, "SELECT matomo_add_site('other', 2)");
    assert_eq!(asked(&other), ["site"; 3], "it is asked for no visit");
    assert_eq!((fingerprint(&mut db, "matomo"), fingerprint(&mut db, "matomo_ledger")), before);
    // It may use its own table, and another site of the first Matomo may use the first table.
    let apart = format!("{}, destination => 'matomo_partitioned'", from(&noon, 2));
    sync_site(&mut db, &other, 2, &apart);
    assert_equal(&mut db, "matomo_partitioned", &all_of(&other, 2));
    add_site(&fake, &noon, 3, 5000, 1);
    sync_site(&mut db, &fake, 3, &from(&noon, 2));
    let all: Vec<_> = all_of(&fake, 1).into_iter().chain(all_of(&fake, 3)).collect();
    assert_equal(&mut db, "matomo", &all);
}

#[test]
fn one_matomo_may_be_written_in_many_ways() {
    let (noon, fake, mut db) = noon(3);
    let url = fake.url().replace("127.0.0.1", "localhost");
    let as_written =
        |url: &str, arguments: &str| sync_sql(&fake, 1, arguments).replace(&fake.url(), url);
    run(&mut db, &as_written(&url, &from(&noon, 2)));
    let loud = url.replace("http", "HTTP").replace("localhost", "LocalHost") + "/index.php";
    run(&mut db, &as_written(&loud, ""));
    let known = texts(&mut db, "SELECT DISTINCT matomo FROM matomo_days");
    assert_eq!(known, [format!("{url}/index.php")]);
}

#[test]
fn a_destination_may_be_filled_by_another_matomo_once_all_its_tables_are_empty() {
    for table in ["matomo", "matomo_partitioned"] {
        let (noon, fake, mut db) = noon(3);
        let other = another(&noon);
        let into = format!("{}, destination => '{table}'", from(&noon, 2));
        sync(&mut db, &fake, &into);
        let names = "SELECT name FROM matomo_site_details";
        run(
            &mut db,
            &format!(
                "SELECT * FROM matomo_refresh_metadata(1, '{}', '{}', '{table}')",
                fake.url(),
                fake.token()
            ),
        );
        assert_eq!(texts(&mut db, names).len(), 1);
        // The rows of the companions are the first one's, too.
        let [_, visits, conversions, items] = four(table);
        for (emptied, left) in [
            (table, format!("public.{visits}, public.{conversions}, public.{items}")),
            (visits.as_str(), format!("public.{conversions}, public.{items}")),
        ] {
            run(&mut db, &format!("TRUNCATE {emptied}"));
            let refused = error(&mut db, &sync_sql(&other, 2, &into));
            let hint = format!("TRUNCATE {left} as well, or give each Matomo a table of its own");
            assert_says(&refused, "55000", &refusal(&fake, table), &[], &hint);
        }
        run(&mut db, &format!("TRUNCATE {conversions}, {items}"));
        sync_site(&mut db, &other, 2, &into);
        assert_tables_equal(&mut db, table, &all_tables_of(&other, 2));
        assert_eq!(texts(&mut db, names), [""; 0]);
        let known = texts(&mut db, "SELECT DISTINCT matomo FROM matomo_days");
        assert_eq!(known, [other.url() + "/index.php"]);
        assert_eq!(error(&mut db, &sync_sql(&fake, 1, &into)).code().code(), "55000");
    }
}

#[test]
fn a_second_matomo_is_refused_where_only_the_table_of_visits_is_empty() {
    for empty in [
        "TRUNCATE matomo_visits",
        "DROP TABLE matomo_visits; SELECT matomo_create_companions('matomo')",
    ] {
        let (noon, fake, mut db) = noon(3);
        sync(&mut db, &fake, &from(&noon, 2));
        let other = another(&noon);
        run(&mut db, empty);
        let before = (fingerprint(&mut db, "matomo"), ledger(&mut db, "matomo"));
        assert_refused(&mut db, &fake, &sync_sql(&other, 2, &from(&noon, 2)));
        let repair = format!(
            "SELECT * FROM matomo_check(2{}, NULL, '{}', '{}', repair => true)",
            from(&noon, 2),
            other.url(),
            other.token()
        );
        assert_refused(&mut db, &fake, &repair);
        // The same one by another name has moved.
        let moved = sync_sql(&fake, 1, "").replace("127.0.0.1", "localhost");
        let hint = "If this one has moved: SELECT matomo_change_url('public.matomo'";
        assert_says(&error(&mut db, &moved), "55000", &refusal(&fake, "matomo"), &[], hint);
        assert_eq!((fingerprint(&mut db, "matomo"), ledger(&mut db, "matomo")), before, "{empty}");
        sync(&mut db, &fake, &from(&noon, 2));
        assert_tables_equal(&mut db, "matomo", &all_tables_of(&fake, 1));
    }
}

#[test]
fn a_site_of_another_matomo_may_be_registered_for_tables_that_were_emptied() {
    let (noon, fake, mut db) = noon(3);
    sync(&mut db, &fake, &from(&noon, 2));
    let other = another(&noon);
    crate::support::worker::store(&mut db, "other", &other);
    let add = format!("SELECT matomo_add_site('other', 2, '{}')", noon.text(2));
    run(&mut db, "TRUNCATE matomo");
    let hint =
        "TRUNCATE public.matomo_visits, public.matomo_conversions, public.matomo_items as well";
    assert_says(&error(&mut db, &add), "55000", &refusal(&fake, "matomo"), &[], hint);
    run(&mut db, &format!("TRUNCATE {}", all_four("matomo")));
    run(&mut db, &add);
    run(&mut db, "CALL matomo_sync_all()");
    assert_tables_equal(&mut db, "matomo", &all_tables_of(&other, 2));
}

/// Two concurrent first syncs into a table that is new or was emptied.
#[test]
fn of_two_matomos_at_once_the_first_has_the_table() {
    for begins in ["SELECT matomo_create_table('matomo')", "TRUNCATE matomo"] {
        let (noon, fake, mut db) = noon(3);
        let mut second =
            shared().connect(&one::<String>(&mut db, "SELECT current_database()::text"));
        let other = another(&noon);
        let range = from(&noon, 2);
        if begins.starts_with("TRUNCATE") {
            sync(&mut db, &fake, &range);
        }
        run(&mut db, begins);
        run(&mut db, "BEGIN");
        sync(&mut db, &fake, &range);
        let sql = sync_sql(&other, 2, &range);
        let names = format!(
            "SELECT * FROM matomo_refresh_metadata(2, '{}', '{}')",
            other.url(),
            other.token()
        );
        assert_eq!(error(&mut second, &sql).code().code(), "55P03");
        // What was committed before a TRUNCATE says whose the table is.
        let state = if begins.starts_with("TRUNCATE") { "55000" } else { "55P03" };
        assert_eq!(error(&mut second, &names).code().code(), state);
        run(&mut db, "COMMIT");
        for sql in [&sql, &names] {
            assert_eq!(error(&mut second, sql).code().code(), "55000");
        }
        assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    }
}

#[test]
fn a_second_sync_at_once_is_refused_and_another_destination_is_not() {
    let (noon, fake, mut db) = noon(2);
    let mut second = shared().connect(&one::<String>(&mut db, "SELECT current_database()::text"));
    run(&mut db, "SELECT matomo_create_table('matomo')");
    run(&mut db, "BEGIN");
    sync(&mut db, &fake, &from(&noon, 1));
    let refused = error(&mut second, &sync_sql(&fake, 1, &from(&noon, 1)));
    let message = "site 1 is being synced into \"public.matomo\" by another session";
    assert_says(&refused, "55P03", message, &[], "pg_stat_activity");
    let apart = format!("{}, destination => 'matomo_partitioned'", from(&noon, 1));
    assert_eq!(sync(&mut second, &fake, &apart).inserted, 18);
    run(&mut db, "COMMIT");
    assert_eq!(sync(&mut second, &fake, &from(&noon, 1)).written(), 0);
}
