//! Statements that find rows by their key: the path of foreign tables and of other engines.

use crate::store::destination::Destination;
use crate::store::statements::clauses::{Clauses, all, list, unnest};

/// SQL texts.
pub struct ByKey {
    /// `(columns, lines, visits[, from, to])` → (line, whether it is stored, visit, instant of the stored
    /// row in seconds, whether its key is stored twice, its key) of all rows that exist on one side only,
    /// differ, or are stored twice.
    pub compare: String,
    /// Number of columns of the key.
    pub width: usize,
    /// `(columns of the key, visits[, first, last])`
    pub delete: String,
    /// `(visits)`: their rows with a NULL in the key, which no key finds.
    pub delete_without_key: String,
    /// `(columns, visits[, first, last])`
    pub update: String,
}

impl ByKey {
    pub(super) fn of(clauses: &Clauses) -> ByKey {
        let Destination { name, layout, key, .. } = clauses.destination;
        let (width, typed) = (layout.width(), &clauses.typed);
        // Typed before they meet the table: Citus refuses a stable cast of a joined column.
        let typed_key = key.iter().enumerate().map(|(n, column)| {
            format!("u.c{n}::{} AS {column}", clauses.destination.type_of(column))
        });
        ByKey {
            compare: compare(clauses),
            width: key.len(),
            delete: format!(
                "WITH u AS MATERIALIZED (SELECT {} FROM {}) DELETE FROM {name} AS d USING u WHERE {}",
                list(typed_key),
                unnest(key.len()),
                has_key(clauses, key.len() + 1)
            ),
            // For IS NULL, the planner would trust a foreign table's NOT NULL.
            delete_without_key: format!(
                "DELETE FROM {name} AS d WHERE {} \
                 AND pg_catalog.num_nulls({}) OPERATOR(pg_catalog.>) 0",
                clauses.of_visit_ids(1),
                key_of_d(key)
            ),
            update: format!(
                "WITH u AS MATERIALIZED (SELECT {typed} FROM {}) UPDATE {name} AS d SET {} FROM u WHERE {}",
                unnest(width),
                clauses.sets(|_, column| format!("u.{column}")),
                has_key(clauses, width + 1)
            ),
        }
    }
}

fn compare(clauses: &Clauses) -> String {
    let Destination { name, layout, key, is_unique, .. } = clauses.destination;
    let Clauses { typed, aliases, stored, is_same, differs, .. } = clauses;
    let (lines, visits) = (layout.width() + 1, layout.width() + 2);
    let instant = match clauses.destination.key_has_time() {
        true => format!("date_part('epoch', s.{})", layout.kind.time()),
        false => "NULL::float8".to_owned(),
    };
    let (copies, is_doubled) = match is_unique {
        true => (String::new(), "false"),
        false => (
            format!(", count(*) OVER (PARTITION BY {}) AS copies", key_of_d(key)),
            "coalesce(s.copies > 1, false)",
        ),
    };
    format!(
        "WITH i AS MATERIALIZED (SELECT u.line::int8 AS line, {typed} \
             FROM unnest({}, ${lines}::text[]) AS u({aliases}, line)), \
         s AS MATERIALIZED (SELECT {stored}{copies} FROM {name} AS d WHERE {}) \
         SELECT i.line, s.idvisit IS NOT NULL, coalesce(i.idvisit, s.idvisit)::text, {instant}, \
             {is_doubled}, {} \
         FROM i FULL JOIN s ON {is_same} \
         WHERE i.line IS NULL OR s.idvisit IS NULL OR {is_doubled} OR {differs}",
        clauses.columns(),
        clauses.of_visits(visits),
        list(key.iter().map(|column| format!("s.{column}::text"))),
    )
}

/// Whether a row has a key of `u`; the rest lets engines find where to look: `visits[, first, last]`.
fn has_key(clauses: &Clauses, first: usize) -> String {
    let Destination { layout, key, .. } = clauses.destination;
    let same = key.iter().map(|column| format!("d.{column} OPERATOR(pg_catalog.=) u.{column}"));
    let near = match clauses.destination.key_has_time() {
        true => format!(
            " AND d.{time} OPERATOR(pg_catalog.>=) pg_catalog.to_timestamp(${}) \
             AND d.{time} OPERATOR(pg_catalog.<=) pg_catalog.to_timestamp(${})",
            first + 1,
            first + 2,
            time = layout.kind.time()
        ),
        false => String::new(),
    };
    format!("{} AND {}{near}", all(same), clauses.of_visit_ids(first))
}

fn key_of_d(key: &[String]) -> String {
    list(key.iter().map(|column| format!("d.{column}")))
}
