//! Keeps functions in the library that only its SQL refers to, and writes the SQL of the
//! templates.

use std::fmt::Write;
use std::path::Path;

#[allow(dead_code, unused_imports, reason = "only the SQL of the columns is needed here")]
#[path = "src/rows/columns/mod.rs"]
mod columns;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/rows/columns");
    // cargo-pgrx sets this for every crate through RUSTFLAGS, so that `cargo test` would rebuild
    // them all; packaging/setup turns that off.
    println!("cargo::rustc-link-arg-cdylib=-Wl,--no-gc-sections");
    // pgrx takes SQL only as a literal. A macro, so that the extension's SQL file names
    // src/api/schema.rs as the source, not a folder of the build machine.
    let code = format!(
        "macro_rules! create_templates {{ () => {{ \
         ::pgrx::extension_sql!({:?}, name = \"templates\"); }} }}\n",
        templates()
    );
    let folder = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(Path::new(&folder).join("templates.rs"), code).expect("OUT_DIR can be written");
}

/// The templates of our tables, and of the Node tool's, with the comments of their columns.
fn templates() -> String {
    let of_node = columns::ACTIONS.iter().filter_map(|column| Some((column, column.in_node?)));
    let mut sql = template("matomo_action_node", of_node);
    for (table, columns) in [
        ("matomo_action", columns::ACTIONS),
        ("matomo_visit", columns::VISITS),
        ("matomo_conversion", columns::CONVERSIONS),
        ("matomo_item", columns::ITEMS),
    ] {
        sql += &template(table, columns.iter().map(|column| (column, column.definition)));
    }
    sql
}

fn template<'a>(
    table: &str,
    columns: impl Iterator<Item = (&'a columns::Column, &'static str)> + Clone,
) -> String {
    let definition = |(column, definition): (&columns::Column, &str)| {
        format!("    {:<27} {definition}", column.name)
    };
    let definitions: Vec<_> = columns.clone().map(definition).collect();
    let mut sql = format!("CREATE TABLE {table} (\n{}\n);\n\n", definitions.join(",\n"));
    for (column, _) in columns {
        let comment = column.comment.replace('\'', "''");
        let _ = writeln!(sql, "COMMENT ON COLUMN {table}.{} IS '{comment}';", column.name);
    }
    sql.push('\n');
    sql
}
