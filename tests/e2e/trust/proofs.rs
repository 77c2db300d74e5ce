//! Rows of `tests/TRUST.md` from tests all over the suite, and which test each comes from.

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

const DATA: &[Proof] = &[];

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
        "crash::a_definers_function_syncs_with_his_rights_and_lends_nothing_else",
        &["SECURITY DEFINER", "SECURITY DEFINER, a trap"],
    ),
];

const PRIVILEGES: &[Proof] = &[];

const LIFECYCLE: &[Proof] = &[];

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
    assert!(!rows.is_empty(), "nothing to compare");
    assert_equal(db, table, rows);
    format!("all {} rows as they should be", rows.len())
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
            assert_eq!(found, cases, "{section} of tests/TRUST.md, and proofs.rs");
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
