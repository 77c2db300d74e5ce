//! The extension's dependencies: licences, sources, versions. Known vulnerabilities are not
//! tested, since their list is on the network; SECURITY.md names the tools.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::support::pages::root;

/// Licences compatible with ours.
const LICENCES: [&str; 10] = [
    "0BSD",
    "Apache-2.0",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "PostgreSQL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates needed in two versions.
const TWICE: [&str; 4] = ["foldhash", "getrandom", "hashbrown", "syn"];

/// All crates linked into the library, with any of its features.
fn crates() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let id = |value: &Value| value["id"].as_str().unwrap().to_owned();
    let packages: BTreeMap<_, _> =
        metadata["packages"].as_array().unwrap().iter().map(|p| (id(p), p.clone())).collect();
    let nodes: BTreeMap<_, _> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (id(node), node["deps"].as_array().unwrap()))
        .collect();
    let root = metadata["resolve"]["root"].as_str().unwrap().to_owned();
    let (mut found, mut left) = (BTreeSet::new(), vec![root]);
    while let Some(crate_id) = left.pop() {
        for dependency in nodes[&crate_id] {
            // Without test and build dependencies.
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            let id = dependency["pkg"].as_str().unwrap().to_owned();
            if kinds.iter().any(|kind| kind["kind"].is_null()) && !found.contains(&id) {
                left.push(id);
            }
        }
        found.insert(crate_id);
    }
    found.iter().map(|id| packages[id].clone()).collect()
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

#[test]
fn every_crate_has_a_licence_beside_which_ours_may_stand() {
    let crates = crates();
    assert!(crates.len() > 50, "{}", crates.len());
    for package in &crates {
        let licence = text(package, "license").replace(['(', ')'], "");
        let allowed = licence.split(" AND ").all(|all| {
            all.replace('/', " OR ").split(" OR ").any(|one| LICENCES.contains(&one.trim()))
        });
        assert!(allowed, "{}: {licence}", text(package, "name"));
    }
}

#[test]
fn every_crate_comes_from_crates_io() {
    for package in crates() {
        let name = text(&package, "name");
        let source = "registry+https://github.com/rust-lang/crates.io-index";
        assert!(name == "matomo_postgres" || text(&package, "source") == source, "{package}");
    }
}

#[test]
fn few_crates_are_there_twice() {
    let crates = crates();
    let mut names: Vec<_> = crates.iter().map(|package| text(package, "name")).collect();
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|two| two[0] == two[1]).map(|two| two[0]).collect();
    assert_eq!(twice, TWICE);
}

/// Each is another way for the token to leave or for foreign code to run.
#[test]
fn some_crates_are_not_wanted() {
    for package in crates() {
        let name = text(&package, "name");
        let unwanted =
            ["openssl", "openssl-sys", "native-tls", "tokio", "hyper", "reqwest", "cookie_store"];
        assert!(!unwanted.contains(&name), "{name}");
    }
}
