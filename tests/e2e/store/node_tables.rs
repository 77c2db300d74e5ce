//! Existing tables of the Node tool, and similar tables that users created, as destinations.

use fake_matomo::{Action, ActionTime, Clock, Fake, Kind, OracleRow, Site, Visit, World};
use postgres::Client;

use crate::support::node_tool::{partitioned_table, standard_table, week};
use crate::support::*;

const FIRST: &str = "2026-10-24";
const LAST: &str = "2026-10-26";
const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];

/// A world without texts that the Node tool's indexes refuse.
fn serve_paris() -> Fake {
    let mut world = world(61, "Europe/Paris", 20, FIRST, LAST);
    for visit in &mut world.site_mut(1).visits {
        for action in &mut visit.actions {
            shorten(&mut action.url);
            if let Kind::Event { action, category, .. } = &mut action.kind {
                *action = action.chars().take(500).collect();
                *category = category.chars().take(500).collect();
            }
        }
    }
    serve(world)
}

fn shorten(text: &mut Option<String>) {
    *text = text.take().map(|text| text.chars().take(500).collect());
}

/// Both tables of the Node tool.
fn node_database() -> Client {
    let mut db = database();
    standard_table(&mut db);
    partitioned_table(&mut db);
    db
}

/// All columns and indexes of the Node tool's tables, without partitions.
fn shapes(db: &mut Client) -> Vec<String> {
    texts(
        db,
        "SELECT format('%s %s %s', attrelid::regclass, attnum, attname) FROM pg_attribute
         WHERE attrelid IN ('matomo'::regclass, 'matomo_partitioned'::regclass)
         UNION ALL
         SELECT pg_get_indexdef(indexrelid) FROM pg_index
         WHERE indrelid IN ('matomo'::regclass, 'matomo_partitioned'::regclass) ORDER BY 1",
    )
}

/// Asserts that a second sync changes nothing.
fn assert_settled(db: &mut Client, sync: &Sync) {
    let rows = fingerprint(db, sync.destination);
    assert_eq!(sync.run(db).written(), 0);
    assert_eq!(fingerprint(db, sync.destination), rows);
}

#[test]
fn the_node_tools_tables_are_filled_as_they_stand() {
    let fake = serve_paris();
    let oracle = oracle(&fake, FIRST, LAST);
    for zone in ["UTC", "Europe/Paris", "America/Los_Angeles", "Pacific/Kiritimati"] {
        let mut db = node_database();
        run(&mut db, &format!("SET TimeZone = '{zone}'"));
        let before = shapes(&mut db);
        assert_eq!(before.iter().filter(|line| line.starts_with("CREATE")).count(), 17 + 2);
        for table in TABLES {
            run(&mut db, &format!("SET TimeZone = '{zone}'"));
            let sync = Sync::of(&fake, FIRST, LAST).into(table);
            sync.run(&mut db);
            assert_equal(&mut db, table, &oracle);
            run(&mut db, &format!("SET TimeZone = '{zone}'"));
            assert_settled(&mut db, &sync);
        }
        assert_eq!(shapes(&mut db), before);
        // The weeks have the names that the Node tool's trigger expects.
        let weeks = "SELECT inhrelid::regclass::text FROM pg_inherits
                     WHERE inhparent = 'matomo_partitioned'::regclass ORDER BY 1";
        assert_eq!(
            texts(&mut db, weeks),
            ["matomo_partitioned_2026w43", "matomo_partitioned_2026w44"]
        );
    }
}

/// Visits with one action around the start of each week, in UTC and in the timezone, from a Monday
/// on, and in the middle of each week.
fn slivers(zone: &str, monday: &str, weeks: i64) -> World {
    const HOUR: i64 = 3600;
    let mut world = World::new(Clock::Real);
    let site = world.add_site(Site::new(1, "Slivers", zone));
    let mut instants = vec![];
    for week in 0..=weeks {
        let utc = instant(&format!("{monday}T00:00:00Z")) + week * 7 * 24 * HOUR;
        let midnight = site.zone().midnight(day(monday) + chrono::Days::new(7 * week as u64));
        for edge in [utc, midnight, (utc + midnight) / 2] {
            instants.extend([edge - 1, edge, edge + 1]);
        }
        instants.extend([midnight - HOUR, midnight + HOUR]);
        if week < weeks {
            instants.push(utc + 84 * HOUR);
        }
    }
    for (id, at) in (1001..).zip(instants) {
        site.add(Visit::new(id, at).and(Action::page(
            at,
            format!("https://example.org/{at}"),
            "Page",
        )));
    }
    world
}

/// Every subset of weeks exists with the timezone's bounds while the others are missing.
fn assert_weeks_of(zone: &str, first: &str, monday: &str, last: &str) {
    const WEEKS: usize = 3;
    let fake = serve(slivers(zone, monday, WEEKS as i64));
    let oracle = oracle(&fake, first, last);
    assert_eq!(oracle.len(), fake.world().site(1).visits.len());
    for there in 0..1 << WEEKS {
        let mut db = database();
        partitioned_table(&mut db);
        for number in (0..WEEKS).filter(|number| there & (1 << number) != 0) {
            let wednesday = day(monday) + chrono::Days::new(7 * number as u64 + 2);
            week(&mut db, zone, &wednesday.to_string());
        }
        let bounds = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1";
        run(&mut db, "SET TimeZone = 'UTC'");
        let before = texts(&mut db, bounds);
        run(&mut db, &format!("SET TimeZone = '{}'", ["UTC", zone][there % 2]));
        let sync = Sync::of(&fake, first, last).into("matomo_partitioned");
        sync.run(&mut db);
        assert_equal(&mut db, "matomo_partitioned", &oracle);
        assert_settled(&mut db, &sync);
        let after = texts(&mut db, bounds);
        assert!(before.iter().all(|bound| after.contains(bound)), "{before:?} became {after:?}");
        assert!(after.len() <= WEEKS + 2, "a sliver must not become a partition: {after:?}");
    }
}

#[test]
fn partitions_with_the_bounds_of_paris_when_summer_time_ends() {
    assert_weeks_of("Europe/Paris", "2026-10-10", "2026-10-12", "2026-11-03");
}

#[test]
fn partitions_with_the_bounds_of_paris_when_summer_time_begins() {
    assert_weeks_of("Europe/Paris", "2026-03-14", "2026-03-16", "2026-04-07");
}

#[test]
fn partitions_with_the_bounds_of_los_angeles() {
    assert_weeks_of("America/Los_Angeles", "2026-10-17", "2026-10-19", "2026-11-10");
}

#[test]
fn partitions_with_the_bounds_of_the_last_zone_on_earth_and_the_first() {
    assert_weeks_of("Pacific/Kiritimati", "2026-10-10", "2026-10-12", "2026-11-03");
    assert_weeks_of("Pacific/Pago_Pago", "2026-10-10", "2026-10-12", "2026-11-03");
}

#[test]
fn rows_that_the_node_tool_stored_stay_or_get_their_true_times() {
    let fake = serve_paris();
    let as_sent = fake.world().oracle(1, day(FIRST), day(LAST), ActionTime::AsSent);
    let utc = oracle(&fake, FIRST, LAST);
    let mut db = node_database();
    for at in ["2026-10-24", "2026-10-26"] {
        week(&mut db, "Europe/Paris", at);
    }
    for table in TABLES {
        copy_rows(&mut db, table, &as_sent);
        let sync = Sync::of(&fake, FIRST, LAST).into(table);
        run(&mut db, "SET matomo.action_time = 'as_sent'");
        assert_settled(&mut db, &sync);
        assert_equal(&mut db, table, &as_sent);
        run(&mut db, "SET matomo.action_time = 'utc'");
        sync.run(&mut db);
        assert_equal(&mut db, table, &utc);
        assert_settled(&mut db, &sync);
    }
}

/// Rows as the Node tool leaves them after a year of hourly runs: stale, shifted, and in the
/// partitioned table duplicated with another time.
fn spoil(db: &mut Client, table: &str) {
    run(
        db,
        &format!(
            "UPDATE {table} SET visitduration = '0', actions = '1' WHERE idvisit::bigint % 3 = 0;
             UPDATE {table} SET action_timespent = '7', usercustomproperties = '{{}}' WHERE action_type = 'action';
             DELETE FROM {table} WHERE idvisit::bigint % 5 = 0 AND action_id LIKE '%\\_0';
             DELETE FROM {table} WHERE idvisit::bigint % 7 = 0"
        ),
    );
    // An action's index changes when a late hit is sorted in before it.
    run(
        db,
        &format!(
            "CREATE TEMP TABLE shifted AS SELECT * FROM {table} WHERE idvisit::bigint % 5 = 0;
             DELETE FROM {table} WHERE idvisit::bigint % 5 = 0;
             UPDATE shifted SET action_id = idvisit || '_' || (split_part(action_id, '_', 2)::int - 1);
             INSERT INTO {table} SELECT * FROM shifted; DROP TABLE shifted"
        ),
    );
    if table == "matomo_partitioned" {
        run(
            db,
            &format!(
                "CREATE TEMP TABLE doubled AS SELECT * FROM {table} WHERE idvisit::bigint % 2 = 0;
                 UPDATE doubled SET action_timestamp = action_timestamp - interval '37 minutes';
                 INSERT INTO {table} SELECT * FROM doubled;
                 UPDATE doubled SET action_timestamp = action_timestamp + interval '39 minutes';
                 INSERT INTO {table} SELECT * FROM doubled; DROP TABLE doubled"
            ),
        );
    }
}

/// A row with these values replaced.
fn with(row: &OracleRow, values: &[(&str, &str)]) -> OracleRow {
    let mut row = row.clone();
    for (column, value) in values {
        let place = fake_matomo::COLUMNS.iter().position(|name| name == column).unwrap();
        row.0[place] = Some((*value).to_owned());
    }
    row
}

#[test]
fn stale_shifted_and_doubled_rows_are_mended_and_no_others_touched() {
    let fake = serve_paris();
    let right = oracle(&fake, FIRST, LAST);
    let mut db = node_database();
    for at in ["2026-10-10", "2026-10-17", "2026-10-24", "2026-10-26"] {
        week(&mut db, "Europe/Paris", at);
    }
    // Another site's rows on the same days, and this site's rows a week earlier.
    let model = &right[0];
    let others: Vec<_> = (0..50)
        .flat_map(|n| {
            let (ours, theirs) = (format!("{}_0", 100 + n), format!("{}_0", 900_000 + n));
            let visit = |id: &str| id.trim_end_matches("_0").to_owned();
            [
                with(
                    model,
                    &[
                        ("action_id", &ours),
                        ("idvisit", &visit(&ours)),
                        ("action_timestamp", "2026-10-14 12:00+00"),
                    ],
                ),
                with(
                    model,
                    &[("action_id", &theirs), ("idvisit", &visit(&theirs)), ("idsite", "2")],
                ),
            ]
        })
        .collect();
    for table in TABLES {
        copy_rows(&mut db, table, &right);
        spoil(&mut db, table);
        copy_rows(&mut db, table, &others);
        let untouched = format!("{table} WHERE idsite = '2' OR action_timestamp < '2026-10-20'");
        let before = fingerprint(&mut db, &untouched);
        let sync = Sync::of(&fake, FIRST, LAST).into(table);
        let sums = sync.run(&mut db);
        assert!(sums.inserted > 0 && sums.updated > 0, "{sums:?}");
        assert!(table == "matomo" || sums.deleted > 0, "{sums:?}");
        assert_equal(&mut db, table, &right.iter().chain(&others).cloned().collect::<Vec<_>>());
        assert_eq!(fingerprint(&mut db, &untouched), before);
        assert_settled(&mut db, &sync);
    }
}

#[test]
fn a_url_too_long_for_an_index_of_the_node_tool_is_an_error_that_names_the_index() {
    let fake = serve_paris();
    let url = format!("https://example.org/{}", "long-".repeat(60_000));
    fake.world().site_mut(1).visits[0].actions[0] =
        Action::page(instant("2026-10-24T10:00:00Z"), url, "Long");
    let mut db = node_database();
    let refused = Sync::of(&fake, FIRST, LAST).error(&mut db);
    assert_eq!(refused.code().code(), "54000");
    let message = refused.message();
    assert!(
        message.starts_with("index row ") && message.ends_with("\"matomo_action_url_idx\""),
        "{message}"
    );
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 0);
    // Nothing else stops the sync.
    run(&mut db, "DROP INDEX matomo_action_url_idx");
    Sync::of(&fake, FIRST, LAST).run(&mut db);
    assert_equal(&mut db, "matomo", &oracle(&fake, FIRST, LAST));
}

#[test]
fn columns_that_a_table_lacks_are_not_filled_and_those_that_it_gains_are() {
    let fake = serve_paris();
    let mut db = node_database();
    for table in TABLES {
        let of = |last| Sync { force: false, ..Sync::of(&fake, FIRST, last).into(table) };
        let (first, last) = (of(FIRST), of(LAST));
        run(
            &mut db,
            &format!(
                "ALTER TABLE {table} DROP COLUMN dimension7, DROP COLUMN visitorid, DROP COLUMN experiments"
            ),
        );
        first.run(&mut db);
        run(
            &mut db,
            &format!(
                "ALTER TABLE {table} ADD COLUMN experiments jsonb, ADD COLUMN visitorid text, ADD COLUMN dimension7 text,
                     ADD COLUMN devicetype text, ADD COLUMN pageid bigint, ADD COLUMN mine text DEFAULT 'mine'"
            ),
        );
        last.run(&mut db);
        let filled = format!(
            "SELECT concat_ws(' ', bool_and(devicetype IS NOT NULL), bool_or(pageid IS NOT NULL), bool_and(visitorid IS NOT NULL), \
                 bool_and(mine = 'mine')) \
             FROM {table} WHERE idvisit IN (SELECT idvisit FROM {table} GROUP BY idvisit
                 HAVING max(action_timestamp) < '2026-10-24 22:00Z')"
        );
        // Older rows have them after a repair.
        assert_eq!(texts(&mut db, &filled), ["f f f t"], "{table}");
        run(
            &mut db,
            &format!(
                "SELECT * FROM matomo_check(site => 1, url => '{}', key => '{}', start_date => '{FIRST}', end_date => '{LAST}',
                     destination => '{table}', repair => true, deep => true)",
                fake.url(),
                fake.token()
            ),
        );
        assert_eq!(texts(&mut db, &filled), ["t t t t"], "{table}");
        assert_equal(&mut db, table, &oracle(&fake, FIRST, LAST));
    }
}
