//! All boundaries at which a sync, its upkeep or another writing statement may be killed, and the
//! state that must remain.

use super::hold::Hold::{self, Commit, Ddl, Request, Row};

/// The operation that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `SELECT * FROM matomo_sync(…)`, one transaction.
    Sync,
    /// `CALL matomo_sync_site(…)`, one transaction per step.
    Call,
    /// The background worker, one transaction per step.
    Worker,
    /// `CALL matomo_drop_before(…)`, one transaction per step.
    Drop,
    /// `matomo_check(…, repair => true)`.
    Check,
    Forget,
    AddSite,
    RemoveSite,
    CreateTable,
}

impl Way {
    /// The name in `docs/trust.md`.
    pub fn name(self) -> &'static str {
        match self {
            Way::Sync => "`matomo_sync`",
            Way::Call => "`matomo_sync_site`",
            Way::Worker => "worker",
            Way::Drop => "`matomo_drop_before`",
            Way::Check => "`matomo_check`",
            Way::Forget => "`matomo_forget`",
            Way::AddSite => "`matomo_add_site`",
            Way::RemoveSite => "`matomo_remove_site`",
            Way::CreateTable => "`matomo_create_table`",
        }
    }
}

/// The state of a registered site's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// There is no run.
    None,
    /// It has started.
    Begun,
    /// Its success is recorded.
    Succeeded,
    /// Its failure is recorded.
    Failed,
}

/// What is committed at a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// The number of days read again, oldest first.
    pub days: usize,
    /// Whether the first part of the next day, which takes two steps, is stored too.
    pub part: bool,
    pub run: Run,
    /// Upkeep done: 1 the old partition is dropped, 2 the old rows are deleted too, 3 everything.
    pub upkeep: usize,
    /// Whether a statement of one transaction is done.
    pub done: bool,
}

/// The state before the sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    Nothing,
    /// Matomo answers the third day with an error.
    Fault,
    /// An earlier run died.
    DeadRun,
    /// All partitions are there, so that no page is asked for twice.
    Weeks,
}

pub struct Point {
    pub name: &'static str,
    pub ways: &'static [Way],
    pub hold: Hold,
    pub left: Left,
    pub given: Given,
}

const ANY: &[Way] = &[Way::Sync, Way::Call, Way::Worker];
const RUNS: &[Way] = &[Way::Call, Way::Worker];
const KEPT: &[Way] = &[Way::Call, Way::Worker, Way::Drop];

/// During a run that has read this many days.
const fn days(days: usize) -> Left {
    Left { days, part: false, run: Run::Begun, upkeep: 0, done: false }
}

/// After a run, with this much of the upkeep done.
const fn upkeep(upkeep: usize) -> Left {
    Left { days: 4, part: false, run: Run::Succeeded, upkeep, done: false }
}

const PART: Left = Left { part: true, ..days(2) };
const NO_RUN: Left = Left { days: 0, part: false, run: Run::None, upkeep: 0, done: false };
const FAILED: Left = Left { days: 2, part: false, run: Run::Failed, upkeep: 0, done: false };
const DONE: Left = Left { days: 0, part: false, run: Run::None, upkeep: 0, done: true };

const fn point(name: &'static str, ways: &'static [Way], hold: Hold, left: Left) -> Point {
    Point { name, ways, hold, left, given: Given::Nothing }
}

const fn given(given: Given, point: Point) -> Point {
    Point { given, ..point }
}

const SITE: Hold = Request { day: None, after: 0, stored: false };

const fn page(day: &'static str, after: usize) -> Hold {
    Request { day: Some(day), after, stored: false }
}

/// The next page's request, when everything before it is stored in the same transaction.
const fn next_page(day: &'static str, after: usize) -> Hold {
    Request { day: Some(day), after, stored: true }
}

const fn row(table: &'static str, event: &'static str, when: &'static str) -> Hold {
    Row { table, event, when }
}

const fn before(table: &'static str, event: &'static str, when: &'static str) -> Hold {
    Commit { table, event, when, recorded: false }
}

const fn after(table: &'static str, event: &'static str, when: &'static str) -> Hold {
    Commit { table, event, when, recorded: true }
}

const VISITS: &str = "visits";
const COMPANION: &str = "visits_visits";
const LEDGER: &str = "matomo_ledger";
const RUN: &str = "matomo_run_log";
const STATE: &str = "matomo_site_state";
const CONFIG: &str = "matomo_site_config";
const READ_D2: &str = "NEW.next_day = '{d1}'";
const SUCCEEDED: &str = "NEW.status = 'succeeded'";
const RUN_FAILED: &str = "NEW.status = 'failed'";
const PART_OF_D1: &str = "NEW.day = '{d1}' AND NEW.pass_began IS NOT NULL";
const REST_OF_D1: &str = "NEW.day = '{d1}' AND NEW.sealed";
const DROPPED_D5: &str = "NEW.day = '{d5}' AND NEW.visits = 0";
const OF_D4: &str = "OLD.idvisit = '1041'";
const OF_D3: &str = "OLD.idvisit = '1031'";
const CHANGED: &str = "NEW.idvisit = '1021'";
const NEW_TODAY: &str = "NEW.idvisit = '1003'";
const TENDED: &str = "NEW.tended_on IS NOT NULL";
const OLD_IS_THERE: &str = "to_regclass('public.visits_old') IS NOT NULL";
const OLD_IS_GONE: &str = "to_regclass('public.visits_old') IS NULL";
const OLD_IS_ATTACHED: &str =
    "EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass('public.visits_old'))";
const OLD_IS_DETACHED: &str = "to_regclass('public.visits_old') IS NOT NULL AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass('public.visits_old'))";

const fn ddl(event: &'static str, tag: &'static str, when: &'static str) -> Hold {
    Ddl { event, tag, when }
}

const MADE: &str = "ddl_command_end";

/// In the order of a run. It reads the days d3 to d0; d3 and d2 are already stored, and d2 has
/// changed; d1 takes two steps.
pub const POINTS: &[Point] = &[
    // A run starts.
    point("row of the run being written", RUNS, row(RUN, "INSERT", "true"), NO_RUN),
    point("begin of the run, before its commit", RUNS, before(RUN, "INSERT", "true"), NO_RUN),
    point("begin of the run, after its commit", RUNS, after(RUN, "INSERT", "true"), days(0)),
    given(
        Given::DeadRun,
        point("a dead run being declared failed", RUNS, row(RUN, "UPDATE", RUN_FAILED), NO_RUN),
    ),
    // It reads.
    point("request for the site", ANY, SITE, days(0)),
    point("first request for the first day", ANY, page("{d3}", 0), days(0)),
    point(
        "Matomo's URL being noted",
        RUNS,
        row(STATE, "INSERT", "NEW.matomo IS NOT NULL"),
        days(0),
    ),
    point("first request for the next day", ANY, page("{d2}", 0), days(1)),
    point(
        "old row of a visit being deleted",
        ANY,
        row(VISITS, "DELETE", "OLD.idvisit = '1022'"),
        days(1),
    ),
    point("row of a visit being updated", ANY, row(VISITS, "UPDATE", CHANGED), days(1)),
    point("row of a companion being updated", ANY, row(COMPANION, "UPDATE", CHANGED), days(1)),
    point("between two pages of a day, the first stored", ANY, next_page("{d2}", 1), days(1)),
    point(
        "new row of a visit being inserted",
        ANY,
        row(VISITS, "INSERT", "NEW.idvisit = '1024'"),
        days(1),
    ),
    point(
        "ledger of the day being written",
        ANY,
        row(LEDGER, "INSERT", "NEW.day = '{d2}'"),
        days(1),
    ),
    point("step being noted in the run's row", RUNS, row(RUN, "UPDATE", READ_D2), days(1)),
    point("step, before its commit", RUNS, before(RUN, "UPDATE", READ_D2), days(1)),
    point("step, after its commit", RUNS, after(RUN, "UPDATE", READ_D2), days(2)),
    given(
        Given::Fault,
        point("failure being noted", RUNS, row(RUN, "UPDATE", RUN_FAILED), days(2)),
    ),
    given(
        Given::Fault,
        point("failure, before its commit", RUNS, before(RUN, "UPDATE", RUN_FAILED), days(2)),
    ),
    given(
        Given::Fault,
        point("failure, after its commit", RUNS, after(RUN, "UPDATE", RUN_FAILED), FAILED),
    ),
    point("partition made, not attached", ANY, ddl(MADE, "CREATE TABLE", OLD_IS_THERE), days(2)),
    point(
        "partition attached, still empty",
        ANY,
        ddl(MADE, "ALTER TABLE", OLD_IS_ATTACHED),
        days(2),
    ),
    point(
        "first row of the new partition",
        ANY,
        row(VISITS, "INSERT", "NEW.idvisit = '1011'"),
        days(2),
    ),
    point("part of a day, before its commit", RUNS, before(LEDGER, "INSERT", PART_OF_D1), days(2)),
    point("part of a day, after its commit", RUNS, after(LEDGER, "INSERT", PART_OF_D1), PART),
    given(Given::Weeks, point("request for the rest of a day", RUNS, page("{d1}", 4), PART)),
    point("row of the rest of a day", ANY, row(VISITS, "INSERT", "NEW.idvisit = '1016'"), PART),
    point("ledger of the rest of a day", RUNS, row(LEDGER, "INSERT", REST_OF_D1), PART),
    point("request for today", ANY, page("{d0}", 0), days(3)),
    point("success being noted", RUNS, row(RUN, "UPDATE", SUCCEEDED), days(3)),
    point(
        "success being noted with the site",
        RUNS,
        row(STATE, "INSERT", "NEW.last_success_at IS NOT NULL"),
        days(3),
    ),
    point("end of the run, before its commit", RUNS, before(RUN, "UPDATE", SUCCEEDED), days(3)),
    point("end of the run, after its commit", RUNS, after(RUN, "UPDATE", SUCCEEDED), upkeep(0)),
    point("the sync, before its commit", &[Way::Sync], before(VISITS, "INSERT", NEW_TODAY), NO_RUN),
    point("the sync, after its commit", &[Way::Sync], after(VISITS, "INSERT", NEW_TODAY), days(4)),
    // Upkeep drops old rows.
    point(
        "ledger of the old days being sealed",
        KEPT,
        row(LEDGER, "UPDATE", DROPPED_D5),
        upkeep(0),
    ),
    point("old partition detached", KEPT, ddl(MADE, "ALTER TABLE", OLD_IS_DETACHED), upkeep(0)),
    point(
        "old partition being dropped",
        KEPT,
        ddl("sql_drop", "DROP TABLE", OLD_IS_GONE),
        upkeep(0),
    ),
    point(
        "old partition, before the commit",
        KEPT,
        before(LEDGER, "UPDATE", DROPPED_D5),
        upkeep(0),
    ),
    point("old partition, after the commit", KEPT, after(LEDGER, "UPDATE", DROPPED_D5), upkeep(1)),
    point("batch of old rows being deleted", KEPT, row(VISITS, "DELETE", OF_D4), upkeep(1)),
    point("batch of old rows, before the commit", KEPT, before(VISITS, "DELETE", OF_D4), upkeep(1)),
    point("batch of old rows, after the commit", KEPT, after(VISITS, "DELETE", OF_D4), upkeep(2)),
    point(
        "partition of a coming week made",
        RUNS,
        ddl(MADE, "CREATE TABLE", OLD_IS_GONE),
        upkeep(2),
    ),
    point("upkeep being noted", RUNS, row(STATE, "INSERT", TENDED), upkeep(2)),
    point("upkeep, before its commit", RUNS, before(STATE, "INSERT OR UPDATE", TENDED), upkeep(2)),
    point("upkeep, after its commit", RUNS, after(STATE, "INSERT OR UPDATE", TENDED), upkeep(3)),
    // Statements of one transaction.
    point("table being made", &[Way::CreateTable], ddl(MADE, "CREATE TABLE", OLD_IS_THERE), NO_RUN),
    point("request for the site", &[Way::AddSite], SITE, NO_RUN),
    point("site being written", &[Way::AddSite], row(CONFIG, "INSERT", "true"), NO_RUN),
    point("site, before the commit", &[Way::AddSite], before(CONFIG, "INSERT", "true"), NO_RUN),
    point("site, after the commit", &[Way::AddSite], after(CONFIG, "INSERT", "true"), DONE),
    point("site being removed", &[Way::RemoveSite], row(CONFIG, "DELETE", "true"), NO_RUN),
    point(
        "removal, before the commit",
        &[Way::RemoveSite],
        before(CONFIG, "DELETE", "true"),
        NO_RUN,
    ),
    point("removal, after the commit", &[Way::RemoveSite], after(CONFIG, "DELETE", "true"), DONE),
    point("row being deleted", &[Way::Forget], row(VISITS, "DELETE", OF_D3), NO_RUN),
    point("erasure, before the commit", &[Way::Forget], before(VISITS, "DELETE", OF_D3), NO_RUN),
    point("erasure, after the commit", &[Way::Forget], after(VISITS, "DELETE", OF_D3), DONE),
    point("request for the day", &[Way::Check], page("{d2}", 0), NO_RUN),
    point(
        "row of a companion being deleted",
        &[Way::Forget],
        row(COMPANION, "DELETE", OF_D3),
        NO_RUN,
    ),
    point(
        "row of a companion being mended",
        &[Way::Check],
        row(COMPANION, "UPDATE", CHANGED),
        NO_RUN,
    ),
    point("row being mended", &[Way::Check], row(VISITS, "UPDATE", CHANGED), NO_RUN),
    point("repair, before the commit", &[Way::Check], before(VISITS, "UPDATE", CHANGED), NO_RUN),
    point("repair, after the commit", &[Way::Check], after(VISITS, "UPDATE", CHANGED), DONE),
];
