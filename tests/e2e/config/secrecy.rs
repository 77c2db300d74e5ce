//! The token is never shown: not in errors, `pg_stat_activity` or the log. Each test has its own
//! token, so that all can check the whole log of one server.

use std::thread;

use fake_matomo::{Fault, Page, When};
use postgres::NoTls;

use crate::support::secrecy::*;
use crate::support::*;

#[test]
fn no_failure_of_matomo_tells_the_token() {
    let token = "7a5d0c11failureofmatomo90b2e4f6a8";
    let name = database_with_table();
    // An excerpt of 200 characters ends in the middle of the token.
    let cut = format!("{} {token} and more", "x".repeat(185));
    let page = format!("<html><title>Error: token_auth={token}</title></html>");
    let cases = [
        (Fault::Status(401, Page::Html), "28000", "Matomo answered with HTTP status 401"),
        (Fault::Status(500, Page::Html), "08006", "Matomo answered with HTTP status 500"),
        (Fault::EchoToken, "08006", "Matomo answered with HTTP status 500"),
        (Fault::Html, "08P01", "the answer of Matomo is not JSON but an HTML page"),
        (Fault::Raw(page.into()), "08P01", "with the title \"Error: token_auth=***\""),
        (Fault::Raw(format!("GIF {token}").into()), "08P01", "is not JSON but text: GIF ***"),
        (Fault::Raw(cut.clone().into()), "08P01", "is not JSON but text: xxxx"),
        (Fault::HalfBody, "08006", "the answer of Matomo broke off"),
        (Fault::Reset, "08006", "the answer of Matomo broke off"),
        (Fault::ErrorEnvelope(format!("{token} is odd")), "08P01", "error: *** is odd"),
        (Fault::ErrorEnvelope(cut), "08P01", "Matomo answered with an error: xxxx"),
        (Fault::ErrorEnvelope(format!("token_auth {token}")), "08P01", "error: token_auth ***"),
        (Fault::Status500Envelope(format!("no {token}")), "08P01", "error: no ***"),
        (Fault::Redirect(302, format!("/?token_auth={token}")), "08P01", "\"/?token_auth=***\""),
        (Fault::RetryAfter(1), "53400", "wait 1 s"),
        (Fault::NotArray, "08P01", "an object where a list of visits belongs"),
    ];
    for (fault, code, message) in cases {
        let what = format!("{fault:?}");
        let fake = serve_with(token);
        fake.fail(fault, When::live());
        let mut session = Session::new(&name);
        session.db.batch_execute("SET matomo.max_retries = 0").unwrap();
        let error = session.fails(&Sync::of(&fake, FIRST, LAST).sql());
        assert_eq!(error.code().code(), code, "{what}: {error:?}");
        assert!(error.message().contains(message), "{what}: {error:?}");
        let detail = error.detail().unwrap();
        assert!(detail.contains("Method Live.getLastVisitsDetails, site 1 at http"), "{detail}");
        assert!(detail.contains(&format!("day {FIRST}")), "{detail}");
        assert_absent(&what, token, &format!("{error:?}"));
        // The log has the error, but not the statement.
        let log = session.log();
        assert!(log.contains(&format!("ERROR:  {code}: ")), "{what}: {log}");
        session.assert_kept(&what, token);
    }
    assert!(!talkative().log().contains("failureofmatomo"));
}

#[test]
fn retries_do_not_tell_the_token() {
    let token = "31c8e7aa90triesfailures55d1b3c2e7f";
    let fake = serve_with(token);
    fake.fail(Fault::EchoToken, When::once());
    fake.fail(Fault::Status(503, Page::Html), When::live().times(1));
    let mut session = Session::new(&database_with_table());
    session.db.batch_execute(&Sync::of(&fake, FIRST, LAST).sql()).unwrap();
    let said: Vec<_> =
        session.said.lock().unwrap().iter().map(|notice| notice.message().to_owned()).collect();
    assert!(said[0].starts_with("matomo: Matomo answered with HTTP status 500; retry 1 in 0."));
    assert!(said[1].starts_with("matomo: Matomo answered with HTTP status 503; retry 1 in 0."));
    // Some retries wait a second.
    let progress = format!("matomo: site 1, {LAST}: 2 of 2 days");
    assert!(said[2..].iter().any(|line| line.starts_with(&progress)), "{said:?}");
    session.assert_kept("retries", token);
}

#[test]
fn no_refused_argument_tells_the_token() {
    let token = "b2d94e60argumentrefused1f7c3a5d";
    let name = talkative().database();
    let url = "http://127.0.0.1:9";
    let cases = [
        (format!("matomo_sync(0, '{url}', '{token}')"), "22023", "site 0 is no ID of a site"),
        (format!("matomo_sync(NULL, '{url}', '{token}')"), "22004", "argument \"site\" must not"),
        (format!("matomo_sync(1, NULL, '{token}')"), "22004", "argument \"url\" must not"),
        (
            format!("matomo_sync(1, '{url}', '{token}', '2026-02-02', '2026-02-01')"),
            "22023",
            "end_date 2026-02-01 is before start_date 2026-02-02",
        ),
        (
            format!("matomo_sync(1, '{url}', '{token}', '-infinity')"),
            "22023",
            "start_date is out of range",
        ),
        (
            format!("matomo_sync(1, '{url}', '{token}', page_size => 0)"),
            "22023",
            "page_size 0 is out of range",
        ),
        (
            format!("matomo_sync(1, '{url}', '{token}', destination => 'nowhere')"),
            "42P01",
            "destination \"nowhere\" does not exist",
        ),
        (
            format!("matomo_sync(1, '{url}/?token_auth={token}', '{token}')"),
            "22023",
            "invalid URL of Matomo: it has a query or a fragment",
        ),
        // URL and key swapped.
        (
            format!("matomo_sync(1, '{token}', '{url}')"),
            "22023",
            "invalid URL of Matomo: it does not begin with https:// or http://",
        ),
        (
            format!("matomo_sync(1, 'http://:{token}@x', '{token}')"),
            "22023",
            "user name or password",
        ),
    ];
    for (call, code, message) in cases {
        let mut session = Session::new(&name);
        let error = session.fails(&format!("SELECT * FROM {call}"));
        assert_eq!(error.code().code(), code, "{error:?}");
        assert!(error.message().contains(message), "{error:?}");
        assert_absent(&call, token, &format!("{error:?}"));
        assert!(session.log().contains(&format!("ERROR:  {code}: ")), "{call}");
        session.assert_kept(&call, token);
    }
}

#[test]
fn what_the_users_table_refuses_does_not_tell_the_token() {
    let token = "e05577ceconstraintandtrigger88ad01";
    let fake = serve_with(token);
    for (make, code, message) in [
        ("CREATE UNIQUE INDEX one ON matomo (idvisit)", "23505", "constraint \"one\""),
        (
            "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not here'; END $$;
             CREATE TRIGGER no BEFORE INSERT ON matomo FOR EACH ROW EXECUTE FUNCTION no()",
            "P0001",
            "not here",
        ),
        ("ALTER TABLE matomo ADD CHECK (idsite <> '1')", "23514", "check constraint"),
    ] {
        let mut session = Session::new(&database_with_table());
        session.db.batch_execute(make).unwrap();
        let error = session.fails(&Sync::of(&fake, FIRST, LAST).sql());
        assert_eq!(error.code().code(), code, "{error:?}");
        assert!(error.message().contains(message), "{error:?}");
        assert_absent(make, token, &format!("{error:?}"));
        assert!(session.log().contains(&format!("ERROR:  {code}: ")));
        session.assert_kept(make, token);
    }
}

#[test]
fn no_interrupt_tells_the_token() {
    let token = "90fd3b21interruptsareheard44c6e8aa";
    let name = database_with_table();
    for (set, interrupt, line) in [
        (
            "",
            "SELECT pg_cancel_backend($1)",
            "ERROR:  57014: canceling statement due to user request",
        ),
        (
            "SET statement_timeout = '500ms'",
            "SELECT $1::int IS NOT NULL",
            "ERROR:  57014: canceling statement due to statement timeout",
        ),
        ("", "SELECT pg_terminate_backend($1)", "FATAL:  57P01: terminating connection due to"),
    ] {
        let fake = serve_with(token);
        fake.fail(Fault::Hang, When::live());
        let mut session = Session::new(&name);
        session.db.batch_execute(set).unwrap();
        let pid = pid(&mut session.db);
        let sql = Sync::of(&fake, FIRST, LAST).sql();
        thread::scope(|scope| {
            let call = scope.spawn(|| session.db.batch_execute(&sql).unwrap_err());
            wait_until("a request that hangs", || fake.requests().len() == 2);
            let mut other = talkative().connect("postgres");
            assert!(other.query_one(interrupt, &[&pid]).unwrap().get::<_, bool>(0));
            assert_absent(line, token, &format!("{:?}", call.join().unwrap()));
        });
        wait_until(line, || session.log().contains(&format!("[{pid}] {line}")));
        session.assert_kept(line, token);
    }
}

#[test]
fn a_good_sync_tells_its_progress_but_not_the_token() {
    let token = "d17ab3c9agoodsyncisquiet06e2f4b1";
    let fake = serve_with(token);
    let name = talkative().database();
    let mut session = Session::new(&name);
    session.db.batch_execute(&Sync::of(&fake, FIRST, LAST).sql()).unwrap();
    assert!(
        session.log().contains(&format!("NOTICE:  00000: matomo: site 1, {LAST}: 2 of 2 days, "))
    );
    // An idle process shows the last line.
    assert!(activity().contains(&format!("\"query\": \"matomo: site 1, {LAST}: 2 of 2 days, ")));
    session.assert_kept("a good sync", token);
}

#[test]
fn pg_stat_activity_shows_progress_while_a_sync_waits() {
    let token = "5c8f20e7activitytellsprogress39b4d6";
    let name = database_with_table();
    let fake = serve_with(token);
    for (fault, shows) in [
        (When::always(), "matomo: site 1, asks for the site: 0 of 0 days"),
        (When::live(), "matomo: site 1, begins: 0 of 2 days, 0 visits, 0 actions"),
        (When::live().after(1), "matomo: site 1, 2026-03-02: 1 of 2 days, "),
    ] {
        fake.heal();
        fake.fail(Fault::Hang, fault);
        let mut session = Session::new(&name);
        let sql = Sync::of(&fake, FIRST, LAST).sql();
        let (process, token_to_cancel) = (pid(&mut session.db), session.db.cancel_token());
        thread::scope(|scope| {
            let call = scope.spawn(|| session.db.batch_execute(&sql).unwrap_err());
            wait_until(shows, || activity_of(process).contains(&format!("\"query\": \"{shows}")));
            for _ in 0..10 {
                assert_absent(shows, token, &activity());
            }
            token_to_cancel.cancel_query(NoTls).unwrap();
            call.join().unwrap();
        });
        // Also while idle after a failure.
        session.assert_kept(shows, token);
    }
}

#[test]
fn pg_stat_activity_does_not_tell_the_token_of_a_sync_that_waits_for_a_lock() {
    let token = "aa41e9d3waitsforalockoftable7b5c02";
    let name = database_with_table();
    let fake = serve_with(token);
    let mut other = talkative().connect(&name);
    other.batch_execute("BEGIN; LOCK TABLE matomo IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut session = Session::new(&name);
    // Without a start date it first looks for the newest row.
    let sql = format!("SELECT * FROM matomo_sync(1, '{}', '{token}')", fake.url());
    thread::scope(|scope| {
        let call = scope.spawn(|| session.db.batch_execute(&sql).unwrap());
        wait_until("the lock", || activity().contains("\"wait_event_type\": \"Lock\""));
        let seen = activity();
        other.batch_execute("COMMIT").unwrap();
        call.join().unwrap();
        assert_absent("pg_stat_activity", token, &seen);
        assert!(seen.contains("\"query\": \"matomo: site 1, "), "{seen}");
    });
    session.assert_kept("a lock", token);
}
