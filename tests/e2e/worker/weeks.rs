//! Imports into one partitioned table make its weeks, and none waits for the Matomo of another.

use std::collections::BTreeSet;

use fake_matomo::{Fault, When};
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::sites::many::{START, sites};
use crate::support::sites::*;
use crate::support::traps::call;
use crate::support::*;

/// The weeks of the table.
fn weeks(db: &mut Client) -> BTreeSet<String> {
    let sql = "SELECT right(inhrelid::regclass::text, 7) FROM pg_inherits WHERE inhparent = 'weekly'::regclass";
    texts(db, sql).into_iter().collect()
}

#[test]
fn a_step_that_waits_for_matomo_keeps_no_other_session_from_making_weeks() {
    for pages in 1..=3 {
        let fake = serve(sites(421, 2));
        let (name, mut db) = named_database();
        server(&mut db, &fake);
        run(
            &mut db,
            "ALTER SERVER analytics OPTIONS (ADD timeout '100');
             SELECT matomo_create_table('weekly', partitioned => true)",
        );
        let to = format!(", destination => 'weekly'{START}");
        let site = add_site(&mut db, &to);
        run(&mut db, "SET matomo.page_size = 2; SET matomo.step_pages = 100");
        // The page after the one that needs the first week never comes, nor do those after it.
        fake.fail(Fault::Hang, When::live().param("idSite", "1").after(pages));
        let token = db.cancel_token();
        let import = call(db, format!("CALL matomo_sync_site({site})"));
        let mut other = shared().connect(&name);
        wait_until("it has made its first week", || !weeks(&mut other).is_empty());
        wait_until("it hangs", || fake.requests().iter().any(|seen| seen.fault.is_some()));
        // The lock that whoever makes a week needs.
        run(&mut other, "SET lock_timeout = '4 s'; SET statement_timeout = '30 s'");
        run(&mut other, "BEGIN; LOCK TABLE ONLY weekly IN SHARE UPDATE EXCLUSIVE MODE; COMMIT");
        let made = "SELECT matomo_create_partitions('weekly', '2025-01-01', '2025-01-01')";
        assert_eq!(one::<i32>(&mut other, made), 1);
        token.cancel_query(postgres::NoTls).unwrap();
        (db, ..) = import.join().unwrap();
        fake.heal();
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        assert_equal(&mut db, "weekly", &all_of(&fake, 1));
    }
}

#[test]
fn an_import_makes_some_weeks_at_once_and_none_for_odd_times() {
    let fake = serve(sites(422, 1));
    let mut db = database();
    server(&mut db, &fake);
    run(&mut db, "SELECT matomo_create_table('weekly', partitioned => true)");
    let site = add_site(&mut db, &format!(", destination => 'weekly'{START}"));
    let at = instant("1999-07-07T12:00:00Z");
    fake.world().site_mut(1).visits[30].actions[0].at = at;
    fake.clear_requests();
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_equal(&mut db, "weekly", &all_of(&fake, 1));
    let old: Vec<_> = weeks(&mut db).into_iter().filter(|week| week.starts_with("1999")).collect();
    assert_eq!(old, ["1999w27"]);
    assert!(weeks(&mut db).contains("2026w45"), "{:?}", weeks(&mut db));
    // A day is read again for each time that weeks are made.
    let asked = asked(&fake);
    let mut days: Vec<_> = asked.iter().filter(|line| line.starts_with("day ")).collect();
    let all = days.len();
    days.dedup();
    assert!(all - days.len() <= 2, "{asked:?}");
}
