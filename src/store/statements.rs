//! The SQL of [`crate::store::writer`], built once per sync from the destination's columns, types
//! and key. All names are qualified, as some statements run under the caller's search_path;
//! `unnest` of several arrays is syntax, which Postgres resolves to pg_catalog.unnest itself.

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiTupleTable};

use crate::error::Result;
use crate::pg::local_settings::{LocalSettings, PLANNED_ANEW};
use crate::pg::spi::{query, run_plan, spi};
use crate::rows::batch::TableRows;
use crate::rows::lines;
use crate::store::destination::Destination;

/// SQL texts. *columns* are the leading arguments of statements that take rows: one text array per
/// column.
pub struct Statements {
    /// `(visits[, from, to])` → all columns of the rows of visits.
    pub select: CachedStatement,
    /// `(first visit, last visit[, from, to])` → a row if any ID between these two has rows.
    pub any_between: CachedStatement,
    /// `(visit)` → the least stored ID from it on; `None` where IDs are texts, which have another order.
    pub next_stored: Option<CachedStatement>,
    /// `(first visit, last visit, from, to, limit)` → the IDs between these two that have rows
    /// outside the span, one per row.
    pub outside_span: CachedStatement,
    /// `(columns, visits[, from, to])` → (line of the batch, from 1; partition, ctid, visit) of all
    /// rows that exist on one side only or differ.
    pub compare: String,
    /// The same, with the stored rows locked.
    pub compare_locked: String,
    /// `(columns, lines, visits[, from, to])` → (line, whether it is stored, visit, instant of the stored
    /// row in seconds, whether its key is stored twice, its key) of all rows that exist on one side only,
    /// differ, or are stored twice.
    pub compare_by_key: String,
    /// Number of columns of the key.
    pub key_width: usize,
    /// `(columns of the key, visits[, first, last])`
    pub delete_by_key: String,
    /// `(visits)`: their rows with a NULL in the key, which no key finds.
    pub delete_without_key: String,
    /// `(columns, visits[, first, last])`
    pub update_by_key: String,
    /// `(partition, ctids[, from, to])`
    pub delete: String,
    /// `(columns, partition, ctids[, from, to])`
    pub update: String,
    /// `(columns)`
    pub insert: String,
    /// `(visits[, from, to], identities)` → number of stored rows that have one of these in the first
    /// column of their identity.
    pub count_rows: String,
    /// `(destination)` → (from, to) of each partition, in seconds.
    pub partition_ranges: String,
}

/// Whether a column of a type differs between `i`, what Matomo has, and `s`, what is stored.
pub fn differs(column: &str, kind: &str) -> String {
    match kind.replace('"', "").as_str() {
        // json has no `=`. Its name may be quoted, as a keyword or by quote_all_identifiers.
        "pg_catalog.json" => {
            format!("i.{column}::text IS DISTINCT FROM s.{column}::text")
        }
        _ => format!("i.{column} IS DISTINCT FROM s.{column}"),
    }
}

impl Statements {
    /// Builds the statements for a destination.
    pub fn of(destination: &Destination) -> Statements {
        let Destination { name, layout, types, key, engine, extension, .. } = destination;
        let (width, time) = (layout.width(), layout.kind.time());
        let identity = layout.kind.identity()[0];
        let [identity_type, visit_type] =
            [identity, "idvisit"].map(|column| destination.type_of(column));
        let column_list = layout.names().collect::<Vec<_>>().join(", ");
        let arrays = |first: usize, count: usize| {
            let arrays: Vec<_> =
                (first..first + count).map(|n| format!("${n}::pg_catalog.text[]")).collect();
            arrays.join(", ")
        };
        let aliases = |count: usize| {
            let aliases: Vec<_> = (0..count).map(|n| format!("c{n}")).collect();
            aliases.join(", ")
        };
        let places = aliases(width);
        let typed: Vec<_> = types
            .iter()
            .enumerate()
            .map(|(n, kind)| format!("u.c{n}::{kind} AS {}", layout.slots()[n].column.name))
            .collect();
        let typed = typed.join(", ");
        let stored_columns =
            layout.names().map(|name| format!("d.{name}")).collect::<Vec<_>>().join(", ");
        let is_key = |column: &str| key.iter().any(|key| key == column);
        let span = |first: usize| {
            if destination.key_has_time() {
                let within = format!(
                    "d.{time} OPERATOR(pg_catalog.>=) pg_catalog.to_timestamp(${first}) \
                     AND d.{time} OPERATOR(pg_catalog.<) pg_catalog.to_timestamp(${})",
                    first + 1
                );
                match destination.is_unique {
                    true => format!(" AND {within}"),
                    // Another server may keep rows without an instant.
                    false => format!(" AND ({within} OR d.{time} IS NULL)"),
                }
            } else {
                String::new()
            }
        };
        let of_visits = |first: usize| {
            format!(
                "d.idvisit OPERATOR(pg_catalog.=) ANY (${first}::pg_catalog.text[]::{}[]){}",
                visit_type,
                span(first + 1)
            )
        };
        let same: Vec<_> = key.iter().map(|key| format!("i.{key} = s.{key}")).collect();
        let differs: Vec<_> = layout
            .names()
            .zip(types)
            .filter(|(column, _)| !is_key(column))
            .map(|(column, kind)| differs(column, kind))
            .collect();
        let sets: Vec<_> = layout
            .names()
            .enumerate()
            .filter(|(_, column)| !is_key(column))
            .map(|(n, column)| format!("{column} = u.c{n}::{}", types[n]))
            .collect();

        let compare = |lock: &str| {
            format!(
                "WITH i AS MATERIALIZED (SELECT u.line, {typed} \
                     FROM unnest({}) WITH ORDINALITY AS u({places}, line)), \
                 s AS MATERIALIZED (SELECT d.tableoid AS partition, d.ctid AS tid, {} \
                     FROM {name} AS d WHERE {}{lock}) \
                 SELECT i.line, s.partition, s.tid::text, coalesce(i.idvisit, s.idvisit)::text \
                 FROM i FULL JOIN s ON {} \
                 WHERE i.line IS NULL OR s.partition IS NULL OR {}",
                arrays(1, width),
                stored_columns,
                of_visits(width + 1),
                same.join(" AND "),
                differs.join(" OR "),
            )
        };

        let near_time = destination.key_has_time();
        let instant = match near_time {
            true => format!("date_part('epoch', s.{time})"),
            false => "NULL::float8".to_owned(),
        };
        let keys_of_d: Vec<_> = key.iter().map(|column| format!("d.{column}")).collect();
        let keys_of_d = keys_of_d.join(", ");
        let (copies, is_doubled) = match destination.is_unique {
            true => (String::new(), "false"),
            false => (
                format!(", count(*) OVER (PARTITION BY {keys_of_d}) AS copies"),
                "coalesce(s.copies > 1, false)",
            ),
        };
        let stored_key: Vec<_> = key.iter().map(|column| format!("s.{column}::text")).collect();
        let compare_by_key = format!(
            "WITH i AS MATERIALIZED (SELECT u.line::int8 AS line, {typed} \
                 FROM unnest({}, ${}::text[]) AS u({places}, line)), \
             s AS MATERIALIZED (SELECT {stored_columns}{copies} FROM {name} AS d WHERE {}) \
             SELECT i.line, s.idvisit IS NOT NULL, coalesce(i.idvisit, s.idvisit)::text, {instant}, \
                 {is_doubled}, {} \
             FROM i FULL JOIN s ON {} \
             WHERE i.line IS NULL OR s.idvisit IS NULL OR {is_doubled} OR {}",
            arrays(1, width),
            width + 1,
            of_visits(width + 2),
            stored_key.join(", "),
            same.join(" AND "),
            differs.join(" OR "),
        );
        // Typed before they meet the table: Citus refuses a stable cast of a joined column.
        let near = |first: usize| {
            let (from, to) = (first + 1, first + 2);
            let span = format!(
                " AND d.{time} OPERATOR(pg_catalog.>=) pg_catalog.to_timestamp(${from}) \
                 AND d.{time} OPERATOR(pg_catalog.<=) pg_catalog.to_timestamp(${to})"
            );
            let same: Vec<_> = key
                .iter()
                .map(|column| format!("d.{column} OPERATOR(pg_catalog.=) u.{column}"))
                .collect();
            format!(
                "{} AND d.idvisit OPERATOR(pg_catalog.=) ANY (${first}::pg_catalog.text[]::{visit_type}[]){}",
                same.join(" AND "),
                if near_time { &span } else { "" }
            )
        };
        let typed_key: Vec<_> = key
            .iter()
            .enumerate()
            .map(|(n, column)| format!("u.c{n}::{} AS {column}", destination.type_of(column)))
            .collect();
        let sets_by_name: Vec<_> = layout
            .names()
            .filter(|column| !is_key(column))
            .map(|column| format!("{column} = u.{column}"))
            .collect();
        let is_one_shot = !engine.is_heap();
        let cached = |sql| CachedStatement { sql, plan: None, is_one_shot };

        Statements {
            select: cached(format!(
                "SELECT {stored_columns} FROM {name} AS d WHERE {}",
                of_visits(1)
            )),
            any_between: cached(format!(
                "SELECT FROM {name} AS d WHERE d.idvisit >= $1::text::{visit_type} \
                 AND d.idvisit <= $2::text::{visit_type}{} LIMIT 1",
                span(3)
            )),
            next_stored: (visit_type == "pg_catalog.int8").then(|| {
                cached(format!(
                    "SELECT d.idvisit FROM {name} AS d WHERE d.idvisit >= $1 ORDER BY d.idvisit LIMIT 1"
                ))
            }),
            outside_span: cached(format!(
                "SELECT d.idvisit::text FROM {name} AS d \
                 WHERE d.idvisit >= $1::text::{0} AND d.idvisit <= $2::text::{0} \
                 AND (d.{time} < to_timestamp($3) OR d.{time} >= to_timestamp($4)) \
                 LIMIT $5",
                visit_type
            )),
            compare: compare(""),
            compare_locked: compare(" FOR UPDATE OF d"),
            compare_by_key,
            key_width: key.len(),
            delete_by_key: format!(
                "WITH u AS MATERIALIZED (SELECT {} FROM unnest({}) AS u({})) \
                 DELETE FROM {name} AS d USING u WHERE {}",
                typed_key.join(", "),
                arrays(1, key.len()),
                aliases(key.len()),
                near(key.len() + 1)
            ),
            // Of IS NULL the planner believes a foreign table's NOT NULL.
            delete_without_key: format!(
                "DELETE FROM {name} AS d WHERE d.idvisit OPERATOR(pg_catalog.=) \
                 ANY ($1::pg_catalog.text[]::{visit_type}[]) \
                 AND pg_catalog.num_nulls({keys_of_d}) OPERATOR(pg_catalog.>) 0"
            ),
            update_by_key: format!(
                "WITH u AS MATERIALIZED (SELECT {typed} FROM unnest({}) AS u({places})) \
                 UPDATE {name} AS d SET {} FROM u WHERE {}",
                arrays(1, width),
                sets_by_name.join(", "),
                near(width + 1)
            ),
            delete: format!(
                "DELETE FROM {name} AS d WHERE d.tableoid OPERATOR(pg_catalog.=) $1 \
                 AND d.ctid OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.text[]::pg_catalog.tid[]){}",
                span(3)
            ),
            update: format!(
                "UPDATE {name} AS d SET {} \
                 FROM unnest({}, ${}::pg_catalog.text[]) AS u({places}, tid) \
                 WHERE d.tableoid OPERATOR(pg_catalog.=) ${} \
                 AND d.ctid OPERATOR(pg_catalog.=) u.tid::pg_catalog.tid{}",
                sets.join(", "),
                arrays(1, width),
                width + 2,
                width + 1,
                span(width + 3),
            ),
            insert: format!(
                "INSERT INTO {name} ({column_list}) SELECT {typed} \
                 FROM unnest({}) AS u({places})",
                arrays(1, width),
            ),
            count_rows: format!(
                "SELECT count(*) FROM {name} AS d WHERE {} AND d.{identity} = ANY (${}::text[]::{}[])",
                of_visits(1),
                if destination.key_has_time() { 4 } else { 2 },
                identity_type
            ),
            partition_ranges: format!(
                "SELECT pg_catalog.date_part('epoch', r.lower_bound), \
                 pg_catalog.date_part('epoch', r.upper_bound) \
                 FROM {}.matomo_partition_ranges($1::pg_catalog.regclass) AS r",
                extension.schema
            ),
        }
    }
}

/// A statement that every batch runs: planned once per sync, or anew where an engine needs to see the
/// values.
pub struct CachedStatement {
    sql: String,
    plan: Option<OwnedPreparedStatement>,
    is_one_shot: bool,
}

impl CachedStatement {
    /// Runs it.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn run<'conn>(
        &mut self,
        client: &mut SpiClient<'conn>,
        args: &[DatumWithOid],
    ) -> Result<SpiTupleTable<'conn>> {
        if self.is_one_shot {
            let _planned_anew = LocalSettings::of(&[PLANNED_ANEW]);
            return query(client, &self.sql, args);
        }
        let plan = match self.plan.take() {
            Some(plan) => plan,
            None => {
                let kinds: Vec<_> = args.iter().map(|arg| PgOid::from(arg.oid())).collect();
                client.prepare_mut(self.sql.as_str(), &kinds).map_err(spi)?.keep()
            }
        };
        // Planning it for each batch, with all partitions, would take longer than the rest.
        let _generic = LocalSettings::of(&[(c"plan_cache_mode", c"force_generic_plan")]);
        let done = run_plan(client, &plan, args);
        self.plan = Some(plan);
        done
    }
}

/// A span as the last arguments of a statement.
pub fn span_args<'a>(span: Option<(f64, f64)>) -> Vec<DatumWithOid<'a>> {
    span.map_or_else(Vec::new, |(from, to)| vec![from.into(), to.into()])
}

/// Rows of a table as one array per column.
pub fn column_arrays<'a>(table: &TableRows, rows: &[usize]) -> Vec<DatumWithOid<'a>> {
    let mut columns: Vec<Vec<Option<String>>> =
        (0..table.layout.width()).map(|_| Vec::with_capacity(rows.len())).collect();
    for row in rows {
        for (column, cell) in columns.iter_mut().zip(table.rows.cells(*row)) {
            column.push(lines::value(cell).map(Into::into));
        }
    }
    columns.into_iter().map(DatumWithOid::from).collect()
}
