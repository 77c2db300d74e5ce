//! Pages made to do harm, a fixed corpus of them. `MATOMO_FUZZ_SECONDS` goes on from there with
//! others for so long; a page that fails is named by its seed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fake_matomo::{Clock, Fake, Fault, Site, When, World, hostile};
use postgres::Client;

use crate::support::*;
use crate::trust::proven;

const DAY: &str = "2026-10-25";

/// The seeds to try: so many, then more as long as there is time.
fn seeds(corpus: u64) -> impl Iterator<Item = u64> {
    let seconds = std::env::var("MATOMO_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let beyond = now.as_secs() * 1000;
    let more = (beyond..).take_while(move |_| Instant::now() < end);
    (0..corpus).chain(more)
}

fn matomo() -> Fake {
    let mut world = World::new(Clock::Real);
    let site = world.add_site(Site::new(1, "Hostile", "Europe/Paris"));
    // Any idSite will do.
    site.kind = "rollup".to_owned();
    serve(world)
}

/// What is stored of a page's visits: (idVisit, rows), in order.
fn stored(db: &mut Client, table: &str, seed: u64) -> Vec<(i64, i64)> {
    let sql = format!(
        "SELECT idvisit::bigint, count(*) FROM {table} WHERE idvisit::bigint BETWEEN $1 AND $2 \
         GROUP BY idvisit ORDER BY 1"
    );
    let first = i64::try_from(seed % 10_000_000_000).unwrap() * 100;
    let rows = db.query(&sql, &[&first, &(first + 99)]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Pages that are always tried, by their seeds.
const WELL_FORMED: u64 = 60;
const BROKEN: u64 = 150;

#[test]
fn no_odd_value_loses_a_visit() {
    let mut db = database();
    let (pages, visits, rows) = keeps_all(&mut db, 0..WELL_FORMED);
    proven(
        "Data",
        "hostile pages",
        &format!(
            "a fixed corpus of {WELL_FORMED} pages with odd values everywhere; `make fuzz` goes on with others"
        ),
        "every visit with a row for each action, in both tables; the second time none written",
        &format!("{visits} visits with {rows} rows in each table"),
    );
    let (more, ..) = keeps_all(&mut db, seeds(WELL_FORMED).skip(pages));
    println!(
        "soak: | hostile pages into tables | {} pages, twice into each of two tables | every visit with all its rows, and the second time none written |",
        pages + more
    );
}

/// Stores pages of these seeds, and proves that no visit is missing; gives pages, visits and rows.
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

#[test]
fn no_bytes_do_more_than_fail() {
    let fake = matomo();
    let mut db = database();
    run(
        &mut db,
        "SET matomo.max_retries = 0; SET matomo.max_response_size = '1GB'; SET client_min_messages = warning;
         SELECT matomo_create_table('matomo')",
    );
    let sync = Sync::of(&fake, DAY, DAY).sql();
    let (mut failed, mut stored) = (0, 0);
    let mut states = BTreeSet::new();
    let mut of_corpus = (0, 0, BTreeSet::new());
    for seed in seeds(BROKEN) {
        let body = hostile::mutilated(seed, &hostile::page(seed).body);
        fake.heal();
        fake.fail(Fault::Raw(body.clone()), When::live());
        match db.query(&sync, &[]) {
            Ok(_) => stored += 1,
            Err(error) => {
                let error = error.as_db_error().unwrap();
                let text = || format!("page {seed}: {error:?}\n{}", String::from_utf8_lossy(&body));
                assert!(["08006", "08P01"].contains(&error.code().code()), "{}", text());
                states.insert(error.code().code().to_owned());
                failed += 1;
            }
        }
        if seed == BROKEN - 1 {
            of_corpus = (failed, stored, states.clone());
        }
        fake.clear_requests();
    }
    println!(
        "soak: | broken bytes into a table | {} pages | {failed} refused with 08006 or 08P01, {stored} stored; no other error |",
        failed + stored
    );
    assert!(failed > 20 && stored > 5, "the corpus proves little: {failed}, {stored}");
    let (failed, stored, states) = of_corpus;
    let states: Vec<_> = states.iter().map(|state| format!("`{state}`")).collect();
    proven(
        "Data",
        "broken pages",
        &format!(
            "a fixed corpus of {BROKEN}: such pages with bytes turned, cut out, doubled and put in"
        ),
        "stored, or refused with `08006` or `08P01`; no other error, no crash",
        &format!("{stored} stored, {failed} refused with {}", states.join(" or ")),
    );
}
