//! Rows that a policy hides are not taken for missing, in whichever of the four tables.

use crate::support::sites::*;
use crate::support::*;

#[test]
fn a_policy_on_any_of_the_four_tables_has_check_erasure_and_retention_refused_unasked() {
    let fake = serve_two();
    let (name, mut admin, reader) = database_and_role();
    sync(&mut admin, &fake, ", '2026-10-24', '2026-10-26'");
    run(
        &mut admin,
        &format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {reader};
             GRANT EXECUTE ON FUNCTION matomo_check TO {reader};
             CREATE TABLE asked (); GRANT INSERT ON asked TO PUBLIC;
             CREATE FUNCTION hides() RETURNS boolean LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO asked DEFAULT VALUES; RETURN false; END $$",
            all_four("matomo")
        ),
    );
    let check = format!(
        "SELECT * FROM matomo_check(1, '2026-10-24', '2026-10-26', '{}', '{}'",
        fake.url(),
        fake.token()
    );
    let calls = [
        format!("{check})"),
        format!("{check}, repair => true, deep => true)"),
        "SELECT * FROM matomo_forget('nobody')".to_owned(),
        "SELECT * FROM matomo_forget('nobody', only_in => 'matomo')".to_owned(),
        "CALL matomo_drop_before('matomo', '2026-10-25')".to_owned(),
    ];
    let before = fingerprints(&mut admin, "matomo");
    let mut db = connect_as(&name, &reader);
    for table in four("matomo") {
        run(
            &mut admin,
            &format!(
                "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON {table} USING (hides())"
            ),
        );
        for call in &calls {
            assert_says(
                &error(&mut db, call),
                "42501",
                &format!("row-level security may hide rows of table public.{table}"),
                &["Rows that a policy hides would be skipped."],
                "Use a role to which no policy applies",
            );
        }
        run(&mut admin, &format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"));
    }
    assert_eq!(fingerprints(&mut admin, "matomo"), before);
    assert_eq!(one::<i64>(&mut admin, "SELECT count(*) FROM asked"), 0);
    for call in &calls {
        run(&mut db, call);
    }
}

#[test]
fn a_week_in_which_a_policy_may_hide_rows_of_other_sites_is_not_dropped_for_one() {
    let fake = serve_two();
    let (_, mut db, role) = database_and_role();
    run(
        &mut db,
        &format!(
            "SELECT matomo_create_table('matomo', true); {}; GRANT CREATE ON SCHEMA public TO {role}",
            give_all_four("matomo", &role)
        ),
    );
    for site in [1, 2] {
        sync_site(&mut db, &fake, site, ", '2026-10-24', '2026-10-26'");
    }
    let week: String =
        one(&mut db, "SELECT min(tableoid::regclass::text) FROM matomo WHERE idsite = 2");
    let count = "SELECT count(*) FROM matomo WHERE idsite = 2";
    let before: i64 = one(&mut db, count);
    run(
        &mut db,
        &format!(
            "ALTER TABLE {week} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
             CREATE POLICY p ON {week} USING (idsite = 1); SET ROLE {role}"
        ),
    );
    let drop = "CALL matomo_drop_before('matomo', '2026-11-10', site => 1)";
    let message = format!("row-level security may hide rows of table public.{week}");
    assert_says(&error(&mut db, drop), "42501", &message, &[], "Use a role to which no policy");
    run(&mut db, "RESET ROLE");
    assert_eq!(one::<i64>(&mut db, count), before);
}
