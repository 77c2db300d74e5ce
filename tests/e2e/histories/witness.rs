//! The expected rows: watches each answer of the fake and follows the rules of the ledger on its own,
//! and so knows which rows must be stored, and which visits must be stored in their current state.
//!
//! A sync may miss only changes of a visit before the cursor of an open day, or in a sealed day
//! (heartbeats, late hits, imports, deletions, values that change without a further action), until
//! the whole day is read again. Everything else is known; `Witness::known` tells for which visits.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Days, NaiveDate};
use fake_matomo::tables::{OracleTable, OracleTables};
use fake_matomo::{ActionTime, OracleRow, Seen, Site, World, Zone};

/// The rows of a visit.
#[derive(Clone, PartialEq)]
pub struct Copied {
    /// With the Node tool's columns.
    pub actions: Vec<OracleRow>,
    /// Of all four tables, with all columns.
    pub tables: OracleTables,
}

/// The rows of visits, by idVisit.
pub type Rows = BTreeMap<i64, Copied>;

/// What a sync is told.
#[derive(Clone, Debug)]
pub struct Order {
    pub start: Option<NaiveDate>,
    pub end: Option<NaiveDate>,
    pub force: bool,
    pub page_size: i32,
    pub settle_time: i64,
    pub lookback: u64,
    pub now: i64,
}

/// A day that a sync must ask for, and how.
#[derive(Clone, Copy, Debug)]
struct Due {
    /// From this last action on; `None` for the whole day.
    since: Option<i64>,
    seals: bool,
}

/// What is known of a day.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    sealed: bool,
    newest: Option<i64>,
}

/// A sync under way.
struct Running {
    due: BTreeMap<NaiveDate, Due>,
    served: Rows,
    newest: BTreeMap<NaiveDate, i64>,
    /// Visits that changed meanwhile where the sync need not look any more.
    moved_behind: BTreeSet<i64>,
    any_change: bool,
    /// Of each day asked for, after which last action, and from which offset, last.
    asked: BTreeMap<NaiveDate, (i64, i64)>,
    /// The last action of each visit at its last sight.
    ends: BTreeMap<i64, i64>,
    current: Option<NaiveDate>,
}

pub struct Witness {
    zone: Zone,
    /// What the table must hold, no more and no less.
    pub stored: Rows,
    /// Visits that it must hold as they are now.
    pub known: BTreeSet<i64>,
    ledger: BTreeMap<NaiveDate, Known>,
    running: Option<Running>,
}

impl Witness {
    pub fn new(zone: Zone) -> Witness {
        let (stored, known, ledger) = Default::default();
        Witness { zone, stored, known, ledger, running: None }
    }

    /// A sync begins.
    pub fn begin(&mut self, order: &Order) {
        self.running = Some(Running {
            due: self.due(order),
            served: Rows::new(),
            newest: BTreeMap::new(),
            moved_behind: BTreeSet::new(),
            any_change: false,
            asked: BTreeMap::new(),
            ends: BTreeMap::new(),
            current: None,
        });
    }

    fn due(&self, order: &Order) -> BTreeMap<NaiveDate, Due> {
        let today = self.zone.day(order.now);
        let first_known = self.ledger.keys().next().copied();
        let start = order.start.or(first_known).unwrap_or(today - Days::new(3)).min(today);
        let end = order.end.unwrap_or(today).min(today);
        let looked_back = (order.lookback > 0).then(|| today - Days::new(order.lookback));
        let mut due = BTreeMap::new();
        for day in start.iter_days().take_while(|day| *day <= end) {
            let known = self.ledger.get(&day).copied().unwrap_or_default();
            let again = order.force || looked_back.is_some_and(|first| day >= first);
            if known.sealed && !again {
                continue;
            }
            let seals = self.zone.midnight(day + Days::new(1)) + order.settle_time <= order.now;
            let since = if seals || again { None } else { known.newest };
            due.insert(day, Due { since, seals });
        }
        due
    }

    /// The fake is about to be asked; comes before the changes of this moment.
    pub fn asked(&mut self, seen: &Seen) {
        let Some(running) = &mut self.running else { return };
        let day: Option<NaiveDate> =
            seen.param("date").split(',').next().and_then(|day| day.parse().ok());
        running.current = day;
        if let Some(day) = day {
            let after = seen.param("minTimestamp").parse().unwrap_or(i64::MIN);
            let offset = seen.param("filter_offset").parse().unwrap_or(0);
            running.asked.insert(day, (after, offset));
        }
    }

    /// A visit was made, changed or deleted.
    pub fn changed(&mut self, world: &World, id: i64) {
        self.known.remove(&id);
        let Some(running) = &mut self.running else { return };
        running.any_change = true;
        let Some(visit) = world.site(1).visits.iter().find(|visit| visit.id == id) else { return };
        let day = self.zone.day(visit.last);
        let is_ahead = match running.asked.get(&day) {
            None => true,
            // Within a second that is walked by offsets, those that change in place may have been
            // passed already.
            Some((after, offset)) => {
                let in_place = running.ends.get(&id) == Some(&visit.last);
                running.current == Some(day) && visit.last > *after && !(*offset > 0 && in_place)
            }
        };
        if is_ahead {
            running.moved_behind.remove(&id);
        } else {
            running.moved_behind.insert(id);
        }
    }

    /// The fake answers, with the world as it is now.
    pub fn answers(&mut self, world: &World, seen: &Seen) {
        let Some(running) = &mut self.running else { return };
        let (Some(day), None) = (running.current, &seen.fault) else { return };
        let number = |name| seen.param(name).parse::<i64>().ok();
        let after = number("minTimestamp").unwrap_or(i64::MIN);
        let visits = world.site(1).visits_of(day).into_iter().filter(|visit| visit.last > after);
        let visits = visits
            .skip(number("filter_offset").unwrap_or(0) as usize)
            .take(number("filter_limit").unwrap_or(100) as usize);
        let visits: Vec<_> = visits.cloned().collect();
        if let Some(last) = visits.iter().map(|visit| visit.last).max() {
            let newest = running.newest.entry(day).or_insert(last);
            *newest = last.max(*newest);
        }
        running.ends.extend(visits.iter().map(|visit| (visit.id, visit.last)));
        running.served.extend(rows(world, visits));
    }

    /// The sync has failed: nothing of it remains.
    pub fn rolled_back(&mut self) {
        self.running = None;
    }

    /// The sync is done: whatever it should have seen, it must have seen. Gives by how many rows
    /// the table must have grown, and whether it must have been touched at all.
    pub fn committed(&mut self, world: &World) -> Result<(i64, bool), String> {
        let Some(running) = self.running.take() else { return Err("no sync to commit".into()) };
        let asked: Vec<_> = running.asked.keys().copied().collect();
        let due: Vec<_> = running.due.keys().copied().collect();
        if asked != due {
            return Err(format!("asked for the days {asked:?}, due were {due:?}"));
        }
        let now = all_rows(world);
        for visit in &world.site(1).visits {
            let due = running.due.get(&self.zone.day(visit.last));
            let is_due = due.is_some_and(|due| due.since.is_none_or(|since| visit.last >= since));
            if !is_due || running.moved_behind.contains(&visit.id) {
                continue;
            }
            if running.served.get(&visit.id) != now.get(&visit.id) {
                let what =
                    if running.served.contains_key(&visit.id) { "as it is" } else { "at all" };
                return Err(format!(
                    "visit {} with its last action at {} was not read {what}, though due: {due:?}",
                    visit.id, visit.last
                ));
            }
            self.known.insert(visit.id);
        }
        for (day, due) in &running.due {
            let known = self.ledger.entry(*day).or_default();
            known.sealed = due.seals;
            known.newest = known.newest.max(running.newest.get(day).copied());
        }
        let before = count(&self.stored);
        let touched = running.any_change
            || running.served.iter().any(|(id, rows)| self.stored.get(id) != Some(rows));
        self.stored.extend(running.served);
        Ok((count(&self.stored) - before, touched))
    }

    /// What the table must hold if the sync under way is done.
    pub fn would_be_stored(&self) -> Rows {
        let mut rows = self.stored.clone();
        rows.extend(self.running.iter().flat_map(|running| running.served.clone()));
        rows
    }

    /// Proves that the table must hold all known visits as they are now; gives how many visits it
    /// need not hold so.
    pub fn excused(&self, world: &World) -> Result<usize, String> {
        let now = all_rows(world);
        for id in &self.known {
            if self.stored.get(id) != now.get(id) {
                return Err(format!("visit {id} is known but not stored as it is"));
            }
        }
        let differs = |id: &&i64| self.stored.get(id) != now.get(id);
        let ids: BTreeSet<_> = self.stored.keys().chain(now.keys()).collect();
        Ok(ids.into_iter().filter(|id| differs(id)).count())
    }
}

fn count(rows: &Rows) -> i64 {
    rows.values().map(|rows| rows.actions.len() as i64).sum()
}

/// The rows that a right copy has of all visits.
pub fn all_rows(world: &World) -> Rows {
    rows(world, world.site(1).visits.clone())
}

fn rows(world: &World, visits: Vec<fake_matomo::Visit>) -> Rows {
    let ids: Vec<_> = visits.iter().map(|visit| visit.id).collect();
    let Site { id, name, timezone, ecommerce, .. } = world.site(1);
    let site = Site { visits, ecommerce: *ecommerce, ..Site::new(*id, name, timezone) };
    let small = World { sites: vec![site], ..World::new(world.now) };
    let small = World { max_actions: world.max_actions, ..small };
    let all = || small.oracle_tables(1, NaiveDate::MIN, NaiveDate::MAX, ActionTime::Utc);
    let mut none = all();
    for table in [&mut none.actions, &mut none.visits, &mut none.conversions, &mut none.items] {
        table.rows.clear();
    }
    let copied = Copied { actions: Vec::new(), tables: none };
    let mut rows: Rows = ids.into_iter().map(|id| (id, copied.clone())).collect();
    for row in small.oracle(1, NaiveDate::MIN, NaiveDate::MAX, ActionTime::Utc) {
        let id = row.get("idvisit").and_then(|id| id.parse().ok());
        id.and_then(|id: i64| rows.get_mut(&id)).unwrap().actions.push(row);
    }
    let tables = all();
    let mut split = |from: &OracleTable, to: fn(&mut OracleTables) -> &mut OracleTable| {
        for (place, row) in from.rows.iter().enumerate() {
            let id = from.get(place, "idvisit").and_then(|id| id.parse().ok());
            let copied = id.and_then(|id: i64| rows.get_mut(&id)).unwrap();
            to(&mut copied.tables).rows.push(row.clone());
        }
    };
    split(&tables.actions, |to| &mut to.actions);
    split(&tables.visits, |to| &mut to.visits);
    split(&tables.conversions, |to| &mut to.conversions);
    split(&tables.items, |to| &mut to.items);
    rows
}

/// All four tables with the rows of these visits; `None` without any visit.
pub fn whole(rows: &Rows) -> Option<OracleTables> {
    let mut all = rows.values().map(|copied| &copied.tables);
    let mut whole = all.next()?.clone();
    for tables in all {
        whole.actions.rows.extend_from_slice(&tables.actions.rows);
        whole.visits.rows.extend_from_slice(&tables.visits.rows);
        whole.conversions.rows.extend_from_slice(&tables.conversions.rows);
        whole.items.rows.extend_from_slice(&tables.items.rows);
    }
    Some(whole)
}
