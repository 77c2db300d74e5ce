//! Destinations that users created: other types, names, partitions, columns, triggers.

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::noon::settled;
use crate::support::*;

const FIRST: &str = "2026-10-24";
const LAST: &str = "2026-10-26";

fn serve_paris() -> Fake {
    serve(world(71, "Europe/Paris", 20, FIRST, LAST))
}

/// Syncs, compares, and asserts that a second sync changes nothing and that changed rows are
/// repaired.
fn assert_fills(db: &mut Client, fake: &Fake, table: &str) {
    let literal = table.replace('\'', "''");
    let sync = Sync::of(fake, FIRST, LAST).into(&literal);
    sync.run(db);
    assert_equal(db, table, &oracle(fake, FIRST, LAST));
    let rows = fingerprint(db, table);
    assert_eq!(sync.run(db).written(), 0);
    assert_eq!(fingerprint(db, table), rows);
    run(
        db,
        &format!(
            "UPDATE {table} SET country = 'Atlantis' WHERE action_id LIKE '%1\\_0';
             DELETE FROM {table} WHERE action_id LIKE '%2\\_0'"
        ),
    );
    assert!(sync.run(db).written() > 0);
    assert_equal(db, table, &oracle(fake, FIRST, LAST));
}

#[test]
fn columns_may_have_other_types_that_the_values_fit() {
    let fake = serve_paris();
    let mut db = database();
    run(
        &mut db,
        "CREATE TABLE typed (LIKE matomo_action INCLUDING DEFAULTS);
         CREATE DOMAIN seconds AS integer CHECK (value >= 0);
         ALTER TABLE typed ALTER idvisit TYPE bigint USING 0, ALTER idsite TYPE integer USING 0,
             ALTER actions TYPE smallint USING 0, ALTER visitduration TYPE seconds USING 0,
             ALTER dayssincefirstvisit TYPE integer USING 0, ALTER action_timespent TYPE integer USING 0,
             ALTER usercustomdimensions TYPE jsonb, ALTER usercustomproperties TYPE jsonb, ALTER experiments TYPE json,
             ALTER action_id TYPE varchar(40), ALTER country TYPE varchar, ALTER visitorid TYPE char(16),
             ALTER action_timestamp TYPE timestamptz(3), ALTER resolution TYPE name;
         CREATE UNIQUE INDEX ON typed (action_id)",
    );
    let sync = Sync::of(&fake, FIRST, LAST).into("typed");
    let first = sync.run(&mut db);
    let rows = fingerprint(&mut db, "typed");
    assert_eq!(sync.run(&mut db).written(), 0);
    assert_eq!(fingerprint(&mut db, "typed"), rows);
    assert_eq!(first.inserted, i64::try_from(oracle(&fake, FIRST, LAST).len()).unwrap());
    // jsonb has its own format; all else is as in a text table.
    run(
        &mut db,
        "ALTER TABLE typed ALTER usercustomproperties TYPE json USING '{}', ALTER usercustomdimensions TYPE json USING '{}'",
    );
    let mut bare = oracle(&fake, FIRST, LAST);
    let json = ["usercustomproperties", "usercustomdimensions"];
    for row in &mut bare {
        for column in json {
            let place = fake_matomo::COLUMNS.iter().position(|name| *name == column).unwrap();
            row.0[place] = Some("{}".to_owned());
        }
        let experiments = row.0.last_mut().unwrap();
        *experiments = experiments.take();
    }
    run(&mut db, "ALTER TABLE typed ALTER experiments TYPE jsonb");
    assert_equal(&mut db, "typed", &bare);
}

/// Syncs into a table with a column whose type cannot hold some values. Returns the warning and
/// the numbers of rows, of values in the column, and of values kept in `extra`.
fn misfits(make: &str, column: &str, key: &str) -> (String, [i64; 3]) {
    let fake = serve_paris();
    let (mut db, notices) = connect_with_notices(shared(), &shared().database(), "postgres");
    run(&mut db, make);
    Sync::of(&fake, FIRST, LAST).into("narrow").run(&mut db);
    let warnings = notices.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    // All other values are as in any table.
    let mut rows = oracle(&fake, FIRST, LAST);
    let place = fake_matomo::COLUMNS.iter().position(|name| *name == column).unwrap();
    let mut counts = [i64::try_from(rows.len()).unwrap(), 0, 0];
    let kept = format!("SELECT extra ->> '{key}' FROM narrow WHERE extra ? '{key}' ORDER BY 1");
    let mut kept = texts(&mut db, &kept);
    let held = format!("SELECT {column}::text FROM narrow WHERE {column} IS NOT NULL ORDER BY 1");
    let held = texts(&mut db, &held);
    (counts[1], counts[2]) = (held.len().try_into().unwrap(), kept.len().try_into().unwrap());
    let mut all: Vec<_> = rows.iter().filter_map(|row| row.0[place].clone()).collect();
    kept.extend(held);
    all.sort();
    kept.sort();
    assert_eq!(kept, all, "none is lost, none is cut");
    rows.iter_mut().for_each(|row| row.0[place] = None);
    run(&mut db, &format!("ALTER TABLE narrow ALTER {column} TYPE text USING NULL"));
    assert_equal(&mut db, "narrow", &rows);
    (warnings[0].message().to_owned(), counts)
}

#[test]
fn a_text_too_long_for_its_column_is_null_told_and_kept_whole() {
    let make = "SELECT matomo_create_table('narrow'); ALTER TABLE narrow ALTER action_title TYPE varchar(9)";
    let (told, [rows, held, kept]) = misfits(make, "action_title", "title");
    assert!(held > 0 && kept > 0, "{held}, {kept}");
    let message = format!(
        "values that do not fit the types of their columns are NULL: action_title ({kept})"
    );
    assert_eq!(told, message);
    crate::support::report::proven(
        "Data",
        "a text too long for the user's column",
        "`action_title` made `varchar(9)`",
        "NULL, told in a warning, and whole in `extra`; nothing is cut, no row is lost",
        &format!("{rows} rows, {held} titles, {kept} in `extra`; {told}"),
    );
}

#[test]
fn a_value_that_does_not_fit_its_column_is_null_told_and_kept() {
    let make = "SELECT matomo_create_table('narrow'); ALTER TABLE narrow ALTER country TYPE integer USING 0";
    let (told, [_, held, kept]) = misfits(make, "country", "country");
    assert!(held == 0 && kept > 0, "{held}, {kept}");
    assert!(
        told.starts_with("values that do not fit the types of their columns are NULL: country (")
    );
}

#[test]
fn names_may_hold_what_names_may_hold() {
    let fake = serve_paris();
    let mut db = database();
    for (schema, table) in [
        ("\"My Schema\"", "\"My Table\""),
        ("\"it's\"", "\"a \"\"b\"\" c's\""),
        ("\"select\"", "\"from\""),
        ("\"a.b\"", "\"c.d\""),
        ("\"100%s\"", "\"$1 %I\""),
        ("\"été\"", "\"🎉 日本語\""),
        ("\" \"", "\"back\\slash\""),
    ] {
        let name = format!("{schema}.{table}");
        let literal = name.replace('\'', "''");
        for partitioned in [false, true] {
            run(
                &mut db,
                &format!(
                    "CREATE SCHEMA {schema}; SELECT matomo_create_table('{literal}', {partitioned})"
                ),
            );
            assert_fills(&mut db, &fake, &name);
            run(&mut db, &format!("DROP SCHEMA {schema} CASCADE"));
        }
    }
}

#[test]
fn times_without_a_zone_are_those_of_utc_in_every_session() {
    let noon = Noon::new();
    let fake = serve(noon.world(3));
    for zone in ["America/New_York", "Asia/Tokyo"] {
        let mut db = database();
        run(
            &mut db,
            &format!(
                "SET TimeZone = '{zone}'; SELECT matomo_create_table('matomo');
                 ALTER TABLE matomo ALTER action_timestamp TYPE timestamp;
                 ALTER TABLE matomo_visits ALTER lastaction TYPE timestamp"
            ),
        );
        sync(&mut db, &fake, &format!(", '{}'", noon.text(2)));
        let gone = fake.world().site_mut(1).delete(1011).unwrap();
        let check = format!(
            "SELECT string_agg(extra || ' ' || repaired, ', ' ORDER BY day) FROM matomo_check(1, '{}', '{}', '{}', '{}', repair => true)",
            noon.text(2),
            noon.text(0),
            fake.url(),
            fake.token()
        );
        assert_eq!(one::<String>(&mut db, &check), "0 0, 1 1, 0 0", "{zone}");
        for table in ["matomo", "matomo_visits"] {
            let left = format!("SELECT count(*) FROM {table} WHERE idvisit = 1011");
            assert_eq!(one::<i64>(&mut db, &left), 0, "{table} {zone}");
        }
        fake.world().site_mut(1).add(gone);
    }
}

#[test]
fn the_hint_for_a_missing_table_makes_it() {
    let fake = serve_paris();
    let mut db = database();
    run(&mut db, "CREATE SCHEMA \"it's\"");
    for name in ["plain", "\"Mixed\"", "\"it's\".\"a \"\"b\"\" c's\""] {
        let literal = name.replace('\'', "''");
        let refused = Sync::of(&fake, FIRST, LAST).into(&literal).error(&mut db);
        let message = format!("destination \"{name}\" does not exist");
        assert_eq!((refused.code().code(), refused.message()), ("42P01", &*message));
        let cure =
            refused.hint().unwrap().strip_prefix("Create it with ").unwrap().trim_end_matches('.');
        run(&mut db, cure);
        assert_fills(&mut db, &fake, name);
    }
}

#[test]
fn a_temporary_table_is_not_taken_for_another_of_its_name() {
    let fake = serve_paris();
    let mut db = database();
    run(
        &mut db,
        "SELECT matomo_create_table('public.visits'); SET search_path = public, pg_temp;
         SELECT matomo_create_table('pg_temp.visits')",
    );
    assert_fills(&mut db, &fake, "pg_temp.visits");
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM public.visits"), 0);
}

#[test]
fn a_table_partitioned_by_site_keeps_its_partitions() {
    let fake = serve_paris();
    let mut db = database();
    run(
        &mut db,
        "CREATE TABLE by_site (LIKE matomo_action INCLUDING DEFAULTS) PARTITION BY LIST (idsite);
         CREATE TABLE site_1 PARTITION OF by_site FOR VALUES IN ('1');
         CREATE TABLE site_2 PARTITION OF by_site FOR VALUES IN ('2');
         CREATE UNIQUE INDEX ON by_site (action_id, idsite);
         INSERT INTO by_site (action_id, idsite, idvisit) VALUES ('9999999_0', '2', '9999999')",
    );
    let others = fingerprint(&mut db, "site_2");
    Sync::of(&fake, FIRST, LAST).into("by_site").run(&mut db);
    assert_equal(&mut db, "site_1", &oracle(&fake, FIRST, LAST));
    assert_eq!(fingerprint(&mut db, "site_2"), others);
    run(&mut db, "DELETE FROM site_2");
    assert_fills(&mut db, &fake, "by_site");
    run(&mut db, "DROP TABLE site_1");
    let refused = Sync::of(&fake, FIRST, LAST).into("by_site").error(&mut db);
    let found = (refused.code().code(), refused.message());
    assert_eq!(found, ("23514", "no partition of relation \"by_site\" found for row"));
}

#[test]
fn a_table_with_a_default_partition_keeps_its_partitions() {
    let fake = serve_paris();
    let mut db = database();
    run(
        &mut db,
        "SELECT matomo_create_table('caught', true);
         CREATE TABLE caught_2026w43 PARTITION OF caught FOR VALUES FROM ('2026-10-19 00:00Z') TO ('2026-10-26 00:00Z');
         CREATE TABLE caught_rest PARTITION OF caught DEFAULT",
    );
    assert_fills(&mut db, &fake, "caught");
    let parts = texts(&mut db, "SELECT DISTINCT tableoid::regclass::text FROM caught ORDER BY 1");
    assert_eq!(parts, ["caught_2026w43", "caught_rest"]);
    assert_eq!(
        one::<i64>(
            &mut db,
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'caught'::regclass"
        ),
        2
    );
}

#[test]
fn partitions_of_months_and_partitions_of_partitions_are_used() {
    let fake = serve_paris();
    let mut db = database();
    run(
        &mut db,
        "SELECT matomo_create_table('monthly', true);
         CREATE TABLE october PARTITION OF monthly FOR VALUES FROM (MINVALUE) TO ('2026-11-01 00:00Z')
             PARTITION BY HASH (action_id);
         CREATE TABLE october_0 PARTITION OF october FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE october_1 PARTITION OF october FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    );
    assert_fills(&mut db, &fake, "monthly");
    assert_eq!(
        one::<i64>(
            &mut db,
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'monthly'::regclass"
        ),
        1
    );
}

#[test]
fn columns_checks_and_triggers_of_the_users_work_on() {
    let fake = serve_paris();
    let mut db = database();
    for partitioned in [false, true] {
        run(
            &mut db,
            &format!(
                "CREATE SCHEMA shop; SET search_path = shop, public; SELECT matomo_create_table('shop.visits', {partitioned});
                 CREATE TABLE shop.continents (country text, continent text);
                 INSERT INTO shop.continents VALUES ('France', 'Europe'), ('Japan', 'Asia');
                 CREATE FUNCTION shop.continent_of(text) RETURNS text LANGUAGE sql AS
                     'SELECT c.continent FROM continents c WHERE c.country = $1';
                 CREATE FUNCTION shop.add_continent() RETURNS trigger LANGUAGE plpgsql AS
                     $$ BEGIN NEW.continent := continent_of(NEW.country); RETURN NEW; END $$"
            ),
        );
        run(
            &mut db,
            "ALTER TABLE shop.visits ADD COLUMN continent text, ADD COLUMN source text DEFAULT 'matomo',
                 ADD COLUMN number bigint GENERATED ALWAYS AS IDENTITY,
                 ADD COLUMN length integer GENERATED ALWAYS AS (length(action_url)) STORED,
                 ADD CHECK (action_type <> ''), ADD CONSTRAINT a_site CHECK (idsite::int > 0);
             CREATE TRIGGER continent BEFORE INSERT ON shop.visits FOR EACH ROW EXECUTE FUNCTION shop.add_continent()",
        );
        // From Postgres 18 on generated columns may be virtual.
        if since(&mut db, 18) {
            run(
                &mut db,
                "ALTER TABLE visits ADD COLUMN letters integer GENERATED ALWAYS AS (length(action_title)) VIRTUAL",
            );
        }
        assert_fills(&mut db, &fake, "visits");
        let wrong = "SELECT count(*) FROM visits v WHERE source IS DISTINCT FROM 'matomo'
                 OR length IS DISTINCT FROM length(action_url) OR number IS NULL
                 OR (country <> 'Atlantis' AND continent IS DISTINCT FROM continent_of(country))";
        assert_eq!(one::<i64>(&mut db, wrong), 0);
        assert!(one::<i64>(&mut db, "SELECT count(*) FROM visits WHERE continent = 'Europe'") > 0);
        // The user's notes in a row survive an update.
        run(
            &mut db,
            "UPDATE visits SET source = 'noted', visitduration = '-1' WHERE country = 'France'",
        );
        let noted = "SELECT count(*) FROM visits WHERE source = 'noted'";
        let before: i64 = one(&mut db, noted);
        assert!(Sync::of(&fake, FIRST, LAST).into("visits").run(&mut db).updated > 0);
        assert_eq!(one::<i64>(&mut db, noted), before);
        assert_equal(&mut db, "visits", &oracle(&fake, FIRST, LAST));
        // A violated check raises an error that names it.
        run(
            &mut db,
            "DELETE FROM visits; ALTER TABLE visits ADD CONSTRAINT \"no France\" CHECK (country <> 'France')",
        );
        let refused = Sync::of(&fake, FIRST, LAST).into("visits").error(&mut db);
        let message = refused.message();
        assert_eq!(refused.code().code(), "23514");
        assert!(
            message.starts_with("new row for relation ") && message.contains("\"no France\""),
            "{message}"
        );
        run(&mut db, "RESET search_path; DROP SCHEMA shop CASCADE");
    }
}

#[test]
fn blanks_at_the_end_of_a_visits_id_do_not_make_it_another_one() {
    let fake = serve_paris();
    let mut db = database();
    run(
        &mut db,
        "CREATE TABLE padded (LIKE matomo_action INCLUDING DEFAULTS);
         CREATE DOMAIN visit AS char(20);
         ALTER TABLE padded ALTER idvisit TYPE visit USING '', ALTER action_id TYPE char(40) USING '';
         CREATE UNIQUE INDEX ON padded (action_id)",
    );
    let sync = Sync::of(&fake, FIRST, LAST).into("padded");
    sync.run(&mut db);
    let rows = fingerprint(&mut db, "padded");
    assert_eq!(sync.run(&mut db).written(), 0);
    assert_eq!(fingerprint(&mut db, "padded"), rows);
}

#[test]
fn a_table_of_its_key_alone_takes_visits_that_grow() {
    let fake = serve(Noon::new().world(2));
    let mut db = settled();
    run(
        &mut db,
        "SET matomo.companions = '';
         CREATE TABLE keys (action_id text, idsite integer, idvisit bigint, action_timestamp timestamptz,
             UNIQUE (action_id, idvisit, idsite, action_timestamp))",
    );
    let call = ", current_date - 5, destination => 'keys', force => true";
    let first = sync(&mut db, &fake, call);
    let at = instant("2026-10-26T08:00:00Z");
    {
        let mut world = fake.world();
        let visit = world.site_mut(1).visits.first_mut().unwrap();
        let at = visit.actions.last().map_or(at, |action| action.at + 5);
        visit.push(fake_matomo::Action::page(at, "/more", "More"));
    }
    assert_eq!(sync(&mut db, &fake, call).inserted, 1);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM keys"), first.inserted + 1);
}

/// Known columns that a sync cannot write, or whose types have no operators where it compares.
#[test]
fn columns_of_types_without_equality_and_identity_columns_are_synced_again() {
    let (fake, mut db) = (serve_paris(), database());
    run(
        &mut db,
        "CREATE TYPE shy;
         CREATE FUNCTION shy_in(cstring) RETURNS shy IMMUTABLE STRICT LANGUAGE internal AS 'textin';
         CREATE FUNCTION shy_out(shy) RETURNS cstring IMMUTABLE STRICT LANGUAGE internal AS 'textout';
         CREATE TYPE shy (INPUT = shy_in, OUTPUT = shy_out, LIKE = text);
         SELECT matomo_create_table('visits');
         ALTER TABLE visits ALTER city TYPE shy USING NULL,
             DROP COLUMN pageid, ADD COLUMN pageid bigint GENERATED ALWAYS AS IDENTITY",
    );
    let sync = Sync::of(&fake, FIRST, LAST).into("visits");
    let first = sync.run(&mut db);
    assert_eq!(sync.run(&mut db).written(), 0);
    let numbers = "SELECT max(pageid) FROM visits";
    assert_eq!(one::<i64>(&mut db, numbers), first.inserted);
    run(&mut db, "UPDATE visits SET city = 'Elsewhere', visitduration = -1");
    assert_eq!(sync.run(&mut db).updated, first.inserted);
    assert_eq!(one::<i64>(&mut db, numbers), first.inserted);
    assert_eq!(
        one::<i64>(&mut db, "SELECT count(*) FROM visits WHERE city::text = 'Elsewhere'"),
        0
    );
}
