//! Places where a sync waits, and calls to interrupt there.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fake_matomo::{Fake, Fault, When};
use postgres::error::SqlState;
use postgres::{Client, Error};

use crate::support::*;

pub const FIRST: &str = "2026-03-02";
pub const LAST: &str = "2026-03-04";

/// Where a sync waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before the headers of the first answer.
    Site,
    /// Before the headers of a page of visits.
    Page,
    /// Within a body.
    Body,
    /// In a body sent byte by byte.
    Dribble,
    /// Between a failure and the next attempt.
    Backoff,
    /// In a connect without an answer.
    Connect,
}

pub const PLACES: [Place; 6] =
    [Place::Site, Place::Page, Place::Body, Place::Dribble, Place::Backoff, Place::Connect];

/// A place where a sync waits.
pub struct Trap {
    pub place: Place,
    pub fake: Fake,
    pub wall: Option<Wall>,
}

impl Trap {
    pub fn at(place: Place) -> Trap {
        let fake = serve(world(1, "UTC", 20, FIRST, LAST));
        let (fault, when) = match place {
            Place::Site => (Fault::Hang, When::always()),
            Place::Page => (Fault::Hang, When::live()),
            Place::Body => (Fault::HangMidBody, When::live()),
            Place::Dribble => (Fault::Dribble, When::live()),
            Place::Backoff => (Fault::RetryAfter(60), When::live()),
            Place::Connect => return Trap { place, fake, wall: Some(Wall::new()) },
        };
        fake.fail(fault, when);
        Trap { place, fake, wall: None }
    }

    pub fn sync(&self) -> Sync<'static> {
        let sync = Sync::of(&self.fake, FIRST, LAST);
        match &self.wall {
            None => sync,
            Some(wall) => Sync { url: format!("http://{}", wall.address), ..sync },
        }
    }

    /// Waits until a sync is in it.
    pub fn wait(&self) {
        wait_until(&format!("a sync at {:?}", self.place), || match &self.wall {
            None => self.fake.requests().iter().any(|request| request.fault.is_some()),
            Some(wall) => wall.is_met(),
        });
    }
}

/// A listener with a full queue: Linux drops further packets, so that a connect neither succeeds nor
/// fails.
pub struct Wall {
    address: SocketAddr,
    _listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Wall {
    pub fn new() -> Wall {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // SAFETY: a second listen only shortens the queue.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        loop {
            match TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
                Ok(stream) => queue.push(stream),
                Err(error) if error.kind() == ErrorKind::TimedOut => break,
                Err(error) => panic!("{error}"),
            }
            assert!(queue.len() < 100, "the queue is never full");
        }
        Wall { address, _listener: listener, _queue: queue }
    }

    /// Whether a socket is in a connect: state 02 is SYN_SENT.
    pub fn is_met(&self) -> bool {
        let remote = format!("0100007F:{:04X}", self.address.port());
        std::fs::read_to_string("/proc/net/tcp").unwrap().lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields[2] == remote && fields[3] == "02"
        })
    }
}

/// A statement that runs on another thread.
pub type Call = JoinHandle<(Client, Result<(), Error>, Instant)>;

pub fn call(mut db: Client, sql: String) -> Call {
    thread::spawn(move || {
        let result = db.batch_execute(&sql);
        (db, result, Instant::now())
    })
}

/// The SQLSTATE and message of a call's error.
pub fn end_of(result: Result<(), Error>) -> (SqlState, String) {
    let error = result.expect_err("the call must end with an error");
    let error = error.as_db_error().unwrap_or_else(|| panic!("no error of the server: {error}"));
    (error.code().clone(), error.message().to_owned())
}

pub fn assert_cancelled(_: i32, result: Result<(), Error>) {
    assert_eq!(end_of(result), cancelled("user request"));
}

pub fn cancelled(reason: &str) -> (SqlState, String) {
    (SqlState::QUERY_CANCELED, format!("canceling statement due to {reason}"))
}

/// Thread IDs of a process.
pub fn threads(pid: i32) -> Vec<i32> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    folder.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// `pg_cancel_backend`, which sends exactly one signal, unlike a client's cancel request.
pub fn cancel(other: &mut Client, pid: i32) {
    let sent: bool = other.query_one("SELECT pg_cancel_backend($1)", &[&pid]).unwrap().get(0);
    assert!(sent);
}
