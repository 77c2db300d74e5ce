//! The layers: which folder of `src/` may use which, without circles between files.
//!
//! A type and the files below its own count as one room: they may hold methods of it, and methods call
//! each other without a path. Paths between them are arrows like all others.
//!
//! A failure names the file, the path that it uses, and the rule. Move the used item down to the layer
//! of its lowest user, or pass it as a plain value; a new arrow in [`ARROWS`] is the last resort.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::support::pages::root;

/// Each folder with the folders that it may use. A folder may always use itself.
const ARROWS: [(&str, &[&str]); 10] = [
    ("api", &["worker", "sync", "state", "store", "config", "rows", "matomo", "pg", "error"]),
    ("worker", &["sync", "state", "store", "config", "rows", "matomo", "pg", "error"]),
    ("sync", &["state", "store", "config", "rows", "matomo", "pg", "error"]),
    ("state", &["store", "config", "rows", "matomo", "pg", "error"]),
    ("store", &["rows", "matomo", "pg", "error"]),
    ("config", &["rows", "matomo", "pg", "error"]),
    ("rows", &["matomo", "error"]),
    ("matomo", &["error"]),
    ("pg", &["error"]),
    ("error", &[]),
];

/// SQL functions of the extension that Rust calls, with the highest folder whose code they run; their
/// entries in `api` aside, which only read arguments.
const SQL_FUNCTIONS: [(&str, &str); 10] = [
    ("matomo_sync_all", "worker"),
    ("matomo_sync_site", "worker"),
    // It calls matomo_create_companions.
    ("matomo_create_table", "sync"),
    ("matomo_drop_rows", "state"),
    ("matomo_create_companion", "store"),
    ("matomo_create_weeks", "store"),
    ("matomo_find_companion", "store"),
    ("matomo_find_table", "store"),
    ("matomo_partition_ranges", "store"),
    ("matomo_is_running", "pg"),
];

/// Folders without any Postgres code.
const PURE: [&str; 2] = ["rows", "matomo"];

const MOST_LINES: usize = 350;
const MOST_MODULES: usize = 20;

/// Files by their path in `src/` without `.rs` and `/mod`, with their text.
type Files = BTreeMap<String, String>;

#[test]
fn the_source_keeps_to_the_house() {
    let files = source();
    assert!(files.len() > 50, "found {} files", files.len());
    assert_eq!(broken(&files), [""; 0]);
    assert!(files["lib"].lines().count() < 80);
}

#[test]
fn no_file_is_long_and_no_list_of_modules() {
    for (file, text) in source() {
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap().lines().count();
        assert!(file.ends_with("_tests") || code <= MOST_LINES, "src/{file}.rs: {code} lines");
        let modules = text.lines().filter(|line| is_module(line)).count();
        assert!(modules <= MOST_MODULES, "src/{file}.rs: {modules} modules");
    }
    for entry in fs::read_dir(root().join("sql")).unwrap() {
        let path = entry.unwrap().path();
        // Each script of ALTER EXTENSION UPDATE is one file.
        let is_update = path.to_string_lossy().contains("--");
        if path.is_file() && !is_update {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= MOST_LINES, "{}: {lines} lines", path.display());
        }
    }
}

/// An ERROR of Postgres is a panic in Rust, which must not unwind through Postgres' own frames.
#[test]
fn what_postgres_calls_is_guarded() {
    // A handler of a signal, which calls libc alone.
    const UNGUARDED: [&str; 1] = ["unsafe extern \"C-unwind\" fn fire() {"];
    let mut guarded = 0;
    for (file, text) in source() {
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        for (n, line) in lines.iter().enumerate() {
            let is_defined = line.contains("extern \"C-unwind\" fn ");
            let is_type = line.contains(": unsafe extern");
            if !is_defined || is_type || UNGUARDED.contains(line) {
                continue;
            }
            let before = &lines[n.saturating_sub(2)..n];
            let within = &lines[n..lines.len().min(n + 5)];
            assert!(
                before.contains(&"#[pg_guard]")
                    || within.iter().any(|line| line.contains("pgrx_extern_c_guard")),
                "src/{file}.rs: {line}"
            );
            guarded += 1;
        }
    }
    assert!(guarded > 8, "{guarded}");
}

#[test]
fn an_arrow_upwards_is_refused() {
    let files = files(&[
        ("api/sync", "use crate::store::writer;"),
        ("store/batch_writer", "fn f() { crate::state::ledger::f() }"),
        ("state/ledger", "use crate::error::Error;"),
        ("error", ""),
    ]);
    assert_eq!(
        broken(&files),
        ["src/store/batch_writer.rs uses state/ledger: store may not use state"]
    );
}

#[test]
fn an_arrow_within_braces_counts() {
    let files = files(&[
        ("matomo/client", "use crate::{\n    error::Error,\n    rows::{batch::Batch, lines},\n};"),
        ("rows/batch", ""),
        ("rows/lines", ""),
        ("error", ""),
    ]);
    assert_eq!(
        broken(&files),
        [
            "src/matomo/client.rs uses rows/batch: matomo may not use rows",
            "src/matomo/client.rs uses rows/lines: matomo may not use rows"
        ]
    );
}

#[test]
fn a_circle_within_a_folder_is_refused() {
    let files = files(&[
        ("sync/plan", "use crate::sync::fetch::f;"),
        ("sync/fetch", "use super::pages::g;"),
        ("sync/pages", "use crate::sync::plan::h;"),
        ("sync/check", "use crate::sync::plan::h;"),
    ]);
    assert_eq!(broken(&files), ["a circle: sync/fetch, sync/pages, sync/plan"]);
}

#[test]
fn an_arrow_to_a_child_counts() {
    for path in ["actions::ACTIONS", "self::actions::ACTIONS", "{actions::ACTIONS, visits}"] {
        let parent = format!("mod actions;\nmod visits;\npub use {path};");
        let files = files(&[
            ("rows/columns", &parent),
            ("rows/columns/actions", "use super::Column;"),
            ("rows/columns/visits", ""),
        ]);
        assert_eq!(broken(&files), ["a circle: rows/columns, rows/columns/actions"], "{path}");
    }
}

#[test]
fn an_arrow_by_the_name_of_a_module_counts() {
    for (import, name) in [
        ("use crate::sync;", "sync"),
        ("use crate::sync as below;", "below"),
        ("use crate::{error::Error, sync::{self as below, plan::Due}};", "below"),
        ("use super::super::super::sync;", "sync"),
    ] {
        let site = format!("{import}\nfn f() {{ {name}::metadata::read() }}");
        let files = files(&[
            ("error", ""),
            ("sync", "pub mod metadata;\npub mod plan;\npub mod step;"),
            ("sync/metadata", "use crate::sync::step::site;"),
            ("sync/plan", ""),
            ("sync/step", "pub mod site;"),
            ("sync/step/site", &site),
        ]);
        assert_eq!(broken(&files), ["a circle: sync/metadata, sync/step/site"], "{import}");
    }
}

#[test]
fn an_arrow_through_sql_counts() {
    let files = files(&[
        ("store/destination", "format!(\"SELECT {schema}.matomo_create_table($1)\")"),
        ("sync/new_tables", "format!(\"SELECT {}.matomo_create_table($1)\", schema)"),
        ("state/runs", "format!(\"SELECT {schema}.matomo_other($1) FROM {schema}.matomo_runs\")"),
    ]);
    assert_eq!(
        broken(&files),
        [
            "src/state/runs.rs calls matomo_other(), which is not in SQL_FUNCTIONS",
            "src/store/destination.rs calls matomo_create_table(): store may not use sync",
        ]
    );
}

#[test]
fn methods_of_a_type_stand_in_its_file_or_in_files_of_its_folder() {
    let files = files(&[
        ("store/writer", "pub struct Writer<'a>(&'a str);\nstruct Private;\nimpl Writer<'_> {}"),
        ("store/writer/removal", "impl Writer<'_> {}\nimpl Drop for Writer<'_> {}"),
        ("store/other", "struct Private;\nimpl Private {}\nimpl Display for Writer<'_> {}"),
        ("store/span", "impl<T: Into<u8>> Writer<'_> {}"),
    ]);
    assert_eq!(
        broken(&files),
        ["src/store/span.rs has methods of Writer, which is in store/writer"]
    );
}

#[test]
fn pgrx_in_a_pure_folder_is_refused() {
    let files =
        files(&[("rows/values", "fn f(x: pgrx::pg_sys::Oid) {}"), ("pg/spi", "use pgrx::spi;")]);
    assert_eq!(broken(&files), ["src/rows/values.rs uses pgrx: rows knows no Postgres"]);
}

#[test]
fn comments_and_tests_are_no_arrows() {
    let files = files(&[
        (
            "rows/values",
            "//! [`crate::api::sync`]\n#[cfg(test)]\nmod tests { use crate::api::sync; }",
        ),
        ("api/sync", ""),
    ]);
    assert_eq!(broken(&files), [""; 0]);
}

fn files(texts: &[(&str, &str)]) -> Files {
    texts.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect()
}

fn source() -> Files {
    let mut files = Files::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root().join("src")).unwrap().with_extension("");
                let name = name.to_str().unwrap().trim_end_matches("/mod").to_owned();
                files.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    files
}

fn is_module(line: &str) -> bool {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    line.starts_with("mod ") && line.ends_with(';')
}

fn folder(file: &str) -> &str {
    file.split('/').next().unwrap_or(file)
}

/// The broken rules, one per line.
fn broken(files: &Files) -> Vec<String> {
    let mut lines = Vec::new();
    let mut arrows: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (file, text) in files {
        if file == "lib" || file.ends_with("_tests") {
            continue;
        }
        let code = code(text);
        let from = folder(file);
        let allowed = ARROWS.iter().find(|(name, _)| *name == from).map(|(_, to)| *to);
        let Some(allowed) = allowed else {
            lines.push(format!("src/{file}.rs: {from} is no folder of the house"));
            continue;
        };
        if PURE.contains(&from) && code.contains("pgrx") {
            lines.push(format!("src/{file}.rs uses pgrx: {from} knows no Postgres"));
        }
        let paths = paths(files, file, &code);
        let all: BTreeSet<_> = paths.iter().filter_map(|path| file_of(files, path)).collect();
        for used in all {
            let to = folder(used);
            if to != from && !allowed.contains(&to) {
                lines.push(format!("src/{file}.rs uses {used}: {from} may not use {to}"));
            }
            // A module's own items are not an arrow; a use of the module by its items is.
            if used != file {
                arrows.entry(file).or_default().insert(used);
            }
        }
        for called in sql_functions(&code) {
            match SQL_FUNCTIONS.iter().find(|(name, _)| *name == called) {
                Some((_, to)) if *to == from || allowed.contains(to) => {}
                Some((_, to)) => {
                    lines.push(format!("src/{file}.rs calls {called}(): {from} may not use {to}"))
                }
                None => lines
                    .push(format!("src/{file}.rs calls {called}(), which is not in SQL_FUNCTIONS")),
            }
        }
    }
    lines.extend(circles(&arrows));
    lines.extend(methods_elsewhere(files));
    lines
}

/// Methods of types of other files: their callers in those files would be arrows that no path shows.
fn methods_elsewhere(files: &Files) -> Vec<String> {
    let name = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let codes: Vec<_> = files.iter().map(|(file, text)| (file, code(text))).collect();
    let mut defined: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (file, code) in &codes {
        for line in code.lines() {
            let line = line.split_once("pub ").map_or(line, |(_, rest)| rest);
            for kind in ["struct ", "enum "] {
                if let Some(rest) = line.strip_prefix(kind) {
                    defined.entry(name(rest)).or_default().push(file);
                }
            }
        }
    }
    let mut lines = Vec::new();
    for (file, code) in &codes {
        for line in code.lines().filter(|line| line.starts_with("impl") && !line.contains(" for "))
        {
            // After the parameters, which may hold others.
            let mut depth = 0;
            let parts = line["impl".len()..].split(|c| {
                depth += i32::from(c == '<') - i32::from(c == '>');
                depth == 0 && (c == '>' || c == ' ')
            });
            let typed = parts.map(name).find(|name| !name.is_empty()).unwrap_or_default();
            let Some(homes) = defined.get(&typed) else { continue };
            let is_home =
                |home: &&str| file.as_str() == *home || file.starts_with(&format!("{home}/"));
            if !homes.iter().any(is_home) {
                let homes = homes.join(", ");
                lines.push(format!("src/{file}.rs has methods of {typed}, which is in {homes}"));
            }
        }
    }
    lines
}

/// The text without comments and tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    text.lines().map(|line| line.split("//").next().unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// The names of SQL functions of ours in a text: as everywhere, with a schema.
fn sql_functions(code: &str) -> BTreeSet<&str> {
    let names = code.split("}.").skip(1).filter_map(|rest| rest.split_once('('));
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    names
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("matomo_") && is_name(name))
        .collect()
}

/// A path with the name that `as` gives it.
type Path = (Vec<String>, Option<String>);

/// The paths in a file that begin with `crate`, `super`, `self`, a module that it declares, or one that it
/// imports; relative to `src/`, with all branches of their braces.
fn paths(files: &Files, file: &str, code: &str) -> Vec<Vec<String>> {
    let modules = modules(files, file, code);
    let found = modules.iter().flat_map(|(name, prefix)| {
        let begin = format!("{name}::");
        let places: Vec<_> = code.match_indices(&begin).map(|(at, _)| at).collect();
        let starts = places.into_iter().filter(|at| {
            let before = code[..*at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        });
        let mut all = Vec::new();
        for at in starts {
            branches(&code[at + begin.len()..], prefix.clone(), &mut all);
        }
        all
    });
    found.map(|(path, _)| without_dots(path)).collect()
}

/// The names of modules that paths in a file may begin with, and where these are.
fn modules(files: &Files, file: &str, code: &str) -> BTreeMap<String, Vec<String>> {
    let here: Vec<_> = file.split('/').map(str::to_owned).collect();
    let mut known = BTreeMap::from([
        ("crate".to_owned(), Vec::new()),
        ("super".to_owned(), here[..here.len() - 1].to_vec()),
        ("self".to_owned(), here.clone()),
    ]);
    for line in code.lines().filter(|line| is_module(line)) {
        let name = line.trim_end_matches(';').rsplit(' ').next().unwrap_or_default().to_owned();
        known.insert(name.clone(), [here.clone(), vec![name]].concat());
    }
    let imports = imports(code);
    // An import may begin with the name that another gives.
    while let Some((name, path)) = imports.iter().find_map(|(path, renamed)| {
        let path = full(&known, path).filter(|path| files.contains_key(&path.join("/")))?;
        let name = renamed.as_ref().or(path.last())?.clone();
        (!known.contains_key(&name)).then_some((name, path))
    }) {
        known.insert(name, path);
    }
    known
}

/// The paths of a file's `use` lines.
fn imports(code: &str) -> Vec<Path> {
    let mut all = Vec::new();
    for (at, begin) in code.match_indices("use ") {
        let line = code[..at].rsplit('\n').next().unwrap_or_default().trim_start();
        if line.is_empty() || line.starts_with("pub") {
            branches(&code[at + begin.len()..], Vec::new(), &mut all);
        }
    }
    all
}

/// A path from `src/`, if it begins with a known module.
fn full(known: &BTreeMap<String, Vec<String>>, path: &[String]) -> Option<Vec<String>> {
    let (first, rest) = path.split_first()?;
    Some(without_dots([known.get(first)?.as_slice(), rest].concat()))
}

/// A path without its `self` and `super`.
fn without_dots(path: Vec<String>) -> Vec<String> {
    let mut parts = Vec::new();
    for part in path {
        match part.as_str() {
            "self" => {}
            "super" => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts
}

/// Reads a path with its braces; returns the rest of the text.
fn branches<'a>(mut text: &'a str, mut path: Vec<String>, all: &mut Vec<Path>) -> &'a str {
    loop {
        text = text.trim_start();
        if let Some(mut inner) = text.strip_prefix('{') {
            loop {
                inner = branches(inner, path.clone(), all).trim_start();
                match inner.strip_prefix(',') {
                    Some(next) if !next.trim_start().starts_with('}') => inner = next,
                    rest => {
                        let rest = rest.unwrap_or(inner).trim_start();
                        return rest.strip_prefix('}').unwrap_or(rest);
                    }
                }
            }
        }
        let (part, rest) = word(text);
        path.push(part.to_owned());
        text = rest;
        if let Some(rest) = text.strip_prefix("::") {
            text = rest;
            continue;
        }
        let renamed = text.trim_start().strip_prefix("as ").map(str::trim_start).map(word);
        all.push((path, renamed.map(|(name, _)| name.to_owned())));
        return renamed.map_or(text, |(_, rest)| rest);
    }
}

/// The identifier at the start of a text, and the rest.
fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    text.split_at(end)
}

/// The file that a path leads into: the longest match.
fn file_of<'a>(files: &'a Files, path: &[String]) -> Option<&'a str> {
    let longest = (1..=path.len()).rev().map(|parts| path[..parts].join("/"));
    longest.filter_map(|name| files.get_key_value(&name)).map(|(name, _)| name.as_str()).next()
}

/// Groups of files that all use each other, directly or not.
fn circles(arrows: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<String> {
    let reach = |from: &str| {
        let mut met = BTreeSet::new();
        let mut left: Vec<&str> = arrows.get(from).into_iter().flatten().copied().collect();
        while let Some(file) = left.pop() {
            if met.insert(file) {
                left.extend(arrows.get(file).into_iter().flatten());
            }
        }
        met
    };
    let all: BTreeMap<&str, BTreeSet<&str>> =
        arrows.keys().map(|file| (*file, reach(file))).collect();
    let mut groups = BTreeSet::new();
    for (file, met) in &all {
        if met.contains(file) {
            let group: Vec<&str> = met
                .iter()
                .filter(|other| all.get(*other).is_some_and(|back| back.contains(file)))
                .copied()
                .collect();
            groups.insert(format!("a circle: {}", group.join(", ")));
        }
    }
    groups.into_iter().collect()
}
