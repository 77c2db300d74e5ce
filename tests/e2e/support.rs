//! What most tests need: a database, a fake Matomo, a sync, and the comparison with the oracle.

use std::fmt::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use chrono::{Days, NaiveDate, TimeDelta, Timelike, Utc};
use fake_matomo::{
    Action, ActionTime, Clock, Fake, Options, OracleRow, Plan, Seen, Site, SitePlan, Visit, World,
};
use postgres::error::DbError;
use postgres::{Client, Row};

use crate::cluster::shared;

pub fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

pub fn instant(text: &str) -> i64 {
    text.parse::<chrono::DateTime<chrono::Utc>>().unwrap().timestamp()
}

/// A world with one site (ID 1), its days given as in SQL.
pub fn world(seed: u64, zone: &str, visits_per_day: usize, first: &str, last: &str) -> World {
    World::generate(&Plan {
        seed,
        sites: vec![SitePlan { ecommerce: true, ..SitePlan::new(1, zone, visits_per_day) }],
        first_day: day(first),
        last_day: day(last),
        now: Clock::Real,
    })
}

pub fn serve(world: World) -> Fake {
    Fake::start(Options::new(world))
}

/// A database of its own, in the shared cluster.
pub fn database() -> Client {
    shared().connect(&shared().database())
}

/// What a server says besides results, as (severity, message), the oldest first.
#[derive(Clone, Default)]
pub struct Notices(Arc<Mutex<Vec<(String, String)>>>);

impl Notices {
    /// Takes note of one, as a connection's callback.
    pub fn push(&self, notice: DbError) {
        let line = (notice.severity().to_owned(), notice.message().to_owned());
        self.0.lock().unwrap().push(line);
    }

    /// Takes all that have come so far.
    pub fn take(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A database of its own in the shared cluster, and what it says to the connection.
pub fn database_with_notices() -> (Client, Notices) {
    let notices = Notices::default();
    let mut config = shared().config(&shared().database(), "postgres");
    let theirs = notices.clone();
    config.notice_callback(move |notice| theirs.push(notice));
    (config.connect(postgres::NoTls).expect("connects"), notices)
}

/// A call of `matomo_sync` on site 1.
pub struct Sync<'a> {
    pub url: String,
    pub key: String,
    pub site: i32,
    pub start: &'a str,
    pub end: &'a str,
    pub destination: &'a str,
    pub page_size: i32,
    pub force: bool,
}

impl<'a> Sync<'a> {
    /// Into `matomo`, pages of 500, all days read whole whatever the ledger knows.
    pub fn of(fake: &Fake, start: &'a str, end: &'a str) -> Sync<'a> {
        Sync {
            url: fake.url(),
            key: fake.token().to_owned(),
            site: 1,
            start,
            end,
            destination: "matomo",
            page_size: 500,
            force: true,
        }
    }

    pub fn into(self, destination: &'a str) -> Sync<'a> {
        Sync { destination, ..self }
    }

    pub fn pages_of(self, page_size: i32) -> Sync<'a> {
        Sync { page_size, ..self }
    }

    pub fn sql(&self) -> String {
        format!(
            "SELECT * FROM matomo_sync({}, '{}', '{}', '{}', '{}', '{}', {}, {})",
            self.site,
            self.url,
            self.key,
            self.start,
            self.end,
            self.destination,
            self.force,
            self.page_size
        )
    }

    /// Runs it; the sums over all days.
    pub fn run(&self, db: &mut Client) -> Sums {
        let rows = db.query(&self.sql(), &[]).unwrap_or_else(|error| panic!("{error:?}"));
        Sums::of(&rows)
    }

    /// Runs it; the error it ends with.
    pub fn error(&self, db: &mut Client) -> DbError {
        error(db, &self.sql())
    }
}

/// Sums over the rows of a result.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub struct Sums {
    pub days: usize,
    pub pages: i64,
    pub visits: i64,
    pub actions: i64,
    pub inserted: i64,
    pub updated: i64,
    pub deleted: i64,
    pub truncated: i64,
}

impl Sums {
    pub fn of(rows: &[Row]) -> Sums {
        let sum = |column: &str| rows.iter().map(|row| row.get::<_, i64>(column)).sum();
        Sums {
            days: rows.len(),
            pages: rows.iter().map(|row| i64::from(row.get::<_, i32>("pages"))).sum(),
            visits: sum("visits"),
            actions: sum("actions"),
            inserted: sum("inserted"),
            updated: sum("updated"),
            deleted: sum("deleted"),
            truncated: sum("truncated_visits"),
        }
    }

    /// Rows written in any way.
    pub fn written(&self) -> i64 {
        self.inserted + self.updated + self.deleted
    }
}

/// The error that a statement ends with.
pub fn error(db: &mut Client, sql: &str) -> DbError {
    let error = db.batch_execute(sql).expect_err("the statement must fail");
    error.as_db_error().unwrap_or_else(|| panic!("no error of the server: {error}")).clone()
}

pub fn one<T: postgres::types::FromSqlOwned>(db: &mut Client, sql: &str) -> T {
    db.query_one(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// The process of a session.
pub fn pid(db: &mut Client) -> i32 {
    one(db, "SELECT pg_backend_pid()")
}

/// Proves that a table holds exactly the oracle's rows, each value compared as Postgres prints it.
pub fn assert_equal(db: &mut Client, table: &str, oracle: &[OracleRow]) {
    let found = differences(db, table, oracle);
    assert!(found.is_empty(), "{table} differs from the oracle:\n{found}");
}

/// The rows that only one side has, as text; empty when there are none.
pub fn differences(db: &mut Client, table: &str, oracle: &[OracleRow]) -> String {
    db.batch_execute(
        "SET client_min_messages = warning; SET TimeZone = 'UTC';
         DROP TABLE IF EXISTS oracle; CREATE TEMP TABLE oracle (LIKE matomo_action)",
    )
    .unwrap();
    let mut writer = db.copy_in("COPY oracle FROM STDIN").unwrap();
    for row in oracle {
        let fields: Vec<_> = row.0.iter().map(|value| copy_field(value.as_deref())).collect();
        std::io::Write::write_all(&mut writer, (fields.join("\t") + "\n").as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    let columns = fake_matomo::COLUMNS.map(|column| format!("{column}::text")).join(", ");
    let (ours, theirs) =
        (format!("SELECT {columns} FROM {table}"), format!("SELECT {columns} FROM oracle"));
    let mut text = String::new();
    for (name, sql) in [
        ("only in the table", format!("{ours} EXCEPT ALL {theirs}")),
        ("only in the oracle", format!("{theirs} EXCEPT ALL {ours}")),
    ] {
        for row in db
            .query(&format!("SELECT to_jsonb(x)::text FROM ({sql} ORDER BY 1 LIMIT 3) x"), &[])
            .unwrap()
        {
            writeln!(text, "{name}: {}", row.get::<_, String>(0)).unwrap();
        }
    }
    text
}

fn copy_field(value: Option<&str>) -> String {
    value.map_or("\\N".to_owned(), |text| {
        text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
    })
}

/// The oracle of site 1, true times.
pub fn oracle(fake: &Fake, first: &str, last: &str) -> Vec<OracleRow> {
    fake.world().oracle(1, day(first), day(last), ActionTime::Utc)
}

/// A digest of where every row lies and which transaction wrote it: equal as long as nothing
/// touches the table.
pub fn fingerprint(db: &mut Client, table: &str) -> String {
    one(
        db,
        &format!(
            "SELECT coalesce(md5(string_agg(format('%s %s %s %s', tableoid, ctid, xmin, xmax), ',' \
             ORDER BY tableoid, ctid)), 'empty') FROM {table}"
        ),
    )
}

/// A database of its own in the shared cluster, by name, for tests with several sessions.
pub fn named_database() -> (String, Client) {
    let name = shared().database();
    let db = shared().connect(&name);
    (name, db)
}

/// Runs statements that must succeed; a failure shows them.
pub fn run(db: &mut Client, sql: &str) {
    db.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The first column of a result, which must be text.
pub fn texts(db: &mut Client, sql: &str) -> Vec<String> {
    let rows = db.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// A new role that may log in and that owns nothing. Roles are the whole cluster's.
pub fn role(db: &mut Client) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("role_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    run(db, &format!("CREATE ROLE {name} LOGIN"));
    name
}

/// Puts rows of the oracle into a table, as another tool would have.
pub fn copy_rows(db: &mut Client, table: &str, rows: &[OracleRow]) {
    let columns = fake_matomo::COLUMNS.join(", ");
    let mut writer = db.copy_in(&format!("COPY {table} ({columns}) FROM STDIN")).unwrap();
    for row in rows {
        let fields: Vec<_> = row.0.iter().map(|value| copy_field(value.as_deref())).collect();
        std::io::Write::write_all(&mut writer, (fields.join("\t") + "\n").as_bytes()).unwrap();
    }
    writer.finish().unwrap();
}

/// Waits until something holds, for ten seconds at most.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !holds() {
        assert!(
            begin.elapsed() < std::time::Duration::from_secs(10),
            "waited in vain until {what}"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Whether a session waits for a lock that another one holds.
pub fn waits(db: &mut Client, pid: i32) -> bool {
    one(
        db,
        &format!(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock')"
        ),
    )
}

/// A zone in which it is noon now, or some hours later, so that no test meets midnight; nor do the
/// mornings of its days meet that of UTC. Days are counted back from its today.
pub struct Noon {
    pub zone: String,
    offset: i64,
    today: NaiveDate,
}

impl Noon {
    pub fn new() -> Noon {
        let now = Utc::now();
        let offset = match 12 - i64::from(now.hour()) {
            8..=11 => 12,
            noon => noon,
        };
        let today = (now + TimeDelta::hours(offset)).date_naive();
        Noon { zone: format!("UTC{offset:+}"), offset, today }
    }

    pub fn day(&self, ago: u64) -> NaiveDate {
        self.today - Days::new(ago)
    }

    /// The same as text.
    pub fn text(&self, ago: u64) -> String {
        self.day(ago).to_string()
    }

    /// An instant by the site's clock, as in "08:30:00".
    pub fn at(&self, ago: u64, clock: &str) -> i64 {
        let wall = self.day(ago).and_time(clock.parse().unwrap());
        wall.and_utc().timestamp() - self.offset * 3600
    }

    /// A world with site 1: on each day, today included, three visits in the morning. Visit
    /// `1000 + 10 * ago + n` is the n-th of the day so long ago, n from 1 to 3.
    pub fn world(&self, days: u64) -> World {
        let mut world = World::new(Clock::Real);
        let mut site = Site::new(1, "Noon", &self.zone);
        for ago in (0..days).rev() {
            for n in 1..=3 {
                site.add(self.visit(ago, n));
            }
        }
        world.add_site(site);
        world
    }

    /// A visit of two pages and a goal, as `world` has it.
    pub fn visit(&self, ago: u64, n: i64) -> Visit {
        let id = 1000 + 10 * i64::try_from(ago).unwrap() + n;
        let at = self.at(ago, &format!("{:02}:00:00", 7 + n));
        Visit::new(id, at)
            .and(Action::page(at, "https://noon.test/", "Home"))
            .and(Action::page(at + 30, "https://noon.test/contact", "Contact"))
            .and(Action::goal(at + 40, 1, "Asked", "https://noon.test/contact"))
    }
}

/// What Matomo was asked since the last look, a line a request: `site`, `day D`, `day D after T`
/// (an instant), with `, offset N` where there is one, or `visits 1, 2`.
pub fn asked(fake: &Fake) -> Vec<String> {
    let line = |seen: &Seen| {
        if seen.method != "Live.getLastVisitsDetails" {
            return seen.method.replace("SitesManager.getSiteFromId", "site");
        }
        if !seen.param("segment").is_empty() {
            return seen.param("segment").replace("visitId==", "").replace(',', ", ");
        }
        let mut text = format!("day {}", seen.param("date").split(',').next().unwrap());
        for (key, word) in [("minTimestamp", " after "), ("filter_offset", ", offset ")] {
            match seen.param(key) {
                "" | "0" => {}
                value => write!(text, "{word}{value}").unwrap(),
            }
        }
        text
    };
    let lines = fake.requests().iter().map(line).collect();
    fake.clear_requests();
    lines
}

/// A call of `matomo_sync` on a site with further arguments, as in `", start_date => '2026-01-01'"`.
pub fn sync_sql(fake: &Fake, site: i64, arguments: &str) -> String {
    format!("SELECT * FROM matomo_sync({site}, '{}', '{}'{arguments})", fake.url(), fake.token())
}

/// Runs such a call; the sums over all days.
pub fn sync(db: &mut Client, fake: &Fake, arguments: &str) -> Sums {
    sync_site(db, fake, 1, arguments)
}

/// The same for another site.
pub fn sync_site(db: &mut Client, fake: &Fake, site: i64, arguments: &str) -> Sums {
    let sql = sync_sql(fake, site, arguments);
    let rows = db.query(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    Sums::of(&rows)
}

/// The ledger, a line an entry: `site day sealed|open visits actions truncated`.
pub fn ledger(db: &mut Client, destination: &str) -> Vec<String> {
    texts(
        db,
        &format!(
            "SELECT concat_ws(' ', idsite, day, CASE WHEN sealed THEN 'sealed' ELSE 'open' END, visits, \
             actions, truncated_visits) FROM matomo_ledger \
             WHERE destination = '{destination}'::regclass ORDER BY idsite, matomo, day"
        ),
    )
}

/// Tables as other tools have filled them: the same Matomo may go on by another URL.
pub fn forget_matomo(db: &mut Client) {
    run(db, "DELETE FROM matomo_ledger");
}

/// All rows of a site that a right copy has.
pub fn all_of(fake: &Fake, site: i64) -> Vec<OracleRow> {
    fake.world().oracle(site, day("1990-01-01"), day("2200-01-01"), ActionTime::Utc)
}

/// Proves that an error says what it should: SQLSTATE, message, and words of its DETAIL and HINT.
pub fn assert_says(error: &DbError, state: &str, message: &str, details: &[&str], hint: &str) {
    assert_eq!((error.code().code(), error.message()), (state, message));
    for words in details {
        assert!(error.detail().unwrap_or_default().contains(words), "{error:?} lacks {words}");
    }
    assert!(error.hint().unwrap_or_default().contains(hint), "{error:?} lacks {hint}");
    assert!(!format!("{error:?}").contains("secret-token"), "{error:?}");
}
