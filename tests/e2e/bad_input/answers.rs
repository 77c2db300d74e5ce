//! Invalid answers. Each is tested for the request for the site, and in the middle of a range,
//! after a valid day.

use std::time::{Duration, Instant};

use fake_matomo::{Fault, Page, When};

use super::*;

const SERVER: &str = "Look into the log of the Matomo";
const FOLDER: &str = "Check the folder in the URL";
const NOT_MATOMO: &str = "Check that the URL is that of a Matomo";
const BROKEN: &str = "Try again";

fn for_the_site() -> When {
    When::always().method("SitesManager.getSiteFromId")
}

fn in_the_middle() -> When {
    When::live().param("date", &format!("{MIDDLE},{MIDDLE}"))
}

impl Stage {
    /// Injects the fault at both places, and asserts the error and that nothing of the fault
    /// remains.
    #[track_caller]
    fn meets(&mut self, fault: Fault, state: &str, message: &str, status: Option<u16>, hint: &str) {
        self.fake.fail(fault.clone(), for_the_site());
        let error = self.refuses(&[]);
        expect(&error, state, message, &self.of_site(status), hint);
        self.fake.heal();
        self.meets_in_the_middle(fault, state, message, status, hint);
    }

    #[track_caller]
    fn meets_in_the_middle(
        &mut self,
        fault: Fault,
        state: &str,
        message: &str,
        status: Option<u16>,
        hint: &str,
    ) {
        self.fake.fail(fault, in_the_middle());
        let error = self.refuses_late();
        expect(&error, state, message, &self.of_day(MIDDLE, status), hint);
        let days = self.fake.requests().iter().filter(|seen| seen.fault.is_none()).count();
        assert_eq!(days, CALLS, "the day before was not read");
        self.fake.heal();
    }
}

#[test]
fn statuses_that_say_nothing_more() {
    let mut stage = Stage::new();
    for (status, page) in [
        (500, Page::Json),
        (500, Page::Html),
        (500, Page::Empty),
        (502, Page::Html),
        (502, Page::Empty),
        (503, Page::Html),
        (504, Page::Html),
    ] {
        let message = format!("Matomo answered with HTTP status {status}");
        stage.meets(Fault::Status(status, page), "08006", &message, Some(status), SERVER);
    }
    for (status, page) in
        [(400, Page::Json), (403, Page::Html), (404, Page::Html), (413, Page::Empty)]
    {
        let message = format!("Matomo answered with HTTP status {status}");
        let hint = if status == 404 { FOLDER } else { SERVER };
        stage.meets(Fault::Status(status, page), "08P01", &message, Some(status), hint);
    }
    for status in [401, 407] {
        let message = format!("Matomo answered with HTTP status {status}");
        let hint = "Look for a proxy in front of the Matomo that asks for a password";
        let fault = Fault::Status(status, Page::Html);
        stage.meets(fault, "28000", &message, Some(status), hint);
    }
    stage.recovers();
}

#[test]
fn a_url_behind_which_there_is_no_matomo() {
    let mut stage = Stage::new();
    for behind in ["piwik", "matomo.php"] {
        let error = stage.refuses(&[("url", &format!("'{}/{behind}'", stage.fake.url()))]);
        let message = "Matomo answered with HTTP status 404";
        expect(&error, "08P01", message, &stage.of_site(Some(404)), FOLDER);
    }
}

#[test]
fn a_matomo_in_maintenance() {
    let mut stage = Stage::new();
    stage.fake.knobs().maintenance = true;
    let error = stage.refuses(&[]);
    let (message, hint) = ("Matomo is in maintenance mode", "Wait until it ends");
    expect(&error, "08006", message, &stage.of_site(Some(503)), hint);
    stage.fake.knobs().maintenance = false;
    stage.recovers();
}

#[test]
fn a_visits_log_that_is_switched_off() {
    let mut stage = Stage::new();
    stage.fake.knobs().visits_log_off.insert(1);
    let error = stage.refuses(&[]);
    let says = "Matomo says: Visits log is deactivated in website settings.";
    let detail = format!("{} {says}", stage.of_day(FIRST, Some(200)));
    let message = "the visits log of the site is switched off";
    expect(&error, "55000", message, &detail, "Switch the visits log on in Matomo");
    stage.fake.knobs().visits_log_off.clear();
    stage.recovers();
}

/// It contains a visit, of which the error must not show anything.
#[test]
fn what_stands_around_the_json() {
    let mut stage = Stage::new();
    let notice = "<br />\n<b>Warning</b>:  Undefined array key \"x\" in <b>/var/www/y.php</b> on line <b>3</b><br />\n";
    let memory = "<br />\n<b>Fatal error</b>:  Allowed memory size of 134217728 bytes exhausted (tried to allocate \
                  20480 bytes) in <b>/var/www/x.php</b> on line <b>5</b><br />\n";
    let php = |kind| format!("the answer of Matomo holds a message of PHP: \"{kind}\"");
    let too_much = "the request is too much for Matomo: Allowed memory size of 134217728 bytes exhausted (tried to \
                    allocate 20480 bytes)";
    let log =
        "display_errors = Off in php.ini, no log_writers[] = screen in Matomo's config.ini.php";
    let adds = "Find what adds it: log_writers[] = screen in Matomo's config.ini.php";
    for (fault, state, message, hint) in [
        (
            Fault::Around("\nNotice: Undefined index: x in /var/www/y.php on line 3\n", ""),
            "08P01",
            php("Notice"),
            log,
        ),
        (Fault::Around(notice, ""), "08P01", php("Warning"), log),
        (Fault::Around("", notice), "08P01", php("Warning"), log),
        (
            Fault::Around("DEBUG: Live[2026-11-20 01:02:03] [1a2b3] Executed\n", ""),
            "08P01",
            "the answer of Matomo has text before its JSON".to_owned(),
            adds,
        ),
        (
            Fault::Around("", "\n<!-- served from cache -->"),
            "08P01",
            "the answer of Matomo has an HTML comment behind its JSON".to_owned(),
            adds,
        ),
        (Fault::CutBy(300, memory), "54000", too_much.to_owned(), "Lower matomo.page_size"),
    ] {
        stage.meets(fault, state, &message, Some(200), hint);
    }
    // A proxy that loses the start of the answer.
    let body = "\"idVisit\":5,\"ip\":\"192.0.2.7\"}]".into();
    let text = "the answer of Matomo is not JSON but text";
    stage.meets(Fault::Raw(body), "08P01", text, Some(200), NOT_MATOMO);
    stage.recovers();
}

#[test]
fn a_limited_rate() {
    let mut stage = Stage::new();
    let message = "Matomo limits the rate of requests: wait 7 s";
    stage.meets(Fault::RetryAfter(7), "53400", message, Some(429), "send fewer requests");
    let message = "Matomo limits the rate of requests";
    for page in [Page::Json, Page::Html, Page::Empty] {
        stage.meets(Fault::Status(429, page), "53400", message, Some(429), "send fewer requests");
    }
    stage.recovers();
}

#[test]
fn what_is_no_json() {
    let mut stage = Stage::new();
    let login = "the answer of Matomo is not JSON but an HTML page with the title \"Sign in\"";
    stage.meets(Fault::Html, "08P01", login, Some(200), NOT_MATOMO);
    for (body, what) in [
        ("<html><p>no title", "an HTML page"),
        ("GIF89a", "a GIF image"),
        ("5", "text: 5"),
        ("null", "text: null"),
        ("\"words\"", "text"),
        ("Wörter { und", "text: Wörter"),
    ] {
        let message = format!("the answer of Matomo is not JSON but {what}");
        let fault = Fault::Raw(body.into());
        stage.meets(fault, "08P01", &message, Some(200), NOT_MATOMO);
    }
    let long = Fault::Raw("long ".repeat(1000).into());
    let message = format!("the answer of Matomo is not JSON but text: {}...", "long ".repeat(40));
    stage.fake.fail(long, for_the_site());
    let error = stage.refuses(&[]);
    assert_eq!(error.message(), message);
    stage.recovers();
}

#[test]
fn answers_that_break_off() {
    let mut stage = Stage::new();
    let empty = "the answer of Matomo broke off: it is empty";
    stage.meets(Fault::Empty, "08006", empty, Some(200), BROKEN);
    stage.meets(Fault::Raw(b" \r\n".to_vec()), "08006", empty, Some(200), BROKEN);
    let middle = "the answer of Matomo broke off: it ends in the middle";
    stage.meets(Fault::Raw(b"[{\"idVisit\":1,".to_vec()), "08006", middle, Some(200), BROKEN);
    let broken = "the answer of Matomo broke off: ...";
    stage.meets(Fault::HalfBody, "08006", broken, Some(200), BROKEN);
    stage.meets(Fault::Reset, "08006", broken, None, BROKEN);
    stage.recovers();
}

#[test]
fn json_that_is_something_else() {
    let mut stage = Stage::new();
    let hint = "report the message";
    let object = "unexpected answer of Matomo: an object where a list of visits belongs";
    stage.meets_in_the_middle(Fault::NotArray, "08P01", object, None, hint);
    stage.meets_in_the_middle(Fault::Raw(b"{}".to_vec()), "08P01", object, None, hint);
    let no_json = "unexpected answer of Matomo: it is no JSON: ...";
    for body in
        ["[{]", "[{\"idVisit\":1}{\"idVisit\":2}]", "[{\"idVisit\":01}]", "[1,]", "[\"\\x\"]"]
    {
        let fault = Fault::Raw(body.into());
        stage.meets_in_the_middle(fault, "08P01", no_json, None, hint);
    }
    let no_id = "unexpected answer of Matomo: a visit without idVisit";
    for body in [
        "[1]",
        "[null]",
        "[[]]",
        "[{}]",
        "[{\"idVisit\":null}]",
        "[{\"idVisit\":\"x\"}]",
        "[{\"idVisit\":1},{\"idvisit\":2}]",
    ] {
        let fault = Fault::Raw(body.into());
        stage.meets_in_the_middle(fault, "08P01", no_id, None, hint);
    }
    let no_zone = "unexpected answer of Matomo: a site without timezone";
    for body in ["{\"value\":1}", "[]", "{\"timezone\":null}", "{\"timezone\":5}", "{]}"] {
        stage.fake.fail(Fault::Raw(body.into()), for_the_site());
        let error = stage.refuses(&[]);
        expect(&error, "08P01", no_zone, &stage.of_site(None), hint);
        stage.fake.heal();
    }
    stage.fake.world().site_mut(1).timezone = "Mars/Olympus".to_owned();
    let error = stage.refuses(&[]);
    let mars = "unexpected answer of Matomo: timezone \"Mars/Olympus\"";
    expect(&error, "08P01", mars, &stage.of_site(None), hint);
    stage.fake.world().site_mut(1).timezone = "Europe/Paris".to_owned();
    stage.recovers();
}

#[test]
fn matomos_own_errors_are_passed_on() {
    let mut stage = Stage::new();
    let words = "The plugin Live is not enabled.";
    let message = format!("Matomo answered with an error: {words}");
    let hint = "the message is Matomo's own";
    let fault = Fault::ErrorEnvelope(words.to_owned());
    stage.meets(fault, "08P01", &message, Some(200), hint);
    let fault = Fault::Status500Envelope(words.to_owned());
    stage.meets(fault, "08P01", &message, Some(500), hint);
    for words in [
        "Allowed memory size of 134217728 bytes exhausted (tried to allocate 20480 bytes)",
        "Maximum execution time of 30 seconds exceeded",
    ] {
        let message = format!("the request is too much for Matomo: {words}");
        let fault = Fault::Status500Envelope(words.to_owned());
        stage.meets(fault, "54000", &message, Some(500), "Lower matomo.page_size");
    }
    stage.recovers();
}

#[test]
fn a_redirect_is_named_and_never_followed() {
    let mut stage = Stage::new();
    let elsewhere = serve(stage.fake.world().clone());
    for status in [301, 302, 303, 307, 308] {
        for to in [format!("{}/index.php", elsewhere.url()), "/login".to_owned(), String::new()] {
            let message = format!("Matomo redirects to \"{to}\"");
            let fault = Fault::Redirect(status, to);
            stage.meets(
                fault,
                "08P01",
                &message,
                Some(status),
                "the URL that the redirect points to",
            );
        }
    }
    // As Matomo's force_ssl does.
    let to = stage.fake.url().replace("http:", "https:") + "/index.php";
    let message = format!("Matomo redirects to \"{to}\"");
    let fault = Fault::Redirect(302, to);
    stage.meets(fault, "08P01", &message, Some(302), "Begin the URL with https");
    assert!(elsewhere.requests().is_empty(), "the redirect was followed");
    stage.recovers();
}

#[test]
fn answers_larger_than_the_limit() {
    let mut stage = Stage::new();
    stage.execute("SET matomo.max_response_size = '1 MB'");
    let message = "the answer of Matomo is larger than 1048576 bytes";
    let hint = "raise matomo.max_response_size";
    stage.meets(Fault::OverSize(1_048_577), "54000", message, Some(200), hint);
    stage.meets(Fault::Endless, "54000", message, Some(200), hint);
    // The limit counts unpacked bytes: 3 MB that are 3 kB on the wire.
    stage.fake.knobs().gzip = true;
    let bomb = Fault::Raw(" ".repeat(3_000_000).into());
    stage.meets(bomb, "54000", message, Some(200), hint);
    stage.fake.knobs().gzip = false;
    // Exactly the limit.
    stage.fake.fail(Fault::OverSize(1_048_576), in_the_middle());
    let call = stage.call("matomo", &[("destination", "'other'")]);
    stage.db.batch_execute("SELECT matomo_create_table('other')").unwrap();
    let sums = Sums::of(&stage.db.query(&call, &[]).unwrap());
    assert_eq!(sums.days, 3);
    stage.recovers();
}

#[test]
fn a_matomo_that_never_ends_its_answer_is_given_up_in_time() {
    let mut stage = Stage::new();
    stage.execute("SET matomo.request_timeout = '1 s'");
    for (fault, status) in
        [(Fault::Hang, None), (Fault::HangMidBody, Some(200)), (Fault::Dribble, Some(200))]
    {
        stage.fake.fail(fault.clone(), in_the_middle());
        let call = stage.call("matomo_partitioned", &[]);
        let begin = Instant::now();
        let late = error(&mut stage.db, &call);
        let time = begin.elapsed();
        let message = "Matomo did not answer within 1 s";
        let detail = stage.of_day(MIDDLE, status);
        expect(&late, "08006", message, &detail, "raise matomo.request_timeout");
        assert!(
            time >= Duration::from_secs(1) && time < Duration::from_millis(2500),
            "{fault:?}: {time:?}"
        );
        stage.assert_untouched();
        stage.fake.heal();
    }
    stage.recovers();
}
