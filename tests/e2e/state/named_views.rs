//! Views with custom dimensions under their names.

use fake_matomo::{Action, CustomDimension, Fake};
use postgres::Client;

use crate::support::restored::{copied, scene_of};
use crate::support::sites::*;
use crate::support::*;

const CREATE: &str = "SELECT matomo_create_named_views('matomo')::text";

/// Both sites, synced; every visit has its own values.
fn synced() -> (Fake, Client) {
    let fake = serve_named();
    {
        let mut world = fake.world();
        for id in [1, 2] {
            for visit in &mut world.site_mut(id).visits {
                visit.dimensions = vec![(1, Some(format!("plan of {}", visit.id)))];
                for (place, action) in visit.actions.iter_mut().enumerate() {
                    name_of(action, visit.id, place);
                }
            }
        }
    }
    let mut db = database();
    server(&mut db, &fake);
    run(&mut db, "SELECT matomo_add_sites('analytics', start_date => '2026-10-24')");
    run(&mut db, "CALL matomo_sync_all()");
    (fake, db)
}

fn name_of(action: &mut Action, visit: i64, place: usize) {
    action.dimensions = vec![(3, Some(format!("third of {visit} {place}")))];
}

fn columns(db: &mut Client, view: &str) -> Vec<String> {
    texts(
        db,
        &format!(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = '{view}'::regclass AND attnum > \
             (SELECT max(attnum) FROM pg_attribute WHERE attrelid = '{}'::regclass) ORDER BY attnum",
            view.replace("_named", "")
        ),
    )
}

#[test]
fn dimensions_are_shown_under_their_names() {
    let (_fake, mut db) = synced();
    assert_eq!(texts(&mut db, CREATE), ["matomo_named", "matomo_visits_named"]);
    // The table has a city of its own.
    assert_eq!(columns(&mut db, "matomo_named"), ["plan", "section", "author", "city_dimension4"]);
    assert_eq!(columns(&mut db, "matomo_visits_named"), ["plan"]);
    // dimension3 has another name in each site.
    let wrong = "SELECT count(*) FROM matomo_named WHERE
        plan IS DISTINCT FROM CASE idsite WHEN 1 THEN dimension1 END
        OR section IS DISTINCT FROM CASE idsite WHEN 1 THEN dimension3 END
        OR author IS DISTINCT FROM CASE idsite WHEN 2 THEN dimension3 END
        OR city_dimension4 IS DISTINCT FROM CASE idsite WHEN 1 THEN dimension4 END";
    assert_eq!(one::<i64>(&mut db, wrong), 0);
    let filled =
        "SELECT count(section) > 0 AND count(author) > 0 AND count(plan) > 0 FROM matomo_named";
    assert!(one::<bool>(&mut db, filled));
    let visits = "SELECT count(*) = (SELECT count(*) FROM matomo_visits) AND
        bool_and(plan IS NOT DISTINCT FROM CASE idsite WHEN 1 THEN dimensions->>'dimension1' END) AND count(plan) > 0
        FROM matomo_visits_named";
    assert!(one::<bool>(&mut db, visits));
}

#[test]
fn dimensions_may_have_other_types() {
    let (fake, mut db) = synced();
    fake.world().site_mut(2).dimensions = vec![CustomDimension::new(3, "plan", "action", 1)];
    run(&mut db, "SELECT * FROM matomo_refresh_metadata(2, server => 'analytics')");
    run(
        &mut db,
        "ALTER TABLE matomo ALTER COLUMN dimension1 TYPE integer USING length(dimension1),
             ALTER COLUMN usercustomdimensions TYPE text, DROP COLUMN dimension4",
    );
    assert_eq!(texts(&mut db, CREATE), ["matomo_named", "matomo_visits_named"]);
    let wrong = "SELECT count(*) FROM matomo_named
        WHERE plan IS DISTINCT FROM CASE idsite WHEN 1 THEN dimension1::text ELSE dimension3 END";
    assert_eq!(one::<i64>(&mut db, wrong), 0);
}

#[test]
fn names_are_of_the_sites_that_have_them() {
    let (fake, mut db) = synced();
    // Of the other site nothing was read.
    run(&mut db, "DELETE FROM matomo_site_metadata WHERE idsite = 2");
    texts(&mut db, CREATE);
    let named = "SELECT string_agg(DISTINCT idsite::text, ' ') FROM matomo_named WHERE";
    assert_eq!(one::<i64>(&mut db, "SELECT count(DISTINCT idsite) FROM matomo_named"), 2);
    assert_eq!(one::<String>(&mut db, &format!("{named} plan IS NOT NULL")), "1");
    assert_eq!(one::<String>(&mut db, &format!("{named} section IS NOT NULL")), "1");
    // Where it has the same, a row's site need not be looked at.
    let same = fake.world().site(1).dimensions.clone();
    fake.world().site_mut(2).dimensions = same;
    run(&mut db, "SELECT matomo_refresh_metadata(2, server => 'analytics')");
    texts(&mut db, CREATE);
    assert_eq!(one::<String>(&mut db, &format!("{named} section IS NOT NULL")), "1 2");
    let view = "SELECT pg_get_viewdef('matomo_named'::regclass)";
    assert!(!one::<String>(&mut db, view).contains("CASE"));
}

#[test]
fn after_a_restore_both_views_are_made_before_any_sync() {
    let scene = scene_of(serve_named());
    let mut db = copied(&scene.name, "views", &[]);
    assert_eq!(texts(&mut db, CREATE), ["matomo_named", "matomo_visits_named"]);
    assert_eq!(columns(&mut db, "matomo_visits_named"), ["plan"]);
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(texts(&mut db, CREATE), ["matomo_named", "matomo_visits_named"]);
}

#[test]
fn a_name_may_be_anything() {
    let (fake, mut db) = synced();
    let long = "Größe ".repeat(20);
    {
        let mut world = fake.world();
        world.site_mut(1).dimensions = vec![
            CustomDimension::new(1, "plan", "visit", 1),
            CustomDimension::new(2, "plan", "action", 1),
            CustomDimension::new(3, "a \"b\"'; DROP TABLE matomo; --", "action", 2),
            CustomDimension::new(4, &long, "action", 3),
            CustomDimension::new(5, &format!("{long}!"), "action", 4),
            CustomDimension::new(7, "", "action", 5),
            CustomDimension::new(8, "dimension12", "visit", 2),
            CustomDimension::new(12, "twelfth", "visit", 3),
            CustomDimension::new(13, "plan_dimension2", "action", 6),
        ];
        world.site_mut(2).dimensions = vec![CustomDimension::new(2, "plan", "visit", 1)];
    }
    for site in [1, 2] {
        let sql = format!("SELECT matomo_refresh_metadata({site}, server => 'analytics')");
        run(&mut db, &sql);
    }
    texts(&mut db, CREATE);
    let found = columns(&mut db, "matomo_named");
    assert_eq!(found[0], "plan");
    assert!(found.contains(&"plan_dimension2".to_owned()), "{found:?}");
    assert!(found.contains(&"a \"b\"'; DROP TABLE matomo; --".to_owned()), "{found:?}");
    assert!(found.contains(&"dimension12".to_owned()), "{found:?}");
    assert!(found.contains(&"twelfth".to_owned()), "{found:?}");
    assert!(found.iter().any(|name| name.ends_with("_dimension5")), "{found:?}");
    assert!(!found.iter().any(String::is_empty), "{found:?}");
    // One name for different numbers of two sites is one column.
    let wrong = "SELECT count(*) FROM matomo_named WHERE plan IS DISTINCT FROM CASE idsite WHEN 1 THEN dimension1 WHEN 2 THEN dimension2 END";
    assert_eq!(one::<i64>(&mut db, wrong), 0);
    run(&mut db, "SELECT dimension12, twelfth, plan FROM matomo_visits_named");
}

#[test]
fn views_are_renewed_and_no_other_relation_is_touched() {
    let (fake, mut db) = synced();
    let reader = role(&mut db);
    texts(&mut db, CREATE);
    run(&mut db, &format!("GRANT SELECT ON matomo_named TO {reader}"));
    fake.world().site_mut(1).dimensions[0].name = "tariff".to_owned();
    run(&mut db, "SELECT matomo_refresh_metadata(1, server => 'analytics')");
    texts(&mut db, CREATE);
    assert_eq!(columns(&mut db, "matomo_visits_named"), ["tariff"]);
    assert!(one::<bool>(
        &mut db,
        &format!("SELECT has_table_privilege('{reader}', 'matomo_named', 'SELECT')")
    ));
    // A view does not lend rights on the table.
    run(&mut db, &format!("SET ROLE {reader}"));
    assert_eq!(error(&mut db, "TABLE matomo_named").code().code(), "42501");
    run(
        &mut db,
        "RESET ROLE; DROP VIEW matomo_named; CREATE VIEW matomo_named AS SELECT 1 AS mine",
    );
    let refused = error(&mut db, CREATE);
    assert_says(
        &refused,
        "42P07",
        "relation public.matomo_named already exists",
        &[],
        "Drop it or rename it.",
    );
    assert_eq!(one::<i32>(&mut db, "TABLE matomo_named"), 1);
    // Nor a view of another role that looks like ours: its owner could change it later.
    run(
        &mut db,
        &format!(
            "DROP VIEW matomo_named; GRANT CREATE ON SCHEMA public TO {reader}; SET ROLE {reader};
             CREATE VIEW matomo_named AS SELECT t.* FROM matomo t;
             COMMENT ON VIEW matomo_named IS 'Matomo actions of public.matomo with named custom dimensions'; RESET ROLE"
        ),
    );
    assert_eq!(error(&mut db, CREATE).code().code(), "42P07");
    run(&mut db, "SELECT matomo_create_table('bare')");
    let refused = error(&mut db, "SELECT matomo_create_named_views('bare')");
    assert_says(
        &refused,
        "55000",
        "no names of custom dimensions of public.bare are known",
        &[],
        "matomo_refresh_metadata",
    );
}
