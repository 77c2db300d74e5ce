//! Stored credentials: servers, user mappings, their options, and who may use and see them.

use fake_matomo::{Fault, When};

use crate::support::cluster::shared;
use crate::support::report::proven;
use crate::support::sites::*;
use crate::support::*;

const DAYS: &str = "start_date => '2026-10-24', end_date => '2026-10-26'";

fn serve_site() -> fake_matomo::Fake {
    serve(world(91, "Europe/Paris", 20, "2026-10-24", "2026-10-26"))
}

#[test]
fn a_server_and_a_user_mapping_stand_for_url_and_key() {
    let fake = serve_site();
    let mut db = database();
    server(&mut db, &fake);
    let rows =
        db.query(&format!("SELECT * FROM matomo_sync(1, server => 'analytics', {DAYS})"), &[]);
    assert_eq!(Sums::of(&rows.unwrap()).days, 3);
    assert_equal(&mut db, "matomo", &oracle(&fake, "2026-10-24", "2026-10-26"));
    // The same Matomo, by another name.
    assert_eq!(sync(&mut db, &fake, &format!(", {DAYS}")).days, 0);
    let sql = "SELECT sum(missing + extra + stale)::bigint
               FROM matomo_check(1, '2026-10-24', '2026-10-26', server => 'analytics')";
    assert_eq!(one::<i64>(&mut db, sql), 0);
}

#[test]
fn options_are_checked_when_they_are_given() {
    let mut db = database();
    let server = |options: &str| {
        format!(
            "CREATE SERVER bad FOREIGN DATA WRAPPER matomo OPTIONS (url 'https://a.example.org'{options})"
        )
    };
    let invalid =
        |name: &str, value: &str| format!("invalid value for option \"{name}\": \"{value}\"");
    run(&mut db, "CREATE SERVER good FOREIGN DATA WRAPPER matomo OPTIONS (url 'https://a.example.org/matomo',
                  timeout '2min', connect_timeout '5', language 'fr', page_size '100', fetch_workers '2')");
    let all = "Valid options in this context are: url, ca_file, timeout, connect_timeout, language, page_size, fetch_workers.";
    for (sql, state, message, hint) in [
        (server(", token 'x'"), "HV00D", "invalid option \"token\"".to_owned(), all),
        (server(", timeout 'soon'"), "22023", invalid("timeout", "soon"), "from 1 to 86400 seconds"),
        (server(", timeout '0'"), "22023", invalid("timeout", "0"), "from 1 to 86400 seconds"),
        (server(", connect_timeout '2h'"), "22023", invalid("connect_timeout", "2h"), "from 1 to 3600 seconds"),
        (server(", page_size '10001'"), "22023", invalid("page_size", "10001"), "from 1 to 10000."),
        (server(", page_size '5s'"), "22023", invalid("page_size", "5s"), "from 1 to 10000."),
        (server(", fetch_workers '9'"), "22023", invalid("fetch_workers", "9"), "from 1 to 8."),
        (
            "CREATE SERVER bad FOREIGN DATA WRAPPER matomo".to_owned(),
            "HV002",
            "option \"url\" is required".to_owned(),
            "CREATE SERVER ... FOREIGN DATA WRAPPER matomo OPTIONS (url 'https://analytics.example.org').",
        ),
        (
            "CREATE SERVER bad FOREIGN DATA WRAPPER matomo OPTIONS (url 'https://user:pw@a.example.org')".to_owned(),
            "22023",
            "invalid URL of Matomo: it holds a user name or password".to_owned(),
            "https://www.example.org/matomo",
        ),
        ("ALTER SERVER good OPTIONS (DROP url)".to_owned(), "HV002", "option \"url\" is required".to_owned(), "url"),
        ("ALTER SERVER good OPTIONS (SET page_size 'x')".to_owned(), "22023", invalid("page_size", "x"), "10000"),
        (
            "ALTER FOREIGN DATA WRAPPER matomo OPTIONS (url 'https://a.example.org')".to_owned(),
            "HV00D",
            "invalid option \"url\"".to_owned(),
            "There are no valid options in this context.",
        ),
        (
            "CREATE USER MAPPING FOR CURRENT_USER SERVER good OPTIONS (token 'x', user 'me')".to_owned(),
            "HV00D",
            "invalid option \"user\"".to_owned(),
            "Valid options in this context are: token.",
        ),
        (
            "CREATE USER MAPPING FOR CURRENT_USER SERVER good OPTIONS (token ' ')".to_owned(),
            "22023",
            "option \"token\" is empty".to_owned(),
            "token_auth",
        ),
    ] {
        assert_says(&error(&mut db, &sql), state, &message, &[], hint);
    }
    let none =
        error(&mut db, "CREATE FOREIGN TABLE visits (id int) SERVER good; SELECT * FROM visits");
    assert_eq!(none.code().code(), "55000");
    assert_eq!(none.message(), "foreign-data wrapper \"matomo\" has no handler");
}

#[test]
fn only_a_superuser_has_the_server_read_a_file() {
    let (name, mut admin, role) = database_and_role();
    run(&mut admin, &format!("GRANT USAGE ON FOREIGN DATA WRAPPER matomo TO {role}"));
    let mut db = connect_as(&name, &role);
    let sql = "CREATE SERVER a FOREIGN DATA WRAPPER matomo OPTIONS (url 'https://a.example.org', ca_file '/etc/passwd')";
    let refused = error(&mut db, sql);
    assert_says(
        &refused,
        "42501",
        "permission denied to set option \"ca_file\"",
        &["reads a file"],
        "Ask a superuser",
    );
    run(
        &mut db,
        "CREATE SERVER a FOREIGN DATA WRAPPER matomo OPTIONS (url 'https://a.example.org')",
    );
    run(
        &mut admin,
        "ALTER SERVER a OPTIONS (ADD ca_file '/nonexistent/ca.pem');
                     CREATE USER MAPPING FOR CURRENT_USER SERVER a OPTIONS (token 'x')",
    );
    let unread = error(&mut admin, "SELECT matomo_sync(1, server => 'a')");
    assert_says(
        &unread,
        "22023",
        "could not read the file \"/nonexistent/ca.pem\": No such file or directory (os error 2)",
        &[],
        "the option ca_file of the server",
    );
    proven(
        "Privileges",
        "the server's files",
        "`ca_file '/etc/passwd'` as an option of a server, by a role with `USAGE` on the wrapper",
        "only superusers may have the server read a file",
        &crate::support::report::said(&refused),
    );
}

#[test]
fn a_server_trusts_its_own_ca_file() {
    let mut options = fake_matomo::Options::new(world(92, "UTC", 5, "2026-10-24", "2026-10-26"));
    options.tls = Some(fake_matomo::TlsKind::Good);
    let fake = fake_matomo::Fake::start(options);
    let mut db = database();
    server(&mut db, &fake);
    let sync = format!("SELECT * FROM matomo_sync(1, server => 'analytics', {DAYS})");
    assert_eq!(error(&mut db, &sync).code().code(), "08001");
    let file = format!("/tmp/matomo_e2e_ca.{}.pem", std::process::id());
    std::fs::write(&file, fake.ca_pem()).unwrap();
    run(&mut db, &format!("ALTER SERVER analytics OPTIONS (ADD ca_file '{file}')"));
    assert_eq!(Sums::of(&db.query(&sync, &[]).unwrap()).days, 3);
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn options_of_a_server_go_before_settings_and_arguments_before_options() {
    let fake = serve_site();
    fake.knobs().latency = std::time::Duration::from_millis(150);
    let mut db = database();
    server(&mut db, &fake);
    run(&mut db, "ALTER SERVER analytics OPTIONS (ADD page_size '7', ADD language 'fr', ADD timeout '1s', ADD fetch_workers '3');
                  SET matomo.page_size = 9; SET matomo.language = 'de'; SET matomo.max_retries = 0");
    let mut sizes = |arguments: &str| {
        run(
            &mut db,
            &format!(
                "SELECT matomo_sync(1, server => 'analytics', {DAYS}, force => true{arguments})"
            ),
        );
        let asked = fake.requests();
        assert_eq!(fake.peak_requests(), 3);
        fake.clear_requests();
        let live: Vec<_> =
            asked.iter().filter(|seen| seen.method == "Live.getLastVisitsDetails").collect();
        assert!(live.iter().all(|seen| seen.param("language") == "fr"));
        let mut sizes: Vec<_> =
            live.iter().map(|seen| seen.param("filter_limit").to_owned()).collect();
        sizes.sort();
        sizes.dedup();
        sizes
    };
    assert_eq!(sizes(""), ["7"]);
    assert_eq!(sizes(", page_size => 11"), ["11"]);
    fake.fail(Fault::Hang, When::always());
    let late = error(&mut db, "SELECT matomo_sync(1, server => 'analytics', force => true)");
    assert_says(&late, "08006", "Matomo did not answer within 1 s", &[], "");
}

#[test]
fn a_matomo_is_named_one_way() {
    let mut db = database();
    let hint = "Give either server => 'analytics', a foreign server with a user mapping, or url => 'https://analytics.example.org', key => '...'.";
    for arguments in
        ["server => 'a', url => 'https://a.example.org'", "server => 'a', key => 'secret-token'"]
    {
        for call in [
            format!("matomo_sync(1, {arguments})"),
            format!("matomo_check(1, '2026-01-01', '2026-01-02', {arguments})"),
        ] {
            let both = error(&mut db, &format!("SELECT {call}"));
            assert_says(&both, "22023", "both a server and a url or key are given", &[], hint);
        }
    }
    for call in ["matomo_sync(1)", "matomo_check(1, '2026-01-01', '2026-01-02')"] {
        let neither = error(&mut db, &format!("SELECT {call}"));
        assert_says(&neither, "22023", "neither a server nor a url and key are given", &[], hint);
    }
    let no_key = error(&mut db, "SELECT matomo_sync(1, url => 'https://a.example.org')");
    assert_says(&no_key, "22004", "argument \"key\" must not be null", &[], "");
    let no_url = error(&mut db, "SELECT matomo_sync(1, key => 'secret-token')");
    assert_says(&no_url, "22004", "argument \"url\" must not be null", &[], "");
}

#[test]
fn a_server_takes_usage_and_a_user_mapping() {
    let fake = serve_site();
    let (name, mut admin, role) = database_and_role();
    may_have_sites(&mut admin, &role);
    run(
        &mut admin,
        &format!(
            "CREATE SERVER \"Our Matomo\" FOREIGN DATA WRAPPER matomo OPTIONS (url '{}');
             CREATE FOREIGN DATA WRAPPER other; CREATE SERVER other FOREIGN DATA WRAPPER other;
             ALTER ROLE {role} SET search_path = {role}, public",
            fake.url()
        ),
    );
    let mut db = connect_as(&name, &role);
    let sync = format!("SELECT matomo_sync(1, server => 'Our Matomo', {DAYS})");
    assert_says(
        &error(&mut db, "SELECT matomo_sync(1, server => 'nowhere')"),
        "42704",
        "server \"nowhere\" does not exist",
        &[],
        "CREATE SERVER nowhere FOREIGN DATA WRAPPER matomo OPTIONS (url '...').",
    );
    assert_says(
        &error(&mut db, "SELECT matomo_sync(1, server => 'other')"),
        "42809",
        "server \"other\" is not a Matomo",
        &[],
        "Name a server of the foreign-data wrapper matomo.",
    );
    assert_says(
        &error(&mut db, &sync),
        "42501",
        "permission denied for foreign server Our Matomo",
        &[],
        &format!(
            "Ask the owner of the server to GRANT USAGE ON FOREIGN SERVER \"Our Matomo\" TO {role}."
        ),
    );
    run(&mut admin, &format!("GRANT USAGE ON FOREIGN SERVER \"Our Matomo\" TO {role}"));
    assert_says(
        &error(&mut db, &sync),
        "28000",
        &format!("user mapping not found for \"{role}\""),
        &[],
        &format!("CREATE USER MAPPING FOR {role} SERVER \"Our Matomo\" OPTIONS (token '...')."),
    );
    assert_eq!(asked(&fake), [""; 0]);
    run(
        &mut admin,
        &format!(
            "CREATE USER MAPPING FOR PUBLIC SERVER \"Our Matomo\" OPTIONS (token '{}')",
            fake.token()
        ),
    );
    run(&mut db, &sync);
    // One's own mapping takes precedence over PUBLIC's.
    run(
        &mut db,
        "CREATE USER MAPPING FOR CURRENT_USER SERVER \"Our Matomo\" OPTIONS (token 'another')",
    );
    let refused = error(&mut db, &sync.replace(")", ", force => true)"));
    assert_says(&refused, "28000", "Matomo refused the token", &[], "token_auth");
}

#[test]
fn a_security_definer_function_lends_its_owners_mapping() {
    let fake = serve_site();
    let (name, mut admin, role) = database_and_role();
    server(&mut admin, &fake);
    run(
        &mut admin,
        &format!(
            "CREATE FUNCTION copy_visits() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
                 AS $$ SELECT sum(inserted)::bigint FROM matomo_sync(1, server => 'analytics', {DAYS}) $$;
             CREATE TABLE audit (inserted bigint); GRANT SELECT, INSERT ON audit TO {role}"
        ),
    );
    let mut db = connect_as(&name, &role);
    let rows = oracle(&fake, "2026-10-24", "2026-10-26").len();
    let copied = one::<i64>(&mut db, "SELECT copy_visits()");
    assert_eq!(copied, i64::try_from(rows).unwrap());
    let tokens: i64 =
        one(&mut db, "SELECT count(*) FROM pg_user_mappings WHERE umoptions IS NOT NULL");
    assert_eq!(tokens, 0);
    proven(
        "Privileges",
        "a SECURITY DEFINER function and its owner's mapping",
        "a role without grants calls a superuser's function, which syncs by a server",
        "the owner's mapping is used, and the caller sees none",
        &format!("{copied} rows copied; mappings with a token that the caller sees: {tokens}"),
    );
}

#[test]
fn others_read_the_token_nowhere() {
    let fake = serve_site();
    let (name, mut admin, role) = database_and_role();
    let owner = crate::support::role(&mut admin);
    server_for(&mut admin, &fake, &owner);
    let mut owner = connect_as(&name, &owner);
    run(
        &mut owner,
        &format!(
            "SELECT matomo_sync(1, server => 'analytics', {DAYS}, destination => 'public.matomo')"
        )
        .replace(", destination => 'public.matomo'", ""),
    );
    add_site(&mut owner, ", start_date => '2026-10-24'");
    run(&mut owner, "CALL matomo_sync_all()");
    run(&mut admin, &format!("GRANT USAGE ON FOREIGN SERVER analytics TO {role}"));
    let mut db = connect_as(&name, &role);
    let readable = texts(
        &mut db,
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind IN ('r', 'v', 'm', 'p')
         AND has_table_privilege(c.oid, 'SELECT') AND c.relname !~ '^pg_(stats|stat_progress)' ORDER BY 1",
    );
    assert!(readable.iter().any(|table| table == "pg_user_mappings"), "{readable:?}");
    assert!(readable.iter().any(|table| table == "matomo_runs"), "{readable:?}");
    let mut looked = (0, 0);
    for table in readable {
        let sql = format!(
            "SELECT count(*) FROM {table} t WHERE t::text LIKE '%{}%' AND t::text NOT LIKE '%t::text%'",
            fake.token()
        );
        match db.query_one(&sql, &[]) {
            Ok(row) => {
                looked = (looked.0 + 1, looked.1 + row.get::<_, i64>(0));
                assert_eq!(looked.1, 0, "{table} shows the token");
            }
            // Some views read what the user may not.
            Err(error) => assert_eq!(error.code().unwrap().code(), "42501", "{table}: {error:?}"),
        }
    }
    let refused = error(&mut db, "SELECT * FROM pg_user_mapping");
    assert_eq!(refused.code().code(), "42501");
    assert!(looked.0 > 50, "{looked:?}");
    proven(
        "Privileges",
        "the token of others",
        "each table and view that a role with `USAGE` on the server may read is searched for it, those of the catalog too",
        "it is in none",
        &format!(
            "in {} rows; `pg_user_mapping`: {}",
            looked.1,
            crate::support::report::said(&refused)
        ),
    );
    assert!(!shared().log().lines().any(
        |line| line.contains(&format!("[{}]", pid(&mut owner))) && line.contains(fake.token())
    ));
}

#[test]
fn a_statement_without_a_key_is_logged_with_its_error() {
    let cluster = crate::support::cluster::Cluster::start();
    let mut db = cluster.connect(&cluster.database());
    let fake = serve_site();
    server(&mut db, &fake);
    fake.fail(Fault::Html, When::always());
    let sql = "SELECT /* seen */ matomo_sync(1, server => 'analytics')";
    assert_eq!(error(&mut db, sql).code().code(), "08P01");
    let log = cluster.log();
    assert!(log.contains(&format!("STATEMENT:  {sql}")), "{log}");
    assert!(!log.contains(fake.token()), "{log}");
}
