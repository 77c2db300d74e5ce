//! The parts of which statements are made. *Columns* are their leading arguments where they take rows:
//! one text array per column. In them `d` is the destination, `u` the rows as they come, `i` the same
//! with the columns' types, and `s` stored rows.

use crate::store::destination::Destination;

/// The parts of the statements for a destination.
pub struct Clauses<'a> {
    pub destination: &'a Destination,
    /// Type of idvisit.
    pub visit_type: &'a str,
    /// The columns of `u` with their types and names.
    pub typed: String,
    /// The names of the columns of `u`: `c0, c1, …`
    pub aliases: String,
    /// The columns of `d`.
    pub stored: String,
    /// Whether `i` and `s` have the same key.
    pub is_same: String,
    /// Whether `i` and `s`, which have the same key, differ.
    pub differs: String,
}

impl Clauses<'_> {
    /// Builds the parts.
    pub fn of(destination: &Destination) -> Clauses<'_> {
        let Destination { layout, types, key, .. } = destination;
        let typed = types.iter().zip(layout.names()).enumerate();
        let compared = layout.names().zip(types).filter(|(column, _)| !destination.is_key(column));
        Clauses {
            destination,
            visit_type: destination.type_of("idvisit"),
            typed: list(typed.map(|(n, (kind, column))| format!("u.c{n}::{kind} AS {column}"))),
            aliases: aliases(layout.width()),
            stored: list(layout.names().map(|column| format!("d.{column}"))),
            is_same: all(key.iter().map(|column| format!("i.{column} = s.{column}"))),
            // All columns may be of the key.
            differs: std::iter::once("false".to_owned())
                .chain(compared.map(|(column, kind)| differs(column, kind)))
                .collect::<Vec<_>>()
                .join(" OR "),
        }
    }

    /// The columns as arguments.
    pub fn columns(&self) -> String {
        arrays(self.destination.layout.width())
    }

    /// What an UPDATE sets: all columns but those of the key, each to the `value` of its place and name.
    pub fn sets(&self, value: impl Fn(usize, &str) -> String) -> String {
        let columns = self.destination.layout.names().enumerate();
        let columns = columns.filter(|(_, column)| !self.destination.is_key(column));
        list(columns.map(|(n, column)| format!("{column} = {}", value(n, column))))
    }

    /// Whether a row is one of these visits, within the span if instants are in the key; takes the
    /// arguments from the `first` on: `visits[, from, to]`.
    pub fn of_visits(&self, first: usize) -> String {
        format!("{}{}", self.of_visit_ids(first), self.span(first + 1))
    }

    /// The same without the span.
    pub fn of_visit_ids(&self, first: usize) -> String {
        format!(
            "d.idvisit OPERATOR(pg_catalog.=) ANY (${first}::pg_catalog.text[]::{}[])",
            self.visit_type
        )
    }

    /// Whether an instant is within the span, after `AND`, if instants are in the key: `[from, to]`.
    pub fn span(&self, first: usize) -> String {
        if !self.destination.key_has_time() {
            return String::new();
        }
        let time = self.destination.layout.kind.time();
        let within = format!(
            "d.{time} OPERATOR(pg_catalog.>=) pg_catalog.to_timestamp(${first}) \
             AND d.{time} OPERATOR(pg_catalog.<) pg_catalog.to_timestamp(${})",
            first + 1
        );
        match self.destination.is_unique {
            true => format!(" AND {within}"),
            // Another server may keep rows without an instant.
            false => format!(" AND ({within} OR d.{time} IS NULL)"),
        }
    }
}

/// So many text arrays as arguments, from the first on.
fn arrays(count: usize) -> String {
    list((1..=count).map(|n| format!("${n}::pg_catalog.text[]")))
}

/// The rows of so many text arrays as `u`. `unnest` of several is syntax; of one, it is a function, which the
/// search_path of the caller would find.
pub fn unnest(count: usize) -> String {
    let function = if count == 1 { "pg_catalog.unnest" } else { "unnest" };
    format!("{function}({}) AS u({})", arrays(count), aliases(count))
}

/// So many names of columns: `c0, c1, …`
fn aliases(count: usize) -> String {
    list((0..count).map(|n| format!("c{n}")))
}

/// A list with commas.
pub fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// A condition of conditions.
pub fn all(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(" AND ")
}

/// Whether a column of a type differs between `i`, what Matomo has, and `s`, what is stored.
pub fn differs(column: &str, kind: &str) -> String {
    // json and xml have no `=`, and the search_path finds no operators of other schemas. Names may be quoted, as
    // a keyword or by quote_all_identifiers; numeric(10,2) and the like are syntax.
    let kind = kind.replace('"', "");
    let is_known = !kind.contains('.') || kind.starts_with("pg_catalog.");
    let has_equality = is_known && !["pg_catalog.json", "pg_catalog.xml"].contains(&&*kind);
    let cast = if has_equality { "" } else { "::text" };
    format!("i.{column}{cast} IS DISTINCT FROM s.{column}{cast}")
}
