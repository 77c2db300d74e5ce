//! Values that no typed column can hold, in every key with such a column, in all four tables: no
//! visit is lost; the column is NULL, one warning reports it, and `extra` keeps the value.

use std::collections::BTreeMap;

use fake_matomo::tables::columns::{
    CONVERSIONS, Column, ITEMS, MORE_OF_ACTIONS, Origin, TYPED_OF_ACTIONS, VISITS,
};
use fake_matomo::{Clock, Fake, Fault, Site, When, World};
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::sites;
use crate::support::*;

const DAY: &str = "2026-10-25";
/// 2026-10-25 12:00:00 UTC.
const NOON: i64 = 1_792_929_600;

/// Odd values and how `extra` shows them.
const ODD: [(&str, &str); 8] = [
    (r#""text""#, r#""text""#),
    // With all digits.
    ("1e400", ""),
    ("1e99999", r#""1e99999""#),
    (r#""NaN""#, r#""NaN""#),
    (r#""""#, r#""""#),
    ("[]", "[]"),
    (r#"{"a":1}"#, r#"{"a": 1}"#),
    (r#""10000-01-01 00:00:00""#, r#""10000-01-01 00:00:00""#),
];

/// What a column of this type shows for an odd value: its text, `""` for NULL, or `None` if it
/// cannot hold the value.
fn shown(kind: &str, odd: &str) -> Option<String> {
    match (kind, odd) {
        // Matomo sends "" for unknown values.
        (_, r#""""#) => Some(String::new()),
        ("numeric", "1e400") => Some(format!("1{}", "0".repeat(400))),
        ("text[]", "[]") => Some("{}".to_owned()),
        ("text[]", text) if text.starts_with('"') => {
            let text = text.trim_matches('"');
            Some(if text.contains(' ') { format!("{{\"{text}\"}}") } else { format!("{{{text}}}") })
        }
        _ => None,
    }
}

/// A table's typed columns by key, with their types, except those that do not simply hold a value
/// of Matomo's, and IDs of sites and visits.
fn typed_keys(db: &mut Client, table: &str, columns: &[Column]) -> Vec<(Column, String)> {
    let mut all = Vec::new();
    for column in columns {
        if ["idsite", "idvisit"].contains(&column.name) || column.from == Origin::Made {
            continue;
        }
        let kind = format!(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute
             WHERE attrelid = '{table}'::regclass AND attname = '{}'",
            column.name
        );
        let kind: String = one(db, &kind);
        if kind != "text" {
            all.push((*column, kind));
        }
    }
    all
}

/// A visit with a page and an order with an item; each gets an extra member.
fn visit(id: usize, of_visit: &str, of_action: &str, of_item: &str) -> String {
    format!(
        r#"{{"idSite":1,"idVisit":{id},"firstActionTimestamp":{NOON},"lastActionTimestamp":{NOON}{of_visit},"actionDetails":[
        {{"type":"action","timestamp":{NOON}{of_action}}},
        {{"type":"ecommerceOrder","timestamp":{NOON}{of_action},"itemDetails":[{{"itemSKU":"sku"{of_item}}}]}}]}}"#
    )
}

/// A Matomo with one visit per key and odd value, and the cases in the order of their visits (from
/// 1).
fn odd_matomo(keys: &[Origin]) -> (Fake, Vec<(Origin, usize)>) {
    let cases: Vec<_> = keys.iter().flat_map(|key| (0..ODD.len()).map(|odd| (*key, odd))).collect();
    let visits = (1..).zip(&cases).map(|(id, (key, odd))| {
        let member = |key: &str| format!(r#","{key}":{}"#, ODD[*odd].0);
        match key {
            Origin::Visit(key) => visit(id, &member(key), "", ""),
            Origin::Action(key) => visit(id, "", &member(key), ""),
            Origin::Item(key) => visit(id, "", "", &member(key)),
            Origin::Made => unreachable!(),
        }
    });
    let body = format!("[{}]", visits.collect::<Vec<_>>().join(","));
    let mut world = World::new(Clock::Real);
    world.add_site(Site::new(1, "Site", "UTC"));
    let fake = serve(world);
    fake.fail(Fault::Raw(body.into_bytes()), When::live());
    (fake, cases)
}

#[test]
fn odd_values_in_every_typed_column_are_null_told_once_and_kept() {
    let (mut db, notices) = connect_with_notices(shared(), &shared().database(), "postgres");
    let of_actions: Vec<_> = TYPED_OF_ACTIONS.into_iter().chain(MORE_OF_ACTIONS).collect();
    let tables = [
        ("", "matomo_action", &of_actions[..]),
        ("_visits", "matomo_visit", &VISITS[..]),
        ("_conversions", "matomo_conversion", &CONVERSIONS[..]),
        ("_items", "matomo_item", &ITEMS[..]),
    ]
    .map(|(suffix, template, columns)| (suffix, typed_keys(&mut db, template, columns)));
    let mut keys: Vec<_> =
        tables.iter().flat_map(|(_, columns)| columns.iter().map(|(c, _)| c.from)).collect();
    keys.sort_by_key(|key| format!("{key:?}"));
    keys.dedup();
    assert!(keys.len() > 35, "{keys:?}");
    let (fake, cases) = odd_matomo(&keys);
    for table in ["matomo", "matomo_partitioned"] {
        let sync = Sync::of(&fake, DAY, DAY).into(table);
        let sums = sync.run(&mut db);
        let visits = i64::try_from(cases.len()).unwrap();
        assert_eq!((sums.visits, sums.inserted), (visits, visits * 2), "no visit is lost");
        let warnings = notices.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let mut misfits: BTreeMap<String, usize> = BTreeMap::new();
        for (suffix, columns) in &tables {
            let rows = if suffix.is_empty() { 2 } else { 1 };
            let of_table = format!("{table}{suffix}");
            let count = format!("SELECT count(*) FROM {of_table}");
            assert_eq!(one::<i64>(&mut db, &count), visits * rows, "{of_table}");
            for (column, kind) in columns {
                let is_its = |row: &&(usize, (Origin, usize))| row.1.0 == column.from;
                let its: Vec<_> = (1..).zip(cases.iter().copied()).collect();
                for (id, (_, odd)) in its.iter().filter(is_its) {
                    let (sent, kept) = ODD[*odd];
                    let digits = format!("1{}", "0".repeat(400));
                    let kept = if sent == "1e400" { &digits } else { kept };
                    let (Origin::Visit(key) | Origin::Action(key) | Origin::Item(key)) =
                        column.from
                    else {
                        unreachable!()
                    };
                    let expected = shown(kind, sent);
                    let found = texts(
                        &mut db,
                        &format!(
                            "SELECT concat({}, ' ', extra -> '{key}') FROM {of_table} WHERE idvisit = {id}",
                            column.name
                        ),
                    );
                    let row = match &expected {
                        Some(text) => format!("{text} "),
                        None => format!(" {kept}"),
                    };
                    assert_eq!(
                        found,
                        vec![row; usize::try_from(rows).unwrap()],
                        "{of_table}.{}: {sent}",
                        column.name
                    );
                    if expected.is_none() {
                        let of_visit = matches!(column.from, Origin::Visit(_));
                        let times = if of_visit { 1 } else { found.len() };
                        *misfits.entry(column.name.to_owned()).or_default() += times;
                    }
                }
            }
        }
        let told: Vec<_> =
            misfits.iter().map(|(column, count)| format!("{column} ({count})")).collect();
        let message = format!(
            "values that do not fit the types of their columns are NULL: {}",
            told.join(", ")
        );
        assert_eq!(warnings[0].message(), message);
        // A second sync finds nothing to change.
        let before = fingerprints(&mut db, table);
        assert_eq!(sync.run(&mut db).written(), 0);
        assert_eq!(fingerprints(&mut db, table), before);
        notices.warnings();
    }
}

#[test]
fn a_run_notes_the_values_that_no_column_could_hold() {
    let (fake, cases) = odd_matomo(&[Origin::Visit("visitDuration"), Origin::Item("quantity")]);
    let (mut db, notices) = connect_with_notices(shared(), &shared().database(), "postgres");
    sites::server(&mut db, &fake);
    let id = sites::add_site(&mut db, ", start_date => matomo_today('UTC')");
    run(&mut db, &format!("CALL matomo_sync_site({id})"));
    let noted = "SELECT string_agg(misfits::text, '; ') FROM matomo_runs WHERE misfits <> '{}'";
    let of_each = ODD.len() - 1;
    // The duration is a column of actions and of visits, the quantity one of items.
    let expected = format!(r#"{{"quantity": {of_each}, "visitduration": {}}}"#, of_each * 2);
    assert_eq!(one::<String>(&mut db, noted), expected);
    let warnings = notices.warnings();
    let of_misfits = warnings.iter().filter(|line| line.message().contains("do not fit"));
    assert_eq!(of_misfits.count(), 1, "{warnings:?}");
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_visits"), cases.len() as i64);
}

#[test]
fn a_visit_on_two_pages_is_told_once() {
    let fake = serve(world(143, "UTC", 9, "2026-10-24", "2026-10-25"));
    let (mut db, notices) = connect_with_notices(shared(), &shared().database(), "postgres");
    sites::server(&mut db, &fake);
    run(&mut db, "SET matomo.companions = ''; SET matomo.page_size = 2; SET matomo.step_pages = 1");
    for table in ["one", "two"] {
        let short = format!("ALTER TABLE {table} ALTER sitename TYPE varchar(2)");
        run(&mut db, &format!("SELECT matomo_create_table('{table}'); {short}"));
    }
    let sums = Sync::of(&fake, "2026-10-24", "2026-10-25").pages_of(2).into("one").run(&mut db);
    let warnings = notices.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let message = warnings[0].message();
    assert!(message.ends_with(&format!(": sitename ({})", sums.visits)), "{message}");
    // Nor in two steps.
    let arguments = ", destination => 'two', start_date => '2026-10-24'";
    let id = sites::add_site(&mut db, arguments);
    run(&mut db, &format!("CALL matomo_sync_site({id})"));
    let noted = one::<String>(&mut db, "SELECT misfits::text FROM matomo_runs");
    assert_eq!(noted, format!(r#"{{"sitename": {}}}"#, sums.visits));
}

#[test]
fn keys_that_nobody_knows_are_kept() {
    let of = |level: &str| format!(r#","newIn{level}":{{"b":[1,null],"a":"x"}}"#);
    let body = format!("[{}]", visit(7, &of("Visit"), &of("Action"), &of("Item")));
    let mut world = World::new(Clock::Real);
    world.add_site(Site::new(1, "Site", "UTC"));
    let fake = serve(world);
    fake.fail(Fault::Raw(body.into_bytes()), When::live());
    let mut db = database();
    for table in ["matomo", "matomo_partitioned"] {
        Sync::of(&fake, DAY, DAY).into(table).run(&mut db);
        for (suffix, level, rows) in [
            ("", "Action", 2),
            ("_visits", "Visit", 1),
            ("_conversions", "Action", 1),
            ("_items", "Item", 1),
        ] {
            let extra = format!("SELECT extra::text FROM {table}{suffix}");
            let expected = format!(r#"{{"newIn{level}": {{"a": "x", "b": [1, null]}}}}"#);
            assert_eq!(texts(&mut db, &extra), vec![expected; rows], "{table}{suffix}");
        }
    }
}

#[test]
fn what_the_users_own_types_cannot_hold_is_null_told_and_kept() {
    let name = "x".repeat(64);
    let of_visit = format!(r#","resolution":"{name}","visitIp":"::1""#);
    let of_items = r#","categories":["abc","abcd"]"#;
    let body = format!("[{}]", visit(7, &of_visit, r#","eventValue":1.5"#, of_items));
    let mut world = World::new(Clock::Real);
    world.add_site(Site::new(1, "Site", "UTC"));
    let fake = serve(world);
    fake.fail(Fault::Raw(body.into_bytes()), When::live());
    let (mut db, notices) = connect_with_notices(shared(), &shared().database(), "postgres");
    run(
        &mut db,
        "SELECT matomo_create_table('mine');
         ALTER TABLE mine ALTER resolution TYPE name, ALTER action_eventvalue TYPE integer,
             ALTER day TYPE integer USING 0, ADD COLUMN visitip inet;
         ALTER TABLE mine_items ALTER categories TYPE varchar(3)[]",
    );
    let sync = Sync::of(&fake, DAY, DAY).into("mine");
    assert_eq!(sync.run(&mut db).inserted, 2);
    let extra =
        format!(r#"{{"eventValue": 1.5, "resolution": "{name}", "lastActionTimestamp": "{DAY}"}}"#);
    let nulls = "num_nulls(resolution, action_eventvalue, day)";
    let rows = format!("SELECT concat_ws(' ', {nulls}, visitip, extra) FROM mine");
    assert_eq!(texts(&mut db, &rows), vec![format!("3 ::1 {extra}"); 2]);
    let items = "SELECT concat_ws(' ', num_nulls(categories), extra) FROM mine_items";
    assert_eq!(texts(&mut db, items), [r#"1 {"categories": ["abc", "abcd"]}"#]);
    let warnings = notices.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0]
            .message()
            .ends_with(": action_eventvalue (2), categories (1), day (1), resolution (1)"),
        "{}",
        warnings[0].message()
    );
    assert_eq!(sync.run(&mut db).written(), 0);
}
