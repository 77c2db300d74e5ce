//! Names and new sites, read by the background worker.

use fake_matomo::{Fault, Goal, Site, When};

use crate::support::worker::*;
use crate::support::*;

const NAMES: &str =
    "SELECT name FROM matomo_goals WHERE deleted_at IS NULL ORDER BY idsite, goalid";

#[test]
fn the_worker_reads_names_and_registers_new_sites_once_a_day() {
    let (_cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    fake.world().site_mut(1).goals = vec![Goal::new(1, "Contact")];
    store(&mut db, "analytics", &fake);
    run(&mut db, "SELECT matomo_add_sites('analytics', every => '1 s', new_sites => true)");
    wait_long(30, "names are read", || texts(&mut db, NAMES) == ["Contact"]);
    let site = Site { goals: vec![Goal::new(1, "Order")], ..Site::new(2, "Second", "UTC") };
    fake.world().add_site(site);
    fake.world().site_mut(1).goals[0].name = "Talk".to_owned();
    let runs_now = runs(&mut db, 1, "succeeded");
    wait_long(30, "polls go on", || runs(&mut db, 1, "succeeded") > runs_now + 1);
    assert_eq!(texts(&mut db, NAMES), ["Contact"]);
    run(&mut db, "UPDATE matomo_site_state SET metadata_on = metadata_on - 1");
    wait_long(30, "the next day's are read", || texts(&mut db, NAMES) == ["Talk", "Order"]);
    assert_eq!(
        texts(
            &mut db,
            "SELECT concat_ws(' ', idsite, name, every, new_sites) FROM matomo_sites ORDER BY id"
        ),
        ["1 Noon 00:00:01 t", "2 Second 00:00:01 f"]
    );
}

#[test]
fn names_that_do_not_come_hold_up_no_visits() {
    let (_cluster, mut db) = cluster_with_worker();
    set(&mut db, "matomo.request_timeout", "1s");
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    fake.fail(Fault::Hang, When::always().method("Goals.getGoals"));
    store(&mut db, "analytics", &fake);
    let site = register(&mut db, &format!("'analytics', 1, '{}', every => '1 s'", noon.text(1)));
    let told = "SELECT concat_ws(' ', failures, metadata_error) FROM matomo_status";
    wait_long(30, "it is told", || texts(&mut db, told) == ["0 Matomo did not answer within 1 s"]);
    let before = runs(&mut db, site, "succeeded");
    wait_long(30, "polls go on", || runs(&mut db, site, "succeeded") > before + 1);
    assert_eq!(runs(&mut db, site, "failed"), 0);
    let (first, last) = (noon.text(1), noon.text(0));
    assert_tables_equal(&mut db, "matomo", &tables_between(&fake, 1, &first, &last));
    let asked = fake.requests().iter().filter(|seen| seen.method == "Goals.getGoals").count();
    assert_eq!(asked, 1);
}

#[test]
fn a_reading_that_ends_its_process_is_not_tried_again_the_same_day() {
    let (_cluster, mut db) = cluster_with_worker();
    let noon = Noon::new();
    let fake = serve(noon.world(2));
    fake.fail(Fault::Hang, When::always().method("Goals.getGoals"));
    store(&mut db, "analytics", &fake);
    let site = register(&mut db, &format!("'analytics', 1, '{}', every => '1 s'", noon.text(1)));
    let asked = || fake.requests().iter().filter(|seen| seen.method == "Goals.getGoals").count();
    wait_long(30, "it is asked for", || asked() == 1);
    let process = process_of(&mut db, site).unwrap();
    run(&mut db, &format!("SELECT pg_terminate_backend({process})"));
    let before = runs(&mut db, site, "succeeded");
    wait_long(30, "polls go on", || runs(&mut db, site, "succeeded") > before + 1);
    let told = "SELECT concat_ws(' ', failures, metadata_error) FROM matomo_status";
    assert_eq!(texts(&mut db, told), ["0 the reading of names was interrupted"]);
    assert_eq!(asked(), 1);
}
