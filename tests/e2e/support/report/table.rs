//! The report `docs/trust.md`: what was tried, promised and seen. Tests write it with `make trust`; none
//! compares with it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::support::pages::root;

/// All sections, in order.
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
    ("Worker killed", "The same with the background worker, which then resumes."),
    ("Postmaster killed, a session", "`kill -9` of the postmaster and of the session's process."),
    (
        "Postmaster killed, the worker",
        "`kill -9` of the postmaster and of the background worker, which then resumes.",
    ),
    ("Privileges", "Who may do what, and what others can make a sync do."),
    ("Lifecycle", "The extension comes, goes, moves and is updated; what users have stays."),
];

const HEAD: &str = "# Trust report

\
    Faults and attacks that were tried, what was promised, and what was seen. The end-to-end tests \
    write it (`make trust`). A promise that ends in … leaves the rest to a library.

\
    Each case of the first six sections is a sync, with the token in a user mapping, in one transaction \
    into tables that already hold rows, of a Matomo whose every visit has changed since:

\
    - after each failure these are as they were: every row's version in `matomo`, `matomo_partitioned` \
    and the ledger;
\
    - after each case, failed or not, the token is in none of: the fields of the error, the notices, the \
    server's log at `debug5` with `log_statement = all`, `pg_stat_activity`, `pg_stat_statements`, \
    `matomo_sites`, `matomo_runs`, `matomo_status`, `matomo_progress`, `matomo_days`;
\
    - after each section it is not in a `pg_dump` either, its user mapping aside, and the same session \
    syncs well.

\
    The cases of killed processes are those of `tests/e2e/boundaries`. Where a test is named, it proves \
    more than its row says. Rows are compared with those of an oracle, which makes them from what Matomo \
    has without any of the extension's code.
";

/// Sections with cases from all tests, each with the name of its test.
const FROM_TESTS: [&str; 4] = ["Data", "Crash", "Privileges", "Lifecycle"];

/// A section that one test writes.
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
        let line = line(&[case, injected, promised, seen]);
        assert!(
            self.rows.iter().all(|other| cell(other, 0) != cell(&line, 0)),
            "{case} comes twice"
        );
        self.rows.push(line);
    }

    /// Adds the section to the report, if one is being written.
    pub fn finish(self) {
        if let Some(report) = Report::being_written() {
            report.write(self.title, &self.rows);
        }
    }
}

/// Adds a row to the report, if one is being written. The test itself asserts what it has seen, which must
/// be the same in each run.
#[track_caller]
pub fn proven(section: &'static str, case: &str, injected: &str, promised: &str, seen: &str) {
    assert!(FROM_TESTS.contains(&section));
    // The thread has the name of the test, except with `--test-threads=1`.
    let here = std::thread::current();
    let test = format!("`{}`", here.name().unwrap_or_default());
    let new = line(&[case, injected, promised, seen, &test]);
    if let Some(report) = Report::being_written() {
        let mut rows = report.rows(section);
        rows.retain(|row| cell(row, 0) != cell(&new, 0));
        rows.push(new);
        rows.sort_by_key(|row| cell(row, 0).to_lowercase());
        report.write(section, &rows);
    }
}

/// The report; the file is locked during reads and writes.
struct Report {
    path: PathBuf,
    _guard: MutexGuard<'static, ()>,
}

impl Report {
    fn at(path: impl AsRef<Path>) -> Report {
        static FILE: Mutex<()> = Mutex::new(());
        let path = root().join(path);
        Report { path, _guard: FILE.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// The report to write, named by `MATOMO_TRUST`.
    fn being_written() -> Option<Report> {
        std::env::var_os("MATOMO_TRUST").map(Report::at)
    }

    /// The rows of a section.
    fn rows(&self, section: &str) -> Vec<String> {
        let parts = self.sections();
        let part = parts.iter().find(|part| title(part) == section).map_or("", String::as_str);
        part.lines().filter(|line| line.starts_with("| ")).skip(2).map(str::to_owned).collect()
    }

    /// Replaces a section.
    fn write(&self, section: &str, rows: &[String]) {
        let parts = self.sections();
        let of = |(wanted, about): &(&str, &str)| match *wanted == section {
            true => Some(text(wanted, about, rows)),
            false => parts.iter().find(|part| title(part) == *wanted).cloned(),
        };
        let sections: Vec<_> = SECTIONS.iter().filter_map(of).collect();
        std::fs::write(&self.path, format!("{HEAD}\n{}", sections.join("\n"))).unwrap();
    }

    fn sections(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let parts = text.split("\n## ").skip(1);
        parts.map(|part| format!("## {}\n", part.trim_end())).collect()
    }
}

fn title(section: &str) -> &str {
    section.lines().next().and_then(|line| line.strip_prefix("## ")).unwrap_or_default()
}

fn text(title: &str, about: &str, rows: &[String]) -> String {
    let mut text = format!("## {title}\n\n{about}\n\n");
    text += match FROM_TESTS.contains(&title) {
        true => "| case | injected | promised | seen | test |\n| --- | --- | --- | --- | --- |\n",
        false => "| case | injected | promised | seen |\n| --- | --- | --- | --- |\n",
    };
    rows.iter().for_each(|row| text += &format!("{row}\n"));
    text
}

fn line(cells: &[&str]) -> String {
    let cells = cells.iter().map(|text| {
        assert!(!text.is_empty() && !text.contains('\n'), "no text for a table: {cells:?}");
        text.replace('|', "\\|")
    });
    format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
}

/// A cell of a row.
fn cell(line: &str, index: usize) -> &str {
    line.trim_start_matches("| ").split(" | ").nth(index).unwrap_or_default()
}
