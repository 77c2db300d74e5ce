//! README and `docs/`: their SQL runs, their results are correct, their links work, and they cover
//! everything that the extension has.

use std::collections::HashSet;
use std::path::PathBuf;

use chrono::{Days, Utc};
use fake_matomo::{Clock, Plan, SitePlan, World};
use postgres::{Client, SimpleQueryMessage};

use crate::support::cluster::{Cluster, shared};
use crate::support::pages::*;
use crate::support::*;

/// Another test runs its queries.
const QUERIES: &str = "docs/queries.md";

/// The paths of README and the pages in `docs/`: README first, then the installation.
fn pages() -> Vec<String> {
    let files = std::fs::read_dir(root().join("docs")).unwrap();
    let mut pages: Vec<_> = files
        .map(|file| format!("docs/{}", file.unwrap().file_name().into_string().unwrap()))
        .filter(|path| path.ends_with(".md"))
        .collect();
    pages.push("README.md".to_owned());
    pages.sort_by_key(|path| (path != "README.md", path != "docs/install.md", path.clone()));
    pages
}

/// The code blocks marked as SQL.
fn examples(page: &str) -> impl Iterator<Item = &str> {
    page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap())
}

/// Single statements, as psql sends them.
fn statements(sql: &str) -> impl Iterator<Item = &str> {
    sql.split_inclusive(';').map(str::trim).filter(|statement| {
        statement.contains(|c: char| c.is_alphabetic()) && statement.ends_with(';')
    })
}

/// Runs all SQL of a page in order.
fn run_examples(db: &mut Client, path: &str, url: &str, token: &str) {
    for example in examples(&page(path)) {
        let sql = example
            .replace("https://analytics.example.org", url)
            .replace("'TOKEN'", &format!("'{token}'"));
        for statement in statements(&sql) {
            let answer = db
                .simple_query(statement)
                .unwrap_or_else(|error| panic!("{path}: {statement}: {error:?}"));
            let rows = answer.iter().filter(|part| matches!(part, SimpleQueryMessage::Row(_)));
            let may_be_empty = !statement.contains("SELECT") || statement.contains("no rows: ");
            assert!(rows.count() > 0 || may_be_empty, "{path}: no rows: {statement}");
        }
    }
}

/// README and the installation page start in a new database, other pages where README ends. Roles
/// are shared by the whole server, so this test has its own.
#[test]
fn every_example_runs() {
    let today = Utc::now().date_naive();
    let first = (today - Days::new(7)).to_string();
    let fake = serve(world(11, "Europe/Paris", 20, &first, &today.to_string()));
    let cluster = Cluster::start();
    for (number, path) in pages().iter().filter(|path| *path != QUERIES).enumerate() {
        run(&mut cluster.connect("postgres"), &format!("CREATE DATABASE page_{number}"));
        let mut db = cluster.connect(&format!("page_{number}"));
        if number > 1 {
            run_examples(&mut db, "README.md", &fake.url(), fake.token());
            run(&mut db, "CREATE SCHEMA analytics");
        }
        run_examples(&mut db, path, &fake.url(), fake.token());
        if path == "docs/install.md" {
            // The page ends with DROP EXTENSION; the visits are still there.
            assert_eq!(one::<i64>(&mut db, "SELECT count(*) FROM pg_foreign_server"), 0);
            assert!(one::<i64>(&mut db, "SELECT count(*) FROM analytics.matomo") > 100);
        }
    }
}

/// The demo's three weeks, at a fixed time.
fn three_weeks() -> World {
    World::generate(&Plan {
        seed: 1,
        sites: vec![SitePlan {
            name: "Example shop".to_owned(),
            ecommerce: true,
            ..SitePlan::new(1, "Europe/Paris", 300)
        }],
        first_day: day("2026-06-01"),
        last_day: day("2026-06-21"),
        now: Clock::Real,
    })
}

/// With `MATOMO_DOCS=write` the page gets the current results of its queries.
#[test]
fn the_queries_have_the_results_that_the_page_shows() {
    let fake = serve(three_weeks());
    let (name, mut db) = named_database();
    Sync::of(&fake, "2026-06-01", "2026-06-21").run(&mut db);
    let text = page(QUERIES);
    let mut parts = text.split("```sql\n");
    let mut now = parts.next().unwrap().to_owned();
    let (mut settings, mut queries) = (String::new(), 0);
    for part in parts {
        let (sql, rest) = part.split_once("```\n").unwrap();
        now += &format!("```sql\n{sql}```\n");
        let rest = match rest.strip_prefix("\n```text\n") {
            Some(shown) => shown.split_once("```\n").unwrap().1,
            None => rest,
        };
        if sql.starts_with("SET ") {
            settings = sql.to_owned();
        } else {
            now += &format!("\n```text\n{}```\n", psql(&name, &settings, sql));
            queries += 1;
        }
        now += rest;
    }
    assert_eq!(queries, 20);
    if std::env::var_os("MATOMO_DOCS").is_some() {
        std::fs::write(root().join(QUERIES), now).unwrap();
    } else {
        assert!(
            now == text,
            "{QUERIES} shows other results; MATOMO_DOCS=write writes these:\n{now}"
        );
    }
}

#[test]
fn each_query_of_the_demo_has_results() {
    let fake = serve(three_weeks());
    let (name, mut db) = named_database();
    Sync::of(&fake, "2026-06-01", "2026-06-21").run(&mut db);
    let mut command = shared().program("psql");
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &name]);
    command.args(["-v", "zone=Europe/Paris", "-v", "bold=", "-v", "plain=", "-f"]);
    let output = command.arg(root().join("demo/demo.sql")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    let ends: Vec<_> = shown.lines().filter(|line| line.ends_with("rows)")).collect();
    assert_eq!(ends.len(), page("demo/demo.sql").matches("\\echo :bold").count(), "{shown}");
    assert!(!ends.contains(&"(0 rows)"), "{shown}");
}

/// The output of psql.
fn psql(database: &str, settings: &str, sql: &str) -> String {
    let mut command = shared().program("psql");
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-P", "footer=off", "-d", database]);
    let output = command.args(["-c", settings, "-c", sql]).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    shown.trim_end().lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn the_tables_of_settings_have_all_settings_with_their_defaults() {
    let mut db = shared().connect(&shared().database());
    db.batch_execute("LOAD 'matomo_postgres'").unwrap();
    let rows = db
        .query(
            // A value from the test server's configuration file is not a default.
            "SELECT name, CASE source WHEN 'configuration file' THEN boot_val ELSE current_setting(name) END
             FROM pg_settings WHERE name LIKE 'matomo.%' ORDER BY 1",
            &[],
        )
        .unwrap();
    assert!(rows.len() >= 10);
    let page = page("docs/settings.md");
    for row in rows {
        let (name, value): (String, String) = (row.get(0), row.get(1));
        let default = if value.is_empty() { String::new() } else { format!("`{value}` ") };
        let line = format!("| `{name}` | {default}|");
        assert!(page.contains(&line), "docs/settings.md lacks: {line}");
    }
}

/// A condition that selects the extension's members, by class and OID.
fn is_member(class: &str, oid: &str) -> String {
    format!(
        "EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
             AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'matomo_postgres'
         WHERE d.classid = '{class}'::regclass AND d.objid = {oid} AND d.deptype = 'e')"
    )
}

#[test]
fn every_function_is_described_with_all_its_arguments() {
    let mut db = database();
    let calls = texts(
        &mut db,
        &format!(
            "SELECT format('%s(%s)', p.proname, (
                 SELECT string_agg(a.name, ', ' ORDER BY a.place)
                 FROM unnest(p.proargnames, p.proargmodes::text[]) WITH ORDINALITY a (name, mode, place)
                 WHERE coalesce(a.mode, 'i') = 'i'))
             FROM pg_proc p WHERE {} AND obj_description(p.oid, 'pg_proc') NOT LIKE 'Internal: %' ORDER BY 1",
            is_member("pg_proc", "p.oid")
        ),
    );
    assert!(calls.len() >= 12, "{calls:?}");
    let page = page("docs/functions.md");
    for call in calls {
        let described = page.contains(&format!("`{call}`"));
        assert!(
            described || page.contains(&format!("`CALL {call}`")),
            "docs/functions.md lacks: {call}"
        );
    }
}

/// The text below a second-level heading.
fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let begin =
        page.find(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no section {title}"));
    let rest = &page[begin + 1..];
    rest.find("\n## ").map_or(rest, |end| &rest[..end])
}

#[test]
fn every_view_and_every_column_is_described() {
    let mut db = database();
    let page = page("docs/tables.md");
    let views = format!(
        "SELECT c.relname::text FROM pg_class c WHERE c.relkind = 'v' AND {}
             AND obj_description(c.oid, 'pg_class') NOT LIKE 'Internal: %' ORDER BY 1",
        is_member("pg_class", "c.oid")
    );
    let views = texts(&mut db, &views);
    assert!(views.len() >= 5, "{views:?}");
    let sections = views.iter().map(|view| (view.as_str(), view.as_str()));
    for (table, title) in sections.chain([("matomo_action", "Columns")]) {
        let section = section(&page, title);
        let columns = format!(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0
                 AND attname !~ '^dimension[2-9]$'"
        );
        for column in texts(&mut db, &columns) {
            assert!(section.contains(&format!("`{column}`")), "docs/tables.md, {title}: {column}");
        }
    }
}

/// Their comments are the documentation.
#[test]
fn the_columns_of_companions_are_described_by_their_comments() {
    let mut db = database();
    let page = page("docs/tables.md");
    for (table, title) in
        [("matomo_visit", "Visits"), ("matomo_conversion", "Conversions"), ("matomo_item", "Items")]
    {
        let lines = texts(
            &mut db,
            &format!(
                "SELECT format('| `%s` | `%s` | %s |', a.attname, replace(replace(
                     format_type(a.atttypid, a.atttypmod), 'timestamp with', 'timestamptz with'), 'time without time zone', 'time'),
                     col_description(a.attrelid, a.attnum))
                 FROM pg_attribute a WHERE a.attrelid = '{table}'::regclass AND a.attnum > 0 ORDER BY a.attnum"
            ),
        );
        let lines = lines.join("\n").replace("timestamptz with time zone", "timestamptz");
        assert!(lines.lines().count() > 10, "{lines}");
        let is_there = section(&page, title).contains(&lines);
        assert!(is_there, "docs/tables.md, {title}, lacks:\n{lines}");
    }
}

/// The anchors as GitHub makes them.
fn anchors(page: &str) -> HashSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title.chars().filter(kept).collect::<String>().replace(' ', "-")
        })
        .collect()
}

/// The targets of a page's links.
fn links(page: &str) -> Vec<&str> {
    // Every second part is a code block.
    let prose = page.split("```").step_by(2);
    prose
        .flat_map(|text| text.split("](").skip(1))
        .map(|rest| rest.split(')').next().unwrap())
        .collect()
}

/// The broken links of a page, given by its path.
fn broken(path: &str, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    for link in links(text).into_iter().filter(|link| !link.starts_with("https://")) {
        let (file, anchor) = link.split_once('#').map_or((link, None), |(f, a)| (f, Some(a)));
        let mut target = PathBuf::from(path);
        if !file.is_empty() {
            target.pop();
            target.push(file);
        }
        let there = match std::fs::read_to_string(root().join(&target)) {
            Ok(text) => anchor.is_none_or(|anchor| anchors(&text).contains(anchor)),
            Err(_) => false,
        };
        if !there {
            broken.push(format!("{path}: {link}"));
        }
    }
    broken
}

#[test]
fn every_link_leads_somewhere() {
    let mut paths = pages();
    paths.extend(["SECURITY.md", "CHANGELOG.md", "sql/released/README.md"].map(str::to_owned));
    let found: Vec<_> = paths.iter().flat_map(|path| broken(path, &page(path))).collect();
    assert_eq!(found, [""; 0]);
    // Proves that the check can fail.
    let wrong =
        "[a](nowhere.md), [b](tables.md#nowhere), [c](tables.md#columns), [d](../README.md)";
    let expected = ["docs/x.md: nowhere.md", "docs/x.md: tables.md#nowhere"];
    assert_eq!(broken("docs/x.md", wrong), expected);
}

/// The files and folders of this repository that a page names as code.
fn paths(page: &str) -> Vec<&str> {
    const FOLDERS: [&str; 7] = ["src", "sql", "tests", "packaging", "demo", "monitoring", "docs"];
    let words = page.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2));
    words
        .filter(|word| word.split_once('/').is_some_and(|(folder, _)| FOLDERS.contains(&folder)))
        .filter(|word| !word.contains([' ', '*']))
        .collect()
}

#[test]
fn every_path_that_is_named_is_there() {
    for path in pages() {
        for named in paths(&page(&path)) {
            assert!(root().join(named).exists(), "{path} names {named}");
        }
    }
    assert_eq!(paths("`src/no.rs`, `a/b`, `sql/`"), ["src/no.rs", "sql/"]);
}

#[test]
fn readme_is_a_page() {
    assert!(page("README.md").len() <= 12_000);
}
