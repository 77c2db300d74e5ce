//! A database with rows, a Matomo with new visits, and the proof that a failure changes and
//! reveals nothing.

use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use fake_matomo::{Action, Fake, Options};
use postgres::error::DbError;
use postgres::{Client, NoTls};

use crate::support::cluster::Cluster;
use crate::support::report::Section;
use crate::support::secrecy::assert_absent;
use crate::support::*;

pub const FIRST: &str = "2026-10-24";
pub const MIDDLE: &str = "2026-10-25";
pub const LAST: &str = "2026-10-26";
/// The part of a request's URL that is unique to the middle day's visits.
pub const MARK: &str = "date=2026-10-25%2C2026-10-25";
const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];

/// Views on present and past syncs.
const VIEWS: [&str; 7] = [
    "pg_stat_activity",
    "pg_stat_statements",
    "matomo_sites",
    "matomo_runs",
    "matomo_status",
    "matomo_progress",
    "matomo_days",
];

/// A server that logs everything it can.
pub fn talkative() -> &'static Cluster {
    static SERVER: OnceLock<&'static Cluster> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = Cluster::keep_with(
            "log_min_messages = debug5\nlog_min_error_statement = debug5\nlog_statement = all\n\
             log_error_verbosity = verbose\nlog_duration = on\nlog_parameter_max_length = -1\n\
             log_parameter_max_length_on_error = -1\n\
             shared_preload_libraries = 'pg_stat_statements'\n",
        );
        // The system's CA store, for this server only.
        server.stop("fast");
        std::fs::create_dir(server.dir.join("certs")).unwrap();
        std::fs::write(server.dir.join("store.pem"), "").unwrap();
        server.start_again_in(&[
            ("SSL_CERT_FILE", server.dir.join("store.pem").to_str().unwrap()),
            ("SSL_CERT_DIR", server.dir.join("certs").to_str().unwrap()),
        ]);
        server
    })
}

/// What a failed sync must report. A message that ends in … is a prefix; of the HINT a part is
/// enough.
pub struct Promise<'a> {
    pub state: &'a str,
    pub message: &'a str,
    pub status: Option<u16>,
    pub hint: &'a str,
    /// The part of the DETAIL for the report, verbatim.
    pub detail: &'a str,
}

pub struct Stage {
    pub fake: Fake,
    pub db: Client,
    pub section: Section,
    /// The URL for syncs; the fake's unless set.
    pub url: String,
    /// Whether the token comes from a user's table instead of a user mapping.
    pub by_key: bool,
    /// Replacements for parts of messages that differ between runs.
    pub masks: Vec<(String, &'static str)>,
    token: &'static str,
    name: String,
    said: Arc<Mutex<Vec<DbError>>>,
    syncs: usize,
}

impl Stage {
    pub fn new(title: &'static str, token: &'static str) -> Stage {
        let world = world(71, "Europe/Paris", 4, FIRST, LAST);
        let fake = Fake::start(Options { token: token.to_owned(), ..Options::new(world) });
        let name = talkative().database();
        let said: Arc<Mutex<Vec<DbError>>> = Arc::default();
        let heard = Arc::clone(&said);
        let mut config = talkative().config(&name, "postgres");
        config.notice_callback(move |notice| heard.lock().unwrap().push(notice));
        let mut db = config.connect(NoTls).unwrap();
        // By default Postgres logs and tracks the text of DDL, including tokens and passwords.
        run(
            &mut db,
            "CREATE EXTENSION pg_stat_statements; SET matomo.max_retries = 0;
             SET log_statement = none; SET log_duration = off; SET log_min_error_statement = panic;
             SET pg_stat_statements.track = none",
        );
        run(
            &mut db,
            &format!(
                "CREATE TABLE keys AS SELECT 1 AS site, '{token}'::text AS key;
                 CREATE SERVER trusted FOREIGN DATA WRAPPER matomo OPTIONS (url '{}');
                 CREATE USER MAPPING FOR CURRENT_USER SERVER trusted OPTIONS (token '{token}')",
                fake.url()
            ),
        );
        run(
            &mut db,
            "RESET log_statement; RESET log_duration; RESET log_min_error_statement;
             RESET pg_stat_statements.track",
        );
        let (url, masks) = (fake.url(), vec![(fake.url(), "http://matomo")]);
        let section = Section::new(title);
        let (by_key, syncs) = (false, 0);
        let mut stage = Stage { fake, db, section, url, by_key, masks, token, name, said, syncs };
        // The same world, by a connection without faults.
        let plain = Fake::start(Options {
            token: token.to_owned(),
            ..Options::new(stage.fake.world().clone())
        });
        for table in TABLES {
            let sql = stage.sql(&plain.url(), table);
            run(&mut stage.db, &sql);
        }
        forget_matomo(&mut stage.db);
        for visit in &mut stage.fake.world().site_mut(1).visits {
            visit.push(Action::event(visit.last, "News", "of the visit"));
        }
        stage
    }

    /// A sync whose text does not contain the token.
    pub fn sql(&mut self, url: &str, table: &str) -> String {
        if self.by_key {
            return format!(
                "SELECT s.* FROM keys, matomo_sync(keys.site, '{url}', keys.key, '{FIRST}', \
                 '{LAST}', '{table}', true) AS s"
            );
        }
        run(&mut self.db, &format!("ALTER SERVER trusted OPTIONS (SET url '{url}')"));
        format!(
            "SELECT * FROM matomo_sync(1, server => 'trusted', start_date => '{FIRST}', \
             end_date => '{LAST}', destination => '{table}', force => true)"
        )
    }

    fn state(&mut self) -> String {
        let row = "md5(format('%s %s %s %s', tableoid, ctid, xmin, t))";
        let digest = |table: &&str| {
            format!("(SELECT md5(string_agg({row}, ',' ORDER BY tableoid, ctid)) FROM {table} t)")
        };
        let tables = ["matomo", "matomo_partitioned", "matomo_ledger"];
        let digests: Vec<_> = tables.iter().map(digest).collect();
        one(&mut self.db, &format!("SELECT concat_ws(' ', {})", digests.join(", ")))
    }

    /// Runs a sync that must fail as promised, and asserts that nothing of it remains or is
    /// revealed. Returns its duration.
    #[track_caller]
    pub fn fails(&mut self, case: &str, injected: &str, promise: &Promise) -> Duration {
        self.syncs += 1;
        let (url, table) = (self.url.clone(), TABLES[self.syncs % 2]);
        let sql = self.sql(&url, table);
        self.fails_at(&sql, case, injected, promise)
    }

    /// The same for any statement.
    #[track_caller]
    pub fn fails_at(
        &mut self,
        sql: &str,
        case: &str,
        injected: &str,
        promise: &Promise,
    ) -> Duration {
        let before = self.state();
        let begin = Instant::now();
        let log = self.log_end();
        let error = error(&mut self.db, sql);
        let took = begin.elapsed();
        let fields = format!("{error:?}");
        let (message, hint) = (error.message(), error.hint().unwrap_or_default());
        let as_promised = match promise.message.strip_suffix('…') {
            Some(begin) => message.starts_with(begin),
            None => message == promise.message,
        };
        assert!(as_promised, "{case}: not \"{}\": {fields}", promise.message);
        assert_eq!(error.code().code(), promise.state, "{case}: {fields}");
        assert!(hint.contains(promise.hint), "{case}: {fields}");
        assert_eq!(hint.is_empty(), promise.hint.is_empty(), "{case}: {fields}");
        let detail = error.detail().unwrap_or_default();
        if let Some(status) = promise.status {
            assert!(detail.contains(&format!("HTTP status {status}.")), "{case}: {fields}");
        } else {
            assert!(!detail.contains("HTTP status"), "{case}: {fields}");
        }
        let of_request = !matches!(promise.state, "57014" | "22023");
        assert_eq!(detail.contains("site 1 at "), of_request, "{case}: {fields}");
        assert!(detail.ends_with(promise.detail), "{case}: {fields}");
        assert_eq!(self.state(), before, "{case} changed something");
        assert_absent(&format!("{case}, error"), self.token, &fields);
        self.assert_secret(case, log);
        let seen = match promise.message.strip_suffix('…') {
            Some(begin) => format!("{begin}{}", words_of_library(&message[begin.len()..])),
            None => message.to_owned(),
        };
        let [seen, promised] = [&*seen, promise.message].map(|message| {
            let parts = [promise.state, &self.masked(message), promise.detail];
            let [state, message, detail] = parts;
            let stop = if detail.is_empty() { "" } else { ". " };
            format!("`{state}` {message}{stop}{detail}")
        });
        self.section.row(case, injected, &promised, &seen);
        took
    }

    /// Replaces the Matomo by another one while `with` runs.
    pub fn with_other(&mut self, other: Fake, with: impl FnOnce(&mut Stage)) {
        let url = std::mem::replace(&mut self.url, other.url());
        let fake = std::mem::replace(&mut self.fake, other);
        with(self);
        (self.fake, self.url) = (fake, url);
    }

    /// Runs a sync that must succeed, into a table of its own.
    #[track_caller]
    pub fn works(&mut self, case: &str, injected: &str) {
        self.syncs += 1;
        let table = format!("other_{}", self.syncs);
        run(&mut self.db, &format!("SELECT matomo_create_table('{table}')"));
        let sql = self.sql(&self.url.clone(), &table);
        let log = self.log_end();
        if let Err(error) = self.db.batch_execute(&sql) {
            panic!("{case}: {error:?}");
        }
        self.assert_secret(case, log);
        let rows = oracle(&self.fake, FIRST, LAST);
        assert_equal(&mut self.db, &table, &rows);
        self.section.row(case, injected, "a sync like any other", "every row as it should be");
    }

    /// Replaces this run's ports and Matomos.
    fn masked(&self, text: &str) -> String {
        self.masks.iter().fold(text.to_owned(), |text, (part, mask)| text.replace(part, mask))
    }

    /// Asserts that the token is nowhere where others may look.
    #[track_caller]
    fn assert_secret(&mut self, case: &str, log_begin: u64) {
        let said = format!("{:?}", std::mem::take(&mut *self.said.lock().unwrap()));
        assert_absent(&format!("{case}, notices"), self.token, &said);
        let mut log = std::fs::File::open(talkative().dir.join("log")).unwrap();
        log.seek(SeekFrom::Start(log_begin)).unwrap();
        let mut text = Vec::new();
        log.read_to_end(&mut text).unwrap();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains("matomo_sync"), "{case}: the log shows no statement");
        assert_absent(&format!("{case}, log"), self.token, &text);
        for view in VIEWS {
            let sql = format!("SELECT string_agg(to_jsonb(v)::text, E'\\n') FROM {view} v");
            let text: Option<String> = one(&mut self.db, &sql);
            assert_absent(&format!("{case}, {view}"), self.token, &text.unwrap_or_default());
        }
    }

    fn log_end(&self) -> u64 {
        std::fs::metadata(talkative().dir.join("log")).unwrap().len()
    }

    pub fn pid(&mut self) -> i32 {
        pid(&mut self.db)
    }

    /// Asserts that the session still works and a dump holds no secret; writes the section.
    #[track_caller]
    pub fn finish(mut self) {
        self.recovers();
        self.section.finish();
    }

    /// The first half of `finish`, for stages whose section continues elsewhere.
    #[track_caller]
    pub fn recovers(&mut self) {
        self.fake.heal();
        let rows = oracle(&self.fake, FIRST, LAST);
        for table in TABLES {
            let sql = self.sql(&self.url.clone(), table);
            run(&mut self.db, &sql);
            assert_equal(&mut self.db, table, &rows);
        }
        let mut dump = talkative().program("pg_dump");
        // Excludes the table in which this test keeps the token.
        let dump = dump.args(["--exclude-table-data=keys", &self.name]).output().unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let text = String::from_utf8_lossy(&dump.stdout);
        // A complete dump must contain the mapping.
        let (before, mapping) = text.split_once("CREATE USER MAPPING FOR postgres").unwrap();
        let (mapping, after) = mapping.split_once(';').unwrap();
        assert!(mapping.contains(self.token), "{mapping}");
        let text = format!("{before}{after}");
        assert!(text.contains("COPY public.matomo_partitioned_"), "no dump of rows");
        assert_absent("pg_dump", self.token, &text);
    }
}

/// Without times, and without what depends on this machine's DNS.
fn words_of_library(text: &str) -> String {
    if ["Name or service not known", "Temporary failure in name resolution"].contains(&text) {
        return "…".to_owned();
    }
    let is_digit = |c: char| c.is_ascii_digit();
    let numbers = text.split(|c| !is_digit(c)).filter(|number| number.len() >= 8);
    numbers.fold(text.to_owned(), |text, number| text.replace(number, "N"))
}
