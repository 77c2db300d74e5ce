//! Syncs leave no thread, socket, file or memory behind, however they end.

use std::thread;

use fake_matomo::{Fake, Fault, When};
use postgres::Client;
use postgres::error::SqlState;

use crate::support::cluster::shared;
use crate::support::footprint::Footprint;
use crate::support::traps::*;
use crate::support::*;

#[test]
fn a_helper_that_hangs_in_a_connect_ends_with_the_connect_timeout() {
    let trap = Trap::at(Place::Connect);
    let mut db = database();
    db.batch_execute("SET matomo.connect_timeout = '2s'").unwrap();
    let pid = pid(&mut db);
    let before = Footprint::of(pid);
    let call = call(db, trap.sync().sql());
    trap.wait();
    cancel(&mut shared().connect("postgres"), pid);
    let (mut db, result, _) = call.join().unwrap();
    assert_eq!(end_of(result), cancelled("user request"));
    // Meanwhile the session works.
    Sync::of(&trap.fake, FIRST, LAST).run(&mut db);
    wait_until("the helper's end", || threads(pid).len() == before.threads);
    // Except the connection that the successful sync keeps.
    assert!(Footprint::of(pid).sockets <= before.sockets + 1);
}

const WARM_UP: usize = 20;
const CALLS: usize = 200;

/// Makes many calls in one session and asserts that nothing of them remains.
fn leaves_nothing_behind(
    what: &str,
    fake: &Fake,
    db: &mut Client,
    mut call: impl FnMut(&mut Client),
) {
    let pid = pid(db);
    (0..WARM_UP).for_each(|_| call(db));
    let before = Footprint::of(pid);
    (0..CALLS).for_each(|_| call(db));
    // The kernel lists a joined thread for a moment longer.
    let after = Footprint::at_rest(pid, |now| now.threads <= before.threads);
    println!("{CALLS} {what} calls: {before:?} then {after:?}");
    assert_eq!(after.threads, before.threads, "{what}");
    assert_eq!(after.sockets, before.sockets, "{what}");
    assert_eq!(after.files, before.files, "{what}");
    assert!(after.memory < before.memory + 2048, "{what}: {before:?} {after:?}");
    // One may be kept for the next call.
    wait_until("closed connections", || fake.open_connections() <= 1);
}

#[test]
fn two_hundred_cancelled_calls_leave_nothing_behind() {
    for place in [Place::Site, Place::Body] {
        let trap = Trap::at(place);
        let mut db = database();
        db.batch_execute("SELECT matomo_create_table('matomo')").unwrap();
        let (pid, sql) = (pid(&mut db), trap.sync().sql());
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut other = shared().connect("postgres");
                for number in 1..=WARM_UP + CALLS {
                    wait_until("the next call", || {
                        let requests = trap.fake.requests();
                        requests.iter().filter(|request| request.fault.is_some()).count() == number
                    });
                    cancel(&mut other, pid);
                }
            });
            leaves_nothing_behind(&format!("cancelled ({place:?})"), &trap.fake, &mut db, |db| {
                assert_eq!(end_of(db.batch_execute(&sql)), cancelled("user request"));
            });
        });
        syncs_well_again(&mut db, &trap.fake);
    }
}

fn syncs_well_again(db: &mut Client, fake: &Fake) {
    fake.heal();
    Sync::of(fake, FIRST, LAST).run(db);
    assert_equal(db, "matomo", &oracle(fake, FIRST, LAST));
}

#[test]
fn two_hundred_failed_calls_leave_nothing_behind() {
    let fake = serve(world(4, "UTC", 10, FIRST, LAST));
    fake.fail(Fault::Status(500, fake_matomo::Page::Html), When::live());
    let mut db = database();
    db.batch_execute("SET matomo.max_retries = 0; SELECT matomo_create_table('matomo')").unwrap();
    let sync = Sync::of(&fake, FIRST, LAST);
    leaves_nothing_behind("failed", &fake, &mut db, |db| {
        assert_eq!(*sync.error(db).code(), SqlState::CONNECTION_FAILURE);
    });
    syncs_well_again(&mut db, &fake);
}

#[test]
fn two_hundred_syncs_leave_nothing_behind() {
    let fake = serve(world(5, "UTC", 3, FIRST, FIRST));
    let mut db = database();
    let sync = Sync::of(&fake, FIRST, FIRST);
    leaves_nothing_behind("successful", &fake, &mut db, |db| {
        let sums = sync.run(db);
        assert!(sums.inserted > 0);
        db.batch_execute("TRUNCATE matomo").unwrap();
    });
}
