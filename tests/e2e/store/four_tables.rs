//! The tables of visits, conversions and items beside a destination.

use crate::support::*;

const FIRST: &str = "2026-10-19";
const LAST: &str = "2026-10-26";

#[test]
fn a_first_sync_makes_and_fills_all_four_tables() {
    let fake = serve(world(14, "Europe/Paris", 30, FIRST, LAST));
    let mut db = database();
    for table in ["matomo", "matomo_partitioned"] {
        let sync = Sync::of(&fake, FIRST, LAST).into(table);
        sync.run(&mut db);
        let oracle = tables_between(&fake, 1, FIRST, LAST);
        assert!(!oracle.conversions.rows.is_empty() && !oracle.items.rows.is_empty());
        assert_tables_equal(&mut db, table, &oracle);
    }
}
