//! `ALTER EXTENSION … UPDATE` from 0.1.0: recreated objects keep their owner and grants.

use postgres::Client;

use crate::support::releases::{database_of_0_1_0, shelf_with_0_1_0};
use crate::support::*;

/// Owner and grants of the objects that the update drops and recreates, including grants on
/// columns.
fn rights(db: &mut Client) -> Vec<String> {
    texts(
        db,
        "WITH remade AS (
             SELECT c.relname::text AS object, c.oid, c.relowner AS owner,
                 coalesce(c.relacl, acldefault('r', c.relowner)) AS acl FROM pg_class c
             WHERE c.oid IN ('matomo_action'::regclass, 'matomo_sites'::regclass, 'matomo_status'::regclass,
                 'matomo_runs'::regclass)
             UNION ALL
             SELECT p.proname, NULL, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner)) FROM pg_proc p
             WHERE p.oid IN ('matomo_check'::regproc, 'matomo_create_table'::regproc, 'matomo_forget'::regproc)
         ), granted AS (
             SELECT object, acl FROM remade
             UNION ALL
             SELECT format('%s.%s', object, a.attname), a.attacl FROM remade JOIN pg_attribute a ON a.attrelid = oid
         )
         SELECT format('%s is of %s', object, owner::regrole) FROM remade
         UNION ALL
         SELECT format('%s on %s to %s by %s%s', a.privilege_type, object, a.grantee::regrole, a.grantor::regrole,
             CASE WHEN a.is_grantable THEN ' with grant option' END)
         FROM granted CROSS JOIN LATERAL aclexplode(acl) a ORDER BY 1",
    )
}

#[test]
fn an_update_by_another_superuser_keeps_owners_and_grants_also_on_columns() {
    let mut shelf = shelf_with_0_1_0();
    run(&mut shelf.db, "CREATE DATABASE rights");
    let mut db = shelf.cluster.connect("rights");
    run(
        &mut db,
        "CREATE ROLE \"the owner\" SUPERUSER; CREATE ROLE admin SUPERUSER; CREATE ROLE \"on call\"; CREATE ROLE etl;
         GRANT \"on call\" TO CURRENT_USER; SET ROLE \"the owner\";
         CREATE EXTENSION matomo_postgres VERSION '0.1.0';
         ALTER VIEW matomo_runs OWNER TO \"on call\";
         GRANT SELECT (name) ON matomo_sites TO etl WITH GRANT OPTION;
         GRANT SELECT, UPDATE (failures, lag) ON matomo_status TO admin;
         GRANT EXECUTE ON FUNCTION matomo_check TO admin;
         REVOKE SELECT ON matomo_runs FROM PUBLIC;
         REVOKE EXECUTE ON FUNCTION matomo_forget FROM PUBLIC",
    );
    // Each granted column still exists after the update.
    run(
        &mut db,
        "DO $$ DECLARE change text; BEGIN
             FOR change IN SELECT format('GRANT SELECT (%I) ON %s TO etl', attname, attrelid::regclass) FROM pg_attribute
                 WHERE attrelid IN ('matomo_action'::regclass, 'matomo_sites'::regclass, 'matomo_status'::regclass,
                     'matomo_runs'::regclass) AND attnum > 0
             LOOP EXECUTE change; END LOOP;
         END $$",
    );
    let before = rights(&mut db);
    for line in [
        "matomo_runs is of \"on call\"",
        "matomo_check is of \"the owner\"",
        "UPDATE on matomo_status.lag to admin by \"the owner\"",
        "SELECT on matomo_sites.name to etl by \"the owner\" with grant option",
    ] {
        assert!(before.iter().any(|known| known == line), "{line}: {before:#?}");
    }
    run(&mut db, "SET ROLE admin; ALTER EXTENSION matomo_postgres UPDATE; RESET ROLE");
    assert_eq!(rights(&mut db), before);
}

/// As where EXECUTE is taken from PUBLIC for all functions that are yet to come.
#[test]
fn default_privileges_of_the_updating_role_give_and_take_nothing() {
    let mut shelf = shelf_with_0_1_0();
    run(&mut shelf.db, "CREATE ROLE anybody; CREATE ROLE favoured");
    run(&mut shelf.db, "CREATE DATABASE fresh");
    let mut fresh = shelf.cluster.connect("fresh");
    run(&mut fresh, "CREATE EXTENSION matomo_postgres");
    let expected = privileges(&mut fresh, "anybody");
    assert!(expected.len() > 30, "{expected:#?}");
    let mut db = database_of_0_1_0(&mut shelf, "hardened");
    run(
        &mut db,
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO favoured;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO favoured;
         ALTER EXTENSION matomo_postgres UPDATE",
    );
    for role in ["anybody", "favoured"] {
        assert_eq!(privileges(&mut db, role), expected, "{role}");
    }
}
