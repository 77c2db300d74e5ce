//! Errors of Matomo 4 and 5 are understood in every language.

use fake_matomo::{Fake, Fault, Page, Saying, When};
use postgres::Client;

use crate::support::sites::many::{FIRST, LAST, START, sites};
use crate::support::sites::*;
use crate::support::*;

const LANGUAGES: [&str; 5] = ["en", "fr", "de", "es", "ru"];

/// A Matomo of this version, with a user of this language.
fn matomo(count: i64, language: &str, matomo_4: bool) -> Fake {
    let fake = serve(sites(120, count));
    let mut knobs = fake.knobs();
    (knobs.language, knobs.matomo_4) = (language.to_owned(), matomo_4);
    drop(knobs);
    fake
}

fn everywhere() -> impl Iterator<Item = (&'static str, bool)> {
    LANGUAGES.into_iter().flat_map(|language| [(language, false), (language, true)])
}

/// Both sites, registered and synced once.
fn two_sites(fake: &Fake) -> Client {
    let mut db = database();
    server(&mut db, fake);
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.max_retries = 1");
    for site in [1, 2] {
        run(&mut db, &format!("SELECT matomo_add_site('analytics', {site}{START})"));
    }
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(states(&mut db), ["0 - f", "0 - f"]);
    fake.clear_requests();
    db
}

/// Each site's failures in a row, its last error, and whether it is no longer retried.
fn states(db: &mut Client) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', failures, CASE failures WHEN 0 THEN '-' ELSE last_error END,
                   next_run = 'infinity') FROM matomo_status ORDER BY site_id";
    texts(db, sql)
}

/// Of each site that fails the SQLSTATE, and the seconds until it is retried.
fn failures(db: &mut Client) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', last_sqlstate,
                   CASE next_run WHEN 'infinity' THEN 'never'
                   ELSE round(extract(epoch FROM next_run - last_error_at))::text END)
               FROM matomo_status WHERE failures > 0 ORDER BY site_id";
    texts(db, sql)
}

#[test]
fn a_site_that_may_not_be_seen_stops_alone_and_comes_back() {
    for (language, matomo_4) in everywhere() {
        let case = format!("{language}, Matomo 4: {matomo_4}");
        let fake = matomo(2, language, matomo_4);
        let mut db = two_sites(&fake);
        fake.knobs().hidden_sites.insert(1);
        run(&mut db, "CALL matomo_sync_all()");
        let expected = ["1 the token has no access to the site f", "0 - f"];
        assert_eq!(states(&mut db), expected, "{case}");
        assert_eq!(failures(&mut db), ["28000 60"], "{case}");
        fake.knobs().hidden_sites.clear();
        run(&mut db, "CALL matomo_sync_all()");
        assert_eq!(states(&mut db), ["0 - f", "0 - f"], "{case}");
    }
}

/// Names of visits come in `matomo.language`, and so do the errors.
#[test]
fn the_language_of_visits_changes_no_diagnosis() {
    for (language, of_visits) in [("en", "fr"), ("fr", "ru"), ("de", "fr")] {
        let fake = matomo(2, language, false);
        let mut db = two_sites(&fake);
        run(&mut db, &format!("SET matomo.language = '{of_visits}'; SET matomo.max_retries = 3"));
        fake.fail(
            Fault::Says(Saying::NoView("1".to_owned())),
            When::live().param("idSite", "1").param("language", of_visits),
        );
        fake.knobs().hidden_sites.insert(1);
        run(&mut db, "CALL matomo_sync_all()");
        let expected = ["1 the token has no access to the site f", "0 - f"];
        assert_eq!(states(&mut db), expected, "{language} {of_visits}");
        assert_eq!(failures(&mut db), ["28000 60"], "{language} {of_visits}");
        fake.heal();
        fake.knobs().hidden_sites.clear();
        run(&mut db, "CALL matomo_sync_all()");
        assert_eq!(states(&mut db), ["0 - f", "0 - f"], "{language} {of_visits}");
        fake.clear_requests();
        fake.fail(Fault::Says(Saying::LockedOut), When::live().param("language", of_visits));
        let error = Sync::of(&fake, FIRST, LAST).error(&mut db);
        let message = "Matomo has locked out this server's address";
        assert_eq!((error.code().code(), error.message()), ("28000", message));
        let locked = fake.requests().iter().filter(|seen| seen.fault.is_some()).count();
        assert_eq!(locked, 1, "{language} {of_visits}");
    }
}

/// The error comes in the user's language, in the middle of a sync.
#[test]
fn a_right_that_is_gone_in_the_middle_is_no_refused_token() {
    for (language, matomo_4) in everywhere() {
        let fake = matomo(1, language, matomo_4);
        let mut db = database();
        fake.fail(Fault::Says(Saying::NoView("1".to_owned())), When::live().after(2));
        fake.knobs().hidden_sites.insert(2);
        let error = Sync::of(&fake, FIRST, LAST).error(&mut db);
        let found = (error.code().code(), error.message());
        assert_eq!(found, ("28000", "the token has no access to the site"), "{language}");
        // The site, two days, the third day, and the list of sites that the token may see.
        assert_eq!(fake.requests().len(), 5, "{language}");
    }
}

#[test]
fn a_refused_token_stops_all_sites_of_its_mapping() {
    for (language, matomo_4) in everywhere() {
        let case = format!("{language}, Matomo 4: {matomo_4}");
        let fake = matomo(2, language, matomo_4);
        let mut db = two_sites(&fake);
        let wrong =
            "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token 'wrong')";
        run(&mut db, wrong);
        run(&mut db, "CALL matomo_sync_all()");
        let [first, second] = &states(&mut db)[..] else { panic!("two sites") };
        assert_eq!(first, "1 Matomo refused the token t", "{case}");
        let before = "1 Matomo has refused the token for server \"analytics\" before t";
        assert_eq!(second, before, "{case}");
        assert_eq!(fake.requests().len(), 2, "{case}");
    }
}

/// A proxy that lets only some methods through, and one that fails for a moment: both leave it
/// unknown what the token may see.
#[test]
fn a_refused_token_stops_its_sites_where_more_cannot_be_asked_for() {
    let which = "SitesManager.getSitesIdWithAtLeastViewAccess";
    for (status, first, second) in [
        (
            403,
            "1 Matomo refused the token t",
            "1 Matomo has refused the token for server \"analytics\" before t",
        ),
        (503, "1 the token has no access to the site f", "1 the token has no access to the site f"),
    ] {
        let fake = matomo(2, "fr", false);
        let mut db = two_sites(&fake);
        run(
            &mut db,
            "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token 'wrong')",
        );
        fake.fail(Fault::Status(status, Page::Html), When::always().method(which));
        run(&mut db, "CALL matomo_sync_all()");
        assert_eq!(states(&mut db), [first, second], "{status}");
    }
}

#[test]
fn a_locked_out_address_is_not_asked_for_again() {
    for (language, matomo_4) in everywhere() {
        for live in [false, true] {
            let fake = matomo(1, language, matomo_4);
            let mut db = database();
            run(&mut db, "LOAD 'matomo_postgres'; SET matomo.max_retries = 3");
            let when = if live { When::live() } else { When::always() };
            fake.fail(Fault::Says(Saying::LockedOut), when);
            let error = Sync::of(&fake, FIRST, LAST).error(&mut db);
            let message = "Matomo has locked out this server's address";
            assert_eq!((error.code().code(), error.message()), ("28000", message), "{language}");
            let locked = fake.requests().iter().filter(|seen| seen.fault.is_some()).count();
            assert_eq!(locked, 1, "{language}");
        }
    }
}

#[test]
fn a_query_that_takes_too_long_makes_pages_smaller() {
    for (language, matomo_4) in everywhere() {
        let fake = matomo(1, language, matomo_4);
        let mut db = database();
        fake.fail(Fault::Says(Saying::QueryTooLong), When::live().limit_over(10));
        Sync::of(&fake, FIRST, FIRST).pages_of(40).run(&mut db);
        assert_equal(&mut db, "matomo", &oracle(&fake, FIRST, FIRST));
        // In another language the request is repeated in English.
        let too_much = fake.requests().iter().filter(|seen| seen.fault.is_some()).count();
        let words_in_english = !["fr", "de"].contains(&language);
        assert!(too_much >= if words_in_english { 2 } else { 4 }, "{language}: {too_much}");
        // Visits are fetched without `language`, so names keep the language of the token's user.
        let of_names = |seen: &&fake_matomo::Seen| {
            seen.method.starts_with("Live") && seen.status == 200 && seen.fault.is_none()
        };
        assert!(
            fake.requests().iter().filter(of_names).all(|seen| seen.param("language").is_empty())
        );
    }
}

#[test]
fn a_database_of_matomo_that_is_gone_for_a_moment_passes() {
    let fake = matomo(1, "fr", false);
    let (mut db, notices) = database_with_notices();
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.max_retries = 1");
    let gone = Fault::Says(Saying::DatabaseGone);
    fake.fail(gone.clone(), When::always().method("SitesManager.getSiteFromId").times(1));
    fake.fail(gone, When::live().times(1));
    Sync::of(&fake, FIRST, FIRST).run(&mut db);
    assert_equal(&mut db, "matomo", &oracle(&fake, FIRST, FIRST));
    let said = notices.take();
    let retries = said.iter().filter(|(_, line)| line.contains("gone away; retry 1")).count();
    assert_eq!(retries, 2, "{said:?}");
}

#[test]
fn words_that_nobody_knows_are_told_in_english_and_stop_nobody() {
    let fake = matomo(2, "fr", false);
    let mut db = two_sites(&fake);
    let words = "Une erreur inconnue, 'view' ou autre";
    let error = format!("{{\"result\":\"error\",\"message\":\"{words}\"}}");
    for (body, message) in [
        (error, "the token has no access to the site"),
        (
            "{\"result\":\"error\",\"message\":\"Erreur\"}".to_owned(),
            "Matomo answered with an error: Erreur",
        ),
    ] {
        fake.fail(Fault::Raw(body.into()), When::live().param("idSite", "1"));
        run(&mut db, "CALL matomo_sync_all()");
        let [first, second] = &states(&mut db)[..] else { panic!("two sites") };
        assert!(first.contains(message) && first.ends_with(" f"), "{first}");
        assert_eq!(second, "0 - f");
        fake.heal();
    }
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(states(&mut db), ["0 - f", "0 - f"]);
}

#[test]
fn an_address_that_is_not_let_in_is_no_refused_token() {
    for (language, matomo_4) in everywhere() {
        let fake = matomo(2, language, matomo_4);
        let mut db = two_sites(&fake);
        fake.knobs().address_refused = true;
        let refused = error(&mut db, "CALL matomo_sync_site(1)");
        let says = "Matomo says: You cannot use this Matomo as your IP 127.0.0.1 is not allowed.";
        let message = "Matomo rejected this server's IP address";
        assert_says(&refused, "28000", message, &[says], "login_allowlist_ip[]");
        run(&mut db, "CALL matomo_sync_all()");
        let not_let_in = format!(" {message} f");
        assert!(states(&mut db).iter().all(|state| state.ends_with(&not_let_in)));
        fake.knobs().address_refused = false;
        run(&mut db, "CALL matomo_sync_all()");
        assert_eq!(states(&mut db), ["0 - f", "0 - f"]);
    }
}

#[test]
fn what_is_not_stored_is_asked_for_in_english() {
    let fake = matomo(1, "de", false);
    let mut db = database();
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.language = 'fr'");
    Sync::of(&fake, FIRST, FIRST).run(&mut db);
    let asked: Vec<_> = fake
        .requests()
        .iter()
        .map(|seen| (seen.method.clone(), seen.param("language").to_owned()))
        .collect();
    let of = |method: &str, language: &str| (method.to_owned(), language.to_owned());
    assert!(asked.contains(&of("SitesManager.getSiteFromId", "en")), "{asked:?}");
    assert!(asked.contains(&of("Live.getLastVisitsDetails", "fr")), "{asked:?}");
    assert!(!asked.contains(&of("Live.getLastVisitsDetails", "en")), "{asked:?}");
}
