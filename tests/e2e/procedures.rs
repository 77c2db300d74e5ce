//! `CALL matomo_sync_site` and `CALL matomo_sync_all`: they commit as they go, and what happens when
//! something fails on the way.

use std::time::Duration;

use fake_matomo::{Clock, Fault, Plan, SitePlan, When, World};

use crate::cluster::shared;
use crate::stored::*;
use crate::support::*;

const FIRST: &str = "2026-10-19";
const LAST: &str = "2026-10-30";
const START: &str = ", start_date => '2026-10-19'";

fn sites(seed: u64, count: i64) -> World {
    World::generate(&Plan {
        seed,
        sites: (1..=count).map(|id| SitePlan::new(id, "Europe/Paris", 20)).collect(),
        first_day: day(FIRST),
        last_day: day(LAST),
        now: Clock::Real,
    })
}

#[test]
fn a_site_is_copied_day_by_day_and_each_is_committed() {
    let fake = serve(sites(101, 1));
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    let site = add_site(&mut db, START);
    let sealed = |db: &mut postgres::Client| -> i64 {
        one(db, "SELECT count(*) FROM matomo_days WHERE sealed")
    };
    let seen = look_before_each(&fake, shared().connect(&name), sealed);
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    fake.clear_before_each();
    let seen: Vec<_> =
        seen.iter().map(|(asked, days)| (asked.param("date").to_owned(), days)).collect();
    assert_eq!(seen[0], ("2026-10-19,2026-10-19".to_owned(), 0));
    assert_eq!(seen[7], ("2026-10-26,2026-10-26".to_owned(), 7));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    let days = seen.len();
    assert_eq!(
        runs(&mut db, site)[0].split(' ').take(2).collect::<Vec<_>>(),
        ["succeeded", &days.to_string()]
    );
    // The next one polls: today, in one request, and yesterday if it has not settled.
    fake.clear_requests();
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let asked = asked(&fake);
    assert!(asked.len() <= 2 && asked.iter().all(|line| line.starts_with("day ")), "{asked:?}");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_run_asks_for_the_site_once_and_keeps_its_connection() {
    let fake = serve(sites(102, 1));
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, START);
    fake.clear_requests();
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let requests = fake.requests();
    assert_eq!(
        requests.iter().filter(|seen| seen.method == "SitesManager.getSiteFromId").count(),
        1
    );
    assert!(requests.len() > 12);
    let asked = asked(&fake);
    let mut distinct = asked.clone();
    distinct.dedup();
    assert_eq!(asked, distinct, "a day is asked for twice");
}

#[test]
fn several_days_make_a_step_where_several_are_fetched_at_once() {
    let fake = serve(sites(103, 1));
    fake.knobs().latency = Duration::from_millis(20);
    let mut db = database();
    server(&mut db, &fake);
    run(&mut db, "ALTER SERVER analytics OPTIONS (ADD fetch_workers '4')");
    let site = add_site(&mut db, START);
    fake.clear_requests();
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(fake.peak_requests(), 4);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_large_day_takes_several_steps_and_counts_once() {
    let mut world = world(104, "Europe/Paris", 150, "2026-10-24", "2026-10-25");
    // Visits of one second, more than a page: no step ends among them.
    let at = instant("2026-10-24T10:00:00Z");
    for _ in 0..12 {
        let id = world.next_visit_id();
        let page = fake_matomo::Action::page(at, "https://ties.test/", "Tie");
        world.site_mut(1).add(fake_matomo::Visit::new(id, at).and(page));
    }
    let fake = serve(world);
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    let site = add_site(&mut db, ", start_date => '2026-10-24'");
    run(&mut db, "SET matomo.page_size = 10; SET matomo.step_pages = 2");
    // What the ledger says after each commit.
    let seen = look_before_each(&fake, shared().connect(&name), |db| {
        ledger(db, "matomo").into_iter().find(|line| line.starts_with("1 2026-10-24"))
    });
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    fake.clear_before_each();
    let mut seen: Vec<_> = seen.iter().filter_map(|(_, line)| line).collect();
    seen.dedup();
    assert!(seen.len() > 5, "{seen:?}");
    assert!(seen[..seen.len() - 1].iter().all(|line| line.contains(" open ")), "{seen:?}");
    assert!(seen.last().unwrap().contains(" sealed "), "{seen:?}");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    // As if it had been one step.
    let in_steps = ledger(&mut db, "matomo");
    let totals = "SELECT concat_ws(' ', visits, actions, truncated_visits) FROM matomo_runs WHERE site_id = ";
    let run_totals: String = one(&mut db, &format!("{totals} {site}"));
    let mut whole = database();
    sync(&mut whole, &fake, ", start_date => '2026-10-24'");
    assert_eq!(in_steps, ledger(&mut whole, "matomo"));
    let sums: String = one(
        &mut whole,
        "SELECT concat_ws(' ', sum(visits), sum(actions), sum(truncated_visits)) FROM matomo_days",
    );
    assert_eq!(run_totals, sums);
    // Nothing of the way is kept.
    assert_eq!(
        one::<i64>(
            &mut db,
            "SELECT count(*) FROM matomo_ledger WHERE num_nonnulls(pass_began, pass_since, pass_seen) > 0"
        ),
        0
    );
}

#[test]
fn a_visit_met_in_two_steps_of_a_day_counts_once() {
    let fake = serve(world(105, "Europe/Paris", 60, "2026-10-24", "2026-10-24"));
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, ", start_date => '2026-10-24'");
    run(&mut db, "SET matomo.page_size = 10; SET matomo.step_pages = 1");
    // A late hit moves the first visit behind all others once it has been met.
    let calls = std::sync::atomic::AtomicUsize::new(0);
    fake.before_each(Box::new(move |world, _| {
        if calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 3 {
            let at = instant("2026-10-24T21:59:00Z");
            let site = world.site_mut(1);
            let first =
                site.visits_of(day("2026-10-24")).iter().min_by_key(|visit| visit.last).unwrap().id;
            site.visit_mut(first).push(fake_matomo::Action::page(at, "https://late.test/", "Late"));
        }
    }));
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    fake.clear_before_each();
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    let mut whole = database();
    sync(&mut whole, &fake, ", start_date => '2026-10-24'");
    assert_eq!(ledger(&mut db, "matomo"), ledger(&mut whole, "matomo"));
}

#[test]
fn days_that_are_looked_back_at_are_read_once_a_run() {
    let fake = serve(sites(106, 1));
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, START);
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    fake.clear_requests();
    run(
        &mut db,
        "SET matomo.lookback = 1000; SET matomo.page_size = 6; SET matomo.step_pages = 1; SET matomo.fetch_workers = 3",
    );
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let days = |asked: &[String]| {
        let firsts: Vec<_> = asked
            .iter()
            .filter(|line| line.starts_with("day") && !line.contains("after"))
            .cloned()
            .collect();
        let mut distinct = firsts.clone();
        distinct.sort();
        distinct.dedup();
        (firsts.len(), distinct.len())
    };
    let (begun, distinct) = days(&asked(&fake));
    assert!(distinct > 12);
    assert_eq!(begun, distinct);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_procedure_that_cannot_commit_says_so_at_once() {
    let fake = serve(sites(107, 1));
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, START);
    fake.clear_requests();
    let hint = "It commits as it goes. matomo_sync runs in a transaction.";
    run(&mut db, "CREATE PROCEDURE wrapped() LANGUAGE plpgsql AS 'BEGIN CALL matomo_sync_all(); END';
                  CREATE FUNCTION within() RETURNS void LANGUAGE plpgsql AS 'BEGIN CALL matomo_sync_all(); END'");
    for (call, name) in [
        ("matomo_sync_all()".to_owned(), "matomo_sync_all()"),
        (format!("matomo_sync_site({site})"), "matomo_sync_site()"),
    ] {
        run(&mut db, "BEGIN");
        let refused = error(&mut db, &format!("CALL {call}"));
        run(&mut db, "ROLLBACK");
        let message = format!("{name} cannot run inside a transaction block");
        assert_says(&refused, "25001", &message, &[], hint);
    }
    let refused = error(&mut db, "SELECT within()");
    assert_says(
        &refused,
        "25001",
        "matomo_sync_all() cannot be executed from a function",
        &[],
        hint,
    );
    assert_eq!(asked(&fake), [""; 0]);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_runs"), 0);
    // Where it can, it does.
    run(&mut db, "CALL wrapped()");
    run(&mut db, "DO $$ BEGIN CALL matomo_sync_all(); END $$");
    assert_eq!(
        one::<i64>(&mut db, "SELECT count(*) FROM matomo_runs WHERE status = 'succeeded'"),
        2
    );
}

#[test]
fn a_site_that_fails_does_not_keep_the_next_from_its_turn() {
    let fake = serve(sites(108, 3));
    let name = shared().database();
    let (mut db, said) = connect_with_notices(shared(), &name, "postgres");
    server(&mut db, &fake);
    run(&mut db, "SET matomo.max_retries = 0");
    for site in 1..=3 {
        run(
            &mut db,
            &format!("SELECT matomo_add_site('analytics', {site}, start_date => '2026-10-19')"),
        );
    }
    fake.fail(
        Fault::Html,
        When::live().param("idSite", "2").param("date", "2026-10-22,2026-10-22"),
    );
    run(&mut db, "CALL matomo_sync_all()");
    let warnings = said.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_says(
        &warnings[0],
        "08P01",
        "registered site 2: the answer of Matomo is not JSON but an HTML page with the title \"Sign in\"",
        &["Method Live.getLastVisitsDetails, site 2 at", "day 2026-10-22, HTTP status 200."],
        "Check that the URL is that of a Matomo",
    );
    for site in [1, 3] {
        let copied = "SELECT count(*) FROM matomo WHERE idsite = ";
        let all = i64::try_from(all_of(&fake, site).len()).unwrap();
        assert_eq!(one::<i64>(&mut db, &format!("{copied} '{site}'")), all);
    }
    assert_eq!(runs(&mut db, 1)[0].split(' ').next(), Some("succeeded"));
    // The days before the failure are there to stay.
    assert!(runs(&mut db, 2)[0].starts_with("failed 3 "), "{:?}", runs(&mut db, 2));
    let sealed = "SELECT string_agg(day::text, ' ' ORDER BY day) FROM matomo_days WHERE idsite = 2";
    assert_eq!(one::<String>(&mut db, sealed), "2026-10-19 2026-10-20 2026-10-21");
    let noted: String = one(
        &mut db,
        "SELECT concat_ws(' | ', sqlstate, return_message, detail, hint) FROM matomo_runs WHERE site_id = 2",
    );
    assert_eq!(noted.split(" | ").count(), 4, "{noted}");
    // By itself the site raises its error, once that is noted.
    let failed = error(&mut db, "CALL matomo_sync_site(2)");
    assert_says(
        &failed,
        "08P01",
        "the answer of Matomo is not JSON but an HTML page with the title \"Sign in\"",
        &["day 2026-10-22"],
        "Check that the URL",
    );
    assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status WHERE site_id = 2"), 2);
    assert_eq!(runs(&mut db, 2).len(), 2);
    // And it goes on where it stood.
    fake.heal();
    fake.clear_requests();
    run(&mut db, "CALL matomo_sync_all()");
    let asked = asked(&fake);
    assert!(asked.iter().any(|line| line == "day 2026-10-22"));
    assert!(!asked.iter().any(|line| line == "day 2026-10-21"));
    let mut all = all_of(&fake, 1);
    all.extend(all_of(&fake, 2));
    all.extend(all_of(&fake, 3));
    assert_equal(&mut db, "matomo", &all);
    let state = "SELECT concat_ws(' ', failures, last_sqlstate, last_success_at > last_error_at) FROM matomo_site_state WHERE site_id = 2";
    assert_eq!(one::<String>(&mut db, state), "0 08P01 t");
}

#[test]
fn a_refused_token_is_asked_with_once() {
    let fake = serve(sites(109, 2));
    let name = shared().database();
    let (mut db, said) = connect_with_notices(shared(), &name, "postgres");
    server(&mut db, &fake);
    run(&mut db, "SELECT matomo_add_site('analytics', 1, start_date => '2026-10-19')");
    run(
        &mut db,
        "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token 'revoked')",
    );
    fake.clear_requests();
    run(&mut db, "CALL matomo_sync_all()");
    let refused = said.warnings();
    assert_says(
        &refused[0],
        "28000",
        "registered site 1: Matomo refused the token",
        &[],
        "some 18 refused tokens",
    );
    assert_eq!(asked(&fake).len(), 1);
    let next: String = one(&mut db, "SELECT next_run::text FROM matomo_status");
    assert_eq!(next, "infinity");
    for _ in 0..3 {
        run(&mut db, "CALL matomo_sync_all()");
        assert_says(
            &said.warnings()[0],
            "28000",
            "registered site 1: Matomo has refused the token for server \"analytics\" before",
            &[
                "It is not asked with the same token again: after some 18 refused tokens Matomo locks out this server's address.",
            ],
            "Mend it with ALTER USER MAPPING FOR postgres SERVER analytics OPTIONS (SET token '...'); or, if the token is good now, have it tried again with SELECT matomo_alter_site(1).",
        );
    }
    assert_eq!(error(&mut db, "CALL matomo_sync_site(1)").code().code(), "28000");
    assert_eq!(asked(&fake), [""; 0]);
    assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status"), 5);
    // Another wrong one is asked with once, too.
    run(
        &mut db,
        "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token 'mistyped')",
    );
    run(&mut db, "CALL matomo_sync_all()");
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(asked(&fake).len(), 1);
    // By hand it is tried again, and a good one is found out at once.
    run(&mut db, "SELECT matomo_alter_site(1)");
    assert_eq!(error(&mut db, "CALL matomo_sync_site(1)").message(), "Matomo refused the token");
    assert_eq!(asked(&fake).len(), 1);
    run(
        &mut db,
        &format!(
            "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token '{}')",
            fake.token()
        ),
    );
    run(&mut db, "CALL matomo_sync_all()");
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert_eq!(one::<i32>(&mut db, "SELECT failures FROM matomo_status"), 0);
}

#[test]
fn a_site_that_is_being_synced_is_skipped() {
    let fake = serve(sites(110, 2));
    let name = shared().database();
    let (mut db, said) = connect_with_notices(shared(), &name, "postgres");
    server(&mut db, &fake);
    let hung = add_site(&mut db, START);
    run(&mut db, "SELECT matomo_add_site('analytics', 2, start_date => '2026-10-19')");
    let skipped =
        format!("matomo: registered site {hung} is being synced by another session, skipped");
    for other in [
        "CALL matomo_sync_all()",
        "SELECT matomo_sync(1, server => 'analytics', start_date => '2026-10-19')",
    ] {
        fake.fail(Fault::Hang, When::live().param("idSite", "1").times(1));
        fake.clear_requests();
        let mut first = shared().connect(&name);
        let token = first.cancel_token();
        std::thread::scope(|scope| {
            let hanging = scope.spawn(|| first.batch_execute(other).unwrap_err());
            wait_until("the first one hangs", || {
                fake.requests().iter().any(|seen| seen.fault.is_some())
            });
            let before = one::<i64>(&mut db, "SELECT count(*) FROM matomo_runs");
            run(&mut db, "CALL matomo_sync_all()");
            assert_eq!(said.notices_of("skipped"), [skipped.clone()]);
            assert_eq!(said.warnings().len(), 0);
            // The other site had its turn, and the skipped one no run.
            assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_runs"), before + 1);
            run(&mut db, &format!("CALL matomo_sync_site({hung})"));
            assert_eq!(said.notices_of("skipped"), [skipped.clone()]);
            token.cancel_query(postgres::NoTls).unwrap();
            assert_eq!(hanging.join().unwrap().code().unwrap().code(), "57014");
        });
        fake.heal();
    }
    assert_eq!(
        one::<i32>(&mut db, &format!("SELECT failures FROM matomo_status WHERE site_id = {hung}")),
        1
    );
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(said.notices_of("skipped"), [""; 0]);
    let mut all = all_of(&fake, 1);
    all.extend(all_of(&fake, 2));
    assert_equal(&mut db, "matomo", &all);
}

#[test]
fn disabled_sites_are_left_out_unless_they_are_named() {
    let fake = serve(sites(111, 2));
    let mut db = database();
    server(&mut db, &fake);
    let site = add_site(&mut db, ", start_date => '2026-10-19', enabled => false");
    fake.clear_requests();
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(asked(&fake), [""; 0]);
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert_says(
        &error(&mut db, "CALL matomo_sync_site(99)"),
        "42704",
        "registered site 99 does not exist",
        &[],
        "matomo_sites",
    );
    assert_says(
        &error(&mut db, "CALL matomo_sync_site(NULL)"),
        "22004",
        "argument \"id\" must not be null",
        &[],
        "",
    );
}

#[test]
fn a_site_whose_table_or_server_or_owner_is_gone_says_so() {
    let fake = serve(sites(112, 1));
    let (name, mut admin, owner) = database_and_role();
    server_for(&mut admin, &fake, &owner);
    let mut db = connect_as(&name, &owner);
    let site = add_site(&mut db, START);
    run(&mut db, "DROP TABLE matomo");
    let call = format!("CALL matomo_sync_site({site})");
    assert_says(
        &error(&mut db, &call),
        "42P01",
        &format!("the destination of registered site {site} does not exist any more"),
        &[],
        &format!(
            "Give it another one with SELECT matomo_alter_site({site}, destination => '...'), or remove it with matomo_remove_site."
        ),
    );
    run(&mut db, &format!("SELECT matomo_alter_site({site}, destination => 'matomo')"));
    run(&mut admin, &format!("REVOKE USAGE ON FOREIGN SERVER analytics FROM {owner}"));
    assert_eq!(error(&mut db, &call).message(), "permission denied for foreign server analytics");
    run(&mut admin, "DROP SERVER analytics CASCADE");
    assert_eq!(error(&mut db, &call).message(), "server \"analytics\" does not exist");
    drop(db);
    run(&mut admin, &format!("DROP OWNED BY {owner}; DROP ROLE {owner}"));
    assert_says(
        &error(&mut admin, &call),
        "42704",
        &format!("the owner of registered site {site} does not exist any more"),
        &[],
        &format!("Give it another one with SELECT matomo_alter_site({site}, owner => '...')."),
    );
    run(&mut admin, &format!("SELECT matomo_remove_site({site})"));
}
