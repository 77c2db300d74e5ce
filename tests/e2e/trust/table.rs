//! The table of cases in `docs/trust.md`.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All sections, in the file's order.
pub const SECTIONS: [(&str, &str); 15] = [
    (
        "Network",
        "A request for one day's visits meets the fault, after the day before was read well.",
    ),
    ("HTTP", "The same, with answers that keep to HTTP badly or in unusual ways."),
    ("TLS", "The certificate is not to be trusted, or only by who knows its CA."),
    ("Hosts", "The URL leads where `matomo.allowed_hosts` and `matomo.allow_http` let nobody go."),
    (
        "Secrets",
        "A registered site, synced by `CALL matomo_sync_site`, which keeps in `matomo_runs` what went wrong.",
    ),
    ("Memory", "Answers without end; the backend's memory is measured."),
    (
        "Data",
        "What Matomo, its plugins and its visitors might send, synced into both standard tables, and again, which touches nothing.",
    ),
    (
        "Crash",
        "What happens around a sync or to it: disks, locks, constraints, connections, processes.",
    ),
    (
        "Session killed",
        "`kill -9` of the session's process, while it stands at the boundary; the postmaster then ends all others. \
         Four days are read: two that are stored but still open, of which one has changed, and two new ones; others are too old. \
         Seen is what was there when the server was: rows of whole days, in the versions in which they lay where nothing \
         was committed, with their ledger; no lock, nothing that runs. Then the same was done again, and came to its end.",
    ),
    ("Session terminated", "The same with `pg_terminate_backend`."),
    ("Worker killed", "The same with the background worker, which goes on by itself."),
    ("Postmaster killed, a session", "`kill -9` of the postmaster and of the session's process."),
    (
        "Postmaster killed, the worker",
        "`kill -9` of the postmaster and of the background worker, which goes on by itself.",
    ),
    ("Privileges", "Who may do what, and what others can make a sync do."),
    ("Lifecycle", "The extension comes, goes, moves and is updated; what users have stays."),
];

const HEAD: &str = "# Trust\n\n\
    Made by the end-to-end tests, with `make trust`; `make test` fails when a case is \
    missing here, or says something else. A promise that ends in … leaves the rest to a library.\n\n\
    Each case of the first six sections is a sync, with the token in a user mapping, in one transaction into tables that already hold rows, of a Matomo whose \
    every visit has changed since. After each failure these are as they were: every row's version in \
    `matomo`, `matomo_partitioned` and the ledger. After each case, failed or not, the token is in \
    none of: the fields of the error, the notices, the server's log at `debug5` with `log_statement = \
    all`, `pg_stat_activity`, `pg_stat_statements`, `matomo_sites`, `matomo_runs`, `matomo_status`, \
    `matomo_progress`, `matomo_days`; and after each section not in a `pg_dump` either, its user mapping aside. After \
    each section the same session syncs well.\n\n\
    Of the sections on killed processes each is a test in `tests/e2e/boundaries`. \
    The rows of the remaining ones come each from a test that proves more than its row says; \
    `tests/e2e/trust/proofs.rs` names it. Rows are compared with those of an oracle, which makes them \
    from what Matomo has without any of the extension's code.\n";

/// A section being made.
pub struct Section {
    title: &'static str,
    rows: Vec<String>,
}

impl Section {
    pub fn new(title: &'static str) -> Section {
        assert!(SECTIONS.iter().any(|(known, _)| *known == title));
        Section { title, rows: Vec::new() }
    }

    pub fn row(&mut self, case: &str, injected: &str, promised: &str, seen: &str) {
        let line = line([case, injected, promised, seen]);
        assert!(
            self.rows.iter().all(|other| case_of(other) != case_of(&line)),
            "{case} comes twice"
        );
        self.rows.push(line);
    }

    /// Compares the section with the file, or writes it there.
    #[track_caller]
    pub fn finish(self) {
        let _guard = lock();
        let text = text(self.title, &self.rows);
        if is_writing() {
            return write(self.title, text);
        }
        let parts = read();
        let kept = parts.iter().find(|part| title(part) == self.title);
        assert_same(kept.map_or("", String::as_str), &text);
    }
}

/// Compares one row with the file, or writes it there: into its place among the cases of its
/// section, of which no others stay.
#[track_caller]
pub fn put(section: &'static str, cases: &[&str], row: [&str; 4]) {
    let _guard = lock();
    let line = line(row);
    let kept = rows(section);
    if !is_writing() {
        let kept = kept.iter().find(|kept| case_of(kept) == case_of(&line));
        return assert_same(kept.map_or("", String::as_str), &line);
    }
    let of = |case: &&str| match *case == row[0] {
        true => Some(line.clone()),
        false => kept.iter().find(|kept| case_of(kept) == escaped(case)).cloned(),
    };
    let rows: Vec<_> = cases.iter().filter_map(of).collect();
    write(section, text(section, &rows));
}

/// The lines of a section's cases in the file.
pub fn rows(section: &str) -> Vec<String> {
    let parts = read();
    let part = parts.iter().find(|part| title(part) == section).map_or("", String::as_str);
    let lines = part.lines().filter(|line| line.starts_with("| ")).skip(2);
    lines.map(str::to_owned).collect()
}

fn line(row: [&str; 4]) -> String {
    let row = row.map(|text| {
        assert!(!text.is_empty() && !text.contains('\n'), "no text for a table: {row:?}");
        escaped(text)
    });
    format!("| {} |", row.join(" | "))
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The case that a line of the file is about.
pub fn case_of(line: &str) -> &str {
    line.strip_prefix("| ").and_then(|rest| rest.split(" | ").next()).unwrap_or_default()
}

fn text(title: &str, rows: &[String]) -> String {
    let about = SECTIONS.iter().find(|(known, _)| *known == title).unwrap().1;
    let mut text = format!("## {title}\n\n{about}\n\n");
    text += "| case | injected | promised | seen |\n| --- | --- | --- | --- |\n";
    rows.iter().for_each(|row| text += &format!("{row}\n"));
    text
}

fn lock() -> MutexGuard<'static, ()> {
    static FILE: Mutex<()> = Mutex::new(());
    FILE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn is_writing() -> bool {
    std::env::var_os("MATOMO_TRUST").is_some()
}

#[track_caller]
fn assert_same(kept: &str, now: &str) {
    assert!(
        kept == now,
        "docs/trust.md says something else; if that is right, run make trust.\n\
         It has:\n{kept}\nNow:\n{now}"
    );
}

/// Puts a section into the file.
fn write(section: &str, text: String) {
    let parts = read();
    let of = |wanted: &str| match wanted == section {
        true => Some(text.clone()),
        false => parts.iter().find(|part| title(part) == wanted).cloned(),
    };
    let sections: Vec<_> = SECTIONS.iter().filter_map(|(title, _)| of(title)).collect();
    std::fs::write(path(), format!("{HEAD}\n{}", sections.join("\n"))).unwrap();
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/trust.md")
}

/// The sections of the file.
fn read() -> Vec<String> {
    let text = std::fs::read_to_string(path()).unwrap_or_default();
    let mut parts: Vec<String> = Vec::new();
    for line in text.lines() {
        match parts.last_mut() {
            _ if line.starts_with("## ") => parts.push(format!("{line}\n")),
            Some(part) => *part += &format!("{line}\n"),
            None => {}
        }
    }
    for part in &mut parts {
        *part = format!("{}\n", part.trim_end());
    }
    parts
}

fn title(part: &str) -> &str {
    part.lines().next().and_then(|line| line.strip_prefix("## ")).unwrap_or_default()
}

/// Each section is checked by the test that makes it; this finds those that nobody makes.
#[test]
fn the_file_has_all_sections_and_no_others() {
    if is_writing() {
        return;
    }
    let text = std::fs::read_to_string(path()).unwrap();
    assert!(text.starts_with(HEAD), "run make trust");
    let parts = read();
    let titles: Vec<_> = parts.iter().map(|part| title(part)).collect();
    assert_eq!(titles, SECTIONS.map(|(title, _)| title));
}
