//! Several Matomos and several sessions at one table: what would collide is refused.

use fake_matomo::{Action, Fake, Visit};

use crate::cluster::shared;
use crate::ledger_keeping::{add_site, from, noon};
use crate::support::*;

const COLLIDES: &str = "idVisit is unique only within one Matomo";

#[test]
fn a_visit_of_another_site_with_the_same_id_is_refused() {
    let (noon, fake, mut db) = noon(3);
    sync(&mut db, &fake, &from(&noon, 2));
    let other = serve(Noon::new().world(0));
    add_site(&other, &noon, 2, 1022, 1);
    let before = (fingerprint(&mut db, "matomo"), fingerprint(&mut db, "matomo_ledger"));
    let failed = error(&mut db, &sync_sql(&other, 2, &from(&noon, 2)));
    let message = "destination \"public.matomo\" holds another visit 1022, of site 1";
    assert_says(&failed, "55000", message, &[], COLLIDES);
    assert_eq!((fingerprint(&mut db, "matomo"), fingerprint(&mut db, "matomo_ledger")), before);
    // Where the key tells sites apart, both have room.
    run(
        &mut db,
        "SELECT matomo_create_table('roomy'); ALTER TABLE roomy DROP CONSTRAINT roomy_pkey; CREATE UNIQUE INDEX ON roomy (idsite, action_id)",
    );
    let to_roomy = format!("{}, destination => 'roomy'", from(&noon, 2));
    sync(&mut db, &fake, &to_roomy);
    sync_site(&mut db, &other, 2, &to_roomy);
    let all: Vec<_> = all_of(&fake, 1).into_iter().chain(all_of(&other, 2)).collect();
    assert_equal(&mut db, "roomy", &all);
}

/// Another Matomo with a site 1 of its own: the same IDs, other visitors at other times.
fn another(noon: &Noon) -> Fake {
    let mut world = noon.world(3);
    for visit in &mut world.site_mut(1).visits {
        visit.visitor_id = format!("ffff{:012x}", visit.id);
        visit.first += 1;
        visit.last += 1;
        visit.actions.iter_mut().for_each(|action| action.at += 1);
    }
    serve(world)
}

#[test]
fn a_visit_of_another_matomos_same_site_is_refused() {
    for table in ["matomo", "matomo_partitioned"] {
        let (noon, fake, mut db) = noon(3);
        let other = another(&noon);
        let range = format!("{}, destination => '{table}'", from(&noon, 2));
        sync(&mut db, &fake, &range);
        let before = (fingerprint(&mut db, table), fingerprint(&mut db, "matomo_ledger"));
        let failed = error(&mut db, &sync_sql(&other, 1, &range));
        let message = format!(
            "destination \"public.{table}\" holds another visit 1021, of {}/index.php",
            fake.url()
        );
        assert_says(&failed, "55000", &message, &[], COLLIDES);
        assert_eq!((fingerprint(&mut db, table), fingerprint(&mut db, "matomo_ledger")), before);
        assert_equal(&mut db, table, &all_of(&fake, 1));
    }
}

#[test]
fn the_same_matomo_under_a_new_url_goes_on() {
    let (noon, fake, mut db) = noon(6);
    let silent = Visit::new(1049, noon.at(1, "07:00:00")).and(Action::page(
        noon.at(1, "07:00:00"),
        "/",
        "A",
    ));
    fake.world().site_mut(1).add(silent);
    sync(&mut db, &fake, &from(&noon, 5));
    let moved = serve(fake.world().clone());
    // One visit has grown, one has lost all its actions.
    let at = noon.at(0, "10:10:00");
    moved.world().site_mut(1).visit_mut(1003).push(Action::page(at, "/", "More"));
    moved.world().site_mut(1).visit_mut(1049).actions.clear();
    sync(&mut db, &moved, "");
    assert_eq!(asked(&moved)[1], format!("day {}", noon.text(2)));
    assert_equal(&mut db, "matomo", &all_of(&moved, 1));
}

#[test]
fn a_second_sync_at_once_is_refused_and_another_destination_is_not() {
    let (noon, fake, mut db) = noon(2);
    let mut second = shared().connect(&one::<String>(&mut db, "SELECT current_database()::text"));
    run(&mut db, "SELECT matomo_create_table('matomo')");
    run(&mut db, "BEGIN");
    sync(&mut db, &fake, &from(&noon, 1));
    let refused = error(&mut second, &sync_sql(&fake, 1, &from(&noon, 1)));
    let message = "site 1 is being synced into \"public.matomo\" by another session";
    assert_says(&refused, "55P03", message, &[], "pg_stat_activity");
    let apart = format!("{}, destination => 'matomo_partitioned'", from(&noon, 1));
    assert_eq!(sync(&mut second, &fake, &apart).inserted, 18);
    run(&mut db, "COMMIT");
    assert_eq!(sync(&mut second, &fake, &from(&noon, 1)).written(), 0);
}
