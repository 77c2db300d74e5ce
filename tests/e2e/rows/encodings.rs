//! Databases in encodings other than UTF8: characters that they cannot hold become question marks.

use fake_matomo::{Action, Fault, OracleRow, When};
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::hostile::keeps_all;
use crate::support::report::{all_there, proven};
use crate::support::*;

const FIRST: &str = "2026-10-24";
const LAST: &str = "2026-10-26";

fn database_in(encoding: &str) -> Client {
    let name = format!("{}_{}", shared().database(), encoding.to_lowercase());
    let sql = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
    run(&mut shared().connect("postgres"), &sql);
    let mut db = shared().connect(&name);
    run(&mut db, "CREATE EXTENSION matomo_postgres");
    db
}

/// The oracle's rows in an encoding that holds only some characters.
fn narrowed(rows: Vec<OracleRow>, holds: fn(char) -> bool) -> Vec<OracleRow> {
    let narrow =
        |text: String| text.chars().map(|char| if holds(char) { char } else { '?' }).collect();
    rows.into_iter().map(|row| OracleRow(row.0.map(|value| value.map(narrow)))).collect()
}

fn holds_whatever(case: &str, encoding: &str, holds: fn(char) -> bool) {
    let fake = serve(world(81, "Europe/Paris", 8, FIRST, LAST));
    let whole = oracle(&fake, FIRST, LAST);
    let narrow = narrowed(whole.clone(), holds);
    let changed = whole.iter().zip(&narrow).filter(|(one, other)| one != other).count();
    assert!(encoding == "SQL_ASCII" || changed > 20, "{changed} rows of {}", whole.len());
    let mut db = database_in(encoding);
    let mut all = String::new();
    for table in ["matomo", "matomo_partitioned"] {
        let sync = Sync::of(&fake, FIRST, LAST).into(table);
        sync.run(&mut db);
        all = all_there(&mut db, table, &narrow);
        let before = fingerprint(&mut db, table);
        assert_eq!(sync.run(&mut db).written(), 0, "{encoding}: not the same twice");
        assert_eq!(fingerprint(&mut db, table), before);
        for deep in [false, true] {
            let sql = format!(
                "SELECT sum(missing + extra + stale)::bigint FROM matomo_check(1, '{FIRST}', \
                 '{LAST}', '{}', '{}', '{table}', deep => {deep})",
                fake.url(),
                fake.token()
            );
            assert_eq!(one::<i64>(&mut db, &sql), 0, "{encoding}, deep: {deep}");
        }
    }
    // Changed rows are stored in another way than new ones.
    for visit in &mut fake.world().site_mut(1).visits {
        visit.country = Some("Österreich €".to_owned());
        visit.push(Action::page(visit.last, "https://x.test/ž", "Größe € 漢"));
    }
    let narrow = narrowed(oracle(&fake, FIRST, LAST), holds);
    for table in ["matomo", "matomo_partitioned"] {
        let sums = Sync::of(&fake, FIRST, LAST).into(table).run(&mut db);
        assert!(sums.updated > 20 && sums.inserted > 20, "{sums:?}");
        assert_equal(&mut db, table, &narrow);
    }
    keeps_all(&mut database_in(encoding), 1000..1004);
    proven(
        "Data",
        case,
        "visits with texts in all scripts",
        "what it can hold, and a question mark for each other character; a second sync and `matomo_check` find no difference",
        &format!("{all}, {changed} of them with question marks"),
    );
}

#[test]
fn latin1_holds_what_it_can() {
    holds_whatever("a LATIN1 database", "LATIN1", |char| u32::from(char) < 256);
}

#[test]
fn sql_ascii_holds_utf_8_as_it_is() {
    holds_whatever("a SQL_ASCII database", "SQL_ASCII", |_| true);
}

#[test]
fn sql_ascii_counts_bytes() {
    let fake = serve(Noon::new().world(1));
    for visit in &mut fake.world().site_mut(1).visits {
        visit.country = Some("éééé".to_owned());
        visit.city = Some("ééé".to_owned());
    }
    let mut db = database_in("SQL_ASCII");
    run(
        &mut db,
        "SET matomo.companions = ''; SELECT matomo_create_table('mine');
         ALTER TABLE mine ALTER country TYPE varchar(7), ALTER city TYPE varchar(7)",
    );
    run(&mut db, &sync_sql(&fake, 1, ", destination => 'mine'"));
    let kept = "SELECT concat_ws(' ', count(*), count(country), count(city)) FROM mine";
    assert_eq!(one::<String>(&mut db, kept), "9 0 9");
}

#[test]
fn texts_arrive_in_the_encoding_of_the_database() {
    let fake = serve(Noon::new().world(1));
    let mut seen = Vec::new();
    for (encoding, country, bytes) in [
        ("LATIN9", "10 € 漢", r"\x313020a4203f"),
        ("WIN1252", "10 € 漢", r"\x31302080203f"),
        ("EUC_JP", "漢字 ü", r"\xb4c1bbfa208fabe4"),
        ("KOI8R", "Россия €", r"\xf2cfd3d3c9d1203f"),
    ] {
        for visit in &mut fake.world().site_mut(1).visits {
            visit.country = Some(country.to_owned());
        }
        let mut db = database_in(encoding);
        run(&mut db, &sync_sql(&fake, 1, ""));
        let sql = format!("SELECT DISTINCT convert_to(country, '{encoding}')::text FROM matomo");
        let found = texts(&mut db, &sql);
        assert_eq!(found, [bytes], "{encoding}");
        seen.push(format!("{encoding} `{country}` is `{}`", found[0]));
        // Messages contain only ASCII.
        fake.fail(Fault::ErrorEnvelope("Zugriff für €".to_owned()), When::once());
        let error = error(&mut db, &sync_sql(&fake, 1, ", force => true"));
        assert_eq!(error.message(), "Matomo answered with an error: Zugriff f?r ?", "{encoding}");
    }
    proven(
        "Data",
        "databases in other encodings",
        "countries with characters in and out of the encoding",
        "the encoding's own bytes",
        &seen.join(", "),
    );
}

#[test]
fn names_arrive_in_the_encoding_of_the_database() {
    let fake = crate::support::sites::serve_named();
    let mut db = database_in("LATIN1");
    crate::support::sites::server(&mut db, &fake);
    run(&mut db, "SET client_encoding = 'UTF8'");
    let names = "SELECT name FROM matomo_list_sites('analytics')";
    assert_eq!(texts(&mut db, names), ["Café & Co", "T?ky?"]);
    let added = "SELECT name FROM matomo_add_sites('analytics', '2026-10-26')";
    assert_eq!(texts(&mut db, added), ["Café & Co", "T?ky?"]);
    for (site, name, goal) in [(1, "Café & Co", "O'Reilly \"x\""), (2, "T?ky?", "??")] {
        let sql =
            format!("SELECT name FROM matomo_refresh_metadata({site}, server => 'analytics')");
        assert_eq!(texts(&mut db, &sql), [name]);
        let last = format!(
            "SELECT name FROM matomo_goals WHERE idsite = {site} ORDER BY goalid DESC LIMIT 1"
        );
        assert_eq!(texts(&mut db, &last), [goal]);
    }
}

#[test]
fn an_encoding_that_postgres_cannot_convert_is_refused() {
    let fake = serve(Noon::new().world(1));
    let name = format!("{}_mule", shared().database());
    let sql =
        format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'MULE_INTERNAL' LOCALE 'C'");
    run(&mut shared().connect("postgres"), &sql);
    // A client that uses UTF-8 cannot connect to it either.
    let mut psql = shared().program("psql");
    psql.env("PGCLIENTENCODING", "MULE_INTERNAL").args(["-d", &name]);
    psql.args(["-v", "VERBOSITY=verbose", "-c", "CREATE EXTENSION matomo_postgres"]);
    let output = psql.args(["-c", &sync_sql(&fake, 1, "")]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("ERROR:  0A000: database encoding MULE_INTERNAL is not supported"),
        "{said}"
    );
    assert!(said.contains("HINT:  Use a database with encoding UTF8."), "{said}");
    let error = said.lines().find(|line| line.starts_with("ERROR:")).unwrap();
    proven(
        "Data",
        "a MULE_INTERNAL database",
        "an encoding that Postgres converts to no other",
        "`0A000`",
        &format!("`{}`", error.replace("ERROR:  ", "")),
    );
}

/// A trigger's error, in the database's encoding or in none: bytes that are not UTF-8 are
/// replaced.
#[test]
fn a_failure_in_any_encoding_is_noted() {
    for (encoding, text, noted) in [
        ("LATIN1", "'Größe'", "Gr??e"),
        ("KOI8R", "'Россия 1'", "?????? 1"),
        ("SQL_ASCII", "convert_from('\\xe4'::bytea, 'SQL_ASCII')", "\u{fffd}"),
    ] {
        let fake = serve(Noon::new().world(1));
        let name = format!("{}_{}", shared().database(), encoding.to_lowercase());
        let sql =
            format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        run(&mut shared().connect("postgres"), &sql);
        let mut db = shared().connect(&name);
        run(&mut db, "CREATE EXTENSION matomo_postgres");
        crate::support::sites::server(&mut db, &fake);
        run(&mut db, "SELECT matomo_add_site('analytics', 1)");
        run(
            &mut db,
            &format!(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
                     RAISE EXCEPTION '%', {text} USING DETAIL = {text}, HINT = {text};
                 END $f$;
                 CREATE TRIGGER refuse BEFORE INSERT ON matomo FOR EACH ROW EXECUTE FUNCTION refuse()"
            ),
        );
        run(&mut db, "CALL matomo_sync_all()");
        run(&mut db, "CALL matomo_sync_all()");
        let state = "SELECT concat_ws(' ', failures, last_sqlstate, last_error, last_detail, last_hint) FROM matomo_status";
        assert_eq!(
            one::<String>(&mut db, state),
            format!("2 P0001 {noted} {noted} {noted}"),
            "{encoding}"
        );
    }
}

#[test]
fn names_of_tables_and_roles_may_have_all_characters_of_the_database() {
    let fake = serve(Noon::new().world(1));
    let mut db = database_in("LATIN1");
    let owner = role(&mut db);
    server_for(&mut db, &fake, &owner);
    run(&mut db, &format!("ALTER SCHEMA {owner} RENAME TO \"Übersicht\""));
    run(&mut db, &format!("ALTER ROLE {owner} RENAME TO \"{owner}ü\""));
    run(&mut db, &format!("SET ROLE \"{owner}ü\"; SET search_path = \"Übersicht\", public"));
    let site = crate::support::sites::add_site(&mut db, "");
    let call = format!("CALL matomo_sync_site({site})");
    for (former, table) in [("matomo", "größe"), ("größe", "größer")] {
        run(&mut db, &format!("ALTER TABLE \"{former}\" RENAME TO \"{table}\""));
        run(&mut db, &call);
        assert_ne!(one::<i64>(&mut db, &format!("SELECT count(*) FROM \"{table}\"")), 0);
    }
    let names = "SELECT DISTINCT username FROM matomo_runs";
    assert_eq!(texts(&mut db, names), [format!("{owner}ü")]);
    let one_visitor = "SELECT visitorid FROM \"größer\" LIMIT 1";
    let visitor: String = one(&mut db, one_visitor);
    run(&mut db, "RESET ROLE");
    run(&mut db, &format!("SELECT matomo_forget('{visitor}')"));
    let left = format!("SELECT count(*) FROM \"größer\" WHERE visitorid = '{visitor}'");
    assert_eq!(one::<i64>(&mut db, &left), 0);
    run(&mut db, &format!("SELECT matomo_alter_site({site}, retention => '1 year')"));
    run(&mut db, &call);
    let status = "SELECT concat_ws(' | ', failures, last_error, upkeep_error) FROM matomo_status";
    assert_eq!(texts(&mut db, status), ["0"]);
    run(
        &mut db,
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER keep BEFORE DELETE ON \"größer\" FOR EACH ROW EXECUTE FUNCTION keep()",
    );
    let drop = "CALL matomo_drop_before('\"größer\"', now())";
    let kept = error(&mut db, drop);
    // Messages contain only ASCII.
    assert_eq!(
        (kept.code().code(), kept.message().contains("gr??er")),
        ("55000", true),
        "{kept:?}"
    );
    run(&mut db, "DROP TRIGGER keep ON \"größer\"");
    run(&mut db, drop);
    run(&mut db, &format!("SELECT matomo_remove_site({site})"));
}
