//! A schema in whose place somebody puts another one while an erasure waits.

use std::thread;

use crate::support::sites::*;
use crate::support::*;

#[test]
fn an_erasure_fires_no_trigger_of_a_table_that_takes_the_place_of_another_meanwhile() {
    let fake = serve_two();
    let (name, mut db) = named_database();
    for schema in ["app", "web"] {
        run(
            &mut db,
            &format!("CREATE SCHEMA {schema}; SELECT matomo_create_table('{schema}.visits')"),
        );
        let days = format!(", '2026-10-24', '2026-10-26', destination => '{schema}.visits'");
        sync(&mut db, &fake, &days);
    }
    run(
        &mut db,
        "CREATE SEQUENCE fired; CREATE SCHEMA spare; CREATE TABLE spare.visits (LIKE app.visits);
         CREATE FUNCTION spare.fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM nextval('public.fired'); RETURN NULL; END $$;
         CREATE TRIGGER fire BEFORE DELETE ON spare.visits EXECUTE FUNCTION spare.fire()",
    );
    let visitor: String = one(&mut db, "SELECT visitorid FROM app.visits LIMIT 1");
    // The erasure has found the first table, and waits for the second.
    run(&mut db, "BEGIN; LOCK TABLE web.visits");
    let mut erasing = connect_as(&name, "postgres");
    let eraser = pid(&mut erasing);
    let call = format!("SELECT * FROM matomo_forget('{visitor}')");
    let erasure = thread::spawn(move || error(&mut erasing, &call));
    let mut other = connect_as(&name, "postgres");
    wait_until("it waits for the second table", || waits(&mut other, eraser));
    run(&mut other, "ALTER SCHEMA app RENAME TO before; ALTER SCHEMA spare RENAME TO app");
    run(&mut db, "COMMIT");
    let failed = erasure.join().unwrap();
    let message = "destination \"app.visits\" was renamed meanwhile";
    assert_says(&failed, "55000", message, &[], "Try it again");
    // A rollback does not undo it.
    assert!(!one::<bool>(&mut other, "SELECT is_called FROM fired"));
}
