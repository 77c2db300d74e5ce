//! One case: a writer is held at a boundary and killed there; the remaining state is checked; then
//! the same work runs again and completes.

use std::collections::BTreeMap;
use std::thread::JoinHandle;

use fake_matomo::{Fault, Page, When};
use postgres::Client;

use super::points::{Given, Left, Point, Run, Way};
use super::scene::Scene;
use super::victim::Victim;
use super::{hold, victim};
use crate::support::cluster::Cluster;
use crate::support::worker::{coordinator_pid, process_of, wait_long};
use crate::support::*;

/// A server and its contents.
pub struct Course {
    cluster: Cluster,
    scene: Scene,
    db: Option<Client>,
}

/// A process that writes.
struct Writer {
    pid: i32,
    /// The thread that waits for a session.
    waits: Option<JoinHandle<Result<(), postgres::Error>>>,
}

impl Course {
    pub fn new(conf: &str) -> Course {
        let cluster = Cluster::start_with(&format!("{}{}{conf}", hold::CONF, super::scene::CONF));
        let mut db = victim::connect(&cluster);
        let scene = Scene::new(&mut db);
        Course { cluster, scene, db: Some(db) }
    }

    /// Runs a case; returns what was promised and what was seen.
    pub fn run(&mut self, point: &Point, way: Way, victim: Victim) -> [String; 2] {
        let mut db = self.db.take().unwrap();
        self.scene.set(&mut db, way, point.given);
        if point.given == Given::Fault {
            let day = self.scene.noon.text(1);
            let third = When::live().param("date", &format!("{day},{day}"));
            self.scene.fake.fail(Fault::Status(503, Page::Html), third);
        }
        point.hold.arm(&mut db, &self.scene.fake, &self.scene.noon);
        let mut writer = self.begin(&mut db, way);
        wait_long(60, &format!("it stands there: {}", point.name), || {
            let ended = writer.waits.as_ref().is_some_and(JoinHandle::is_finished);
            assert!(!ended, "it ran through");
            if way == Way::Worker {
                // The upkeep has a process of its own.
                writer.pid = process_of(&mut db, self.scene.site).unwrap_or(writer.pid);
            }
            point.hold.holds(&mut db, &self.scene.fake, writer.pid)
        });
        if way == Way::Worker {
            // Otherwise it would resume before the test can look.
            run(&mut db, "UPDATE matomo_site_config SET enabled = false, retention = NULL");
        }
        let mut db = victim.end(&self.cluster, db, writer.pid);
        if let Some(waits) = writer.waits {
            let error = waits.join().unwrap().expect_err("it was ended");
            let by_hand = error.code().is_some_and(|code| code.code() == "57P01");
            assert!(error.is_closed() || by_hand, "{error:?}");
        }

        let left = left(point, way);
        self.scene.check(&mut db, way, left);
        self.scene.check_runs(&mut db, left, point.given);
        let mut seen = words(way, self.scene.seen(&mut db, way));
        let mut promised = words(way, left);
        assert_eq!(seen, promised, "{}", point.name);

        self.scene.fake.heal();
        self.repeat(&mut db, way, left);
        let end = match way {
            Way::Sync => Left { days: 4, part: false, ..left },
            Way::Call | Way::Worker => Left { days: 4, part: false, upkeep: 3, ..left },
            Way::Drop => Left { upkeep: 2, ..left },
            _ => Left { done: true, ..left },
        };
        self.scene.check(&mut db, way, end);
        if matches!(way, Way::Call | Way::Worker) {
            self.scene.check_end(&mut db, left);
        }
        let again = self.days_asked_again(way, left);
        let rows: i64 = one(&mut db, "SELECT count(*) FROM visits");
        if matches!(way, Way::Call | Way::Worker) {
            promised += "; days asked for again: 1 at most";
            seen += &format!("; days asked for again: {again}");
        }
        self.db = Some(db);
        [promised, format!("{seen}; in the end all {rows} rows")]
    }

    fn begin(&self, db: &mut Client, way: Way) -> Writer {
        if way == Way::Worker {
            wait_long(60, "the worker is there", || coordinator_pid(db, "postgres").is_some());
            self.enable(db);
            let mut pid = None;
            wait_long(60, "a process works on the site", || {
                pid = process_of(db, self.scene.site);
                pid.is_some()
            });
            return Writer { pid: pid.unwrap(), waits: None };
        }
        let mut session = victim::connect(&self.cluster);
        let (pid, sql) = (pid(&mut session), self.statement(way));
        let waits = std::thread::spawn(move || session.batch_execute(&sql));
        Writer { pid, waits: Some(waits) }
    }

    fn enable(&self, db: &mut Client) {
        let site = self.scene.site;
        let alter = "enabled => true, retention => '3 days'";
        run(db, &format!("SELECT matomo_alter_site({site}, {alter})"));
    }

    fn statement(&self, way: Way) -> String {
        let Scene { noon, site, .. } = &self.scene;
        match way {
            Way::Worker => unreachable!("nobody calls it"),
            Way::Sync => {
                "SELECT * FROM matomo_sync(1, server => 'analytics', destination => 'visits')"
                    .to_owned()
            }
            Way::Call => format!("CALL matomo_sync_site({site})"),
            Way::Drop => {
                format!(
                    "CALL matomo_drop_before('visits', to_timestamp({}))",
                    noon.at(3, "00:00:00")
                )
            }
            Way::Check => format!(
                "SELECT * FROM matomo_check(1, '{0}', '{0}', server => 'analytics', \
                     destination => 'visits', repair => true, deep => true)",
                noon.text(2)
            ),
            Way::Forget => {
                let visitor = self.scene.fake.world().site(1).visit(1031).visitor_id.clone();
                format!("SELECT * FROM matomo_forget('{visitor}')")
            }
            Way::AddSite => {
                "SELECT matomo_add_site('analytics', 1, destination => 'visits', enabled => false)"
                    .to_owned()
            }
            Way::RemoveSite => format!("SELECT matomo_remove_site({site})"),
            Way::CreateTable => "SELECT matomo_create_table('other', true)".to_owned(),
        }
    }

    /// Does the same again, as if nothing had happened.
    fn repeat(&self, db: &mut Client, way: Way, left: Left) {
        match way {
            Way::Worker => {
                self.enable(db);
                let done = "SELECT count(*) FROM matomo_site_state WHERE last_success_at IS NOT NULL \
                    AND tended_on IS NOT NULL AND NOT matomo_is_running(site_id)";
                wait_long(60, "the worker has done all", || one::<i64>(db, done) == 1);
            }
            // What already exists cannot be created again.
            Way::AddSite | Way::RemoveSite | Way::CreateTable if left.done => {}
            _ => run(db, &self.statement(way)),
        }
    }

    /// Asserts that at most one step's requests were repeated; returns for how many days.
    fn days_asked_again(&self, way: Way, left: Left) -> usize {
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for line in asked(&self.scene.fake) {
            *count.entry(line).or_default() += 1;
        }
        if !matches!(way, Way::Call | Way::Worker) {
            return 0;
        }
        // Once the run has ended, the next one polls today.
        let day = |ago: u64| format!("day {}", self.scene.noon.text(ago));
        let step = day(3_u64.saturating_sub(left.days as u64));
        let mut again = false;
        for (line, times) in count {
            // The stored part of a day is not requested again.
            let of_step =
                (line.starts_with(&step) || line == "site") && !(left.part && line == step);
            // A step that lacks a partition makes it and begins anew.
            let lacks = [day(1), day(0)].iter().any(|day| line.starts_with(day));
            let most = 1 + usize::from(of_step) + usize::from(lacks || line == "site");
            assert!(times <= most, "{line}: {times} times, {left:?}");
            again |= line != "site" && of_step && times > 1 + usize::from(lacks);
        }
        usize::from(left.days < 4 && again)
    }
}

/// What is committed, in words.
fn words(way: Way, left: Left) -> String {
    let run = match left.run {
        Run::None => "no run",
        Run::Begun => "the run has failed, for its session has ended",
        Run::Succeeded => "the run has succeeded",
        Run::Failed => "the run has failed, for what Matomo said",
    };
    let old = match left.upkeep {
        0 => "nothing old gone",
        1 => "the old partition gone",
        2 => "all that is old gone",
        _ => "all that is old gone, coming weeks made",
    };
    let part = if left.part { " and a part of the next" } else { "" };
    let days = format!("{} of 4 days{part}", left.days);
    match way {
        Way::Sync => days,
        Way::Call | Way::Worker if left.days < 4 => format!("{days}; {run}"),
        Way::Call | Way::Worker => format!("{days}; {run}; {old}"),
        Way::Drop => old.to_owned(),
        _ if left.done => "all of it".to_owned(),
        _ => "nothing".to_owned(),
    }
}

/// What is committed.
fn left(point: &Point, way: Way) -> Left {
    let recorded = point.hold.is_recorded();
    match way {
        Way::Sync if recorded => Left { run: Run::None, ..point.left },
        Way::Sync => Left { days: 0, part: false, run: Run::None, ..point.left },
        Way::Drop => Left { days: 0, part: false, run: Run::None, ..point.left },
        _ => point.left,
    }
}
