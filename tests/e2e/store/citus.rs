//! Tables of Citus. They run on one node, and only where `make test-engines` gets `MATOMO_CITUS`.

use crate::support::engines::{SPREAD, care, citus, course, spread_by_citus};
use crate::support::noon::from;
use crate::support::*;

#[test]
fn a_table_of_citus_gets_the_rows_of_any_other_however_it_is_spread() {
    let Some(cluster) = citus() else { return };
    for spread in SPREAD {
        let mut db = cluster.connect(&cluster.database());
        spread_by_citus(&mut db, &spread);
        course(&mut db, spread.name);
    }
}

#[test]
fn check_repair_erasure_and_retention_work_on_tables_of_citus() {
    let Some(cluster) = citus() else { return };
    for spread in SPREAD {
        let mut db = cluster.connect(&cluster.database());
        spread_by_citus(&mut db, &spread);
        care(&mut db, spread.name);
    }
}

#[test]
fn a_columnar_week_of_citus_gets_late_visits_and_keeps_the_rest() {
    let Some(cluster) = citus() else { return };
    let mut db = cluster.connect(&cluster.database());
    let spread = &SPREAD[1];
    let table = spread.name;
    spread_by_citus(&mut db, spread);
    let noon = Noon::new();
    let fake = serve(noon.world(15));
    let into = format!("{}, destination => '{table}', force => true", from(&noon, 14));
    sync(&mut db, &fake, &into);
    // A row's tableoid is that of its shard.
    let week = format!(
        "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
         WHERE inhparent = '{table}'::regclass ORDER BY pg_get_expr(c.relpartbound, c.oid) LIMIT 1"
    );
    let week: String = one(&mut db, &week);
    run(&mut db, &format!("SELECT alter_table_set_access_method('{week}', 'columnar')"));
    let late = noon.at(14, "13:00:00");
    let visit = fake_matomo::Visit::new(9001, late).and(fake_matomo::Action::page(
        late,
        "https://x.test/",
        "A",
    ));
    fake.world().site_mut(1).add(visit);
    assert_eq!(sync(&mut db, &fake, &into).written(), 1);
    assert_tables_equal(&mut db, table, &all_tables_of(&fake, 1));
}
