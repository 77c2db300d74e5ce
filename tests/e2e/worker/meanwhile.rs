//! What other sessions do between the steps of a run.

use crate::support::cluster::shared;
use crate::support::sites::many::*;
use crate::support::sites::*;
use crate::support::*;

/// A run of registered site 1 that has made a step, with more to follow.
fn begun(seed: u64) -> (fake_matomo::Fake, String, postgres::Client, i32) {
    let fake = serve(sites(seed, 1));
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    let site = add_site(&mut db, START);
    run(&mut db, "SET matomo.fetch_workers = 1; SET lock_timeout = '200 ms'");
    for _ in ["the run begins", "its first step"] {
        assert!(step(&mut db, site));
    }
    assert_eq!(status(&mut db), ["running"]);
    (fake, name, db, site)
}

/// One step of `CALL matomo_sync_site`; whether more follow.
fn step(db: &mut postgres::Client, site: i32) -> bool {
    run(db, &step_sql(site));
    one(db, "SELECT current_setting('t.more')::boolean")
}

fn step_sql(site: i32) -> String {
    format!(
        "DO $$ BEGIN PERFORM set_config('t.more', matomo_run_step({site}, false)::text, false); END $$"
    )
}

fn status(db: &mut postgres::Client) -> Vec<String> {
    texts(db, "SELECT status FROM matomo_runs")
}

const STATE: &str =
    "SELECT concat_ws(' ', failures, next_at <= now(), last_error) FROM matomo_site_state";

#[test]
fn a_run_that_another_session_keeps_from_going_on_waits_and_has_not_failed() {
    let (fake, name, mut db, site) = begun(436);
    let mut other = shared().connect(&name);
    run(&mut other, "BEGIN; SELECT matomo_drop_step('matomo', '2000-01-01', NULL, '1 s', NULL)");
    while step(&mut db, site) {}
    assert_eq!(status(&mut db), ["paused"]);
    assert_eq!(texts(&mut db, STATE), ["0 f"]);
    run(&mut other, "COMMIT");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(status(&mut db), ["succeeded"]);
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

#[test]
fn a_run_does_not_wait_for_a_change_of_its_site_to_note_the_timezone() {
    let fake = serve(sites(437, 1));
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    let site = add_site(&mut db, START);
    run(&mut db, "UPDATE matomo_site_config SET timezone = 'UTC'; SET lock_timeout = '200 ms'");
    let mut other = shared().connect(&name);
    run(&mut other, "BEGIN; UPDATE matomo_site_config SET every = '1 day'");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    run(&mut other, "COMMIT");
    let timezone = "SELECT timezone FROM matomo_site_config";
    assert_eq!(one::<String>(&mut db, timezone), "UTC");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(one::<String>(&mut db, timezone), "Europe/Paris");
}

#[test]
fn a_run_from_before_a_change_of_its_site_is_no_failure_of_the_site() {
    let (_fake, name, mut db, site) = begun(438);
    let mut other = shared().connect(&name);
    run(
        &mut other,
        &format!(
            "SELECT matomo_alter_site({site}, start_date => '2026-10-01');
             ALTER TABLE matomo ADD CHECK (false) NOT VALID"
        ),
    );
    let failed = loop {
        if let Err(error) = db.batch_execute(&step_sql(site)) {
            break error;
        }
    };
    assert_eq!(failed.code().map(postgres::error::SqlState::code), Some("23514"));
    assert_eq!(status(&mut db), ["failed"]);
    assert_eq!(texts(&mut db, STATE), ["0 t"]);
}
