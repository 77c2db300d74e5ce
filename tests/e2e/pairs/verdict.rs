//! Whether the state after two operations matches some order of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::pairs::operations::{NEW_URL, Operation};
use crate::pairs::orders::{Seen, in_order, is_new};
use crate::pairs::scene::{PERSON, Scene, VISITOR};
use crate::pairs::session::Outcome;
use crate::support::*;

/// Errors that an operation may end with: another one holds the lock, the table has another name,
/// or the site, its server or its owner is gone or another one.
const CLEAR: [&str; 6] = ["55P03", "42P01", "55000", "42704", "40P01", "40001"];

/// What is wrong after the two.
pub fn faults(
    scene: &mut Scene,
    first: Operation,
    second: Operation,
    (one_ended, two_ended): &(Outcome, Outcome),
    forth: &Seen,
) -> Vec<String> {
    let mut faults = Vec::new();
    for (operation, ended) in [(first, one_ended), (second, two_ended)] {
        let Err(error) = ended else { continue };
        let is_clear = CLEAR.contains(&error.code().code())
            || error.code().code() == "42501" && [first, second].contains(&Operation::DropRole);
        // The errors of Postgres' own statements are not ours to judge.
        if !is_clear && !operation.is_of_postgres() {
            faults.push(format!("{} is no clear error: {error:?}", error.code().code()));
        }
    }
    if one_ended.is_err() && two_ended.is_err() {
        faults.push("both have failed".to_owned());
    }
    let done = |operations: &[Operation]| {
        operations.contains(&first) && one_ended.is_ok()
            || operations.contains(&second) && two_ended.is_ok()
    };
    let tried = |operation| first == operation || second == operation;
    let seen = Seen::after(scene, [one_ended, two_ended]);
    let db = &mut scene.db;
    let left = "SELECT count(*) FROM pg_locks WHERE locktype = 'userlock'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    wait_until("no lock of ours is left", || one::<i64>(db, left) == 0);
    let runs = texts(db, "SELECT runid::text FROM matomo_run_log WHERE status = 'running'");
    if !runs.is_empty() {
        faults.push(format!("{} runs are said to run", runs.len()));
    }
    // What was changed of the site is so, unless it was removed.
    let is = |column: &str| {
        format!("SELECT coalesce({column}::text, '') FROM matomo_sites WHERE id = {}", scene.site)
    };
    let start = scene.noon.text(17);
    let is_removed = done(&[Operation::RemoveSite]);
    for (operation, column, expected) in [
        (Operation::AlterSite, "start_date", start.as_str()),
        (Operation::AlterRetention, "retention", "10 days"),
        (Operation::GiveSite, "owner", "postgres"),
        (Operation::MoveSite, "destination", "visits_moved"),
    ] {
        let found = texts(db, &is(column));
        let right: &[&str] = if is_removed { &[] } else { &[expected] };
        if (is_removed || done(&[operation])) && found != right {
            faults.push(format!("after {operation:?} the site's {column} is {found:?}"));
        }
    }
    let of_person = format!("SELECT count(*) FROM visits WHERE visitorid = '{VISITOR}'");
    if done(&[Operation::Forget]) && one::<i64>(db, &of_person) > 0 {
        faults.push("rows of the person erased are left".to_owned());
    }
    // Of the state of an order, once is enough.
    let is_new = is_new(scene, tried(Operation::Forget), &seen);
    if seen == *forth && !is_new {
        return faults;
    }
    let db = &mut scene.db;
    // Syncs use the old URL.
    let back = format!("SELECT matomo_change_url('visits', '{NEW_URL}', '{}')", scene.fake.url());
    run(db, &back);
    // Days still to be copied.
    for site in [1, 2] {
        let days = format!(", '{}', destination => 'visits'", scene.noon.text(19));
        sync_site(db, &scene.fake, site, &days);
    }
    if done(&[Operation::Forget]) && one::<i64>(db, &of_person) > 0 {
        faults.push("rows of the person erased are left after a sync".to_owned());
    }
    let columns = fake_matomo::COLUMNS.map(|column| format!("{column}::text")).join(", ");
    let visits = |one: &str, other: &str| {
        format!(
            "SELECT DISTINCT idvisit FROM (SELECT {columns} FROM {one} EXCEPT ALL \
             SELECT {columns} FROM {other}) AS x ORDER BY 1"
        )
    };
    let numbers = |texts: Vec<String>| -> BTreeSet<i64> {
        texts.iter().map(|id| id.parse().unwrap()).collect()
    };
    let more = numbers(texts(db, &visits("visits", "oracle")));
    let lacking = numbers(texts(db, &visits("oracle", "visits")));
    faults.extend(check_disagrees(scene, &more, &lacking));
    let db = &mut scene.db;
    // Days that the ledger has as empty.
    let empty: BTreeSet<String> = texts(
        db,
        "SELECT concat_ws(' ', idsite, day) FROM matomo_ledger WHERE sealed AND visits = 0 AND actions = 0",
    )
    .into_iter()
    .collect();
    let detached = numbers(if done(&[Operation::Detach]) {
        texts(
            db,
            "SELECT DISTINCT o.idvisit FROM oracle o WHERE date_trunc('week', o.action_timestamp) = \
             (SELECT date_trunc('week', action_timestamp) FROM oracle WHERE idvisit = '1121' LIMIT 1)",
        )
    } else {
        Vec::new()
    });
    let is_persons = |id: &i64| PERSON.contains(id) || PERSON.contains(&(id - 2000));
    let ago = |id: i64| u64::try_from((id - 1000) % 2000 / 10).unwrap();
    let of_day = |id: i64| {
        let site = if id > 3000 { 2 } else { 1 };
        let base = id - id % 10;
        let gone = (1..=3).all(|n| lacking.contains(&(base + n)));
        let day = format!("{site} {}", scene.noon.text(ago(id)));
        (gone, empty.contains(&day))
    };
    // Erased in Matomo; if the erasure failed here, rows may remain.
    let is_erased = |id: &i64| is_persons(id) && tried(Operation::Forget);
    let is_dropped = |id: i64| {
        // Also partly, before an error.
        let is_kept_short = tried(Operation::AlterRetention) && tried(Operation::Run);
        (tried(Operation::DropBefore) || tried(Operation::Retention) || is_kept_short)
            && ago(id) > 10
            && of_day(id).0
    };
    let wrong = |ids: &BTreeSet<i64>, is_right: &dyn Fn(&i64) -> bool| -> Vec<i64> {
        ids.iter().copied().filter(|id| !is_right(id)).collect()
    };
    let more = wrong(&more, &|_| false);
    if !more.is_empty() {
        faults.push(format!("wrong rows of visits {more:?}"));
    }
    let unsealed = wrong(&lacking, &|id| {
        // Missing from the start.
        [1122, 3122].contains(id)
            || is_erased(id)
            || detached.contains(id)
            || is_dropped(*id) && of_day(*id).1
    });
    if !unsealed.is_empty() {
        faults.push(format!("visits {unsealed:?} lack, in days that should have them"));
    }
    // The table of visits has the same visits as the table of actions.
    let db = &mut scene.db;
    let is_there: bool = one(db, "SELECT to_regclass('visits_visits') IS NOT NULL");
    let of_visits = if is_there { apart(db, "visits") } else { Vec::new() };
    // Old rows are deleted from the companions last, so an interrupted drop may leave some.
    let is_cut_off = one_ended.is_err()
        || two_ended.is_err()
        || done(&[Operation::RemoveSite, Operation::MoveSite, Operation::DropRole]);
    let of_visits = wrong(&of_visits.into_iter().collect(), &|id| {
        is_erased(id) || detached.contains(id) || is_cut_off && is_dropped(*id)
    });
    if !of_visits.is_empty() {
        faults.push(format!("visits {of_visits:?} are not the same in visits_visits"));
    }
    let all: BTreeSet<i64> =
        (1..=19).flat_map(|ago| (1..=3).map(move |n| 1000 + 10 * ago + n)).collect();
    let all: BTreeSet<i64> = all.iter().flat_map(|id| [*id, *id + 2000]).collect();
    // The upkeep of a site that is gone does not complete.
    let is_cut_off = tried(Operation::Retention)
        && done(&[Operation::RemoveSite, Operation::MoveSite, Operation::DropRole]);
    let left_behind = wrong(&all, &|id| lacking.contains(id) || !of_day(*id).1);
    if !left_behind.is_empty() && !is_cut_off {
        faults.push(format!("visits {left_behind:?} are in days that are sealed as empty"));
    }
    faults.extend(disagrees(
        scene,
        first,
        second,
        &seen,
        forth,
        [one_ended.is_err(), two_ended.is_err()],
    ));
    if !faults.is_empty() {
        faults.extend(scene.said().into_iter().map(|line| format!("  run: {line}")));
    }
    faults
}

/// A fault if results, rows and ledger agree with neither order, nor, if one has failed or skipped a busy
/// site, with the other alone. Between the steps of one the other may run, and a person is erased in
/// Matomo before here: then more is done than in one of the orders, and no more than in both.
fn disagrees(
    scene: &mut Scene,
    first: Operation,
    second: Operation,
    seen: &Seen,
    forth: &Seen,
    failed: [bool; 2],
) -> Option<String> {
    if seen == forth {
        return None;
    }
    let reversed = |mut seen: Seen| {
        seen.returned.reverse();
        seen
    };
    let back = reversed(in_order(scene, second, first, false));
    if *seen == back {
        return None;
    }
    let operations = [first, second];
    let idle: [bool; 2] = std::array::from_fn(|n| {
        failed[n] || operations[n].has_steps() && seen.returned[n].is_empty()
    });
    let alone = match idle {
        [false, true] => Some(in_order(scene, first, second, true)),
        [true, false] => Some(reversed(in_order(scene, second, first, true))),
        _ => None,
    };
    let is_alone = |alone: &Seen| {
        alone.state == seen.state
            && (0..2).all(|n| idle[n] || alone.returned[n] == seen.returned[n])
    };
    if alone.as_ref().is_some_and(is_alone) {
        return None;
    }
    let has_steps = operations.iter().any(|operation| operation.has_steps());
    let is_erased = operations.contains(&Operation::Forget)
        && operations.iter().any(|operation| operation.reads());
    let counts = [seen, forth, &back].map(|seen| counts(&seen.returned, idle));
    // The other may have come before what the next step was to do.
    let is_of_one = has_steps && [forth, &back].iter().any(|order| order.state == seen.state);
    let is_between = counts.iter().flat_map(BTreeMap::keys).all(|name| {
        let [now, forth, back] = [0, 1, 2].map(|n| counts[n].get(name).copied().unwrap_or(0));
        let least = if is_of_one { 0 } else { forth.min(back) };
        // A repair may see rows of the person that Matomo has no longer, until the erasure commits.
        let of_person = is_erased && ["extra", "repaired"].contains(&name.as_str());
        let more = if of_person { i64::try_from(PERSON.len()).unwrap() } else { 0 };
        (least..=forth + back + more).contains(&now)
    });
    if (has_steps || is_erased) && is_between {
        return None;
    }
    let differs = |order: &Seen| {
        let only = |a: &[String], b: &[String]| {
            let only: Vec<_> = a.iter().filter(|line| !b.contains(line)).cloned().collect();
            format!("{} lines {:?}", only.len(), &only[..only.len().min(4)])
        };
        let lost = only(&order.state, &seen.state);
        format!(
            "{:?}, at once more {}, less {lost}",
            order.returned,
            only(&seen.state, &order.state)
        )
    };
    Some(format!(
        "at once {:?}\n   forth {}\n    back {}\n   alone {:?}",
        seen.returned,
        differs(forth),
        differs(&back),
        alone.as_ref().map(differs)
    ))
}

/// Sums of what the operations have counted, by name, without those that are idle.
fn counts(returned: &[String; 2], idle: [bool; 2]) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    for (text, _) in returned.iter().zip(idle).filter(|(_, is_idle)| !is_idle) {
        let words: Vec<&str> = text.split([' ', ';']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            if let Ok(count) = pair[0].parse::<i64>() {
                *counts.entry(pair[1].to_owned()).or_default() += count;
            }
        }
    }
    counts
}

/// Faults where `matomo_check`, comparing the table with Matomo as it is now, disagrees with the
/// comparison of rows above.
fn check_disagrees(
    scene: &mut Scene,
    more: &BTreeSet<i64>,
    lacking: &BTreeSet<i64>,
) -> Vec<String> {
    let mut faults = Vec::new();
    for site in [1, 2] {
        let there: BTreeSet<i64> =
            scene.fake.world().site(site).visits.iter().map(|visit| visit.id).collect();
        let ids = format!("SELECT DISTINCT idvisit::text FROM visits WHERE idsite = '{site}'");
        let here: BTreeSet<i64> =
            texts(&mut scene.db, &ids).iter().map(|id| id.parse().unwrap()).collect();
        let differs = |id: &&i64| more.contains(id) || lacking.contains(id);
        let stale = there.intersection(&here).filter(differs).count();
        let found = format!("{} {} {stale}", (&there - &here).len(), (&here - &there).len());
        let sql = format!(
            "SELECT concat_ws(' ', sum(missing), sum(extra), sum(stale))
             FROM matomo_check({site}, '{}', '{}', '{}', '{}', 'visits', deep => true)",
            scene.noon.text(19),
            scene.noon.text(0),
            scene.fake.url(),
            scene.fake.token()
        );
        let said: String = one(&mut scene.db, &sql);
        if said != found {
            faults.push(format!(
                "site {site}: missing, extra, stale are {found}, matomo_check says {said}"
            ));
        }
    }
    faults
}
