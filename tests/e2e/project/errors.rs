//! `docs/errors.md` has every SQLSTATE that the extension raises.

use std::collections::BTreeSet;
use std::fs;

use postgres::Client;

use crate::support::pages::{page, root};
use crate::support::*;

/// The SQLSTATEs of errors in Rust.
fn of_rust() -> BTreeSet<String> {
    let codes = include_str!("../../../src/error/sql_state.rs").lines();
    let codes = codes.filter_map(|line| line.trim().strip_prefix("/// "));
    let is_code = |code: &&str| code.len() == 5 && code.chars().all(|c| c.is_ascii_alphanumeric());
    codes.filter(is_code).map(str::to_owned).collect()
}

/// The conditions that PL/pgSQL code raises as errors, each with its statement. Those raised again, or
/// with a stored SQLSTATE, come from elsewhere.
fn raised(code: &str) -> Vec<(String, &str)> {
    let mut found = Vec::new();
    for statement in code.split(';') {
        let Some((before, raise)) = statement.split_once("RAISE") else { continue };
        let is_comment = before.lines().last().is_some_and(|line| line.contains("--"));
        let raise = raise.trim();
        let word = raise.split([' ', '\n']).next().unwrap_or_default();
        if is_comment || ["", "NOTICE", "WARNING"].contains(&word) {
            continue;
        }
        let condition = match raise.split_once("ERRCODE = ") {
            Some((_, code)) if code.starts_with("place ") => continue,
            Some((_, code)) => code.trim_start_matches('\'').split('\'').next().unwrap_or_default(),
            None => word,
        };
        found.push((condition.to_owned(), raise));
    }
    found
}

/// The SQLSTATE of a condition.
fn state(db: &mut Client, (condition, raise): &(String, &str)) -> String {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    assert!(
        !condition.is_empty() && condition.chars().all(is_name),
        "without a condition: {raise}"
    );
    error(db, &format!("DO $$ BEGIN RAISE {condition}; END $$")).code().code().to_owned()
}

/// The SQLSTATEs of errors in SQL files.
fn of_sql(db: &mut Client) -> BTreeSet<String> {
    let files = fs::read_dir(root().join("sql")).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "sql"));
    let mut found = BTreeSet::new();
    for file in files {
        let code = fs::read_to_string(file).unwrap();
        found.extend(raised(&code).iter().map(|raise| state(db, raise)));
    }
    found
}

#[test]
fn every_sqlstate_is_described() {
    let (rust, sql) = (of_rust(), of_sql(&mut database()));
    assert!(rust.len() >= 20 && sql.len() >= 8, "{rust:?}, {sql:?}");
    let page = page("docs/errors.md");
    let first_cells = page.lines().filter(|line| line.starts_with("| `"));
    let described: Vec<_> = first_cells.filter_map(|line| line.split('|').nth(1)).collect();
    for state in rust.union(&sql) {
        let is_there = described.iter().any(|cell| cell.contains(&format!("`{state}`")));
        assert!(is_there, "docs/errors.md lacks: {state}");
    }
}

/// Proves that the check can fail.
#[test]
fn each_way_to_raise_an_error_is_found() {
    let code =
        "RAISE NOTICE 'no'; RAISE; IF a THEN RAISE name_too_long USING MESSAGE = 'a'; END IF;
                RAISE USING ERRCODE = 'duplicate_table'; RAISE 'no condition'";
    let conditions: Vec<_> = raised(code).into_iter().map(|(condition, _)| condition).collect();
    assert_eq!(conditions, ["name_too_long", "duplicate_table", "'no"]);
}
