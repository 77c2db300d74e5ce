//! `matomo_drop_before` removes old rows and no others, blocks no other session, and no sync
//! copies them again.

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::engines::heap;
use crate::support::node_tool::{partitioned_table, standard_table};
use crate::support::noon::add_site;
use crate::support::worker::{register, store};
use crate::support::*;

const FIRST: &str = "2026-10-05";
const LAST: &str = "2026-11-01";
/// A Wednesday: two whole weeks are before it, a third one partly.
const BEFORE: &str = "2026-10-21 10:00:00+00";

/// Four weeks of a site, from Monday to Sunday.
fn four_weeks() -> Fake {
    serve(world(91, "UTC", 12, FIRST, LAST))
}

/// Drops what is before an instant, and asserts that exactly that is gone.
fn assert_dropped(db: &mut Client, table: &str, before: &str, arguments: &str, which: &str) {
    run(
        db,
        &format!(
            "DROP TABLE IF EXISTS pg_temp.kept; SET client_min_messages = warning; CREATE TEMP TABLE kept AS \
             SELECT x::text AS row FROM {table} x WHERE NOT (action_timestamp < '{before}'{which})"
        ),
    );
    let kept = one::<i64>(db, "SELECT count(*) FROM kept");
    let all = one::<i64>(db, &format!("SELECT count(*) FROM {table}"));
    assert!(0 < kept && kept < all, "{kept} of {all} rows of {table} are to be kept");
    run(db, &format!("CALL matomo_drop_before('{table}', '{before}'{arguments})"));
    let rows = format!("SELECT x::text AS row FROM {table} x");
    for (ours, theirs) in [(rows.as_str(), "TABLE kept"), ("TABLE kept", rows.as_str())] {
        let sql = format!("SELECT count(*) FROM ({ours} EXCEPT ALL {theirs}) x");
        assert_eq!(one::<i64>(db, &sql), 0, "{ours} has rows that {theirs} has not");
    }
}

/// The names of the partitions at any depth.
fn partitions(db: &mut Client, table: &str) -> Vec<String> {
    let sql = format!(
        "SELECT relid::text FROM pg_partition_tree('{table}') WHERE level > 0 ORDER BY relid::text"
    );
    texts(db, &sql)
}

#[test]
fn what_is_before_goes_from_a_plain_table_and_does_not_come_back() {
    let noon = Noon::new();
    let fake = serve(noon.world(6));
    let mut db = database();
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    sync(&mut db, &fake, &format!(", '{}'", noon.text(5)));
    let midnight = chrono::DateTime::from_timestamp(noon.at(3, "00:00:00"), 0).unwrap();
    assert_dropped(&mut db, "matomo", &midnight.to_rfc3339(), "", "");
    let days = [5, 4].map(|ago| format!("1 {} sealed 0 0 0", noon.text(ago)));
    assert_eq!(ledger(&mut db, "matomo")[..2], days);
    assert_eq!(ledger(&mut db, "matomo")[2], format!("1 {} sealed 3 9 0", noon.text(3)));

    // Not by a sync that resumes, nor by one that starts before.
    asked(&fake);
    for start in [String::new(), format!(", '{}'", noon.text(5))] {
        sync(&mut db, &fake, &start);
        let asked = asked(&fake);
        assert!(
            !asked.is_empty() && asked.iter().all(|day| day.contains(&noon.text(0))),
            "{asked:?}"
        );
    }
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 36);
    // Only on request.
    let again = format!(", '{}', '{0}', force => true", noon.text(5));
    assert_eq!(sync(&mut db, &fake, &again).inserted, 9);
    assert_eq!(ledger(&mut db, "matomo")[0], format!("1 {} sealed 3 9 0", noon.text(5)));
}

#[test]
fn a_table_from_which_everything_is_dropped_is_not_filled_again() {
    let noon = Noon::new();
    let fake = serve(noon.world(4));
    let mut db = database();
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    for table in ["matomo", "matomo_partitioned"] {
        sync(&mut db, &fake, &format!(", '{}', '{}', '{table}'", noon.text(3), noon.text(1)));
        run(&mut db, &format!("CALL matomo_drop_before('{table}', now())"));
        assert_eq!(one::<i64>(&mut db, &format!("SELECT count(*) FROM {table}")), 0);
        let sums = sync(&mut db, &fake, &format!(", destination => '{table}'"));
        assert_eq!((sums.days, sums.inserted), (1, 9), "only today is read");
    }
}

#[test]
fn whole_weeks_are_dropped_and_rows_of_the_week_of_the_bound_deleted() {
    let fake = four_weeks();
    let mut db = database();
    Sync::of(&fake, FIRST, LAST).into("matomo_partitioned").run(&mut db);
    assert_eq!(partitions(&mut db, "matomo_partitioned").len(), 4);
    assert_dropped(&mut db, "matomo_partitioned", BEFORE, "", "");
    let left = ["matomo_partitioned_2026w43", "matomo_partitioned_2026w44"];
    assert_eq!(partitions(&mut db, "matomo_partitioned"), left);
    assert_eq!(
        one::<i64>(&mut db, "SELECT count(*) FROM pg_class WHERE relname LIKE '%2026w4_'"),
        8,
        "two weeks of all four tables"
    );
    // The bound is the end of a week, in another session's format.
    run(&mut db, "SET TimeZone = 'America/New_York'; SET DateStyle = 'German'");
    assert_dropped(&mut db, "matomo_partitioned", "25.10.2026 20:00:00", "", "");
    assert_eq!(partitions(&mut db, "matomo_partitioned"), left[1..]);
    // Nothing is left to drop, and days requested again are copied.
    let rows = fingerprint(&mut db, "matomo_partitioned");
    run(&mut db, "CALL matomo_drop_before('matomo_partitioned', '25.10.2026 20:00:00')");
    assert_eq!(fingerprint(&mut db, "matomo_partitioned"), rows);
    Sync::of(&fake, FIRST, LAST).into("matomo_partitioned").run(&mut db);
    assert_equal(&mut db, "matomo_partitioned", &oracle(&fake, FIRST, LAST));
}

#[test]
fn tables_of_the_node_tool_lose_the_same() {
    let fake = four_weeks();
    let mut db = database();
    run(&mut db, "SET TimeZone = 'Europe/Paris'");
    standard_table(&mut db);
    partitioned_table(&mut db);
    // The Node tool's indexes refuse long texts.
    run(&mut db, "DROP INDEX IF EXISTS idx_action_url_matomo");
    let texts_fit = texts(
        &mut db,
        "SELECT format('DROP INDEX %s', indexrelid::regclass) FROM pg_index
         WHERE indrelid = 'matomo'::regclass AND NOT indisunique
           AND pg_get_indexdef(indexrelid) ~ '(url|eventaction|eventcategory)'",
    );
    run(&mut db, &texts_fit.join(";"));
    for table in ["matomo", "matomo_partitioned"] {
        Sync::of(&fake, FIRST, LAST).into(table).run(&mut db);
        assert_dropped(&mut db, table, BEFORE, "", "");
    }
    assert_eq!(partitions(&mut db, "matomo_partitioned").len(), 2);
}

#[test]
fn partitions_of_any_kind_keep_what_is_not_before() {
    let fake = four_weeks();
    let mut db = database();
    run(
        &mut db,
        "CREATE TABLE mixed (LIKE matomo_action INCLUDING DEFAULTS, UNIQUE (action_id, action_timestamp, idsite))
             PARTITION BY RANGE (action_timestamp);
         SET TimeZone = 'UTC';
         CREATE TABLE september PARTITION OF mixed FOR VALUES FROM (MINVALUE) TO ('2026-10-01');
         CREATE TABLE days PARTITION OF mixed FOR VALUES FROM ('2026-10-01') TO ('2026-10-08')
             PARTITION BY LIST (idsite);
         CREATE TABLE days_1 PARTITION OF days FOR VALUES IN ('1');
         CREATE TABLE days_others PARTITION OF days DEFAULT;
         CREATE TABLE over PARTITION OF mixed FOR VALUES FROM ('2026-10-20') TO ('2026-10-23')
             PARTITION BY RANGE (action_timestamp);
         CREATE TABLE over_20 PARTITION OF over FOR VALUES FROM ('2026-10-20') TO ('2026-10-21');
         CREATE TABLE over_default PARTITION OF over DEFAULT;
         CREATE TABLE rest PARTITION OF mixed DEFAULT;
         RESET TimeZone",
    );
    Sync::of(&fake, FIRST, LAST).into("mixed").run(&mut db);
    for filled in ["days_1", "over_20", "over_default", "rest"] {
        assert!(one::<i64>(&mut db, &format!("SELECT count(*) FROM {filled}")) > 0, "{filled}");
    }
    assert_dropped(&mut db, "mixed", BEFORE, "", "");
    assert_eq!(partitions(&mut db, "mixed"), ["over", "over_default", "rest"]);
    assert_eq!(one::<Option<u32>>(&mut db, "SELECT to_regclass('days_1')::oid"), None);

    run(
        &mut db,
        "CREATE TABLE listed (LIKE matomo_action, UNIQUE (action_id, idsite)) PARTITION BY LIST (idsite);
         CREATE TABLE listed_1 PARTITION OF listed FOR VALUES IN ('1');
         CREATE TABLE hashed (LIKE matomo_action, UNIQUE (action_id)) PARTITION BY HASH (action_id);
         CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    );
    for (table, parts) in [("listed", 1), ("hashed", 2)] {
        Sync::of(&fake, FIRST, LAST).into(table).run(&mut db);
        assert_dropped(&mut db, table, BEFORE, "", "");
        assert_eq!(partitions(&mut db, table).len(), parts);
    }
}

#[test]
fn a_foreign_partition_is_emptied_and_never_dropped() {
    let (name, mut db) = named_database();
    let port = shared().port();
    run(
        &mut db,
        &format!(
            "CREATE EXTENSION postgres_fdw; CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
             CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw
                 OPTIONS (host '127.0.0.1', port '{port}', dbname '{name}');
             CREATE USER MAPPING FOR CURRENT_USER SERVER there;
             CREATE TABLE archive (LIKE matomo_action);
             CREATE TABLE visits (LIKE matomo_action) PARTITION BY RANGE (action_timestamp);
             CREATE FOREIGN TABLE old PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')
                 SERVER there OPTIONS (table_name 'archive');
             CREATE FOREIGN TABLE paper PARTITION OF visits FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')
                 SERVER files OPTIONS (filename '/dev/null');
             CREATE TABLE new PARTITION OF visits FOR VALUES FROM ('2026-03-01') TO ('2026-12-01');
             INSERT INTO archive (action_id, idvisit, action_timestamp)
                 SELECT n, n, '2026-01-02'::timestamptz + n * interval '6 hours' FROM generate_series(1, 100) n;
             -- Of the other server's own: a foreign partition is not kept within its bounds.
             INSERT INTO archive (action_id, idvisit, action_timestamp) VALUES (200, 200, '2026-11-01');
             INSERT INTO new (action_id, idvisit, action_timestamp) VALUES (101, 101, '2026-03-01 00:00'), (102, 102, '2026-03-03 00:00')"
        ),
    );
    run(&mut db, "CALL matomo_drop_before('visits', '2026-01-20')");
    let left = "SELECT count(*) FROM archive WHERE action_timestamp >= '2026-01-20'";
    assert_eq!(one::<i64>(&mut db, left), one::<i64>(&mut db, "SELECT count(*) FROM archive"));
    assert!(one::<i64>(&mut db, left) > 20);

    // The last partition but one cannot be deleted from; the rest goes nevertheless.
    let notices = Notices::default();
    let theirs = notices.clone();
    let mut config = shared().config(&name, "postgres");
    config.notice_callback(move |notice| theirs.push(notice));
    let mut db = config.connect(postgres::NoTls).unwrap();
    run(&mut db, "CALL matomo_drop_before('visits', '2026-03-02')");
    assert_eq!(
        notices.take(),
        [
            (
                "WARNING".to_owned(),
                "tables from which nothing can be deleted: public.paper".to_owned()
            ),
            ("NOTICE".to_owned(), "0 partitions dropped, 30 actions deleted".to_owned())
        ]
    );
    assert_eq!(texts(&mut db, "SELECT action_id FROM visits ORDER BY 1"), ["102", "200"]);
    assert_eq!(partitions(&mut db, "visits"), ["new", "old", "paper"]);
}

#[test]
fn of_one_site_the_others_keep_theirs() {
    let noon = Noon::new();
    let fake = serve(noon.world(20));
    add_site(&fake, &noon, 2, 5000, 20);
    for table in ["matomo", "matomo_partitioned"] {
        let mut db = database();
        run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
        for site in [1, 2] {
            sync_site(
                &mut db,
                &fake,
                site,
                &format!(", '{}', destination => '{table}'", noon.text(19)),
            );
        }
        let before =
            chrono::DateTime::from_timestamp(noon.at(3, "08:00:05"), 0).unwrap().to_rfc3339();
        let weeks = partitions(&mut db, table);
        assert_dropped(&mut db, table, &before, ", site => 1", " AND idsite = '1'");
        assert_eq!(partitions(&mut db, table), weeks);
        let lines = ledger(&mut db, table);
        assert_eq!(lines[0], format!("1 {} sealed 0 0 0", noon.text(19)));
        assert_eq!(lines[20], format!("2 {} sealed 1 3 0", noon.text(19)));
        // A week with rows of this site only is dropped whole.
        assert_dropped(&mut db, table, &before, ", site => 2", " AND idsite = '2'");
        assert!(weeks.is_empty() || partitions(&mut db, table).len() < weeks.len() - 1);
        assert_eq!(ledger(&mut db, table)[20], format!("2 {} sealed 0 0 0", noon.text(19)));
    }
}

/// The first sync of a site learns its type, though its names are read only once it is registered.
#[test]
fn rows_of_a_rollup_are_not_dropped_by_its_id_though_it_was_never_registered() {
    let noon = Noon::new();
    let fake = serve(noon.world(4));
    fake.world().site_mut(1).kind = "rollup".to_owned();
    let mut db = database();
    sync(&mut db, &fake, &format!(", '{}'", noon.text(3)));
    run(&mut db, "UPDATE matomo SET idsite = 2");
    let before = ledger(&mut db, "matomo");
    let error = error(&mut db, "CALL matomo_drop_before('matomo', now() - interval '1 day', 1)");
    let message = "site 1 is a roll-up, which has no visits of its own";
    assert_says(&error, "22023", message, &[], "matomo_drop_before without a site");
    assert_eq!(ledger(&mut db, "matomo"), before);
    // A site that is none any more.
    fake.world().site_mut(1).kind = "website".to_owned();
    sync(&mut db, &fake, &format!(", '{}', force => true", noon.text(3)));
    run(&mut db, "CALL matomo_drop_before('matomo', now() - interval '1 day', 1)");
    assert_ne!(ledger(&mut db, "matomo"), before);
}

/// Its visits are stored under the IDs of the sites that they come from, so it would delete nothing.
#[test]
fn a_retention_of_a_rollup_is_refused() {
    let noon = Noon::new();
    let fake = serve(noon.world(4));
    fake.world().site_mut(1).kind = "rollup".to_owned();
    let (_, mut db) = named_database();
    store(&mut db, "analytics", &fake);
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    let refused = |db: &mut Client, sql: &str| {
        let error = error(db, sql);
        let message = "site 1 is a roll-up, which has no visits of its own";
        assert_says(&error, "22023", message, &[], "matomo_drop_before without a site");
    };
    refused(&mut db, "SELECT matomo_add_site('analytics', 1, retention => '1 day')");
    let site = register(&mut db, &format!("'analytics', 1, start_date => '{}'", noon.text(3)));
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let before = ledger(&mut db, "matomo");
    refused(&mut db, &format!("SELECT matomo_alter_site({site}, retention => '1 day')"));
    refused(&mut db, "CALL matomo_drop_before('matomo', now() - interval '1 day', 1)");
    // Nor does a site with a retention become one.
    fake.world().add_site(fake_matomo::Site::new(2, "Second", &noon.zone));
    let second = register(&mut db, "'analytics', 2, retention => '1 day'");
    let error = error(
        &mut db,
        &format!(
            "SELECT matomo_alter_site({second}, server => NULL, site => 1, destination => 'matomo_partitioned')"
        ),
    );
    assert_eq!(error.message(), "site 1 is a roll-up, which has no visits of its own");
    run(&mut db, &format!("SELECT matomo_remove_site({second})"));
    // One that was set before Matomo described the site.
    run(
        &mut db,
        "UPDATE matomo_site_config SET retention = '1 day'; UPDATE matomo_site_state SET tended_on = NULL",
    );
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    let noted = "SELECT upkeep_error FROM matomo_status";
    assert!(one::<String>(&mut db, noted).starts_with("site 1 is a roll-up"));
    assert_eq!(ledger(&mut db, "matomo")[..3], before[..3]);
    // Without a site, the days of the roll-up are emptied with those of all others.
    run(&mut db, "UPDATE matomo SET idsite = 2");
    let midnight = chrono::DateTime::from_timestamp(noon.at(1, "00:00:00"), 0).unwrap();
    run(&mut db, &format!("CALL matomo_drop_before('matomo', '{}')", midnight.to_rfc3339()));
    let empty = [3, 2].map(|ago| format!("1 {} sealed 0 0 0", noon.text(ago)));
    assert_eq!(ledger(&mut db, "matomo")[..2], empty);
}

#[test]
fn batches_are_committed_one_by_one() {
    let mut db = heap();
    run(
        &mut db,
        "SELECT matomo_create_table('matomo');
         CREATE TABLE done (transaction xid8, actions bigint);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO public.done SELECT pg_current_xact_id(), count(*) FROM gone; RETURN NULL; END $$;
         CREATE TRIGGER note AFTER DELETE ON matomo REFERENCING OLD TABLE AS gone EXECUTE FUNCTION note();
         INSERT INTO matomo (action_id, idvisit, action_timestamp)
             SELECT n, n, '2026-01-01'::timestamptz + n * interval '1 minute' FROM generate_series(1, 35000) n",
    );
    assert_dropped(&mut db, "matomo", "2026-01-19", "", "");
    let batches = texts(
        &mut db,
        "SELECT sum(actions)::text FROM done GROUP BY transaction HAVING sum(actions) > 0 ORDER BY transaction",
    );
    assert_eq!(batches, ["10000", "10000", "5919"]);
}

#[test]
fn what_was_looked_through_is_not_looked_through_again() {
    let (name, mut db) = named_database();
    run(
        &mut db,
        "SET TimeZone = 'UTC'; SET default_table_access_method = heap;
         SELECT matomo_create_table('visits', true);
         SELECT matomo_create_partitions('visits', '2026-01-05', '2026-04-01');
         INSERT INTO visits (action_id, idvisit, idsite, action_timestamp)
             SELECT format('%s_%s', site, n), n, site, '2026-01-05'::timestamptz + n * interval '1 hour'
             FROM generate_series(1, 2) site, generate_series(0, 12 * 7 * 24 - 1) n",
    );
    // Scans from creating and filling the table must not count, even if reported late.
    run(&mut db, "SELECT pg_stat_force_next_flush()");
    run(&mut db, "SELECT pg_stat_reset()");
    run(
        &mut shared().connect(&name),
        "CALL matomo_drop_before('visits', '2026-03-30 00:00+00', site => 1)",
    );
    let left = "SELECT string_agg(DISTINCT idsite::text, ' ') FROM visits WHERE action_timestamp < '2026-03-30 00:00+00'";
    assert_eq!(one::<String>(&mut db, left), "2");
    // A session's counts are reported when it ends.
    let scans = "SELECT coalesce(WHAT, 0)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'visits_2026w__'";
    let deleted = scans.replace("WHAT", "sum(n_tup_del)");
    wait_until("it is counted", || one::<i64>(&mut db, &deleted) == 12 * 7 * 24);
    let most = scans.replace("WHAT", "max(seq_scan + coalesce(idx_scan, 0))");
    let most = one::<i64>(&mut db, &most);
    // One to look for rows of other sites, and those to delete.
    assert!((1..=3).contains(&most), "a week was read {most} times");
}

#[test]
fn rows_of_one_instant_go_in_several_batches() {
    let mut db = database();
    for (partitioned, table) in [(false, "matomo"), (true, "matomo_partitioned")] {
        run(
            &mut db,
            &format!(
                "SET TimeZone = 'UTC'; SELECT matomo_create_table('{table}', {partitioned});
                 SELECT matomo_create_partitions('{table}', '2026-01-05', '2026-01-12');
                 INSERT INTO {table} (action_id, idvisit, idsite, action_timestamp)
                     SELECT n, n, 1 + n % 2, '2026-01-06'::timestamptz + n / 24000 * interval '1 day'
                     FROM generate_series(0, 71999) n"
            ),
        );
        assert_dropped(&mut db, table, "2026-01-08", ", site => 1", " AND idsite = '1'");
        assert_dropped(&mut db, table, "2026-01-08", "", "");
    }
}

#[test]
fn a_row_that_is_changed_meanwhile_goes_too() {
    let (name, mut db) = named_database();
    run(
        &mut db,
        "SET TimeZone = 'UTC'; SELECT matomo_create_table('matomo');
         INSERT INTO matomo (action_id, idvisit, action_timestamp)
             SELECT n, n, '2026-01-06'::timestamptz + n * interval '1 second' FROM generate_series(0, 9) n",
    );
    let mut writer = shared().connect(&name);
    run(&mut writer, "BEGIN; UPDATE matomo SET action_title = 'changed' WHERE action_id = '3'");
    std::thread::scope(|scope| {
        let dropping = scope.spawn(|| {
            run(
                &mut shared().connect(&name),
                "CALL matomo_drop_before('matomo', '2026-01-07', lock_timeout => '10 s')",
            );
        });
        wait_until("it waits for the row", || {
            one(
                &mut db,
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database())",
            )
        });
        run(&mut writer, "COMMIT");
        dropping.join().unwrap();
    });
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), 0);
}
