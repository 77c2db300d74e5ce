//! Keeps functions in the library that only its SQL refers to, and writes the SQL of the template
//! table.

use std::fmt::Write;
use std::path::Path;

#[allow(dead_code, reason = "only the SQL of the columns is needed here")]
#[path = "src/rows/columns.rs"]
mod columns;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/rows/columns.rs");
    // cargo-pgrx sets this for every crate through RUSTFLAGS, so that `cargo test` would rebuild
    // them all; packaging/setup turns that off.
    println!("cargo::rustc-link-arg-cdylib=-Wl,--no-gc-sections");
    // pgrx takes SQL only as a literal. A macro, so that the extension's SQL file names
    // src/api/schema.rs as the source, not a folder of the build machine.
    let code = format!(
        "macro_rules! create_template {{ () => {{ \
         ::pgrx::extension_sql!({:?}, name = \"template\"); }} }}\n",
        template()
    );
    let folder = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(Path::new(&folder).join("template.rs"), code).expect("OUT_DIR can be written");
}

/// `CREATE TABLE matomo_action` and the comments of its columns.
fn template() -> String {
    let definitions: Vec<_> = columns::COLUMNS
        .iter()
        .map(|column| format!("    {:<27} {}", column.name, column.definition))
        .collect();
    let mut sql = format!("CREATE TABLE matomo_action (\n{}\n);\n\n", definitions.join(",\n"));
    for column in columns::COLUMNS {
        let comment = column.comment.replace('\'', "''");
        let _ = writeln!(sql, "COMMENT ON COLUMN matomo_action.{} IS '{comment}';", column.name);
    }
    sql
}
