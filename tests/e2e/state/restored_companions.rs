//! Companions of which a dump has only a part: without their destination, or one of them later.

use crate::support::cluster::shared;
use crate::support::dump::output;
use crate::support::restored::*;
use crate::support::*;

#[test]
fn an_erasure_finds_companions_that_were_restored_without_their_destination() {
    let Scene { fake: _fake, name, mut db, .. } = scene();
    let visitor: String =
        one(&mut db, "SELECT visitorid FROM matomo_visits ORDER BY idvisit LIMIT 1");
    let left = format!(
        "SELECT (SELECT count(*) FROM matomo_visits WHERE visitorid = '{visitor}')
              + (SELECT count(*) FROM matomo_conversions WHERE visitorid = '{visitor}')"
    );
    let forget = format!("SELECT * FROM matomo_forget('{visitor}')");
    let mut without = copied(&name, "without", &["-T", "public.matomo"]);
    // Dropped before the dump, and nobody has noticed.
    run(&mut db, "DROP TABLE matomo");
    let mut dropped = copied(&name, "dropped", &[]);
    for new in [&mut without, &mut dropped] {
        assert!(one::<i64>(new, &left) > 0);
        run(new, &forget);
        assert_eq!(one::<i64>(new, &left), 0);
    }
    assert_eq!(one::<i64>(&mut dropped, "SELECT count(*) FROM matomo_companion"), 6);
}

#[test]
fn a_companion_that_is_restored_after_a_sync_gets_the_days_that_this_has_copied() {
    let Scene { fake, name, mut db, .. } = scene();
    // A day that is still to be copied.
    run(&mut db, "DELETE FROM matomo_ledger WHERE idsite = 1 AND day = '2026-10-25'");
    for table in ["matomo", "matomo_conversions", "matomo_items", "matomo_visits"] {
        run(
            &mut db,
            &format!(
                "DELETE FROM {table} WHERE idvisit IN (SELECT idvisit FROM matomo_visits WHERE day = '2026-10-25')"
            ),
        );
    }
    let mut new = copied(&name, "later", &["-T", "public.matomo_visits"]);
    let whole = dumped(&name, &["-Fc"]);
    run(&mut new, "CALL matomo_sync_all()");
    let copy = format!("{name}_later");
    output(
        shared().program("pg_restore").args(["-e", "-d", &copy, "-t", "matomo_visits"]).arg(&whole),
    );
    std::fs::remove_file(whole).unwrap();
    run(&mut new, "ALTER TABLE matomo_visits ADD PRIMARY KEY (idvisit)");
    run(&mut new, "CALL matomo_sync_all()");
    let oracle = tables_between(&fake, 1, FIRST, "2200-01-01");
    assert_tables_equal(&mut new, "matomo", &oracle);
    run(&mut new, "ALTER TABLE matomo_visits RENAME TO who");
    let known = "SELECT companion::text FROM matomo_companion WHERE destination = 'matomo'::regclass AND kind = 'visits'";
    assert_eq!(texts(&mut new, known), ["who"]);
}
