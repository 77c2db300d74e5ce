//! A roll-up lists the visits of other sites.

use fake_matomo::{Clock, Fake, Fault, Page, Plan, SitePlan, When, World};
use postgres::Client;

use crate::support::case::TABLES;
use crate::support::cluster::shared;
use crate::support::*;

const FIRST: &str = "2026-10-22";
const LAST: &str = "2026-10-28";

/// The idSite of the roll-up.
const ROLLUP: i32 = 10;

/// Sites 1 and 2, and their roll-up, in these timezones. The clocks of Paris change amid the days.
fn matomo([first, second, rollup]: [&str; 3]) -> Fake {
    let site = |id, zone| SitePlan { ecommerce: true, ..SitePlan::new(id, zone, 10) };
    let mut world = World::generate(&Plan {
        seed: 41,
        sites: vec![site(1, first), site(2, second)],
        first_day: day("2026-10-24"),
        last_day: day("2026-10-26"),
        now: Clock::Real,
    });
    add_rollup(&mut world, ROLLUP, rollup, &[1, 2]);
    serve(world)
}

const ZONES: [&str; 3] = ["Europe/Paris", "America/Los_Angeles", "UTC"];

fn of_site<'a>(fake: &Fake, site: i32, table: &'a str) -> Sync<'a> {
    Sync { site, ..Sync::of(fake, FIRST, LAST).into(table).pages_of(7) }
}

/// A check of the roll-up.
fn check(fake: &Fake, table: &str, arguments: &str) -> String {
    let (url, token) = (fake.url(), fake.token());
    format!("matomo_check({ROLLUP}, '{FIRST}', '{LAST}', '{url}', '{token}', '{table}'{arguments})")
}

/// Asserts that two destinations and their companions have the same rows.
fn assert_same(db: &mut Client, one_table: &str, other: &str) {
    for (one_of, other) in four(one_table).iter().zip(four(other)) {
        for (these, those) in [(one_of, &other), (&other, one_of)] {
            let sql = format!(
                "SELECT to_jsonb(x)::text FROM (TABLE {these} EXCEPT ALL TABLE {those} LIMIT 2) x"
            );
            assert_eq!(texts(db, &sql), [""; 0], "only in {these}");
        }
        assert!(one::<i64>(db, &format!("SELECT count(*) FROM {one_of}")) > 0);
    }
}

#[test]
fn visits_of_a_rollup_have_the_times_and_days_of_their_own_sites() {
    for action_time in ["utc", "as_sent"] {
        for [single, rolled] in [TABLES, [TABLES[1], TABLES[0]]] {
            let (fake, mut db) = (matomo(ZONES), database());
            run(&mut db, &format!("SET matomo.action_time = '{action_time}'"));
            for site in [1, 2] {
                of_site(&fake, site, single).run(&mut db);
            }
            of_site(&fake, ROLLUP, rolled).run(&mut db);
            assert_same(&mut db, single, rolled);
            // Beside its sites it has nothing to write.
            assert_eq!(of_site(&fake, ROLLUP, single).run(&mut db).written(), 0);
            for arguments in ["", ", deep => true"] {
                let check = check(&fake, rolled, arguments);
                let sql = format!("SELECT sum(missing + extra + stale)::bigint FROM {check}");
                assert_eq!(one::<i64>(&mut db, &sql), 0, "{action_time} {rolled} {arguments}");
            }
        }
    }
}

#[test]
fn the_sites_of_a_rollup_are_asked_for_once_in_a_sync() {
    let (fake, mut db) = (matomo(ZONES), database());
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.fetch_workers = 4");
    of_site(&fake, ROLLUP, "matomo").run(&mut db);
    let requests = fake.requests();
    let of = |method: &str| requests.iter().filter(|seen| seen.method == method).count();
    assert_eq!(of("SitesManager.getSitesWithAtLeastViewAccess"), 1);
    // Of the roll-up itself.
    assert_eq!(of("SitesManager.getSiteFromId"), 1);
}

#[test]
fn a_failure_to_tell_the_sites_of_a_rollup_is_retried_while_all_threads_wait() {
    let (fake, mut db) = (matomo(ZONES), database());
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.fetch_workers = 4");
    let list = When::always().method("SitesManager.getSitesWithAtLeastViewAccess");
    fake.fail(Fault::Status(503, Page::Html), list.times(2));
    of_site(&fake, ROLLUP, "matomo").run(&mut db);
    assert_equal(&mut db, "matomo", &[all_of(&fake, 1), all_of(&fake, 2)].concat());
}

/// Matomo shows a roll-up also to users who may not see its sites.
#[test]
fn a_token_that_may_not_see_the_sites_of_a_rollup_copies_none_of_its_visits() {
    let (fake, mut db) = (matomo(ZONES), database());
    fake.knobs().hidden_sites.extend([1, 2]);
    let refused = of_site(&fake, ROLLUP, "matomo").error(&mut db);
    let detail = "Method SitesManager.getSiteFromId, site ";
    assert_says(&refused, "28000", "the token has no access to the site", &[detail], "view access");
}

#[test]
fn a_check_of_a_rollup_says_that_it_does_not_look_for_extra_visits() {
    let fake = matomo(ZONES);
    let name = shared().database();
    let (mut db, said) = connect_with_notices(shared(), &name, "postgres");
    of_site(&fake, ROLLUP, "matomo").run(&mut db);
    let id = fake.world().site(1).visits[0].id;
    fake.world().site_mut(1).delete(id);
    said.warnings();
    let extra = |site: i32| {
        let check = check(&fake, "matomo", "").replacen("(10,", &format!("({site},"), 1);
        format!("SELECT sum(extra)::bigint FROM {check}")
    };
    assert_eq!(one::<i64>(&mut db, &extra(ROLLUP)), 0);
    let warnings = said.warnings();
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    let message = "visits that Matomo no longer has are not looked for: site 10 is a roll-up";
    assert_says(warning, "01000", message, &[], "Check the sites");
    assert_eq!(one::<i64>(&mut db, &extra(1)), 1);
    assert!(said.warnings().is_empty());
}
