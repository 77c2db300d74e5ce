//! A table with rows never silently gets another kind of `matomo.action_time`.

use fake_matomo::{Action, ActionTime, Clock, Fake, OracleRow, Site, Visit, World};
use postgres::Client;

use crate::support::noon::{from, noon, open_days, settled};
use crate::support::sites::{add_site, server};
use crate::support::*;

const TABLES: [&str; 2] = ["matomo", "matomo_partitioned"];

fn rows(fake: &Fake, time: ActionTime) -> Vec<OracleRow> {
    fake.world().oracle(1, day("1990-01-01"), day("2200-01-01"), time)
}

fn kinds(db: &mut Client) -> Vec<String> {
    texts(db, "SELECT concat_ws(' ', sealed, action_time) FROM matomo_days ORDER BY day")
}

/// Both changes of the setting: from, to, and the rows after it.
const CHANGES: [(&str, &str, ActionTime); 2] =
    [("utc", "as_sent", ActionTime::AsSent), ("as_sent", "utc", ActionTime::Utc)];

#[test]
fn sealed_days_of_the_other_kind_are_an_error_that_says_what_to_do() {
    for table in TABLES {
        for (from_kind, to_kind, time) in CHANGES {
            let (noon, fake, mut db) = noon(4);
            run(&mut db, &format!("SET matomo.destination = '{table}'"));
            run(&mut db, &format!("SET matomo.action_time = '{from_kind}'"));
            sync(&mut db, &fake, &from(&noon, 3));
            let before = fingerprint(&mut db, table);
            run(&mut db, &format!("SET matomo.action_time = '{to_kind}'"));
            let (first, last) = (noon.text(3), noon.text(1));
            assert_says(
                &error(&mut db, &sync_sql(&fake, 1, "")),
                "55000",
                &format!(
                    "destination \"public.{table}\" was filled with another matomo.action_time"
                ),
                &[&format!("From {first} to {last} it was '{from_kind}'.")],
                &format!(
                    "Set matomo.action_time to '{from_kind}' again, or read these days again with matomo_sync(..., start_date => '{first}', end_date => '{last}', force => true)"
                ),
            );
            assert_eq!(fingerprint(&mut db, table), before);
            // The hint works, also in parts.
            for ago in [3, 2, 1] {
                let only = format!(", '{0}', '{0}', force => true", noon.text(ago));
                sync(&mut db, &fake, &only);
            }
            sync(&mut db, &fake, "");
            assert_equal(&mut db, table, &rows(&fake, time));
            let sealed = ["t", "t", "t", "f"].map(|sealed| format!("{sealed} {to_kind}"));
            assert_eq!(kinds(&mut db), sealed);
            // Setting it back is refused too.
            run(&mut db, &format!("SET matomo.action_time = '{from_kind}'"));
            error(&mut db, &sync_sql(&fake, 1, ""));
            run(&mut db, &format!("SET matomo.action_time = '{to_kind}'"));
            assert_eq!(sync(&mut db, &fake, "").written(), 0);
        }
    }
}

/// As where ALTER ROLE sets it for sessions, but not for the background worker.
#[test]
fn a_registered_site_of_the_other_kind_fails_and_says_so() {
    for (from_kind, to_kind, time) in CHANGES {
        let (noon, fake, mut db) = noon(4);
        server(&mut db, &fake);
        let site = add_site(&mut db, &from(&noon, 3));
        run(&mut db, &format!("SET matomo.action_time = '{from_kind}'"));
        run(&mut db, "CALL matomo_sync_all()");
        let before = fingerprint(&mut db, "matomo");
        run(&mut db, &format!("SET matomo.action_time = '{to_kind}'"));
        run(&mut db, "CALL matomo_sync_all()");
        let status =
            "SELECT concat_ws(' | ', failures, last_sqlstate, last_error) FROM matomo_status";
        let message = "destination \"public.matomo\" was filled with another matomo.action_time";
        assert_eq!(texts(&mut db, status), [format!("1 | 55000 | {message}")]);
        let call = format!("CALL matomo_sync_site({site})");
        let kind = format!("it was '{from_kind}'.");
        assert_says(&error(&mut db, &call), "55000", message, &[&kind], "force => true");
        assert_eq!(fingerprint(&mut db, "matomo"), before);
        let range = format!(", '{}', '{}', force => true", noon.text(3), noon.text(1));
        sync(&mut db, &fake, &range);
        run(&mut db, &call);
        assert_equal(&mut db, "matomo", &rows(&fake, time));
        assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status"), 0);
    }
}

#[test]
fn open_days_of_the_other_kind_are_read_whole() {
    for table in TABLES {
        let (_, fake, mut db) = open_days(table);
        run(&mut db, "SET matomo.action_time = 'as_sent'");
        sync(&mut db, &fake, "");
        assert_equal(&mut db, table, &rows(&fake, ActionTime::AsSent));
        assert_eq!(kinds(&mut db), ["f as_sent"; 2]);
        run(&mut db, "SET matomo.action_time = 'utc'");
        sync(&mut db, &fake, "");
        assert_equal(&mut db, table, &all_of(&fake, 1));
    }
}

#[test]
fn days_that_were_dropped_for_their_age_are_of_no_kind() {
    let (noon, fake, mut db) = noon(3);
    sync(&mut db, &fake, &from(&noon, 2));
    let drop =
        format!("CALL matomo_drop_before('matomo', to_timestamp({}))", noon.at(0, "00:00:00"));
    run(&mut db, &drop);
    run(&mut db, "SET matomo.action_time = 'as_sent'");
    sync(&mut db, &fake, "");
    assert_eq!(sync(&mut db, &fake, &from(&noon, 2)).days, 1);
}

/// In zones on both sides of UTC, where the two kinds differ.
#[test]
fn a_check_finds_and_mends_days_of_the_other_kind() {
    let (first, last) = ("2026-10-24", "2026-10-26");
    for (zone, table) in [("Asia/Tokyo", "matomo"), ("America/Los_Angeles", "matomo_partitioned")] {
        let fake = serve(world(15, zone, 5, first, last));
        for (from_kind, to_kind, time) in CHANGES {
            let mut db = settled();
            run(&mut db, &format!("SET matomo.action_time = '{from_kind}'"));
            Sync::of(&fake, first, last).into(table).run(&mut db);
            let visits: i64 = one(&mut db, &format!("SELECT count(DISTINCT idvisit) FROM {table}"));
            assert!(visits > 10, "{visits}");
            run(&mut db, &format!("SET matomo.action_time = '{to_kind}'"));
            let mut stale = |arguments: &str| -> i64 {
                let check = format!(
                    "SELECT sum(stale)::bigint FROM matomo_check(1, '{first}', '{last}', '{}', '{}', '{table}'{arguments})",
                    fake.url(),
                    fake.token()
                );
                one(&mut db, &check)
            };
            let case = format!("{zone}, {from_kind} to {to_kind}");
            assert_eq!(stale(""), visits, "{case}");
            assert_eq!(stale(", deep => true"), visits, "{case}");
            assert_eq!(stale(", repair => true"), visits, "{case}");
            assert_eq!(stale(", deep => true"), 0, "{case}");
            assert_equal(&mut db, table, &rows(&fake, time));
            // The days are of the new kind, so that a sync is not refused.
            assert_eq!(
                kinds(&mut db),
                [format!("t {to_kind}"), format!("t {to_kind}"), format!("t {to_kind}")]
            );
            let range = format!(", '{first}', '{last}', destination => '{table}'");
            assert_eq!(sync(&mut db, &fake, &range).days, 0);
        }
    }
}

/// A day of the site's wall clock starts at 00:00 there, however far the site is from UTC.
#[test]
fn retention_keeps_all_hours_of_the_first_kept_day_and_no_more() {
    for (zone, offset) in [("America/Los_Angeles", -7), ("Asia/Tokyo", 9), ("UTC", 0)] {
        // Days that have ended in every zone, at least an hour after midnight.
        let today = (chrono::Utc::now() + chrono::TimeDelta::hours(offset - 2)).date_naive();
        let mut site = Site::new(1, "Hours", zone);
        for ago in (1..=6).rev() {
            for hour in 0..24 {
                let wall = (today - chrono::Days::new(ago)).and_hms_opt(hour, 30, 0).unwrap();
                // One hour off in winter, but still within the range.
                let at = wall.and_utc().timestamp() - offset * 3600;
                let visit = Visit::new(100 * i64::try_from(ago).unwrap() + i64::from(hour), at);
                site.add(visit.and(Action::page(at, "https://hours.test/", "Hours")));
            }
        }
        let mut world = World::new(Clock::Real);
        world.add_site(site);
        let fake = serve(world);
        let mut db = database();
        server(&mut db, &fake);
        run(&mut db, "SET matomo.action_time = 'as_sent'; SET TimeZone = 'Asia/Kolkata'");
        for table in ["matomo", "matomo_partitioned"] {
            let first = today - chrono::Days::new(6);
            let id = add_site(&mut db, &format!(", '{first}', '{table}'"));
            run(&mut db, &format!("CALL matomo_sync_site({id})"));
            let by_day = |db: &mut Client, table: &str| -> Vec<String> {
                let day = "(action_timestamp AT TIME ZONE 'UTC')::date";
                texts(
                    db,
                    &format!(
                        "SELECT concat_ws(' ', {day}, count(*)) FROM {table} GROUP BY {day} ORDER BY 1"
                    ),
                )
            };
            let before = by_day(&mut db, table);
            run(&mut db, &format!("SELECT matomo_alter_site({id}, retention => '3 days')"));
            run(&mut db, &format!("CALL matomo_sync_site({id})"));
            let kept_from = format!("SELECT (matomo_today('{zone}') - 3)::text");
            let kept_from: String = one(&mut db, &kept_from);
            let kept: Vec<_> =
                before.iter().filter(|line| line.as_str() >= kept_from.as_str()).cloned().collect();
            assert_eq!(by_day(&mut db, table), kept, "{zone} {table}");
            assert!(kept.len() >= 2 && before.len() >= kept.len() + 2, "{before:?}");
            let told = format!(
                "SELECT concat_ws(' ', day, visits) FROM matomo_days
                 WHERE destination = '{table}'::regclass AND visits > 0 ORDER BY day"
            );
            assert_eq!(texts(&mut db, &told), kept, "{zone} {table}");
        }
    }
}
