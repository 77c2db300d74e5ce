//! The SQL of [`crate::store::batch_writer`], built once per sync from the destination's columns, types
//! and key. All names are qualified, as some statements run under the caller's search_path;
//! `unnest` of several arrays is syntax, which Postgres resolves to pg_catalog.unnest itself.

mod by_ctid;
mod by_key;
pub mod clauses;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiTupleTable};

use crate::error::Result;
use crate::pg::local_settings::{LocalSettings, PLANNED_ANEW};
use crate::pg::spi::{prepare, query, run_plan};
use crate::rows::batch::TableRows;
use crate::rows::lines;
use crate::store::destination::Destination;
use crate::store::statements::by_ctid::ByCtid;
use crate::store::statements::by_key::ByKey;
use crate::store::statements::clauses::{Clauses, unnest};

/// SQL texts; for their arguments see [`clauses`].
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
    pub by_ctid: ByCtid,
    pub by_key: ByKey,
    /// `(columns)`
    pub insert: String,
    /// `(visits[, from, to], identities)` → number of stored rows that have one of these in the first
    /// column of their identity.
    pub count_rows: String,
    /// `(destination)` → (from, to) of each partition, in seconds.
    pub partition_ranges: String,
}

impl Statements {
    /// Builds the statements for a destination.
    pub fn of(destination: &Destination) -> Statements {
        let clauses = Clauses::of(destination);
        let Clauses { visit_type, stored, typed, .. } = &clauses;
        let Destination { name, layout, engine, extension, .. } = destination;
        let (of_visits, time) = (clauses.of_visits(1), layout.kind.time());
        let is_one_shot = !engine.is_heap();
        let cached = |sql| CachedStatement { sql, plan: None, is_one_shot };
        let between = |value: &str| {
            format!(
                "SELECT {value} FROM {name} AS d WHERE d.idvisit >= $1::text::{visit_type} \
                 AND d.idvisit <= $2::text::{visit_type}"
            )
        };
        let identity = layout.kind.identity()[0];
        Statements {
            select: cached(format!("SELECT {stored} FROM {name} AS d WHERE {of_visits}")),
            any_between: cached(format!("{}{} LIMIT 1", between(""), clauses.span(3))),
            next_stored: (*visit_type == "pg_catalog.int8").then(|| {
                cached(format!(
                    "SELECT d.idvisit FROM {name} AS d WHERE d.idvisit >= $1 ORDER BY d.idvisit LIMIT 1"
                ))
            }),
            outside_span: cached(format!(
                "{} AND (d.{time} < to_timestamp($3) OR d.{time} >= to_timestamp($4)) LIMIT $5",
                between("d.idvisit::text")
            )),
            by_ctid: ByCtid::of(&clauses),
            by_key: ByKey::of(&clauses),
            insert: format!(
                "INSERT INTO {name} ({}) SELECT {typed} FROM {}",
                layout.names().collect::<Vec<_>>().join(", "),
                unnest(layout.width())
            ),
            count_rows: format!(
                "SELECT count(*) FROM {name} AS d WHERE {of_visits} \
                 AND d.{identity} = ANY (${}::text[]::{}[])",
                if destination.key_has_time() { 4 } else { 2 },
                destination.type_of(identity)
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
                prepare(client, &self.sql, &kinds)?.keep()
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

/// Numbers as one array of texts.
pub fn texts<'a, T: ToString + 'a>(numbers: impl Iterator<Item = &'a T>) -> Vec<String> {
    numbers.map(T::to_string).collect()
}
