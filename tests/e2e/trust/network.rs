//! Faults of the network and of the server.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use fake_matomo::{Fault, Options, Page, Saying, When};

use super::stage::{FIRST, LAST, MARK, MIDDLE, Promise, Stage};
use super::wire::{Wire, linger, reset};
use crate::support::*;

pub const SERVER: &str = "Look into the log of the Matomo";
pub const NOT_MATOMO: &str = "Check that the URL is that of a Matomo";
pub const BROKEN: &str = "Try again";
pub const UNREACHABLE: &str = "Check the URL, and that the database server may reach it";
const LATE: &str = "raise matomo.request_timeout";

fn in_the_middle() -> When {
    When::live().param("date", &format!("{MIDDLE},{MIDDLE}"))
}

impl Stage {
    /// Injects a fault into the fake.
    #[track_caller]
    pub fn meets(
        &mut self,
        case: &str,
        injected: &str,
        fault: Fault,
        promise: &Promise,
    ) -> Duration {
        self.fake.fail(fault, in_the_middle());
        let took = self.fails(case, injected, promise);
        self.fake.heal();
        took
    }
}

pub fn promise<'a>(state: &'a str, message: &'a str, status: u16, hint: &'a str) -> Promise<'a> {
    Promise { state, message, status: (status > 0).then_some(status), hint, detail: "" }
}

#[test]
fn network() {
    let mut stage = Stage::new("Network", "5e8c0d1fnetworkfaults7b3a92c46d0e");
    silences(&mut stage);
    statuses(&mut stage);
    breaks(&mut stage);
    redirects(&mut stage);
    no_way_there(&mut stage);
    stage.finish();
}

/// Bounded by the timeout and by the caller.
fn silences(stage: &mut Stage) {
    let cases = [
        ("silence before the headers", "the request is never answered", Fault::Hang, 0),
        ("silence in the body", "headers, half of the body, nothing more", Fault::HangMidBody, 200),
        ("a trickle", "the right answer, one byte a second", Fault::Dribble, 200),
    ];
    run(&mut stage.db, "SET matomo.request_timeout = '1 s'");
    for (case, injected, fault, status) in cases.clone() {
        let injected = format!("{injected}; `matomo.request_timeout` is 1 s");
        let late = promise("08006", "Matomo did not answer within 1 s", status, LATE);
        let took = stage.meets(case, &injected, fault, &late);
        assert!(
            took >= Duration::from_secs(1) && took < Duration::from_secs(3),
            "{case}: {took:?}"
        );
    }
    run(&mut stage.db, "RESET matomo.request_timeout; SET statement_timeout = '300 ms'");
    for (case, injected, fault, _) in cases {
        let case = format!("cancel in {case}");
        let injected = format!("{injected}; cancelled after 0.3 s");
        let message = "canceling statement due to statement timeout";
        let took = stage.meets(&case, &injected, fault, &promise("57014", message, 0, ""));
        assert!(took < Duration::from_millis(1500), "{case}: {took:?}");
    }
    run(&mut stage.db, "RESET statement_timeout");
}

fn statuses(stage: &mut Stage) {
    let limits = "Matomo limits the rate of requests";
    let wait = "Matomo limits the rate of requests: wait 7 s";
    let slow = "send fewer requests";
    let fault = Fault::RetryAfter(7);
    stage.meets("429 with seconds", "`Retry-After: 7`", fault, &promise("53400", wait, 429, slow));
    let fault = Fault::Status(429, Page::Html);
    stage.meets("429", "no `Retry-After`", fault, &promise("53400", limits, 429, slow));
    for status in [500, 502, 503, 504] {
        let message = format!("Matomo answered with HTTP status {status}");
        let fault = Fault::Status(status, Page::Html);
        let promised = promise("08006", &message, status, SERVER);
        stage.meets(&format!("{status}"), "an HTML page", fault, &promised);
    }
    // As many retries as configured, after smaller pages were tried.
    run(&mut stage.db, "SET matomo.max_retries = 1; SET matomo.page_size = 4");
    stage.fake.clear_requests();
    let message = "Matomo answered with HTTP status 502";
    let promised = promise("08006", message, 502, SERVER);
    let fault = Fault::Status(502, Page::Empty);
    let injected = "to each request; `matomo.max_retries` is 1, `matomo.page_size` 4";
    stage.meets("502 for ever", injected, fault, &promised);
    let requests = stage.fake.requests();
    let hit: Vec<_> = requests.iter().filter(|seen| seen.fault.is_some()).collect();
    let limits: Vec<_> = hit.iter().map(|seen| seen.param("filter_limit")).collect();
    assert_eq!(limits, ["4", "2", "1", "1"]);
    run(&mut stage.db, "SET matomo.max_retries = 0; RESET matomo.page_size");
    let fault = Fault::Status(500, Page::Empty);
    let message = "Matomo answered with HTTP status 500";
    let injected = "no body at all";
    stage.meets("500, empty", injected, fault, &promise("08006", message, 500, SERVER));
    let words = "The plugin Live is not enabled.";
    let message = format!("Matomo answered with an error: {words}");
    for (status, fault) in [
        (200, Fault::ErrorEnvelope(words.to_owned())),
        (500, Fault::Status500Envelope(words.to_owned())),
    ] {
        let case = format!("an error of Matomo with {status}");
        let injected = "`{\"result\":\"error\",\"message\":…}`";
        stage.meets(&case, injected, fault, &promise("08P01", &message, status, "Matomo's own"));
    }
    let message = "Matomo refused the token";
    let fault = Fault::Says(Saying::WrongToken);
    let sites = "SitesManager.getSitesIdWithAtLeastViewAccess";
    stage.fake.fail(fault.clone(), When::always().method(sites));
    stage.fake.clear_requests();
    run(&mut stage.db, "SET matomo.max_retries = 3");
    let injected = "401; `matomo.max_retries` is 3";
    stage.meets("a refused token", injected, fault, &promise("28000", message, 401, "18 refused"));
    let refused = stage.fake.requests().iter().filter(|seen| seen.fault.is_some()).count();
    // The day's request, and the one that every token may make.
    assert_eq!(refused, 2, "a refused token was tried again");
    run(&mut stage.db, "SET matomo.max_retries = 0");
    let login = "the answer of Matomo is not JSON but an HTML page with the title \"Sign in\"";
    let fault = Fault::Html;
    stage.meets("a login page", "200, HTML", fault, &promise("08P01", login, 200, NOT_MATOMO));
    let message = "the answer of Matomo broke off: it is empty";
    let fault = Fault::Empty;
    stage.meets("nothing", "200, no body", fault, &promise("08006", message, 200, BROKEN));
    let message = "unexpected answer of Matomo: an object where a list of visits belongs";
    let fault = Fault::NotArray;
    let promised = promise("08P01", message, 0, "report the message");
    stage.meets("other JSON", "`{\"value\":1}`", fault, &promised);
    let message = "Matomo answered with HTTP status 500";
    let injected = "a 500 page that quotes the request, token included";
    let fault = Fault::EchoToken;
    stage.meets("an echo", injected, fault, &promise("08006", message, 500, SERVER));
    let fault = Fault::ErrorEnvelope(format!("token_auth={} is odd", stage.fake.token()));
    let message = "Matomo answered with an error: token_auth=*** is odd";
    let injected = "an error of Matomo whose message quotes the token";
    stage.meets("a quoted token", injected, fault, &promise("08P01", message, 200, "Matomo's own"));
}

fn breaks(stage: &mut Stage) {
    let wire = Wire::before(stage.fake.port(), MARK);
    stage.masks.push((wire.url(), "http://matomo"));
    stage.url = wire.url();
    let broken = "the answer of Matomo broke off: …";
    wire.play(Some(Arc::new(|client, _| {
        reset(client);
        Ok(())
    })));
    let injected = "a TCP RST in place of the answer";
    stage.fails("a reset", injected, &promise("08006", broken, 0, BROKEN));
    wire.play(Some(Arc::new(|client, answer| {
        use std::io::Write;
        client.write_all(&answer.head)?;
        client.write_all(&answer.body[..answer.body.len() / 2])?;
        std::thread::sleep(Duration::from_millis(50));
        reset(client);
        Ok(())
    })));
    let injected = "headers, half of the body, a TCP RST";
    stage.fails("a reset in the body", injected, &promise("08006", broken, 200, BROKEN));
    wire.play(Some(Arc::new(|client, _| linger(client))));
    let injected = "the connection is closed without a byte";
    stage.fails("a closed connection", injected, &promise("08006", broken, 0, BROKEN));
    wire.play(Some(Arc::new(|client, answer| {
        use std::io::Write;
        client.write_all(&answer.head)?;
        client.write_all(&answer.body[..answer.body.len() / 2])?;
        linger(client)
    })));
    let injected = "headers, half of the body, then closed";
    stage.fails("half a body", injected, &promise("08006", broken, 200, BROKEN));
    wire.play(Some(Arc::new(|client, answer| {
        use std::io::Write;
        client.write_all(&answer.head[..answer.head.len() / 2])?;
        linger(client)
    })));
    let injected = "half of the headers, then closed";
    stage.fails("half the headers", injected, &promise("08006", broken, 0, BROKEN));
    wire.play(None);
    stage.works("a farewell", "the connection of the sync before was closed just now");
    wire.play(None);
    stage.url = stage.fake.url();
}

fn redirects(stage: &mut Stage) {
    let elsewhere = serve(stage.fake.world().clone());
    stage.masks.push((elsewhere.url(), "http://elsewhere"));
    let token = stage.fake.token().to_owned();
    let (port, of_token) = (stage.fake.port(), format!("/login?token_auth={token}"));
    for status in [301, 302, 303, 307, 308] {
        for (whither, to, shown) in [
            ("another host", format!("{}/index.php", elsewhere.url()), None),
            ("another scheme", "https://matomo.example.org/index.php".to_owned(), None),
            ("the same host", format!("http://127.0.0.1:{port}/matomo/index.php"), None),
            ("the token in it", of_token.clone(), Some("/login?token_auth=***")),
        ] {
            stage.fake.clear_requests();
            let message = format!("Matomo redirects to \"{}\"", shown.unwrap_or(&to));
            let hint = match to.starts_with("https:") {
                true => "Begin the URL with https",
                false => "the URL that the redirect points to",
            };
            let promised = promise("08P01", &message, status, hint);
            let case = format!("{status} to {whither}").replace("to the token", "with the token");
            let injected = format!("`Location: {}`", to.replace(&token, "TOKEN"));
            let injected = injected
                .replace(&elsewhere.url(), "http://elsewhere")
                .replace(&stage.fake.url(), "http://matomo");
            stage.meets(&case, &injected, Fault::Redirect(status, to.clone()), &promised);
            let hit = stage.fake.requests().into_iter().skip_while(|seen| seen.fault.is_none());
            assert_eq!(hit.count(), 1, "{case}: there came another request");
        }
    }
    assert_eq!(elsewhere.connections(), 0, "the redirect was followed");
}

fn no_way_there(stage: &mut Stage) {
    let own = stage.url.clone();
    stage.url = "http://nowhere.invalid".to_owned();
    let message = "could not connect to Matomo: failed to lookup address information: …";
    let injected = "a host that the DNS does not know";
    stage.fails("no such host", injected, &promise("08001", message, 0, UNREACHABLE));
    // An address that refuses connections while the stream lives: the stream's own end.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stage.url = format!("http://{}", stream.local_addr().unwrap());
    let message = "could not connect to Matomo: Connection refused (os error 111)";
    stage.fails("refused", "a closed port", &promise("08001", message, 0, UNREACHABLE));
    // A queue for one connection, already full: the next SYN gets no answer.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    // SAFETY: a socket of this test.
    unsafe { libc::listen(full.as_raw_fd(), 0) };
    let address = full.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(one) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queue.push(one);
    }
    stage.url = format!("http://{address}");
    run(&mut stage.db, "SET matomo.connect_timeout = '1 s'");
    let message = "could not connect to Matomo: no connection within 1 s";
    let injected = "SYN packets vanish; `matomo.connect_timeout` is 1 s";
    let took = stage.fails("a black hole", injected, &promise("08001", message, 0, UNREACHABLE));
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "{took:?}");
    run(&mut stage.db, "RESET matomo.connect_timeout");
    stage.url = own;
    six(stage);
}

/// A Matomo reachable by IPv6 only.
fn six(stage: &mut Stage) {
    let world = world(72, "UTC", 3, FIRST, LAST);
    let token = stage.fake.token().to_owned();
    let bind = "[::1]:0".to_owned();
    let six = fake_matomo::Fake::start(Options { token, bind, ..Options::new(world) });
    assert!(six.url().starts_with("http://[::1]:"), "{}", six.url());
    stage.with_other(six, |stage| stage.works("IPv6", "`http://[::1]:…`"));
}
