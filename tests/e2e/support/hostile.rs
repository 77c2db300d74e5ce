//! Stores hostile pages in tables.

use fake_matomo::{Clock, Fake, Fault, Site, When, World, hostile};
use postgres::Client;

use crate::support::*;

pub const DAY: &str = "2026-10-25";

pub fn matomo() -> Fake {
    let mut world = World::new(Clock::Real);
    let site = world.add_site(Site::new(1, "Hostile", "Europe/Paris"));
    // A roll-up accepts any idSite.
    site.kind = "rollup".to_owned();
    serve(world)
}

/// Stored visits of a page: (idVisit, rows), in order.
pub fn stored(db: &mut Client, table: &str, seed: u64) -> Vec<(i64, i64)> {
    let sql = format!(
        "SELECT idvisit::bigint, count(*) FROM {table} WHERE idvisit::bigint BETWEEN $1 AND $2 \
         GROUP BY idvisit ORDER BY 1"
    );
    let first = i64::try_from(seed % 10_000_000_000).unwrap() * 100;
    let rows = db.query(&sql, &[&first, &(first + 99)]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Stores pages of these seeds, and asserts that no visit is missing. Returns the numbers of pages,
/// visits and rows.
pub fn keeps_all(db: &mut Client, seeds: impl Iterator<Item = u64>) -> (usize, usize, i64) {
    let fake = matomo();
    run(
        db,
        "SET matomo.max_retries = 0; SET matomo.max_response_size = '1GB'; SET client_min_messages = warning",
    );
    let (mut pages, mut visits, mut rows) = (0, 0, 0);
    for seed in seeds {
        let page = hostile::page(seed);
        fake.heal();
        fake.fail(Fault::Raw(page.body.clone()), When::live());
        let mut expected: Vec<_> = page
            .visits
            .iter()
            .filter(|(_, actions)| *actions > 0)
            .map(|(id, actions)| (*id, i64::try_from(*actions).unwrap()))
            .collect();
        expected.sort_unstable();
        for table in ["matomo", "matomo_partitioned"] {
            let sync = Sync::of(&fake, DAY, DAY).into(table);
            if let Err(error) = db.query(&sync.sql(), &[]) {
                let error = error.as_db_error().unwrap();
                panic!("page {seed}: {error:?}\n{}", String::from_utf8_lossy(&page.body));
            }
            assert_eq!(stored(db, table, seed), expected, "page {seed}");
            assert_eq!(sync.run(db).written(), 0, "page {seed} is not the same twice");
        }
        pages += 1;
        visits += expected.len();
        rows += expected.iter().map(|(_, rows)| rows).sum::<i64>();
        fake.clear_requests();
    }
    (pages, visits, rows)
}
