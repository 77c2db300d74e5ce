//! What a repair tells the ledger.

use fake_matomo::{Action, Visit};
use postgres::Client;

use crate::check::Case;
use crate::ledger_keeping::{from, noon};
use crate::support::*;

/// All that a repair is to leave alone of the entries.
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
fn a_day_that_goes_on_counts_on_after_a_repair() {
    let (noon, fake, mut db) = noon(2);
    sync(&mut db, &fake, &from(&noon, 1));
    let visit = |n: i64, clock: &str| {
        let at = noon.at(0, clock);
        Visit::new(1000 + n, at).and(Action::page(at, "/", "A"))
    };
    fake.world().site_mut(1).delete(1002);
    // Which the cursor is past.
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
