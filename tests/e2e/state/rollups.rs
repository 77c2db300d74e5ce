//! The days of a roll-up are those of rows of other sites.

use fake_matomo::{Clock, Fake, Plan, SitePlan, World};
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::noon::from;
use crate::support::restored::{FIRST, assert_resumes, copied};
use crate::support::sites::{serve_named, server};
use crate::support::*;

/// Days of site 1 in the table `visits`, copied by its roll-up, 3.
fn rolled_up(db: &mut Client, days: u64) -> (Noon, Fake) {
    let noon = Noon::new();
    let mut world = noon.world(days);
    add_rollup(&mut world, 3, &noon.zone, &[1]);
    let fake = serve(world);
    run(db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    run(db, "SELECT matomo_create_table('visits')");
    let arguments = format!("{}, destination => 'visits'", from(&noon, days - 1));
    sync_site(db, &fake, 3, &arguments);
    (noon, fake)
}

#[test]
fn rows_of_a_site_are_not_dropped_while_its_rollup_stores_them() {
    let (name, mut db) = named_database();
    let (noon, fake) = rolled_up(&mut db, 20);
    // So that it stores them anew.
    for table in four("visits") {
        run(&mut db, &format!("DELETE FROM {table} WHERE idvisit > 1090"));
    }
    run(&mut db, "BEGIN");
    let again = format!("{}, destination => 'visits', force => true", from(&noon, 19));
    sync_site(&mut db, &fake, 3, &again);
    let mut other = shared().connect(&name);
    let drop = "CALL matomo_drop_before('visits', now() - interval '10 days', site => 1, patience => '0.3 s')";
    let refused = error(&mut other, drop);
    let holder = format!("Held by process {}", pid(&mut db));
    assert_says(&refused, "55P03", "could not obtain lock on public.visits", &[&holder], "");
    run(&mut db, "COMMIT");
    run(&mut other, drop);
    let old = "SELECT count(*) FROM visits WHERE action_timestamp < now() - interval '10 days'";
    assert_eq!(one::<i64>(&mut other, old), 0);
}

#[test]
fn a_day_of_a_rollup_that_keeps_a_row_is_not_sealed_as_empty() {
    let mut db = database();
    let (noon, fake) = rolled_up(&mut db, 4);
    run(
        &mut db,
        "CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER keeps BEFORE DELETE ON visits FOR EACH ROW WHEN (OLD.action_id = '1022_1') EXECUTE FUNCTION keeps()",
    );
    let midnight = chrono::DateTime::from_timestamp(noon.at(1, "00:00:00"), 0).unwrap();
    let drop = format!("CALL matomo_drop_before('visits', '{}')", midnight.to_rfc3339());
    let failed = error(&mut db, &drop);
    assert_eq!(failed.message(), "old rows of public.visits are not deleted");
    let lines = ledger(&mut db, "visits");
    assert_eq!(lines[0], format!("3 {} sealed 0 0 0", noon.text(3)));
    assert!(!lines[1].ends_with("sealed 0 0 0"), "{lines:?}");
    run(&mut db, "DROP TRIGGER keeps ON visits");
    run(&mut db, &drop);
    assert_eq!(ledger(&mut db, "visits")[1], format!("3 {} sealed 0 0 0", noon.text(2)));
    assert_eq!(
        sync_site(&mut db, &fake, 3, &format!("{}, destination => 'visits'", from(&noon, 3)))
            .written(),
        0
    );
}

#[test]
fn days_of_a_rollup_are_not_read_again_after_a_restore() {
    let mut world = World::generate(&Plan {
        seed: 42,
        sites: vec![SitePlan::new(1, "UTC", 10), SitePlan::new(2, "UTC", 10)],
        first_day: day(FIRST),
        last_day: day("2026-10-28"),
        now: Clock::Real,
    });
    add_rollup(&mut world, 3, "UTC", &[1, 2]);
    let fake = serve(world);
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    run(&mut db, &format!("SELECT matomo_add_site('analytics', 3, '{FIRST}')"));
    run(&mut db, "CALL matomo_sync_all()");
    let days = "SELECT format('%s %s %s', day, visits, sealed) FROM matomo_days ORDER BY 1 LIMIT 5";
    let before = texts(&mut db, days);
    let mut new = copied(&name, "rolled_up", &[]);
    assert_resumes(&mut new, &fake);
    assert_eq!(texts(&mut new, days), before);
    // It is no roll-up any more, which the restored description does not know.
    let mut new = copied(&name, "rolled_back", &[]);
    fake.world().site_mut(3).kind = "website".to_owned();
    fake.world().site_mut(3).children.clear();
    sync_site(&mut new, &fake, 3, ", '2026-10-28', force => true");
    run(&mut new, "CALL matomo_drop_before('matomo', now() - interval '1 day', 3)");
}

#[test]
fn names_of_the_sites_of_a_rollup_can_be_read_without_registering_them() {
    let fake = serve_named();
    {
        let mut world = fake.world();
        for id in [1, 2] {
            let visits = &mut world.site_mut(id).visits;
            let actions = visits.iter_mut().flat_map(|visit| &mut visit.actions);
            actions.for_each(|action| action.dimensions = vec![(3, Some("third".to_owned()))]);
        }
        add_rollup(&mut world, 3, "UTC", &[1]);
    }
    let mut db = database();
    for site in [2, 3] {
        sync_site(&mut db, &fake, site, &format!(", '{FIRST}'"));
    }
    let refresh = |site: i64| {
        let (url, token) = (fake.url(), fake.token());
        format!("SELECT name FROM matomo_refresh_metadata({site}, '{url}', '{token}', 'matomo');")
    };
    let view = "SELECT matomo_create_named_views('matomo');";
    run(&mut db, &format!("{}{}{view}", refresh(2), refresh(3)));
    let named = "SELECT concat_ws(' ', idsite, count(*) > 0, count(author) > 0) FROM matomo_named GROUP BY idsite ORDER BY 1";
    assert_eq!(texts(&mut db, named), ["1 t f", "2 t t"]);
    run(&mut db, &format!("{}{view}", refresh(1)));
    let named = "SELECT DISTINCT section FROM matomo_named WHERE idsite = 1";
    assert_eq!(texts(&mut db, named), ["third"]);
}

#[test]
fn days_of_a_rollup_that_a_repair_has_filled_are_not_sealed_as_empty() {
    let noon = Noon::new();
    let mut world = noon.world(3);
    add_rollup(&mut world, 3, &noon.zone, &[1]);
    let fake = serve(world);
    let mut db = database();
    run(&mut db, "SELECT matomo_create_table('visits')");
    let repair = format!(
        "SELECT FROM matomo_check(3, '{}', '{}', '{}', '{}', 'visits', repair => true)",
        noon.text(2),
        noon.text(1),
        fake.url(),
        fake.token()
    );
    run(&mut db, &repair);
    let before = ledger(&mut db, "visits");
    assert_eq!(before.len(), 2);
    let refused = error(&mut db, "CALL matomo_drop_before('visits', now(), site => 3)");
    assert_eq!(refused.code().code(), "22023", "{refused:?}");
    assert_eq!(ledger(&mut db, "visits"), before);
}
