//! An open day becomes exact, despite clocks that are ahead and visits that arrive late.

use fake_matomo::{Action, Clock, Fake, Fault, Page, Site, Visit, When, World};
use postgres::Client;

use crate::support::noon::{from, noon, open_days, settled};
use crate::support::sites;
use crate::support::*;

fn page(id: i64, at: i64) -> Visit {
    Visit::new(id, at).and(Action::page(at, format!("https://noon.test/{id}"), "Page"))
}

fn add(fake: &Fake, visit: Visit) {
    fake.world().site_mut(1).add(visit);
}

/// Makes the last recheck of all open days this much older.
fn pass(db: &mut Client, time: &str) {
    run(db, &format!("UPDATE matomo_ledger SET rechecked_at = rechecked_at - interval '{time}'"));
}

/// The age in seconds of the oldest recheck of an open day.
fn rechecked_ago(db: &mut Client) -> i64 {
    one(
        db,
        "SELECT date_part('epoch', clock_timestamp() - min(rechecked_at))::bigint FROM matomo_days
         WHERE NOT sealed",
    )
}

#[test]
fn a_visit_from_the_future_hides_no_other() {
    let (noon, fake, mut db) = noon(1);
    let now = chrono::Utc::now().timestamp();
    for (id, ahead) in [(5000, 300), (5001, 2 * 86_400)] {
        add(&fake, page(id, now + ahead));
    }
    sync(&mut db, &fake, &from(&noon, 0));
    let newest = "SELECT max(newest) <= now() FROM matomo_ledger";
    assert!(one::<bool>(&mut db, newest));
    for id in 5002..5005 {
        let now = chrono::Utc::now().timestamp();
        add(&fake, page(id, now));
        fake.clear_requests();
        assert_eq!(sync(&mut db, &fake, "").inserted, 1);
        let polls = fake.requests();
        let begins = polls.iter().map(|poll| poll.param("minTimestamp").parse::<i64>().unwrap());
        let begins: Vec<_> = begins.collect();
        assert!(!begins.is_empty() && begins.iter().all(|at| *at <= now - 60), "{begins:?}");
    }
    assert!(one::<bool>(&mut db, newest));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    let check = format!(
        "SELECT concat_ws(' ', visits_there, visits_here, missing)
         FROM matomo_check(1, '{0}', '{0}', '{1}', '{2}')",
        noon.text(0),
        fake.url(),
        fake.token()
    );
    assert_eq!(texts(&mut db, &check), ["8 8 0"]);
}

#[test]
fn a_page_that_ends_in_the_future_hides_no_other() {
    let (noon, fake, mut db) = noon(1);
    let now = chrono::Utc::now().timestamp();
    for id in 0..9 {
        add(&fake, page(5000 + id, now + 200 + id));
    }
    let small = format!("{}, page_size => 2", from(&noon, 0));
    assert_eq!(sync(&mut db, &fake, &small).inserted, 18);
    add(&fake, page(6000, chrono::Utc::now().timestamp()));
    assert_eq!(sync(&mut db, &fake, ", page_size => 2").inserted, 1);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn days_sealed_by_a_clock_that_was_ahead_are_read_again() {
    let (noon, fake, mut db) = noon(4);
    sync(&mut db, &fake, &from(&noon, 3));
    // The ledger after a clock was three days ahead.
    run(
        &mut db,
        &format!(
            "UPDATE matomo_ledger SET sealed = true, read_at = now() + interval '3 days'
                 WHERE day >= '{0}';
             INSERT INTO matomo_ledger (matomo, idsite, destination, day, sealed, visits, actions,
                 truncated_visits, timezone, read_at)
                 SELECT matomo, idsite, destination, day + n, true, 0, 0, 0, timezone, read_at
                 FROM matomo_ledger CROSS JOIN generate_series(1, 3) n WHERE day = '{0}'",
            noon.text(0)
        ),
    );
    add(&fake, page(5000, noon.at(0, "11:00:00")));
    asked(&fake);
    assert_eq!(sync(&mut db, &fake, "").inserted, 1);
    assert_eq!(asked(&fake).last(), Some(&format!("day {}", noon.text(0))));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    // Days to come are not sealed either.
    let of_future =
        format!("SELECT count(*) FROM matomo_days WHERE sealed AND day >= '{}'", noon.text(0));
    assert_eq!(one::<i64>(&mut db, &of_future), 0);
    // Nothing is read twice.
    asked(&fake);
    sync(&mut db, &fake, "");
    assert_eq!(asked(&fake).len(), 1);
}

#[test]
fn a_seal_counts_from_the_end_of_its_day() {
    let (noon, fake, mut db) = noon(2);
    sync(&mut db, &fake, &from(&noon, 1));
    run(&mut db, "UPDATE matomo_ledger SET sealed = true");
    add(&fake, page(5000, noon.at(0, "11:00:00")));
    assert_eq!(sync(&mut db, &fake, "").inserted, 1);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_poll_begins_the_overlap_before_its_cursor() {
    let (noon, fake, mut db) = noon(1);
    sync(&mut db, &fake, &from(&noon, 0));
    asked(&fake);
    for (overlap, after) in [("10min", "09:50:39"), ("0", "10:00:39"), ("1d", "10:00:39")] {
        run(&mut db, &format!("SET matomo.overlap = '{overlap}'"));
        sync(&mut db, &fake, "");
        let ago = u64::from(overlap == "1d");
        let begin = noon.at(ago, after);
        assert_eq!(asked(&fake), [format!("day {} after {begin}", noon.text(0))]);
    }
}

#[test]
fn a_recheck_fetches_what_is_missing_or_stale_and_only_that() {
    for table in ["matomo", "matomo_partitioned"] {
        let (noon, fake, mut db) = open_days(table);
        let others = format!("{table} WHERE idvisit NOT IN ('1002', '1011', '5000', '5001')");
        let before = fingerprint(&mut db, &others);
        {
            let mut world = fake.world();
            let site = world.site_mut(1);
            // A heartbeat, which the cursor does not see; visits from before it; a late hit on
            // yesterday.
            site.visit_mut(1002).heartbeat(15);
            site.add(page(5000, noon.at(0, "08:30:00")));
            site.add(page(5001, noon.at(1, "23:59:59")));
            let late = Action::event(noon.at(1, "08:00:10"), "Video", "play");
            site.visit_mut(1011).push(late);
        }
        // Within the hour only new visits of today are fetched.
        asked(&fake);
        assert_eq!(sync(&mut db, &fake, "").inserted, 1);
        assert_eq!(asked(&fake).len(), 2);
        pass(&mut db, "59 minutes");
        assert_eq!(sync(&mut db, &fake, "").written(), 0);
        asked(&fake);

        pass(&mut db, "1 minute");
        let sums = sync(&mut db, &fake, "");
        assert_eq!(sums.days, 2);
        let mut requests = asked(&fake);
        assert!(requests.pop().unwrap().split(", ").all(|id| ["1002", "5000"].contains(&id)));
        assert_eq!(requests.pop(), Some("1011".to_owned()));
        assert_eq!(requests.len(), 4, "{requests:?}");
        assert_eq!(sums.pages, 6);
        assert_equal(&mut db, table, &all_of(&fake, 1));
        assert_eq!(fingerprint(&mut db, &others), before);
        assert!(rechecked_ago(&mut db) < 60);
        let lines = [(1, "4 11"), (0, "4 10")]
            .map(|(ago, counts)| format!("1 {} open {counts} 0", noon.text(ago)));
        assert_eq!(ledger(&mut db, table), lines);

        // Without differences the visits are only listed.
        pass(&mut db, "1 hour");
        assert_eq!(sync(&mut db, &fake, "").written(), 0);
        assert_eq!(asked(&fake).len(), 4);
        // A recheck that is off does not even list them.
        for off in ["0", "-1"] {
            pass(&mut db, "1 day");
            run(&mut db, &format!("SET matomo.recheck = {off}"));
            sync(&mut db, &fake, "");
            assert_eq!(asked(&fake).len(), 2);
        }
    }
}

#[test]
fn a_recheck_asks_for_no_actions_of_what_is_equal() {
    let (noon, fake, mut db) = noon(1);
    sync(&mut db, &fake, &from(&noon, 0));
    pass(&mut db, "1 hour");
    fake.clear_requests();
    sync(&mut db, &fake, "");
    let without: Vec<_> =
        fake.requests().iter().map(|seen| seen.param("doNotFetchActions").to_owned()).collect();
    assert_eq!(without, ["", "1"]);
}

#[test]
fn a_recheck_of_a_large_day_takes_several_steps_and_resumes_where_it_was() {
    let (noon, fake, mut db) = noon(1);
    let begin = noon.at(0, "05:00:00");
    for n in 0..60 {
        add(&fake, page(5000 + n, begin + 7 * n));
    }
    sites::server(&mut db, &fake);
    let site = sites::add_site(&mut db, &format!(", start_date => '{}'", noon.text(0)));
    run(
        &mut db,
        "SET matomo.page_size = 10; SET matomo.step_pages = 2; SET matomo.max_retries = 0",
    );
    let call = format!("CALL matomo_sync_site({site})");
    run(&mut db, &call);
    pass(&mut db, "1 hour");
    let missing = [5003, 5033, 5058].map(|after| page(after + 1000, begin + 7 * (after - 5000)));
    for visit in missing {
        add(&fake, visit);
    }
    // The fourth page of the list fails.
    let listing = || When::live().param("doNotFetchActions", "1");
    fake.fail(Fault::Status(404, Page::Html), listing().after(3));
    asked(&fake);
    error(&mut db, &call);
    let unfinished =
        "SELECT count(*) FROM matomo_ledger WHERE pass_since > pass_began - interval '1 day'
                      AND pass_seen IS NULL AND rechecked_at < now() - interval '1 hour'";
    assert_eq!(one::<i64>(&mut db, unfinished), 1);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo WHERE idvisit = '6003'"), 1);
    fake.heal();
    fake.clear_requests();
    run(&mut db, &call);
    let listed = |text: &str| text.parse::<i64>().unwrap();
    let requests = fake.requests();
    let lists: Vec<_> = requests
        .iter()
        .filter(|seen| seen.param("doNotFetchActions") == "1")
        .map(|seen| listed(seen.param("minTimestamp")))
        .collect();
    assert!(lists[0] > begin + 60, "{lists:?}");
    assert!(lists.is_sorted_by(|one, next| one < next), "{lists:?}");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert!(rechecked_ago(&mut db) < 60);
    let left = "SELECT count(*) FROM matomo_ledger WHERE num_nonnulls(pass_began, pass_since, pass_seen) > 0";
    assert_eq!(one::<i64>(&mut db, left), 0);
    // Each step commits, and polls first.
    let steps = requests.iter().filter(|seen| seen.param("doNotFetchActions").is_empty()).count();
    assert!(steps >= 3, "{steps} steps");
}

#[test]
fn a_run_ends_though_the_clock_was_set_back_meanwhile() {
    let (noon, fake, mut db) = noon(1);
    let begin = noon.at(0, "05:00:00");
    for n in 0..60 {
        add(&fake, page(5000 + n, begin + 7 * n));
    }
    sites::server(&mut db, &fake);
    for (table, settings) in
        [("one", "SET matomo.lookback = 0"), ("two", "SET matomo.lookback = 1")]
    {
        let arguments = format!(", destination => '{table}', start_date => '{}'", noon.text(0));
        run(&mut db, &format!("SELECT matomo_create_table('{table}'); {settings}"));
        let site = sites::add_site(&mut db, &arguments);
        run(&mut db, "SET matomo.page_size = 10; SET matomo.step_pages = 2");
        // The run started an hour in the future.
        run(&mut db, &format!("DO $$ BEGIN PERFORM matomo_run_step({site}, false); END $$"));
        run(
            &mut db,
            "UPDATE matomo_run_log SET start_time = start_time + interval '1 hour' WHERE status = 'running'",
        );
        run(&mut db, "SET statement_timeout = '30s'");
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        run(&mut db, "RESET statement_timeout");
        assert_equal(&mut db, table, &all_of(&fake, 1));
        let is_past =
            "SELECT last_success_at <= clock_timestamp() FROM matomo_site_state WHERE site_id =";
        assert!(one::<bool>(&mut db, &format!("{is_past} {site}")));
        assert_eq!(sites::runs(&mut db, site).len(), 1);
    }
}

/// A day with a visit a minute: every fourth arrives up to ten minutes late, one in ten gets a
/// heartbeat a quarter of an hour later. Polls every ten minutes; returns what is missing or stale
/// after each poll.
fn polled(settings: &str) -> Vec<(i64, String)> {
    let noon = Noon::new();
    let mut world = World::new(Clock::Real);
    let mut site = Site::new(1, "Late", &noon.zone);
    let begin = noon.at(0, "01:00:00");
    for n in 0..240 {
        let mut visit = page(1 + n, begin + 60 * n);
        visit.arrives = visit.last + if n % 4 == 0 { 60 * (1 + n / 4 % 10) } else { 0 };
        site.add(visit);
    }
    world.add_site(site);
    let fake = serve(world);
    let mut db = settled();
    run(&mut db, settings);
    let mut found = Vec::new();
    for poll in 1..28 {
        let now = begin + 600 * poll;
        {
            let mut world = fake.world();
            world.now = Clock::Fixed(now);
            let pinged = |visit: &&mut Visit| visit.last == now - 900;
            world
                .site_mut(1)
                .visits
                .iter_mut()
                .filter(pinged)
                .for_each(|visit| visit.heartbeat(30));
        }
        if poll == 1 {
            sync(&mut db, &fake, &from(&noon, 0));
        } else {
            pass(&mut db, "10 minutes");
            sync(&mut db, &fake, "");
        }
        found.push((rechecked_ago(&mut db), differences(&mut db, "matomo", &all_of(&fake, 1))));
    }
    found
}

#[test]
fn an_overlap_longer_than_visits_are_late_misses_none() {
    let found = polled("SET matomo.overlap = '20min'; SET matomo.recheck = 0");
    assert!(found.iter().all(|(_, found)| found.is_empty()), "{found:?}");
}

#[test]
fn what_comes_late_is_missing_no_longer_than_until_the_next_recheck() {
    let found = polled("SET matomo.overlap = 0");
    let missing = found.iter().filter(|(_, found)| !found.is_empty()).count();
    assert!(missing > 10, "a world in which nothing comes late proves nothing");
    let rechecked: Vec<_> = found.iter().filter(|(ago, _)| *ago < 60).collect();
    assert!(rechecked.len() >= 4, "{found:?}");
    assert!(rechecked.iter().all(|(_, found)| found.is_empty()), "{rechecked:?}");
    assert!(found.iter().all(|(ago, _)| *ago < 3600), "{found:?}");
}

#[test]
fn a_recheck_that_finds_much_fetches_it_in_several_steps_and_comes_to_an_end() {
    let (noon, fake, mut db) = noon(1);
    let begin = noon.at(0, "05:00:00");
    sites::server(&mut db, &fake);
    let site = sites::add_site(&mut db, &format!(", start_date => '{}'", noon.text(0)));
    run(&mut db, "SET matomo.step_pages = 1; SET matomo.max_retries = 0");
    let call = format!("CALL matomo_sync_site({site})");
    run(&mut db, &call);
    // Late ones: sixty in each of three seconds.
    for n in 0..180 {
        add(&fake, page(5000 + n, begin + n / 60));
    }
    // A trigger keeps some of them as they were, so that a recheck finds these each time.
    run(
        &mut db,
        "CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.country := 'Nowhere'; RETURN NEW; END $$;
         CREATE TRIGGER keeps BEFORE INSERT ON matomo FOR EACH ROW
             WHEN (NEW.idvisit BETWEEN '5000' AND '5070') EXECUTE FUNCTION keeps()",
    );
    pass(&mut db, "1 hour");
    // Each step polls, lists, and fetches one second at least, which takes two requests. The list of the
    // second step fails.
    let stored = "SELECT count(*) FROM matomo WHERE idvisit BETWEEN '5000' AND '5999'";
    fake.fail(Fault::Status(404, Page::Html), When::live().after(5));
    error(&mut db, &call);
    assert_eq!(one::<i64>(&mut db, stored), 100, "of the first step");
    fake.heal();
    run(&mut db, &call);
    assert_eq!(one::<i64>(&mut db, stored), 180);
    run(&mut db, "DROP TRIGGER keeps ON matomo");
    pass(&mut db, "1 hour");
    run(&mut db, &call);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    let left = "SELECT count(*) FROM matomo_ledger WHERE num_nonnulls(pass_began, pass_since, pass_seen) > 0";
    assert_eq!(one::<i64>(&mut db, left), 0);
}

#[test]
fn a_step_ends_among_visits_of_the_future() {
    let (noon, fake, mut db) = noon(1);
    let now = chrono::Utc::now().timestamp();
    for id in 0..60 {
        add(&fake, page(5000 + id, now + 600 + id));
    }
    sites::server(&mut db, &fake);
    let site = sites::add_site(&mut db, &format!(", start_date => '{}'", noon.text(0)));
    run(&mut db, "SET matomo.page_size = 10; SET matomo.step_pages = 2");
    asked(&fake);
    for after in ["of the first reading", "of a poll", "of a recheck"] {
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        let days: Vec<_> =
            asked(&fake).into_iter().filter(|line| line.starts_with("day")).collect();
        assert!((1..=6).contains(&days.len()), "{after}: {days:?}");
        if after == "of a poll" {
            pass(&mut db, "1 hour");
        }
    }
    let past = "SELECT count(*) FROM matomo WHERE idvisit < '5000'";
    assert_eq!(one::<i64>(&mut db, past), 9);
}
