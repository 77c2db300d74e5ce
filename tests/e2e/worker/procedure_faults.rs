//! Syncs of registered sites that fail: messages, what is recorded, and that other sites continue.

use fake_matomo::{Fault, When};

use crate::support::cluster::shared;
use crate::support::sites::many::*;
use crate::support::sites::*;
use crate::support::*;

#[test]
fn a_site_that_fails_does_not_keep_the_next_from_its_turn() {
    let fake = serve(sites(108, 3));
    let name = shared().database();
    let (mut db, said) = connect_with_notices(shared(), &name, "postgres");
    server(&mut db, &fake);
    run(&mut db, "SET matomo.max_retries = 0");
    for site in 1..=3 {
        run(
            &mut db,
            &format!("SELECT matomo_add_site('analytics', {site}, start_date => '2026-10-19')"),
        );
    }
    fake.fail(
        Fault::Html,
        When::live().param("idSite", "2").param("date", "2026-10-22,2026-10-22"),
    );
    run(&mut db, "CALL matomo_sync_all()");
    let warnings = said.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_says(
        &warnings[0],
        "08P01",
        "registered site 2: the answer of Matomo is not JSON but an HTML page with the title \"Sign in\"",
        &["Method Live.getLastVisitsDetails, site 2 at", "day 2026-10-22, HTTP status 200."],
        "Check that the URL is that of a Matomo",
    );
    for site in [1, 3] {
        let copied = "SELECT count(*) FROM matomo WHERE idsite = ";
        let all = i64::try_from(all_of(&fake, site).len()).unwrap();
        assert_eq!(one::<i64>(&mut db, &format!("{copied} '{site}'")), all);
    }
    assert_eq!(runs(&mut db, 1)[0].split(' ').next(), Some("succeeded"));
    // The days before the failure are there to stay.
    assert!(runs(&mut db, 2)[0].starts_with("failed 3 "), "{:?}", runs(&mut db, 2));
    let sealed = "SELECT string_agg(day::text, ' ' ORDER BY day) FROM matomo_days WHERE idsite = 2";
    assert_eq!(one::<String>(&mut db, sealed), "2026-10-19 2026-10-20 2026-10-21");
    let noted: String = one(
        &mut db,
        "SELECT concat_ws(' | ', sqlstate, return_message, detail, hint) FROM matomo_runs WHERE site_id = 2",
    );
    assert_eq!(noted.split(" | ").count(), 4, "{noted}");
    // By itself the site raises its error, once that is noted.
    let failed = error(&mut db, "CALL matomo_sync_site(2)");
    assert_says(
        &failed,
        "08P01",
        "the answer of Matomo is not JSON but an HTML page with the title \"Sign in\"",
        &["day 2026-10-22"],
        "Check that the URL",
    );
    assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status WHERE site_id = 2"), 2);
    assert_eq!(runs(&mut db, 2).len(), 2);
    // And it goes on where it stood.
    fake.heal();
    fake.clear_requests();
    run(&mut db, "CALL matomo_sync_all()");
    let asked = asked(&fake);
    assert!(asked.iter().any(|line| line == "day 2026-10-22"));
    assert!(!asked.iter().any(|line| line == "day 2026-10-21"));
    let mut all = all_of(&fake, 1);
    all.extend(all_of(&fake, 2));
    all.extend(all_of(&fake, 3));
    assert_equal(&mut db, "matomo", &all);
    let state = "SELECT concat_ws(' ', failures, last_sqlstate, last_success_at > last_error_at) FROM matomo_site_state WHERE site_id = 2";
    assert_eq!(one::<String>(&mut db, state), "0 08P01 t");
}

#[test]
fn a_refused_token_is_asked_with_once() {
    let fake = serve(sites(109, 2));
    let name = shared().database();
    let (mut db, said) = connect_with_notices(shared(), &name, "postgres");
    server(&mut db, &fake);
    run(&mut db, "SELECT matomo_add_site('analytics', 1, start_date => '2026-10-19')");
    run(
        &mut db,
        "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token 'revoked')",
    );
    fake.clear_requests();
    run(&mut db, "CALL matomo_sync_all()");
    let refused = said.warnings();
    assert_says(
        &refused[0],
        "28000",
        "registered site 1: Matomo refused the token",
        &[],
        "some 18 refused tokens",
    );
    // For the site, and for what every token may ask.
    assert_eq!(asked(&fake).len(), 2);
    let next: String = one(&mut db, "SELECT next_run::text FROM matomo_status");
    assert_eq!(next, "infinity");
    for _ in 0..3 {
        run(&mut db, "CALL matomo_sync_all()");
        assert_says(
            &said.warnings()[0],
            "28000",
            "registered site 1: Matomo has refused the token for server \"analytics\" before",
            &[
                "The same token is not sent again: after some 18 refused tokens Matomo locks out this server's address.",
            ],
            "Fix it with ALTER USER MAPPING FOR postgres SERVER analytics OPTIONS (SET token '...'); or, if the token is good now, retry with SELECT matomo_alter_site(1).",
        );
    }
    assert_eq!(error(&mut db, "CALL matomo_sync_site(1)").code().code(), "28000");
    assert_eq!(asked(&fake), [""; 0]);
    assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status"), 5);
    // Another wrong one is asked with once, too.
    run(
        &mut db,
        "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token 'mistyped')",
    );
    run(&mut db, "CALL matomo_sync_all()");
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(asked(&fake).len(), 2);
    // By hand it is tried again, and a good one is found out at once.
    run(&mut db, "SELECT matomo_alter_site(1)");
    assert_eq!(error(&mut db, "CALL matomo_sync_site(1)").message(), "Matomo refused the token");
    assert_eq!(asked(&fake).len(), 2);
    run(
        &mut db,
        &format!(
            "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token '{}')",
            fake.token()
        ),
    );
    run(&mut db, "CALL matomo_sync_all()");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status"), 0);
}

#[test]
fn a_refused_token_is_asked_with_once_for_all_sites() {
    let fake = serve(sites(113, 3));
    let mut db = database();
    server(&mut db, &fake);
    for site in 1..=3 {
        run(
            &mut db,
            &format!("SELECT matomo_add_site('analytics', {site}, start_date => '2026-10-19')"),
        );
    }
    run(
        &mut db,
        "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token 'revoked')",
    );
    fake.clear_requests();
    run(&mut db, "CALL matomo_sync_all()");
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(asked(&fake).len(), 2);
    let waiting = "SELECT count(*) FROM matomo_status WHERE failures = 2 AND next_run = 'infinity'";
    assert_eq!(one::<i64>(&mut db, waiting), 3);
    // Whichever of them is altered has it tried again, once.
    run(&mut db, "SELECT matomo_alter_site(2)");
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(asked(&fake).len(), 2);
    let good = fake.token();
    run(
        &mut db,
        &format!(
            "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token '{good}')"
        ),
    );
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_status WHERE failures = 0"), 3);
}

#[test]
fn a_site_that_is_being_synced_is_skipped() {
    let fake = serve(sites(110, 2));
    let name = shared().database();
    let (mut db, said) = connect_with_notices(shared(), &name, "postgres");
    server(&mut db, &fake);
    let hung = add_site(&mut db, START);
    run(&mut db, "SELECT matomo_add_site('analytics', 2, start_date => '2026-10-19')");
    let skipped =
        format!("matomo: registered site {hung} is being synced by another session, skipped");
    for other in [
        "CALL matomo_sync_all()",
        "SELECT matomo_sync(1, server => 'analytics', start_date => '2026-10-19')",
    ] {
        fake.fail(Fault::Hang, When::live().param("idSite", "1").times(1));
        fake.clear_requests();
        let mut first = shared().connect(&name);
        let token = first.cancel_token();
        std::thread::scope(|scope| {
            let hanging = scope.spawn(|| first.batch_execute(other).unwrap_err());
            wait_until("the first one hangs", || {
                fake.requests().iter().any(|seen| seen.fault.is_some())
            });
            let before = one::<i64>(&mut db, "SELECT count(*) FROM matomo_runs");
            run(&mut db, "CALL matomo_sync_all()");
            assert_eq!(said.notices_of("skipped"), std::slice::from_ref(&skipped));
            let warnings = said.warnings();
            assert_eq!(warnings.len(), 0, "{warnings:?}");
            // The other site had its turn, and the skipped one no run.
            assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_runs"), before + 1);
            run(&mut db, &format!("CALL matomo_sync_site({hung})"));
            assert_eq!(said.notices_of("skipped"), std::slice::from_ref(&skipped));
            token.cancel_query(postgres::NoTls).unwrap();
            assert_eq!(hanging.join().unwrap().code().unwrap().code(), "57014");
        });
        fake.heal();
    }
    assert_eq!(
        one::<i32>(&mut db, &format!("SELECT failures FROM matomo_status WHERE site_id = {hung}")),
        1
    );
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(said.notices_of("skipped"), [""; 0]);
    let mut all = all_of(&fake, 1);
    all.extend(all_of(&fake, 2));
    assert_equal(&mut db, "matomo", &all);
}

#[test]
fn disabled_sites_are_left_out_unless_they_are_named() {
    let fake = serve(sites(111, 2));
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, ", start_date => '2026-10-19', enabled => false");
    fake.clear_requests();
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(asked(&fake), [""; 0]);
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert_says(
        &error(&mut db, "CALL matomo_sync_site(99)"),
        "42704",
        "registered site 99 does not exist",
        &[],
        "matomo_sites",
    );
    assert_says(
        &error(&mut db, "CALL matomo_sync_site(NULL)"),
        "22004",
        "argument \"id\" must not be null",
        &[],
        "",
    );
}

#[test]
fn a_site_whose_table_or_server_or_owner_is_gone_says_so() {
    let fake = serve(sites(112, 1));
    let (name, mut admin, owner) = database_and_role();
    server_for(&mut admin, &fake, &owner);
    let mut db = connect_as(&name, &owner);
    let site = add_site(&mut db, START);
    run(&mut db, &format!("DROP TABLE {}", all_four("matomo")));
    let call = format!("CALL matomo_sync_site({site})");
    assert_says(
        &error(&mut db, &call),
        "42P01",
        &format!("the destination of registered site {site} does not exist any more"),
        &[],
        &format!(
            "Give it another one with SELECT matomo_alter_site({site}, destination => '...'), or remove it with matomo_remove_site."
        ),
    );
    run(&mut db, &format!("SELECT matomo_alter_site({site}, destination => 'matomo')"));
    run(&mut admin, &format!("REVOKE USAGE ON FOREIGN SERVER analytics FROM {owner}"));
    assert_eq!(error(&mut db, &call).message(), "permission denied for foreign server analytics");
    run(&mut admin, "DROP SERVER analytics CASCADE");
    assert_eq!(error(&mut db, &call).message(), "server \"analytics\" does not exist");
    drop(db);
    run(&mut admin, &format!("DROP OWNED BY {owner}; DROP ROLE {owner}"));
    assert_says(
        &error(&mut admin, &call),
        "42704",
        &format!("the owner of registered site {site} does not exist any more"),
        &[],
        &format!("Give it another one with SELECT matomo_alter_site({site}, owner => '...')."),
    );
    run(&mut admin, &format!("SELECT matomo_remove_site({site})"));
}

#[test]
fn what_a_constraint_refuses_is_told_without_keeping_the_row() {
    let fake = serve(sites(110, 1));
    let mut db = database();
    server(&mut db, &fake);
    let site: i32 =
        one(&mut db, "SELECT matomo_add_site('analytics', 1, start_date => '2026-10-19')");
    let noted = "SELECT concat_ws(' | ', sqlstate, return_message, last_detail, r.detail)
        FROM matomo_runs r JOIN matomo_status USING (site_id) ORDER BY runid DESC LIMIT 1";
    for (change, message, quoted) in [
        (
            "ALTER TABLE matomo ADD CONSTRAINT few CHECK (visitorid IS NULL)",
            "23514 | new row for relation \"matomo\" violates check constraint \"few\"",
            "Failing row contains",
        ),
        (
            "ALTER TABLE matomo DROP CONSTRAINT few; CREATE UNIQUE INDEX one ON matomo (idsite, visitorid)",
            "23505 | duplicate key value violates unique constraint \"one\"",
            "Key (idsite, visitorid)=(",
        ),
        (
            "DROP INDEX one; ALTER TABLE matomo ALTER visitorid TYPE uuid USING NULL",
            "22P02 | invalid input syntax for type uuid: …",
            "invalid input syntax for type uuid: \"",
        ),
    ] {
        run(&mut db, change);
        let failed = error(&mut db, &format!("CALL matomo_sync_site({site})"));
        let told = failed.detail().unwrap_or_else(|| failed.message());
        assert!(told.starts_with(quoted), "{failed:?}");
        assert_eq!(one::<String>(&mut db, noted), message);
    }
    // What we have to say ourselves stays.
    run(&mut db, "ALTER TABLE matomo ALTER visitorid TYPE text");
    let unknown = "An unexpected website was found in the request: website id was set to '1' .";
    fake.fail(Fault::ErrorEnvelope(unknown.to_owned()), When::always());
    error(&mut db, &format!("CALL matomo_sync_site({site})"));
    let noted = one::<String>(&mut db, noted);
    assert!(noted.starts_with("22023 | Matomo does not know the site | Method "), "{noted}");
}

/// A trigger or a client may keep the transaction of a sync open for ever.
#[test]
fn a_site_that_is_held_for_over_an_hour_has_failed() {
    let fake = serve(sites(3, 1));
    let name = shared().database();
    let mut db = shared().connect(&name);
    server(&mut db, &fake);
    let site = add_site(&mut db, START);
    run(&mut db, "CALL matomo_sync_all()");
    let mut holder = shared().connect(&name);
    run(
        &mut holder,
        "BEGIN; SELECT matomo_sync(1, server => 'analytics', start_date => current_date)",
    );
    let call = |db: &mut postgres::Client, last_success: &str| {
        let sql = format!("UPDATE matomo_site_state SET last_success_at = {last_success}");
        run(db, &sql);
        run(db, &format!("CALL matomo_sync_site({site})"));
        one::<String>(db, "SELECT concat_ws(' ', failures, last_sqlstate) FROM matomo_status")
    };
    assert_eq!(call(&mut db, "now()"), "0");
    // A new site has had no time yet.
    assert_eq!(call(&mut db, "NULL"), "0");
    run(&mut db, "UPDATE matomo_site_state SET changed_at = changed_at - interval '1 week'");
    assert_eq!(call(&mut db, "now() - interval '50 minutes'"), "0");
    assert_eq!(call(&mut db, "now() - interval '3 hours'"), "1 55P03");
    assert_eq!(call(&mut db, "now() - interval '4 hours'"), "1 55P03");
    run(&mut holder, "COMMIT");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status"), 0);
}
