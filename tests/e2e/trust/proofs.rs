//! Rows of `docs/trust.md` from tests all over the suite, and which test each comes from.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use fake_matomo::OracleRow;
use postgres::Client;
use postgres::error::DbError;

use super::table;
use crate::support::assert_equal;

/// A test by its path, and the cases that it makes a row of.
type Proof = (&'static str, &'static [&'static str]);

/// The sections made of such rows, in the order of the rows. A case's name stands in the source
/// file of its test as it stands here.
const PROOFS: [(&str, &[Proof]); 4] =
    [("Data", DATA), ("Crash", CRASH), ("Privileges", PRIVILEGES), ("Lifecycle", LIFECYCLE)];

const DATA: &[Proof] = &[
    ("encodings::latin1_holds_what_it_can", &["a LATIN1 database"]),
    ("encodings::sql_ascii_holds_utf_8_as_it_is", &["a SQL_ASCII database"]),
    ("encodings::texts_arrive_in_the_encoding_of_the_database", &["databases in other encodings"]),
    (
        "encodings::an_encoding_that_postgres_cannot_convert_is_refused",
        &["a MULE_INTERNAL database"],
    ),
    (
        "odd_data::values::what_postgres_cannot_hold_becomes_the_replacement_character",
        &["U+0000", "lone surrogates", "bytes that are no UTF-8"],
    ),
    ("odd_data::wrong::a_byte_order_mark_is_passed_over", &["a byte order mark"]),
    ("odd_data::values::texts_of_a_megabyte_arrive_whole", &["a URL of 1 MB"]),
    (
        "own_tables::a_text_too_long_for_its_column_is_an_error_and_is_not_cut",
        &["a text too long for the user's column"],
    ),
    (
        "odd_data::values::json_of_any_depth_does_no_harm",
        &["JSON of any depth, in place of values"],
    ),
    (
        "odd_data::wrong::an_answer_of_brackets_alone_is_an_error",
        &["JSON of any depth, in place of the answer"],
    ),
    (
        "odd_data::values::ten_thousand_custom_variables_and_dimensions_beyond_ten",
        &["10,000 custom variables"],
    ),
    (
        "odd_data::values::unknown_keys_are_passed_over_and_of_a_key_twice_the_last_counts",
        &["a key twice"],
    ),
    (
        "odd_data::visits::times_from_the_year_1_to_the_year_9999_have_their_partitions",
        &["huge and negative timestamps"],
    ),
    (
        "odd_data::visits::without_any_timestamp_the_begin_of_the_day_stands_in",
        &["timestamps that are none"],
    ),
    ("odd_data::values::event_values_that_are_no_number_become_zero", &["numbers in `eventValue`"]),
    (
        "odd_data::wrong::numbers_beyond_all_bounds_stand_in_for_anything",
        &["a number beyond `double precision`"],
    ),
    (
        "odd_data::wrong::no_kind_of_value_in_any_field_costs_another_value",
        &["any kind of value in any field"],
    ),
    (
        "odd_data::visits::actions_in_an_object_in_place_of_a_list",
        &["an object in place of the list of actions", "what is no action among the actions"],
    ),
    ("odd_data::visits::visits_without_actions_have_no_rows", &["a visit without actions"]),
    (
        "odd_data::visits::a_visit_that_loses_its_actions_loses_its_rows",
        &["a visit that loses its actions"],
    ),
    (
        "odd_data::visits::a_visit_that_comes_twice_in_an_answer_is_stored_once",
        &["a visit twice in an answer"],
    ),
    ("odd_data::visits::ids_of_visits_at_the_edge", &["an `idVisit` that is none"]),
    (
        "odd_data::visits::a_matomo_that_ignores_the_size_of_pages_is_not_asked_without_end",
        &["pages without end"],
    ),
    ("hostile::no_odd_value_loses_a_visit", &["hostile pages"]),
    ("hostile::no_bytes_do_more_than_fail", &["broken pages"]),
];

const CRASH: &[Proof] = &[
    ("crash::a_full_disk_costs_nothing_but_the_sync", &["disk full"]),
    (
        "crash::triggers_and_constraints_that_refuse_a_row_refuse_the_sync",
        &[
            "a trigger that fails",
            "a deferred trigger that fails",
            "a check constraint",
            "a foreign key",
        ],
    ),
    (
        "crash::a_sync_belongs_to_its_transaction_whichever_kind_that_is",
        &["a transaction that rolls back", "an error that the caller catches"],
    ),
    (
        "crash::a_table_that_another_session_has_locked_is_waited_for_as_long_as_the_user_says",
        &["the table is locked"],
    ),
    ("crash::a_sync_needs_no_connection_but_its_own", &["no connections left"]),
    (
        "bad_input::arguments::a_read_only_transaction_is_refused_without_a_request",
        &["a read-only transaction"],
    ),
    (
        "definers::a_definers_function_syncs_with_his_rights_and_lends_nothing_else",
        &["SECURITY DEFINER", "SECURITY DEFINER, a trap"],
    ),
    ("interrupts::ctrl_c_takes_effect_at_once", &["Ctrl-C"]),
    ("interrupts::pg_cancel_backend_takes_effect_at_once", &["pg_cancel_backend"]),
    ("interrupts::statement_timeout_takes_effect_at_once", &["statement_timeout"]),
    ("interrupts::pg_terminate_backend_takes_effect_at_once", &["pg_terminate_backend"]),
    (
        "interrupts::a_cancel_that_plpgsql_catches_leaves_the_transaction_usable",
        &["a cancel that PL/pgSQL catches"],
    ),
    ("worker_faults::a_fast_shutdown_waits_for_no_answer", &["a fast shutdown"]),
    (
        "companions::rows_that_another_session_changes_meanwhile_are_made_right_all_the_same",
        &["another session changes the same rows"],
    ),
    ("companions::a_publication_of_all_tables_stops_no_sync", &["a publication of all tables"]),
    (
        "companions::a_role_that_sees_no_rows_does_not_take_the_table_for_empty",
        &["a policy that hides all rows"],
    ),
    ("worker_faults::a_cancel_ends_a_run_and_not_the_worker", &["pg_cancel_backend of the worker"]),
];

const PRIVILEGES: &[Proof] = &[
    (
        "role_matrix::each_kind_of_role_may_do_what_is_its_own_and_no_more",
        &[
            "a role without grants",
            "a stranger",
            "the site's owner",
            "a member of the owner",
            "a member that does not inherit",
            "a member of pg_monitor",
            "the server's owner, without a mapping",
            "a superuser",
        ],
    ),
    ("privileges::what_everybody_may_do_is_on_the_list", &["what PUBLIC may touch"]),
    (
        "privileges::functions_with_their_owners_rights_are_safe_under_any_search_path",
        &["what runs with its owner's rights"],
    ),
    (
        "sessions::names_in_the_search_path_cannot_stand_in_for_those_of_postgres",
        &["a hostile search_path around a sync"],
    ),
    (
        "rights::names_in_the_search_path_cannot_stand_in_for_those_of_postgres",
        &["a hostile search_path around procedures and views"],
    ),
    (
        "privileges::a_destinations_name_is_a_name",
        &[
            "a destination with a statement behind",
            "a destination with a comment behind",
            "a destination that closes a quote",
            "a destination that closes a literal",
            "a destination that completes an INSERT",
            "a destination that is a query",
            "a destination with an alias",
            "a destination in dollar quotes",
            "a destination with a backslash",
            "a table of such a name",
            "a table of another such name",
            "a table with a keyword for its name",
        ],
    ),
    (
        "privileges::nobody_hangs_anything_on_the_extensions_tables",
        &["triggers, rules, policies and the like on internal tables"],
    ),
    (
        "privileges::others_sites_and_tables_are_nobodys_business",
        &["others' sites, seen", "others' sites, touched"],
    ),
    ("credentials::others_read_the_token_nowhere", &["the token of others"]),
    (
        "sessions::rights_on_the_table_are_enough_for_who_does_not_own_it",
        &["a loader without all rights on the table"],
    ),
    (
        "rights::triggers_of_an_owner_run_as_the_owner",
        &["an owner's triggers, when a superuser syncs"],
    ),
    (
        "rights::an_owner_cannot_use_a_superusers_call_for_more",
        &[
            "an owner's trigger that does SET ROLE",
            "an owner's trigger that does SET SESSION AUTHORIZATION",
            "an owner's trigger that makes a temporary table",
            "an owner's trigger that makes him a superuser",
        ],
    ),
    (
        "rights::what_an_owner_sets_does_not_last_in_the_callers_session",
        &["an owner's trigger that sets search_path"],
    ),
    (
        "rights::the_owners_rights_and_mapping_are_what_counts",
        &["an owner who may no longer write"],
    ),
    (
        "worker_faults::rows_are_written_with_the_owners_rights_only",
        &["an owner's trigger under the worker"],
    ),
    (
        "credentials::a_security_definer_function_lends_its_owners_mapping",
        &["a SECURITY DEFINER function and its owner's mapping"],
    ),
    ("credentials::only_a_superuser_has_the_server_read_a_file", &["the server's files"]),
    (
        "site_owners::nobody_reaches_the_network_unless_he_was_allowed_to",
        &["the network, for a role without grants"],
    ),
    (
        "trust::hosts::only_superusers_widen_the_hosts",
        &["the list of hosts, for who is no superuser"],
    ),
];

const LIFECYCLE: &[Proof] = &[
    (
        "updates::every_update_makes_what_a_new_installation_makes",
        &["ALTER EXTENSION UPDATE from released versions"],
    ),
    (
        "updates::an_update_that_forgets_something_is_found",
        &["an update script that forgets something"],
    ),
    ("dump::a_new_cluster_gets_back_everything_from_a_dump", &["a dump into a new server"]),
    ("dump::a_new_database_gets_back_everything_from_a_dump", &["a dump into a new database"]),
    ("dump::a_plain_dump_runs_through_psql", &["a plain dump"]),
    ("site_owners::sites_and_their_runs_survive_dump_and_restore", &["a dump with sites and runs"]),
    ("upgrade::pg_upgrade_keeps_everything_and_no_worker_comes_in_between", &["pg_upgrade"]),
    (
        "dump::dropping_the_extension_leaves_the_data_and_creating_it_again_goes_on",
        &["DROP EXTENSION without servers"],
    ),
    (
        "lifecycle::without_cascade_servers_keep_the_extension",
        &["DROP EXTENSION with servers", "DROP EXTENSION CASCADE"],
    ),
    (
        "lifecycle::a_drop_waits_for_a_sync_and_then_takes_effect",
        &["DROP EXTENSION while `matomo_sync` runs"],
    ),
    (
        "lifecycle::a_drop_ends_a_procedure_after_the_step_that_it_is_at",
        &["DROP EXTENSION while `matomo_sync_all` runs"],
    ),
    (
        "worker_faults::the_extension_may_be_dropped_and_created_while_it_works",
        &["DROP EXTENSION while the worker works"],
    ),
    (
        "lifecycle::everything_works_with_the_extension_in_a_schema_that_nobody_searches",
        &["a schema that nobody searches"],
    ),
    (
        "lifecycle::the_extension_stays_in_the_schema_that_it_was_created_in",
        &["ALTER EXTENSION … SET SCHEMA"],
    ),
];

/// What a test has proved, as a row of the table: compared with the file, or written there. `seen`
/// is what the test saw, and the same in each run.
#[track_caller]
pub fn proven(section: &'static str, case: &str, injected: &str, promised: &str, seen: &str) {
    let proofs = of(section);
    let test = proofs.iter().find(|(_, cases)| cases.contains(&case)).map(|(test, _)| *test);
    let test = test.unwrap_or_else(|| panic!("proofs.rs has no \"{case}\" under {section}"));
    // Tests run on threads of their names, but for `--test-threads=1`.
    let here = std::thread::current();
    let here = here.name().unwrap_or_default();
    assert!([test, "main"].contains(&here), "\"{case}\" is not what {here} is to prove");
    table::put(section, &cases(proofs), [case, injected, promised, seen]);
}

/// An error as the table shows it.
pub fn said(error: &DbError) -> String {
    format!("`{}` {}", error.code().code(), error.message())
}

/// The comparison of a table with what it should hold, and what the table of proofs says then.
#[track_caller]
pub fn all_there(db: &mut Client, table: &str, rows: &[OracleRow]) -> String {
    every_row(db, table, rows);
    format!("all {} rows as they should be", rows.len())
}

/// The same where their number depends on the day.
#[track_caller]
pub fn every_row(db: &mut Client, table: &str, rows: &[OracleRow]) -> &'static str {
    assert!(!rows.is_empty(), "nothing to compare");
    assert_equal(db, table, rows);
    "every row as it should be"
}

fn of(section: &str) -> &'static [Proof] {
    let proofs = PROOFS.iter().find(|(title, _)| *title == section);
    proofs.unwrap_or_else(|| panic!("{section} has no list in proofs.rs")).1
}

fn cases(proofs: &[Proof]) -> Vec<&'static str> {
    proofs.iter().flat_map(|(_, cases)| cases.iter().copied()).collect()
}

/// A row that no test makes any more would stay for ever.
#[test]
fn each_row_comes_from_a_test_and_each_test_has_its_row() {
    let listed = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let tests: HashSet<_> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    for (section, proofs) in PROOFS {
        let cases = cases(proofs);
        let different: HashSet<_> = cases.iter().collect();
        assert_eq!(different.len(), cases.len(), "{section} has a case twice");
        for (test, cases) in proofs {
            assert!(tests.contains(test), "{section}: there is no test {test}");
            let source = source(test);
            assert!(source.contains("proven("), "{section}: {test} makes no row");
            for case in *cases {
                assert!(source.contains(&format!("\"{case}\"")), "{test} has no case \"{case}\"");
            }
        }
        if !table::is_writing() {
            let rows = table::rows(section);
            let found: Vec<_> = rows.iter().map(|row| table::case_of(row)).collect();
            assert_eq!(found, cases, "{section} of docs/trust.md, and proofs.rs");
        }
    }
}

/// The file that a test is in.
fn source(test: &str) -> String {
    let (module, _) = test.rsplit_once("::").unwrap();
    let file = format!("tests/e2e/{}.rs", module.replace("::", "/"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"))
}
