//! What a repair records in the ledger.

use fake_matomo::{Action, Visit};
use postgres::Client;

use crate::support::case::Case;
use crate::support::noon::{from, noon};
use crate::support::*;

/// The parts of the entries that a repair must not change.
fn untouched(db: &mut Client) -> String {
    one(
        db,
        "SELECT string_agg(concat_ws(' ', matomo, day, sealed, truncated_visits, newest, timezone, read_at), ', ' ORDER BY day)
         FROM matomo_ledger",
    )
}

#[test]
fn a_repaired_day_says_what_the_table_holds() {
    for table in ["matomo", "matomo_partitioned"] {
        let mut case = Case::new(table);
        let line = |ago: u64, counts: &str| format!("1 {} sealed {counts} 0", case.noon.text(ago));
        let before = [4, 3, 2, 1].map(|ago| line(ago, "3 9"));
        let after = [line(4, "3 10"), line(3, "2 6"), line(2, "4 10"), line(1, "3 9")];
        assert_eq!(ledger(&mut case.db, table), before);
        let others = untouched(&mut case.db);
        {
            let mut world = case.fake.world();
            let site = world.site_mut(1);
            let late = case.noon.at(4, "23:00:00");
            site.visit_mut(1043).push(Action::page(late, "/more", "More"));
            site.delete(1032);
            let at = case.noon.at(2, "20:00:00");
            site.add(Visit::new(1024, at).and(Action::page(at, "/", "Imported")));
        }
        assert_eq!(case.check("").len(), 3);
        assert_eq!(ledger(&mut case.db, table), before);
        let equal = format!("matomo_ledger WHERE day IN ('{}')", case.noon.text(1));
        let equal_before = fingerprint(&mut case.db, &equal);
        assert_eq!(case.check(", repair => true").len(), 3);
        assert_eq!(ledger(&mut case.db, table), after);
        assert_eq!(untouched(&mut case.db), others);
        assert_eq!(fingerprint(&mut case.db, &equal), equal_before);
    }
}

#[test]
fn a_day_that_is_brought_back_counts_again_and_one_without_an_entry_gets_none() {
    let mut case = Case::new("matomo");
    let dropped =
        format!("CALL matomo_drop_before('matomo', to_timestamp({}))", case.noon.at(3, "00:00:00"));
    run(&mut case.db, &dropped);
    run(&mut case.db, &format!("DELETE FROM matomo_ledger WHERE day = '{}'", case.noon.text(3)));
    run(&mut case.db, "DELETE FROM matomo WHERE idvisit = '1032'");
    let line = |ago: u64, counts: &str| format!("1 {} sealed {counts} 0", case.noon.text(ago));
    let (gone, back) = (line(4, "0 0"), line(4, "3 9"));
    let rest = [line(2, "3 9"), line(1, "3 9")];
    assert_eq!(ledger(&mut case.db, "matomo"), [&[gone][..], &rest].concat());
    case.check(", repair => true");
    assert_eq!(ledger(&mut case.db, "matomo"), [&[back][..], &rest].concat());
    let oracle = case.oracle();
    assert_equal(&mut case.db, "matomo", &oracle);
}

#[test]
fn a_day_in_progress_keeps_counting_after_a_repair() {
    let (noon, fake, mut db) = noon(2);
    sync(&mut db, &fake, &from(&noon, 1));
    let visit = |n: i64, clock: &str| {
        let at = noon.at(0, clock);
        Visit::new(1000 + n, at).and(Action::page(at, "/", "A"))
    };
    fake.world().site_mut(1).delete(1002);
    // A visit from before the cursor.
    fake.world().site_mut(1).add(visit(4, "07:30:00"));
    let check = format!(
        "SELECT * FROM matomo_check(1, '{}', '{}', '{}', '{}', repair => true)",
        noon.text(1),
        noon.text(0),
        fake.url(),
        fake.token()
    );
    run(&mut db, &check);
    let today = |counts: &str| {
        [format!("1 {} sealed 3 9 0", noon.text(1)), format!("1 {} open {counts} 0", noon.text(0))]
    };
    assert_eq!(ledger(&mut db, "matomo"), today("3 7"));
    fake.world().site_mut(1).add(visit(5, "11:30:00"));
    sync(&mut db, &fake, "");
    assert_eq!(ledger(&mut db, "matomo"), today("4 8"));
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
}

/// Matomo purges raw data from the oldest on, so a day may be purged partly.
#[test]
fn a_repair_keeps_what_matomo_has_purged() {
    for table in ["matomo", "matomo_partitioned"] {
        let mut case = Case::new(table);
        let whole = case.oracle();
        // Two days wholly, the next one's first visit; on the last day a visit was deleted.
        let purged = [1041, 1042, 1043, 1031, 1032, 1033, 1021];
        let before = ledger(&mut case.db, table);
        for visit in purged.into_iter().chain([1012]) {
            case.fake.world().site_mut(1).delete(visit);
        }
        let columns =
            "SELECT concat_ws(' ', visits_there, visits_here, extra, repaired, purged) FROM";
        let sql = |case: &Case, arguments: &str| {
            case.sql(arguments).replacen("SELECT * FROM", columns, 1)
        };
        let lines = |repaired: i64| {
            vec![
                "0 3 3 0 3".to_owned(),
                "0 3 3 0 3".to_owned(),
                "2 3 1 0 1".to_owned(),
                format!("2 3 1 {repaired} 0"),
            ]
        };
        let look = sql(&case, "");
        assert_eq!(texts(&mut case.db, &look), lines(0));
        let repair = sql(&case, ", repair => true");
        assert_eq!(texts(&mut case.db, &repair), lines(1));
        let left: Vec<_> =
            whole.into_iter().filter(|row| row.0[2].as_deref() != Some("1012")).collect();
        assert_equal(&mut case.db, table, &left);
        assert_eq!(ledger(&mut case.db, table)[..3], before[..3]);
        let all = sql(&case, ", repair => true, delete_purged => true");
        assert_eq!(texts(&mut case.db, &all), ["0 3 3 3 0", "0 3 3 3 0", "2 3 1 1 0", "2 2 0 0 0"]);
        let oracle = case.oracle();
        assert_equal(&mut case.db, table, &oracle);
    }
}

#[test]
fn a_repair_warns_of_what_matomo_has_purged() {
    let noon = Noon::new();
    let fake = serve(noon.world(3));
    let (mut db, notices) = database_with_notices();
    sync(&mut db, &fake, &from(&noon, 2));
    fake.world().site_mut(1).visits.retain(|visit| visit.id < 1020);
    notices.take();
    let check = |arguments: &str| {
        format!(
            "SELECT * FROM matomo_check(1, '{}', NULL, '{}', '{}'{arguments})",
            noon.text(2),
            fake.url(),
            fake.token()
        )
    };
    for (arguments, warned) in [("", false), (", repair => true", true)] {
        run(&mut db, &check(arguments));
        let message = format!(
            "Matomo's raw data from {0} to {0} looks purged: kept 3 visits that only the table has",
            noon.text(2)
        );
        assert_eq!(notices.take().contains(&("WARNING".to_owned(), message)), warned);
    }
}

#[test]
fn a_table_that_a_repair_has_filled_is_known_to_syncs_and_erasures() {
    let noon = Noon::new();
    let fake = serve(noon.world(3));
    let other = serve(noon.world(3));
    let mut db = database();
    run(
        &mut db,
        "LOAD 'matomo_postgres'; SET matomo.settle_time = 0; SELECT matomo_create_table('matomo')",
    );
    let repair = format!(
        "SELECT sum(repaired)::bigint FROM matomo_check(1, '{}', '{}', '{}', '{}', repair => true)",
        noon.text(2),
        noon.text(0),
        fake.url(),
        fake.token()
    );
    assert!(one::<i64>(&mut db, &repair) > 0);
    let refused = error(&mut db, &sync_sql(&other, 1, &from(&noon, 2)));
    assert_eq!(refused.code().code(), "55000", "{refused:?}");
    let visitor: String = one(&mut db, "SELECT max(visitorid) FROM matomo WHERE idvisit = 1012");
    // It is still in Matomo, so that the next sync copies it again.
    let forget = format!("SELECT sum(visits)::bigint FROM matomo_forget('{visitor}')");
    assert!(one::<i64>(&mut db, &forget) > 0);
    assert!(sync(&mut db, &fake, &from(&noon, 2)).inserted > 0);
    assert_tables_equal(&mut db, "matomo", &all_tables_of(&fake, 1));
    let open = "SELECT count(*) FROM matomo_ledger WHERE NOT sealed";
    assert_eq!(one::<i64>(&mut db, open), 1, "the days are read whole, but today is open");
}
