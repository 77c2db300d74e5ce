//! A user's operators in the extension's schema, and whether anything uses them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use postgres::Client;

use crate::support::cluster::Cluster;
use crate::support::overloads::strangers;
use crate::support::*;

/// Operators with the names that our SQL uses, and more, between any two types that it uses. Each
/// raises an error.
const OPERATORS: &str = r#"
    DO $do$
    DECLARE
        types CONSTANT text[] := ARRAY['text', 'varchar', 'name', '"char"', 'oid', 'regclass', 'regrole', 'regproc',
            'regprocedure', 'regtype', 'regnamespace', 'int2', 'int4', 'int8', 'float8', 'numeric', 'bool', 'date',
            'timestamp', 'timestamptz', 'interval', 'json', 'jsonb', 'bytea', 'tid', 'xid', 'int2vector', 'oidvector',
            'text[]', 'oid[]', 'name[]', 'int4[]', 'int2[]', 'date[]', 'tid[]'];
        names CONSTANT text[] := '{=,<>,<,>,<=,>=,||,~~,!~~,~,+,-,*,/,&,->,->>,@>,<@}';
        one text; other text; operator text;
    BEGIN
        FOREACH one IN ARRAY types LOOP
            FOREACH other IN ARRAY types LOOP
                EXECUTE format('CREATE FUNCTION fallen_for(%s, %s) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS %L', one, other,
                    format('BEGIN RAISE EXCEPTION %L; END', format('fell for an operator of %s and %s', one, other)));
                FOREACH operator IN ARRAY names LOOP
                    EXECUTE format('CREATE OPERATOR %s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = fallen_for)',
                        operator, one, other);
                END LOOP;
            END LOOP;
        END LOOP;
    END $do$"#;

/// A session whose parse trees are written to the server's log.
pub struct Watched {
    pub db: Client,
    log: PathBuf,
    begin: usize,
}

impl Watched {
    /// A superuser's session in a database where another role, which may create objects in the
    /// schema public, has just created operators. No other session of the server may be watched.
    pub fn among_operators(cluster: &Cluster, database: &str) -> Watched {
        let mut db = cluster.connect(database);
        let role = role(&mut db);
        run(&mut db, &format!("GRANT CREATE ON SCHEMA public TO {role}; SET ROLE {role}"));
        run(&mut db, OPERATORS);
        // Scripts of extensions do not send parse trees to the client.
        run(&mut db, "RESET ROLE; SET debug_print_parse = on");
        Watched { db, log: cluster.dir.join("log"), begin: 0 }
    }

    /// Ignores the statements so far.
    pub fn begin_anew(&mut self) {
        self.begin = std::fs::read(&self.log).unwrap().len();
    }

    /// Which of these operators the statements so far and the extension's objects use.
    pub fn used(&mut self) -> Vec<String> {
        run(&mut self.db, "SET debug_print_parse = off");
        let trees = std::fs::read(&self.log).unwrap();
        let met = numbers(&String::from_utf8_lossy(&trees[self.begin..]));
        assert!(met.len() > 10, "no parse trees: {met:?}");
        let theirs = self.db.query(
            "SELECT o.oid, o.oid::regoperator::text FROM pg_operator o WHERE o.oid >= 16384::oid
             UNION ALL SELECT p.oid, p.oid::regprocedure::text FROM pg_proc p WHERE p.proname = 'fallen_for'",
            &[],
        );
        let theirs = theirs.unwrap();
        assert!(theirs.len() > 20_000, "{}", theirs.len());
        let used = theirs.iter().filter(|row| met.contains(&row.get(0)));
        used.map(|row| row.get(1)).chain(strangers(&mut self.db)).collect()
    }
}

/// The OIDs of operators and functions in parse trees.
fn numbers(trees: &str) -> BTreeSet<u32> {
    let mut is_meant = false;
    let mut found = BTreeSet::new();
    for word in trees.split([' ', '\n', '\t', '(', ')', '}']).filter(|word| !word.is_empty()) {
        if word.starts_with(':') {
            is_meant = [":opno", ":opnos", ":funcid"].contains(&word);
        } else if is_meant {
            found.extend(word.parse::<u32>());
        }
    }
    found
}
