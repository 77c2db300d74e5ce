//! Registered sites: what registering requires, and what can be changed.

use crate::support::sites::*;
use crate::support::*;

/// A site as its owner sees it.
const SITE: &str =
    "SELECT concat_ws(', ', server, idsite, name, timezone, destination, owner = current_user,
    start_date, every, retention, enabled) FROM matomo_sites WHERE id = ";

#[test]
fn a_site_is_registered_with_what_matomo_knows_of_it() {
    let fake = serve_two();
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, "");
    assert_eq!(site, 1);
    assert_eq!(asked(&fake), ["site"]);
    let found: String = one(&mut db, &format!("{SITE} 1"));
    assert_eq!(found, "analytics, 1, Café & Co, Europe/Paris, matomo, t, 00:10:00, t");
    let whole = "SELECT matomo_add_site('analytics', 2, start_date => '2026-10-25', destination => 'matomo_partitioned',
        every => '1 hour', retention => '25 months', enabled => false)";
    assert_eq!(one::<i32>(&mut db, whole), 2);
    let found: String = one(&mut db, &format!("{SITE} 2"));
    assert_eq!(
        found,
        "analytics, 2, Tōkyō, Asia/Tokyo, matomo_partitioned, t, 2026-10-25, 01:00:00, 2 years 1 mon, f"
    );
    assert_eq!(
        one::<String>(
            &mut db,
            "SELECT relkind::text FROM pg_class WHERE oid = 'matomo_partitioned'::regclass"
        ),
        "p"
    );
    // The same site in two tables and two sites in one table are allowed.
    run(
        &mut db,
        "SELECT matomo_add_site('analytics', 1, destination => 'matomo_partitioned'), matomo_add_site('analytics', 2)",
    );
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_sites"), 4);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 0);
}

#[test]
fn what_cannot_be_registered_is_refused() {
    let fake = serve_two();
    fake.knobs().hidden_sites.insert(2);
    let mut db = database();
    server(&mut db, &fake);
    run(&mut db, "CREATE TEMP TABLE short (LIKE matomo_action, UNIQUE (action_id)); CREATE VIEW v AS SELECT 1 AS one;
                  CREATE SERVER bare FOREIGN DATA WRAPPER matomo OPTIONS (url 'https://a.example.org')");
    let none = |what: &str| format!("argument \"{what}\" must not be null");
    for (arguments, state, message, hint) in [
        ("NULL, 1", "22004", none("server"), ""),
        ("'analytics', NULL", "22004", none("site"), ""),
        ("'analytics', 1, every => NULL", "22004", none("every"), ""),
        ("'analytics', 0", "22023", "site 0 is no ID of a site".to_owned(), "the first is 1"),
        (
            "'analytics', 1, every => '999 ms'",
            "22023",
            "every is out of range".to_owned(),
            "100 years",
        ),
        (
            "'analytics', 1, every => '300000 years'",
            "22023",
            "every is out of range".to_owned(),
            "100 years",
        ),
        (
            "'analytics', 1, retention => '100 years 1 day'",
            "22023",
            "retention is out of range".to_owned(),
            "100 years",
        ),
        (
            "'analytics', 1, every => '-1 day'",
            "22023",
            "every is out of range".to_owned(),
            "1 second to 100 years",
        ),
        (
            "'analytics', 1, retention => '-1 day'",
            "22023",
            "retention is out of range".to_owned(),
            "100 years",
        ),
        (
            "'analytics', 1, start_date => '1989-12-31'",
            "22023",
            "start_date is out of range".to_owned(),
            "1990-01-01",
        ),
        (
            "'nowhere', 1",
            "42704",
            "server \"nowhere\" does not exist".to_owned(),
            "CREATE SERVER nowhere",
        ),
        (
            "'bare', 1",
            "28000",
            "user mapping not found for \"postgres\"".to_owned(),
            "CREATE USER MAPPING FOR postgres SERVER bare",
        ),
        (
            "'analytics', 1, destination => 'nothing'",
            "42P01",
            "destination \"nothing\" does not exist".to_owned(),
            "matomo_create_table('nothing')",
        ),
        (
            "'analytics', 1, destination => 'v'",
            "42809",
            "destination \"public.v\" is a view".to_owned(),
            "partitioned or not",
        ),
        ("'analytics', 3", "22023", "Matomo does not know the site".to_owned(), "Manage"),
        (
            "'analytics', 2",
            "28000",
            "the token has no access to the site".to_owned(),
            "view access",
        ),
    ] {
        let refused = error(&mut db, &format!("SELECT matomo_add_site({arguments})"));
        assert_says(&refused, state, &message, &[], hint);
    }
    let temporary =
        error(&mut db, "SELECT matomo_add_site('analytics', 1, destination => 'short')");
    assert_eq!(temporary.code().code(), "42809");
    assert!(temporary.message().ends_with(".short\" is a temporary table"), "{temporary:?}");
    assert_eq!(temporary.hint(), Some("Name a permanent table."));
    let tomorrow =
        error(&mut db, "SELECT matomo_add_site('analytics', 1, start_date => current_date + 2)");
    assert!(tomorrow.message().ends_with("is in the future"), "{tomorrow:?}");
    run(
        &mut db,
        "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token 'wrong')",
    );
    assert_says(
        &error(&mut db, "SELECT matomo_add_site('analytics', 1)"),
        "28000",
        "Matomo refused the token",
        &[],
        "token_auth",
    );
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_sites"), 0);
}

#[test]
fn a_site_is_registered_once_for_a_table() {
    let fake = serve_two();
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, "");
    let other: i32 = one(&mut db, "SELECT matomo_add_site('analytics', 2)");
    let hint = "Change it with matomo_alter_site; the view matomo_sites has its ID.";
    let message = "site 1 of server \"analytics\" is already registered for \"public.matomo\"";
    fake.clear_requests();
    for sql in [
        "SELECT matomo_add_site('analytics', 1)".to_owned(),
        "SELECT matomo_add_site('analytics', 1, destination => 'public.matomo')".to_owned(),
        format!("SELECT matomo_alter_site({other}, site => 1)"),
    ] {
        assert_says(&error(&mut db, &sql), "23505", message, &[], hint);
    }
    run(&mut db, &format!("SELECT matomo_alter_site({site}, site => 1, destination => 'matomo')"));
}

#[test]
fn a_site_is_changed_where_something_is_named() {
    let fake = serve_two();
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, ", start_date => '2026-10-24', retention => '1 year'");
    let whole = "analytics, 1, Café & Co, Europe/Paris, matomo, t, 2026-10-24, 00:10:00, 1 year, t";
    let mut alter = |arguments: &str| -> String {
        run(&mut db, &format!("SELECT matomo_alter_site({site}{arguments})"));
        one(&mut db, &format!("{SITE} {site}"))
    };
    fake.clear_requests();
    assert_eq!(alter(""), whole);
    assert_eq!(
        alter(", every => '1 s', enabled => false"),
        whole.replace("00:10:00", "00:00:01").replace("1 year, t", "1 year, f")
    );
    assert_eq!(asked(&fake), [""; 0]);
    // A change of the site asks Matomo for it.
    let other = "analytics, 2, Tōkyō, Asia/Tokyo, matomo_partitioned, t, 2026-10-25, 00:00:01, f";
    assert_eq!(
        alter(
            ", site => 2, destination => 'matomo_partitioned', start_date => '2026-10-25', retention => '0'"
        ),
        other
    );
    assert_eq!(asked(&fake), ["site"]);
    // The table is renamed later.
    run(
        &mut db,
        "CREATE SCHEMA archive; ALTER TABLE matomo_partitioned SET SCHEMA archive; ALTER TABLE archive.matomo_partitioned RENAME TO \"All visits\"",
    );
    let found: String = one(&mut db, &format!("{SITE} {site}"));
    assert_eq!(found, other.replace("matomo_partitioned", "archive.\"All visits\""));

    for (call, state, message, hint) in [
        (
            format!("matomo_alter_site({site}, server => 'nowhere')"),
            "42704",
            "server \"nowhere\" does not exist",
            "CREATE SERVER",
        ),
        (
            format!("matomo_alter_site({site}, site => 3)"),
            "22023",
            "Matomo does not know the site",
            "",
        ),
        (
            format!("matomo_alter_site({site}, owner => 'nobody')"),
            "42704",
            "role \"nobody\" does not exist",
            "Name a role that you may SET ROLE to.",
        ),
        (
            format!("matomo_alter_site({site}, start_date => '2999-01-01')"),
            "22023",
            "start_date 2999-01-01 is in the future",
            "",
        ),
        (
            "matomo_alter_site(99)".to_owned(),
            "42704",
            "registered site 99 does not exist",
            "matomo_sites",
        ),
        ("matomo_alter_site(NULL)".to_owned(), "22004", "argument \"id\" must not be null", ""),
        (
            "matomo_remove_site(99)".to_owned(),
            "42704",
            "registered site 99 does not exist",
            "matomo_sites",
        ),
    ] {
        assert_says(&error(&mut db, &format!("SELECT {call}")), state, message, &[], hint);
    }
}

#[test]
fn a_site_whose_server_is_renamed_is_as_far_as_before() {
    let noon = Noon::new();
    let fake = serve(noon.world(3));
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, &format!(", start_date => '{}'", noon.text(2)));
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let status =
        "SELECT concat_ws(' ', server, synced_to, sealed_to, visits_today) FROM matomo_status";
    let before: String = one(&mut db, status);
    run(&mut db, "ALTER SERVER analytics RENAME TO \"My analytics\"");
    let hint = format!(
        "CREATE SERVER analytics FOREIGN DATA WRAPPER matomo OPTIONS (url '...'); or, if it has another name now, \
         SELECT matomo_alter_site({site}, server => '...')."
    );
    for sql in [
        format!("CALL matomo_sync_site({site})"),
        format!("SELECT matomo_alter_site({site}, start_date => '{}')", noon.text(1)),
    ] {
        let failed = error(&mut db, &sql);
        assert_says(&failed, "42704", "server \"analytics\" does not exist", &[], &hint);
    }
    assert!(before.starts_with("analytics 20"), "{before}");
    run(&mut db, &format!("SELECT matomo_alter_site({site}, server => 'My analytics')"));
    assert_eq!(one::<String>(&mut db, status), before.replace("analytics", "My analytics"));
    // Another Matomo is not the same server renamed.
    let other = serve(noon.world(1));
    crate::support::worker::store(&mut db, "other", &other);
    run(&mut db, &format!("SELECT matomo_alter_site({site}, server => 'other')"));
    assert_eq!(one::<String>(&mut db, status), "other 0");
}

#[test]
fn a_removed_site_leaves_its_visits() {
    let fake = serve_two();
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, ", start_date => '2026-10-24'");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    run(&mut db, &format!("SELECT matomo_remove_site({site})"));
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_sites"), 0);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert_eq!(runs(&mut db, site).len(), 1);
    // Registered again, the site resumes where it was.
    fake.clear_requests();
    let again = add_site(&mut db, ", start_date => '2026-10-24'");
    assert_ne!(again, site);
    run(&mut db, &format!("CALL matomo_sync_site({again})"));
    assert!(!asked(&fake).iter().any(|line| line.starts_with("day 2026-10-2")));
}

#[test]
fn a_retention_that_leads_nowhere_keeps_nobody_from_mending_it() {
    let fake = serve_two();
    let mut db = database();
    server(&mut db, &fake);
    let (first, second) = (
        add_site(&mut db, ", retention => '100 years', every => '100 years'"),
        add_site(&mut db, ", destination => 'matomo_partitioned'"),
    );
    run(&mut db, &format!("CALL matomo_sync_site({first})"));
    // The functions no longer allow it.
    let refused =
        error(&mut db, &format!("SELECT matomo_alter_site({first}, retention => '3000 years')"));
    assert_says(&refused, "22023", "retention is out of range", &[], "100 years");
    run(&mut db, "UPDATE matomo_site_config SET retention = '3000 years'");
    run(&mut db, &format!("SELECT matomo_remove_site({second})"));
    run(&mut db, &format!("SELECT matomo_alter_site({first}, retention => '0')"));
    run(&mut db, &format!("CALL matomo_sync_site({first})"));
}
