//! A longer retention opens days only for owners that may sync them.

use crate::support::sites::*;
use crate::support::*;

#[test]
fn a_sites_owner_without_rights_on_the_table_opens_no_days_of_it() {
    let fake = serve_two();
    let (name, mut admin, owner) = database_and_role();
    may_have_sites(&mut admin, &owner);
    let guest = role(&mut admin);
    server_for(&mut admin, &fake, &guest);
    let mut theirs = connect_as(&name, &owner);
    run(
        &mut theirs,
        &format!(
            "SELECT matomo_create_table('visits'); GRANT USAGE ON SCHEMA {owner} TO {guest};
             GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {guest}",
            all_four("visits")
        ),
    );
    let mut db = connect_as(&name, &guest);
    let site = add_site(
        &mut db,
        &format!(", start_date => '2026-10-24', destination => '{owner}.visits'"),
    );
    run(&mut db, "CALL matomo_sync_all()");
    run(&mut theirs, &format!("REVOKE ALL ON {} FROM {guest}", all_four("visits")));
    run(&mut theirs, "CALL matomo_drop_before('visits', '2026-10-26')");
    let alter =
        |retention: &str| format!("SELECT matomo_alter_site({site}, retention => '{retention}')");
    let table = format!("{owner}.visits");
    let before = ledger(&mut admin, &table);
    run(&mut db, &alter("1 day"));
    let refused = error(&mut db, &alter("0"));
    assert_eq!(refused.code().code(), "42501", "{refused:?}");
    assert!(refused.message().contains("visits"), "{refused:?}");
    assert_eq!(ledger(&mut admin, &table), before);
    // With them, it does.
    run(
        &mut theirs,
        &format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {guest}", all_four("visits")),
    );
    run(&mut db, &alter("0"));
    assert_ne!(ledger(&mut admin, &table), before);
}
