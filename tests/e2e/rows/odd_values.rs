//! Values that typed columns cannot hold, in every key with such a column.

use fake_matomo::{Clock, Plan, SitePlan, World};

use crate::support::*;

const FIRST: &str = "2026-10-01";
const LAST: &str = "2026-10-20";

#[test]
fn what_no_column_holds_is_null_and_kept_in_extra() {
    // As many days as a type has odd values, so that each key gets each of them.
    let shop = SitePlan {
        ecommerce: true,
        odd_values: true,
        ..SitePlan::new(1, "America/Los_Angeles", 2)
    };
    let fake = serve(World::generate(&Plan {
        seed: 1,
        sites: vec![shop],
        first_day: day(FIRST),
        last_day: day(LAST),
        now: Clock::Real,
    }));
    let oracle = tables_between(&fake, 1, FIRST, LAST);
    let has_extra = |row: &usize| oracle.visits.get(*row, "extra").is_some();
    assert!((0..oracle.visits.rows.len()).filter(has_extra).count() > 200);
    let mut db = database();
    run(&mut db, "SET client_min_messages = error");
    for table in ["matomo", "matomo_partitioned"] {
        let sync = Sync::of(&fake, FIRST, LAST).into(table);
        sync.run(&mut db);
        assert_tables_equal(&mut db, table, &oracle);
        // A second sync finds nothing to change.
        assert_eq!(sync.run(&mut db).written(), 0, "{table}");
    }
}
