//! Clients against servers that break.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, RwLockReadGuard, mpsc};
use std::thread;

use super::*;
use crate::error::Error;
use crate::matomo::http::agent::ALONE;
use crate::matomo::http::hosts::AllowedHosts;

/// What a server does with a request.
#[derive(Clone, Copy)]
enum Do {
    Answer,
    Close,
    Hang,
}

/// A server that decides by the number of the request, from 1 on.
struct Server {
    url: String,
    requests: Arc<AtomicUsize>,
    /// `filter_limit` of each request; "" for none.
    limits: mpsc::Receiver<String>,
    _store: RwLockReadGuard<'static, ()>,
}

const SITE: &str = r#"{"timezone":"UTC"}"#;

impl Server {
    fn start(decide: impl Fn(usize) -> Do + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (requests, decide) = (Arc::new(AtomicUsize::new(0)), Arc::new(decide));
        let (sender, limits) = mpsc::channel();
        let count = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (count, decide, sender) = (count.clone(), decide.clone(), sender.clone());
                thread::spawn(move || serve(stream.unwrap(), &count, &*decide, &sender));
            }
        });
        Server { url, requests, limits, _store: ALONE.read().unwrap() }
    }

    fn client(&self, change: impl FnOnce(&mut HttpSettings)) -> Client {
        let mut settings = HttpSettings {
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            answer_timeout: None,
            max_retries: 3,
            max_response_size: 1 << 20,
            language: None,
            ca_pem: None,
            hosts: AllowedHosts::new("*", true).unwrap(),
        };
        change(&mut settings);
        let endpoint = Endpoint::parse(&self.url).unwrap();
        Client::new(endpoint, Token::new("secret"), settings, Stop::default()).unwrap()
    }

    fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }
}

fn serve(
    mut stream: TcpStream,
    count: &AtomicUsize,
    decide: &dyn Fn(usize) -> Do,
    sender: &mpsc::Sender<String>,
) {
    let mut request = Vec::new();
    let mut part = [0; 4096];
    loop {
        let length = stream.read(&mut part).unwrap_or(0);
        if length == 0 {
            return;
        }
        request.extend_from_slice(&part[..length]);
        if !request.ends_with(b"token_auth=secret") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut request)).unwrap();
        let limit = text.split_once("filter_limit=").map_or("", |(_, rest)| rest);
        let digits = limit.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
        let _ = sender.send(limit[..digits].to_owned());
        match decide(count.fetch_add(1, SeqCst) + 1) {
            Do::Answer => {}
            Do::Close => return,
            Do::Hang => thread::sleep(Duration::from_secs(600)),
        }
        let body = if limit.is_empty() { SITE } else { "[]" };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn no_retry(error: &Error, _: u32, _: Duration) {
    panic!("asked again after: {error}");
}

fn ask(client: &Client) -> Result<SiteInfo> {
    client.site(1, &mut no_retry)
}

#[track_caller]
fn fault<T: std::fmt::Debug>(result: Result<T>) -> Fault {
    match result {
        Err(Error::Request { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_that_is_shut_down_ends_no_other() {
    let server = Server::start(|_| Do::Answer);
    let (one, other) = (server.client(|_| ()), server.client(|_| ()));
    ask(&one).unwrap();
    ask(&other).unwrap();
    one.shut_down();
    ask(&other).unwrap();
    ask(&server.client(|_| ())).unwrap();
    assert_eq!(server.requests(), 4);
}

#[test]
fn a_client_whose_requests_were_broken_off_fails_at_once() {
    let server = Server::start(|_| Do::Answer);
    let client = server.client(|_| ());
    ask(&client).unwrap();
    // Its connections only, as if somebody else had done it.
    client.http.shut_down();
    let client =
        Client { settings: HttpSettings { max_retries: 0, ..client.settings.clone() }, ..client };
    assert!(matches!(fault(ask(&client)), Fault::Broken(_)));
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_kept_connection_that_breaks_is_replaced_once() {
    let server = Server::start(|request| if request < 3 { Do::Answer } else { Do::Close });
    let client = server.client(|settings| settings.max_retries = 0);
    // Two connections to keep.
    thread::scope(|scope| {
        for client in [client.clone(), client.clone()] {
            scope.spawn(move || ask(&client).unwrap());
        }
    });
    assert!(matches!(fault(ask(&client)), Fault::Broken(_)));
    assert_eq!(server.requests(), 4, "one on the kept connection, one on a new one");
}

#[test]
fn a_server_that_hangs_costs_no_more_than_the_answer_timeout() {
    let server = Server::start(|request| if request == 1 { Do::Answer } else { Do::Hang });
    let client = server.client(|settings| settings.answer_timeout = Some(Duration::from_secs(2)));
    ask(&client).unwrap();
    let begin = Instant::now();
    assert_eq!(fault(ask(&client)), Fault::TimedOut(2));
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(server.requests(), 2);
}

/// As [`crate::sync::pages`] does it.
fn day(client: &Client, mut limit: u32) -> Result<String> {
    loop {
        let which = VisitSelection::Day(
            NaiveDate::default(),
            PageRequest { limit, offset: 0, after: None },
        );
        match client.visits(1, which, true, &mut no_retry) {
            Err(error) if client.may_shrink(&error) && limit > 1 => limit = (limit / 8).max(1),
            done => return done.map(|body| body.to_owned()),
        }
    }
}

#[test]
fn smaller_pages_have_their_chance_within_the_answer_timeout() {
    let answer_timeout = Duration::from_secs(4);
    let server = Server::start(|_| Do::Hang);
    let client = server.client(|settings| settings.answer_timeout = Some(answer_timeout));
    let begin = Instant::now();
    assert!(matches!(fault(day(&client, 1000)), Fault::TimedOut(_)));
    let took = begin.elapsed();
    assert!(took > answer_timeout / 2 && took < answer_timeout * 5, "{took:?}");
    let limits: Vec<_> = server.limits.try_iter().collect();
    assert!(limits.len() >= 2 && limits.len() <= 4, "{limits:?}");
    assert_eq!(limits[..2], ["1000", "125"]);
}

#[test]
fn a_server_that_answers_small_pages_gets_by() {
    let answer_timeout = Duration::from_secs(4);
    let server = Server::start(|request| if request < 3 { Do::Hang } else { Do::Answer });
    let client = server.client(|settings| settings.answer_timeout = Some(answer_timeout));
    assert_eq!(day(&client, 1000).unwrap(), "[]");
    assert_eq!(server.limits.try_iter().collect::<Vec<_>>(), ["1000", "125", "15"]);
}

#[test]
fn waits_between_retries_count_too() {
    let server = Server::start(|_| Do::Close);
    let client = server.client(|settings| {
        settings.max_retries = 100;
        settings.answer_timeout = Some(Duration::from_secs(3));
    });
    let begin = Instant::now();
    let mut retries = 0;
    let failed = client.site(1, &mut |_, retry, _| retries = retry);
    assert!(matches!(fault(failed), Fault::Broken(_)));
    assert!(begin.elapsed() < Duration::from_secs(10) && (1..5).contains(&retries));
}

#[test]
fn a_handshake_byte_by_byte_takes_no_longer_than_a_connection_may() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // The head of a record of 16 kB, and then half a minute of it.
        let begin = [0x16, 3, 3, 0x3f, 0xff].into_iter();
        for byte in begin.chain(std::iter::repeat_n(0, 300)) {
            if stream.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    });
    let server = Server::start(|_| Do::Answer);
    let client = Server { url, ..server }.client(|settings| {
        (settings.connect_timeout, settings.max_retries) = (Duration::from_secs(1), 0);
    });
    let begin = Instant::now();
    let unreachable = Fault::Unreachable("no connection within 1 s".to_owned());
    assert_eq!(fault(ask(&client)), unreachable);
    assert!(begin.elapsed() < Duration::from_secs(15));
}
