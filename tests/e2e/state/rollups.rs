//! The days of a roll-up are those of rows of other sites.

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::noon::from;
use crate::support::*;

/// Days of site 1 in the table `visits`, copied by its roll-up, 3.
fn rolled_up(db: &mut Client, days: u64) -> (Noon, Fake) {
    let noon = Noon::new();
    let mut world = noon.world(days);
    add_rollup(&mut world, 3, &noon.zone, &[1]);
    let fake = serve(world);
    run(db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    run(db, "SELECT matomo_create_table('visits')");
    let arguments = format!("{}, destination => 'visits'", from(&noon, days - 1));
    sync_site(db, &fake, 3, &arguments);
    (noon, fake)
}

#[test]
fn rows_of_a_site_are_not_dropped_while_its_rollup_stores_them() {
    let (name, mut db) = named_database();
    let (noon, fake) = rolled_up(&mut db, 20);
    // So that it stores them anew.
    for table in four("visits") {
        run(&mut db, &format!("DELETE FROM {table} WHERE idvisit > 1090"));
    }
    run(&mut db, "BEGIN");
    let again = format!("{}, destination => 'visits', force => true", from(&noon, 19));
    sync_site(&mut db, &fake, 3, &again);
    let mut other = shared().connect(&name);
    let drop = "CALL matomo_drop_before('visits', now() - interval '10 days', site => 1, patience => '0.3 s')";
    let refused = error(&mut other, drop);
    let holder = format!("Held by process {}", pid(&mut db));
    assert_says(&refused, "55P03", "could not obtain lock on public.visits", &[&holder], "");
    run(&mut db, "COMMIT");
    run(&mut other, drop);
    let old = "SELECT count(*) FROM visits WHERE action_timestamp < now() - interval '10 days'";
    assert_eq!(one::<i64>(&mut other, old), 0);
}
