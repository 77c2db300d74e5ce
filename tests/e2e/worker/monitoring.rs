//! The monitoring queries run with the intended role and return correct results.

use std::collections::BTreeMap;

use fake_matomo::{Fault, Page, When};

use crate::support::cluster::shared;
use crate::support::worker::*;
use crate::support::*;

const FILE: &str = include_str!("../../../monitoring/postgres_exporter.yaml");

/// Name, query and columns of each entry in the file.
fn queries() -> Vec<(String, String, Vec<String>)> {
    let mut all = Vec::new();
    for line in FILE.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            all.push((name.to_owned(), String::new(), Vec::new()));
            continue;
        }
        let (_, query, columns) = all.last_mut().expect("a name first");
        if let Some(column) = line.strip_prefix("    - ") {
            columns.push(column.split(':').next().unwrap().to_owned());
        } else if let Some(part) = line.strip_prefix("    ") {
            query.push_str(part);
            query.push('\n');
        } else {
            assert!(matches!(line, "  query: |" | "  metrics:"), "{line}");
        }
    }
    all
}

/// A query's result for the exporter's role, one map per row.
fn values(db: &mut postgres::Client, name: &str) -> Vec<BTreeMap<String, String>> {
    let (_, query, columns) = queries().into_iter().find(|(known, ..)| known == name).unwrap();
    let rows =
        db.query(&format!("SELECT to_jsonb(x)::text FROM ({query}) x ORDER BY 1"), &[]).unwrap();
    let rows = rows.iter().map(|row| {
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&row.get::<_, String>(0)).unwrap();
        let row: BTreeMap<_, _> = object
            .into_iter()
            .map(|(key, value)| {
                (key, value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            })
            .collect();
        let mut listed = columns.clone();
        listed.sort();
        assert_eq!(row.keys().cloned().collect::<Vec<_>>(), listed, "columns of {name}");
        row
    });
    rows.collect()
}

#[test]
fn the_exporters_queries_tell_how_it_is() {
    let (name, mut db) = named_database();
    let noon = Noon::new();
    let fake = serve(noon.world(3));
    store(&mut db, "analytics", &fake);
    run(&mut db, "SELECT matomo_create_table('there')");
    let good = register(&mut db, &format!("'analytics', 1, '{}'", noon.text(2)));
    let bad = register(&mut db, &format!("'analytics', 1, '{}', 'there'", noon.text(2)));
    let role = role(&mut db);
    run(&mut db, &format!("GRANT pg_monitor TO {role}; SET matomo.max_retries = 0"));
    run(&mut db, &format!("CALL matomo_sync_site({good})"));
    fake.fail(Fault::Status(503, Page::Html), When::live());
    error(&mut db, &format!("CALL matomo_sync_site({bad})"));

    let mut exporter = shared().connect_as(&name, &role);
    let sites = values(&mut exporter, "matomo_site");
    let of = |destination: &str| {
        sites.iter().find(|site| site["destination"] == destination).unwrap().clone()
    };
    for (destination, failures) in [("matomo", "0"), ("there", "1")] {
        let site = of(destination);
        assert_eq!((site["server"].as_str(), site["idsite"].as_str()), ("analytics", "1"));
        assert_eq!((site["failures"].as_str(), site["token_refused"].as_str()), (failures, "0"));
        let lag: f64 = site["lag_seconds"].parse().unwrap();
        assert!(0.0 < lag && lag < 60.0, "{site:?}");
    }
    assert_eq!(of("matomo")["visits_today"], "3");
    let counts: Vec<_> = values(&mut exporter, "matomo_run")
        .iter()
        .map(|run| (run["runs"].clone(), run["failed"].clone(), run["actions"].clone()))
        .collect();
    let count = |runs: &str, failed: &str, actions: &str| {
        (runs.to_owned(), failed.to_owned(), actions.to_owned())
    };
    assert_eq!(counts, [count("1", "0", "27"), count("1", "1", "0")]);
    assert_eq!(values(&mut exporter, "matomo_worker")[0]["up"], "0");

    // A refused token is reported as such.
    fake.heal();
    run(
        &mut db,
        "ALTER USER MAPPING FOR CURRENT_USER SERVER analytics OPTIONS (SET token 'revoked')",
    );
    error(&mut db, &format!("CALL matomo_sync_site({bad})"));
    let sites = values(&mut exporter, "matomo_site");
    let refused: Vec<_> = sites.iter().map(|site| site["token_refused"].as_str()).collect();
    assert_eq!(refused, ["0", "1"]);
    // So is failing upkeep.
    let upkeep = |db: &mut postgres::Client| -> Vec<String> {
        values(db, "matomo_site").iter().map(|site| site["upkeep_failed"].clone()).collect()
    };
    assert_eq!(upkeep(&mut exporter), ["0", "0"]);
    run(&mut db, &format!("SELECT matomo_alter_site({good})"));
    let set = "UPDATE matomo_site_state SET upkeep_error = 'it was in the way' WHERE site_id =";
    run(&mut db, &format!("{set} {good}"));
    assert_eq!(upkeep(&mut exporter), ["1", "0"]);
    // Other roles see nothing.
    let nobody = crate::support::role(&mut db);
    let mut nobody = shared().connect_as(&name, &nobody);
    assert_eq!(
        values(&mut nobody, "matomo_site").len() + values(&mut nobody, "matomo_run").len(),
        0
    );
}

#[test]
fn the_worker_is_seen_to_be_up() {
    let (_cluster, mut db) = cluster_with_worker();
    wait_until("it is up", || values(&mut db, "matomo_worker")[0]["up"] == "1");
}
