//! New weekly partitions are like their table, whichever session creates them.

use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::sites::*;
use crate::support::*;

/// A table's properties besides its columns: `owner | replica identity | tablespace | grants`.
fn likeness(db: &mut Client, table: &str) -> String {
    one(
        db,
        &format!(
            "SELECT concat_ws(' | ', c.relowner::regrole, c.relreplident, c.reltablespace,
                (SELECT string_agg(g, ', ' ORDER BY g) FROM (
                    SELECT format('%s %s%s', a.grantee::regrole, a.privilege_type, CASE WHEN a.is_grantable THEN '*' END)
                    FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
                    UNION ALL
                    SELECT format('%s %s(%s)%s', a.grantee::regrole, a.privilege_type, t.attname,
                        CASE WHEN a.is_grantable THEN '*' END)
                    FROM pg_attribute t, aclexplode(t.attacl) a WHERE t.attrelid = c.oid) g(g)))
             FROM pg_class c WHERE c.oid = '{table}'::regclass"
        ),
    )
}

fn partition(week: &str) -> String {
    format!("shop.visits_2026w{week}")
}

/// Creates the partition of a week with `matomo_create_partitions`.
fn make(db: &mut Client, day: &str) {
    run(db, &format!("SELECT public.matomo_create_partitions('shop.visits', '{day}', '{day}')"));
}

#[test]
fn a_new_partition_is_its_tables_in_owner_grants_replica_identity_and_tablespace() {
    let cluster = Cluster::start();
    let name = cluster.database();
    let mut admin = cluster.connect(&name);
    let place = std::env::temp_dir().join(format!("matomo_e2e.{}.space", std::process::id()));
    // As the user that runs the server.
    let copy = format!("COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; mkdir {}'", place.display());
    run(&mut admin, &copy);
    run(&mut admin, &format!("CREATE TABLESPACE roomy LOCATION '{}'", place.display()));
    run(
        &mut admin,
        "CREATE ROLE owner LOGIN; CREATE ROLE member LOGIN IN ROLE owner; CREATE ROLE reader; CREATE ROLE writer; CREATE ROLE stranger;
         CREATE SCHEMA shop AUTHORIZATION owner; GRANT CREATE ON TABLESPACE roomy TO owner, member;
         GRANT ALL ON SCHEMA shop TO member;
         -- What each of them would give its own tables.
         ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO stranger;
         ALTER DEFAULT PRIVILEGES FOR ROLE owner, member GRANT ALL ON TABLES TO stranger;
         SET ROLE owner;
         SET default_tablespace = roomy;
         SELECT matomo_create_table('shop.visits', true);
         RESET default_tablespace;
         REVOKE ALL ON shop.visits FROM stranger;
         REVOKE TRUNCATE ON shop.visits FROM owner;
         GRANT SELECT ON shop.visits TO PUBLIC;
         GRANT SELECT, INSERT ON shop.visits TO writer WITH GRANT OPTION;
         GRANT SELECT (country), UPDATE (city) ON shop.visits TO reader;
         ALTER TABLE shop.visits REPLICA IDENTITY FULL;
         RESET ROLE",
    );
    let parent = likeness(&mut admin, "shop.visits");
    for words in ["owner | f", "- SELECT", "writer INSERT*", "reader UPDATE(city)"] {
        assert!(parent.contains(words), "{parent} lacks {words}");
    }
    assert!(!parent.contains("stranger") && !parent.contains("TRUNCATE"), "{parent}");
    for (user, week, day) in [
        ("postgres", "47", "2026-11-18"),
        ("owner", "48", "2026-11-25"),
        ("member", "49", "2026-12-02"),
    ] {
        let mut db = cluster.connect_as(&name, user);
        run(&mut db, "SET default_tablespace = pg_default");
        make(&mut db, day);
        assert_eq!(likeness(&mut admin, &partition(week)), parent, "{user}");
    }
    // The same for a table with another tablespace and other grants, despite the session's
    // setting.
    run(
        &mut admin,
        "ALTER TABLE shop.visits SET TABLESPACE pg_default;
         ALTER TABLE shop.visits REPLICA IDENTITY NOTHING;
         GRANT TRUNCATE ON shop.visits TO owner;
         REVOKE ALL ON shop.visits FROM PUBLIC, reader, writer;
         REVOKE ALL (country, city) ON shop.visits FROM reader;
         SET default_tablespace = roomy",
    );
    make(&mut admin, "2026-12-09");
    let parent = likeness(&mut admin, "shop.visits");
    assert!(parent.starts_with("owner | n | 0 | owner DELETE"), "{parent}");
    assert_eq!(likeness(&mut admin, &partition("50")), parent);
    // The owner can still change the table.
    let mut owner = cluster.connect_as(&name, "owner");
    run(&mut owner, "ALTER TABLE shop.visits ADD COLUMN reviewed boolean");
}

#[test]
fn an_index_is_the_replica_identity_of_new_partitions_too() {
    let mut db = database();
    run(
        &mut db,
        "CREATE SCHEMA shop;
         CREATE TABLE shop.visits (LIKE matomo_action INCLUDING DEFAULTS) PARTITION BY RANGE (action_timestamp);
         CREATE UNIQUE INDEX other ON shop.visits (action_timestamp, action_id, idvisit);
         CREATE UNIQUE INDEX it ON shop.visits (action_id, action_timestamp);
         ALTER TABLE shop.visits REPLICA IDENTITY USING INDEX it",
    );
    make(&mut db, "2026-11-18");
    let identity =
        "SELECT string_agg(concat_ws(' ', c.relreplident, pg_get_indexdef(i.indexrelid, 1, true),
                        pg_get_indexdef(i.indexrelid, 2, true), i.indnkeyatts), ', ')
                    FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisreplident
                    WHERE c.oid IN ('shop.visits'::regclass, 'shop.visits_2026w47'::regclass)";
    let one_each = "i action_id action_timestamp 2";
    assert_eq!(texts(&mut db, identity), [format!("{one_each}, {one_each}")]);
}

/// A publication of all tables makes an UPDATE fail on a table without a replica identity.
#[test]
fn published_tables_without_a_primary_key_are_synced_over_weeks() {
    let fake = serve_two();
    for (identity, held) in [("USING INDEX it", "i (action_id, action_timestamp)"), ("FULL", "f -")]
    {
        let mut db = database();
        run(
            &mut db,
            &format!(
                "CREATE TABLE visits (LIKE matomo_action INCLUDING DEFAULTS) PARTITION BY RANGE (action_timestamp);
                 CREATE UNIQUE INDEX it ON visits (action_id, action_timestamp);
                 ALTER TABLE visits REPLICA IDENTITY {identity};
                 CREATE PUBLICATION everything FOR ALL TABLES"
            ),
        );
        // Two weeks, one of which has two days.
        let call = ", '2026-10-24', '2026-10-26', destination => 'visits', force => true";
        sync(&mut db, &fake, call);
        assert_eq!(identities(&mut db, "visits"), [held; 2]);
        run(&mut db, "UPDATE visits SET city = 'Atlantis' WHERE action_id LIKE '%_0'");
        assert!(sync(&mut db, &fake, call).updated > 0);
        assert_equal(&mut db, "visits", &all_of(&fake, 1));
        // A week that is there before its visits is as good.
        run(&mut db, "SELECT matomo_create_partitions('visits', '2026-11-03', '2026-11-03')");
        assert_eq!(identities(&mut db, "visits"), [held; 3]);
    }
}

/// The replica identities of a table's partitions, with the columns of the index.
fn identities(db: &mut Client, table: &str) -> Vec<String> {
    texts(
        db,
        &format!(
            "SELECT concat_ws(' ', c.relreplident,
                 coalesce(substring(pg_get_indexdef(x.indexrelid) FROM '[(].*'), '-'))
             FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             LEFT JOIN pg_index x ON x.indrelid = c.oid AND x.indisreplident
             WHERE i.inhparent = '{table}'::regclass"
        ),
    )
}

#[test]
fn new_weeks_of_companions_have_the_replica_identity_of_their_table() {
    let fake = serve_two();
    let mut db = database();
    run(&mut db, "SELECT matomo_create_table('visits', true)");
    for table in four("visits") {
        run(&mut db, &format!("ALTER TABLE {table} REPLICA IDENTITY FULL"));
    }
    sync(&mut db, &fake, ", '2026-10-24', '2026-10-26', destination => 'visits'");
    run(&mut db, "SELECT matomo_create_partitions('visits', '2026-11-03', '2026-11-03')");
    for table in four("visits") {
        let found = identities(&mut db, &table);
        let is_full = found.iter().all(|identity| identity == "f -");
        assert!(is_full && !found.is_empty(), "{table}: {found:?}");
    }
}

/// Grants on a partition would bypass the policies of its table.
#[test]
fn a_partition_shows_nothing_that_the_policies_of_its_table_hide() {
    let fake = serve_two();
    let (name, mut admin, reader) = database_and_role();
    run(
        &mut admin,
        &format!(
            "SELECT matomo_create_table('visits', true);
             ALTER TABLE visits ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON visits TO {reader} USING (idsite = 1);
             GRANT SELECT ON visits TO {reader}"
        ),
    );
    for site in [1, 2] {
        sync_site(&mut admin, &fake, site, ", '2026-10-24', '2026-10-26', destination => 'visits'");
    }
    let mut db = connect_as(&name, &reader);
    let sites = |from: &str| format!("SELECT DISTINCT idsite::text FROM {from}");
    assert_eq!(texts(&mut db, &sites("visits")), ["1"]);
    assert_eq!(texts(&mut db, &sites("visits_2026w43")), [""; 0]);
    assert_eq!(texts(&mut admin, &sites("visits_2026w43 ORDER BY 1")), ["1", "2"]);
    // The role that drops a partition must see all its rows.
    run(
        &mut admin,
        "ALTER TABLE visits FORCE ROW LEVEL SECURITY; SELECT matomo_create_partitions('visits', now(), now())",
    );
    let forced = "SELECT count(*) FROM pg_class WHERE relname LIKE 'visits_2026w%' AND relrowsecurity AND relforcerowsecurity";
    assert_eq!(one::<i64>(&mut admin, forced), 0);
}

#[test]
fn owners_of_any_name_have_partitions_made() {
    let cluster = Cluster::start();
    let name = cluster.database();
    let mut admin = cluster.connect(&name);
    for (place, owner) in ["John.Doe", "a b", "123", "x\"y"].iter().enumerate() {
        let owner = format!("\"{}\"", owner.replace('"', "\"\""));
        let table = format!("visits_{place}");
        run(
            &mut admin,
            &format!(
                "CREATE ROLE {owner}; GRANT CREATE, USAGE ON SCHEMA public TO {owner}; SET ROLE {owner};
                 SELECT matomo_create_table('{table}', true); RESET ROLE"
            ),
        );
        for role in [owner.as_str(), "postgres"] {
            let day = if role == "postgres" { "2026-12-02" } else { "2026-11-25" };
            run(&mut admin, &format!("SET ROLE {role}"));
            let sql = format!("SELECT matomo_create_partitions('{table}', '{day}', '{day}')");
            assert_eq!(one::<i32>(&mut admin, &sql), 1, "{role}");
            run(&mut admin, "RESET ROLE");
        }
    }
}
