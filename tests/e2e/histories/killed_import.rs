//! An import resumes after a kill.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{Days, NaiveDate, Utc};

use super::bench::{Bench, Engine};
use super::random::Random;
use crate::support::cluster::Cluster;
use crate::support::*;

const DAYS: u64 = 30;

/// The days whose visits were asked for, in order, each once.
fn days_asked(fake: &fake_matomo::Fake) -> Vec<NaiveDate> {
    let live = fake.requests().into_iter().filter(|seen| seen.method.starts_with("Live."));
    let days = live.map(|seen| day(seen.param("date").split(',').next().unwrap()));
    days.collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn an_import_killed_after_any_day_resumes_at_that_day() {
    let cluster = Cluster::start();
    let mut bench = Bench::new(&cluster);
    let seed = Utc::now().timestamp() as u64;
    let mut random = Random::new(seed);
    // All have settled.
    let last = Utc::now().date_naive() - Days::new(3);
    let first = last - Days::new(DAYS - 1);
    let days: Vec<_> = first.iter_days().take(DAYS as usize).collect();
    let in_between = random.between(1, DAYS as i64 - 2) as usize;
    for (killed, table, engine) in [
        (0, "matomo", Engine::Heap),
        (1, "matomo_partitioned", Engine::Heap),
        (in_between, "matomo", Engine::Heap2),
        (in_between, "matomo_partitioned", Engine::Heap),
        (DAYS as usize - 1, "matomo_partitioned", Engine::Heap2),
    ] {
        println!("seed {seed}, killed when {killed} days are done, into {table} of {engine:?}");
        bench.clear(engine, "");
        let (from, to) = (first.to_string(), last.to_string());
        let fake = serve(world(seed, "Europe/Paris", 8, &from, &to));
        let postmaster = bench.postmaster();
        let session = pid(&mut bench.db);
        let strikes = AtomicUsize::new(0);
        // Pages of three: sometimes in the middle of the day.
        let request = random.below(2);
        let at = format!("{0},{0}", days[killed]);
        fake.before_each(Box::new(move |_, seen| {
            if seen.param("date") == at && strikes.fetch_add(1, Ordering::Relaxed) == request {
                // The backend too, or it might store the answer before it notices; and first, as on its
                // way out it might hold a lock that the others would wait for without end.
                // SAFETY: signals to the server that this test has started.
                unsafe {
                    libc::kill(postmaster, libc::SIGSTOP);
                    libc::kill(session, libc::SIGKILL);
                    libc::kill(postmaster, libc::SIGKILL);
                }
            }
        }));
        let call = |start: &str, end: &str| {
            format!(
                "matomo_sync(1, '{}', '{}', {start}, {end}, '{table}', page_size => 3)",
                fake.url(),
                fake.token()
            )
        };
        let import = format!(
            "DO $do$ BEGIN FOR n IN 0..{} LOOP
                 PERFORM {};
                 COMMIT;
             END LOOP; END $do$",
            DAYS - 1,
            call(&format!("'{from}'"), &format!("date '{from}' + n"))
        );
        let error = bench.db.batch_execute(&import).expect_err("the server is killed");
        assert!(error.is_closed(), "{error:?}");
        assert_eq!(days_asked(&fake), days[..=killed]);
        bench.start_again(postmaster, session);

        fake.clear_before_each();
        fake.clear_requests();
        let sql = format!("SELECT * FROM {}", call(&format!("'{from}'"), &format!("'{to}'")));
        let rows = bench.db.query(&sql, &[]).unwrap();
        assert_eq!(days_asked(&fake), days[killed..], "no sealed day is asked for again");
        assert_eq!(rows.len(), DAYS as usize - killed);
        assert_tables_equal(&mut bench.db, table, &tables_between(&fake, 1, &from, &to));
        let sealed: i64 = one(&mut bench.db, "SELECT count(*) FROM matomo_ledger WHERE sealed");
        assert_eq!(sealed, DAYS as i64);
        // Nothing is left to do, and nobody is asked for it.
        fake.clear_requests();
        bench.db.query(&sql, &[]).unwrap();
        assert_eq!(days_asked(&fake), []);
    }
}
