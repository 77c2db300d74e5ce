//! The extension's own schema: the template, tables and partitions created from it, comments.

use postgres::Client;

use crate::support::cluster::shared;
use crate::support::*;

/// The Node tool's columns, types and order.
const NODE_COLUMNS: &str = "action_id text not null, idsite text, idvisit text, actions text, country text, region text, \
    city text, operatingsystemname text, devicemodel text, devicebrand text, visitduration text, \
    dayssincefirstvisit text, visitortype text, sitename text, userid text, serverdateprettyfirstaction date, \
    action_type text, action_eventcategory text, action_eventaction text, action_eventname text, \
    action_eventvalue numeric, action_timespent text, action_timestamp timestamp with time zone not null default now(), \
    usercustomproperties json, usercustomdimensions json, dimension1 text, dimension2 text, dimension3 text, \
    dimension4 text, dimension5 text, dimension6 text, dimension7 text, dimension8 text, dimension9 text, \
    dimension10 text, action_url text, sitesearchkeyword text, action_title text, visitorid text, referrertype text, \
    referrername text, resolution text, experiments jsonb";

/// Ours: the same columns with proper types, then the other columns of an action.
const COLUMNS: &str = "action_id text not null, idsite integer, idvisit bigint not null, actions integer, country text, \
    region text, city text, operatingsystemname text, devicemodel text, devicebrand text, visitduration integer, \
    dayssincefirstvisit integer, visitortype text, sitename text, userid text, serverdateprettyfirstaction date, \
    action_type text, action_eventcategory text, action_eventaction text, action_eventname text, \
    action_eventvalue numeric, action_timespent integer, action_timestamp timestamp with time zone not null default now(), \
    usercustomproperties jsonb, usercustomdimensions jsonb, dimension1 text, dimension2 text, dimension3 text, \
    dimension4 text, dimension5 text, dimension6 text, dimension7 text, dimension8 text, dimension9 text, \
    dimension10 text, action_url text, sitesearchkeyword text, action_title text, visitorid text, referrertype text, \
    referrername text, resolution text, experiments jsonb, day date, pageid bigint, pageidaction bigint, \
    idpageview text, pageviewposition integer, pageloadtimemilliseconds integer, goalid integer, goalname text, \
    revenue numeric, orderid text, items integer, contentname text, contentpiece text, contenttarget text, \
    contentinteraction text, sitesearchcategory text, sitesearchcount integer, productviewsku text, \
    productviewname text, productviewprice numeric, productviewcategories text[], extra jsonb";

/// Session timezones and date styles, which must not change any result.
const SESSIONS: [(&str, &str); 8] = [
    ("UTC", "ISO, MDY"),
    ("Europe/Paris", "German"),
    ("America/Los_Angeles", "SQL, MDY"),
    ("Asia/Kolkata", "SQL, DMY"),
    ("Pacific/Kiritimati", "Postgres, DMY"),
    ("Pacific/Marquesas", "Postgres, MDY"),
    ("Etc/GMT+12", "ISO, YMD"),
    ("<+0330>-3:30", "German, DMY"),
];

fn columns(db: &mut Client, table: &str) -> String {
    one(
        db,
        &format!(
            "SELECT string_agg(concat(a.attname, ' ', format_type(a.atttypid, a.atttypmod),
                 CASE WHEN a.attnotnull THEN ' not null' END, ' default ' || pg_get_expr(d.adbin, d.adrelid)),
                 ', ' ORDER BY a.attnum)
             FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
             WHERE a.attrelid = '{table}'::regclass AND a.attnum > 0"
        ),
    )
}

/// The method and columns of each index.
fn indexes(db: &mut Client, table: &str) -> Vec<String> {
    texts(
        db,
        &format!(
            "SELECT concat(CASE WHEN i.indisunique THEN 'unique ' END, regexp_replace(pg_get_indexdef(indexrelid), '.* USING ', ''))
             FROM pg_index i WHERE i.indrelid = '{table}'::regclass ORDER BY 1"
        ),
    )
}

/// The bounds of all partitions in UTC.
fn partitions(db: &mut Client, parent: &str) -> Vec<String> {
    run(db, "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'");
    texts(
        db,
        &format!(
            "SELECT c.relname || ' ' || pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i
             JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = '{parent}'::regclass ORDER BY 1"
        ),
    )
}

#[test]
fn a_table_has_typed_columns_or_those_of_the_node_tool() {
    let mut db = database();
    run(
        &mut db,
        "SELECT matomo_create_table('plain'), matomo_create_table('weekly', true),
             matomo_create_table('node', layout => 'node'),
             matomo_create_table('node_weekly', true, layout => 'node')",
    );
    for table in ["matomo_action", "plain", "weekly"] {
        assert_eq!(columns(&mut db, table), COLUMNS, "{table}");
    }
    let of_key = NODE_COLUMNS.replace("idvisit text", "idvisit text not null");
    assert_eq!(columns(&mut db, "matomo_action_node"), NODE_COLUMNS);
    for table in ["node", "node_weekly"] {
        assert_eq!(columns(&mut db, table), of_key, "{table}");
    }
    assert_eq!(fake_matomo::COLUMNS.len(), NODE_COLUMNS.split(", ").count());
    for (layout, code) in [("'mine'", "22023"), ("NULL", "22004")] {
        let refused =
            error(&mut db, &format!("SELECT matomo_create_table('other', layout => {layout})"));
        assert_eq!(refused.code().code(), code, "{layout}");
    }
}

#[test]
fn indexes_are_those_that_are_promised() {
    let mut db = database();
    run(&mut db, "SELECT matomo_create_table('plain'), matomo_create_table('weekly', true)");
    assert_eq!(
        indexes(&mut db, "plain"),
        ["btree (action_timestamp)", "unique btree (idvisit, action_id)"]
    );
    let weekly = ["unique btree (idvisit, action_id, action_timestamp)"];
    assert_eq!(indexes(&mut db, "weekly"), weekly);
    run(&mut db, "SELECT matomo_create_partitions('weekly', '2026-11-18', '2026-11-18')");
    assert_eq!(indexes(&mut db, "weekly_2026w47"), weekly);
    assert_eq!(indexes(&mut db, "matomo_action"), [""; 0]);
}

#[test]
fn no_index_refuses_a_long_text() {
    let mut db = database();
    run(
        &mut db,
        "SELECT matomo_create_table('plain'), matomo_create_table('weekly', true);
         SELECT matomo_create_partitions('weekly', '2026-11-18', '2026-11-18');
         CREATE TEMP TABLE long AS
             SELECT string_agg(md5(i::text), '') AS text FROM generate_series(1, 32768) i",
    );
    assert_eq!(one::<i32>(&mut db, "SELECT length(text) FROM long"), 1_048_576);
    for table in ["plain", "weekly"] {
        let long = texts(
            &mut db,
            &format!(
                "SELECT attname::text FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0
                 AND atttypid = 'text'::regtype AND attname <> 'action_id'"
            ),
        );
        assert_eq!(long.len(), 40);
        let values = vec!["text"; long.len()].join(", ");
        let insert = format!(
            "INSERT INTO {table} (action_id, idsite, idvisit, action_timestamp, usercustomproperties, {})
             SELECT '1_0', 1, 1, '2026-11-18', to_jsonb(text), {values} FROM long",
            long.join(", ")
        );
        run(&mut db, &insert);
        let whole =
            format!("SELECT count(*) FROM {table}, long WHERE action_url = text AND city = text");
        assert_eq!(one::<i64>(&mut db, &whole), 1);
    }
}

#[test]
fn comments_are_copied_to_every_table() {
    let mut db = database();
    run(&mut db, "SELECT matomo_create_table('plain'), matomo_create_table('weekly', true)");
    let comments = |db: &mut Client, table: &str| {
        texts(
            db,
            &format!(
                "SELECT attname || ': ' || col_description(attrelid, attnum) FROM pg_attribute
                 WHERE attrelid = '{table}'::regclass AND attnum > 0 ORDER BY attnum"
            ),
        )
    };
    let template = comments(&mut db, "matomo_action");
    assert_eq!(template.len(), 65);
    assert!(
        template[22].starts_with("action_timestamp: When the action happened"),
        "{}",
        template[22]
    );
    for table in ["plain", "weekly"] {
        assert_eq!(comments(&mut db, table), template);
        let own: String = one(&mut db, &format!("SELECT obj_description('{table}'::regclass)"));
        assert_eq!(own, "Matomo actions, one row per action of a visit");
    }
}

#[test]
fn everything_of_the_extension_has_a_comment() {
    let mut db = database();
    let members = "pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
         WHERE e.extname = 'matomo_postgres' AND d.deptype = 'e'";
    assert!(one::<i64>(&mut db, &format!("SELECT count(*) FROM {members}")) >= 4);
    let mute = texts(
        &mut db,
        &format!(
            "SELECT pg_describe_object(d.classid, d.objid, 0) FROM {members}
                 -- Since Postgres 17 the types of tables and views are members too.
                 AND d.classid <> 'pg_type'::regclass
                 AND coalesce(obj_description(d.objid, d.classid::regclass::name), '') = ''
             UNION ALL
             SELECT pg_describe_object(d.classid, d.objid, a.attnum) FROM pg_attribute a, {members}
                 AND d.classid = 'pg_class'::regclass AND a.attrelid = d.objid AND a.attnum > 0
                 AND d.objid NOT IN (SELECT oid FROM pg_class WHERE relkind = 'S')
                 AND coalesce(col_description(a.attrelid, a.attnum), '') = ''
             UNION ALL
             SELECT 'extension ' || extname FROM pg_extension
             WHERE extname = 'matomo_postgres' AND coalesce(obj_description(oid, 'pg_extension'), '') = ''"
        ),
    );
    assert_eq!(mute, [""; 0]);
    run(&mut db, "LOAD 'matomo_postgres'");
    let settings = "SELECT count(*), count(*) FILTER (WHERE short_desc LIKE '%.') FROM pg_settings WHERE name LIKE 'matomo.%'";
    let row = db.query_one(settings, &[]).unwrap();
    let (all, told): (i64, i64) = (row.get(0), row.get(1));
    assert!(all >= 10 && told == all, "{told} of {all} settings are described");
}

#[test]
fn a_table_goes_where_its_name_says_and_belongs_to_the_caller() {
    let (name, mut admin) = named_database();
    let maker = role(&mut admin);
    run(
        &mut admin,
        &format!(
            "CREATE SCHEMA mine AUTHORIZATION {maker}; CREATE SCHEMA \"Other One\" AUTHORIZATION {maker}"
        ),
    );
    let mut db = shared().connect_as(&name, &maker);
    run(&mut db, "SET search_path = mine, public");
    for (given, made) in [
        ("visits", "mine.visits"),
        ("Mixed", "mine.mixed"),
        (r#""Mixed""#, r#"mine."Mixed""#),
        (r#""Other One"."it''s ""here"".""#, r#""Other One"."it's ""here"".""#),
        (r#" "Other One" . plain "#, r#""Other One".plain"#),
    ] {
        for partitioned in [false, true] {
            run(&mut db, "SET search_path = mine, public");
            let call = format!("SELECT matomo_create_table('{given}', {partitioned})::oid");
            let oid: u32 = one(&mut db, &call);
            run(&mut db, "SET search_path = pg_catalog");
            assert_eq!(one::<String>(&mut db, &format!("SELECT {oid}::regclass::text")), made);
            let facts = format!(
                "SELECT relowner::regrole::text || ' ' || relkind::text FROM pg_class WHERE oid = {oid}"
            );
            let kind = if partitioned { 'p' } else { 'r' };
            assert_eq!(one::<String>(&mut db, &facts), format!("{maker} {kind}"));
            // Its companions are in the same schema.
            let all = format!(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables \
                 WHERE tableowner = '{maker}' ORDER BY length(tablename)"
            );
            let all = texts(&mut admin, &all);
            let schema = made.rsplit_once('.').map(|_| all[0].trim_end_matches(made)).unwrap();
            assert_eq!((all[0].as_str(), schema, all.len()), (made, "", 4), "{all:?}");
            run(&mut db, &format!("DROP TABLE {}", all.join(", ")));
        }
    }
}

#[test]
fn a_table_that_cannot_be_is_refused() {
    let (name, mut admin) = named_database();
    let maker = role(&mut admin);
    run(&mut admin, &format!("CREATE SCHEMA open AUTHORIZATION {maker}; CREATE SCHEMA closed"));
    let mut db = shared().connect_as(&name, &maker);
    run(&mut db, "SET search_path = open, public; SELECT matomo_create_table('there')");
    let long = |letters: usize| "ü".repeat(letters / 2) + &"x".repeat(letters % 2);
    let refused =
        |state: &str, message: &str, hint: Option<&str>, arguments: &str, db: &mut Client| {
            let error = error(db, &format!("SELECT public.matomo_create_table({arguments})"));
            assert_eq!((error.code().code(), error.message()), (state, message), "{arguments}");
            assert_eq!(error.hint().is_some(), hint.is_some(), "{arguments}: {error:?}");
            let words = hint.unwrap_or_default();
            assert!(error.hint().unwrap_or_default().contains(words), "{arguments}: {error:?}");
        };
    let null = "arguments of matomo_create_table must not be null";
    refused("22004", null, None, "NULL", &mut db);
    refused("22004", null, None, "'x', NULL", &mut db);
    let dots = "improper relation name (too many dotted names): a.b.c";
    let which = "a schema and a table";
    refused("42602", dots, Some(which), "'a.b.c'", &mut db);
    let lengths = "at most 63 bytes";
    for (length, partitioned) in [(64, false), (56, true)] {
        let too_long = long(length);
        let message = format!("table name \"{too_long}\" is too long");
        refused("42622", &message, Some(lengths), &format!("'{too_long}', {partitioned}"), &mut db);
    }
    refused("42P07", "relation \"there\" already exists", None, "'there'", &mut db);
    refused("42P07", "relation \"there\" already exists", None, "'open.there', true", &mut db);
    refused("3F000", "schema \"nowhere\" does not exist", None, "'nowhere.x'", &mut db);
    refused("42501", "permission denied for schema closed", None, "'closed.x'", &mut db);
    for (bad, message) in [("", ""), ("a b", "a b"), ("\"open", "\"open"), ("a.", "a.")] {
        let message = format!("string is not a valid identifier: \"{message}\"");
        refused("22023", &message, None, &format!("'{bad}'"), &mut db);
    }
    run(&mut db, "SET search_path = ''");
    let name_one = "search_path";
    refused("3F000", "no schema has been selected to create in", Some(name_one), "'x'", &mut db);
    run(&mut db, "SET search_path = open");
    let shorter = "a shorter name";
    for (longest, partitioned) in [(51, false), (43, true)] {
        let too_long = long(longest + 1);
        let message = format!("table name \"{too_long}_conversions\" is too long");
        refused("42622", &message, Some(shorter), &format!("'{too_long}', {partitioned}"), &mut db);
    }
    // The longest allowed names work.
    for (companions, plain, weekly) in [("visits, conversions, items", 51, 43), ("", 63, 55)] {
        let weekly = long(weekly);
        run(
            &mut db,
            &format!(
                "SET matomo.companions = '{companions}'; SELECT public.matomo_create_table('{}');
                 SELECT public.matomo_create_table('{weekly}', true);
                 SELECT public.matomo_create_partitions('{weekly}', '2026-11-18', '2026-11-18')",
                long(plain)
            ),
        );
        let made = format!("SELECT count(*) FROM pg_class WHERE relname = '{weekly}_2026w47'");
        assert_eq!(one::<i64>(&mut db, &made), 1);
    }
}

#[test]
fn the_extension_lives_in_any_schema() {
    let name = shared().database();
    let mut db = shared().connect(&name);
    let fake = serve(world(43, "UTC", 5, "2026-11-02", "2026-11-03"));
    let oracle = oracle(&fake, "2026-11-02", "2026-11-03");
    run(
        &mut db,
        "DROP EXTENSION matomo_postgres; CREATE SCHEMA \"100% Ours\"; CREATE EXTENSION matomo_postgres SCHEMA \"100% Ours\"",
    );
    for table in ["matomo", "matomo_partitioned"] {
        let sync = Sync::of(&fake, "2026-11-02", "2026-11-03").into(table);
        run(&mut db, &sync.sql().replace("matomo_sync", "\"100% Ours\".matomo_sync"));
        run(&mut db, "SET search_path = public, \"100% Ours\"");
        assert_equal(&mut db, table, &oracle);
        assert_eq!(sync.run(&mut db).written(), 0);
        run(&mut db, "RESET search_path");
        let schema = format!(
            "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = '{table}'::regclass"
        );
        assert_eq!(one::<String>(&mut db, &schema), "public");
    }
}

#[test]
fn weeks_begin_on_monday_in_utc_whatever_the_session_says() {
    let mut expected = vec![];
    for (week, from, to) in [
        ("2026w52", "2026-12-21", "2026-12-28"),
        ("2026w53", "2026-12-28", "2027-01-04"),
        ("2027w01", "2027-01-04", "2027-01-11"),
    ] {
        expected.push(format!(
            "weekly_{week} FOR VALUES FROM ('{from} 00:00:00+00') TO ('{to} 00:00:00+00')"
        ));
    }
    for (zone, style) in SESSIONS {
        let mut db = database();
        run(
            &mut db,
            &format!(
                "SET TimeZone = '{zone}'; SET DateStyle = '{style}'; SET IntervalStyle = 'sql_standard';
                 SELECT matomo_create_table('weekly', true)"
            ),
        );
        let make = |db: &mut Client, from: &str, to: &str| -> i32 {
            one(db, &format!("SELECT matomo_create_partitions('weekly', '{from}', '{to}')"))
        };
        // Both ends are inclusive, to the second.
        assert_eq!(make(&mut db, "2026-12-28 00:00:00+00", "2027-01-03 23:59:59+00"), 1, "{zone}");
        assert_eq!(make(&mut db, "2026-12-27 23:59:59+00", "2027-01-04 00:00:00+00"), 2, "{zone}");
        assert_eq!(make(&mut db, "2026-12-21 00:00:00+00", "2027-01-10 23:59:59+00"), 0, "{zone}");
        let shown: String =
            one(&mut db, "SELECT current_setting('TimeZone') || current_setting('DateStyle')");
        assert_eq!(partitions(&mut db, "weekly"), expected, "{zone}");
        assert!(shown.starts_with(zone) && shown[zone.len()..].starts_with(&style[..3]), "{shown}");
    }
}

#[test]
fn nothing_is_made_where_nothing_is_to_make() {
    let mut db = database();
    run(
        &mut db,
        "SELECT matomo_create_table('plain'), matomo_create_table('weekly', true);
         CREATE TABLE listed (LIKE matomo_action) PARTITION BY LIST (idsite);
         CREATE TABLE caught (LIKE matomo_action) PARTITION BY RANGE (action_timestamp);
         CREATE TABLE caught_all PARTITION OF caught DEFAULT",
    );
    for arguments in [
        "'plain', '2026-11-18', '2026-11-18'",
        "'listed', '2026-11-18', '2026-11-18'",
        "'caught', '2026-11-18', '2026-11-18'",
        "'weekly', '2026-11-18', '2026-11-17'",
        "'weekly', NULL, '2026-11-17'",
        "'weekly', '2026-11-18', NULL",
        "NULL, '2026-11-18', '2026-11-18'",
    ] {
        assert_eq!(
            one::<i32>(&mut db, &format!("SELECT matomo_create_partitions({arguments})")),
            0,
            "{arguments}"
        );
    }
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM pg_inherits"), 1);
}

#[test]
fn partitions_without_end_are_refused() {
    let mut db = database();
    run(&mut db, "SELECT matomo_create_table('weekly', true); SET statement_timeout = '5s'");
    for (from, to) in
        [("-infinity", "2026-11-18"), ("2026-11-18", "infinity"), ("-infinity", "infinity")]
    {
        let error =
            error(&mut db, &format!("SELECT matomo_create_partitions('weekly', '{from}', '{to}')"));
        assert_eq!(
            (error.code().code(), error.message()),
            ("22023", "both times must be finite"),
            "{from} to {to}"
        );
    }
    assert_eq!(partitions(&mut db, "weekly"), [""; 0]);
}
