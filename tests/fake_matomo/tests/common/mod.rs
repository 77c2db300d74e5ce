//! A minimal client, and small worlds.
#![allow(dead_code)]

use chrono::NaiveDate;
use fake_matomo::{Action, Clock, Fake, Options, Site, Visit, World};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Sends a request and reads until the server closes; returns status, headers and body.
pub fn http(fake: &Fake, verb: &str, target: &str, body: &str) -> (u16, String, Vec<u8>) {
    let bytes = raw(fake, verb, target, body);
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, head, bytes.get(end + 4..).unwrap_or_default().to_vec())
}

/// The same, but returns whatever bytes arrived before a long silence.
pub fn raw(fake: &Fake, verb: &str, target: &str, body: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", fake.port())).unwrap();
    // A large answer takes a while to make on a busy machine.
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let length = body.len();
    write!(
        stream,
        "{verb} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut bytes = Vec::new();
    let mut block = [0; 65_536];
    while let Ok(n @ 1..) = stream.read(&mut block) {
        bytes.extend_from_slice(&block[..n]);
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        if bytes.len() > 3_000_000 {
            break;
        }
    }
    bytes
}

/// Calls a method with the right token.
pub fn call(fake: &Fake, method: &str, params: &str) -> (u16, Value) {
    let body = format!("token_auth={}&{params}", fake.token());
    let (status, _, body) =
        http(fake, "POST", &format!("/index.php?module=API&format=JSON&method={method}"), &body);
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// The visits of a Live request to site 1.
pub fn live(fake: &Fake, params: &str) -> Vec<Value> {
    let (status, value) = call(fake, "Live.getLastVisitsDetails", &format!("idSite=1&{params}"));
    assert_eq!(status, 200);
    value.as_array().unwrap_or_else(|| panic!("{value}")).clone()
}

/// Their ids.
pub fn ids(fake: &Fake, params: &str) -> Vec<i64> {
    live(fake, params).iter().map(|v| v["idVisit"].as_i64().unwrap()).collect()
}

/// Matomo's message, and the status.
pub fn refusal(fake: &Fake, params: &str) -> (u16, String) {
    let (status, value) = call(fake, "Live.getLastVisitsDetails", params);
    assert_eq!(value["result"], "error", "{value}");
    (status, value["message"].as_str().unwrap().to_owned())
}

pub fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

/// An instant, from a UTC time.
pub fn at(text: &str) -> i64 {
    chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap().and_utc().timestamp()
}

/// Site 1 in Paris, at noon there on 2026-11-24, with single-page visits that end at these
/// instants.
pub fn paris(ends: &[(i64, &str)]) -> World {
    let mut world = World::new(Clock::Fixed(at("2026-11-24 11:00:00")));
    let site = world.add_site(Site::new(1, "Paris", "Europe/Paris"));
    for (id, end) in ends {
        let end = at(end);
        site.add(Visit::new(*id, end).and(Action::page(end, "https://x.org/", "Title")));
    }
    world
}

pub fn serve(world: World) -> Fake {
    Fake::start(Options::new(world))
}
