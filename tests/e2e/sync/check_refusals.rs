//! What `matomo_check` refuses, and who may call it.

use crate::support::case::Case;
use crate::support::cluster::shared;
use crate::support::*;

#[test]
fn experiments_of_type_json_can_be_compared() {
    let mut case = Case::new("matomo");
    run(&mut case.db, "ALTER TABLE matomo ALTER experiments TYPE json");
    assert_eq!(case.check(""), [""; 0]);
    run(&mut case.db, "UPDATE matomo SET experiments = '[1]' WHERE action_id = '1022_0'");
    assert_eq!(case.check(", repair => true"), ["2: 3 3 0 0 1 1"]);
}

#[test]
fn a_range_that_lies_partly_in_the_future_ends_today() {
    let mut case = Case::new("matomo");
    let check = |first: String, last: &str| {
        format!(
            "SELECT day::text FROM matomo_check(1, {first}, {last}, '{}', '{}')",
            case.fake.url(),
            case.fake.token()
        )
    };
    let (yesterday, tomorrow) =
        (format!("'{}'", case.noon.text(1)), case.noon.day(0) + chrono::Days::new(1));
    let two = [case.noon.text(1), case.noon.text(0)];
    for last in [format!("'{}'", tomorrow + chrono::Days::new(30)), "NULL".to_owned()] {
        let sql = check(yesterday.clone(), &last);
        assert_eq!(texts(&mut case.db, &sql), two, "{last}");
    }
    let refused = error(&mut case.db, &check(format!("'{tomorrow}'"), "NULL"));
    let message = format!("start_date {tomorrow} is in the future");
    assert_says(&refused, "22023", &message, &[], &format!("up to {}", two[1]));
}

#[test]
fn what_cannot_be_checked_is_refused() {
    let mut case = Case::new("matomo");
    let before = fingerprint(&mut case.db, "matomo");
    let (url, token) = (case.fake.url(), case.fake.token().to_owned());
    let sql = |first: &str, last: &str, token: &str, destination: &str| {
        format!(
            "SELECT * FROM matomo_check(1, {first}, {last}, '{url}', '{token}', '{destination}', true)"
        )
    };
    asked(&case.fake);
    let refused = error(&mut case.db, &sql("NULL", "current_date", &token, "matomo"));
    assert_says(&refused, "22004", "argument \"start_date\" must not be null", &[], "");
    let turned = sql("'2026-01-02'", "'2026-01-01'", &token, "matomo");
    let message = "end_date 2026-01-01 is before start_date 2026-01-02";
    assert_says(&error(&mut case.db, &turned), "22023", message, &[], "both days");
    let lacking = sql("'2026-01-01'", "'2026-01-02'", &token, "nowhere.visits");
    let message = "destination \"nowhere.visits\" does not exist";
    assert_says(&error(&mut case.db, &lacking), "42P01", message, &[], "matomo_create_table");
    // A check does not create tables with standard names.
    let lacking = sql("'2026-01-01'", "'2026-01-02'", &token, "matomo_partitioned");
    let message = "destination \"matomo_partitioned\" does not exist";
    assert_says(&error(&mut case.db, &lacking), "42P01", message, &[], "matomo_create_table");
    assert_eq!(asked(&case.fake), [""; 0]);
    let refused = error(&mut case.db, &sql("'2026-01-01'", "'2026-01-02'", "bad-token", "matomo"));
    assert_says(
        &refused,
        "28000",
        "Matomo refused the token",
        &["SitesManager.getSiteFromId", "site 1", "HTTP status 401"],
        "",
    );
    assert!(!format!("{refused:?}").contains("bad-token"));
    run(&mut case.db, "BEGIN READ ONLY");
    let refused = error(&mut case.db, &sql("'2026-01-01'", "'2026-01-02'", &token, "matomo"));
    assert_eq!(
        (refused.code().code(), refused.message()),
        ("25006", "cannot execute matomo_check(repair) in a read-only transaction")
    );
    run(&mut case.db, "ROLLBACK");
    assert_eq!(fingerprint(&mut case.db, "matomo"), before);
}

#[test]
fn a_role_needs_execute_and_to_look_only_select() {
    let mut case = Case::new("matomo");
    let name: String = one(&mut case.db, "SELECT current_database()::text");
    let role = role(&mut case.db);
    let mut db = shared().connect_as(&name, &role);
    let refused = error(&mut db, &case.sql(""));
    assert_eq!(
        (refused.code().code(), refused.message()),
        ("42501", "permission denied for function matomo_check")
    );
    run(
        &mut case.db,
        &format!(
            "GRANT EXECUTE ON FUNCTION matomo_check TO {role}; GRANT SELECT ON {} TO {role}",
            all_four("matomo")
        ),
    );
    run(&mut case.db, "DELETE FROM matomo WHERE idvisit = '1032'");
    let mended = case.sql(", repair => true");
    let refused = error(&mut db, &mended);
    let message = "permission denied for table public.matomo";
    assert_says(&refused, "42501", message, &["INSERT, UPDATE, DELETE"], "GRANT");
    let rows = db.query(&case.sql(""), &[]).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>("missing")).sum::<i64>(), 1);
    run(&mut case.db, &format!("GRANT INSERT, UPDATE, DELETE ON {} TO {role}", all_four("matomo")));
    assert_eq!(db.query(&mended, &[]).unwrap().len(), 4);
    let oracle = case.oracle();
    assert_equal(&mut case.db, "matomo", &oracle);
}

#[test]
fn pg_stat_activity_does_not_keep_the_key_of_a_refused_check() {
    let mut db = database();
    let name: String = one(&mut db, "SELECT current_database()::text");
    let refused = error(
        &mut db,
        "SELECT * FROM matomo_check(1, '2026-03-02', '2026-03-03', 'ftp://x.test', 'secret-token')",
    );
    assert_eq!(refused.code().code(), "22023");
    let pid = pid(&mut db);
    error(
        &mut db,
        "SELECT * FROM matomo_check(1, NULL, NULL, 'http://x.test', 'secret-token', 'gone')",
    );
    let shown: String = one(
        &mut shared().connect(&name),
        &format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}"),
    );
    assert_eq!(shown, "matomo: site 1, begins");
}
