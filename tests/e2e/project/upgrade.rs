//! `pg_upgrade` between two servers of the same major version: it works the same as between
//! different ones.

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::pg_upgrade::pg_upgrade;
use crate::support::report::{all_there, proven};
use crate::support::worker::*;
use crate::support::*;

/// What an upgrade must transfer, row by row and object by object.
const KEPT: [&str; 9] = [
    "SELECT s::text FROM matomo_site_config s ORDER BY id",
    "SELECT s::text FROM matomo_site_state s ORDER BY site_id",
    "SELECT r::text FROM matomo_run_log r ORDER BY runid",
    "SELECT l::text FROM matomo_ledger l ORDER BY destination, idsite, day",
    "SELECT concat_ws(' ', srvname, srvoptions, srvacl, srvowner::regrole) FROM pg_foreign_server ORDER BY 1",
    "SELECT concat_ws(' ', srvname, usename, umoptions) FROM pg_user_mappings ORDER BY 1",
    "SELECT format('%s %s', sequencename, last_value) FROM pg_sequences ORDER BY 1",
    "SELECT concat_ws(' ', e.extversion, e.extconfig::regclass[], e.extcondition, pg_describe_object(d.classid, d.objid, d.objsubid))
     FROM pg_extension e JOIN pg_depend d ON d.refobjid = e.oid AND d.deptype = 'e' ORDER BY 1",
    "SELECT concat_ws(' ', 'relation', relname, relkind, relowner::regrole, relacl, pg_get_expr(relpartbound, oid)) FROM pg_class
     WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
];

fn kept(db: &mut Client) -> Vec<Vec<String>> {
    run(db, "SET TimeZone = 'UTC'");
    let mut all: Vec<_> = KEPT.iter().map(|sql| texts(db, sql)).collect();
    for table in ["matomo", "matomo_partitioned"] {
        all.push(texts(db, &format!("SELECT t::text FROM {table} t ORDER BY action_id")));
    }
    for (lines, sql) in all.iter().zip(KEPT) {
        assert!(!lines.is_empty(), "nothing to keep: {sql}");
    }
    all
}

/// A server with a worker whose sites are always due, and with data.
fn filled(fake: &Fake, noon: &Noon) -> (Cluster, Client) {
    let (old, mut db) = cluster_with_worker();
    run(&mut db, "CREATE ROLE owner LOGIN; GRANT ALL ON SCHEMA public TO owner");
    store(&mut db, "analytics", fake);
    run(
        &mut db,
        &format!(
            "GRANT USAGE ON FOREIGN SERVER analytics TO owner;
             CREATE USER MAPPING FOR owner SERVER analytics OPTIONS (token '{}')",
            fake.token()
        ),
    );
    let every = format!("'analytics', 1, '{}', every => '1 second'", noon.text(3));
    let site = register(
        &mut db,
        &format!("{every}, destination => 'matomo_partitioned', retention => '10 years'"),
    );
    let owned = register(&mut db, &every);
    for table in all_four("matomo").split(", ") {
        run(&mut db, &format!("ALTER TABLE {table} OWNER TO owner"));
    }
    run(&mut db, &format!("SELECT matomo_alter_site({owned}, owner => 'owner')"));
    wait_until("both are synced", || {
        [site, owned].iter().all(|site| runs(&mut db, *site, "succeeded") > 0)
            && one::<bool>(
                &mut db,
                "SELECT count(*) = 2 FROM matomo_status WHERE sealed_to IS NOT NULL AND failures = 0",
            )
    });
    set(&mut db, "matomo.database", "");
    wait_until("the worker is gone", || coordinator_pid(&mut db, "postgres").is_none());
    (old, db)
}

#[test]
fn pg_upgrade_keeps_everything_and_no_worker_comes_in_between() {
    let noon = Noon::new();
    let fake = serve(noon.world(4));
    let (old, mut db) = filled(&fake, &noon);
    let before = kept(&mut db);
    // Both servers have a worker with due sites, which must not start during the upgrade.
    run(&mut db, "ALTER SYSTEM SET matomo.database = 'postgres'");
    drop(db);
    old.stop("fast");
    let new = Cluster::start_with(PRELOADED);
    new.stop("fast");
    fake.clear_requests();
    pg_upgrade(&old, &new);
    assert_eq!(asked(&fake), [""; 0], "a worker synced in the midst of it");

    let conf = new.dir.join("data/postgresql.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, text + "\nmatomo.database = ''\n").unwrap();
    new.start_again();
    let mut db = new.connect("postgres");
    let after = kept(&mut db);
    for (new, old) in after.iter().zip(&before) {
        assert_eq!(new, old);
    }
    let kinds = after.len();
    // Syncs resume: sealed days are not requested.
    {
        let mut world = fake.world();
        world.site_mut(1).add(noon.visit(0, 4));
    }
    run(&mut db, "CALL matomo_sync_all()");
    let asked = asked(&fake);
    let open = [noon.text(0), noon.text(1)];
    assert!(!asked.is_empty());
    for line in &asked {
        assert!(line == "site" || open.iter().any(|day| line.contains(day.as_str())), "{line}");
    }
    let rows =
        ["matomo", "matomo_partitioned"].map(|table| all_there(&mut db, table, &all_of(&fake, 1)));
    for table in ["matomo", "matomo_partitioned"] {
        assert_tables_equal(&mut db, table, &all_tables_of(&fake, 1));
    }
    let healthy: i64 = one(&mut db, "SELECT count(*) FROM matomo_status WHERE failures = 0");
    assert_eq!(healthy, 2);
    let sealed =
        asked.iter().filter(|line| *line != "site" && open.iter().all(|day| !line.contains(day)));
    let seen = format!(
        "{kinds} queries with the same rows; {} requests for sealed days; then in both tables {}; {healthy} sites without failures",
        sealed.count(),
        rows[0]
    );
    assert_eq!(rows[0], rows[1]);
    run(&mut db, "SELECT matomo_create_table('other')");
    let next = register(&mut db, "'analytics', 1, destination => 'other', enabled => false");
    assert_eq!(next, 3);

    // So does the worker, once allowed.
    set(&mut db, "matomo.database", "postgres");
    let done = runs(&mut db, 1, "succeeded");
    wait_until("the worker syncs", || runs(&mut db, 1, "succeeded") > done);
    proven(
        "Lifecycle",
        "pg_upgrade",
        "with servers, mappings, sites of two owners, runs and a ledger, and the library in `shared_preload_libraries`; afterwards one visit more",
        "every row and object of it is the same, no worker starts meanwhile, syncs and worker go on",
        &seen,
    );
}
