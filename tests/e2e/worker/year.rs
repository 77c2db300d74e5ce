//! `CALL` imports a year: it blocks nothing, and other sessions see its progress.

use crate::support::cluster::Cluster;
use crate::support::noon::Noon;
use crate::support::sites::{add_site, look_before_each, runs, server};
use crate::support::soak::figures;
use crate::support::*;

/// What another session sees: age of the oldest snapshot, days done, days in total, and whether
/// there is an estimate.
type Sight = (Option<i32>, i32, i32, bool);

#[test]
fn a_years_import_holds_nothing_back_and_shows_how_far_it_is() {
    let noon = Noon::new();
    let [first, last] = [366, 2].map(|ago| noon.text(ago));
    let fake = serve(world(126, &noon.zone, 2, &first, &last));
    // Its own server, since transactions in other databases also count in snapshots.
    let cluster = Cluster::start();
    let name = cluster.database();
    let mut db = cluster.connect(&name);
    server(&mut db, &fake);
    let site = add_site(&mut db, &format!(", start_date => '{first}'"));
    run(&mut db, "CREATE TABLE busy (n int)");
    // Before each answer of Matomo some transactions of others commit.
    let seen = look_before_each(&fake, cluster.connect(&name), |other| -> Sight {
        for _ in 0..5 {
            run(other, "INSERT INTO busy VALUES (1)");
        }
        let row = other
            .query_one(
                "SELECT max(greatest(age(backend_xmin), age(backend_xid))), max(p.days), max(days_total),
                     bool_and(time_left >= '0')
                 FROM matomo_progress p JOIN pg_stat_activity USING (pid)",
                &[],
            )
            .unwrap();
        let or = |at| row.get::<_, Option<i32>>(at).unwrap_or_default();
        (row.get(0), or(1), or(2), row.get::<_, Option<bool>>(3).unwrap_or_default())
    });
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    fake.clear_before_each();
    let seen: Vec<_> = seen.iter().map(|(_, sight)| sight).collect();
    assert_equal(&mut db, "matomo", &all_of(&fake, 1));
    assert!(runs(&mut db, site)[0].starts_with("succeeded 367 "), "{:?}", runs(&mut db, site));
    // The age counts the transactions during one step, not during the whole import.
    let ages: Vec<_> = seen.iter().filter_map(|sight| sight.0).collect();
    let oldest = *ages.iter().max().unwrap();
    assert!(ages.len() > 360 && (5..15).contains(&oldest), "{ages:?}");
    let days: Vec<_> = seen.iter().map(|sight| sight.1).collect();
    assert!(days.is_sorted() && days[days.len() - 1] == 366, "{days:?}");
    let half: Vec<_> = seen.iter().filter(|sight| (100..300).contains(&sight.1)).collect();
    assert!(half.len() >= 200, "{days:?}");
    assert!(half.iter().all(|sight| sight.2 == 367 && sight.3), "{half:?}");
    figures(
        "a year through CALL",
        &format!(
            "{} days, looked at from a second session at each of {} requests | age(backend_xmin) {oldest} at the \
             most, while {} transactions of others passed; days done and time left seen at each",
            days[days.len() - 1] + 1,
            seen.len(),
            one::<i64>(&mut db, "SELECT count(*) FROM busy")
        ),
    );
}
