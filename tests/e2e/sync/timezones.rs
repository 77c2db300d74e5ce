//! The next sync notices when a site's timezone was changed in Matomo, and loses no visit.

use std::sync::atomic::{AtomicUsize, Ordering};

use fake_matomo::Fake;

use crate::support::noon::settled;
use crate::support::sites;
use crate::support::zones::*;
use crate::support::*;

/// Hours that the site's clock was ahead of UTC, and is ahead now.
const CHANGES: [(i64, i64); 8] =
    [(0, 1), (0, -1), (-3, 9), (9, -3), (-12, 14), (14, -12), (5, 6), (-8, -9)];

fn copied_from(fake: &Fake, ago: u64) -> String {
    format!(", '{}'", first_day(fake, ago))
}

#[test]
fn the_next_sync_notices_a_changed_timezone_and_loses_no_visit() {
    for (before, after) in CHANGES {
        let fake = serve(hourly(before));
        let mut db = settled();
        without_day(&mut db);
        let first = first_day(&fake, 4);
        sync(&mut db, &fake, &copied_from(&fake, 4));
        let since = fake.world().site(1).zone().midnight(first);
        asked(&fake);
        sync(&mut db, &fake, "");
        let polls = asked(&fake);
        assert!(polls.len() <= 2, "{before}: {polls:?}");

        fake.world().site_mut(1).timezone = zone(after);
        let since = since.min(fake.world().site(1).zone().midnight(first));
        let now = chrono::Utc::now().timestamp();
        fake.world().site_mut(1).add(hit(2000, now));
        sync(&mut db, &fake, "");
        assert_eq!(lost(&mut db, &fake, since), [0; 0], "{before} to {after}");
        let mut requests = asked(&fake);
        assert!(requests.contains(&"site".to_owned()), "{before} to {after}: {requests:?}");
        let of_days: Vec<_> = requests.extract_if(.., |line| line.starts_with("day")).collect();
        // The poll by which it is noticed, two days at each end, and today.
        assert!(of_days.len() <= 7, "{before} to {after}: {of_days:?}");
        let zones = texts(&mut db, "SELECT DISTINCT timezone FROM matomo_days WHERE day <= now()");
        assert!(zones.contains(&zone(after)), "{zones:?}");

        // That was all: the next one is a poll.
        sync(&mut db, &fake, "");
        let polls = asked(&fake);
        assert!(polls.len() <= 2, "{before} to {after}: {polls:?}");
        // And what is sealed then is exact.
        let check = format!(
            "SELECT sum(missing + extra + stale)::bigint FROM matomo_check(1, '{}', '{}', '{}', '{}')",
            first,
            fake.world().today(1),
            fake.url(),
            fake.token()
        );
        assert_eq!(one::<i64>(&mut db, &check), 0, "{before} to {after}");
    }
}

#[test]
fn every_row_has_the_day_of_the_changed_timezone() {
    for (before, after) in [(-3, 9), (9, -3)] {
        let fake = serve(hourly(before));
        let mut db = settled();
        without_local_time(&mut db);
        let (url, first) = (fake.url(), first_day(&fake, 4));
        sync(&mut db, &fake, &copied_from(&fake, 4));
        fake.world().site_mut(1).timezone = zone(after);
        fake.world().site_mut(1).add(hit(2000, chrono::Utc::now().timestamp()));
        sync(&mut db, &fake, "");
        sync(&mut db, &fake, "");
        let last = fake.world().today(1);
        let check = format!(
            "SELECT sum(missing + extra + stale)::bigint FROM matomo_check(1, '{first}', '{last}', '{url}', \
             '{}', deep => true)",
            fake.token()
        );
        assert_eq!(one::<i64>(&mut db, &check), 0, "{before} to {after}");
        // Days begin later now: the first hours are of the day before the first.
        let since = fake.world().site(1).zone().midnight(first);
        let zone = zone(after).replace("UTC", "");
        for (table, time) in [("matomo_visits", "lastaction"), ("matomo", "action_timestamp")] {
            let of_other_days = format!(
                "SELECT count(*) FROM {table} \
                 WHERE day <> ({time} AT TIME ZONE interval '{zone} hours')::date
                 AND {time} >= to_timestamp({since})"
            );
            assert_eq!(one::<i64>(&mut db, &of_other_days), 0, "{table}, {before} to {after}");
        }
    }
}

#[test]
fn days_that_matomo_has_purged_keep_their_counts() {
    let fake = serve(hourly(0));
    let mut db = settled();
    sync(&mut db, &fake, &copied_from(&fake, 4));
    let (purged, kept) = (first_day(&fake, 3), midnight(&fake, 2));
    fake.world().site_mut(1).visits.retain(|visit| visit.last >= kept);
    fake.world().site_mut(1).timezone = zone(3);
    fake.world().site_mut(1).add(hit(2000, chrono::Utc::now().timestamp()));
    sync(&mut db, &fake, "");
    let counted = format!("SELECT visits::text FROM matomo_days WHERE day = '{purged}'");
    assert_eq!(texts(&mut db, &counted), ["24"]);
}

#[test]
fn a_day_without_visits_hides_no_changed_timezone() {
    let fake = serve(hourly(0));
    let today = midnight(&fake, 0);
    fake.world().site_mut(1).visits.retain(|visit| visit.last < today);
    let mut db = settled();
    sync(&mut db, &fake, &copied_from(&fake, 3));
    let since = midnight(&fake, 3);
    fake.world().site_mut(1).timezone = zone(-12);
    fake.world().site_mut(1).add(hit(2000, chrono::Utc::now().timestamp()));
    sync(&mut db, &fake, "");
    assert_eq!(lost(&mut db, &fake, since), [0; 0]);
}

#[test]
fn a_sync_with_nothing_to_read_notices_a_changed_timezone() {
    let fake = serve(hourly(0));
    let mut db = settled();
    sync(&mut db, &fake, &copied_from(&fake, 4));
    fake.world().site_mut(1).timezone = zone(3);
    let (first, last) = (first_day(&fake, 4), first_day(&fake, 3));
    asked(&fake);
    sync(&mut db, &fake, &format!(", '{first}', '{last}'"));
    let days = [first, last].map(|day| format!("day {day}"));
    assert_eq!(asked(&fake), [&["site".to_owned()][..], &days].concat());
    let since = fake.world().site(1).zone().midnight(first);
    assert_eq!(lost(&mut db, &fake, since), [0; 0]);
}

#[test]
fn a_run_notices_a_changed_timezone() {
    for (before, after) in [(-3, 9), (9, -3)] {
        let fake = serve(hourly(before));
        let mut db = settled();
        sites::server(&mut db, &fake);
        let first = first_day(&fake, 4);
        let call = format!("SELECT matomo_add_site('analytics', 1, start_date => '{first}')");
        let site: i32 = one(&mut db, &call);
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        fake.world().site_mut(1).timezone = zone(after);
        fake.world().site_mut(1).add(hit(2000, chrono::Utc::now().timestamp()));
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        let since = fake.world().site(1).zone().midnight(first);
        assert_eq!(lost(&mut db, &fake, since), [0; 0], "{before} to {after}");
        let known = "SELECT timezone FROM matomo_status";
        assert_eq!(texts(&mut db, known), [zone(after)]);
    }
}

/// As where two servers answer, each with another timezone of the site in its cache.
fn flapping() -> Fake {
    let fake = serve(hourly(0));
    let asked = AtomicUsize::new(0);
    fake.before_each(Box::new(move |world, _| {
        let is_other = asked.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        world.site_mut(1).timezone = zone(if is_other { 9 } else { -3 });
    }));
    fake
}

const FLAPPING: &str = "unexpected answer of Matomo: another timezone of the site again and again";

#[test]
fn a_sync_does_not_follow_a_timezone_that_changes_without_end() {
    let fake = flapping();
    let mut db = settled();
    run(&mut db, "SET statement_timeout = '60 s'");
    without_local_time(&mut db);
    let first = first_day(&fake, 4);
    let error = error(
        &mut db,
        &format!("SELECT matomo_sync(1, '{}', '{}', '{first}')", fake.url(), fake.token()),
    );
    assert_says(&error, "08P01", FLAPPING, &["site 1"], "all servers that answer at this URL");
}

/// However many transactions and processes the run has.
#[test]
fn a_run_does_not_follow_a_timezone_that_changes_without_end() {
    let fake = serve(hourly(0));
    let mut db = settled();
    run(&mut db, "SET statement_timeout = '60 s'; SET matomo.fetch_workers = 1");
    without_local_time(&mut db);
    sites::server(&mut db, &fake);
    let first = first_day(&fake, 6);
    let site = sites::add_site(&mut db, &format!(", start_date => '{first}'"));
    let asked = AtomicUsize::new(0);
    fake.before_each(Box::new(move |world, _| {
        // No step sees more than one change.
        if asked.fetch_add(1, Ordering::SeqCst) % 3 == 2 {
            let site = world.site_mut(1);
            site.timezone = zone(if site.timezone == zone(9) { -3 } else { 9 });
        }
    }));
    let error = error(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_says(&error, "08P01", FLAPPING, &["site 1"], "all servers that answer at this URL");
    assert_eq!(texts(&mut db, "SELECT failures::text FROM matomo_status"), ["1"]);
}
