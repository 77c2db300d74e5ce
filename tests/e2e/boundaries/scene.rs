//! The table, the site and the Matomo at the start of each case, and what must hold at any point of
//! it.
//!
//! Of the days d5 to d0 (today), d5 and d4 are older than the site's retention: d5 fills a partition,
//! d4 shares one. d3 and d2 are stored but still open, and d2 has changed since: one visit has an
//! action less, one another title, one is new. d1 and d0 are new and need a partition that does not
//! exist; d1 has more visits than a step reads.

use fake_matomo::Fake;
use fake_matomo::tables::OracleTables;
use postgres::Client;

use super::hold;
use super::points::{Given, Left, Run, Way};
use crate::support::sites::server;
use crate::support::*;

/// Server settings. A day takes several pages; nothing is retried automatically.
pub const CONF: &str = "matomo.settle_time = 0\nmatomo.max_retries = 0\nmatomo.page_size = 2\nmatomo.step_pages = 4\nmatomo.premake = 2\n";

const COMPANIONS: [&str; 3] = ["visits_visits", "visits_conversions", "visits_items"];

const DEAD: &str = "the run was interrupted";

pub struct Scene {
    pub fake: Fake,
    pub noon: Noon,
    /// The stored visits of each day, by its age, and those that Matomo has.
    old: Vec<OracleTables>,
    new: Vec<OracleTables>,
    /// Where the stored rows are, by the day's age.
    places: Vec<String>,
    ledger: Vec<String>,
    /// The registered site.
    pub site: i32,
}

impl Scene {
    /// Prepares a database.
    pub fn new(db: &mut Client) -> Scene {
        let noon = Noon::new();
        let mut world = noon.world(6);
        for n in 4..=6 {
            world.site_mut(1).add(noon.visit(1, n));
        }
        let fake = serve(world);
        run(db, "CREATE EXTENSION matomo_postgres");
        server(db, &fake);
        hold::prepare(db);
        let (old, new, places, ledger) = Default::default();
        let mut scene = Scene { fake, noon, old, new, places, ledger, site: 0 };
        scene.make_table(db);
        for (first, last, settle) in [(5, 4, "0"), (3, 2, "30 d")] {
            let (first, last) = (scene.noon.text(first), scene.noon.text(last));
            run(
                db,
                &format!(
                    "SET matomo.settle_time = '{settle}';
                     SELECT * FROM matomo_sync(1, server => 'analytics', start_date => '{first}', \
                         end_date => '{last}', destination => 'visits')"
                ),
            );
        }
        run(
            db,
            "RESET matomo.settle_time;
             CREATE TABLE hold.visits AS TABLE visits; CREATE TABLE hold.ledger AS TABLE matomo_ledger",
        );
        for companion in COMPANIONS {
            run(db, &format!("CREATE TABLE hold.{companion} AS TABLE {companion}"));
        }
        scene.old = scene.rows();
        scene.change();
        scene.new = scene.rows();
        scene
    }

    fn make_table(&self, db: &mut Client) {
        let midnight = |ago| self.noon.at(ago, "00:00:00");
        // Partitions follow UTC days, and the last one has no partition yet.
        let end = (self.noon.at(2, "11:00:00") / 86_400 + 1) * 86_400;
        run(
            db,
            &format!(
                "SELECT matomo_create_table('visits', true);
                 DO $$ BEGIN
                     EXECUTE format('CREATE TABLE visits_old PARTITION OF visits FOR VALUES FROM (%L) TO (%L)',
                         to_timestamp({0}), to_timestamp({1}));
                     EXECUTE format('CREATE TABLE visits_recent PARTITION OF visits FOR VALUES FROM (%L) TO (%L)',
                         to_timestamp({1}), to_timestamp({2}));
                 END $$",
                midnight(7),
                midnight(4),
                end
            ),
        );
    }

    /// Restores the initial state.
    pub fn set(&mut self, db: &mut Client, way: Way, given: Given) {
        hold::disarm(db, &self.fake);
        run(
            db,
            "DROP TABLE IF EXISTS visits, visits_visits, visits_conversions, visits_items,
                 other, other_visits, other_conversions, other_items;
             DELETE FROM matomo_companion; DELETE FROM matomo_site_config; DELETE FROM matomo_site_state; DELETE FROM matomo_run_log; DELETE FROM matomo_ledger",
        );
        self.make_table(db);
        run(
            db,
            "INSERT INTO visits TABLE hold.visits;
             UPDATE hold.ledger SET destination = 'visits'::regclass;
             INSERT INTO matomo_ledger TABLE hold.ledger",
        );
        for companion in COMPANIONS {
            let (from, to) = (self.noon.at(7, "00:00:00"), self.noon.at(2, "23:00:00"));
            run(
                db,
                &format!(
                    "SELECT matomo_create_partitions('{companion}', to_timestamp({from}), to_timestamp({to}));
                     INSERT INTO {companion} TABLE hold.{companion}"
                ),
            );
        }
        if matches!(way, Way::Call | Way::Worker | Way::RemoveSite) {
            // The worker must not start early.
            let more = match way {
                Way::Worker => "enabled => false",
                _ => "retention => '3 days'",
            };
            let add = "SELECT matomo_add_site('analytics', 1, destination => 'visits', ";
            self.site = one(db, &format!("{add}{more})"));
        }
        if given == Given::Weeks {
            let from = self.noon.at(1, "00:00:00");
            run(
                db,
                &format!("SELECT matomo_create_partitions('visits', to_timestamp({from}), now())"),
            );
        }
        if given == Given::DeadRun {
            run(
                db,
                "INSERT INTO matomo_run_log (job_pid, database, username, command, status, start_time, \
                     site_id, owner, owner_name, server, idsite, destination) \
                 SELECT 1, current_database(), user, 'test', 'running', now() - interval '1 hour', id, owner, \
                     pg_get_userbyid(owner), server, idsite, destination::text FROM matomo_site_config",
            );
        }
        self.places = (0..=5).map(|ago| places(db, ago)).collect();
        self.ledger = ledger(db, "visits");
        assert_eq!(self.ledger.len(), 4);
        self.fake.clear_requests();
    }

    fn rows(&self) -> Vec<OracleTables> {
        let of = |ago| {
            let day = self.noon.text(ago);
            tables_between(&self.fake, 1, &day, &day)
        };
        (0..=5).map(of).collect()
    }

    fn change(&self) {
        let mut world = self.fake.world();
        let site = world.site_mut(1);
        site.visit_mut(1021).actions[0].page_title = Some("Welcome".to_owned());
        site.visit_mut(1022).actions.pop();
        let more = self.noon.visit(2, 4);
        site.add(more);
    }

    /// The version of each day, from today backwards: 0 for none, 1 as before, 2 as in Matomo, 3
    /// the first part of that.
    fn versions(way: Way, left: Left) -> [u8; 6] {
        let read = |place: usize| left.days > place;
        let dropped = |step| left.upkeep >= step;
        let mended = left.days > 1 || way == Way::Check && left.done;
        [
            if read(3) { 2 } else { 0 },
            if read(2) { 2 } else { 3 * u8::from(left.part) },
            if mended { 2 } else { 1 },
            // This day has not changed.
            u8::from(!(way == Way::Forget && left.done)),
            u8::from(!dropped(2)),
            u8::from(!dropped(1)),
        ]
    }

    /// Asserts that exactly the committed rows are there, complete.
    pub fn check(&self, db: &mut Client, way: Way, left: Left) {
        let versions = Scene::versions(way, left);
        let mut rows = only(&self.new[0], |_| false);
        let mut add = |of: OracleTables| {
            let mut of = of;
            for (all, more) in oracles(&mut rows).into_iter().zip(oracles(&mut of)) {
                all.rows.append(&mut more.rows);
            }
        };
        for (ago, version) in versions.iter().enumerate() {
            match version {
                0 => {}
                1 => add(self.old[ago].clone()),
                2 => add(self.new[ago].clone()),
                _ => add(only(&self.new[ago], |visit| visit != 1016)),
            }
            if *version == 1 && !(ago == 3 && way == Way::Forget) {
                assert_eq!(places(db, ago as u64), self.places[ago], "rows of d{ago} were touched");
            }
        }
        if way == Way::Forget && left.done {
            // Only one visitor of three.
            add(only(&self.old[3], |visit| visit != 1031));
        }
        // Old rows of the companions are deleted after those of the actions.
        if (1..3).contains(&left.upkeep) {
            let gone = || (4..=5).filter(|ago| versions[*ago] == 0);
            for (place, table) in COMPANIONS.into_iter().enumerate() {
                let here: Vec<i64> =
                    one(db, &format!("SELECT coalesce(array_agg(idvisit), '{{}}') FROM {table}"));
                for mut old in gone().map(|ago| only(&self.old[ago], |visit| here.contains(&visit)))
                {
                    let rows = &mut oracles(&mut rows)[place + 1].rows;
                    rows.append(&mut oracles(&mut old)[place + 1].rows);
                }
            }
        }
        assert_tables_equal(db, "visits", &rows);
        assert_eq!(ledger(db, "visits"), self.ledger_after(way, left));
        self.check_tables(db, way, left);
        let sites: i64 = one(db, "SELECT count(*) FROM matomo_site_config");
        let states: i64 = one(db, "SELECT count(*) FROM matomo_site_state");
        let expected = match way {
            Way::Call | Way::Worker => 1,
            Way::AddSite => i64::from(left.done),
            Way::RemoveSite => i64::from(!left.done),
            _ => 0,
        };
        assert_eq!((sites, states), (expected, expected));
    }

    fn ledger_after(&self, way: Way, left: Left) -> Vec<String> {
        let line = |ago: u64, state: &str, visits: i64, actions: i64| {
            format!("1 {} {state} {visits} {actions} 0", self.noon.text(ago))
        };
        let mut lines = self.ledger.clone();
        if left.upkeep > 0 {
            lines[0] = line(5, "sealed", 0, 0);
        }
        if left.upkeep > 1 {
            lines[1] = line(4, "sealed", 0, 0);
        }
        if left.days > 0 {
            lines[2] = line(3, "sealed", 3, 9);
        }
        if left.days > 1 {
            lines[3] = line(2, "sealed", 4, 11);
        } else if way == Way::Check && left.done {
            lines[3] = line(2, "open", 4, 11);
        }
        if left.days > 2 {
            lines.push(line(1, "sealed", 6, 18));
        } else if left.part {
            lines.push(line(1, "open", 5, 15));
        }
        if left.days > 3 {
            lines.push(line(0, "open", 3, 9));
        }
        lines
    }

    /// Asserts that the right partitions exist, and that each is attached to its table.
    fn check_tables(&self, db: &mut Client, way: Way, left: Left) {
        let lost = "SELECT c.relname::text FROM pg_class c WHERE c.relname LIKE 'visits\\_%' \
            AND c.relkind IN ('r', 'p') AND c.relname NOT IN ('visits_visits', 'visits_conversions', 'visits_items')
            AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid \
            AND NOT i.inhdetachpending)";
        assert_eq!(texts(db, lost), [""; 0], "tables that belong to no other");
        let other: bool = one(db, "SELECT to_regclass('other') IS NOT NULL");
        assert_eq!(other, way == Way::CreateTable && left.done);
        let companions =
            "SELECT count(*) FROM pg_class WHERE relname ~ '^other_(visits|conversions|items)$'";
        assert_eq!(one::<i64>(db, companions), if other { 3 } else { 0 });
        let parts = texts(
            db,
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'visits'::regclass ORDER BY 1",
        );
        let has = |name: &str| parts.iter().any(|part| part == name);
        assert_eq!(has("visits_old"), left.upkeep < 1, "{parts:?}");
        assert!(has("visits_recent"), "{parts:?}");
        let made = parts.iter().filter(|part| part.starts_with("visits_2")).count();
        // Two more weeks, of which today's rows may have started the first.
        match (left.days + usize::from(left.part), left.upkeep, way) {
            // A run commits them before the rows.
            (2, _, Way::Call | Way::Worker) => assert!(made <= 2, "{parts:?}"),
            (0..=2, _, _) => assert_eq!(made, 0, "{parts:?}"),
            (_, 0..=2, _) | (_, _, Way::Sync | Way::Drop) => {
                assert!((1..=2).contains(&made), "{parts:?}")
            }
            _ => assert!((3..=4).contains(&made), "{parts:?}"),
        }
    }

    /// Reads the state from the database.
    pub fn seen(&self, db: &mut Client, way: Way) -> Left {
        let now = ledger(db, "visits");
        let part = now.get(4).is_some_and(|line| line.contains(" open "));
        let days = (2..now.len()).filter(|n| self.ledger.get(*n) != Some(&now[*n])).count();
        let days = days - usize::from(part);
        let count =
            |db: &mut Client, sql: &str| one::<i64>(db, &format!("SELECT count(*) FROM {sql}"));
        let is_tended = count(db, "matomo_site_state WHERE tended_on IS NOT NULL") > 0;
        let upkeep = match is_tended {
            true => 3,
            false if count(db, "visits WHERE idvisit::text LIKE '104_'") == 0 => 2,
            false => usize::from(count(db, "pg_class WHERE relname = 'visits_old'") == 0),
        };
        let last = texts(
            db,
            "SELECT concat_ws(' ', status, return_message) FROM matomo_runs WHERE command <> 'test'",
        );
        let run = match last.first().map(String::as_str) {
            None => Run::None,
            Some("succeeded") => Run::Succeeded,
            Some(text) if text == format!("failed {DEAD}") => Run::Begun,
            Some(_) => Run::Failed,
        };
        let done = match way {
            Way::AddSite => count(db, "matomo_sites") == 1,
            Way::RemoveSite => count(db, "matomo_sites") == 0,
            Way::Forget => count(db, "visits WHERE idvisit = '1031'") == 0,
            Way::Check => count(db, "visits WHERE idvisit = '1024'") > 0,
            _ => false,
        };
        Left { days, part, run, upkeep, done }
    }

    /// Asserts that the runs tell what has happened, and that nothing is running.
    pub fn check_runs(&self, db: &mut Client, left: Left, given: Given) {
        let mut expected = Vec::new();
        if given == Given::Weeks {
            let from = self.noon.at(1, "00:00:00");
            run(
                db,
                &format!("SELECT matomo_create_partitions('visits', to_timestamp({from}), now())"),
            );
        }
        if given == Given::DeadRun {
            expected.push(format!("failed 0 {DEAD}"));
        }
        match left.run {
            Run::None => {}
            Run::Begun => expected.push(format!("failed {} {DEAD}", left.days)),
            Run::Succeeded => expected.push(format!("succeeded {} ", left.days)),
            Run::Failed => {
                let message = "Matomo answered with HTTP status 503";
                expected.push(format!("failed {} {message}", left.days));
            }
        }
        let sql =
            "SELECT concat(status, ' ', days, ' ', return_message) FROM matomo_runs ORDER BY runid";
        assert_eq!(texts(db, sql), expected);
        assert_idle(db);
    }

    /// Asserts that the work has completed and no run is left running.
    pub fn check_end(&self, db: &mut Client, before: Left) {
        let unsaid = "SELECT status FROM matomo_run_log WHERE status = 'running'";
        assert_eq!(texts(db, unsaid), [""; 0]);
        let last = texts(db, "SELECT status FROM matomo_runs ORDER BY runid DESC LIMIT 1");
        assert_eq!(last, ["succeeded"]);
        let state = "SELECT concat_ws(' ', failures, running, upkeep_error) FROM matomo_status";
        assert_eq!(texts(db, state), ["0 f"]);
        let dead = format!("SELECT count(*) FROM matomo_run_log WHERE return_message = '{DEAD}'");
        let of_before = i64::from(before.run == Run::Begun);
        assert!(one::<i64>(db, &dead) >= of_before);
        assert_idle(db);
    }
}

/// Asserts that no lock of the extension is held and nothing counts as running.
fn assert_idle(db: &mut Client) {
    let locks = "SELECT l::text FROM pg_locks l WHERE locktype = 'userlock'";
    assert_eq!(texts(db, locks), [""; 0]);
    assert_eq!(one::<i64>(db, "SELECT count(*) FROM matomo_progress"), 0);
    assert_eq!(one::<i64>(db, "SELECT count(*) FROM matomo_status WHERE running"), 0);
    assert_eq!(one::<i64>(db, "SELECT count(*) FROM matomo_runs WHERE status = 'running'"), 0);
}

/// Where the rows of a day are, and who wrote them. Not who tried to change them.
fn places(db: &mut Client, ago: u64) -> String {
    one(
        db,
        &format!(
            "SELECT coalesce(string_agg(format('%s %s %s', tableoid, ctid, xmin), ',' ORDER BY tableoid, ctid), '') \
             FROM visits WHERE idvisit::text LIKE '10{ago}_'"
        ),
    )
}
