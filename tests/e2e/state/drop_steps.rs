//! `matomo_drop_before` that ends after some of its steps: exactly the empty days are empty in the
//! ledger; other days are completed by the next sync or removed by the next call.

use chrono::DateTime;
use fake_matomo::{ActionTime, Fake};
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::noon::add_site;
use crate::support::*;

/// An instant of the site's clock, as text.
fn at(noon: &Noon, ago: u64, clock: &str) -> String {
    DateTime::from_timestamp(noon.at(ago, clock), 0).unwrap().to_rfc3339()
}

/// Two sites with 30 days in a table; three visits a day for the first, one for the second.
fn filled(table: &str) -> (Noon, Fake, String, Client) {
    let noon = Noon::new();
    let fake = serve(noon.world(30));
    add_site(&fake, &noon, 2, 5000, 30);
    let (name, mut db) = named_database();
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    run(&mut db, TABLES.iter().find(|(name, _)| *name == table).unwrap().1);
    for site in [1, 2] {
        let days = format!(", '{}', destination => '{table}'", noon.text(29));
        sync_site(&mut db, &fake, site, &days);
    }
    (noon, fake, name, db)
}

/// Asserts for each of the site's days in the ledger: sealed with all its rows, sealed as empty
/// without a row, or open. Returns the number of each kind.
fn kinds(db: &mut Client, noon: &Noon, table: &str, site: i32) -> [usize; 3] {
    let mut kinds = [0; 3];
    let lines = ledger(db, table);
    let rows = format!(
        "SELECT count(x.idsite) FROM generate_series(0, 29) AS ago LEFT JOIN {table} x
         ON ago = floor((date_part('epoch', x.action_timestamp) - {}) / 86400) AND x.idsite = '{site}'
         GROUP BY ago ORDER BY ago DESC",
        noon.at(29, "00:00:00")
    );
    let rows = db.query(&rows, &[]).unwrap();
    for (ago, rows) in (0..30).zip(rows) {
        let rows: i64 = rows.get(0);
        let whole = if site == 1 { 9 } else { 3 };
        let prefix = format!("{site} {} ", noon.text(ago));
        let line = lines.iter().find_map(|line| line.strip_prefix(&prefix)).expect("is known");
        let kind = match line {
            "sealed 0 0 0" => {
                assert_eq!(rows, 0, "{prefix}is sealed as empty");
                1
            }
            _ if line.starts_with("sealed") => {
                assert_eq!(rows, whole, "{prefix}is sealed as whole");
                0
            }
            _ => 2,
        };
        kinds[kind] += 1;
    }
    kinds
}

#[test]
fn a_drop_that_gives_up_has_sealed_only_the_days_of_the_weeks_that_are_gone() {
    let (noon, fake, name, mut db) = filled("weekly");
    let bound = at(&noon, 2, "00:00:00");
    let second: String = one(
        &mut db,
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'weekly'::regclass
         ORDER BY 1 OFFSET 1 LIMIT 1",
    );
    let mut reader = shared().connect(&name);
    run(&mut reader, &format!("BEGIN; SELECT count(*) FROM {second}"));
    let call = format!("CALL matomo_drop_before('weekly', '{bound}', patience => '100 ms')");
    assert_eq!(error(&mut db, &call).code().code(), "55P03");
    run(&mut reader, "COMMIT");
    for site in [1, 2] {
        let [whole, empty, open] = kinds(&mut db, &noon, "weekly", site);
        assert!(whole > 10 && empty > 0 && open <= 2, "{site}: {whole} {empty} {open}");
        // Two days are open: today, and the day cut by the end of the week, which becomes complete
        // again.
        sync_site(&mut db, &fake, site.into(), ", destination => 'weekly'");
        let after = kinds(&mut db, &noon, "weekly", site);
        assert_eq!(after, [30 - 1 - empty, empty, 1], "{site}");
    }
    run(&mut db, &call);
    for site in [1, 2] {
        assert_eq!(kinds(&mut db, &noon, "weekly", site), [2, 27, 1]);
    }
}

#[test]
fn a_partition_that_another_session_has_to_itself_is_waited_for_no_longer_than_patience() {
    let (noon, _fake, name, mut db) = filled("weekly");
    let newest: String = one(
        &mut db,
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'weekly'::regclass
         ORDER BY 1 DESC LIMIT 1",
    );
    let mut other = shared().connect(&name);
    run(&mut other, &format!("BEGIN; LOCK TABLE {newest}"));
    let holder = pid(&mut other);
    let bound = at(&noon, 20, "00:00:00");
    let call = format!("CALL matomo_drop_before('weekly', '{bound}', patience => '100 ms')");
    let message = "could not obtain lock on public.weekly";
    let details = [&format!("Held by process {holder}.") as &str];
    assert_says(&error(&mut db, &call), "55P03", message, &details, "Call it again when");
    run(&mut other, "ROLLBACK");
    run(&mut db, &call);
    for site in [1, 2] {
        assert_eq!(kinds(&mut db, &noon, "weekly", site), [20, 9, 1]);
    }
}

/// Tables of several kinds, and how to create them.
const TABLES: [(&str, &str); 4] = [
    ("plain", "SELECT matomo_create_table('plain')"),
    ("weekly", "SELECT matomo_create_table('weekly', true)"),
    (
        "hashed",
        "CREATE TABLE hashed (LIKE matomo_action, UNIQUE (action_id)) PARTITION BY HASH (action_id);
         CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    ),
    (
        "listed",
        "CREATE TABLE listed (LIKE matomo_action, UNIQUE (action_id, idsite)) PARTITION BY LIST (idsite);
         CREATE TABLE listed_1 PARTITION OF listed FOR VALUES IN ('1');
         CREATE TABLE listed_2 PARTITION OF listed FOR VALUES IN ('2')",
    ),
];

#[test]
fn between_any_two_steps_no_day_is_sealed_that_lacks_rows_or_has_some_left() {
    for (table, _) in TABLES {
        let (noon, fake, _, mut db) = filled(table);
        shorten_steps(&mut db);
        for (bound, site) in [(20, "1"), (10, "NULL")] {
            let bound = at(&noon, bound, "00:00:00");
            let mut steps = 0;
            let mut place: Option<String> = None;
            loop {
                let step = format!(
                    "SELECT more, place::text FROM matomo_drop_step('{table}', '{bound}', {site}, '1 s', $1::text::jsonb)"
                );
                let row = db.query_one(&step, &[&place]).unwrap();
                place = row.get(1);
                steps += 1;
                for site in [1, 2] {
                    kinds(&mut db, &noon, table, site);
                }
                // A sync in between restores all days that are not sealed, or all days with force.
                if steps % 4 == 0 && steps < 20 {
                    let force = steps % 8 == 0;
                    let days = format!(
                        ", '{}', '{}', destination => '{table}', force => {force}",
                        noon.text(29),
                        noon.text(15)
                    );
                    sync(&mut db, &fake, &days);
                    kinds(&mut db, &noon, table, 1);
                }
                if !row.get::<_, bool>(0) {
                    break;
                }
                assert!(steps < 200, "{table}: 200 steps have not removed all that is old");
            }
            assert!(steps > 4, "{table}: {steps} steps");
            let left = format!(
                "SELECT count(*) FROM {table} WHERE action_timestamp < '{bound}' AND idsite = coalesce({site}::int, idsite)"
            );
            assert_eq!(one::<i64>(&mut db, &left), 0, "{table}");
        }
        for site in [1, 2] {
            assert_eq!(kinds(&mut db, &noon, table, site), [10, 19, 1], "{table}");
        }
        let kept =
            |site: i64| fake.world().oracle(site, noon.day(10), noon.day(0), ActionTime::Utc);
        assert_equal(&mut db, table, &[kept(1), kept(2)].concat());
        if ["plain", "weekly"].contains(&table) {
            let [mut all, second] = [1, 2].map(|site| {
                fake.world().oracle_tables(site, noon.day(10), noon.day(0), ActionTime::Utc)
            });
            for (all, second) in [
                (&mut all.actions, second.actions),
                (&mut all.visits, second.visits),
                (&mut all.conversions, second.conversions),
                (&mut all.items, second.items),
            ] {
                all.rows.extend(second.rows);
            }
            assert_tables_equal(&mut db, table, &all);
        }
    }
}

/// Makes a step delete seven rows, so that there are many steps.
fn shorten_steps(db: &mut Client) {
    run(
        db,
        "DO $$ DECLARE source text := pg_get_functiondef('matomo_drop_rows'::regproc); BEGIN
             ASSERT source ~ 'batch CONSTANT integer := 10000';
             EXECUTE replace(source, 'batch CONSTANT integer := 10000', 'batch CONSTANT integer := 7');
         END $$",
    );
}
