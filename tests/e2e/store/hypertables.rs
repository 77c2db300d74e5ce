//! Hypertables of TimescaleDB, where the server has it: `tests/majors` requires it on 17 and 18.

use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::engines::{care, course, create_hypertable, timescale};
use crate::support::noon::{add_site, from};
use crate::support::*;

/// A database with the destination `matomo` as a hypertable.
fn hypertable(cluster: &Cluster) -> Client {
    let mut db = cluster.connect(&cluster.database());
    run(&mut db, "SET client_min_messages = warning");
    create_hypertable(&mut db, "matomo");
    db
}

#[test]
fn a_hypertable_gets_the_rows_and_counts_of_any_other_table() {
    let Some(cluster) = timescale() else { return };
    let mut plain = cluster.connect(&cluster.database());
    assert_eq!(course(&mut hypertable(&cluster), "matomo"), course(&mut plain, "matomo"));
}

#[test]
fn check_repair_erasure_and_retention_work_on_a_hypertable() {
    let Some(cluster) = timescale() else { return };
    let mut db = hypertable(&cluster);
    care(&mut db, "matomo");
    let chunks: i64 = one(&mut db, "SELECT count(*) FROM show_chunks('matomo')");
    assert!(chunks >= 3, "{chunks}");
}

#[test]
fn retention_drops_chunks_that_are_old_and_of_the_site_alone_and_deletes_from_others() {
    let Some(cluster) = timescale() else { return };
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    add_site(&fake, &noon, 2, 5000, 4);
    let mut db = hypertable(&cluster);
    run(&mut db, "SET client_min_messages = warning; SET matomo.settle_time = 0");
    for site in [1, 2] {
        sync_site(&mut db, &fake, site, &from(&noon, 7));
    }
    // A chunk is a day in UTC.
    let until = |ago: u64| format!("{} 00:00:00+00", noon.text(ago));
    let rows = |db: &mut Client, site: i32, ago: u64| -> i64 {
        one(
            db,
            &format!(
                "SELECT count(*) FROM matomo WHERE idsite = {site} AND action_timestamp < '{}'",
                until(ago)
            ),
        )
    };
    let chunks = |db: &mut Client, ago: u64| -> i64 {
        one(
            db,
            &format!(
                "SELECT count(*) FROM show_chunks('matomo', older_than => '{}'::timestamptz)",
                until(ago)
            ),
        )
    };
    let of_both = rows(&mut db, 2, 2);
    let alone = chunks(&mut db, 3) - texts(
        &mut db,
        &format!("SELECT DISTINCT tableoid::text FROM matomo WHERE idsite = 2 AND action_timestamp < '{}'", until(3)),
    ).len() as i64;
    assert!(of_both > 0 && alone > 2 && rows(&mut db, 1, 2) > 0, "{of_both} {alone}");
    let all = chunks(&mut db, 0);
    run(&mut db, &format!("CALL matomo_drop_before('matomo', '{}', site => 1)", until(2)));
    assert_eq!((rows(&mut db, 1, 2), rows(&mut db, 2, 2)), (0, of_both));
    assert_eq!(chunks(&mut db, 0), all - alone, "chunks in which both sites have rows are kept");
    // A bound within a chunk.
    run(
        &mut db,
        &format!(
            "CALL matomo_drop_before('matomo', '{}'::timestamptz + interval '12 hours')",
            until(2)
        ),
    );
    assert_eq!((rows(&mut db, 2, 2), chunks(&mut db, 2)), (0, 0));
    assert!(rows(&mut db, 1, 0) > 0);
    for site in [1, 2] {
        assert_eq!(
            sync_site(&mut db, &fake, site, &from(&noon, 7)).written(),
            0,
            "the old days are sealed"
        );
    }
}

#[test]
fn retention_drops_chunks_whose_instants_have_no_timezone() {
    let Some(cluster) = timescale() else { return };
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let mut db = cluster.connect(&cluster.database());
    run(
        &mut db,
        "SET client_min_messages = warning; SET matomo.settle_time = 0; SET timezone = 'Asia/Tokyo';
         CREATE EXTENSION IF NOT EXISTS timescaledb; SELECT matomo_create_table('matomo');
         ALTER TABLE matomo DROP CONSTRAINT matomo_pkey, ALTER action_timestamp TYPE timestamp,
             ADD PRIMARY KEY (idvisit, action_id, action_timestamp);
         SELECT create_hypertable('matomo', 'action_timestamp', chunk_time_interval => interval '1 day')",
    );
    let rows = sync(&mut db, &fake, &from(&noon, 7)).inserted;
    let until = noon.text(2);
    let old = format!("SELECT count(*) FROM matomo WHERE action_timestamp < '{until}'");
    let gone = one::<i64>(&mut db, &old);
    assert!(gone > 0);
    run(&mut db, &format!("CALL matomo_drop_before('matomo', '{until} 00:00:00+00')"));
    let chunks =
        format!("SELECT count(*) FROM show_chunks('matomo', older_than => '{until}'::timestamp)");
    assert_eq!([one::<i64>(&mut db, &old), one(&mut db, &chunks)], [0, 0]);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo"), rows - gone);
    assert_eq!(sync(&mut db, &fake, &from(&noon, 7)).written(), 0, "the old days are sealed");
}

#[test]
fn retention_of_a_hypertable_with_a_second_dimension_takes_rows_and_keeps_chunks() {
    let Some(cluster) = timescale() else { return };
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    add_site(&fake, &noon, 2, 5000, 8);
    let mut db = cluster.connect(&cluster.database());
    run(&mut db, "SET client_min_messages = warning; SET matomo.settle_time = 0");
    create_hypertable(&mut db, "matomo");
    // As docs/scale.md has it for one dimension, with the site in the key.
    run(
        &mut db,
        "ALTER TABLE matomo DROP CONSTRAINT matomo_pkey,
             ADD PRIMARY KEY (idsite, idvisit, action_id, action_timestamp);
         SELECT add_dimension('matomo', 'idsite', number_partitions => 4)",
    );
    for site in [1, 2] {
        sync_site(&mut db, &fake, site, &from(&noon, 7));
    }
    let both = |db: &mut Client| -> [i64; 2] {
        [1, 2].map(|site| one(db, &format!("SELECT count(*) FROM matomo WHERE idsite = {site}")))
    };
    assert_eq!(both(&mut db), [72, 24]);
    let count = "SELECT count(*) FROM show_chunks('matomo')";
    let chunks: i64 = one(&mut db, count);
    assert!(chunks >= 16, "{chunks}");
    let until = format!("{} 00:00:00+00", noon.text(2));
    run(&mut db, &format!("CALL matomo_drop_before('matomo', '{until}', site => 1)"));
    let old =
        format!("SELECT count(*) FROM matomo WHERE action_timestamp < '{until}' AND idsite =");
    assert_eq!(one::<i64>(&mut db, &format!("{old} 1")), 0);
    assert!(one::<i64>(&mut db, &format!("{old} 2")) > 0);
    assert_eq!(both(&mut db)[1], 24);
    assert_eq!(one::<i64>(&mut db, count), chunks);
}

/// In its schema anybody may have a function of that name, whose types fit better.
#[test]
fn retention_calls_no_drop_chunks_but_that_of_the_extension() {
    let Some(cluster) = timescale() else { return };
    let noon = Noon::new();
    let fake = serve(noon.world(8));
    let mut db = cluster.connect(&cluster.database());
    run(&mut db, "SET client_min_messages = warning; SET matomo.settle_time = 0");
    create_hypertable(&mut db, "matomo");
    sync(&mut db, &fake, &from(&noon, 7));
    run(
        &mut db,
        "CREATE TABLE called ();
         CREATE FUNCTION drop_chunks(relation regclass, older_than timestamptz, newer_than timestamptz)
             RETURNS SETOF text LANGUAGE sql AS $$ INSERT INTO called DEFAULT VALUES RETURNING '' $$",
    );
    let until = format!("{} 00:00:00+00", noon.text(2));
    run(&mut db, &format!("CALL matomo_drop_before('matomo', '{until}')"));
    let old = format!("SELECT count(*) FROM matomo WHERE action_timestamp < '{until}'");
    let called = "SELECT count(*) FROM called";
    assert_eq!([one::<i64>(&mut db, &old), one(&mut db, called)], [0, 0]);
    assert_eq!(sync(&mut db, &fake, &from(&noon, 7)).written(), 0, "the old days are sealed");
}
