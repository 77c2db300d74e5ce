//! What a sync requests, and what it skips because of the ledger.

use fake_matomo::{Action, Fake, Site, Visit};
use postgres::Client;

use crate::support::*;

const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];

/// Noon's world, served, and a database whose syncs write to this table and seal at midnight.
fn noon(days: u64, table: &str) -> (Noon, Fake, Client) {
    let noon = Noon::new();
    let fake = serve(noon.world(days));
    (noon, fake, settled(table))
}

fn settled(table: &str) -> Client {
    let mut db = database();
    run(
        &mut db,
        &format!(
            "LOAD 'matomo_postgres'; SET matomo.settle_time = 0; SET matomo.destination = '{table}'"
        ),
    );
    db
}

fn from(noon: &Noon, ago: u64) -> String {
    format!(", '{}'", noon.text(ago))
}

fn between(noon: &Noon, first: u64, last: u64) -> String {
    format!(", '{}', '{}'", noon.text(first), noon.text(last))
}

/// The requests of a poll of today when the newest visit is the third of `Noon::world`.
fn poll_of_today(noon: &Noon) -> String {
    format!("day {} after {}", noon.text(0), noon.at(0, "09:55:39"))
}

/// The number of blocks of these relations written to the WAL since this position.
fn wal_blocks(db: &mut Client, since: &str, relation: &str) -> i64 {
    // Flushes the WAL and ensures that there is something to read.
    run(db, "SELECT pg_logical_emit_message(true, 'test', 'x')");
    one(
        db,
        &format!(
            "WITH files AS (
                 SELECT format('rel %s/%s/%s ', CASE t.oid WHEN 0 THEN d.dattablespace ELSE t.oid END, d.oid,
                               pg_relation_filenode(c.oid)) AS file
                 FROM pg_class c CROSS JOIN LATERAL (SELECT c.reltablespace AS oid) t
                 JOIN pg_database d ON d.datname = current_database()
                 WHERE c.relname LIKE '{relation}%' AND pg_relation_filenode(c.oid) IS NOT NULL)
             SELECT count(*) FROM pg_get_wal_records_info('{since}', pg_current_wal_flush_lsn()) w
             JOIN files ON strpos(w.block_ref, files.file) > 0"
        ),
    )
}

#[test]
fn a_poll_with_nothing_new_is_one_request_and_writes_nothing() {
    for table in TABLES {
        let (noon, fake, mut db) = noon(4, table);
        run(&mut db, "CREATE EXTENSION pg_walinspect");
        assert_eq!(sync(&mut db, &fake, &from(&noon, 3)).inserted, 36);
        run(&mut db, "VACUUM");
        asked(&fake);
        let rows = fingerprint(&mut db, table);
        let entries = fingerprint(&mut db, "matomo_ledger");
        let since: String = one(&mut db, "SELECT pg_current_wal_insert_lsn()::text");
        for _ in 0..3 {
            let sums = sync(&mut db, &fake, "");
            assert_eq!((sums.days, sums.pages, sums.written()), (1, 1, 0));
            // The same with the first start_date.
            assert_eq!(sync(&mut db, &fake, &from(&noon, 3)).days, 1);
        }
        assert_eq!(asked(&fake), vec![poll_of_today(&noon); 6]);
        assert_eq!(fingerprint(&mut db, table), rows);
        assert_eq!(fingerprint(&mut db, "matomo_ledger"), entries);
        assert_eq!(wal_blocks(&mut db, &since, "matomo"), 0, "{table}");
        run(&mut db, "SELECT pg_stat_force_next_flush()");
        let dead = "SELECT coalesce(sum(n_dead_tup + n_tup_upd + n_tup_del), 0)::bigint
                    FROM pg_stat_user_tables WHERE relname LIKE 'matomo%'";
        assert_eq!(one::<i64>(&mut db, dead), 0);

        // New visits also take one request; this proves that the measurement sees writes.
        let at = noon.at(0, "10:00:50");
        fake.world().site_mut(1).visit_mut(1003).push(Action::page(at, "https://noon.test/", "X"));
        let sums = sync(&mut db, &fake, "");
        assert_eq!((sums.inserted, sums.deleted), (1, 0));
        assert_eq!(asked(&fake), [poll_of_today(&noon)]);
        assert!(wal_blocks(&mut db, &since, table) > 0);
        assert!(wal_blocks(&mut db, &since, "matomo_ledger") > 0);
        assert_equal(&mut db, table, &all_of(&fake, 1));
    }
}

#[test]
fn a_year_of_sealed_days_adds_no_request() {
    let (noon, fake, mut db) = noon(366, "matomo");
    assert_eq!(sync(&mut db, &fake, &from(&noon, 365)).days, 366);
    let sealed = "SELECT count(*) FILTER (WHERE sealed), count(*) FROM matomo_ledger";
    let row = db.query_one(sealed, &[]).unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (365, 366));
    asked(&fake);
    assert_eq!(sync(&mut db, &fake, &from(&noon, 365)).days, 1);
    assert_eq!(sync(&mut db, &fake, "").days, 1);
    assert_eq!(asked(&fake), vec![poll_of_today(&noon); 2]);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_closed_day_is_polled_from_its_cursor_until_it_has_settled_then_read_whole() {
    let (noon, fake, mut db) = noon(2, "matomo");
    run(&mut db, "SET matomo.settle_time = '20 h'");
    sync(&mut db, &fake, &from(&noon, 1));
    let lines = |yesterday: &str| {
        [format!("1 {} {yesterday}", noon.text(1)), format!("1 {} open 3 9 0", noon.text(0))]
    };
    assert_eq!(ledger(&mut db, "matomo"), lines("open 3 9 0"));
    asked(&fake);
    // A heartbeat, which the cursor does not see, and a visit from before the cursor.
    fake.world().site_mut(1).visit_mut(1012).heartbeat(15);
    let mut late = noon.visit(1, 1);
    late.id = 5000;
    fake.world().site_mut(1).add(late);
    assert_eq!(sync(&mut db, &fake, "").written(), 0);
    let cursor = noon.at(1, "09:55:39");
    assert_eq!(
        asked(&fake),
        [format!("day {} after {cursor}", noon.text(1)), poll_of_today(&noon)]
    );
    assert_eq!(ledger(&mut db, "matomo"), lines("open 3 9 0"));
    // At least 12 hours have passed since midnight.
    run(&mut db, "SET matomo.settle_time = '11 h'");
    let sums = sync(&mut db, &fake, "");
    assert_eq!((sums.inserted, sums.updated, sums.deleted), (3, 3, 0));
    assert_eq!(asked(&fake), [format!("day {}", noon.text(1)), poll_of_today(&noon)]);
    assert_eq!(ledger(&mut db, "matomo"), lines("sealed 4 12 0"));
    sync(&mut db, &fake, "");
    assert_eq!(asked(&fake), [poll_of_today(&noon)]);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_heartbeat_on_today_is_found_when_the_day_is_sealed() {
    let (noon, fake, mut db) = noon(1, "matomo");
    sync(&mut db, &fake, &from(&noon, 0));
    fake.world().site_mut(1).visit_mut(1002).heartbeat(15);
    assert_eq!(sync(&mut db, &fake, "").written(), 0);
    // The next day: moving the ledger and the world back a day moves the site's clock forward.
    let yesterday = noon.text(1);
    run(
        &mut db,
        &format!(
            "UPDATE matomo_ledger SET day = '{yesterday}', newest = newest - interval '1 day';
             UPDATE matomo SET action_timestamp = action_timestamp - interval '1 day'"
        ),
    );
    for visit in &mut fake.world().site_mut(1).visits {
        visit.first -= 86_400;
        visit.last -= 86_400;
        visit.actions.iter_mut().for_each(|action| action.at -= 86_400);
    }
    assert!(sync(&mut db, &fake, "").updated >= 3);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    let entries = ledger(&mut db, "matomo");
    assert_eq!(entries[0], format!("1 {yesterday} sealed 3 9 0"));
}

#[test]
fn a_lower_start_fills_only_the_gap() {
    let (noon, fake, mut db) = noon(8, "matomo");
    sync(&mut db, &fake, &from(&noon, 2));
    asked(&fake);
    let sums = sync(&mut db, &fake, &from(&noon, 5));
    assert_eq!((sums.days, sums.inserted), (4, 27));
    let mut days: Vec<_> = [5, 4, 3].map(|ago| format!("day {}", noon.text(ago))).into();
    days.push(poll_of_today(&noon));
    assert_eq!(asked(&fake), days);
    // With a gap between the known days.
    sync(&mut db, &fake, &between(&noon, 7, 7));
    asked(&fake);
    sync(&mut db, &fake, &from(&noon, 7));
    assert_eq!(asked(&fake), [format!("day {}", noon.text(6)), poll_of_today(&noon)]);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn without_a_start_it_continues_from_the_first_day_that_is_not_sealed() {
    let (noon, fake, mut db) = noon(10, "matomo");
    sync(&mut db, &fake, &between(&noon, 9, 7));
    run(&mut db, "SET matomo.settle_time = '30 d'");
    sync(&mut db, &fake, &between(&noon, 6, 5));
    run(&mut db, "SET matomo.settle_time = 0");
    asked(&fake);
    sync(&mut db, &fake, "");
    let mut days = vec!["site".to_owned()];
    days.extend((0..=6).rev().map(|ago| format!("day {}", noon.text(ago))));
    assert_eq!(asked(&fake), days);
    assert_eq!(ledger(&mut db, "matomo").len(), 10);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn without_a_ledger_it_begins_two_days_before_the_newest_row_or_at_the_initial_offset() {
    let (noon, fake, mut db) = noon(10, "matomo");
    run(&mut db, "SET matomo.initial_offset = 4");
    assert_eq!(sync(&mut db, &fake, "").days, 5);
    run(&mut db, "TRUNCATE matomo; DELETE FROM matomo_ledger");
    sync(&mut db, &fake, &between(&noon, 9, 5));
    run(&mut db, "DELETE FROM matomo_ledger");
    asked(&fake);
    sync(&mut db, &fake, "");
    assert_eq!(asked(&fake)[1], format!("day {}", noon.text(7)));
    // Another site has no rows there yet.
    let mut other = Site::new(2, "Other", &noon.zone);
    let mut visit = noon.visit(3, 1);
    visit.id = 9000;
    other.add(visit);
    fake.world().add_site(other);
    assert_eq!(sync_site(&mut db, &fake, 2, "").days, 5);
    let all: Vec<_> = all_of(&fake, 1).into_iter().chain(all_of(&fake, 2)).collect();
    assert_equal(&mut db, "matomo", &all);
}

#[test]
fn lookback_and_force_find_what_came_late_into_a_sealed_day() {
    for table in TABLES {
        let (noon, fake, mut db) = noon(6, table);
        sync(&mut db, &fake, &from(&noon, 5));
        let untouched = format!("{table} WHERE idvisit = '1031'");
        let before = fingerprint(&mut db, &untouched);
        for (ago, id) in [(2, 1022), (5, 1052)] {
            // A late hit in the middle, which shifts the following actions, and a late goal at the
            // end.
            let (at, mut world) = (noon.at(ago, "09:00:10"), fake.world());
            let visit = world.site_mut(1).visit_mut(id);
            visit.push(Action::event(at, "Video", "play").value("3"));
            visit.push(Action::goal(at, 2, "Late", "https://noon.test/"));
        }
        fake.world().site_mut(1).delete(1021);
        asked(&fake);
        assert_eq!(sync(&mut db, &fake, &from(&noon, 5)).written(), 0);
        assert_eq!(asked(&fake), [poll_of_today(&noon)]);
        run(&mut db, "SET matomo.lookback = 2");
        assert!(sync(&mut db, &fake, "").inserted >= 2);
        let days: Vec<_> = [2, 1, 0].map(|ago| format!("day {}", noon.text(ago))).into();
        assert_eq!(asked(&fake), days);
        run(&mut db, "RESET matomo.lookback");
        let sums = sync(&mut db, &fake, &format!("{}, force => true", from(&noon, 5)));
        assert_eq!(sums.days, 6);
        let mut days: Vec<_> = (0..6).rev().map(|ago| format!("day {}", noon.text(ago))).collect();
        days.insert(0, "site".to_owned());
        assert_eq!(asked(&fake), days);
        assert_eq!(fingerprint(&mut db, &untouched), before);
        // Only matomo_check notices deleted rows; a sync does not.
        let rows = format!("DELETE FROM {table} WHERE idvisit = '1021'");
        assert_eq!(db.execute(&rows, &[]).unwrap(), 3);
        assert_equal(&mut db, table, &all_of(&fake, 1));
        let entries = ledger(&mut db, table);
        assert_eq!(entries[0], format!("1 {} sealed 3 11 0", noon.text(5)));
        assert_eq!(entries[3], format!("1 {} sealed 2 8 0", noon.text(2)));
    }
}

#[test]
fn the_ledger_counts_what_the_world_holds() {
    let noon = Noon::new();
    let (first, last) = (noon.text(3), noon.text(1));
    let mut made = world(91, &noon.zone, 40, &first, &last);
    made.max_actions = 6;
    let fake = serve(made);
    let mut db = settled("matomo");
    let range = format!(", '{first}', '{last}', page_size => 7");
    let sums = sync(&mut db, &fake, &range);
    let mut expected = Vec::new();
    for ago in [3, 2, 1] {
        let world = fake.world();
        let visits = world.site(1).visits_of(noon.day(ago));
        let cut = visits.iter().filter(|visit| visit.actions.len() > 6).count();
        let actions: usize = visits.iter().map(|visit| visit.actions.len().min(6)).sum();
        assert!(cut > 0, "a world without truncated visits proves nothing");
        expected.push(format!("1 {} sealed {} {actions} {cut}", noon.text(ago), visits.len()));
    }
    assert_eq!(ledger(&mut db, "matomo"), expected);
    let total = |column: &str| format!("SELECT sum({column})::bigint FROM matomo_ledger");
    assert_eq!(one::<i64>(&mut db, &total("visits")), sums.visits);
    assert_eq!(one::<i64>(&mut db, &total("actions")), sums.actions);
    assert_eq!(one::<i64>(&mut db, &total("truncated_visits")), sums.truncated);
}

#[test]
fn the_counts_of_an_open_day_grow_with_its_polls() {
    let (noon, fake, mut db) = noon(2, "matomo");
    sync(&mut db, &fake, &from(&noon, 1));
    let mut new = noon.visit(0, 3);
    new.id = 5000;
    fake.world().site_mut(1).add(new);
    let at = noon.at(0, "10:05:00");
    fake.world().site_mut(1).visit_mut(1001).push(Action::page(at, "https://noon.test/", "Again"));
    sync(&mut db, &fake, "");
    assert_eq!(ledger(&mut db, "matomo")[1], format!("1 {} open 4 13 0", noon.text(0)));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_poll_finds_a_visit_that_matomo_wrote_later_than_a_newer_one() {
    let (noon, fake, mut db) = noon(2, "matomo");
    sync(&mut db, &fake, &from(&noon, 1));
    // The newest visit is at 10:00:40.
    let at = noon.at(0, "10:00:02");
    let late = Visit::new(5000, at).and(Action::page(at, "https://noon.test/", "Late"));
    fake.world().site_mut(1).add(late);
    assert_eq!(sync(&mut db, &fake, "").inserted, 1);
    assert_eq!(ledger(&mut db, "matomo")[1], format!("1 {} open 4 10 0", noon.text(0)));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_visit_that_moves_over_midnight_is_there_once() {
    for table in TABLES {
        let (noon, fake, mut db) = noon(2, table);
        let at = noon.at(1, "23:50:00");
        let visit = fake_matomo::Visit::new(5000, at).and(Action::page(at, "/a", "Before"));
        fake.world().site_mut(1).add(visit);
        sync(&mut db, &fake, &from(&noon, 1));
        let at = noon.at(0, "00:05:00");
        fake.world().site_mut(1).visit_mut(5000).push(Action::page(at, "/b", "After"));
        // Moved before today's cursor: only a later hit or the sealing of the day shows it.
        let at = noon.at(0, "11:00:00");
        fake.world().site_mut(1).visit_mut(5000).push(Action::page(at, "/c", "Later"));
        assert_eq!(sync(&mut db, &fake, "").inserted, 2);
        assert_equal(&mut db, table, &all_of(&fake, 1));
    }
}
