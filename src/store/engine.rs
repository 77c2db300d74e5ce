//! Which engine keeps the rows of a table: Postgres' own heap, or one that only plain SQL reaches. Read
//! from the catalog, as the rows that `COPY` from memory writes into another engine's table may be
//! invisible, and a place (ctid) may mean nothing there. SPI only.

pub mod chunks;
pub mod ctids;
pub mod hint;

use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::error::Result;
use crate::pg::local_settings::{LocalSettings, SAFE_PATH};
use crate::pg::spi::{get, query_kept};

/// Keeps the rows of a table and of its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// Postgres' own: rows are copied in and found by their place.
    Heap,
    /// A table that Citus manages: distributed, reference or local.
    Citus,
    /// A hypertable of TimescaleDB.
    Timescale,
    /// A foreign table, or one with a foreign partition.
    Foreign,
    /// A table or partition with another access method; its name.
    AccessMethod(String),
}

impl Engine {
    /// The engine of a table.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn of(client: &mut SpiClient, table: pg_sys::Oid) -> Result<Engine> {
        let _safe = LocalSettings::of(&[SAFE_PATH]);
        for (extension, catalog) in catalogs(client)? {
            let (engine, sql) = match extension.as_str() {
                "citus" => (
                    Engine::Citus,
                    format!(
                        "{TREE} SELECT 1 FROM {catalog} AS p JOIN tree AS t \
                         ON p.logicalrelid::oid = t.oid LIMIT 1"
                    ),
                ),
                _ => (
                    Engine::Timescale,
                    format!(
                        "SELECT 1 FROM {catalog} AS h \
                         JOIN pg_namespace n ON n.nspname = h.schema_name \
                         JOIN pg_class c ON c.relnamespace = n.oid \
                         AND c.relname = h.table_name \
                         WHERE c.oid = $1"
                    ),
                ),
            };
            if !query_kept(client, &sql, &[table.into()])?.is_empty() {
                return Ok(engine);
            }
        }
        let sql = format!(
            "{TREE} SELECT c.relkind = 'f', a.amname::text FROM tree AS t \
             JOIN pg_class c ON c.oid = t.oid \
             LEFT JOIN pg_am a ON a.oid = c.relam \
             WHERE c.relkind <> 'p' AND a.amname IS DISTINCT FROM 'heap' \
             ORDER BY 1 DESC LIMIT 1"
        );
        let Some(row) = query_kept(client, &sql, &[table.into()])?.next() else {
            return Ok(Engine::Heap);
        };
        if get(&row, 1)? == Some(true) {
            return Ok(Engine::Foreign);
        }
        let method: Option<String> = get(&row, 2)?;
        Ok(Engine::AccessMethod(method.unwrap_or_default()))
    }

    /// Whether rows have a place by which they can be found, and can be copied in.
    pub fn is_heap(&self) -> bool {
        *self == Engine::Heap
    }

    /// Its name in messages; `None` for Postgres' own.
    pub fn name(&self) -> Option<String> {
        Some(match self {
            Engine::Heap => return None,
            Engine::Citus => "Citus".to_owned(),
            Engine::Timescale => "TimescaleDB".to_owned(),
            Engine::Foreign => "a foreign server".to_owned(),
            Engine::AccessMethod(name) => format!("access method {name}"),
        })
    }
}

/// A table and all below it.
const TREE: &str = "WITH RECURSIVE tree (oid) AS (SELECT $1::oid UNION \
                        SELECT i.inhrelid FROM tree AS t JOIN pg_inherits i \
                        ON i.inhparent = t.oid)";

/// The catalogs in which engines list their tables, each with its extension. Found as members of these,
/// in whichever schema: a table of that name may be anybody's.
fn catalogs(client: &mut SpiClient) -> Result<Vec<(String, String)>> {
    let sql = "SELECT e.extname::text, format('%I.%I', n.nspname, c.relname) FROM pg_extension e \
               JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid \
                   AND d.deptype = 'e' AND d.classid = 'pg_class'::regclass \
               JOIN pg_class c ON c.oid = d.objid JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE (e.extname, c.relname) IN (('citus', 'pg_dist_partition'), ('timescaledb', 'hypertable'))";
    let mut found = Vec::new();
    for row in query_kept(client, sql, &[])? {
        let extension: Option<String> = get(&row, 1)?;
        found.extend(extension.zip(get(&row, 2)?));
    }
    Ok(found)
}
