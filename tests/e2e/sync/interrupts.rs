//! Cancel, `statement_timeout`, terminate and shutdown take effect at once wherever a sync waits.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use fake_matomo::{Fault, When};
use postgres::error::SqlState;
use postgres::{Client, Error, NoTls};

use crate::support::cluster::{Cluster, is_gone, shared};
use crate::support::report::{all_there, proven};
use crate::support::traps::*;
use crate::support::*;

/// One second is promised; the rest is for busy machines.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// Asserts that a session was ended properly. The client library may see the connection close
/// before the last message, so the log counts.
fn assert_terminated(cluster: &Cluster, pid: i32, result: Result<(), Error>) -> String {
    let error = result.expect_err("the call must end with an error");
    assert!(error.is_closed() || error.code() == Some(&SqlState::ADMIN_SHUTDOWN), "{error}");
    let log = cluster.log();
    let line = format!("[{pid}] FATAL:  terminating connection due to administrator command");
    assert!(log.contains(&line), "no {line} in {log}");
    assert!(!log.contains(&format!("(PID {pid}) was terminated by signal")), "{log}");
    line.split_once("]  ").or(line.split_once("] ")).unwrap().1.to_owned()
}

/// Interrupts a sync at each place, all in parallel, then passes its session to `then`.
fn interrupt_everywhere(
    how: &str,
    set: &str,
    assert_end: impl Fn(i32, Result<(), Error>) -> String + std::marker::Sync,
    interrupt: impl Fn(&mut Client, i32, &postgres::CancelToken) + std::marker::Sync,
    then: impl Fn(Client, &Trap) -> String + std::marker::Sync,
) -> String {
    let ends = Mutex::new(BTreeSet::new());
    thread::scope(|scope| {
        for place in PLACES {
            let (assert_end, interrupt, then, ends) = (&assert_end, &interrupt, &then, &ends);
            scope.spawn(move || {
                let trap = Trap::at(place);
                let name = shared().database();
                let (mut db, mut other) = (shared().connect(&name), shared().connect(&name));
                db.batch_execute(set).unwrap();
                let (pid, token) = (pid(&mut db), db.cancel_token());
                let begin = Instant::now();
                let call = call(db, trap.sync().sql());
                trap.wait();
                let caught = Instant::now();
                interrupt(&mut other, pid, &token);
                let (db, result, ended) = call.join().unwrap();
                let end = assert_end(pid, result);
                // A timeout starts with the statement.
                let since = if set.is_empty() { caught } else { begin + Duration::from_secs(1) };
                let took = ended.saturating_duration_since(since);
                println!("{how} at {place:?}: {} ms", took.as_millis());
                assert!(took < AT_ONCE, "{how} at {place:?}: {took:?}");
                assert!(set.is_empty() || ended - begin >= Duration::from_secs(1));
                let after = then(db, &trap);
                ends.lock().unwrap().insert(format!("{end}; {after}"));
            });
        }
    });
    let ends: Vec<_> = ends.into_inner().unwrap().into_iter().collect();
    ends.join("; ")
}

/// Adds a way to interrupt to the report.
fn proves(case: &str, seen: &str) {
    let places = "before the headers of two kinds of answers, in a body that stops, in one that comes byte by byte, between retries, in a connect";
    proven(
        "Crash",
        case,
        &format!("a sync that waits at {} places: {places}", PLACES.len()),
        "it ends at once, with nothing left behind; a session that is still there syncs well",
        &format!("at all {} places, {seen}", PLACES.len()),
    );
}

/// Asserts that the session still works after an interrupt and the next sync is right.
fn syncs_well(mut db: Client, trap: &Trap) -> String {
    trap.fake.heal();
    db.batch_execute("RESET statement_timeout").unwrap();
    let table: Option<String> = one(&mut db, "SELECT to_regclass('matomo')::text");
    assert_eq!(table, None, "nothing remains of the call");
    Sync::of(&trap.fake, FIRST, LAST).run(&mut db);
    format!("then {}", all_there(&mut db, "matomo", &oracle(&trap.fake, FIRST, LAST)))
}

/// `assert_cancelled`, with text for the report.
fn is_cancelled(reason: &str, result: Result<(), Error>) -> String {
    let (state, message) = end_of(result);
    assert_eq!((state.clone(), message.clone()), cancelled(reason));
    format!("`{}` {message}", state.code())
}

#[test]
fn ctrl_c_takes_effect_at_once() {
    let seen = interrupt_everywhere(
        "Ctrl-C",
        "",
        |_, result| is_cancelled("user request", result),
        |_, _, token| token.cancel_query(NoTls).unwrap(),
        |mut db, trap| {
            // For a cancel request the postmaster sends two signals, and the second may be late.
            let _ = db.batch_execute("SELECT pg_sleep(0.1)");
            syncs_well(db, trap)
        },
    );
    proves("Ctrl-C", &seen);
}

#[test]
fn pg_cancel_backend_takes_effect_at_once() {
    let seen = interrupt_everywhere(
        "pg_cancel_backend",
        "",
        |_, result| is_cancelled("user request", result),
        |other, pid, _| cancel(other, pid),
        syncs_well,
    );
    proves("pg_cancel_backend", &seen);
}

#[test]
fn statement_timeout_takes_effect_at_once() {
    let seen = interrupt_everywhere(
        "statement_timeout",
        "SET statement_timeout = '1s'",
        |_, result| is_cancelled("statement timeout", result),
        |_, _, _| {},
        syncs_well,
    );
    proves("statement_timeout", &seen);
}

#[test]
fn pg_terminate_backend_takes_effect_at_once() {
    let seen = interrupt_everywhere(
        "pg_terminate_backend",
        "",
        |pid, result| assert_terminated(shared(), pid, result),
        |other, pid, _| {
            assert!(
                other
                    .query_one("SELECT pg_terminate_backend($1)", &[&pid])
                    .unwrap()
                    .get::<_, bool>(0)
            );
            wait_until("the end of the process", || !is_alive(pid));
        },
        |_, _| "the process is gone, without a crash".to_owned(),
    );
    proves("pg_terminate_backend", &seen);
}

fn is_alive(pid: i32) -> bool {
    // A zombie counts as dead.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.starts_with(" Z"))
}

#[test]
fn a_fast_shutdown_and_the_postmasters_death_end_syncs_at_once() {
    let cluster = Cluster::start();
    let name = cluster.database();
    // One Matomo per place, so one table per place.
    let tables = PLACES.map(|place| format!("at_{place:?}").to_lowercase());
    for table in &tables {
        let sql = format!("SELECT matomo_create_table('{table}')");
        cluster.connect(&name).batch_execute(&sql).unwrap();
    }
    let start = |traps: &[Trap]| -> Vec<(i32, Call)> {
        let calls = traps.iter().zip(&tables).map(|(trap, destination)| {
            let mut db = cluster.connect(&name);
            (pid(&mut db), call(db, Sync { destination, ..trap.sync() }.sql()))
        });
        let calls = calls.collect();
        traps.iter().for_each(Trap::wait);
        calls
    };

    let traps = PLACES.map(Trap::at);
    let calls = start(&traps);
    let begin = Instant::now();
    cluster.stop("fast");
    let stopped = begin.elapsed();
    for ((pid, call), place) in calls.into_iter().zip(PLACES) {
        let (_, result, ended) = call.join().unwrap();
        assert_terminated(&cluster, pid, result);
        let took = ended - begin;
        println!("pg_ctl stop -m fast at {place:?}: {} ms", took.as_millis());
        assert!(took < AT_ONCE, "{place:?}: {took:?}");
    }
    println!("pg_ctl stop -m fast as a whole: {} ms", stopped.as_millis());
    assert!(stopped < AT_ONCE, "{stopped:?}");
    assert!(!cluster.log().contains("terminated by signal"), "{}", cluster.log());

    cluster.start_again();
    let traps = PLACES.map(Trap::at);
    let calls = start(&traps);
    let postmaster = cluster.postmaster();
    let begin = Instant::now();
    // SAFETY: a signal to the server that this test started.
    assert_eq!(unsafe { libc::kill(postmaster, libc::SIGKILL) }, 0);
    for ((pid, call), place) in calls.into_iter().zip(PLACES) {
        let (_, result, ended) = call.join().unwrap();
        assert!(result.unwrap_err().is_closed(), "{place:?}");
        let took = ended - begin;
        println!("kill -9 of the postmaster at {place:?}: {} ms", took.as_millis());
        assert!(took < AT_ONCE, "{place:?}: {took:?}");
        wait_until("the end of the process", || !is_alive(pid));
    }
    wait_until("the postmaster's end", || is_gone(postmaster));
    // The start recovers and frees the shared memory of the dead server.
    cluster.start_again();
    for table in &tables {
        let sql = format!("SELECT count(*) FROM {table}");
        assert_eq!(one::<i64>(&mut cluster.connect(&name), &sql), 0, "{table}");
    }
}

/// A table `matomo` in which each row takes long.
fn slow_table(db: &mut Client) {
    db.batch_execute(
        "SELECT matomo_create_table('matomo');
         CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;
         CREATE TRIGGER slow BEFORE INSERT ON matomo FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    .unwrap();
}

#[test]
fn a_cancel_while_storing_takes_effect_at_once() {
    // First with a helper that waits for room, then with one that waits for Matomo.
    for hangs in [false, true] {
        let fake = serve(world(2, "UTC", 60, FIRST, LAST));
        if hangs {
            fake.fail(Fault::Hang, When::live().after(2));
        }
        let mut db = database();
        slow_table(&mut db);
        let pid = pid(&mut db);
        let sync = Sync::of(&fake, FIRST, LAST).pages_of(5);
        let call = call(db, sync.sql());
        wait_until("the trigger", || sleeps(pid));
        // One page is being stored; the queue is full of further ones, or the third page hangs.
        let mut requests = 0;
        wait_until("that nothing more is asked", || {
            let before = std::mem::replace(&mut requests, fake.requests().len());
            std::thread::sleep(std::time::Duration::from_millis(500));
            before == requests && requests == fake.requests().len()
        });
        let all = fake.world().site(1).visits.len() / 5;
        assert!(if hangs { requests == 4 } else { requests > 10 && requests < all }, "{requests}");
        let mut other = shared().connect("postgres");
        let begin = Instant::now();
        cancel(&mut other, pid);
        let (mut db, result, ended) = call.join().unwrap();
        assert_eq!(end_of(result), cancelled("user request"));
        println!("pg_cancel_backend while storing: {} ms", (ended - begin).as_millis());
        assert!(ended - begin < AT_ONCE, "{:?}", ended - begin);
        wait_until("the helper's end", || threads(pid).len() == 1);
        assert_eq!(fake.requests().len(), requests, "nothing is asked any more");
        assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 0);
        fake.heal();
        db.batch_execute("DROP TRIGGER slow ON matomo").unwrap();
        sync.run(&mut db);
        assert_equal(&mut db, "matomo", &oracle(&fake, FIRST, LAST));
    }
}

/// Whether a session is in `pg_sleep`.
fn sleeps(pid: i32) -> bool {
    let sql = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1";
    let row = shared().connect("postgres").query_one(sql, &[&pid]).unwrap();
    row.get::<_, Option<bool>>(0) == Some(true)
}

#[test]
fn a_cancel_that_plpgsql_catches_leaves_the_transaction_usable() {
    let fake = serve(world(3, "UTC", 10, FIRST, LAST));
    let mut db = database();
    slow_table(&mut db);
    let pid = pid(&mut db);
    let sync = Sync::of(&fake, FIRST, LAST);
    let sql = format!(
        "SET TimeZone = 'Asia/Kolkata'; SET jit = on; SET search_path = pg_catalog, public;
         BEGIN;
         DO $do$ BEGIN
             PERFORM * FROM ({}) s;
             RAISE 'not cancelled';
         EXCEPTION WHEN query_canceled THEN NULL; END $do$",
        sync.sql()
    );
    let call = call(db, sql);
    wait_until("the trigger", || sleeps(pid));
    cancel(&mut shared().connect("postgres"), pid);
    let (mut db, result, _) = call.join().unwrap();
    result.unwrap();
    let settings = "SELECT concat_ws('|', current_setting('TimeZone'), current_setting('jit'), \
                    current_setting('search_path'), current_setting('enable_seqscan'))";
    let settings: String = one(&mut db, settings);
    assert_eq!(settings, "Asia/Kolkata|on|pg_catalog, public|on");
    db.batch_execute("DROP TRIGGER slow ON matomo").unwrap();
    // The site's lock is released too.
    sync.run(&mut db);
    db.batch_execute("COMMIT").unwrap();
    let all = all_there(&mut db, "matomo", &oracle(&fake, FIRST, LAST));
    proven(
        "Crash",
        "a cancel that PL/pgSQL catches",
        "`EXCEPTION WHEN query_canceled` around a sync that stores; the transaction goes on",
        "settings, lock and rows as if there had been no sync; the next one in the same transaction goes well",
        &format!(
            "TimeZone, jit, search_path, enable_seqscan: {}; {all}",
            settings.replace('|', " ")
        ),
    );
}

#[test]
fn helper_threads_block_all_signals() {
    let trap = Trap::at(Place::Page);
    let mut db = database();
    let pid = pid(&mut db);
    let call = call(db, trap.sync().sql());
    trap.wait();
    let helpers: Vec<_> = threads(pid).into_iter().filter(|thread| *thread != pid).collect();
    assert_eq!(helpers.len(), 1);
    let status = format!("/proc/{pid}/task/{}/status", helpers[0]);
    let status = std::fs::read_to_string(status).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
    let mask = u64::from_str_radix(mask, 16).unwrap();
    for signal in (1..32).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        assert!(mask & 1 << (signal - 1) != 0, "signal {signal} is not blocked: {mask:016x}");
    }
    cancel(&mut shared().connect("postgres"), pid);
    assert_cancelled(pid, call.join().unwrap().1);
}
