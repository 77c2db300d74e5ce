//! `ALTER EXTENSION … UPDATE` from 0.1.0 in a schema where other roles may create objects: it uses
//! none of them.

use crate::support::operators::Watched;
use crate::support::overloads::{overload, strangers};
use crate::support::releases::{UPDATE, database_of_0_1_0, fill, shelf_with_0_1_0};
use crate::support::*;

#[test]
fn an_update_uses_no_operator_and_no_function_of_others() {
    let fake = serve(world(311, "Europe/Paris", 5, "2026-10-19", "2026-10-30"));
    let url = format!("http://LocalHost:{}", fake.port());
    let mut shelf = shelf_with_0_1_0();
    let mut db = database_of_0_1_0(&mut shelf, "strangers");
    fill(&mut db, &fake, "Europe/Paris", &url);
    assert!(overload(&mut db) > 100);
    let mut watched = Watched::among_operators(&shelf.cluster, "strangers");
    run(&mut watched.db, UPDATE);
    assert_eq!(watched.used(), [""; 0]);
    run(&mut watched.db, "CALL matomo_sync_all()");
    let failed = "SELECT failures::text FROM matomo_status WHERE site_id = 1";
    assert_eq!(texts(&mut watched.db, failed), ["0"]);
    assert_equal(&mut watched.db, "visits", &oracle(&fake, "2026-10-19", "2026-10-30"));
}

/// 0.1.0 used operators that were in the schema before it: the update removes every such use.
#[test]
fn an_update_leaves_nothing_of_others_in_the_extensions_objects() {
    let mut shelf = shelf_with_0_1_0();
    run(&mut shelf.db, "CREATE DATABASE fallen");
    let mut watched = Watched::among_operators(&shelf.cluster, "fallen");
    run(&mut watched.db, "CREATE EXTENSION matomo_postgres VERSION '0.1.0'");
    let before = strangers(&mut watched.db);
    assert!(before.iter().any(|line| line.contains("matomo_")), "{before:?}");
    watched.begin_anew();
    run(&mut watched.db, UPDATE);
    assert_eq!(watched.used(), [""; 0]);
}
