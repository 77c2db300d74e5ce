//! A fixed corpus of hostile pages. `MATOMO_FUZZ_SECONDS` continues with other pages for that
//! long. A failure names the page's seed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fake_matomo::{Fault, When, hostile};

use crate::support::hostile::*;
use crate::support::report::proven;
use crate::support::*;

/// The seeds to try: those of the corpus, then others while there is time.
fn seeds(corpus: u64) -> impl Iterator<Item = u64> {
    let seconds = std::env::var("MATOMO_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let beyond = now.as_secs() * 1000;
    let more = (beyond..).take_while(move |_| Instant::now() < end);
    (0..corpus).chain(more)
}

/// The corpus: how many seeds of each kind of page.
const WELL_FORMED: u64 = 60;
const BROKEN: u64 = 150;

#[test]
fn no_odd_value_loses_a_visit() {
    let mut db = database();
    let (pages, visits, rows) = keeps_all(&mut db, 0..WELL_FORMED);
    assert_eq!((visits, rows), (229, 12_620));
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
    assert_eq!((failed, stored), (123, 27));
    assert_eq!(states, BTreeSet::from(["08006".to_owned(), "08P01".to_owned()]));
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
