//! Rows that cannot be deleted keep their day in a table without places; retention goes on with the others,
//! and tells.

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::engines::{foreign_partition, heap2};
use crate::support::noon::{add_site, from};
use crate::support::worker::{register, store};
use crate::support::*;

/// A table of eight days of two sites.
fn filled(db: &mut Client, table: &str) -> (Noon, Fake) {
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    add_site(&fake, &noon, 2, 5000, 8);
    run(db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    for site in [1, 2] {
        sync_site(db, &fake, site, &format!("{}, destination => '{table}'", from(&noon, 7)));
    }
    (noon, fake)
}

fn midnight(noon: &Noon, ago: u64) -> String {
    chrono::DateTime::from_timestamp(noon.at(ago, "00:00:00"), 0).unwrap().to_rfc3339()
}

/// Site, day, number of rows, of the days before an instant.
fn left(db: &mut Client, table: &str, before: &str) -> Vec<String> {
    let sql = format!(
        "SELECT format('%s %s %s', idsite, day, count(*)) FROM {table}
         WHERE action_timestamp < '{before}' GROUP BY idsite, day ORDER BY 1"
    );
    texts(db, &sql)
}

/// What keeps the row 1061_1 where it is, with SQLSTATE and message.
const REASONS: [(&str, &str, &str); 6] = [
    (
        "CREATE TABLE notes (idvisit bigint, action_id text, FOREIGN KEY (idvisit, action_id) REFERENCES visits (idvisit, action_id));
         INSERT INTO notes VALUES (1061, '1061_1')",
        "23503",
        "update or delete on table \"visits\" violates foreign key constraint \"notes_idvisit_action_id_fkey\" on table \"notes\"",
    ),
    (
        "CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
         CREATE TRIGGER keeps BEFORE DELETE ON visits FOR EACH ROW WHEN (OLD.action_id = '1061_1') EXECUTE FUNCTION keeps()",
        "P0001",
        "not this one",
    ),
    (
        "CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER keeps BEFORE DELETE ON visits FOR EACH ROW WHEN (OLD.action_id = '1061_1') EXECUTE FUNCTION keeps()",
        "55000",
        "old rows of public.visits are not deleted",
    ),
    (
        "CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE configuration_limit_exceeded USING MESSAGE = 'tuple decompression limit exceeded by operation'; END $$;
         CREATE TRIGGER keeps BEFORE DELETE ON visits FOR EACH ROW WHEN (OLD.action_id = '1061_1') EXECUTE FUNCTION keeps()",
        "53400",
        "tuple decompression limit exceeded by operation",
    ),
    (
        "CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ASSERT false, 'not this one'; END $$;
         CREATE TRIGGER keeps BEFORE DELETE ON visits FOR EACH ROW WHEN (OLD.action_id = '1061_1') EXECUTE FUNCTION keeps()",
        "P0004",
        "not this one",
    ),
    (
        "CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
         CREATE CONSTRAINT TRIGGER keeps AFTER DELETE ON visits DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (OLD.action_id = '1061_1') EXECUTE FUNCTION keeps()",
        "P0001",
        "not this one",
    ),
];

#[test]
fn all_other_days_and_sites_go_and_the_reason_is_told() {
    for (reason, state, message) in REASONS {
        let mut db = heap2();
        run(&mut db, "SELECT matomo_create_table('visits')");
        let (noon, fake) = filled(&mut db, "visits");
        run(&mut db, reason);
        let before = midnight(&noon, 2);
        let drop = format!("CALL matomo_drop_before('visits', '{before}')");
        let failed = error(&mut db, &drop);
        assert_says(
            &failed,
            state,
            message,
            &["Rows of public.visits between"],
            "Remove what prevents it",
        );
        let kept = left(&mut db, "visits", &before);
        assert!(
            kept.len() == 1 && kept[0].starts_with(&format!("1 {} ", noon.text(6))),
            "{kept:?}"
        );
        let lines = ledger(&mut db, "visits");
        assert!(
            !lines[1].ends_with("sealed 0 0 0"),
            "a day with rows is not sealed as empty: {lines:?}"
        );
        for line in [0, 2, 3, 8, 9, 10] {
            assert!(lines[line].ends_with("sealed 0 0 0"), "{lines:?}");
        }
        // The companions' rows went nevertheless.
        let visits = format!("SELECT count(*) FROM visits_visits WHERE lastaction < '{before}'");
        assert_eq!(one::<i64>(&mut db, &visits), 0);
        // Each call ends, and tells again until nothing is left.
        assert_says(&error(&mut db, &drop), state, message, &[], "");
        run(&mut db, "DROP TABLE IF EXISTS notes; DROP TRIGGER IF EXISTS keeps ON visits");
        run(&mut db, &drop);
        assert_eq!(left(&mut db, "visits", &before), [""; 0]);
        assert_eq!(
            sync(&mut db, &fake, &format!("{}, destination => 'visits'", from(&noon, 7))).written(),
            0
        );
    }
}

#[test]
fn a_row_that_a_trigger_keeps_in_a_heap_is_told_of_and_all_others_go() {
    let mut db = database();
    run(&mut db, "SELECT matomo_create_table('visits')");
    let (noon, _fake) = filled(&mut db, "visits");
    run(&mut db, REASONS[2].0);
    let before = midnight(&noon, 2);
    let drop = format!("CALL matomo_drop_before('visits', '{before}')");
    for _ in 0..2 {
        let (state, message) = (REASONS[2].1, REASONS[2].2);
        assert_says(&error(&mut db, &drop), state, message, &[], "Remove what prevents it");
        let kept = left(&mut db, "visits", &before);
        assert_eq!(kept, [format!("1 {} 1", noon.text(6))]);
    }
    run(&mut db, "DROP TRIGGER keeps ON visits");
    run(&mut db, &drop);
    assert_eq!(left(&mut db, "visits", &before), [""; 0]);
}

#[test]
fn a_day_of_which_nothing_could_be_deleted_stays_known_as_it_is() {
    let fake = serve(world(142, "UTC", 12, "2026-10-24", "2026-10-26"));
    let mut db = heap2();
    run(&mut db, "SELECT matomo_create_table('visits')");
    sync(&mut db, &fake, ", '2026-10-24', '2026-10-26', destination => 'visits'");
    run(
        &mut db,
        "CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
         CREATE TRIGGER keeps BEFORE DELETE ON visits FOR EACH ROW
             WHEN ((OLD.action_timestamp AT TIME ZONE 'UTC')::date = '2026-10-25') EXECUTE FUNCTION keeps()",
    );
    let known = ledger(&mut db, "visits");
    error(&mut db, "CALL matomo_drop_before('visits', '2026-10-27 00:00+00')");
    let lines = ledger(&mut db, "visits");
    assert_eq!(lines[1], known[1]);
    assert!([0, 2].iter().all(|n: &usize| lines[*n].ends_with("sealed 0 0 0")), "{lines:?}");
}

#[test]
fn a_row_that_another_server_keeps_holds_up_no_other_day() {
    let mut db = database();
    let noon = Noon::new();
    let mut there = foreign_partition(&mut db, "visits", &midnight(&noon, 3));
    filled(&mut db, "visits");
    run(
        &mut there,
        "CREATE FUNCTION keeps() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;
         CREATE TRIGGER keeps BEFORE DELETE ON old FOR EACH ROW WHEN (OLD.action_id = '1061_1') EXECUTE FUNCTION keeps()",
    );
    let before = midnight(&noon, 2);
    let failed = error(&mut db, &format!("CALL matomo_drop_before('visits', '{before}')"));
    assert_says(
        &failed,
        "P0001",
        "not this one",
        &["public.visits_old"],
        "Remove what prevents it",
    );
    let kept = left(&mut db, "visits", &before);
    assert!(kept.len() == 1 && kept[0].starts_with(&format!("1 {} ", noon.text(6))), "{kept:?}");
}

#[test]
fn upkeep_continues_with_the_other_days_and_notes_the_reason() {
    let mut db = heap2();
    run(&mut db, "SELECT matomo_create_table('visits')");
    let (noon, fake) = filled(&mut db, "visits");
    run(&mut db, REASONS[0].0);
    store(&mut db, "analytics", &fake);
    let site = register(&mut db, "'analytics', 1, destination => 'visits', retention => '2 days'");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let noted: String = one(&mut db, "SELECT upkeep_error FROM matomo_site_state");
    assert!(noted.contains("violates foreign key constraint"), "{noted}");
    let days = format!("{} ", noon.text(6));
    let kept = left(&mut db, "visits", &midnight(&noon, 2));
    let of_site: Vec<_> = kept.iter().filter(|line| line.starts_with("1 ")).collect();
    assert!(of_site.len() == 1 && of_site[0].contains(&days), "{kept:?}");
    assert_eq!(kept.len(), 6, "site 2 keeps its five days: {kept:?}");
    let is_done = "SELECT upkeep_place IS NULL AND tended_on IS NOT NULL FROM matomo_site_state";
    assert!(one::<bool>(&mut db, is_done));
}

#[test]
fn a_day_that_somebody_else_has_emptied_meanwhile_ends_no_removal() {
    let mut db = heap2();
    run(&mut db, "SELECT matomo_create_table('visits')");
    let (noon, _fake) = filled(&mut db, "visits");
    let name: String = one(&mut db, "SELECT current_database()::text");
    let mut other = shared().connect(&name);
    run(&mut other, "BEGIN; DELETE FROM visits WHERE day = (SELECT min(day) FROM visits)");
    let before = midnight(&noon, 1);
    let pid = pid(&mut db);
    let drop = format!("CALL matomo_drop_before('visits', '{before}', lock_timeout => '20 s')");
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| run(&mut db, &drop));
        wait_until("it waits for the rows", || waits(&mut other, pid));
        run(&mut other, "COMMIT");
        removal.join().unwrap();
    });
    assert_eq!(left(&mut db, "visits", &before), [] as [&str; 0]);
}
