//! One history: events and syncs, then a check.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use chrono::{DateTime, Days, NaiveDate, Utc};
use fake_matomo::{Clock, Fake, Options, Plan, SitePlan, World, Zone};

use super::bench::{Bench, Engine, Stage};
use super::events::Calendar;
use super::random::Random;
use super::reckoning::{self, Found};
use super::trouble::Trouble;
use super::witness::{Order, Rows, all_rows, whole};
use crate::support::*;

/// What histories were made of: a test that meets no trouble proves little.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub histories: usize,
    pub syncs: usize,
    pub failed: usize,
    pub cancelled: usize,
    pub killed: usize,
    /// Of these, after the sync had committed.
    pub killed_late: usize,
    /// After the commit of the other database, before that of this one.
    pub killed_between: usize,
    /// Visits that the last sync need not know.
    pub excused: usize,
    pub found: Found,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.histories += other.histories;
        self.syncs += other.syncs;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.killed += other.killed;
        self.killed_late += other.killed_late;
        self.killed_between += other.killed_between;
        self.excused += other.excused;
        self.found += other.found;
    }
}

pub struct Course<'a, 'b> {
    pub(super) bench: &'a mut Bench<'b>,
    pub(super) fake: Fake,
    pub(super) stage: Stage,
    pub(super) random: Random,
    calendar: Calendar,
    table: &'static str,
    pub(super) with_kills: bool,
    /// Whether rows of the next sync are there before it.
    is_half_done: bool,
    pub tally: Tally,
}

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Paris",
    "America/Los_Angeles",
    "Asia/Kolkata",
    "Pacific/Kiritimati",
    "Australia/Adelaide",
    "UTC-3.5",
    "UTC+12",
];

/// Whether nothing happens to the zone's clock that would make a test a matter of luck: no midnight
/// soon, no repeated hour, in which not all times of a visit can be told.
fn is_calm(zone: Zone, now: i64) -> bool {
    let day = 86_400;
    let soon = [now - 300, now + 600].map(|at| zone.day(at));
    soon[0] == soon[1] && (-9..2).all(|n| zone.offset(now + n * day) == zone.offset(now))
}

impl<'a, 'b> Course<'a, 'b> {
    pub fn new(seed: u64, bench: &'a mut Bench<'b>, with_kills: bool) -> Course<'a, 'b> {
        let mut random = Random::new(seed);
        let now = Utc::now().timestamp() - 2;
        let calm = |name: &&str| is_calm(Zone::parse(name).unwrap(), now);
        let zones: Vec<_> = ZONES.into_iter().filter(calm).collect();
        let timezone = random.pick(&zones);
        let zone = Zone::parse(timezone).unwrap();
        let today = zone.day(now);
        let first = today - Days::new(random.between(1, 4) as u64);
        let calendar = Calendar { zone, first, today, now };
        let visits = random.between(1, 4) as usize;
        let mut world = World::generate(&Plan {
            seed,
            sites: vec![SitePlan { ecommerce: true, ..SitePlan::new(1, timezone, visits) }],
            first_day: first,
            last_day: today,
            now: Clock::Real,
        });
        // Long visits have tests of their own; these are many.
        world.site_mut(1).visits.retain(|visit| visit.actions.len() <= 30);
        if random.percent(10) {
            world.max_actions = 3;
        }
        let table = random.pick(&["matomo", "matomo_partitioned"]);
        let any = match random.below(10) {
            0..5 => Engine::Heap,
            5..7 => Engine::Heap2,
            _ if table == "matomo" || !bench.has_fdw => Engine::Heap2,
            _ => Engine::Foreign,
        };
        let engine = bench.only.unwrap_or(any);
        let until = DateTime::from_timestamp(zone.midnight(today - Days::new(1)), 0).unwrap();
        bench.clear(engine, &until.to_rfc3339());
        let fake = Fake::start(Options::new(world));
        let stage = Stage::new(calendar, seed);
        stage.note(format!(
            "now {now}, {timezone}, from {first} to {today}, into {table} of {engine:?}"
        ));
        stage.watch(&fake);
        let tally = Tally { histories: 1, ..Tally::default() };
        Course {
            bench,
            fake,
            stage,
            random,
            calendar,
            table,
            with_kills,
            is_half_done: false,
            tally,
        }
    }

    /// What has happened so far.
    pub fn steps(&self) -> Stage {
        self.stage.clone()
    }

    pub fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.random.between(3, 7) {
            for _ in 0..self.random.below(5) {
                self.stage.event(&self.fake);
            }
            let order = self.order();
            self.sync(&order, true)?;
        }
        // All is quiet: the last sync, of all days that are not sealed.
        let order = Order { start: Some(self.floor()), end: None, ..self.order() };
        self.sync(&order, false)?;
        let excused = {
            let world = self.fake.world();
            self.stage.scene().witness.excused(&world)?
        };
        self.tally.excused += excused;
        let mut found = Found::default();
        if self.random.percent(50) {
            self.check(false, false)?;
        }
        found += self.check(true, true)?;
        self.tally.found += found;
        let now = all_rows(&self.fake.world());
        self.stage.scene().witness.stored = now;
        self.assert_stored("after the repair")?;
        let again = self.check(false, true)?;
        if again.differences() > 0 {
            return Err(format!("a check after the repair finds {again:?}"));
        }
        // A sync then finds nothing to do.
        let order = Order { start: None, end: None, ..self.order() };
        self.sync(&order, false)
    }

    /// The first day of which there may be visits.
    fn floor(&self) -> NaiveDate {
        self.calendar.first - Days::new(1)
    }

    fn order(&mut self) -> Order {
        let Calendar { zone, today, first, .. } = self.calendar;
        let random = &mut self.random;
        let now = Utc::now().timestamp();
        let any_day = |random: &mut Random| {
            let days = (today - first).num_days() + 1;
            today - Days::new(random.between(0, days) as u64)
        };
        let start = match random.below(10) {
            0..4 => Some(first),
            4..7 => None,
            _ => Some(any_day(random)),
        };
        let end = random.percent(20).then(|| any_day(random).max(start.unwrap_or(first)));
        // No day may settle just now.
        let settles_soon = |settle: i64| {
            (0..8).any(|back| {
                let midnight = zone.midnight(today + Days::new(1) - Days::new(back));
                (midnight + settle - now).abs() < 300
            })
        };
        let hour = 3600;
        let settle_times: Vec<i64> = [0, 3 * hour, 7 * hour, 31 * hour, 55 * hour, 700 * hour]
            .into_iter()
            .filter(|settle| !settles_soon(*settle))
            .collect();
        Order {
            start,
            end,
            force: random.percent(10),
            page_size: random.pick(&[1, 2, 3, 4, 5, 6, 7, 500]),
            settle_time: random.pick(&settle_times),
            lookback: if random.percent(15) { random.between(1, 3) as u64 } else { 0 },
            now,
        }
    }

    /// One sync, and what must be stored after it.
    fn sync(&mut self, order: &Order, in_trouble: bool) -> Result<(), String> {
        self.stage.note(format!("sync {order:?}"));
        let Order { settle_time, lookback, page_size, force, .. } = order;
        run(
            &mut self.bench.db,
            &format!(
                "SET matomo.settle_time = '{settle_time}s'; SET matomo.lookback = {lookback};
                 SET matomo.request_timeout = '60s'"
            ),
        );
        let (mut trouble, mut retries) = (Trouble::None, 1);
        if in_trouble {
            (trouble, retries) = self.trouble(order);
            let paging = if self.random.percent(30) { 1 + self.random.below(3) } else { 0 };
            self.stage.scene().events = paging;
        }
        run(&mut self.bench.db, &format!("SET matomo.max_retries = {retries}"));
        let date = |day: Option<NaiveDate>| day.map_or("NULL".to_owned(), |day| format!("'{day}'"));
        let sql = format!(
            "SELECT * FROM matomo_sync(1, '{}', '{}', {}, {}, '{}', {force}, {page_size})",
            self.fake.url(),
            self.fake.token(),
            date(order.start),
            date(order.end),
            self.table,
        );
        let session = pid(&mut self.bench.db);
        let ledger = self.bench.ledger();
        self.stage.scene().witness.begin(order);
        let result = self.bench.db.query(&sql, &[]);
        self.tally.syncs += 1;
        self.fake.heal();
        self.note_requests();
        let struck = {
            let mut scene = self.stage.scene();
            scene.events = 0;
            let not_struck = scene.disaster.take();
            scene.struck.take().filter(|_| not_struck.is_none())
        };
        if let Some(thread) = struck {
            thread.join().map_err(|_| "the disaster did not strike".to_owned())?;
            if trouble == Trouble::Kill {
                self.tally.killed += 1;
                return self.rise_again(order, result.ok(), session, &ledger);
            }
        }
        match result {
            Ok(rows) => self.committed(Some(Sums::of(&rows)))?,
            Err(error) => {
                let code = error.code().map_or("none", |code| code.code()).to_owned();
                self.stage.note(format!("  fails: {code} {error:?}"));
                match (trouble, code.as_str()) {
                    (Trouble::Cancel, "57014") => self.tally.cancelled += 1,
                    (Trouble::Matomo, "08006" | "08P01") => self.tally.failed += 1,
                    _ => return Err(format!("the sync fails: {error:?}")),
                }
                self.stage.scene().witness.rolled_back();
            }
        }
        self.assert_stored("after the sync")
    }

    /// What was asked, for those who read the steps.
    fn note_requests(&self) {
        for seen in self.fake.requests().iter().filter(|seen| seen.method.starts_with("Live.")) {
            let [date, after, limit, offset] =
                ["date", "minTimestamp", "filter_limit", "filter_offset"]
                    .map(|name| seen.param(name));
            let fault = seen.fault.as_deref().unwrap_or("");
            let date = date.split(',').next().unwrap_or("");
            self.stage.note(format!("  asked {date} after {after}, {limit} from {offset} {fault}"));
        }
        self.fake.clear_requests();
    }

    fn committed(&mut self, sums: Option<Sums>) -> Result<(), String> {
        let (grown, touched) = {
            let world = self.fake.world();
            self.stage.scene().witness.committed(&world)?
        };
        let Some(sums) = sums else { return Ok(()) };
        self.stage.note(format!("  {sums:?}"));
        if std::mem::take(&mut self.is_half_done) {
            return Ok(());
        }
        if sums.inserted - sums.deleted != grown {
            return Err(format!("the table has {grown} rows more, the sync says {sums:?}"));
        }
        if !touched && sums.written() > 0 {
            return Err(format!("nothing has changed, yet the sync wrote: {sums:?}"));
        }
        Ok(())
    }

    /// After `kill -9`: the sync is there as a whole, the ledger with it, or not at all. If the other
    /// database has committed and this one has not, the same sync completes it.
    fn rise_again(
        &mut self,
        order: &Order,
        result: Option<Vec<postgres::Row>>,
        session: i32,
        ledger: &[String],
    ) -> Result<(), String> {
        let told = result.is_some();
        let postmaster = self.bench.postmaster();
        // A session that has its answer waits for the next statement, and notices too.
        self.bench.start_again(postmaster, session);
        let later = self.stage.scene().witness.would_be_stored();
        let is_noted = self.bench.ledger() != ledger;
        let is_there = is_noted || self.differences(&later).is_empty();
        if told && !is_there {
            return Err("the sync had said that it was done, but it is not there".to_owned());
        }
        // One that was done without a word, and had nothing to note, shows in the table alone.
        let before = self.stage.scene().witness.stored.clone();
        let is_alone = self.bench.engine != Engine::Foreign || told || is_noted;
        if !is_alone && !self.differences(&before).is_empty() {
            self.stage.note("  killed, after the commit of the other database".to_owned());
            self.stage.scene().witness.rolled_back();
            self.tally.killed_between += 1;
            self.is_half_done = true;
            // Without a ledger a sync starts where the rows end.
            let start = order.start.or_else(|| ledger.is_empty().then(|| self.floor()));
            return self.sync(&Order { start, ..order.clone() }, false);
        }
        if told || is_noted || (is_there && !self.differences(&before).is_empty()) {
            self.stage.note("  killed, but done".to_owned());
            self.tally.killed_late += 1;
            self.committed(result.map(|rows| Sums::of(&rows)))?;
        } else {
            self.stage.note("  killed".to_owned());
            self.stage.scene().witness.rolled_back();
        }
        self.assert_stored("after the kill")
    }

    fn differences(&mut self, rows: &Rows) -> String {
        let db = &mut self.bench.db;
        let whole = whole(rows);
        let rows: Vec<_> = rows.values().flat_map(|copied| copied.actions.clone()).collect();
        let is_there: bool = one(db, &format!("SELECT to_regclass('{}') IS NOT NULL", self.table));
        if !is_there {
            return if rows.is_empty() { String::new() } else { "there is no table".to_owned() };
        }
        let of_four = whole.map(|whole| table_differences(db, self.table, &whole));
        differences(db, self.table, &rows) + &of_four.unwrap_or_default()
    }

    fn assert_stored(&mut self, when: &str) -> Result<(), String> {
        let rows = self.stage.scene().witness.stored.clone();
        match self.differences(&rows) {
            same if same.is_empty() => Ok(()),
            found => Err(format!("{when} the table does not hold what was read:\n{found}")),
        }
    }

    /// A check of all days, which must find exactly what there is to find.
    fn check(&mut self, repair: bool, deep: bool) -> Result<Found, String> {
        let (first, last) = (self.floor(), self.calendar.today);
        let page_size = self.random.pick(&[1, 3, 7, 500]);
        self.stage.note(format!("check, repair {repair}, deep {deep}, pages of {page_size}"));
        let sql = format!(
            "SELECT day::text, visits_there, visits_here, missing, extra, stale, repaired FROM \
             matomo_check(1, '{first}', '{last}', '{}', '{}', '{}', {repair}, {deep}, {page_size}, \
             delete_purged => true)",
            self.fake.url(),
            self.fake.token(),
            self.table,
        );
        let rows = self.bench.db.query(&sql, &[]).map_err(|error| format!("{error:?}"))?;
        let found: BTreeMap<NaiveDate, Found> = rows
            .iter()
            .map(|row| {
                let [there, here, missing, extra, stale, repaired] =
                    std::array::from_fn(|n| row.get(n + 1));
                let found = Found { there, here, missing, extra, stale, repaired };
                (day(row.get(0)), found)
            })
            .collect();
        let expected = {
            let world = self.fake.world();
            let scene = self.stage.scene();
            reckoning::expected(&world, &scene.witness.stored, (first, last), repair, deep)
        };
        if found != expected {
            return Err(format!("the check finds {found:#?}\nbut there is {expected:#?}"));
        }
        Ok(found.into_values().fold(Found::default(), |mut sum, found| {
            sum += found;
            sum
        }))
    }
}
