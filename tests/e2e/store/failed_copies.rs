//! A user's trigger or foreign key that fails during COPY: its error is passed on unchanged, and
//! the session can continue.

use postgres::Client;
use postgres::error::DbError;

use crate::support::engines::heap;
use crate::support::*;

const DAYS: [&str; 2] = ["2026-01-01", "2026-01-02"];

/// Each fault: the SQLSTATE, the SQL that causes it, and the SQL that removes it.
const FAULTS: [(&str, &str, &str); 4] = [
    (
        "P0001",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM count(*) FROM matomo;
             RAISE 'no more visits: %', repeat('ä', 20000) USING DETAIL = repeat('d', 20000), HINT = 'Wait.';
         END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON matomo FOR EACH ROW EXECUTE FUNCTION refuse()",
        "DROP TRIGGER refuse ON matomo; DROP FUNCTION refuse",
    ),
    (
        "22012",
        "CREATE FUNCTION divide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             EXECUTE 'SELECT 1 / (count(*) - count(*)) FROM matomo'; RETURN NULL;
         END $$;
         CREATE TRIGGER divide AFTER INSERT ON matomo FOR EACH ROW EXECUTE FUNCTION divide()",
        "DROP TRIGGER divide ON matomo; DROP FUNCTION divide",
    ),
    (
        "23503",
        "CREATE TABLE sites (idsite integer PRIMARY KEY);
         ALTER TABLE matomo ADD CONSTRAINT to_sites FOREIGN KEY (idsite) REFERENCES sites",
        "ALTER TABLE matomo DROP CONSTRAINT to_sites; DROP TABLE sites",
    ),
    (
        "23503",
        "CREATE TABLE sites (idsite integer PRIMARY KEY);
         ALTER TABLE matomo ADD CONSTRAINT to_sites FOREIGN KEY (idsite) REFERENCES sites
             DEFERRABLE INITIALLY DEFERRED",
        "ALTER TABLE matomo DROP CONSTRAINT to_sites; DROP TABLE sites",
    ),
];

fn assert_is(error: &DbError, state: &str) {
    assert_eq!(error.code().code(), state, "{error:?}");
    if state == "P0001" {
        assert_eq!(error.message(), format!("no more visits: {}", "ä".repeat(20_000)));
        assert_eq!(error.detail(), Some(&*"d".repeat(20_000)));
        assert_eq!(error.hint(), Some("Wait."));
    } else if state == "23503" {
        assert!(error.message().contains("violates foreign key constraint \"to_sites\""));
        assert!(error.detail().unwrap().contains("(idsite)=(1)"), "{error:?}");
    }
}

#[test]
fn what_fails_while_rows_are_copied_says_so_and_the_session_stays_usable() {
    let mut db = database();
    let fake = serve(world(62, "Europe/Berlin", 40, DAYS[0], DAYS[1]));
    let call = Sync::of(&fake, DAYS[0], DAYS[1]);
    run(&mut db, "SELECT matomo_create_table('matomo')");
    for (state, make, undo) in FAULTS {
        run(&mut db, make);
        for _ in 0..3 {
            assert_is(&call.error(&mut db), state);
            assert_is(&caught(&mut db, &call.sql()), state);
        }
        run(&mut db, undo);
        for table in ["matomo", "matomo_visits", "matomo_conversions", "matomo_items"] {
            assert_eq!(one::<i64>(&mut db, &format!("SELECT count(*) FROM {table}")), 0, "{table}");
        }
    }
    run(&mut db, "BEGIN");
    assert!(call.run(&mut db).inserted > 0);
    let left = "SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'matomo copy'";
    assert_eq!(one::<i64>(&mut db, left), 0);
    run(&mut db, "COMMIT");
    assert_tables_equal(&mut db, "matomo", &tables_between(&fake, 1, DAYS[0], DAYS[1]));
}

/// The error of a statement that a DO block caught and raised again after other work.
fn caught(db: &mut Client, sql: &str) -> DbError {
    error(
        db,
        &format!(
            "DO $do$
             DECLARE said text; detailed text; hinted text; state text;
             BEGIN
                 BEGIN
                     PERFORM * FROM ({sql}) s;
                     SET CONSTRAINTS ALL IMMEDIATE;
                 EXCEPTION WHEN OTHERS THEN
                     GET STACKED DIAGNOSTICS said = MESSAGE_TEXT, detailed = PG_EXCEPTION_DETAIL,
                         hinted = PG_EXCEPTION_HINT, state = RETURNED_SQLSTATE;
                 END;
                 PERFORM count(*) FROM matomo;
                 RAISE '%', said USING DETAIL = detailed, HINT = hinted, ERRCODE = state;
             END $do$"
        ),
    )
}

#[test]
fn the_memory_of_a_copy_is_the_transactions() {
    let mut db = heap();
    let fake = serve(world(63, "Europe/Berlin", 5, DAYS[0], DAYS[0]));
    run(
        &mut db,
        "SELECT matomo_create_table('matomo'); CREATE TABLE contexts (name text, parent text);
         CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO contexts SELECT name, parent FROM parents WHERE name = 'matomo copy';
             RETURN NULL;
         END $$;
         CREATE TRIGGER look AFTER INSERT ON matomo FOR EACH STATEMENT EXECUTE FUNCTION look()",
    );
    // Postgres 18 has no names of parents, but the path of numbers to each context.
    let parents = if since(&mut db, 18) {
        "WITH c AS MATERIALIZED (SELECT * FROM pg_backend_memory_contexts)
         SELECT c.name, p.name AS parent FROM c JOIN c p
             ON p.level = c.level - 1 AND p.path[p.level] = c.path[p.level]"
    } else {
        "SELECT name, parent FROM pg_backend_memory_contexts"
    };
    run(&mut db, &format!("CREATE VIEW parents AS {parents}"));
    Sync::of(&fake, DAYS[0], DAYS[0]).run(&mut db);
    assert_eq!(texts(&mut db, "SELECT DISTINCT parent FROM contexts"), ["TopTransactionContext"]);
    // Within a subtransaction, its own context.
    run(&mut db, "TRUNCATE contexts, matomo; BEGIN; SAVEPOINT s");
    Sync::of(&fake, DAYS[0], DAYS[0]).run(&mut db);
    run(&mut db, "COMMIT");
    assert_eq!(texts(&mut db, "SELECT DISTINCT parent FROM contexts"), ["CurTransactionContext"]);
}
