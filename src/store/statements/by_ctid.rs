//! Statements that find rows where they lie: the path of ordinary tables.

use crate::store::statements::clauses::Clauses;

/// SQL texts.
pub struct ByCtid {
    /// `(columns, visits[, from, to])` → (line of the batch, from 1; partition, ctid, visit) of all
    /// rows that exist on one side only or differ.
    pub compare: String,
    /// The same, with the stored rows locked.
    pub compare_locked: String,
    /// `(partition, ctids[, from, to])`
    pub delete: String,
    /// `(columns, partition, ctids[, from, to])`
    pub update: String,
}

impl ByCtid {
    pub(super) fn of(clauses: &Clauses) -> ByCtid {
        let name = &clauses.destination.name;
        let width = clauses.destination.layout.width();
        let (columns, aliases) = (clauses.columns(), &clauses.aliases);
        let compare = |lock: &str| {
            let Clauses { typed, stored, is_same, differs, .. } = clauses;
            let of_visits = clauses.of_visits(width + 1);
            format!(
                "WITH i AS MATERIALIZED (SELECT u.line, {typed} \
                     FROM unnest({columns}) WITH ORDINALITY AS u({aliases}, line)), \
                 s AS MATERIALIZED (SELECT d.tableoid AS partition, d.ctid AS tid, {stored} \
                     FROM {name} AS d WHERE {of_visits}{lock}) \
                 SELECT i.line, s.partition, s.tid::text, coalesce(i.idvisit, s.idvisit)::text \
                 FROM i FULL JOIN s ON {is_same} \
                 WHERE i.line IS NULL OR s.partition IS NULL OR {differs}"
            )
        };
        let (partition, ctids) = (width + 1, width + 2);
        let types = &clauses.destination.types;
        ByCtid {
            compare: compare(""),
            compare_locked: compare(" FOR UPDATE OF d"),
            delete: format!(
                "DELETE FROM {name} AS d WHERE d.tableoid OPERATOR(pg_catalog.=) $1 \
                 AND d.ctid OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.text[]::pg_catalog.tid[]){}",
                clauses.span(3)
            ),
            update: format!(
                "UPDATE {name} AS d SET {} \
                 FROM unnest({columns}, ${ctids}::pg_catalog.text[]) AS u({aliases}, tid) \
                 WHERE d.tableoid OPERATOR(pg_catalog.=) ${partition} \
                 AND d.ctid OPERATOR(pg_catalog.=) u.tid::pg_catalog.tid{}",
                clauses.sets(|n, _| format!("u.c{n}::{}", types[n])),
                clauses.span(ctids + 1)
            ),
        }
    }
}
