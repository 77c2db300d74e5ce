//! Destinations that cannot be written to are refused before the first request to Matomo.

use super::*;

impl Stage {
    /// `refuses`, without a request to Matomo.
    #[track_caller]
    fn refuses_to_write_to(&mut self, destination: &str) -> DbError {
        let quoted = format!("'{}'", destination.replace('\'', "''"));
        let error = self.refuses(&[("destination", &quoted)]);
        assert_eq!(self.fake.requests().len(), 0, "asked before looking at the destination");
        error
    }
}

#[test]
fn a_missing_destination_is_refused_with_the_statement_that_makes_it() {
    let mut stage = Stage::new();
    stage.execute("CREATE SCHEMA web");
    for name in ["visits", "web.visits", "nowhere.visits", "\"Visits of o'brien\""] {
        let error = stage.refuses_to_write_to(name);
        let statement = format!("SELECT matomo_create_table('{}')", name.replace('\'', "''"));
        let message = format!("destination \"{name}\" does not exist");
        expect(&error, "42P01", &message, "", &statement);
    }
    // The hint can be followed to the letter.
    let error = stage.refuses_to_write_to("web.\"o'brien\"");
    let hint = error.hint().unwrap();
    let statement = &hint[hint.find("SELECT").unwrap()..hint.rfind('.').unwrap()];
    stage.empty.batch_execute(statement).unwrap();
    let call = stage.call("web.\"o''brien\"", &[]);
    stage.empty.query(&call, &[]).unwrap();
    assert_equal(&mut stage.empty, "web.\"o'brien\"", &oracle(&stage.fake, FIRST, LAST));
}

#[test]
fn a_standard_name_in_a_missing_schema_is_refused() {
    let mut stage = Stage::new();
    let error = stage.refuses_to_write_to("nowhere.matomo");
    expect(&error, "3F000", "schema \"nowhere\" does not exist", "", "");
}

#[test]
fn names_that_are_none_are_refused() {
    let mut stage = Stage::new();
    for name in ["", "two words", "a.", "\"open", "matomo; DROP TABLE matomo"] {
        let error = stage.refuses_to_write_to(name);
        // The second one from Postgres 16 on.
        let found = (error.code().code(), error.message());
        let is_said = found == ("42602", "invalid name syntax")
            || found.0 == "22023" && found.1.starts_with("string is not a valid identifier: ");
        assert!(is_said, "{error:?}");
    }
    for (name, state, message) in [
        ("a.b.matomo", "0A000", "cross-database references are not implemented: \"a.b.matomo\""),
        ("a.b.c.d", "42601", "improper relation name (too many dotted names): a.b.c.d"),
    ] {
        let error = stage.refuses_to_write_to(name);
        expect(&error, state, message, "", "");
    }
}

#[test]
fn what_is_no_table_is_refused() {
    let mut stage = Stage::new();
    stage.execute(
        "CREATE VIEW a_view AS SELECT * FROM matomo_action;
         CREATE MATERIALIZED VIEW a_materialized_view AS SELECT * FROM matomo_action;
         CREATE SEQUENCE a_sequence;
         CREATE TYPE a_type AS (action_id text);
         CREATE TABLE a_table (LIKE matomo_action);
         CREATE UNIQUE INDEX an_index ON a_table (action_id);
         CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nothing FOREIGN DATA WRAPPER nothing;
         CREATE FOREIGN TABLE a_foreign_table (action_id text) SERVER nothing",
    );
    for (name, what) in [
        ("a_view", "a view"),
        ("a_materialized_view", "a materialized view"),
        ("a_sequence", "a sequence"),
        ("an_index", "an index"),
        (
            "a_foreign_table",
            "a foreign table whose server does not allow INSERT, UPDATE and DELETE",
        ),
        ("a_type", "not a table"),
    ] {
        let error = stage.refuses_to_write_to(name);
        let message = format!("destination \"public.{name}\" is {what}");
        expect(&error, "42809", &message, "", "the name of a table, partitioned or not");
    }
}

#[test]
fn all_key_columns_that_a_destination_lacks_are_named() {
    let mut stage = Stage::new();
    stage.execute(
        "CREATE TABLE few (action_id text UNIQUE, idsite text, \"IdVisit\" text);
         CREATE TABLE one_less (LIKE matomo_action, UNIQUE (action_id));
         ALTER TABLE one_less DROP COLUMN idsite",
    );
    let message = |name: &str| format!("destination \"public.{name}\" lacks columns");
    let hint = "ALTER TABLE ... ADD COLUMN";
    let error = stage.refuses_to_write_to("few");
    let detail = format!("Missing: {}.", ["idvisit", "action_timestamp"].join(", "));
    expect(&error, "42703", &message("few"), &detail, hint);
    let error = stage.refuses_to_write_to("one_less");
    expect(&error, "42703", &message("one_less"), "Missing: idsite.", hint);
}

#[test]
fn a_destination_without_a_unique_index_of_use_is_refused() {
    let mut stage = Stage::new();
    let detail = "A sync needs a valid unique index, neither partial nor deferrable, on action_id, \
        alone or with action_timestamp, idsite or idvisit.";
    let hint = "CREATE UNIQUE INDEX ON public.t (action_id)";
    for (what, table, index) in [
        ("none", "", ""),
        ("not unique", "", "CREATE INDEX ON t (action_id)"),
        ("partial", "", "CREATE UNIQUE INDEX ON t (action_id) WHERE idsite = 1"),
        ("an expression", "", "CREATE UNIQUE INDEX ON t (lower(action_id))"),
        ("of other columns", "", "CREATE UNIQUE INDEX ON t (idvisit, action_timestamp)"),
        ("of other columns too", "", "CREATE UNIQUE INDEX ON t (action_id, country)"),
        ("deferrable", "", "ALTER TABLE t ADD UNIQUE (action_id) DEFERRABLE"),
        ("deferred", "", "ALTER TABLE t ADD UNIQUE (action_id) DEFERRABLE INITIALLY DEFERRED"),
        (
            "invalid",
            "PARTITION BY RANGE (action_timestamp)",
            "CREATE TABLE part PARTITION OF t DEFAULT;
             CREATE UNIQUE INDEX ON ONLY t (action_id, action_timestamp)",
        ),
    ] {
        stage.execute(&format!("CREATE TABLE t (LIKE matomo_action) {table}; {index}"));
        let error = stage.refuses_to_write_to("t");
        assert_eq!(one::<i64>(&mut stage.db, "SELECT count(*) FROM t"), 0, "{what}");
        expect(
            &error,
            "42P10",
            "destination \"public.t\" has no usable unique index",
            detail,
            hint,
        );
        stage.execute("DROP TABLE t");
    }
    // The other kind of invalid index, left behind by a failed CREATE INDEX CONCURRENTLY.
    stage.execute("CREATE TABLE t (LIKE matomo_action); INSERT INTO t (action_id, idvisit, action_timestamp) VALUES (1, 1, now()), (1, 1, now())");
    for db in [&mut stage.db, &mut stage.empty] {
        let failed = error(db, "CREATE UNIQUE INDEX CONCURRENTLY half ON t (action_id)");
        assert_eq!(failed.code().code(), "23505");
    }
    let error = stage.refuses_to_write_to("t");
    expect(&error, "42P10", "destination \"public.t\" has no usable unique index", detail, hint);
}

#[test]
fn unusual_indexes_and_tables_of_use_are_not_refused() {
    let mut stage = Stage::new();
    let oracle = oracle(&stage.fake, FIRST, LAST);
    for (options, index) in [
        ("", "CREATE UNIQUE INDEX ON t (action_id) INCLUDE (country)"),
        ("", "CREATE UNIQUE INDEX ON t (idsite, action_id)"),
        ("", "CREATE UNIQUE INDEX ON t (action_timestamp DESC, idvisit, action_id)"),
        ("", "ALTER TABLE t ADD PRIMARY KEY (action_id)"),
        (
            "PARTITION BY HASH (action_id)",
            "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0); ALTER TABLE t ADD UNIQUE (action_id)",
        ),
        (
            "PARTITION BY RANGE (action_timestamp)",
            "CREATE TABLE t0 PARTITION OF t DEFAULT; ALTER TABLE t ADD UNIQUE (action_id, action_timestamp)",
        ),
    ] {
        stage
            .empty
            .batch_execute(&format!("CREATE TABLE t (LIKE matomo_action) {options}; {index}"))
            .unwrap();
        let call = stage.call("t", &[]);
        for times in 0..2 {
            let sums = Sums::of(&stage.empty.query(&call, &[]).unwrap());
            assert_eq!(sums.inserted == 0, times == 1, "{index}: {sums:?}");
            assert_equal(&mut stage.empty, "t", &oracle);
        }
        stage.empty.batch_execute("DROP TABLE t").unwrap();
    }
}

#[test]
fn what_the_users_own_constraints_refuse_leaves_nothing_behind() {
    let mut stage = Stage::new();
    stage
        .db
        .batch_execute(
            "ALTER TABLE matomo ADD CONSTRAINT no_news CHECK (action_eventcategory <> 'News')",
        )
        .unwrap();
    let call = stage.call("matomo", &[]);
    let refused = error(&mut stage.db, &call);
    let message = "new row for relation \"matomo\" violates check constraint \"no_news\"";
    assert_eq!((refused.code().code(), refused.message()), ("23514", message));
    assert!(!format!("{refused:?}").contains("secret"), "{refused:?}");
    stage.assert_untouched();
    stage.db.batch_execute("ALTER TABLE matomo DROP CONSTRAINT no_news; CREATE UNIQUE INDEX own ON matomo (idvisit, action_type, action_timestamp) WHERE action_eventcategory = 'News'").unwrap();
    stage.db.batch_execute("ALTER TABLE matomo ALTER COLUMN city SET NOT NULL").unwrap_err();
    stage.db.batch_execute("DROP INDEX own").unwrap();
    stage.recovers();
}
