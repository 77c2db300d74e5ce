//! Invalid arguments and settings, and callers without privileges.

use chrono::{Days, Utc};
use fake_matomo::{Fault, Saying, When};

use super::*;
use crate::support::cluster::shared;

const UNKNOWN: &str =
    "An unexpected website was found in the request: website id was set to '999' .";
const WRONG: &str =
    "Unable to authenticate with the provided token. It is either invalid or expired.";
const NO_VIEW: &str =
    "You can't access this resource as it requires 'view' access for the website id = 1.";
const LOCKED: &str = "Too many failed logins. Please wait and try logging in again later.";

const SITES: &str = "SitesManager.getSitesIdWithAtLeastViewAccess";

fn in_the_middle() -> When {
    When::live().param("date", &format!("{MIDDLE},{MIDDLE}"))
}

#[test]
fn an_unknown_site_is_named() {
    let mut stage = Stage::new();
    let error = stage.refuses(&[("site", "999")]);
    let call = stage.of_site(Some(200)).replace("site 1 ", "site 999 ");
    let detail = format!("{call} Matomo says: {UNKNOWN}");
    expect(&error, "22023", "Matomo does not know the site", &detail, "Check the site's ID");
    assert_eq!(stage.fake.requests().len(), CALLS);
    stage.recovers();
}

#[test]
fn a_refused_token_is_never_tried_twice() {
    let mut stage = Stage::new();
    stage.execute("SET matomo.max_retries = 3");
    let hint = "After some 18 refused tokens Matomo locks out";
    let error = stage.refuses(&[("key", "'my-secret-key'")]);
    let detail = format!("{} Matomo says: {WRONG}", stage.of_site(Some(401)));
    expect(&error, "28000", "Matomo refused the token", &detail, hint);
    // One request for the site, and one that every token may make.
    assert_eq!(stage.fake.requests().len(), 2 * CALLS);
    // In the middle of a sync, when the token has been revoked meanwhile.
    stage.fake.fail(Fault::Says(Saying::WrongToken), in_the_middle());
    stage.fake.fail(Fault::Says(Saying::WrongToken), When::always().method(SITES));
    let error = stage.refuses(&[]);
    let detail = format!("{} Matomo says: {WRONG}", stage.of_day(MIDDLE, Some(401)));
    expect(&error, "28000", "Matomo refused the token", &detail, hint);
    assert_eq!(stage.fake.requests().len(), 4 * CALLS);
    // A valid token that gets such an error only once has not been refused.
    stage.fake.heal();
    stage.fake.fail(Fault::Says(Saying::WrongToken), in_the_middle());
    let error = stage.refuses(&[]);
    let message = format!("Matomo answered with an error: {WRONG}");
    expect(&error, "08P01", &message, &stage.of_day(MIDDLE, Some(401)), "Matomo's own");
    stage.recovers();
}

#[test]
fn a_token_without_access_to_the_site_is_told_from_a_wrong_one() {
    let mut stage = Stage::new();
    stage.execute("SET matomo.max_retries = 3");
    stage.fake.knobs().hidden_sites.insert(1);
    let error = stage.refuses(&[]);
    let detail = format!("{} Matomo says: {NO_VIEW}", stage.of_site(Some(401)));
    let message = "the token has no access to the site";
    expect(&error, "28000", message, &detail, "at least view access");
    assert_eq!(stage.fake.requests().len(), 2 * CALLS);
    stage.fake.knobs().hidden_sites.clear();
    stage.recovers();
}

#[test]
fn a_lockout_is_told_from_a_wrong_token() {
    let mut stage = Stage::new();
    stage.execute("SET matomo.max_retries = 3");
    for _ in 0..5 {
        // Uses up Matomo's limit of 18 refused tokens in several tests' worth of refusals.
        let call = stage.call("matomo", &[("key", "'my-secret-key'")]);
        for _ in 0..4 {
            error(&mut stage.db, &call);
        }
    }
    let error = stage.refuses(&[]);
    let detail = format!("{} Matomo says: {LOCKED}", stage.of_site(Some(500)));
    expect(&error, "28000", "Matomo has locked out this server's address", &detail, "then wait");
    assert_eq!(stage.fake.requests().len(), CALLS);
    stage.recovers();
}

#[test]
fn urls_that_are_none_are_refused_without_a_request() {
    let mut stage = Stage::new();
    let begin = "it does not begin with https:// or http://";
    let password = "it holds a user name or password";
    let long = format!("https://a.example.org/{}", "x".repeat(70_000));
    for (url, why) in [
        ("", "it is malformed"),
        ("  ", "it is malformed"),
        ("https://", "it is malformed"),
        ("https://a b.example.org", "it is malformed"),
        ("https://a.example.org\nX-Header: x", "it is malformed"),
        ("https://[::1", "it is malformed"),
        ("file:///etc/passwd", "it is malformed"),
        (long.as_str(), "it is malformed"),
        ("analytics.example.org", begin),
        ("/matomo", begin),
        ("*", begin),
        ("ftp://a.example.org", "scheme \"ftp\" is not supported"),
        ("gopher://127.0.0.1:6379/x", "scheme \"gopher\" is not supported"),
        ("https://user:secret@a.example.org", password),
        ("https://secret@a.example.org", password),
        ("https://a.example.org:port", "its port is no number"),
        ("https://a.example.org:99999", "its port is no number"),
        ("https://a.example.org/?token_auth=secret", "it has a query or a fragment"),
        ("https://a.example.org/#secret", "it has a query or a fragment"),
    ] {
        let error = stage.refuses(&[("url", &format!("'{url}'"))]);
        let message = format!("invalid URL of Matomo: {why}");
        expect(&error, "22023", &message, "", "https://analytics.example.org");
    }
    assert_eq!(stage.fake.requests().len(), 0);
}

#[test]
fn dates_in_the_wrong_order_or_out_of_range_are_refused_without_a_request() {
    let mut stage = Stage::new();
    let error = stage.refuses(&[("end_date", "'2026-10-23'")]);
    let message = "end_date 2026-10-23 is before start_date 2026-10-24";
    expect(&error, "22023", message, "", "both days");
    for argument in ["start_date", "end_date"] {
        for day in ["infinity", "-infinity", "1989-12-31", "4713-01-01 BC", "5874897-12-31"] {
            let error = stage.refuses(&[(argument, &format!("'{day}'"))]);
            let message = format!("{argument} is out of range");
            expect(&error, "22023", &message, "", "from 1990-01-01 on");
        }
    }
    assert_eq!(stage.fake.requests().len(), 0);
}

/// Two zones 24 hours apart: one date is today in the first and in the future in the second.
#[test]
fn a_start_in_the_future_is_one_in_the_sites_timezone() {
    let mut stage = Stage::new();
    let today = loop {
        let east = Utc::now() + chrono::TimeDelta::hours(12);
        let left = 86_400 - (east.timestamp() % 86_400);
        if left > 30 {
            break east.date_naive();
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
    };
    let argument = format!("'{today}'");
    stage.fake.world().site_mut(1).timezone = "UTC-12".to_owned();
    let error = stage.refuses(&[("start_date", &argument), ("end_date", "NULL")]);
    let hint = format!("Give a day up to {},", today - Days::new(1));
    expect(&error, "22023", &format!("start_date {today} is in the future"), "", &hint);
    let error = stage.refuses(&[("start_date", "'200000-01-01'"), ("end_date", "NULL")]);
    expect(&error, "22023", "start_date +200000-01-01 is in the future", "", &hint);
    stage.fake.world().site_mut(1).timezone = "UTC+12".to_owned();
    let call = stage.call("matomo", &[("start_date", &argument), ("end_date", "'200000-01-01'")]);
    let rows = stage.db.query(&call, &[]).unwrap();
    assert_eq!(Sums::of(&rows).days, 1);
}

#[test]
fn numbers_out_of_range_are_refused_without_a_request() {
    let mut stage = Stage::new();
    for size in ["0", "-1", "10001", "-2147483648", "2147483647"] {
        let error = stage.refuses(&[("page_size", size)]);
        let message = format!("page_size {size} is out of range");
        expect(&error, "22023", &message, "", "from 1 to 10000");
    }
    for site in ["0", "-1", "-2147483648"] {
        let error = stage.refuses(&[("site", site)]);
        let message = format!("site {site} is no ID of a site");
        expect(&error, "22023", &message, "", "the first is 1");
    }
    assert_eq!(stage.fake.requests().len(), 0);
}

#[test]
fn null_and_empty_arguments_are_refused_without_a_request() {
    let mut stage = Stage::new();
    for argument in ["site", "url", "key"] {
        let error = stage.refuses(&[(argument, "NULL")]);
        let message = format!("argument \"{argument}\" must not be null");
        expect(&error, "22004", &message, "", "");
    }
    for key in ["''", "' '", "E'\\n'"] {
        let error = stage.refuses(&[("key", key)]);
        expect(&error, "22023", "the key is empty", "", "token_auth");
    }
    assert_eq!(stage.fake.requests().len(), 0);
}

#[test]
fn null_stands_for_the_setting_where_there_is_one() {
    let mut stage = Stage::new();
    stage.execute("SET matomo.page_size = 7; SET matomo.destination = 'matomo_partitioned'");
    let call = stage.call("", &[("page_size", "NULL"), ("destination", "NULL")]);
    stage.empty.query(&call, &[]).unwrap();
    let requests = stage.fake.requests();
    let limits: Vec<_> = requests.iter().skip(1).map(|seen| seen.param("filter_limit")).collect();
    assert!(!limits.is_empty() && limits.iter().all(|limit| *limit == "7"), "{limits:?}");
    assert_equal(&mut stage.empty, "matomo_partitioned", &oracle(&stage.fake, FIRST, LAST));
    let other: Option<u32> = one(&mut stage.empty, "SELECT to_regclass('matomo')::oid");
    assert_eq!(other, None);
}

#[test]
fn a_read_only_transaction_is_refused_without_a_request() {
    let mut stage = Stage::new();
    stage.execute("SET default_transaction_read_only = on");
    let error = stage.refuses(&[]);
    let message = "cannot execute matomo_sync() in a read-only transaction";
    expect(&error, "25006", message, "", "");
    let requests = stage.fake.requests().len();
    assert_eq!(requests, 0);
    crate::support::report::proven(
        "Crash",
        "a read-only transaction",
        "`default_transaction_read_only` is on",
        "`25006`, with no request and nothing written",
        &format!("{}; {requests} requests; rows as before", crate::support::report::said(&error)),
    );
    stage.execute("SET default_transaction_read_only = off");
    stage.db.batch_execute("SET TimeZone = 'UTC'").unwrap();
    stage.recovers();
}

#[test]
fn unknown_settings_and_values_out_of_range_are_refused() {
    let mut db = database();
    // The prefix is reserved once the library is loaded.
    db.batch_execute("LOAD 'matomo_postgres'").unwrap();
    let nonsense = error(&mut db, "SET matomo.nonsense = 1");
    let message = "invalid configuration parameter name \"matomo.nonsense\"";
    expect(&nonsense, "42602", message, "\"matomo\" is a reserved prefix.", "");
    for (setting, value, message) in [
        (
            "page_size",
            "0",
            "0 is outside the valid range for parameter \"matomo.page_size\" (1 .. 10000)",
        ),
        (
            "page_size",
            "10001",
            "10001 is outside the valid range for parameter \"matomo.page_size\" (1 .. 10000)",
        ),
        (
            "initial_offset",
            "-1",
            "-1 is outside the valid range for parameter \"matomo.initial_offset\" (0 .. 36500)",
        ),
        (
            "connect_timeout",
            "0",
            "0 s is outside the valid range for parameter \"matomo.connect_timeout\" (1 .. 3600)",
        ),
        (
            "request_timeout",
            "'2 d'",
            "172800 s is outside the valid range for parameter \"matomo.request_timeout\" (1 .. 86400)",
        ),
        (
            "max_retries",
            "-1",
            "-1 is outside the valid range for parameter \"matomo.max_retries\" (0 .. 100)",
        ),
        (
            "max_retries",
            "101",
            "101 is outside the valid range for parameter \"matomo.max_retries\" (0 .. 100)",
        ),
        (
            "max_response_size",
            "0",
            "0 kB is outside the valid range for parameter \"matomo.max_response_size\" (1 .. 1048576)",
        ),
        (
            "max_response_size",
            "'2 GB'",
            "2097152 kB is outside the valid range for parameter \"matomo.max_response_size\" (1 .. 1048576)",
        ),
        ("page_size", "'many'", "invalid value for parameter \"matomo.page_size\": \"many\""),
        ("action_time", "'local'", "invalid value for parameter \"matomo.action_time\": \"local\""),
    ] {
        let error = error(&mut db, &format!("SET matomo.{setting} = {value}"));
        let (state, found, _, hint) = facts(&error);
        // From Postgres 17 on the bounds have units too.
        let found = found.replace(" s .. ", " .. ").replace(" s)", ")");
        let found = found.replace(" kB .. ", " .. ").replace(" kB)", ")");
        assert_eq!((state, found.as_str()), ("22023", message));
        assert_eq!(hint.contains("utc, as_sent"), setting == "action_time", "{hint}");
    }
}

#[test]
fn only_those_whom_the_administrator_lets_may_sync() {
    let mut stage = Stage::new();
    let database: String = one(&mut stage.db, "SELECT current_database()");
    let role = format!("role_{database}");
    stage.db.batch_execute(&format!("CREATE ROLE {role} LOGIN")).unwrap();
    let mut theirs = shared().connect_as(&database, &role);
    let call = stage.call("matomo", &[]);
    let denied = error(&mut theirs, &call);
    expect(&denied, "42501", "permission denied for function matomo_sync", "", "");
    stage
        .db
        .batch_execute(&format!(
            "GRANT EXECUTE ON FUNCTION matomo_sync TO {role}; GRANT SELECT ON matomo TO {role}"
        ))
        .unwrap();
    let denied = error(&mut theirs, &call);
    let detail = "Privileges missing: INSERT, UPDATE, DELETE.";
    expect(
        &denied,
        "42501",
        "permission denied for table public.matomo",
        detail,
        "Ask the owner of public.matomo",
    );
    // Only superusers choose which files the server reads.
    let denied = error(&mut theirs, "SET matomo.ca_file = '/etc/passwd'");
    expect(&denied, "42501", "permission denied to set parameter \"matomo.ca_file\"", "", "");
    stage.db.batch_execute(&format!("GRANT INSERT, UPDATE ON matomo TO {role}")).unwrap();
    let denied = error(&mut theirs, &call);
    let detail = "Privileges missing: DELETE.";
    expect(&denied, "42501", "permission denied for table public.matomo", detail, "GRANT");
    // They cannot create tables without CREATE on the schema.
    stage.db.batch_execute("ALTER TABLE matomo RENAME TO renamed").unwrap();
    let denied = error(&mut theirs, &call);
    expect(&denied, "42501", "permission denied for schema public", "", "");
    stage.db.batch_execute("ALTER TABLE renamed RENAME TO matomo").unwrap();
    stage.assert_untouched();
    assert_eq!(stage.fake.requests().len(), 0);
    stage.db.batch_execute(&format!("GRANT DELETE ON matomo TO {role}")).unwrap();
    // They also need rights on each companion.
    let of_all = "Privileges missing: SELECT, INSERT, UPDATE, DELETE.";
    for table in ["matomo_visits", "matomo_conversions", "matomo_items"] {
        let denied = error(&mut theirs, &call);
        let message = format!("permission denied for table public.{table}");
        expect(&denied, "42501", &message, of_all, &format!("Ask the owner of public.{table}"));
        stage.assert_untouched();
        let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}");
        stage.db.batch_execute(&grant).unwrap();
    }
    assert_eq!(stage.fake.requests().len(), 0);
    theirs.query(&call, &[]).unwrap();
    let tables = tables_between(&stage.fake, 1, FIRST, LAST);
    assert_tables_equal(&mut stage.db, "matomo", &tables);
}
