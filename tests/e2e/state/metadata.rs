//! Names of sites, goals and custom dimensions.

use fake_matomo::{Fake, Fault, When};
use postgres::Client;

use crate::support::restored::{copied, scene_of};
use crate::support::sites::*;
use crate::support::*;

const GOALS: &str = "Goals.getGoals";
const DIMENSIONS: &str = "CustomDimensions.getConfiguredCustomDimensions";
const NAMES: &str = "SELECT concat_ws(' ', idsite, goalid, name, CASE WHEN deleted_at IS NULL THEN 'is' ELSE 'was' END)
    FROM matomo_goals ORDER BY idsite, goalid";
const DIMENSION_NAMES: &str = "SELECT concat_ws(' ', idsite, dimension, name, scope) FROM matomo_dimensions ORDER BY idsite, iddimension";

fn refresh(fake: &Fake, site: i32, arguments: &str) -> String {
    format!(
        "SELECT name, goals, dimensions FROM matomo_refresh_metadata({site}, '{}', '{}'{arguments})",
        fake.url(),
        fake.token()
    )
}

/// The requests for names since the last call.
fn asked_for_names(fake: &Fake) -> Vec<String> {
    let methods = fake.requests().iter().map(|seen| seen.method.clone()).collect::<Vec<_>>();
    fake.clear_requests();
    methods.into_iter().filter(|method| [GOALS, DIMENSIONS].contains(&method.as_str())).collect()
}

/// Makes the names of all registered sites due.
fn next_day(db: &mut Client) {
    run(db, "UPDATE matomo_site_state SET metadata_on = metadata_on - 1");
}

fn synced(fake: &Fake) -> (Client, i32) {
    let mut db = database();
    server(&mut db, fake);
    let site = add_site(&mut db, ", start_date => '2026-10-24'");
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    (db, site)
}

#[test]
fn a_registered_site_reads_its_names_once_a_day() {
    let fake = serve_named();
    let (mut db, site) = synced(&fake);
    assert_eq!(asked_for_names(&fake), [GOALS, DIMENSIONS]);
    assert_eq!(texts(&mut db, NAMES), ["1 1 Contact is", "1 4 O'Reilly \"x\" is"]);
    assert_eq!(
        texts(&mut db, DIMENSION_NAMES),
        ["1 dimension1 plan visit", "1 dimension3 section action", "1 dimension4 city action"]
    );
    let details = "SELECT concat_ws(' ', idsite, name, main_url, timezone, currency, ecommerce, site_type, created_at AT TIME ZONE 'UTC')
        FROM matomo_site_details";
    assert_eq!(
        texts(&mut db, details),
        ["1 Café & Co http://site1.example.org Europe/Paris EUR f website 2020-01-01 00:00:00"]
    );
    fake.world().site_mut(1).goals[0].name = "Talk".to_owned();
    run(&mut db, &format!("CALL matomo_sync_site({site})"));
    assert_eq!(asked_for_names(&fake), [""; 0]);
    next_day(&mut db);
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(asked_for_names(&fake), [GOALS, DIMENSIONS]);
    assert_eq!(texts(&mut db, NAMES)[0], "1 1 Talk is");
}

#[test]
fn a_poll_of_a_registered_site_stays_one_request() {
    let noon = Noon::new();
    let fake = serve(noon.world(3));
    let mut db = database();
    run(&mut db, "LOAD 'matomo_postgres'; SET matomo.settle_time = 0");
    server(&mut db, &fake);
    let site = add_site(&mut db, &format!(", start_date => '{}'", noon.text(2)));
    let mut requests = || {
        fake.clear_requests();
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        fake.requests().len()
    };
    assert!(requests() > 4);
    assert_eq!(requests(), 1);
}

#[test]
fn a_goal_that_was_deleted_keeps_its_name() {
    let fake = serve_named();
    let (mut db, _) = synced(&fake);
    fake.world().site_mut(1).goals[0].deleted = true;
    fake.world().site_mut(1).dimensions.remove(0);
    let row = db.query_one(&refresh(&fake, 1, ""), &[]).unwrap();
    assert_eq!(
        (row.get::<_, String>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)),
        ("Café & Co".to_owned(), 1, 2)
    );
    assert_eq!(texts(&mut db, NAMES), ["1 1 Contact was", "1 4 O'Reilly \"x\" is"]);
    let when = "SELECT deleted_at::text FROM matomo_goals WHERE goalid = 1";
    let deleted: String = one(&mut db, when);
    let gone = "SELECT dimension FROM matomo_dimensions WHERE deleted_at IS NOT NULL";
    assert_eq!(texts(&mut db, gone), ["dimension1"]);
    // It was deleted then, not at each refresh.
    run(&mut db, &refresh(&fake, 1, ""));
    assert_eq!(one::<String>(&mut db, when), deleted);
    fake.world().site_mut(1).goals[0].deleted = false;
    run(&mut db, &refresh(&fake, 1, ""));
    assert_eq!(texts(&mut db, NAMES)[0], "1 1 Contact is");
}

#[test]
fn a_plugin_that_is_off_fails_no_run() {
    for language in ["en", "fr"] {
        let fake = serve_named();
        fake.knobs().language = language.to_owned();
        let (mut db, site) = synced(&fake);
        fake.knobs().plugins_off.insert("CustomDimensions".to_owned());
        fake.world().site_mut(1).goals[0].name = "Talk".to_owned();
        next_day(&mut db);
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        let status =
            "SELECT concat_ws(' ', failures, last_error, metadata_error) FROM matomo_status";
        let said: String = one(&mut db, status);
        assert!(
            said.starts_with(
                "0 Matomo answered with an error: The plugin CustomDimensions is not enabled"
            ),
            "{said}"
        );
        // What it had said before stays, and goals are up to date.
        assert_eq!(texts(&mut db, DIMENSION_NAMES).len(), 3);
        assert_eq!(texts(&mut db, NAMES)[0], "1 1 Talk is");
        let gone = "SELECT count(*) FROM matomo_dimensions WHERE deleted_at IS NOT NULL";
        assert_eq!(one::<i64>(&mut db, gone), 0);
        // Not asked again at each poll.
        fake.clear_requests();
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        assert_eq!(asked_for_names(&fake), [""; 0]);
        let row = db.query_one(&refresh(&fake, 1, ""), &[]).unwrap();
        assert_eq!((row.get::<_, Option<i32>>(1), row.get::<_, Option<i32>>(2)), (Some(2), None));
        fake.knobs().plugins_off.clear();
        next_day(&mut db);
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        assert_eq!(one::<String>(&mut db, status), "0");
    }
}

#[test]
fn a_refresh_that_fails_fails_no_run_and_deletes_nothing() {
    let fake = serve_named();
    let (mut db, site) = synced(&fake);
    run(&mut db, "SET matomo.max_retries = 0");
    for fault in [
        Fault::Raw(br#"[{"name":"no ID"}]"#.to_vec()),
        Fault::Raw(br#"{"value":1}"#.to_vec()),
        Fault::Empty,
        Fault::Html,
        Fault::Status500Envelope("Out of order".to_owned()),
        Fault::Reset,
    ] {
        next_day(&mut db);
        let said = format!("{fault:?}");
        fake.fail(fault, When::always().method(GOALS));
        run(&mut db, &format!("CALL matomo_sync_site({site})"));
        fake.heal();
        let status = "SELECT failures = 0 AND metadata_error <> '' FROM matomo_status";
        assert!(one::<bool>(&mut db, status), "{said}");
        assert_eq!(texts(&mut db, NAMES).len(), 2, "{said}");
        assert!(texts(&mut db, NAMES).iter().all(|line| line.ends_with(" is")), "{said}");
    }
}

#[test]
fn a_site_that_is_altered_while_its_names_are_read_is_read_anew() {
    let noon = Noon::new();
    let fake = serve(noon.world(1));
    let (name, mut db) = named_database();
    server(&mut db, &fake);
    let site = add_site(&mut db, &format!(", start_date => '{}'", noon.text(0)));
    fake.fail(Fault::Hang, When::always().method(GOALS));
    let call = format!("CALL matomo_sync_site({site})");
    let (mut caller, sync) = (connect_as(&name, "postgres"), call.clone());
    run(
        &mut caller,
        "LOAD 'matomo_postgres'; SET matomo.request_timeout = '2 s'; SET matomo.max_retries = 0",
    );
    let syncs = std::thread::spawn(move || run(&mut caller, &sync));
    wait_until("it asks for goals", || fake.requests().iter().any(|seen| seen.method == GOALS));
    run(&mut db, &format!("SELECT matomo_alter_site({site}, destination => 'matomo_partitioned')"));
    syncs.join().unwrap();
    fake.heal();
    run(&mut db, &call);
    let tables = "SELECT destination::text FROM matomo_site_details ORDER BY 1";
    assert_eq!(texts(&mut db, tables).last().map(String::as_str), Some("matomo_partitioned"));
    let errors = "SELECT metadata_error FROM matomo_status WHERE metadata_error IS NOT NULL";
    assert_eq!(texts(&mut db, errors), [""; 0]);
}

/// Between the run of a site and the reading of its names, the site gets the table of another Matomo.
#[test]
fn names_do_not_go_into_a_table_of_another_matomo() {
    let (fake, other) = (serve_named(), serve_named());
    let mut db = database();
    server(&mut db, &fake);
    run(&mut db, "SELECT matomo_create_table('others')");
    let range = ", '2026-10-24', destination => 'others'";
    sync_site(&mut db, &other, 1, range);
    run(&mut db, &refresh(&other, 1, ", 'others'"));
    run(&mut db, "UPDATE matomo_site_metadata SET name = 'Of the other'");
    let site = add_site(&mut db, ", start_date => current_date");
    let step = format!("DO $$ BEGIN PERFORM matomo_run_step({site}, false); END $$");
    let runs = "SELECT count(*) FROM matomo_runs WHERE status = 'succeeded'";
    while one::<i64>(&mut db, runs) == 0 {
        run(&mut db, &step);
    }
    assert_eq!(asked_for_names(&fake), [""; 0]);
    run(&mut db, &format!("SELECT matomo_alter_site({site}, destination => 'others')"));
    run(&mut db, &step);
    assert_eq!(asked_for_names(&fake), [GOALS, DIMENSIONS]);
    let names = "SELECT name FROM matomo_site_details WHERE destination = 'others'::regclass";
    assert_eq!(texts(&mut db, names), ["Of the other"]);
}

#[test]
fn names_of_another_site_are_not_believed() {
    let fake = serve_named();
    let (mut db, _) = synced(&fake);
    let other = br#"{"idsite":"2","name":"Other","timezone":"UTC"}"#.to_vec();
    fake.fail(Fault::Raw(other), When::always().method("SitesManager.getSiteFromId"));
    let refused = error(&mut db, &refresh(&fake, 1, ""));
    assert_eq!(refused.code().code(), "08P01", "{refused:?}");
    fake.heal();
    assert_eq!(texts(&mut db, NAMES).len(), 2);
    assert_eq!(texts(&mut db, "SELECT idsite::text FROM matomo_site_details"), ["1"]);
}

#[test]
fn a_refresh_needs_the_site_the_table_and_its_matomo() {
    let fake = serve_named();
    let (mut db, _) = synced(&fake);
    fake.knobs().hidden_sites.insert(2);
    let hidden = error(&mut db, &refresh(&fake, 2, ""));
    assert_says(&hidden, "28000", "the token has no access to the site", &[], "view access");
    let unknown = error(&mut db, &refresh(&fake, 9, ""));
    assert_says(&unknown, "22023", "Matomo does not know the site", &[], "Manage");
    let missing = error(&mut db, &refresh(&fake, 1, ", 'nothing'"));
    assert_says(
        &missing,
        "42P01",
        "destination \"nothing\" does not exist",
        &[],
        "matomo_create_table",
    );
    let other = serve_named();
    let refused = error(&mut db, &refresh(&other, 1, ""));
    assert_eq!(refused.code().code(), "55000", "{refused:?}");
    let wrong = refresh(&fake, 1, "").replace(fake.token(), "wrong-secret-token");
    assert_says(&error(&mut db, &wrong), "28000", "Matomo refused the token", &[], "token_auth");
    let none = error(&mut db, "SELECT * FROM matomo_refresh_metadata(NULL, server => 'analytics')");
    assert_eq!(none.code().code(), "22004");
    assert_eq!(texts(&mut db, NAMES).len(), 2);
    run(&mut db, "BEGIN READ ONLY");
    let read_only = error(&mut db, &refresh(&fake, 1, ""));
    assert_eq!(read_only.code().code(), "25006");
    run(&mut db, "ROLLBACK");
    run(&mut db, "SELECT * FROM matomo_refresh_metadata(1, server => 'analytics')");
}

#[test]
fn names_are_for_those_who_may_read_the_visits() {
    let fake = serve_named();
    let (name, mut admin, owner) = database_and_role();
    server_for(&mut admin, &fake, &owner);
    run(&mut admin, &format!("GRANT CREATE ON SCHEMA public TO {owner}"));
    run(&mut admin, &format!("GRANT EXECUTE ON FUNCTION matomo_refresh_metadata TO {owner}"));
    let mut db = connect_as(&name, &owner);
    for (site, table) in [(1, "public.matomo"), (2, "public.other")] {
        run(&mut db, &format!("SELECT matomo_create_table('{table}')"));
        let add = format!("SELECT matomo_add_site('analytics', {site}, '2026-10-24', '{table}')");
        run(&mut db, &add);
    }
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(texts(&mut db, NAMES).len(), 3);
    let analyst = role(&mut admin);
    let mut reader = connect_as(&name, &analyst);
    let seen = |reader: &mut Client| {
        let tables = ["matomo_goals", "matomo_dimensions", "matomo_site_details"];
        let count = tables.map(|view| one::<i64>(reader, &format!("SELECT count(*) FROM {view}")));
        count.map(|n| n.to_string()).join(" ")
    };
    assert_eq!(seen(&mut reader), "0 0 0");
    run(&mut db, &format!("GRANT SELECT ON public.other TO {analyst}"));
    assert_eq!(seen(&mut reader), "1 1 1");
    assert_eq!(texts(&mut reader, NAMES), ["2 1 登録 is"]);
    run(&mut db, "ALTER TABLE public.other ENABLE ROW LEVEL SECURITY");
    assert_eq!(seen(&mut reader), "0 0 0");
    let refused = error(&mut reader, "SELECT * FROM matomo_site_metadata");
    assert_eq!(refused.code().code(), "42501");
    // A role that may call it, but not write to the table.
    run(
        &mut admin,
        &format!(
            "GRANT EXECUTE ON FUNCTION matomo_refresh_metadata TO {analyst};
                  GRANT SELECT ON public.matomo TO {analyst}"
        ),
    );
    let refused = error(&mut reader, &refresh(&fake, 1, ", 'public.matomo'"));
    assert_says(
        &refused,
        "42501",
        "permission denied for table public.matomo",
        &["INSERT"],
        "GRANT",
    );
}

#[test]
fn names_follow_their_table() {
    let fake = serve_named();
    let (mut db, site) = synced(&fake);
    run(
        &mut db,
        "CREATE SCHEMA s; ALTER TABLE matomo SET SCHEMA s; ALTER TABLE s.matomo RENAME TO \"All\"",
    );
    let of = "SELECT DISTINCT destination::text FROM matomo_goals";
    assert_eq!(texts(&mut db, of), ["s.\"All\""]);
    // Its visits stay, and their names with them.
    run(&mut db, &format!("SELECT matomo_remove_site({site})"));
    assert_eq!(texts(&mut db, NAMES).len(), 2);
    run(&mut db, "DROP TABLE s.\"All\"");
    assert_eq!(texts(&mut db, NAMES), [""; 0]);
    // Removed with the ledger's days of the table, when a table is new.
    run(
        &mut db,
        &sync_sql(&fake, 2, ", start_date => '2026-10-26', destination => 'matomo_partitioned'"),
    );
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_site_metadata"), 0);
}

#[test]
fn a_dump_has_the_names() {
    let scene = scene_of(serve_named());
    let mut before = scene.db;
    let all = "SELECT concat(destination, ' ', g) FROM matomo_goals g ORDER BY 1";
    let expected = texts(&mut before, all);
    assert_eq!(expected.len(), 3);
    let mut db = copied(&scene.name, "names", &[]);
    assert_eq!(texts(&mut db, all), expected);
    // The next refresh takes them over.
    scene.fake.world().site_mut(1).goals[0].deleted = true;
    next_day(&mut db);
    run(&mut db, "CALL matomo_sync_all()");
    assert_eq!(texts(&mut db, NAMES), ["1 1 Contact was", "1 4 O'Reilly \"x\" is", "2 1 登録 is"]);
    assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM matomo_site_metadata"), 2);
}

#[test]
fn a_refresh_is_safe_under_a_hostile_search_path() {
    let fake = serve_named();
    let (name, mut clean) = named_database();
    server(&mut clean, &fake);
    let mut db = connect_as(&name, "postgres");
    run(&mut db, HOSTILE);
    run(&mut db, "SET search_path = evil, pg_catalog, public");
    run(&mut db, "SELECT public.matomo_create_table('public.matomo')");
    for sql in [
        "SELECT public.matomo_refresh_metadata(1, server => 'analytics', destination => 'public.matomo')",
        "SELECT public.matomo_list_sites('analytics')",
        "SELECT public.matomo_add_sites('analytics', destination => 'public.matomo', new_sites => true)",
        "CALL public.matomo_sync_all()",
        "SELECT public.matomo_create_named_views('public.matomo')",
        "SELECT public.matomo_ignore_new_sites('analytics')",
        "TABLE public.matomo_goals",
        "TABLE public.matomo_dimensions",
        "TABLE public.matomo_site_details",
    ] {
        run(&mut db, sql);
    }
    assert_eq!(texts(&mut clean, NAMES).len(), 3);
}
