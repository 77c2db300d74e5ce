//! Transient failures are retried, with a NOTICE; others are not.

use std::time::Duration;

use fake_matomo::{Fault, Page, Saying, When};

use super::*;

/// The retries in the notices, without tables and days.
fn retries(notices: &Notices) -> Vec<String> {
    let all = notices.take().into_iter();
    let lines = all.filter(|(_, line)| line.contains("; retry "));
    lines.map(|(severity, line)| format!("{severity}: {line}")).collect()
}

/// Compares retries with the expected failures ("..." ends a prefix) and numbers.
#[track_caller]
fn assert_retries(found: &[String], expected: &[(&str, u32)]) {
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (line, (failed, number)) in found.iter().zip(expected) {
        let rest = line.strip_prefix("NOTICE: matomo: ").unwrap_or_else(|| panic!("{line}"));
        let (what, when) = rest.rsplit_once("; ").unwrap();
        match failed.strip_suffix("...") {
            Some(begin) => assert!(what.starts_with(begin), "{line}"),
            None => assert_eq!(what, *failed),
        }
        assert!(when.starts_with(&format!("retry {number} in ")) && when.ends_with(" s"), "{line}");
    }
}

fn of_day(day: &str) -> When {
    When::live().param("date", &format!("{day},{day}")).times(1)
}

#[test]
fn what_passes_does_not_fail_a_sync() {
    let broken = "the answer of Matomo broke off: ...";
    let rounds: [[(Fault, &str); 3]; 4] = [
        [
            (Fault::Reset, broken),
            (Fault::Status(500, Page::Json), "Matomo answered with HTTP status 500"),
            (Fault::Empty, "the answer of Matomo broke off: it is empty"),
        ],
        [
            (Fault::Status(502, Page::Html), "Matomo answered with HTTP status 502"),
            (Fault::HalfBody, broken),
            (Fault::Status(503, Page::Empty), "Matomo answered with HTTP status 503"),
        ],
        [
            (Fault::RetryAfter(0), "Matomo limits the rate of requests: wait 0 s"),
            (Fault::Status(500, Page::Html), "Matomo answered with HTTP status 500"),
            (
                Fault::Status500Envelope("SQLSTATE[HY000] [2002] Connection refused".to_owned()),
                "Matomo answered with an error: SQLSTATE[HY000] [2002] Connection refused",
            ),
        ],
        [
            (Fault::Status(429, Page::Html), "Matomo limits the rate of requests"),
            (
                Fault::Raw(b"[{\"idVisit\":7,\"actionDetails\":[".to_vec()),
                "the answer of Matomo broke off: it ends in the middle",
            ),
            (Fault::Reset, broken),
        ],
    ];
    std::thread::scope(|scope| {
        for (round, faults) in rounds.into_iter().enumerate() {
            scope.spawn(move || {
                let table = TABLES[round % 2];
                let fake = serve(world(12, "Europe/Paris", 3, FIRST, LAST));
                let [(first, _), (second, _), (third, _)] = faults.clone();
                fake.fail(first, When::always().method("SitesManager.getSiteFromId").times(1));
                fake.fail(second, of_day(FIRST));
                // The first break of a kept connection is not a failure: the server may just have
                // closed it.
                let breaks = if third == Fault::Reset { 2 } else { 1 };
                fake.fail(third, of_day(LAST).times(breaks));
                let (mut db, notices) = database_with_notices();
                db.batch_execute("SET matomo.max_retries = 1").unwrap();
                Sync::of(&fake, FIRST, LAST).into(table).run(&mut db);
                assert_retries(&retries(&notices), &faults.map(|(_, failed)| (failed, 1)));
                assert_equal(&mut db, table, &oracle(&fake, FIRST, LAST));
            });
        }
    });
}

#[test]
fn a_timeout_passes_too() {
    let fake = serve(world(12, "UTC", 3, FIRST, LAST));
    fake.fail(Fault::Hang, When::always().method("SitesManager.getSiteFromId").times(1));
    let (mut db, notices) = database_with_notices();
    db.batch_execute("SET matomo.max_retries = 1; SET matomo.request_timeout = 1").unwrap();
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    assert_retries(&retries(&notices), &[("Matomo did not answer within 1 s", 1)]);
    assert_equal(&mut db, "matomo", &oracle(&fake, FIRST, LAST));
}

#[test]
fn retries_end_and_come_ever_later() {
    let fake = serve(world(12, "UTC", 3, FIRST, LAST));
    fake.fail(Fault::Status(503, Page::Html), of_day(MIDDLE).times(usize::MAX));
    let (mut db, notices) = database_with_notices();
    let sync = Sync::of(&fake, FIRST, LAST);
    for most in [0, 2] {
        fake.clear_requests();
        db.batch_execute(&format!("SET matomo.max_retries = {most}")).unwrap();
        let error = sync.error(&mut db);
        assert_eq!(error.code().code(), "08006");
        let message = "Matomo answered with HTTP status 503";
        assert_eq!(error.message(), message);
        let expected: Vec<_> = (1..=most).map(|number| (message, number)).collect();
        assert_retries(&retries(&notices), &expected);
        let failed: Vec<_> =
            fake.requests().into_iter().filter(|seen| seen.fault.is_some()).collect();
        assert_eq!(failed.len(), 1 + usize::try_from(most).unwrap());
        for (number, pair) in failed.windows(2).enumerate() {
            // Half a second, doubled each time, plus up to a quarter.
            let least = Duration::from_millis(500 << number);
            let wait = pair[1].at - pair[0].at;
            assert!(wait >= least && wait < least * 3 / 2 + Duration::from_millis(500), "{wait:?}");
            // A retry repeats the same request.
            assert_eq!(pair[1].params.0, pair[0].params.0);
        }
    }
    assert_eq!(one::<Option<u32>>(&mut db, "SELECT to_regclass('matomo')::oid"), None);
}

#[test]
fn matomo_says_how_long_to_wait() {
    let fake = serve(world(12, "UTC", 3, FIRST, LAST));
    fake.fail(Fault::RetryAfter(1), of_day(MIDDLE));
    let (mut db, notices) = database_with_notices();
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    let expected = "NOTICE: matomo: Matomo limits the rate of requests: wait 1 s; retry 1 in 1.0 s";
    assert_eq!(retries(&notices), [expected]);
    let day = format!("{MIDDLE},{MIDDLE}");
    let asked: Vec<_> =
        fake.requests().into_iter().filter(|seen| seen.param("date") == day).collect();
    assert_eq!(asked.len(), 2);
    assert!(asked[1].at - asked[0].at >= Duration::from_secs(1));
}

#[test]
fn what_will_not_pass_is_asked_once() {
    let fake = serve(world(12, "UTC", 3, FIRST, LAST));
    let (mut db, notices) = database_with_notices();
    db.batch_execute("SET matomo.max_retries = 3").unwrap();
    let words = |text: &str| Fault::ErrorEnvelope(text.to_owned());
    for (fault, state) in [
        (Fault::Status(401, Page::Html), "28000"),
        (Fault::Says(Saying::AddressRefused), "28000"),
        (Fault::Says(Saying::NoView("1".to_owned())), "28000"),
        (Fault::Says(Saying::LockedOut), "28000"),
        (Fault::Says(Saying::VisitsLogOff), "55000"),
        (words("An unexpected website was found in the request"), "22023"),
        (words("The plugin Live is not enabled."), "08P01"),
        (Fault::Status(400, Page::Json), "08P01"),
        (Fault::Status(403, Page::Html), "08P01"),
        (Fault::Status(404, Page::Html), "08P01"),
        (Fault::Redirect(302, "/login".to_owned()), "08P01"),
        (Fault::Html, "08P01"),
        (Fault::Around("\nNotice: Undefined index: x in /var/www/y.php on line 3\n", ""), "08P01"),
        (Fault::Around("", "\n<!-- served from cache -->"), "08P01"),
        (Fault::NotArray, "08P01"),
    ] {
        for when in [When::always(), of_day(MIDDLE).times(usize::MAX)] {
            fake.clear_requests();
            fake.fail(fault.clone(), when);
            let error = Sync::of(&fake, FIRST, LAST).error(&mut db);
            assert_eq!(error.code().code(), state, "{fault:?}: {error:?}");
            let requests = fake.requests();
            let failed: Vec<_> = requests.iter().filter(|seen| seen.fault.is_some()).collect();
            // A refusal is confirmed by one more request; one that is not in English by another
            // one in English.
            let asked: Vec<_> =
                failed.iter().map(|seen| (&seen.method, seen.params.get("language"))).collect();
            let twice = asked.iter().enumerate().any(|(n, one)| asked[..n].contains(one));
            assert!(!twice && failed.len() <= 3, "{fault:?}: {asked:?}");
            fake.heal();
        }
    }
    assert_eq!(retries(&notices), [""; 0]);
}
