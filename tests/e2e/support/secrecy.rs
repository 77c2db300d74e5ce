//! A server that logs as much as it can, and the proof that it does not reveal the token.

use std::sync::{Arc, Mutex, OnceLock};

use fake_matomo::{Fake, Options};
use postgres::error::DbError;
use postgres::{Client, NoTls};

use crate::support::cluster::Cluster;
use crate::support::*;

pub const FIRST: &str = "2026-03-02";

pub const LAST: &str = "2026-03-03";

/// A server that logs as much as it can.
pub fn talkative() -> &'static Cluster {
    static TALKATIVE: OnceLock<&'static Cluster> = OnceLock::new();
    TALKATIVE.get_or_init(|| {
        Cluster::keep_with(
            "log_min_messages = debug5\nlog_min_error_statement = error\nlog_statement = none\n\
             log_error_verbosity = verbose\nlog_parameter_max_length_on_error = -1\n\
             shared_preload_libraries = 'pg_stat_statements'\n",
        )
    })
}

pub fn serve_with(token: &str) -> Fake {
    let world = world(1, "UTC", 10, FIRST, LAST);
    Fake::start(Options { token: token.to_owned(), ..Options::new(world) })
}

/// A session and the messages that it received.
pub struct Session {
    pub db: Client,
    pub said: Arc<Mutex<Vec<DbError>>>,
    /// Length of the log at the start of the session.
    log_begin: usize,
}

impl Session {
    pub fn new(database: &str) -> Session {
        Session::of("postgres", database)
    }

    pub fn of(user: &str, database: &str) -> Session {
        let log_begin = talkative().log().len();
        let said: Arc<Mutex<Vec<DbError>>> = Arc::default();
        let mut config = talkative().config(database, user);
        let heard = Arc::clone(&said);
        config.notice_callback(move |notice| heard.lock().unwrap().push(notice));
        Session { db: config.connect(NoTls).unwrap(), said, log_begin }
    }

    /// A session in which Postgres has already looked up the function: see
    /// `postgres_18_tells_where_it_looks_for_the_function`.
    pub fn with_function(database: &str) -> Session {
        let mut session = Session::new(database);
        session.db.batch_execute("EXPLAIN SELECT * FROM matomo_sync(1)").unwrap();
        session
    }

    /// Runs statements that must fail; returns the error.
    pub fn fails(&mut self, sql: &str) -> DbError {
        error(&mut self.db, sql)
    }

    /// The log since the start of the session.
    pub fn log(&self) -> String {
        talkative().log().split_off(self.log_begin)
    }

    /// Asserts that the token is not shown to the client, in the log, or to other sessions.
    pub fn assert_kept(&self, what: &str, token: &str) {
        let said = format!("{:?}", self.said.lock().unwrap());
        assert_absent(&format!("{what}, notices"), token, &said);
        assert_absent(&format!("{what}, pg_stat_activity"), token, &activity());
        assert_absent(&format!("{what}, log"), token, &talkative().log());
    }
}

/// Asserts that a text has neither the token nor most of it.
pub fn assert_absent(what: &str, token: &str, text: &str) {
    for part in [&token[..12], &token[token.len() - 12..]] {
        if let Some(at) = text.find(part) {
            let begin = text[..at].char_indices().rev().nth(600).map_or(0, |(index, _)| index);
            panic!("{what}: {part} is in {}", &text[begin..at + part.len()]);
        }
    }
}

/// All of `pg_stat_activity`, every column.
pub fn activity() -> String {
    let mut db = talkative().connect("postgres");
    one(&mut db, "SELECT string_agg(to_jsonb(a)::text, E'\\n') FROM pg_stat_activity a")
}

/// The same for one process, as other tests run at the same time.
pub fn activity_of(process: i32) -> String {
    let sql = "SELECT to_jsonb(a)::text FROM pg_stat_activity a WHERE pid = $1";
    talkative().connect("postgres").query_one(sql, &[&process]).unwrap().get(0)
}

pub fn database_with_table() -> String {
    let name = talkative().database();
    talkative().connect(&name).batch_execute("SELECT matomo_create_table('matomo')").unwrap();
    name
}
