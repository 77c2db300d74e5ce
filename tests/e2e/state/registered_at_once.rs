//! Two sessions that register the same site at once.

use std::thread::{self, JoinHandle};

use postgres::error::DbError;

use crate::support::cluster::shared;
use crate::support::sites::*;
use crate::support::*;

const MESSAGE: &str = "site 1 of server \"analytics\" is already registered for \"public.matomo\"";
const HINT: &str = "Change it with matomo_alter_site; the view matomo_sites has its ID.";

/// Starts a statement in another session and waits until it waits for the first one. Returns its
/// error.
fn begin(database: &str, sql: &str) -> JoinHandle<Option<DbError>> {
    let (mut second, mut watcher) = (shared().connect(database), shared().connect(database));
    let (pid, sql) = (pid(&mut second), sql.to_owned());
    let call = thread::spawn(move || {
        second.batch_execute(&sql).err().map(|error| error.as_db_error().unwrap().clone())
    });
    wait_until("the second session waits for the first", || {
        assert!(!call.is_finished(), "it does not wait");
        waits(&mut watcher, pid)
    });
    call
}

#[test]
fn the_second_waits_for_the_first_and_is_told_of_it() {
    let fake = serve_two();
    let (name, mut one_of_two) = named_database();
    let db = &mut one_of_two;
    server(db, &fake);
    run(db, "SELECT matomo_create_table('matomo')");
    let id: i32 = one(db, "SELECT matomo_add_site('analytics', 2)");
    let add = "SELECT matomo_add_site('analytics', 1)".to_owned();
    let alter = format!("SELECT matomo_alter_site({id}, site => 1)");
    let count = "SELECT count(*) FROM matomo_sites WHERE idsite = 1";
    for (first, second) in [(&add, &add), (&add, &alter), (&alter, &add)] {
        run(db, &format!("BEGIN; {first}"));
        let call = begin(&name, second);
        run(db, "COMMIT");
        let refused = call.join().unwrap().expect("it is registered");
        assert_says(&refused, "23505", MESSAGE, &[], HINT);
        assert_eq!(one::<i64>(db, count), 1);
        run(
            db,
            &format!(
                "SELECT matomo_remove_site(s.id) FROM matomo_sites s WHERE s.idsite = 1 AND s.id <> {id}"
            ),
        );
        run(db, &format!("SELECT matomo_alter_site({id}, site => 2)"));
    }
    // The first session rolls back.
    run(db, &format!("BEGIN; {add}"));
    let call = begin(&name, &add);
    run(db, "ROLLBACK");
    assert_eq!(call.join().unwrap().map(|error| error.to_string()), None);
    assert_eq!(one::<i64>(db, count), 1);
}

#[test]
fn a_change_of_a_site_that_has_become_another_one_is_refused() {
    let fake = serve_two();
    let (name, mut one_of_two) = named_database();
    let db = &mut one_of_two;
    server(db, &fake);
    let id: i32 = one(db, "SELECT matomo_add_site('analytics', 2)");
    run(db, &format!("BEGIN; SELECT matomo_alter_site({id}, site => 1)"));
    let call = begin(&name, &format!("SELECT matomo_alter_site({id}, start_date => '2026-10-24')"));
    run(db, "COMMIT");
    let refused = call.join().unwrap().expect("it would name site 1 as site 2");
    let message = format!("registered site {id} was changed meanwhile");
    assert_says(&refused, "40001", &message, &[], "matomo_sites");
}

#[test]
fn a_transaction_that_cannot_see_the_first_is_to_be_tried_again() {
    let fake = serve_two();
    let (name, mut one_of_two) = named_database();
    let db = &mut one_of_two;
    server(db, &fake);
    run(db, "SELECT matomo_create_table('matomo')");
    let add = "SELECT matomo_add_site('analytics', 1)";
    run(db, &format!("BEGIN; {add}"));
    let call = begin(&name, &format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {add}"));
    run(db, "COMMIT");
    let refused = call.join().unwrap().expect("it is registered");
    let message =
        "could not serialize access: the registration of this site is newer than the transaction";
    assert_says(&refused, "40001", message, &[], "Try the transaction again.");
}
