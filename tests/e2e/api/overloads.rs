//! A user's functions in the extension's schema are never called instead of ours.

use crate::support::overloads::{overload, strangers, use_everything};
use crate::support::sites::serve_two;
use crate::support::*;

#[test]
fn no_call_of_ours_is_one_of_anothers() {
    let mut db = database();
    assert!(overload(&mut db) > 100);
    use_everything(&mut db, &serve_two());
}

/// A role that may create objects in the schema can do so before the extension is there.
#[test]
fn functions_that_were_there_before_the_extension_are_in_none_of_its_objects() {
    let mut db = database();
    overload(&mut db);
    run(&mut db, "DROP EXTENSION matomo_postgres; CREATE EXTENSION matomo_postgres");
    assert_eq!(strangers(&mut db), [""; 0]);
}
