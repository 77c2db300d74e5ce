//! Concurrent steps of retention and runs: neither fails, and each resumes where it was.

use crate::support::sites::*;
use crate::support::*;

const STEP: &str = "SELECT concat_ws(' ', more, actions, blocked), place::text
    FROM matomo_drop_step('matomo', '2026-10-26', NULL, '1 second', PLACE)";

#[test]
fn a_run_that_meets_a_step_is_skipped_and_has_not_failed() {
    let fake = serve_two();
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    let site = add_site(&mut db, ", start_date => '2026-10-24'");
    run(&mut db, "CALL matomo_sync_all()");
    let before = runs(&mut db, site);
    let mut other = connect_as(&name, "postgres");
    run(&mut other, &format!("BEGIN; {}", STEP.replace("PLACE", "NULL")));
    run(&mut db, "SET lock_timeout = '100ms'");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let state = "SELECT concat_ws(' ', failures, last_error) FROM matomo_status";
    assert_eq!(texts(&mut db, state), ["0"]);
    assert_eq!(runs(&mut db, site), before);
    run(&mut other, "ROLLBACK");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(runs(&mut db, site).len(), before.len() + 1);
}

#[test]
fn a_step_that_is_blocked_keeps_its_place() {
    let fake = serve_two();
    let (name, mut db) = named_database();
    sync(&mut db, &fake, ", '2026-10-24', '2026-10-26'");
    let step = |db: &mut postgres::Client, place: &str| -> (String, Option<String>) {
        let row = db.query_one(&STEP.replace("PLACE", place), &[]).unwrap();
        (row.get(0), row.get(1))
    };
    run(&mut db, "BEGIN");
    let (said, place) = step(&mut db, "NULL");
    assert!(said.starts_with("t ") && said != "t 0", "{said}");
    run(&mut db, "COMMIT");
    let place = place.unwrap();
    let quoted = format!("'{place}'");
    let mut other = connect_as(&name, "postgres");
    let opened = "UPDATE matomo_ledger SET sealed = false WHERE day = '2026-10-25'";
    let day = "SELECT 1 FROM matomo_ledger WHERE day = '2026-10-25' FOR UPDATE".to_owned();
    for (held, blocked) in [
        (sync_sql(&fake, 1, ", '2026-10-26', '2026-10-26'"), "public.matomo"),
        (day, "public.matomo_ledger"),
    ] {
        run(&mut db, opened);
        run(&mut other, &format!("BEGIN; {held}"));
        let (said, kept) = step(&mut db, &quoted);
        assert_eq!((said, kept), (format!("t 0 {blocked}"), Some(place.clone())));
        run(&mut other, "COMMIT");
    }
}

/// Upkeep may stop before midnight and go on after it.
#[test]
fn a_place_of_another_instant_or_form_is_not_resumed_at() {
    let fake = serve_two();
    let mut db = database();
    sync(&mut db, &fake, ", '2026-10-24', '2026-10-26'");
    let old = "SELECT count(*) FROM matomo WHERE action_timestamp < '2026-10-26'";
    assert!(one::<i64>(&mut db, old) > 0);
    for place in [
        r#"{"before": "2026-10-25 00:00:00+00", "table": "items", "has_rows_left": true, "is_over": true,
            "failed": {"state": "P0001", "message": "of yesterday", "detail": null, "hint": null}}"#,
        r#"{"before": "2026-10-25 00:00:00+00", "table": "items", "has_rows_left": true, "is_over": false}"#,
        // Another version's, of this instant.
        r#"{"before": "2026-10-26 00:00:00+00", "companion": "items", "place": null, "left": true}"#,
    ] {
        run(&mut db, "BEGIN");
        let step = STEP.replace("PLACE", &format!("'{place}'"));
        assert!(db.query_one(&step, &[]).unwrap().get::<_, String>(0).starts_with("t "));
        assert_eq!(one::<i64>(&mut db, old), 0, "{place}");
        run(&mut db, "ROLLBACK");
    }
}
