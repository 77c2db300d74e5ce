//! Roles and their privileges.

use std::sync::atomic::{AtomicU32, Ordering};

use fake_matomo::Fake;
use postgres::Client;

use crate::support::cluster::shared;
use crate::support::*;

/// A new role that may log in and owns nothing. Roles belong to the whole cluster.
pub fn role(db: &mut Client) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("role_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    run(db, &format!("CREATE ROLE {name} LOGIN"));
    name
}

/// The server `analytics` for another role, which may create tables and call all functions for sites.
pub fn server_for(admin: &mut Client, fake: &Fake, role: &str) {
    run(
        admin,
        &format!(
            "DO $$ BEGIN
                 CREATE SERVER analytics FOREIGN DATA WRAPPER matomo OPTIONS (url '{url}');
             EXCEPTION WHEN duplicate_object THEN END $$;
             GRANT USAGE ON FOREIGN SERVER analytics TO {role};
             CREATE USER MAPPING FOR {role} SERVER analytics OPTIONS (token '{token}')",
            url = fake.url(),
            token = fake.token()
        ),
    );
    may_have_sites(admin, role);
}

/// Lets a role call everything, and create tables in a schema of the same name.
pub fn may_have_sites(admin: &mut Client, role: &str) {
    run(
        admin,
        &format!(
            "GRANT EXECUTE ON FUNCTION matomo_sync, matomo_check, matomo_add_site, matomo_alter_site TO {role};
             GRANT EXECUTE ON PROCEDURE matomo_sync_site, matomo_sync_all TO {role};
             CREATE SCHEMA IF NOT EXISTS {role} AUTHORIZATION {role}"
        ),
    );
}

/// A new database, and a role that may log in.
pub fn database_and_role() -> (String, Client, String) {
    let (name, mut admin) = named_database();
    let role = role(&mut admin);
    (name, admin, role)
}

/// A connection of a user in the shared cluster.
pub fn connect_as(database: &str, user: &str) -> Client {
    shared().connect_as(database, user)
}

/// A function `evil` that adds to `notes` whose rights it has. IMMUTABLE, so that Postgres evaluates it
/// when it plans a statement or makes a table.
pub const FOLDED_TRAP: &str = "
    CREATE TABLE notes (who text); GRANT INSERT ON notes TO PUBLIC;
    CREATE FUNCTION grab() RETURNS integer LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO notes VALUES (current_user); RETURN 1; END $$;
    CREATE FUNCTION evil(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN RETURN grab(); END $$;
    DO $$ BEGIN
        EXECUTE format('ALTER FUNCTION grab() SET search_path = %I', current_schema());
        EXECUTE format('ALTER FUNCTION evil(integer) SET search_path = %I', current_schema());
    END $$";

/// Objects with names of pg_catalog, all of which fail when used.
pub const HOSTILE: &str = "
    CREATE SCHEMA evil;
    CREATE FUNCTION evil.boom(what text) RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'fell for evil.%', what; END $$;
    DO $do$
    DECLARE
        name text; arguments text; result text;
    BEGIN
        FOR name, arguments, result IN VALUES
            ('lower', 'text', 'text'), ('left', 'text, integer', 'text'), ('right', 'text, integer', 'text'),
            ('format', 'text, text', 'text'), ('format', 'text, text, text', 'text'),
            ('format', 'text, name', 'text'), ('format', 'text, name, text', 'text'),
            ('format', 'text, regclass', 'text'), ('concat', 'text, text', 'text'),
            ('to_timestamp', 'double precision', 'timestamptz'), ('to_char', 'timestamptz, text', 'text'),
            ('date_trunc', 'text, timestamptz', 'timestamptz'), ('date_part', 'text, timestamptz', 'double precision'),
            ('floor', 'double precision', 'double precision'), ('now', '', 'timestamptz'),
            ('max', 'timestamptz', 'timestamptz'), ('bool_or', 'boolean', 'boolean'), ('count', 'text', 'bigint'),
            ('unnest', 'text[]', 'text'), ('cardinality', 'text[]', 'integer'), ('parse_ident', 'text', 'text[]'),
            ('octet_length', 'text', 'integer'), ('quote_ident', 'text', 'text'), ('quote_ident', 'name', 'text'),
            ('to_regclass', 'text', 'regclass'), ('current_schema', '', 'name'),
            ('hashtextextended', 'text, bigint', 'bigint'), ('hashtextextended', 'text, integer', 'bigint'),
            ('pg_advisory_xact_lock', 'bigint', 'boolean'), ('pg_try_advisory_xact_lock', 'bigint', 'boolean'),
            ('pg_get_expr', 'pg_node_tree, oid', 'text'), ('format_type', 'oid, integer', 'text'),
            ('has_table_privilege', 'oid, text', 'boolean'), ('has_any_column_privilege', 'oid, text', 'boolean'),
            ('matomo_create_table', 'text, boolean', 'oid'), ('matomo_create_table', 'text, boolean, name', 'regclass'),
            ('matomo_create_partitions', 'regclass, timestamptz, timestamptz', 'integer')
        LOOP
            EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', name, arguments, result,
                format('BEGIN PERFORM evil.boom(%L); RETURN NULL; END', name));
        END LOOP;
        FOR name, arguments IN
            SELECT o, t FROM unnest('{=,<>,<,<=,>,>=,||}'::text[]) o,
                unnest('{text,bigint,integer,oid,name,timestamptz,tid,numeric,date,boolean}'::text[]) t
        LOOP
            EXECUTE format('CREATE FUNCTION evil.\"of %s\"(%s, %2$s) RETURNS boolean LANGUAGE plpgsql AS %L', name, arguments,
                format('BEGIN RETURN evil.boom(%L); END', name));
            EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %2$s, FUNCTION = evil.\"of %1$s\")', name, arguments);
        END LOOP;
        FOREACH name IN ARRAY '{text,date,json,jsonb,int8,int4,oid,tid,regclass,name,timestamptz,bool}'::text[] LOOP
            EXECUTE format('CREATE DOMAIN evil.%I AS pg_catalog.%1$I CHECK (evil.boom(%1$L))', name);
        END LOOP;
        FOREACH name IN ARRAY '{pg_class,pg_namespace,pg_attribute,pg_index,pg_inherits,pg_extension,pg_partitioned_table,matomo_action}'::text[] LOOP
            EXECUTE format('CREATE TABLE evil.%I (nothing pg_catalog.int4)', name);
            EXECUTE format('CREATE TEMP TABLE %I (nothing pg_catalog.int4)', name);
        END LOOP;
    END $do$";

/// Objects of the extension on which a role has privileges, with these.
pub fn privileges(db: &mut postgres::Client, role: &str) -> Vec<String> {
    let sql = format!(
        "WITH members AS (
             SELECT classid, objid FROM pg_depend
             WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
               AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'matomo_postgres')),
         allowed AS (
             SELECT p.prokind::text || ' ' || p.oid::regprocedure::text AS object, 'EXECUTE' AS what
             FROM members JOIN pg_proc p ON classid = 'pg_proc'::regclass AND objid = p.oid
             WHERE has_function_privilege('{role}', p.oid, 'EXECUTE')
             UNION ALL
             SELECT 'r ' || c.relname, what
             FROM members JOIN pg_class c ON classid = 'pg_class'::regclass AND objid = c.oid,
                  unnest('{{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}}'::text[]) what
             WHERE c.relkind IN ('r', 'p', 'v', 'm') AND has_table_privilege('{role}', c.oid, what)
             UNION ALL
             SELECT 'S ' || c.relname, what
             FROM members JOIN pg_class c ON classid = 'pg_class'::regclass AND objid = c.oid,
                  unnest('{{USAGE,SELECT,UPDATE}}'::text[]) what
             WHERE c.relkind = 'S' AND has_sequence_privilege('{role}', c.oid, what)
             UNION ALL
             SELECT 'w ' || w.fdwname, 'USAGE'
             FROM members JOIN pg_foreign_data_wrapper w
                  ON classid = 'pg_foreign_data_wrapper'::regclass AND objid = w.oid
             WHERE has_foreign_data_wrapper_privilege('{role}', w.oid, 'USAGE'))
         SELECT object || ': ' || string_agg(what, ', ' ORDER BY what)
         FROM allowed GROUP BY object ORDER BY object COLLATE \"C\""
    );
    texts(db, &sql)
}
