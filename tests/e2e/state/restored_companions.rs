//! Companions of which a dump has only a part: without their destination, or one of them later.

use std::thread;
use std::time::Duration;

use crate::support::cluster::shared;
use crate::support::dump::output;
use crate::support::log::connect_with_notices;
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
    // Dropped after a look that has found the companions, and before a sync.
    let mut found = copied(&name, "found", &[]);
    run(&mut found, "SELECT * FROM matomo_forget('nobody')");
    run(&mut found, "DROP TABLE matomo");
    // Dropped before the dump, and nobody has noticed.
    run(&mut db, "DROP TABLE matomo");
    let mut dropped = copied(&name, "dropped", &[]);
    for new in [&mut without, &mut dropped, &mut found] {
        assert!(one::<i64>(new, &left) > 0);
        run(new, &forget);
        assert_eq!(one::<i64>(new, &left), 0);
    }
    assert_eq!(one::<i64>(&mut dropped, "SELECT count(*) FROM matomo_companion"), 6);
}

#[test]
fn an_erasure_names_companions_that_a_dump_was_restored_without() {
    let Scene { fake: _fake, name, .. } = scene();
    drop(copied(&name, "fewer", &["-T", "public.matomo_visits"]));
    let (mut db, said) = connect_with_notices(shared(), &format!("{name}_fewer"), "postgres");
    let text = "tables that a dump was restored without are not searched: public.matomo_visits";
    let mut forget = |of: &str| {
        run(&mut db, &format!("SELECT * FROM matomo_forget('nobody'{of})"));
        said.warnings().iter().map(|said| said.message().to_owned()).collect::<Vec<_>>()
    };
    for of in ["", ", only_in => 'matomo'"] {
        assert_eq!(forget(of), [text]);
    }
    assert_eq!(forget(", only_in => 'matomo_partitioned'"), [""; 0]);
    // One of its own takes its place.
    run(
        &mut connect_as(&format!("{name}_fewer"), "postgres"),
        "SELECT matomo_create_companions('matomo')",
    );
    assert_eq!(forget(""), [""; 0]);
}

/// Some of the others are known by name only, too.
#[test]
fn what_an_erasure_says_to_delete_is_only_what_is_missing() {
    let Scene { fake: _fake, name, .. } = scene();
    drop(copied(
        &name,
        "gone",
        &["-T", "public.matomo", "-T", "public.matomo_partitioned_visits*"],
    ));
    let (mut db, said) = connect_with_notices(shared(), &format!("{name}_gone"), "postgres");
    let known = "SELECT count(*) FROM matomo_companion";
    let days = "SELECT count(*) FROM matomo_ledger WHERE idsite = 2";
    let before = [known, days].map(|count| one::<i64>(&mut db, count));
    assert!(before[0] == 6 && before[1] > 0, "{before:?}");
    // The names of the missing table's companions are not looked up by this.
    run(&mut db, "SELECT * FROM matomo_forget('nobody', only_in => 'matomo_partitioned')");
    run(&mut db, "SELECT * FROM matomo_forget('nobody')");
    for warning in said.warnings() {
        let hint = warning.hint().unwrap().to_owned();
        let delete = hint.split("for good, ").nth(1).unwrap().trim_end_matches('.');
        run(&mut db, delete);
    }
    run(&mut db, "SELECT * FROM matomo_forget('nobody')");
    assert_eq!(said.warnings().len(), 0);
    assert_eq!([known, days].map(|count| one::<i64>(&mut db, count)), [before[0] - 1, before[1]]);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_ledger WHERE idsite = 1"), 0);
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

/// Restores the table of visits, which the copy lacks so far.
fn restore_visits(whole: &std::path::Path, copy: &str) {
    let visits = ["-e", "-d", copy, "-t", "matomo_visits"];
    output(shared().program("pg_restore").args(visits).arg(whole));
}

/// Site 2 in the same table as site 1.
fn sync_both(of: &Scene, whole: bool) -> [String; 2] {
    [1, 2].map(|site| {
        let day = if whole { FIRST } else { "2026-10-25" };
        let call =
            crate::support::Sync { site, ..crate::support::Sync::of(&of.fake, day, "2026-10-25") };
        crate::support::Sync { force: false, destination: "public.matomo", ..call }.sql()
    })
}

#[test]
fn days_of_two_syncs_at_once_get_a_companion_that_is_restored_later() {
    for is_rolled_back in [true, false] {
        let of = scene();
        let name = &of.name;
        let suffix = format!("two_{is_rolled_back}");
        let copy = format!("{name}_{suffix}");
        let mut first = copied(name, &suffix, &["-T", "public.matomo_visits"]);
        let whole = dumped(name, &["-Fc"]);
        run(&mut first, "DELETE FROM matomo_ledger WHERE day = '2026-10-25'");
        let [one_site, other_site] = sync_both(&of, false);
        run(&mut first, &format!("BEGIN; {one_site}"));
        let mut second = shared().connect(&copy);
        run(&mut second, "SET lock_timeout = '200 ms'");
        assert_says(
            &error(&mut second, &other_site),
            "55P03",
            "another session is the first to sync into \"public.matomo\" since that was restored without a companion",
            &[],
            "Wait for it to end",
        );
        run(&mut second, "SET lock_timeout = 0");
        let waiting = thread::spawn(move || run(&mut second, &other_site));
        thread::sleep(Duration::from_millis(200));
        assert!(!waiting.is_finished());
        run(&mut first, if is_rolled_back { "ROLLBACK" } else { "COMMIT" });
        waiting.join().unwrap();
        // Now that it is noted, nobody waits.
        let mut second = shared().connect(&copy);
        let [one_site, other_site] = sync_both(&of, true);
        run(&mut first, &format!("BEGIN; {one_site}"));
        run(&mut second, &other_site);
        run(&mut first, "COMMIT");
        restore_visits(&whole, &copy);
        std::fs::remove_file(whole).unwrap();
        run(&mut first, "ALTER TABLE matomo_visits ADD PRIMARY KEY (idvisit)");
        for call in sync_both(&of, true) {
            run(&mut first, &call);
        }
        assert_visits_filled(&mut first);
    }
}

/// The other sync that finds it does not see these days yet.
#[test]
fn days_of_a_sync_that_ends_after_a_companion_has_come_get_it_too() {
    let of = scene();
    let name = &of.name;
    let copy = format!("{name}_meanwhile");
    let mut first = copied(name, "meanwhile", &["-T", "public.matomo_visits"]);
    let whole = dumped(name, &["-Fc"]);
    let [one_site, other_site] = sync_both(&of, true);
    // Both sites are in the table, and it is noted that the companion is missing.
    run(&mut first, &one_site);
    let mut second = shared().connect(&copy);
    run(&mut second, &format!("BEGIN; {other_site}"));
    restore_visits(&whole, &copy);
    std::fs::remove_file(whole).unwrap();
    run(&mut first, "ALTER TABLE matomo_visits ADD PRIMARY KEY (idvisit)");
    run(&mut first, &one_site);
    run(&mut second, "COMMIT");
    for call in sync_both(&of, true) {
        run(&mut first, &call);
    }
    assert_visits_filled(&mut first);
    let known = "SELECT count(*) FROM matomo_companion WHERE companion = 'matomo_visits'::regclass";
    assert_eq!(one::<i64>(&mut first, known), 1);
}

fn assert_visits_filled(db: &mut postgres::Client) {
    for site in [1, 2] {
        let visits = format!("SELECT count(*) FROM matomo WHERE idsite = {site}");
        assert!(one::<i64>(db, &visits) > 0, "{site}");
        let missing = format!("{visits} AND idvisit NOT IN (SELECT idvisit FROM matomo_visits)");
        assert_eq!(one::<i64>(db, &missing), 0, "{site}");
    }
}
