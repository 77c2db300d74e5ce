//! A user's operators in the extension's schema are never used instead of Postgres' own: not by
//! the scripts of `CREATE EXTENSION` and `ALTER EXTENSION … UPDATE`, whose search_path has that
//! schema, not by the objects that they create, and not later.

use crate::support::cluster::Cluster;
use crate::support::operators::Watched;
use crate::support::overloads::use_everything;
use crate::support::sites::serve_two;
use crate::support::*;

/// A server with a database that lacks the extension.
fn bare() -> (Cluster, String) {
    let cluster = Cluster::start();
    let name = cluster.database();
    run(&mut cluster.connect(&name), "DROP EXTENSION matomo_postgres");
    (cluster, name)
}

#[test]
fn operators_that_were_there_before_the_extension_are_used_nowhere() {
    let (cluster, name) = bare();
    let mut watched = Watched::among_operators(&cluster, &name);
    run(&mut watched.db, "CREATE EXTENSION matomo_postgres");
    use_everything(&mut watched.db, &serve_two());
    assert_eq!(watched.used(), [""; 0]);
}

/// Proves that the comparison can fail.
#[test]
fn an_operator_that_is_used_is_found() {
    let (cluster, name) = bare();
    let mut watched = Watched::among_operators(&cluster, &name);
    let hidden = "SELECT FROM pg_class WHERE false AND oid = 'pg_class'::regclass";
    run(&mut watched.db, "CREATE EXTENSION matomo_postgres");
    run(&mut watched.db, hidden);
    run(&mut watched.db, &format!("CREATE VIEW relic AS {}", hidden.replace("SELECT", "SELECT 1")));
    run(&mut watched.db, "ALTER EXTENSION matomo_postgres ADD VIEW relic");
    let used = watched.used();
    assert_eq!(used.len(), 2, "{used:?}");
    assert_eq!(used[0], "=(oid,regclass)");
    assert!(used[1].starts_with("rule _RETURN on view relic on operator =("), "{used:?}");
}
