//! The table of cases in `tests/TRUST.md`.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// All sections, in the file's order.
const SECTIONS: [(&str, &str); 6] = [
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
];

const HEAD: &str = "# Trust\n\n\
    Made by the tests in `tests/e2e/trust`, with `make trust`; `make test` fails when a case is \
    missing here, or says something else. A promise that ends in … leaves the rest to a library.\n\n\
    Each case is a sync, with the token in a user mapping, in one transaction into tables that already hold rows, of a Matomo whose \
    every visit has changed since. After each failure these are as they were: every row's version in \
    `matomo`, `matomo_partitioned` and the ledger. After each case, failed or not, the token is in \
    none of: the fields of the error, the notices, the server's log at `debug5` with `log_statement = \
    all`, `pg_stat_activity`, `pg_stat_statements`, `matomo_sites`, `matomo_runs`, `matomo_status`, \
    `matomo_progress`, `matomo_days`; and after each section not in a `pg_dump` either, its user mapping aside. After \
    each section the same session syncs well.\n";

/// A section being made.
pub struct Section {
    title: &'static str,
    rows: Vec<[String; 4]>,
}

impl Section {
    pub fn new(title: &'static str) -> Section {
        assert!(SECTIONS.iter().any(|(known, _)| *known == title));
        Section { title, rows: Vec::new() }
    }

    pub fn row(&mut self, case: &str, injected: &str, promised: &str, seen: &str) {
        let row = [case, injected, promised, seen].map(|text| text.replace('|', "\\|"));
        assert!(self.rows.iter().all(|other| other[0] != row[0]), "{case} comes twice");
        self.rows.push(row);
    }

    fn text(&self) -> String {
        let about = SECTIONS.iter().find(|(title, _)| *title == self.title).unwrap().1;
        let mut text = format!("## {}\n\n{about}\n\n", self.title);
        text += "| case | injected | promised | seen |\n| --- | --- | --- | --- |\n";
        for row in &self.rows {
            text += &format!("| {} |\n", row.join(" | "));
        }
        text
    }

    /// Compares the section with the file, or writes it there.
    #[track_caller]
    pub fn finish(self) {
        static FILE: Mutex<()> = Mutex::new(());
        let _guard = FILE.lock().unwrap_or_else(PoisonError::into_inner);
        let text = self.text();
        let parts = read();
        if std::env::var_os("MATOMO_TRUST").is_none() {
            let kept = parts.iter().find(|part| title(part) == self.title);
            let kept = kept.map_or("", String::as_str);
            assert!(
                kept == text,
                "tests/TRUST.md says something else; if that is right, run make trust.\n\
                 It has:\n{kept}\nNow:\n{text}"
            );
            return;
        }
        let of = |wanted: &str| match wanted == self.title {
            true => Some(text.clone()),
            false => parts.iter().find(|part| title(part) == wanted).cloned(),
        };
        let sections: Vec<_> = SECTIONS.iter().filter_map(|(title, _)| of(title)).collect();
        std::fs::write(path(), format!("{HEAD}\n{}", sections.join("\n"))).unwrap();
    }
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/TRUST.md")
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
    if std::env::var_os("MATOMO_TRUST").is_some() {
        return;
    }
    let text = std::fs::read_to_string(path()).unwrap();
    assert!(text.starts_with(HEAD), "run make trust");
    let parts = read();
    let titles: Vec<_> = parts.iter().map(|part| title(part)).collect();
    assert_eq!(titles, SECTIONS.map(|(title, _)| title));
}
